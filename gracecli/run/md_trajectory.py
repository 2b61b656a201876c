"""Trajectories in H5MD 1.1, which MDAnalysis, ovito and others open; appended so that a kill leaves a readable file.

Layout (https://nongnu.org/h5md/h5md.html)::

    /h5md                                        version, author, creator; modules/units
    /particles/trajectory/box/edges              (T, 3, 3) Å          /particles/trajectory/species  (N,) atomic numbers
    /particles/trajectory/position               (T, N, 3) Å, unwrapped                     .../mass (N,) u
    /particles/trajectory/velocity               (T, N, 3) Å/fs
    /particles/trajectory/force                  (T, N, 3) kJ/mol/Å, on request (no reader knows eV/Å)
    /observables/temperature, potential_energy, kinetic_energy, total_energy, conserved_energy, pressure   (T,)

Each element holds ``value``, ``step`` and ``time``; the last two are one dataset each, linked. Coordinates are stored
in single precision (1e-6 Å; the checkpoint has all digits).

Frames are kept in memory until a checkpoint is due and then appended in HDF5's single-writer mode, in which data
reaches the file before anything points to it. That mode marks the file as being written; the mark is taken off at
once (:mod:`gracecli.store.superblock`), so that any program can open the file at any time. ``position`` grows last:
its length counts the frames.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.units import fs, kJ, mol
from numpy.typing import NDArray

import gracecli
from gracecli.errors import InputError
from gracecli.files import write_atomically
from gracecli.run.md_log import Sample
from gracecli.run.md_system import Array, System
from gracecli.store import superblock

GROUP = "particles/trajectory"
KILOJOULE = kJ / mol
OBSERVABLES = {
    "temperature": "K", "potential_energy": "eV", "kinetic_energy": "eV", "total_energy": "eV",
    "conserved_energy": "eV", "pressure": "GPa",
}  # fmt: skip
UNITS = {"position": "Angstrom", "velocity": "Angstrom fs-1", "force": "kJ mol-1 Angstrom-1", "edges": "Angstrom"}
LIBVER = ("v110", "v110")  # the oldest with single-writer mode
CHUNK_BYTES = 1 << 18
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


def create(file: h5py.File, atoms: Atoms, forces: bool) -> None:
    """Lay an empty file out."""
    h5md = file.create_group("h5md")
    h5md.attrs["version"] = np.array([1, 1])
    h5md.create_group("author").attrs["name"] = os.environ.get("USER", "unknown")
    creator = h5md.create_group("creator")
    creator.attrs["name"], creator.attrs["version"] = "gracecli", gracecli.__version__
    h5md.create_group("modules/units").attrs["version"] = np.array([1, 0])
    group = file.create_group(GROUP)
    box = group.create_group("box")
    box.attrs["dimension"] = 3
    box.attrs["boundary"] = ["periodic" if periodic else "none" for periodic in atoms.pbc]
    group["species"] = atoms.numbers.astype(np.int32)
    group["mass"] = atoms.get_masses()
    group["mass"].attrs["unit"] = "u"
    position = group.create_group("position")
    step = _growing(position, "step", (), np.int64)
    time = _growing(position, "time", (), np.float64, "fs")
    _growing(position, "value", (len(atoms), 3), np.float32, UNITS["position"])
    for name in ("velocity", "force") if forces else ("velocity",):
        _growing(_linked(group, name, step, time), "value", (len(atoms), 3), np.float32, UNITS[name])
    if atoms.pbc.any():
        _growing(_linked(box, "edges", step, time), "value", (3, 3), np.float64, UNITS["edges"])
    for name, unit in OBSERVABLES.items():
        _growing(_linked(file.require_group("observables"), name, step, time), "value", (), np.float64, unit)


def elements(file: h5py.File, names: list[str] | None = None) -> Iterator[tuple[str, h5py.Dataset]]:
    """Growing datasets by name, ``position`` last."""
    group = file[GROUP]
    names = names or [name for name in ("velocity", "force", "position") if name in group]
    for name in ("step", "time"):
        yield name, group["position"][name]
    if "edges" in group["box"]:
        yield "edges", group["box/edges/value"]
    for name in OBSERVABLES:
        yield name, file["observables"][name]["value"]
    for name in names:
        yield name, group[name]["value"]


def cut(path: Path, frames: int) -> None:
    """Leave the first ``frames`` frames: nothing to do mostly, else a copy that takes the file's place.

    Raises
    ------
    InputError
        There are fewer.
    """
    if not path.is_file():
        raise InputError(f"{path} is gone", "resume with the files of the run")
    superblock.clear(path)
    with h5py.File(path, "r", locking=False) as file:
        lengths = {len(data) for _, data in elements(file)}
        if min(lengths) < frames:
            raise InputError(
                f"{path} has {min(lengths)} frames, the checkpoint belongs to {frames}",
                "resume with the files of the run",
            )
        if lengths == {frames}:
            return

        def write(temporary: Path) -> None:
            group = file[GROUP]
            atoms = Atoms(numbers=group["species"][:], pbc=[b == "periodic" for b in _boundary(file)])
            atoms.set_masses(group["mass"][:])
            with h5py.File(temporary, "w", libver=LIBVER) as copy:
                create(copy, atoms, "force" in group)
                for (_, source), (_, target) in zip(elements(file), elements(copy), strict=True):
                    target.resize(frames, axis=0)
                    rows = source.chunks[0]
                    for start in range(0, frames, rows):
                        target[start : start + rows] = source[start : min(start + rows, frames)]

        write_atomically(path, write)


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
            self._file = h5py.File(path, "r", locking=False)
            self._group = self._file["particles"][next(iter(self._file["particles"]))]
            self.steps: Array = self._group["position/step"][:]
            self.times: Array = self._group["position/time"][:]
            self.numbers = self._group["species"][:]
        except (OSError, KeyError, StopIteration) as error:
            raise InputError(f"{path} is not an H5MD trajectory: {error}", "name a trajectory of `grace md`") from error
        self.pbc = np.array([boundary == "periodic" for boundary in _boundary(self._file)])
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


def _boundary(file: h5py.File) -> list[str]:
    group = file["particles"][next(iter(file["particles"]))]
    return [item.decode() if isinstance(item, bytes) else str(item) for item in group["box"].attrs["boundary"]]


def _growing(group: h5py.Group, name: str, shape: tuple[int, ...], kind: Any, unit: str | None = None) -> h5py.Dataset:
    row = int(np.prod(shape, dtype=int)) * np.dtype(kind).itemsize
    rows = max(1, min(1024, CHUNK_BYTES // max(row, 1)))
    data = group.create_dataset(
        name,
        shape=(0, *shape),
        maxshape=(None, *shape),
        chunks=(rows, *(max(length, 1) for length in shape)),
        dtype=kind,
    )
    if unit is not None:
        data.attrs["unit"] = unit
    return data


def _linked(parent: h5py.Group, name: str, step: h5py.Dataset, time: h5py.Dataset) -> h5py.Group:
    """A group with the shared ``step`` and ``time``."""
    group = parent.create_group(name)
    group["step"], group["time"] = step, time
    return group
