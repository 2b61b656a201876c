"""Model files: one HDF5 file NAME.grace holds a blueprint, its weights and where it comes from.

Layout, version 2::

    /            attrs: format = "gracecli-model", version, blueprint (JSON), metadata (JSON), heads (JSON)
    /weights     one dataset per variable, path = node/path of the variable, fletcher32 checksums
    /heads/NAME  likewise, the variables of a head that differ from those above
    /grade       optional: extrapolation grade (:mod:`gracecli.model.gradefile`), with a version of its own

Version 1 had no heads; a model without any is still written as version 1, so that older readers take it.

Readable without TensorFlow. Older versions are upgraded in memory by the chain :data:`UPGRADES`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.errors import InputError, ModelError
from gracecli.files import write_atomically
from gracecli.model.blueprint import Blueprint

if TYPE_CHECKING:
    from gracecli.model.grade import ExtrapolationGrade
    from gracecli.model.heads import Head

FORMAT = "gracecli-model"
VERSION = 2

Content = dict[str, Any]
UPGRADES: dict[int, Callable[[Content], Content]] = {
    1: lambda content: {**content, "version": 2},  # a model without heads
}
"""version -> function that turns the content of that version into the next one."""


@dataclass(frozen=True)
class Model:
    """A blueprint with weights.

    Attributes
    ----------
    blueprint : Blueprint
    weights : mapping
        ``node/path`` -> array.
    metadata : dict
        JSON values: name, precision (``float64``/``float32``), level_of_theory, licence, citation, training, metrics.
    heads : mapping
        Further heads by name (:mod:`gracecli.model.heads`); blueprint and weights are the default one.
    grade : ExtrapolationGrade, optional
        Tells how far atoms lie outside the data of the model.
    """

    blueprint: Blueprint
    weights: Mapping[str, np.ndarray]
    metadata: dict[str, Any] = field(default_factory=dict)
    heads: Mapping[str, Head] = field(default_factory=dict)
    grade: ExtrapolationGrade | None = None

    @property
    def elements(self) -> tuple[str, ...]:
        """Element symbols in index order."""
        return self.blueprint.elements

    @property
    def cutoff(self) -> float:
        """Largest cutoff in Å."""
        matrix = self.pair_cutoffs()
        return self.blueprint.cutoff if matrix is None else float(matrix.max())

    @property
    def precision(self) -> str:
        """Precision of the weights: what the metadata say, else that of the arrays."""
        single = any(np.asarray(v).dtype == np.float32 for v in self.weights.values())
        return str(self.metadata.get("precision") or ("float32" if single else "float64"))

    @property
    def n_parameters(self) -> int:
        """Number of trainable weights."""
        constant = ("/rc", "/bond_cutoff_map", "/bond_zbl_cutoff_map", "/delta_cutoff", "/cutoff")
        return int(sum(np.size(v) for k, v in self.weights.items() if not k.endswith(constant)))

    def pair_cutoffs(self) -> np.ndarray | None:
        """Pair-cutoff matrix (n_elements, n_elements) in Å, or None when one cutoff holds for all pairs."""
        from gracecli.model.cutoffs import pair_cutoff_matrix

        return pair_cutoff_matrix(self.blueprint, self.weights)

    def sha256(self) -> str:
        """Identity of blueprint and weights (metadata and grade left out)."""
        return content_sha256(self.blueprint.to_json() + _heads_text(self), {**self.weights, **_head_weights(self)})


def _heads_text(model: Model) -> str:
    """Heads without their weights as JSON; nothing for a model without heads."""
    if not model.heads:
        return ""
    entries = {
        name: {"nodes": json.loads(Blueprint.nodes_to_json(head.nodes)), "metadata": head.metadata}
        for name, head in model.heads.items()
    }
    return json.dumps(entries)


def _head_weights(model: Model) -> dict[str, np.ndarray]:
    return {f"heads/{name}/{key}": v for name, head in model.heads.items() for key, v in head.weights.items()}


def _read_heads(text: str, weights: Mapping[str, np.ndarray]) -> dict[str, Head]:
    from gracecli.model.heads import Head

    heads = {}
    for name, entry in json.loads(text).items():
        start = f"heads/{name}/"
        own = {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
        heads[name] = Head(Blueprint.nodes_from_json(json.dumps(entry["nodes"])), own, entry["metadata"])
    return heads


def content_sha256(blueprint: str, weights: Mapping[str, np.ndarray]) -> str:
    """Identity of a blueprint *as written* and its weights.

    A gracecli whose nodes have new options writes the same blueprint differently; files are therefore checked against
    the text they hold.
    """
    digest = hashlib.sha256(blueprint.encode())
    for name in sorted(weights):
        # ascontiguousarray turns scalars into arrays of one element
        value = np.ascontiguousarray(weights[name])
        digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def save_model(path: str | Path, model: Model, overwrite: bool = False) -> Path:
    """Write a model file under a temporary name, sync, rename.

    Raises
    ------
    InputError
        If the file exists and ``overwrite`` is false, or the folder cannot be written.
    """
    import h5py

    from gracecli.model.gradefile import write_section

    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already", "choose another name or pass --force")

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            file.attrs["format"] = FORMAT
            file.attrs["version"] = VERSION if model.heads else 1
            file.attrs["blueprint"] = model.blueprint.to_json()
            file.attrs["metadata"] = json.dumps({**model.metadata, "sha256": model.sha256()})
            if model.heads:
                file.attrs["heads"] = _heads_text(model)
            named = {f"weights/{name}": value for name, value in model.weights.items()} | _head_weights(model)
            file.create_group("weights")
            for name, value in named.items():
                array = np.asarray(value)
                file.create_dataset(name, data=array, fletcher32=array.ndim > 0)
            if model.grade is not None:
                write_section(file, model.grade)

    write_atomically(path, write)
    return path


def load_model(path: str | Path) -> Model:
    """Read a model file.

    Raises
    ------
    ModelError
        Missing, not a model file, damaged, or written by a newer gracecli.
    """
    import h5py

    from gracecli.model.gradefile import read_section

    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such model file", "see 'grace models list'")
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise ModelError(
                    f"{path}: not a gracecli model file", "convert published models with 'grace models add'"
                )
            content: Content = {
                "version": int(file.attrs["version"]),
                "blueprint": str(file.attrs["blueprint"]),
                "metadata": json.loads(str(file.attrs["metadata"])),
                "weights": _datasets(file["weights"]),
                "grade": read_section(file, path),
            }
            if "heads" in file.attrs:
                content["heads"] = str(file.attrs["heads"])
                found = _datasets(file["heads"]) if "heads" in file else {}
                content["head_weights"] = {f"heads/{name}": value for name, value in found.items()}
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: damaged model file: {error}", "fetch or convert it again") from error
    if content["version"] > VERSION:
        raise ModelError(
            f"{path}: model file version {content['version']}, this gracecli reads up to {VERSION}", "update gracecli"
        )
    recorded = content["metadata"].pop("sha256", None)
    # before anything is upgraded or takes defaults that did not exist when the file was written
    text = content["blueprint"] + content.get("heads", "")
    every = {**content["weights"], **content.get("head_weights", {})}
    intact = recorded is None or recorded == content_sha256(text, every)
    while content["version"] < VERSION:
        content = UPGRADES[content["version"]](content)
    heads = _read_heads(content.get("heads", "{}"), content.get("head_weights", {}))
    blueprint = Blueprint.from_json(content["blueprint"])
    model = Model(blueprint, content["weights"], content["metadata"], heads, content.get("grade"))
    if not intact:
        raise ModelError(f"{path}: blueprint and weights do not match the recorded sha256", "fetch or convert it again")
    return model


def _datasets(group: Any) -> dict[str, np.ndarray]:
    """All arrays below an HDF5 group, by path."""
    import h5py

    found: dict[str, np.ndarray] = {}
    group.visititems(
        lambda name, item: found.update({name: np.asarray(item[()])}) if isinstance(item, h5py.Dataset) else None
    )
    return found
