"""From a model name or path to a model file.

Names are looked up in the bundled models (shipped in the package) and in the local library (``GRACE_CACHE``, else
``~/.cache/grace``), in this order: an existing path, a bundled model, the library.

Nothing heavy is imported here: ``grace models list`` has 0.3 s.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from gracecli.errors import ModelError
from gracecli.paths import data_directory
from gracecli.quiet import cache_root

if TYPE_CHECKING:
    from gracecli.model.modelfile import Model

DEFAULT_MODEL = "grace-1l-11el"
SUFFIX = ".grace"


def library_directory() -> Path:
    """Folder of the local library, ``$GRACE_CACHE/models`` or ``~/.cache/grace/models``."""
    return cache_root() / "models"


def bundled_models() -> dict[str, Path]:
    """Name -> file of the models shipped with the package."""
    return _models_in(data_directory() / "models")


def library_models() -> dict[str, Path]:
    """Name -> file of the models in the local library."""
    return _models_in(library_directory())


def known_models() -> dict[str, Path]:
    """Name -> file of all models on this machine; bundled ones first, and they win."""
    bundled = bundled_models()
    return bundled | {name: path for name, path in library_models().items() if name not in bundled}


def _models_in(folder: Path) -> dict[str, Path]:
    # names with a leading dot are files that a killed process was writing
    return {p.stem: p for p in sorted(folder.glob(f"*{SUFFIX}")) if not p.name.startswith(".")}


def is_saved_model(path: Path) -> bool:
    """Whether a directory is a TensorFlow SavedModel export."""
    return (path / "saved_model.pb").is_file()


def is_published_directory(path: Path) -> bool:
    """Whether a directory holds a published model (model.yaml or SavedModel)."""
    return path.is_dir() and ((path / "model.yaml").is_file() or is_saved_model(path))


def resolve_model(name: str | Path | None, *, enforce: bool = True) -> Path:
    """Path of a model file or published model directory.

    Parameters
    ----------
    name : str, Path or None
        Name, path, or None for the bundled default; ``NAME#HEAD`` is one head of a model that has several, for which
        a file of its own is kept in the cache.
    enforce : bool
        A model of the library must be what ``grace.lock`` records.

    Raises
    ------
    ModelError
        Nothing of that name (the message gives the nearest names), or other content than recorded.
    """
    known = known_models()
    if name is None:
        if DEFAULT_MODEL not in known:
            raise ModelError(
                f"the bundled model {DEFAULT_MODEL!r} is missing from this installation", "install gracecli again"
            )
        return known[DEFAULT_MODEL]
    path = Path(name).expanduser()
    if path.is_file() or is_published_directory(path):
        return path
    if "#" in str(name):
        whole, _, head = str(name).rpartition("#")
        return _head_file(resolve_model(whole or None, enforce=enforce), head)
    lower = {k.lower(): k for k in known}
    own = str(name) if str(name) in known else lower.get(str(name).lower()) or _by_alias(str(name), known)
    if own is None:
        raise _no_such_model(str(name), path, lower)
    if enforce and own not in bundled_models():
        _check_pin(own, known[own])
    return known[own]


def with_head(name: str | Path | None, head: str | None) -> str | Path | None:
    """Name of one head of a model."""
    return name if head is None else f"{DEFAULT_MODEL if name is None else name}#{head}"


def _head_file(path: Path, head: str) -> Path:
    """File with one head of a model."""
    from gracecli.model.heads import select_head
    from gracecli.model.modelfile import save_model

    if path.is_dir():
        raise ModelError(f"{path}: a published model has no heads", f"leave out #{head}")
    try:
        model = select_head(read_model(path), head)
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", error.hint) from error
    target = cache_root() / "heads" / model.sha256()[:16] / f"{path.stem}#{head}{SUFFIX}"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        save_model(target, model, overwrite=True)
    return target


def _by_alias(name: str, known: dict[str, Path]) -> str | None:
    """Name on this machine of a published model that is called by an alias."""
    from gracecli.registry.catalog import find_published

    published = find_published(name)
    return published.name if published is not None and published.name in known else None


def _check_pin(name: str, path: Path) -> None:
    """A model of the library is what ``grace.lock`` records for its name."""
    from gracecli.registry.lock import check_pin, pins
    from gracecli.registry.summary import summary_of

    recorded = pins()
    if name in recorded:
        check_pin(name, summary_of(path).sha256, recorded)


def _no_such_model(name: str, path: Path, lower: dict[str, str]) -> ModelError:
    if path.is_dir():
        return ModelError(
            f"{path}: holds neither model.yaml nor a SavedModel", "give a .grace file or a published model"
        )
    from gracecli.registry.catalog import find_published

    published = find_published(name)
    if published is not None:
        return ModelError(
            f"{published.name} is a published model that is not on this machine",
            f"`grace models get {published.name}` ({published.licence})",
        )
    near = difflib.get_close_matches(name.lower(), lower, n=3)
    hint = f"did you mean {' or '.join(lower[n] for n in near)}?" if near else "`grace models list` shows what is here"
    return ModelError(f"no model is called {name!r}, and no such file", hint)


def read_model(path: Path | None) -> Model:
    """Model of a ``.grace`` file or a published directory (converted in memory)."""
    path = resolve_model(None) if path is None else path
    if path.is_dir():
        return read_published(path)
    from gracecli.model.modelfile import load_model

    return load_model(path)


def read_published(directory: Path, description: str = "model.yaml", checkpoint: str | None = None) -> Model:
    """Convert a published directory (model.yaml and TensorFlow checkpoint) in memory.

    Parameters
    ----------
    directory : Path
    description : str
        Name of the model description in it.
    checkpoint : str, optional
        Prefix of the checkpoint; None takes ``checkpoint``, else the best one of a training run.

    Raises
    ------
    ModelError
        Something is missing, damaged or unknown; named.
    """
    if is_saved_model(directory) and not (directory / description).is_file():
        raise ModelError(
            f"{directory}: a SavedModel holds a program, not a blueprint", "run it with --engine saved-model -m FOLDER"
        )
    from gracecli.model.gradefile import PUBLISHED
    from gracecli.model.gradefile import read_published as read_published_grade
    from gracecli.model.modelfile import Model
    from gracecli.model.upstream.checkpoint import read_directory
    from gracecli.quiet import import_tensorflow

    tf = import_tensorflow()
    try:
        blueprint, weights, metadata = read_directory(directory, description, checkpoint)
    except (tf.errors.OpError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # TensorFlow reads the index when it opens a checkpoint and the data later: truncated data shows here
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{directory}: cannot read the published model: {reason}",
            "a file is incomplete or damaged; fetch or copy it again",
        ) from error
    grade = None
    if (directory / PUBLISHED).is_file():
        grade = read_published_grade(directory / PUBLISHED, blueprint.elements)
        grade.check(blueprint, weights)
    return Model(blueprint, weights, {"name": directory.resolve().name, **metadata}, grade=grade)
