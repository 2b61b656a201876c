"""Neighbour lists: from a structure to its directed bonds, with a skin so that runs reuse them.

A bond ``b = (i, j, S)`` joins atom ``i`` to the image of atom ``j`` displaced by the integer cell vector ``S``::

    r_b = (r_j - r_i) + S · H,        |r_b| < cutoff   (strict)

Evaluated in this order ``r_b`` changes sign exactly under exchange of the ends, so both directions are always
either present or absent, whatever the rounding.

Reusing a list (Verlet skin). A list is built at reference positions ``R``, cell ``H0``, with all pairs closer than
``cutoff + skin``. Later the structure has positions ``r`` and cell ``H``. Take the deformation gradient
``F = H0^-1 H`` (rows are vectors, so ``x -> x F``) and what the atoms moved beyond it, less a common translation::

    u_i = r_i - R_i F - t,            t = mean(r_i - R_i F)

Because ``S · H = S · H0 F``, the bond vector of any pair is ``d = D F + (u_j - u_i)`` with ``D`` its reference
vector, hence ``|d| >= sigma_min |D| - |u_i| - |u_j|`` with ``sigma_min`` the smallest singular value of ``F``. A pair
outside the list has ``|D| >= cutoff + skin``. No such pair can be a bond as long as::

    u_1st + u_2nd  <=  sigma_min (cutoff + skin) - cutoff                                            (*)

with ``u_1st, u_2nd`` the two largest ``|u|`` (an atom and its own image have the same ``u``). In a fixed cell the right
side is the skin itself: the usual "no atom moved more than skin/2", a little sharper. With pair cutoffs the right
side is the smallest over the pairs; it is linear in the cutoff, so the extremes decide. A change of numbers or
periodicity, or a wrapped atom (a jump by a lattice vector breaks (*)), makes a new list.

=================  =============================================
symbol             variable
=================  =============================================
``R, H0``          ``_Reference.positions``, ``_Reference.frame``
``r, H``           ``positions``, ``cell``
``F, sigma_min``   ``deformation``, ``smallest_stretch``
``u``              ``displacement``
=================  =============================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gracecli.engine.base import Array, Graph, IntArray
from gracecli.engine.bonds import (
    ROUNDING,
    Bonds,
    cell_volume,
    check_coordinates,
    find_bonds,
    periodic_frame,
    select,
    squared_lengths,
)

if TYPE_CHECKING:
    from ase import Atoms

PairCutoff = Array | Callable[[IntArray], Array | None] | None


@dataclass(frozen=True)
class _Reference:
    """What a reusable list remembers."""

    numbers: IntArray
    pbc: NDArray[np.bool_]
    positions: Array
    cell: Array
    frame: Array
    bonds: Bonds
    squared_cutoff: Array | float  # one number, or (B,) with pair cutoffs
    extreme_cutoffs: tuple[float, float]


def build_graph(atoms: Atoms, cutoff: float, pair_cutoff: PairCutoff = None) -> Graph:
    """All directed bonds of a structure.

    Any cell is allowed: skewed, left-handed, smaller than the cutoff, with zero vectors along non-periodic
    directions. Atoms may lie outside the cell.

    Parameters
    ----------
    atoms : ase.Atoms
        Positions and cell in Å.
    cutoff : float
        Å; bonds are strictly shorter.
    pair_cutoff : (E, E) array, callable or None
        Cutoffs in Å by element pair over the sorted unique atomic numbers ``[centre, neighbour]``, or a function of
        the atomic numbers that returns such a matrix or None. Values above ``cutoff`` count as ``cutoff``.

    Returns
    -------
    Graph
        Bonds ordered by (centre, neighbour, shift).

    Raises
    ------
    InputError
        Not finite or absurdly large coordinates; periodic along zero or linearly dependent cell vectors.
    """
    return NeighbourList(cutoff, 0.0, pair_cutoff).graph(atoms)


class NeighbourList:
    """Bonds of one structure along a run, rebuilt only when the skin is used up (module docstring).

    Parameters
    ----------
    cutoff : float
        Å.
    skin : float
        Extra reach of the stored list, Å; 0 builds a fresh list at every call.
    pair_cutoff : (E, E) array, callable or None
        See :func:`build_graph`.

    Attributes
    ----------
    calls, rebuilds : int
        Graphs asked for, lists built.
    """

    def __init__(self, cutoff: float, skin: float, pair_cutoff: PairCutoff = None) -> None:
        if not (np.isfinite(cutoff) and cutoff > 0 and np.isfinite(skin) and skin >= 0):
            raise ValueError(f"cutoff must be positive and skin not negative, got {cutoff} and {skin}")
        self.cutoff = float(cutoff)
        self.skin = float(skin)
        self.calls = 0
        self.rebuilds = 0
        self._pair_cutoff = pair_cutoff
        self._reference: _Reference | None = None

    def graph(self, atoms: Atoms) -> Graph:
        """The bonds of ``atoms`` as :func:`build_graph` gives them, to the last bit and in the same order."""
        self.calls += 1
        positions = np.array(atoms.positions, dtype=np.float64)
        cell = np.array(atoms.cell.array, dtype=np.float64)
        reference = self._reference
        if reference is None or not self._still_holds(reference, atoms, positions, cell):
            self._reference = reference = self._build(atoms, positions, cell)
            self.rebuilds += 1
        bonds = reference.bonds
        vectors = bonds.vectors(positions, cell)
        keep = np.flatnonzero(squared_lengths(vectors) < reference.squared_cutoff)
        return Graph(
            numbers=reference.numbers,
            centre=bonds.centre[keep],
            neighbour=bonds.neighbour[keep],
            bond_vector=np.take(vectors, keep, axis=0),
            volume=cell_volume(cell),
        )

    def _build(self, atoms: Atoms, positions: Array, cell: Array) -> _Reference:
        numbers = np.array(atoms.numbers, dtype=np.int32)
        pbc = np.array(atoms.pbc, dtype=bool)
        frame = periodic_frame(cell, pbc)
        check_coordinates(positions, numbers)
        bonds = find_bonds(positions, cell, frame, pbc, self.cutoff + self.skin)
        matrix, element = self._pair_matrix(numbers)
        if matrix is None:
            squared_cutoff: Array | float = self.cutoff**2
            extremes = (self.cutoff, self.cutoff)
        else:
            per_bond = matrix[element[bonds.centre], element[bonds.neighbour]]
            reach = per_bond + self.skin + ROUNDING
            near = squared_lengths(bonds.vectors(positions, cell)) < reach**2
            bonds = select(bonds, np.flatnonzero(near))
            squared_cutoff = per_bond[near] ** 2
            extremes = (float(matrix.min()), float(matrix.max()))
        return _Reference(numbers, pbc, positions, cell, frame, bonds, squared_cutoff, extremes)

    def _pair_matrix(self, numbers: IntArray) -> tuple[Array | None, NDArray[np.intp]]:
        """Pair cutoffs and the row of every atom in them."""
        unique, element = np.unique(numbers, return_inverse=True)
        given = self._pair_cutoff(numbers) if callable(self._pair_cutoff) else self._pair_cutoff
        if given is None or len(numbers) == 0:
            return None, element
        matrix = np.minimum(np.asarray(given, dtype=np.float64), self.cutoff)
        if matrix.shape != (len(unique), len(unique)) or not (matrix >= 0).all():
            raise ValueError(
                f"pair_cutoff must hold {len(unique)} x {len(unique)} non-negative radii, one row for each of the "
                f"atomic numbers {unique.tolist()}; got shape {matrix.shape}"
            )
        return matrix, element

    def _still_holds(self, reference: _Reference, atoms: Atoms, positions: Array, cell: Array) -> bool:
        """Whether criterion (*) of the module docstring guarantees that the stored list misses no bond."""
        if self.skin == 0.0 or len(positions) == 0 or not np.array_equal(reference.numbers, atoms.numbers):
            return False
        if not np.array_equal(reference.pbc, atoms.pbc):
            return False
        smallest_stretch, carried = 1.0, reference.positions
        if not np.array_equal(cell, reference.cell):
            deformation = np.linalg.solve(reference.frame, periodic_frame(cell, reference.pbc))
            smallest_stretch = float(np.linalg.svd(deformation, compute_uv=False)[-1])
            carried = reference.positions @ deformation
        displacement = positions - carried
        displacement -= displacement.mean(axis=0)
        squared = squared_lengths(displacement)
        largest = np.sqrt(np.partition(squared, -2)[-2:] if len(squared) > 1 else squared).sum()
        slack = min(smallest_stretch * (c + self.skin) - c for c in reference.extreme_cutoffs)
        return bool(largest + ROUNDING <= slack)  # False for NaN positions: the build then names the atom
