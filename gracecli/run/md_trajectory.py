"""Writing and reading trajectories (layout: :mod:`gracecli.run.md_h5md`) so that a kill leaves a readable file.

Frames are kept in memory until a checkpoint is due and then appended in HDF5's single-writer mode, in which data
reaches the file before anything points to it. That mode marks the file as being written; the mark is taken off at
once (:mod:`gracecli.store.superblock`), so that any program can open the file at any time. ``position`` grows last:
its length counts the frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.units import fs, kJ, mol
from numpy.typing import NDArray

from gracecli.errors import InputError
from gracecli.run.md_h5md import LIBVER, OBSERVABLES, boundaries, create, cut, elements
from gracecli.run.md_log import Sample
from gracecli.run.md_system import Array, System
from gracecli.store import superblock

KILOJOULE = kJ / mol
BUFFER_BYTES = 1 << 26


class TrajectoryWriter:
    """Appends frames.

    Parameters
    ----------
    path : Path
    atoms : Atoms
        Elements, masses, periodicity.
    forces : bool
        Whether frames hold forces.
    keep : int or None
        None: a new file. Else frames of the existing one that stay.

    Attributes
    ----------
    frames : int
        Frames in the file.

    Raises
    ------
    InputError
        The file cannot be written, or has fewer frames than ``keep``.
    """

    def __init__(self, path: Path, atoms: Atoms, forces: bool, keep: int | None = None) -> None:
        self.path = path
        self._names = ["velocity", *(["force"] if forces else []), "position"]
        self._pending: list[dict[str, Any]] = []
        self._bytes_per_frame = len(self._names) * 12 * len(atoms)
        try:
            if keep is None:
                with h5py.File(path, "w", libver=LIBVER) as file:
                    create(file, atoms, forces)
                self.frames = 0
            else:
                self.frames = keep
                cut(path, keep)
            self._file = h5py.File(path, "r+", libver=LIBVER, locking=False)
            self._file.swmr_mode = True
            self._unmark()
        except OSError as error:
            raise InputError(f"cannot write {path}: {error}", "choose another -o/--output") from error

    @property
    def full(self) -> bool:
        """Whether enough frames wait to be written."""
        return len(self._pending) * self._bytes_per_frame > BUFFER_BYTES

    def append(self, system: System, sample: Sample) -> None:
        """Keep a frame until :meth:`sync`."""
        frame: dict[str, Any] = {
            "step": sample.step,
            "time": sample.time,
            "edges": system.cell.copy(),
            "position": system.positions.astype(np.float32),
            "velocity": (system.momenta / system.masses * fs).astype(np.float32),
            **{name: getattr(sample, name) for name in OBSERVABLES},
        }
        if "force" in self._names:
            frame["force"] = (system.forces / KILOJOULE).astype(np.float32)
        self._pending.append(frame)

    def sync(self) -> None:
        """Write what waits to the disk."""
        count = len(self._pending)
        if not count:
            return
        try:
            for name, data in elements(self._file, self._names):
                data.resize(self.frames + count, axis=0)
                data[self.frames :] = np.array([frame[name] for frame in self._pending])
                data.flush()
            self._file.flush()
            self._unmark()
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error}", "free some space, then --resume") from error
        self.frames += count
        self._pending = []

    def close(self) -> None:
        """Close the file; what waits is not written."""
        self._file.close()

    def _unmark(self) -> None:
        superblock.clear(self.path)


class Trajectory:
    """A trajectory for reading, finished or being written.

    Raises
    ------
    InputError
        Not an H5MD file with positions.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = _open(path)
            self._group = self._file["particles"][next(iter(self._file["particles"]))]
            self.steps: Array = self._group["position/step"][:]
            self.times: Array = self._group["position/time"][:]
            self.numbers = self._group["species"][:]
        except (OSError, KeyError, StopIteration) as error:
            raise InputError(f"{path} is not an H5MD trajectory: {error}", "name a trajectory of `grace md`") from error
        self.pbc = np.array([boundary == "periodic" for boundary in boundaries(self._file)])
        self.masses: Array = self._group["mass"][:] if "mass" in self._group else Atoms(self.numbers).get_masses()
        self.frames = len(self._group["position/value"])

    def __enter__(self) -> Trajectory:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def positions(self, frames: slice = slice(None)) -> Array:
        """(T, N, 3) Å, unwrapped."""
        return np.asarray(self._group["position/value"][frames], dtype=np.float64)

    def velocities(self, frames: slice = slice(None), atoms: NDArray[np.intp] | None = None) -> Array:
        """(T, N, 3) Å/fs, of all atoms or of those with the ascending indices ``atoms``."""
        if atoms is None:
            return np.asarray(self._group["velocity/value"][frames], dtype=np.float64)
        first, last = int(atoms[0]), int(atoms[-1]) + 1
        return np.asarray(self._group["velocity/value"][frames, first:last][:, atoms - first], dtype=np.float64)

    def cells(self, frames: slice = slice(None)) -> Array:
        """(T, 3, 3) Å; zeros without a box."""
        if "edges" not in self._group["box"]:
            return np.zeros((len(range(self.frames)[frames]), 3, 3))
        return np.asarray(self._group["box/edges/value"][frames], dtype=np.float64)

    def observables(self) -> dict[str, Array]:
        """Observables by name."""
        return {name: np.asarray(item["value"][:]) for name, item in self._file.get("observables", {}).items()}


def _open(path: Path) -> h5py.File:
    """The file for reading, also where a writer was killed before it could take its mark off."""
    try:
        return h5py.File(path, "r", locking=False)
    except OSError:
        return h5py.File(path, "r", locking=False, libver=LIBVER, swmr=True)
