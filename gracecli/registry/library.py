"""The local library of models: add, remove, verify.

A model enters the library only after everything that could be wrong with it was looked for: the blueprint is built with
its weights (every variable present, of the right shape, finite), and the written file is read back before it takes its
name.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gracecli.errors import GraceError, InputError, ModelError, UsageError
from gracecli.files import file_sha256, write_atomically
from gracecli.registry import lock
from gracecli.registry.catalog import find_published
from gracecli.registry.resolve import (
    SUFFIX,
    bundled_models,
    is_published_directory,
    is_saved_model,
    known_models,
    library_directory,
    library_models,
    read_published,
    resolve_model,
)
from gracecli.registry.summary import Summary, summarise

if TYPE_CHECKING:
    from gracecli.model.modelfile import Model

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
UNCERTAINTY_FILE = "gmm_artifacts.npz"


@dataclass(frozen=True)
class Added:
    """What :func:`add_model` did.

    Attributes
    ----------
    summary : Summary
        Of the file in the library.
    source : str
    replaced : bool
        Whether a model of that name was there before.
    notes : tuple of str
        What the user should know.
    """

    summary: Summary
    source: str
    replaced: bool
    notes: tuple[str, ...]


def add_model(
    source: str | Path,
    name: str | None = None,
    *,
    checkpoint: str | None = None,
    force: bool = False,
    enforce: bool = False,
    url: str | None = None,
    archive_sha256: str | None = None,
) -> Added:
    """Convert a published model, or copy a model file, into the library.

    Parameters
    ----------
    source : str or Path
        A ``.grace`` file, a published directory, or the model description (``*.yaml``) in one.
    name : str, optional
        Name in the library; default is that of the file or directory.
    checkpoint : str, optional
        Prefix of the checkpoint in a published directory that holds several.
    force : bool
        Replace a model of that name, and what ``grace.lock`` records of it.
    enforce : bool
        The content must be what ``grace.lock`` records, even with ``force``.
    url, archive_sha256 : str, optional
        Where it was fetched and the hash of what came, for ``grace.lock``.

    Raises
    ------
    ModelError
        Not a model, other content than recorded, or one that is damaged, incomplete or unknown; says which part.
    UsageError, InputError
        A name that cannot be used or is taken; a library that cannot be written.
    """
    path = Path(source).expanduser()
    folder, description = (path.parent, path.name) if path.suffix in (".yaml", ".yml") else (path, "model.yaml")
    published = path.is_dir() or folder is not path
    name = checked_name(name or (folder.resolve().name if published else path.stem))
    target = library_directory() / f"{name}{SUFFIX}"
    replaced = target.exists()
    if replaced and not force:
        raise InputError(f"the library has a model called {name!r} ({target})", "give another --name, or --force")
    pinned = None if force and not enforce else lock.pins().get(name)
    if published:
        model, notes = _convert(folder, description, checkpoint, name)
        if pinned:
            lock.check_pin(name, model.sha256(), {name: pinned})
        summary = _store(target, model, lambda temporary: _save(temporary, model))
    else:
        if checkpoint is not None:
            raise UsageError("--checkpoint belongs to a published directory", f"{path} is a file")
        model, notes = _read_file(path), ()
        _check(model)
        if pinned:
            lock.check_pin(name, model.sha256(), {name: pinned})
        summary = _store(target, model, lambda temporary: shutil.copyfile(path, temporary))
    # a pinned content was compared above; a known origin is recorded with it
    lock.pin(name, summary.sha256, url, archive_sha256, replace=pinned is None or url is not None)
    return Added(summary, str(path), replaced, notes)


def checked_name(name: str) -> str:
    """A usable name for a model of the library, without the suffix; raises UsageError."""
    name = name.removesuffix(SUFFIX)
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a model", "letters, digits, '.', '_', '+' and '-'; see --name"
        )
    if name in bundled_models():
        raise UsageError(f"{name!r} is the name of a bundled model", "give another --name")
    return name


def _read_file(path: Path) -> Model:
    from gracecli.model.modelfile import load_model

    if not path.exists():
        raise ModelError(f"{path}: no such file or folder", "give a .grace file or a folder with a published model")
    if not path.is_file():
        raise ModelError(f"{path}: neither a file nor a folder", "give a .grace file or a published model")
    with path.open("rb") as file:
        if file.read(8) != b"\x89HDF\r\n\x1a\n":
            raise ModelError(f"{path}: not a model file", "give a .grace file or a folder with a published model")
    return load_model(path)


def _convert(folder: Path, description: str, checkpoint: str | None, name: str) -> tuple[Model, tuple[str, ...]]:
    from gracecli.model.modelfile import Model

    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder", "give a .grace file or a folder with a published model")
    if description == "model.yaml" and not is_published_directory(folder):
        inside = sorted(p.name for p in folder.glob(f"*{SUFFIX}"))
        hint = f"add {folder / inside[0]}" if inside else "a published model has model.yaml and checkpoint.index"
        raise ModelError(f"{folder}: not a model: no model.yaml in it", hint)
    if not (folder / description).is_file():
        if is_saved_model(folder):
            raise ModelError(
                f"{folder}: a SavedModel is a compiled program and cannot be converted",
                "add the checkpoint folder (model.yaml) of the model, or run this one with -m FOLDER",
            )
        raise ModelError(f"{folder / description}: no such file")
    prefix = checkpoint.removesuffix(".index") if checkpoint else None
    if prefix is not None and not (folder / f"{prefix}.index").is_file():
        found = ", ".join(sorted(p.stem for p in folder.glob("*.index"))) or "none"
        raise ModelError(f"{folder}: no checkpoint {prefix!r}", f"there are: {found}")
    read = read_published(folder, description, prefix)
    _check(read)
    metadata = _plain({**read.metadata, "name": name, "provenance": _provenance(folder, description)})
    catalogued = find_published(name)
    notes = []
    if catalogued is not None and not metadata.get("licence"):
        metadata |= {"licence": catalogued.licence, "training_data": catalogued.training_data}
        notes.append(f"{catalogued.name} is licensed under the {catalogued.licence}")
    if (folder / UNCERTAINTY_FILE).is_file():
        notes.append(f"with extrapolation grades, from {UNCERTAINTY_FILE}")
    return Model(read.blueprint, read.weights, metadata, grade=read.grade), tuple(notes)


def _provenance(folder: Path, description: str) -> dict[str, Any]:
    """Where a converted model comes from: files with their sha256."""
    import gracecli

    files = sorted({folder / description, *folder.glob("*.index"), *folder.glob("*.data-*")})
    return {
        "converted_from": str(folder.resolve()),
        "files": {f.name: file_sha256(f) for f in files},
        "converted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "gracecli": gracecli.__version__,
    }


def _plain(value: Any) -> Any:
    """JSON values; what YAML knows beyond them (dates) becomes text."""
    return json.loads(json.dumps(value, default=str))


def _check(model: Model) -> None:
    """Raise :class:`ModelError` unless the model can be evaluated."""
    import numpy as np

    from gracecli.model.blueprint import OutputNode
    from gracecli.quiet import import_tensorflow

    for name, value in model.weights.items():
        if not np.isfinite(value).all():
            raise ModelError(f"model: variable {name!r} holds numbers that are not finite", "the training diverged?")
    if not model.blueprint.of_type(OutputNode):
        raise ModelError("blueprint: no node gives an energy", "the model description is incomplete")
    import_tensorflow()
    from gracecli.model.network import Network

    Network(model.blueprint, model.weights)


def _save(path: Path, model: Model) -> None:
    from gracecli.model.modelfile import save_model

    save_model(path, model)


def _store(target: Path, model: Model, writer: Callable[[Path], object]) -> Summary:
    """Write under a temporary name, read back, compare, rename."""
    from gracecli.model.modelfile import load_model

    expected = model.sha256()

    def write(temporary: Path) -> None:
        writer(temporary)
        if load_model(temporary).sha256() != expected:
            raise ModelError(f"{target}: what was written is not what was read", "is the disk full or failing?")

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, write)
    except (InputError, OSError) as error:
        message = error.message if isinstance(error, InputError) else f"cannot make {target.parent}: {error.strerror}"
        raise InputError(message, "set GRACE_CACHE to a folder you can write to") from error
    return summarise(load_model(target), target)


def remove_model(name: str) -> Path:
    """Delete a model from the library.

    Raises
    ------
    UsageError
        It is a bundled model.
    ModelError
        The library has no model of that name.
    """
    models = library_models()
    if name not in models:
        if name in bundled_models():
            raise UsageError(f"{name!r} is bundled with gracecli", "only models of the library can be removed")
        from gracecli.names import suggestion

        raise ModelError(f"the library has no model called {name!r}", suggestion(name, models, "`grace models list`"))
    try:
        models[name].unlink()
    except OSError as error:
        raise InputError(f"cannot remove {models[name]}: {error.strerror}") from error
    lock.unpin(name)
    return models[name]


@dataclass(frozen=True)
class Verification:
    """Whether the content of a model file is what was recorded when it was written."""

    name: str
    path: str
    ok: bool
    sha256: str | None
    problem: str | None


def verify_models(name: str | None = None) -> list[Verification]:
    """Check one model (name or path), or all on this machine, against the sha256 recorded in the file."""
    if name is None:
        return [_verify(known, path) for known, path in known_models().items()]
    path = resolve_model(name, enforce=False)
    if path.is_dir():
        raise UsageError(f"{path}: a published folder records no sha256", "add it first: `grace models add`")
    return [_verify(path.stem, path)]


def accept_content(name: str) -> str:
    """Let ``grace.lock`` record the content that a model of the library has now; returns its sha256."""
    from gracecli.model.modelfile import load_model

    models = library_models()
    if name not in models:
        raise ModelError(f"the library has no model called {name!r}", "`grace models list`")
    sha256 = load_model(models[name]).sha256()
    lock.pin(name, sha256, replace=True)
    return sha256


def _verify(name: str, path: Path) -> Verification:
    from gracecli.model.modelfile import load_model

    try:
        model = load_model(path)  # compares with the recorded sha256
        if not _records_sha256(path):
            return Verification(name, str(path), False, model.sha256(), "the file records no sha256")
        if path == library_models().get(name):
            lock.check_pin(name, model.sha256())
    except GraceError as error:
        return Verification(name, str(path), False, None, error.message.removeprefix(f"{path}: "))
    return Verification(name, str(path), True, model.sha256(), None)


def _records_sha256(path: Path) -> bool:
    import h5py

    with h5py.File(path, "r") as file:
        return "sha256" in json.loads(str(file.attrs["metadata"]))
