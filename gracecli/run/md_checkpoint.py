"""Checkpoints of a run: everything it goes on from, in one file that is whole or not there.

A checkpoint is written after the trajectory and the log reached the disk, and says how much of them belongs to it.
What a killed run wrote behind that is cut off (and computed again) when it is resumed, so no row or frame is double
or missing. Numbers are stored in binary, the generator's state as it is: the resumed run is the uninterrupted one,
bit for bit on the same machine. The neighbour list's reference is not stored, for it has no influence on the bits
(:mod:`gracecli.engine.neighbours`).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian

from gracecli.errors import InputError
from gracecli.files import write_atomically
from gracecli.run.md_settings import MdSettings
from gracecli.run.md_system import Array

FORMAT, VERSION = "gracecli md checkpoint", 1


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two steps.

    Attributes
    ----------
    settings : MdSettings
    step : int
    rng : mapping
        State of the bit generator.
    system, integrator : mapping of arrays
        :meth:`gracecli.run.md_system.System.state`, and that of the integrator.
    atoms : Atoms
        Elements, masses, periodicity and what is fixed (its geometry is that of ``system``).
    frames, log_bytes : int
        How much of the trajectory and of the log belongs to it.
    seconds : float
        Wall time spent so far.
    calculator : mapping
        What computes the forces: name, options, hash of the model.
    origin : mapping
        Where the run comes from: structure, warnings, first temperature.
    """

    settings: MdSettings
    step: int
    rng: Mapping[str, Any]
    system: Mapping[str, Array]
    integrator: Mapping[str, Array]
    atoms: Atoms
    frames: int = 0
    log_bytes: int = 0
    seconds: float = 0.0
    calculator: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a kill at any moment leaves the old one or the new one."""
    from gracecli.run.md_system import free_directions

    document = {
        "format": FORMAT,
        "version": VERSION,
        "settings": asdict(checkpoint.settings),
        "step": checkpoint.step,
        "rng": checkpoint.rng,
        "frames": checkpoint.frames,
        "log_bytes": checkpoint.log_bytes,
        "seconds": checkpoint.seconds,
        "calculator": dict(checkpoint.calculator),
        "origin": dict(checkpoint.origin),
    }
    atoms = checkpoint.atoms
    arrays = {
        "document": np.array(json.dumps(document)),
        "numbers": atoms.numbers,
        "masses": atoms.get_masses(),
        "pbc": atoms.pbc,
        "free": free_directions(atoms),
        **{f"system/{name}": value for name, value in checkpoint.system.items()},
        **{f"integrator/{name}": value for name, value in checkpoint.integrator.items()},
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)

    write_atomically(path, write)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    InputError
        No such file, or not a checkpoint of this version.
    """
    if not path.is_file():
        raise InputError(f"nothing to resume: {path} does not exist", "name a checkpoint.npz, or the folder of a run")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            document = json.loads(str(content["document"]))
            arrays = {name: content[name] for name in content.files if name != "document"}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is not a checkpoint of `grace md`: {error}", "start again without --resume"
        ) from error
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise InputError(f"{path}: a checkpoint of another version of gracecli", "resume with that version")
    system = _named(arrays, "system/")
    atoms = Atoms(numbers=arrays["numbers"], positions=system["positions"], cell=system["cell"], pbc=arrays["pbc"])
    atoms.set_masses(arrays["masses"])
    atoms.set_constraint(constraints_of(arrays["free"]))
    return Checkpoint(
        settings=MdSettings.from_dict(document["settings"]),
        step=document["step"],
        rng=document["rng"],
        system=system,
        integrator=_named(arrays, "integrator/"),
        atoms=atoms,
        frames=document["frames"],
        log_bytes=document["log_bytes"],
        seconds=document["seconds"],
        calculator=document["calculator"],
        origin=document["origin"],
    )


def _named(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def constraints_of(free: np.ndarray) -> list[Any]:
    """Constraints that leave the mask ``free`` (N, 3) free."""
    found: list[Any] = []
    whole = np.flatnonzero(~free.any(axis=1))
    if len(whole):
        found.append(FixAtoms(whole))
    for index in np.flatnonzero(free.any(axis=1) & ~free.all(axis=1)):
        found.append(FixCartesian(int(index), mask=tuple(bool(x) for x in ~free[index])))
    return found
