"""What a model is, in a few numbers; remembered beside the library so that ``grace models list`` opens no HDF5 file.

A remembered summary counts only while device, inode, size, modification and change time of the file are those it was
made from; files changed within the last seconds are not remembered, because a clock tick could hide another change.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gracecli.errors import GraceError, InputError, ModelError

if TYPE_CHECKING:
    from gracecli.model.modelfile import Model

CACHE_VERSION = 1
"""Raised whenever a summary of the same file would come out differently."""
SETTLED_SECONDS = 2.0
"""Coarsest clock of a file system (FAT)."""
PRECISIONS = {"float64": "fp64", "float32": "fp32"}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One model at a glance.

    Attributes
    ----------
    name, path : str
    size : int
        Bytes.
    elements : tuple of str
    layers : int
    cutoff, smallest_cutoff : float
        Å; they differ where the cutoff depends on the pair of elements.
    parameters : int
        Trainable weights.
    precision : str
        ``fp64`` or ``fp32``, of the stored weights.
    licence, level_of_theory : str or None
    sha256 : str
        Of blueprint and weights.
    """

    name: str
    path: str
    size: int
    elements: tuple[str, ...]
    layers: int
    cutoff: float
    smallest_cutoff: float
    parameters: int
    precision: str
    licence: str | None
    level_of_theory: str | None
    sha256: str


@dataclass(frozen=True)
class Unreadable:
    """A file in the library that is no usable model, and why."""

    name: str
    path: str
    error: str


def summarise(model: Model, path: Path, name: str | None = None) -> Summary:
    """Summary of a model read from ``path``.

    Raises
    ------
    ModelError
        Its blueprint states no elements or no cutoff.
    """
    cutoffs = model.pair_cutoffs()
    licence, level = (model.metadata.get(key) for key in ("licence", "level_of_theory"))
    return Summary(
        name=name or (path.resolve().name if path.is_dir() else path.stem),
        path=str(path),
        size=_size(path),
        elements=model.elements,
        layers=model.blueprint.layers,
        cutoff=model.cutoff,
        smallest_cutoff=model.cutoff if cutoffs is None else float(cutoffs.min()),
        parameters=model.n_parameters,
        precision=PRECISIONS.get(model.precision, model.precision),
        licence=str(licence) if licence else None,
        level_of_theory=str(level) if level else None,
        sha256=model.sha256(),
    )


def _size(path: Path) -> int:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return sum(p.stat().st_size for p in files)


def summaries() -> list[Summary | Unreadable]:
    """Summaries of all models on this machine: bundled ones, then the library, by name."""
    from gracecli.registry.resolve import known_models

    remembered = _Memory()
    found: list[Summary | Unreadable] = []
    for name, path in known_models().items():
        try:
            found.append(remembered.summary(path))
        except (GraceError, OSError) as error:
            message = error.message if isinstance(error, GraceError) else f"{path}: {error.strerror or error}"
            found.append(Unreadable(name, str(path), message))
    remembered.save()
    return found


class _Memory:
    """Summaries by path, with the state of the file they were made from."""

    def __init__(self) -> None:
        from gracecli.registry.resolve import library_directory

        self.path = library_directory() / ".summaries.json"
        self._known = self._load()
        self._used: dict[str, dict[str, Any]] = {}
        self._changed = False

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            return dict(document["files"]) if document["version"] == CACHE_VERSION else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # no memory, or none of ours: it is made again

    def summary(self, path: Path) -> Summary:
        """Remembered, or read."""
        key = str(path.absolute())
        state = _state(path)
        entry = self._known.get(key)
        if entry is not None and entry.get("state") == state:
            with suppress(TypeError, KeyError):
                summary = entry["summary"]
                made = Summary(**{**summary, "path": str(path), "elements": tuple(summary["elements"])})
                self._used[key] = entry
                return made
        self._changed = True
        from gracecli.model.modelfile import load_model

        made = summarise(load_model(path), path)
        if _state(path) == state and time.time() - max(path.stat().st_mtime, path.stat().st_ctime) > SETTLED_SECONDS:
            self._used[key] = {"state": state, "summary": asdict(made)}
        return made

    def save(self) -> None:
        """Write what is known, if it changed; a folder that cannot be written costs time, nothing else."""
        if not self._changed and self._used.keys() == self._known.keys():
            return
        from gracecli.files import write_text_atomically

        others = {k: v for k, v in self._known.items() if k not in self._used and Path(k).is_file()}
        text = json.dumps({"version": CACHE_VERSION, "files": {**others, **self._used}}, ensure_ascii=False)
        with suppress(InputError, OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(self.path, text)


def _state(path: Path) -> list[int]:
    """What changes whenever the content of a file changes."""
    s = path.stat()
    return [s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns]


def summary_of(path: Path) -> Summary:
    """Summary of one model file or published directory, read anew.

    Raises
    ------
    ModelError
        The model is missing, damaged or unknown.
    """
    from gracecli.registry.resolve import read_model

    if not path.exists():
        raise ModelError(f"{path}: no such model", "see `grace models list`")
    return summarise(read_model(path), path)
