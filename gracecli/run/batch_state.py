"""The structures of a batch as arrays: coordinates, cells, constraints, in rows behind each other.

Rows of a structure: its atoms in the undeformed cell, then (where the cell relaxes) three rows of strain coordinates;
see :mod:`gracecli.run.batch_cell`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixScaled
from ase.units import GPa
from numpy.typing import NDArray

from gracecli.engine.bonds import cell_volume
from gracecli.run.batch_cell import (
    allowed,
    applied,
    deformations,
    projectors,
    residual_stresses,
    strain_gradients,
)
from gracecli.run.batch_segments import Array, Segments
from gracecli.run.cell import MAX_DISPLACEMENT, MAX_STRAIN
from gracecli.run.guard import Start
from gracecli.run.optimizers import FIRE_STEPS
from gracecli.run.result import RelaxSettings, State


@dataclass(frozen=True)
class Evaluated:
    """A geometry that was evaluated as a whole, and its results."""

    positions: Array
    cell: Array
    energy: float
    energies: Array
    forces: Array
    stress: Array | None


@dataclass
class Member:
    """One structure in work."""

    key: Any
    given: Atoms
    atoms: Atoms
    model: str
    warnings: list[str]
    steps: int = 0
    climbs: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    start: Start | None = None
    initial: State | None = None
    good: Evaluated | None = None


@dataclass
class _PerStructure:
    """Numbers of every structure."""

    start_cell: Array = field(default_factory=lambda: np.zeros((0, 3, 3)))
    scale: Array = field(default_factory=lambda: np.zeros(0))
    lowest: Array = field(default_factory=lambda: np.zeros(0))
    detour: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    detour_left: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def can_batch(atoms: Atoms, settings: RelaxSettings) -> bool:
    """Whether the batched relaxer knows these settings and constraints."""
    if settings.optimizer not in ("lbfgs", "fire") or settings.fix_symmetry:
        return False
    return all(isinstance(item, FixAtoms | FixScaled) for item in atoms.constraints)


class Batch:
    """Coordinates of all structures in work.

    Parameters
    ----------
    settings : RelaxSettings
    """

    def __init__(self, settings: RelaxSettings) -> None:
        self.mode = settings.cell
        self.pressure = settings.pressure * GPa
        self.cell_rows = 0 if settings.cell == "none" else 3
        self.members: list[Member] = []
        self.each = _PerStructure()
        self.coordinates: Array = np.zeros((0, 3))
        self.lowest_coordinates: Array = np.zeros((0, 3))
        self.lowest_forces: Array = np.zeros((0, 3))
        self._free: NDArray[np.bool_] = np.zeros((0, 3), dtype=bool)
        self._arrange()

    def __len__(self) -> int:
        return len(self.members)

    def _arrange(self) -> None:
        counts = np.array([len(member.atoms) for member in self.members], dtype=np.int64)
        self.atoms = Segments(counts)
        self.rows = Segments(counts + self.cell_rows)
        is_atom = self.rows.within < np.repeat(counts, self.rows.counts) if len(counts) else np.zeros(0, dtype=bool)
        self._atom_rows = np.flatnonzero(is_atom)
        self._cell_rows = np.flatnonzero(~is_atom)
        self._fixed = np.flatnonzero(~self._free.any(axis=1))
        self._partial = np.flatnonzero(self._free.any(axis=1) & ~self._free.all(axis=1))

    def add(self, members: list[Member]) -> None:
        """Take in new structures."""
        if not members:
            return
        cells = np.stack([member.atoms.cell.array for member in members])
        sizes = np.array([len(member.atoms) for member in members])
        blank = np.zeros((self.cell_rows, 3))
        rows = np.concatenate([part for member in members for part in (member.atoms.positions, blank)])
        each, new = self.each, len(members)
        self.each = _PerStructure(
            np.concatenate([each.start_cell, cells]),
            np.concatenate([each.scale, np.sqrt(sizes)]),
            np.concatenate([each.lowest, np.full(new, np.inf)]),
            np.concatenate([each.detour, np.full(new, FIRE_STEPS)]),
            np.concatenate([each.detour_left, np.zeros(new, dtype=np.int64)]),
        )
        self.coordinates = np.concatenate([self.coordinates, rows])
        self.lowest_coordinates = np.concatenate([self.lowest_coordinates, rows])
        self.lowest_forces = np.concatenate([self.lowest_forces, np.zeros_like(rows)])
        self._free = np.concatenate([self._free, *(_free_directions(member.atoms) for member in members)])
        self.members = [*self.members, *members]
        self._arrange()

    def keep(self, structures: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keep these structures only; the rows kept."""
        rows = self.rows.rows_of(structures)
        for name in ("coordinates", "lowest_coordinates", "lowest_forces"):
            setattr(self, name, getattr(self, name)[rows])
        self._free = self._free[self.atoms.rows_of(structures)]
        self.each = _PerStructure(**{name: values[structures] for name, values in vars(self.each).items()})
        self.members = [self.members[i] for i in structures.tolist()]
        self._arrange()
        return rows

    def _strain(self) -> Array:
        return self.coordinates[self._cell_rows].reshape(-1, 3, 3) / self.each.scale[:, None, None]

    def geometry(self) -> tuple[Array, Array, Array]:
        """Positions (N, 3), cells (S, 3, 3) and volumes (S,) (NaN without a cell)."""
        if self.mode == "none":
            cells = self.each.start_cell
            return self.coordinates.copy(), cells, np.array([cell_volume(cell) for cell in cells])
        deformation = deformations(self.mode, self.each.start_cell, self._strain())
        positions = applied(self.atoms.spread(deformation), self.coordinates[self._atom_rows])
        cells = self.each.start_cell @ deformation
        return positions, cells, np.abs(np.linalg.det(cells))

    def enthalpies(self, energies: Array, volumes: Array) -> Array:
        """Energy, or enthalpy under pressure (S,) in eV."""
        return energies + self.pressure * volumes if self.pressure else energies

    def free_forces(self, forces: Array, cells: Array) -> Array:
        """Forces (N, 3) that the constraints leave."""
        left = forces.copy()
        left[self._fixed] = 0.0
        k = self._partial
        if len(k):
            left[k] = applied(projectors(cells[self.atoms.owner[k]], self._free[k]), forces[k])
        return left

    def generalised(self, forces: Array, stress: Array, cells: Array, volumes: Array) -> Array:
        """Minus the gradient of the enthalpy (R, 3) in eV/Å, from raw forces (N, 3) and stresses (S, 6)."""
        if self.mode == "none":
            return self.free_forces(forces, cells)
        strain = self._strain()
        deformation = deformations(self.mode, self.each.start_cell, strain)
        pulled = applied(self.atoms.spread(deformation.transpose(0, 2, 1)), forces)
        rows = np.empty_like(self.coordinates)
        rows[self._atom_rows] = self.free_forces(pulled, self.each.start_cell)
        gradient = strain_gradients(self.mode, strain, cells, stress, self.pressure)
        rows[self._cell_rows] = (-(volumes / self.each.scale)[:, None, None] * gradient).reshape(-1, 3)
        return rows

    def residuals(self, forces: Array, stress: Array, cells: Array) -> tuple[Array, Array | None]:
        """Largest free force (S,) in eV/Å, and largest stress left (S,) in GPa where the cell relaxes."""
        force = self.atoms.longest(self.free_forces(forces, cells))
        return force, None if self.mode == "none" else residual_stresses(self.mode, cells, stress, self.pressure) / GPa

    def move(self, step: Array) -> None:
        """Follow ``step`` (R, 3) as far as the limits of a step allow, each structure by itself."""
        if self.mode != "none":
            scale = self.each.scale[:, None, None]
            change = allowed(self.mode, step[self._cell_rows].reshape(-1, 3, 3) / scale)
            step[self._cell_rows] = (change * scale).reshape(-1, 3)
            strained = np.sqrt(np.einsum("sij,sij->s", change, change)) / MAX_STRAIN
        else:
            strained = np.zeros(len(self))
        moved = self.atoms.longest(step[self._atom_rows]) / MAX_DISPLACEMENT
        excess = np.maximum(1.0, np.maximum(moved, strained))
        self.coordinates = self.coordinates + step / self.rows.spread(excess)[:, None]


def _free_directions(atoms: Atoms) -> NDArray[np.bool_]:
    """Which fractional coordinates (N, 3) may change."""
    free = np.ones((len(atoms), 3), dtype=bool)
    for item in atoms.constraints:
        free[item.index] &= ~item.mask if isinstance(item, FixScaled) else np.zeros(3, dtype=bool)
    return free
