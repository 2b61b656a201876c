"""The thermodynamic log of a run: one row of numbers every so many steps, in a CSV file that is cut and appended.

Numbers are written so that reading them gives the same bits: averages of a resumed run are those of the uninterrupted
one. A kill leaves whole rows but perhaps the last; :func:`read_log` leaves a broken last row out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from ase.units import GPa, _amu

from gracecli.errors import InputError
from gracecli.run.md_integrators import Integrator
from gracecli.run.md_system import Array, System

DENSITY = _amu * 1e3 * 1e24  # u/Å^3 in g/cm^3

UNITS = {
    "step": "", "time": "fs", "temperature": "K", "target_temperature": "K", "potential_energy": "eV",
    "kinetic_energy": "eV", "total_energy": "eV", "conserved_energy": "eV", "shadow_energy": "eV", "pressure": "GPa",
    "stress_xx": "GPa", "stress_yy": "GPa", "stress_zz": "GPa", "stress_yz": "GPa", "stress_xz": "GPa",
    "stress_xy": "GPa", "volume": "A3", "density": "g/cm3", "a": "A", "b": "A", "c": "A", "alpha": "deg",
    "beta": "deg", "gamma": "deg", "max_force": "eV/A",
}  # fmt: skip
"""Unit of every column."""


@dataclass(frozen=True)
class Sample:
    """One row of the log; units in :data:`UNITS`, NaN where a quantity is not defined."""

    step: int
    time: float
    temperature: float
    target_temperature: float
    potential_energy: float
    kinetic_energy: float
    total_energy: float
    conserved_energy: float
    shadow_energy: float
    pressure: float
    stress_xx: float
    stress_yy: float
    stress_zz: float
    stress_yz: float
    stress_xz: float
    stress_xy: float
    volume: float
    density: float
    a: float
    b: float
    c: float
    alpha: float
    beta: float
    gamma: float
    max_force: float

    def line(self) -> str:
        """The row as CSV, without loss."""
        return ",".join(_text(getattr(self, name)) for name in COLUMNS) + "\n"


COLUMNS = tuple(field.name for field in fields(Sample))
HEADER = ",".join(f"{name}_{UNITS[name]}" if UNITS[name] else name for name in COLUMNS) + "\n"


def take_sample(system: System, integrator: Integrator, step: int, timestep: float, target: float) -> Sample:
    """The row of the present state; ``timestep`` in fs, ``target`` in K."""
    kinetic = system.kinetic_energy()
    nan = float("nan")
    stress = system.full_stress()
    xx, yy, zz, yz, xz, xy = (
        [nan] * 6 if stress is None else (stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] / GPa).tolist()
    )
    volume = system.volume()
    a, b, c, alpha, beta, gamma = cell_parameters(system.cell) if system.periodic else [nan] * 6
    return Sample(
        step,
        step * timestep,
        system.temperature(),
        target,
        system.energy,
        kinetic,
        system.energy + kinetic,
        integrator.conserved_energy(system),
        integrator.shadow_energy(system),
        system.pressure() / GPa,
        xx,
        yy,
        zz,
        yz,
        xz,
        xy,
        volume,
        float(system.masses.sum()) * DENSITY / volume,
        a,
        b,
        c,
        alpha,
        beta,
        gamma,
        float(np.sqrt(np.einsum("ix,ix->i", system.forces, system.forces).max())),
    )


def cell_parameters(cell: Array) -> list[float]:
    """Lengths (Å) and angles (degrees) of a (3, 3) cell."""
    lengths = np.linalg.norm(cell, axis=1)
    cosines = [cell[i] @ cell[j] / (lengths[i] * lengths[j]) for i, j in ((1, 2), (0, 2), (0, 1))]
    return [*lengths.tolist(), *np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))).tolist()]


class LogWriter:
    """Appends rows; every row reaches the file at once, the disk at :meth:`sync`.

    Parameters
    ----------
    path : Path
    keep : int or None
        None: a new file. Else bytes of the existing one that stay; what is behind them is cut off.

    Raises
    ------
    InputError
        The file cannot be written, or is shorter than ``keep``.
    """

    def __init__(self, path: Path, keep: int | None = None) -> None:
        self.path = path
        try:
            if keep is None:
                self._stream = path.open("wb")
                self.bytes = self._write(HEADER)
                return
            if not path.is_file() or path.stat().st_size < keep:
                raise InputError(
                    f"{path} is gone or shorter than at the checkpoint", "resume with the files of the run"
                )
            os.truncate(path, keep)
            self._stream, self.bytes = path.open("ab"), keep
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}", "choose another -o/--output") from error

    def append(self, sample: Sample) -> None:
        """One row."""
        try:
            self.bytes += self._write(sample.line())
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}", "free some space, then --resume") from error

    def sync(self) -> None:
        """To the disk."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _write(self, text: str) -> int:
        data = text.encode("ascii")
        self._stream.write(data)
        self._stream.flush()
        return len(data)


def read_log(path: Path) -> dict[str, Array]:
    """Columns by name (without units).

    Raises
    ------
    InputError
        Not such a log.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}", "name the folder of a run of `grace md`") from error
    if not lines or lines[0] != HEADER:
        raise InputError(f"{path} is not a log of `grace md`", "name the folder of a run of `grace md`")
    rows = [line for line in lines[1:] if line.endswith("\n") and line.count(",") == len(COLUMNS) - 1]
    table = np.array([[float(word) for word in row.split(",")] for row in rows]).reshape(-1, len(COLUMNS))
    return {name: table[:, place] for place, name in enumerate(COLUMNS)}


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else "nan" if value != value else repr(float(value))
