"""Model files: one HDF5 file NAME.grace holds a blueprint, its weights and where it comes from.

Layout, version 1::

    /            attrs: format = "gracecli-model", version, blueprint (JSON), metadata (JSON)
    /weights     one dataset per variable, path = node/path of the variable, fletcher32 checksums
    /grade       optional: extrapolation grade (:mod:`gracecli.model.gradefile`), with a version of its own

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

FORMAT = "gracecli-model"
VERSION = 1

Content = dict[str, Any]
UPGRADES: dict[int, Callable[[Content], Content]] = {}
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
    grade : ExtrapolationGrade, optional
        Tells how far atoms lie outside the data of the model.
    """

    blueprint: Blueprint
    weights: Mapping[str, np.ndarray]
    metadata: dict[str, Any] = field(default_factory=dict)
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
        return content_sha256(self.blueprint.to_json(), self.weights)


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
            file.attrs["version"] = VERSION
            file.attrs["blueprint"] = model.blueprint.to_json()
            file.attrs["metadata"] = json.dumps({**model.metadata, "sha256": model.sha256()})
            group = file.create_group("weights")
            for name, value in model.weights.items():
                array = np.asarray(value)
                group.create_dataset(name, data=array, fletcher32=array.ndim > 0)
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
            weights: dict[str, np.ndarray] = {}
            file["weights"].visititems(
                lambda name, item: weights.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
            content: Content = {
                "version": int(file.attrs["version"]),
                "blueprint": str(file.attrs["blueprint"]),
                "metadata": json.loads(str(file.attrs["metadata"])),
                "weights": {k: np.asarray(v) for k, v in weights.items()},
                "grade": read_section(file, path),
            }
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: damaged model file: {error}", "fetch or convert it again") from error
    if content["version"] > VERSION:
        raise ModelError(
            f"{path}: model file version {content['version']}, this gracecli reads up to {VERSION}", "update gracecli"
        )
    recorded = content["metadata"].pop("sha256", None)
    # before anything is upgraded or takes defaults that did not exist when the file was written
    intact = recorded is None or recorded == content_sha256(content["blueprint"], content["weights"])
    while content["version"] < VERSION:
        content = UPGRADES[content["version"]](content)
    blueprint = Blueprint.from_json(content["blueprint"])
    model = Model(blueprint, content["weights"], content["metadata"], content.get("grade"))
    if not intact:
        raise ModelError(f"{path}: blueprint and weights do not match the recorded sha256", "fetch or convert it again")
    return model
