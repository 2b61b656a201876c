"""The layout of trajectories: H5MD 1.1, which MDAnalysis, ovito and others open.

Layout (https://nongnu.org/h5md/h5md.html)::

    /h5md                                        version, author, creator; modules/units
    /particles/trajectory/box/edges              (T, 3, 3) Å          /particles/trajectory/species  (N,) atomic numbers
    /particles/trajectory/position               (T, N, 3) Å, unwrapped                     .../mass (N,) u
    /particles/trajectory/velocity               (T, N, 3) Å/fs
    /particles/trajectory/force                  (T, N, 3) kJ/mol/Å, on request (no reader knows eV/Å)
    /observables/temperature, potential_energy, kinetic_energy, total_energy, conserved_energy, pressure   (T,)

Each element holds ``value``, ``step`` and ``time``; the last two are one dataset each, linked. Coordinates are stored
in single precision (1e-6 Å; the checkpoint has all digits).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms

import gracecli
from gracecli.errors import InputError
from gracecli.files import write_atomically
from gracecli.store import superblock

GROUP = "particles/trajectory"
OBSERVABLES = {
    "temperature": "K", "potential_energy": "eV", "kinetic_energy": "eV", "total_energy": "eV",
    "conserved_energy": "eV", "pressure": "GPa",
}  # fmt: skip
UNITS = {"position": "Angstrom", "velocity": "Angstrom fs-1", "force": "kJ mol-1 Angstrom-1", "edges": "Angstrom"}
LIBVER = ("v110", "v110")  # the oldest with single-writer mode
CHUNK_BYTES = 1 << 18


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
            atoms = Atoms(numbers=group["species"][:], pbc=[b == "periodic" for b in boundaries(file)])
            atoms.set_masses(group["mass"][:])
            with h5py.File(temporary, "w", libver=LIBVER) as copy:
                create(copy, atoms, "force" in group)
                for (_, source), (_, target) in zip(elements(file), elements(copy), strict=True):
                    target.resize(frames, axis=0)
                    rows = source.chunks[0]
                    for start in range(0, frames, rows):
                        target[start : start + rows] = source[start : min(start + rows, frames)]

        write_atomically(path, write)


def boundaries(file: h5py.File) -> list[str]:
    """``periodic`` or ``none`` by direction."""
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
