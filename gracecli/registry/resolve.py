"""From a model name or path to a model file.

Names are looked up in the bundled models (shipped in the package) and in the local library (``GRACE_CACHE``, else
``~/.cache/grace``), in this order: an existing path, a bundled model, the library.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from gracecli.errors import ModelError
from gracecli.model.modelfile import Model, load_model
from gracecli.paths import data_directory

DEFAULT_MODEL = "grace-1l-9el"
SUFFIX = ".grace"


def library_directory() -> Path:
    """Folder of the local library, ``$GRACE_CACHE/models`` or ``~/.cache/grace/models``."""
    root = os.environ.get("GRACE_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "grace") / "models"


def bundled_models() -> dict[str, Path]:
    """Name -> file of the models shipped with the package."""
    return {p.stem: p for p in sorted((data_directory() / "models").glob(f"*{SUFFIX}"))}


def library_models() -> dict[str, Path]:
    """Name -> file of the models in the local library."""
    return {p.stem: p for p in sorted(library_directory().glob(f"*{SUFFIX}"))}


def is_saved_model(path: Path) -> bool:
    """Whether a directory is a TensorFlow SavedModel export."""
    return (path / "saved_model.pb").is_file()


def is_published_directory(path: Path) -> bool:
    """Whether a directory holds a published model (model.yaml or SavedModel)."""
    return path.is_dir() and ((path / "model.yaml").is_file() or is_saved_model(path))


def resolve_model(name: str | Path | None) -> Path:
    """Path of a model file or published model directory.

    Parameters
    ----------
    name : str, Path or None
        Name, path, or None for the bundled default.

    Raises
    ------
    ModelError
        Nothing of that name; the message gives the nearest names.
    """
    known = {**library_models(), **bundled_models()}
    if name is None:
        if DEFAULT_MODEL not in known:
            raise ModelError(
                f"the bundled model {DEFAULT_MODEL!r} is missing from this installation", "install gracecli again"
            )
        return known[DEFAULT_MODEL]
    path = Path(name).expanduser()
    if path.is_file() or is_published_directory(path):
        return path
    if str(name) in known:
        return known[str(name)]
    lower = {k.lower(): k for k in known}
    if str(name).lower() in lower:
        return known[lower[str(name).lower()]]
    if path.is_dir():
        raise ModelError(
            f"{path}: holds neither model.yaml nor a SavedModel", "give a .grace file or a published model"
        )
    near = difflib.get_close_matches(str(name).lower(), lower, n=3)
    hint = f"did you mean {' or '.join(lower[n] for n in near)}?" if near else "'grace models list' shows what is here"
    raise ModelError(f"no model is called {str(name)!r}, and no such file", hint)


def read_model(path: Path | None) -> Model:
    """Model of a ``.grace`` file or a published directory (converted in memory)."""
    path = resolve_model(None) if path is None else path
    if path.is_dir():
        if is_saved_model(path) and not (path / "model.yaml").is_file():
            raise ModelError(
                f"{path}: a SavedModel holds a program, not a blueprint", "run it with --engine saved-model"
            )
        from gracecli.model.upstream.checkpoint import read_directory

        blueprint, weights, metadata = read_directory(path)
        return Model(blueprint, weights, {"name": path.name, **metadata})
    return load_model(path)
