"""Neighbour lists of many structures, joined into one, so that one pass computes the bonds of all.

Every structure has its own list with a skin, rebuilt when criterion (*) of :mod:`gracecli.engine.neighbours` fails;
here the sum of the two largest displacements is replaced by twice the largest, which is never smaller. The lists are
kept behind each other (atom ``i`` of structure ``s`` is atom ``start_s + i``), so that vectors, the strict cutoff and
the shortest bond come from one call of the engine's bond filter instead of one per structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gracecli.engine.base import Array, Engine, Graph
from gracecli.engine.bonds import ROUNDING, Bonds, near_bonds, squared_lengths
from gracecli.engine.neighbours import NeighbourList, Reference
from gracecli.errors import InputError
from gracecli.run.batch_cell import applied
from gracecli.run.batch_segments import Segments

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class JoinedBonds(Bonds):
    """Bonds of several structures; ``shift_owner`` (U,) is the structure of every shift."""

    shift_owner: NDArray[np.int64]

    def offsets(self, cell: Array) -> Array:
        """Displacements (U, 3) of the shifts in the cells (S, 3, 3), in the order of operations of one structure."""
        own, s = cell[self.shift_owner], self.shifts
        return np.asarray(s[:, :1] * own[:, 0] + s[:, 1:2] * own[:, 1] + s[:, 2:] * own[:, 2])


class JoinedLists:
    """Neighbour lists of a changing set of structures.

    Parameters
    ----------
    engine : Engine
        Gives cutoffs, and a compiled bond filter where it has one.
    skin : float
        Å.
    """

    def __init__(self, engine: Engine, skin: float) -> None:
        self.rebuilds = 0
        self._lists = NeighbourList(engine.cutoff, skin, engine.pair_cutoff)
        self._filter = getattr(engine, "bond_filter", None) or near_bonds
        self._references: list[Reference | None] = []
        self._joined: tuple[JoinedBonds, Array | float] | None = None
        self._geometry: tuple[Array, Array, Array, Array] | None = None

    def keep(self, structures: NDArray[np.int64]) -> None:
        """Keep these structures only."""
        self._references = [self._references[i] for i in structures.tolist()]
        self._joined = self._geometry = None

    def add(self, structures: int) -> None:
        """Expect this many more structures."""
        self._references += [None] * structures
        self._joined = self._geometry = None

    def bonds(self) -> list[int]:
        """Stored bonds of every structure; 0 where there is no list yet."""
        return [0 if r is None else len(r.bonds.centre) for r in self._references]

    def refresh(
        self, structures: Sequence[Atoms], positions: Array, cells: Array, atoms: Segments
    ) -> dict[int, InputError]:
        """Rebuild the lists that need it; the structures that allow none, and why.

        Parameters
        ----------
        structures : sequence of Atoms
            For numbers and periodicity.
        positions : (N, 3), cells : (S, 3, 3)
            Current geometry (Å).
        atoms : Segments
            Atoms of every structure.
        """
        failed = {}
        parts = atoms.slices()
        for i in self._outdated(positions, cells, atoms):
            try:
                self._references[i] = self._lists.build(structures[i], positions[parts[i]].copy(), cells[i].copy())
            except InputError as error:
                failed[i] = error
            self.rebuilds += 1
            self._joined = self._geometry = None
        return failed

    def graphs(self, positions: Array, cells: Array, volumes: Array, atoms: Segments) -> list[Graph]:
        """Bonds of all structures, after :meth:`refresh`."""
        parts = atoms.slices()
        if self._joined is None:
            self._joined = self._join(atoms)
        bonds, squared_cutoff = self._joined
        near = self._filter(bonds, positions, cells, squared_cutoff)
        first = near.first
        if first is None:
            first = np.searchsorted(near.centre, np.arange(atoms.total + 1)).astype(np.int64)
        shortest = near.shortest
        if shortest is None:
            shortest = float(np.sqrt(squared_lengths(near.vectors).min(initial=np.inf)))
        begins = first[atoms.starts].tolist()
        ends = first[atoms.starts + atoms.counts].tolist()
        starts, volume = atoms.starts.astype(np.int32).tolist(), volumes.tolist()
        found = []
        for i, (part, start, a, b) in enumerate(zip(parts, starts, begins, ends, strict=True)):
            reference = self._references[i]
            assert reference is not None
            found.append(
                Graph(
                    numbers=reference.numbers,
                    centre=near.centre[a:b] - np.int32(start),
                    neighbour=near.neighbour[a:b] - np.int32(start),
                    bond_vector=near.vectors[a:b],
                    volume=volume[i],
                    first=first[part.start : part.stop + 1] - a,
                    shortest=shortest,
                )
            )
        return found

    def _outdated(self, positions: Array, cells: Array, atoms: Segments) -> list[int]:
        """Structures without a list that is sure to hold all bonds."""
        missing = [i for i, reference in enumerate(self._references) if reference is None]
        if len(missing) == len(self._references):
            return missing
        old_positions, frames, old_cells, reach = self._reference_geometry(atoms)
        deformation = np.broadcast_to(np.eye(3), cells.shape)
        stretch = np.ones(len(cells))
        changed = np.flatnonzero((cells != old_cells).any(axis=(1, 2)))
        carried = old_positions
        if len(changed):
            # along open directions the frame has unit vectors that no cell vector describes: such cells never change
            deformation = deformation.copy()
            deformation[changed] = np.linalg.solve(frames[changed], cells[changed])
            stretch[changed] = np.linalg.svd(deformation[changed], compute_uv=False)[:, -1]
            carried = applied(atoms.spread(deformation), old_positions)
        moved = positions - carried
        moved -= atoms.spread(atoms.sum(moved) / atoms.counts[:, None])
        slack = (stretch[:, None] * (reach + self._lists.skin) - reach).min(axis=1)
        holds = 2.0 * atoms.longest(moved) + ROUNDING <= slack
        holds[missing] = False
        return [int(i) for i in np.flatnonzero(~holds)]

    def _reference_geometry(self, atoms: Segments) -> tuple[Array, Array, Array, Array]:
        """Positions, frames, cells and extreme cutoffs of the lists; NaN where there is none."""
        if self._geometry is None:
            nan = np.full((3, 3), np.nan)
            references = self._references
            counts = atoms.counts.tolist()
            self._geometry = (
                np.concatenate(
                    [np.zeros((n, 3)) if r is None else r.positions for r, n in zip(references, counts, strict=True)]
                ),
                np.stack([np.eye(3) if r is None else r.frame for r in references]),
                np.stack([nan if r is None else r.cell for r in references]),
                np.array([(1.0, 1.0) if r is None else r.extreme_cutoffs for r in references]),
            )
        return self._geometry

    def _join(self, atoms: Segments) -> tuple[JoinedBonds, Array | float]:
        references = [reference for reference in self._references if reference is not None]
        starts = atoms.starts.astype(np.int32)
        tables = np.array([len(r.bonds.shifts) for r in references])
        first_shift = np.cumsum(tables) - tables
        bonds = JoinedBonds(
            np.concatenate([r.bonds.centre + a for r, a in zip(references, starts, strict=True)]),
            np.concatenate([r.bonds.neighbour + a for r, a in zip(references, starts, strict=True)]),
            np.concatenate([r.bonds.shifts for r in references]),
            np.concatenate([r.bonds.shift_index + k for r, k in zip(references, first_shift, strict=True)]),
            np.repeat(np.arange(len(references)), tables),
        )
        cutoffs = [r.squared_cutoff for r in references]
        if all(np.ndim(c) == 0 for c in cutoffs):
            return bonds, cutoffs[0]
        per_bond = [np.broadcast_to(c, r.bonds.centre.shape) for c, r in zip(cutoffs, references, strict=True)]
        return bonds, np.concatenate(per_bond)
