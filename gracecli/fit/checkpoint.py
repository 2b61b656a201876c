"""The whole state of a fit in one file, written to a temporary name, flushed, renamed.

A checkpoint (``.npz``) holds arrays (weights, moments, EMA, best weights) and one JSON document (epoch, position in
the epoch, step, sums of the running epoch, log, best loss, hashes). A run resumed from it continues bit for bit on a
CPU, because everything else is a pure function of the settings.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gracecli.errors import InputError
from gracecli.files import write_atomically

FORMAT = "gracecli.fit-checkpoint"
VERSION = 1


@dataclass
class FitState:
    """Where a fit is.

    Attributes
    ----------
    epoch, position : int
        Next step: its epoch (from 0) and place in the epoch.
    step : int
        Steps done.
    sums : list of float
        Sums over the steps of the running epoch: energy, force and stress terms of the loss, gradient norm.
    log : list of dict
        Rows of ``log.csv``.
    best_loss : float or None
        Lowest validation loss.
    best_epoch : int
    seconds : float
        Time spent training, over all runs.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    log: list[dict[str, Any]] = field(default_factory=list)
    best_loss: float | None = None
    best_epoch: int = -1
    seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """State, arrays, and the hash of the settings and data they belong to."""

    state: FitState
    arrays: dict[str, np.ndarray]
    identity: str


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old one or the new one."""
    document = {"format": FORMAT, "version": VERSION, "identity": checkpoint.identity, **asdict(checkpoint.state)}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            arrays: dict[str, Any] = {f"array/{name}": value for name, value in checkpoint.arrays.items()}
            np.savez(stream, document=np.array(json.dumps(document)), **arrays)

    write_atomically(path, write)


def load_checkpoint(path: Path, identity: str | None = None) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    InputError
        No such file, not a checkpoint, or one of other settings or data than ``identity``.
    """
    if not path.is_file():
        raise InputError(f"nothing to resume: {path} does not exist", "start without --resume, or give -o/--output")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            document = json.loads(str(content["document"]))
            arrays = {name[6:]: content[name] for name in content.files if name.startswith("array/")}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a checkpoint of a fit: {error}", "start again without --resume") from error
    if document.pop("format") != FORMAT or document.pop("version") != VERSION:
        raise InputError(f"{path}: a checkpoint of another version of gracecli", "resume with that version")
    found = document.pop("identity")
    if identity is not None and found != identity:
        raise InputError(
            f"{path} belongs to other settings or data",
            "resume with the settings it was started with, or start again with --force",
        )
    return Checkpoint(FitState(**document), arrays, found)


def prefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``{prefix}:{name}`` -> array."""
    return {f"{prefix}:{name}": value for name, value in arrays.items()}


def without_prefix(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inverse of :func:`prefixed`, for the arrays that have it."""
    start = f"{prefix}:"
    return {name[len(start) :]: value for name, value in arrays.items() if name.startswith(start)}
