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
# Why vesin, and how it is used. @@NUMBERS@@

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gracecli.engine.base import Array, Graph, IntArray
from gracecli.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

PairCutoff = Array | Callable[[IntArray], Array | None] | None

_LARGEST_COORDINATE = 1e6  # Å; beyond it double precision no longer resolves 1e-10 Å, the structure has exploded
_VESIN_CELLS = 90_000  # vesin coarsens its grid above 1e5 cells and divides by zero where the box is flat
_ROUNDING = 1e-8  # Å, safety of comparisons against accumulated rounding of coordinates up to 1e6 Å


@dataclass(frozen=True)
class _Bonds:
    """Bonds without geometry: ends and integer shifts, ordered by (centre, neighbour, shift).

    Attributes
    ----------
    centre, neighbour : (B,) int32
    shifts : (U, 3) float64
        The distinct integer shifts.
    shift_index : (B,) int64
        Row of ``shifts`` for every bond.
    """

    centre: IntArray
    neighbour: IntArray
    shifts: Array
    shift_index: NDArray[np.intp]

    def vectors(self, positions: Array, cell: Array) -> Array:
        """Bond vectors (B, 3) in Å, exactly antisymmetric (module docstring)."""
        # written out, not `shifts @ cell`: a BLAS product may round rows differently by their place in the matrix
        s = self.shifts
        offsets = s[:, :1] * cell[0] + s[:, 1:2] * cell[1] + s[:, 2:] * cell[2]
        vectors = np.take(positions, self.neighbour, axis=0)
        vectors -= np.take(positions, self.centre, axis=0)
        vectors += np.take(offsets, self.shift_index, axis=0)
        return vectors


@dataclass(frozen=True)
class _Reference:
    """What a reusable list remembers."""

    numbers: IntArray
    pbc: NDArray[np.bool_]
    positions: Array
    cell: Array
    frame: Array
    bonds: _Bonds
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
        keep = np.flatnonzero(_squared_lengths(vectors) < reference.squared_cutoff)
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
        frame = _frame(cell, pbc)
        check_coordinates(positions, numbers)
        bonds = _find_bonds(positions, cell, frame, pbc, self.cutoff + self.skin)
        matrix, element = self._pair_matrix(numbers)
        if matrix is None:
            squared_cutoff: Array | float = self.cutoff**2
            extremes = (self.cutoff, self.cutoff)
        else:
            per_bond = matrix[element[bonds.centre], element[bonds.neighbour]]
            reach = per_bond + self.skin + _ROUNDING
            near = _squared_lengths(bonds.vectors(positions, cell)) < reach**2
            bonds = _select(bonds, np.flatnonzero(near))
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
        if self.skin == 0.0 or not np.array_equal(reference.numbers, atoms.numbers):
            return False
        if not np.array_equal(reference.pbc, atoms.pbc):
            return False
        smallest_stretch, carried = 1.0, reference.positions
        if not np.array_equal(cell, reference.cell):
            deformation = np.linalg.solve(reference.frame, _frame(cell, reference.pbc))
            smallest_stretch = float(np.linalg.svd(deformation, compute_uv=False)[-1])
            carried = reference.positions @ deformation
        displacement = positions - carried
        displacement -= displacement.mean(axis=0)
        squared = _squared_lengths(displacement)
        largest = np.sqrt(np.partition(squared, -2)[-2:] if len(squared) > 1 else squared).sum()
        slack = min(smallest_stretch * (c + self.skin) - c for c in reference.extreme_cutoffs)
        return bool(largest + _ROUNDING <= slack)  # False for NaN positions: the build then names the atom


def cell_volume(cell: Array) -> float:
    """Volume of a (3, 3) cell in Å^3; NaN unless its three vectors are independent."""
    volume = abs(float(np.linalg.det(cell)))
    return volume if volume > 1e-9 * float(np.prod(np.linalg.norm(cell, axis=1))) else float("nan")


def _squared_lengths(vectors: Array) -> Array:
    return np.einsum("bx,bx->b", vectors, vectors)


def _select(bonds: _Bonds, keep: NDArray[np.intp]) -> _Bonds:
    return _Bonds(bonds.centre[keep], bonds.neighbour[keep], bonds.shifts, bonds.shift_index[keep])


def check_coordinates(positions: Array, numbers: IntArray) -> None:
    """Raise :class:`InputError` naming the first atom whose position is not finite or beyond 1e6 Å."""
    bad = np.flatnonzero(~(np.abs(positions) <= _LARGEST_COORDINATE).all(axis=1))
    if len(bad):
        from ase.data import chemical_symbols

        first = int(bad[0])
        raise InputError(
            f"atom {first + 1} ({chemical_symbols[numbers[first]]}) has the position {positions[first].tolist()} Å"
            + (f", and {len(bad) - 1} more atoms are as bad" if len(bad) > 1 else ""),
            "check the input file; in a run, take a smaller time step or maximum step",
        )


def _frame(cell: Array, pbc: NDArray[np.bool_]) -> Array:
    """The periodic cell vectors, completed along non-periodic directions by unit vectors normal to them."""
    frame = np.array(cell, dtype=np.float64)
    axes = np.flatnonzero(pbc)
    lengths = np.linalg.norm(frame[axes], axis=1)
    if len(axes) == 0:
        return np.eye(3)
    if not np.isfinite(frame[axes]).all() or not (lengths > 1e-6).all():
        raise _bad_cell(cell, axes)
    if len(axes) == 1:
        (a,) = axes
        start = np.eye(3)[np.argmin(np.abs(frame[a]))]
        normal = np.cross(frame[a], start)
        frame[(a + 1) % 3] = normal / np.linalg.norm(normal)
        normal = np.cross(frame[a], frame[(a + 1) % 3])
        frame[(a + 2) % 3] = normal / np.linalg.norm(normal)
    elif len(axes) == 2:
        normal = np.cross(frame[axes[0]], frame[axes[1]])
        if not np.linalg.norm(normal) > 1e-8 * np.prod(lengths):
            raise _bad_cell(cell, axes)
        frame[3 - axes.sum()] = normal / np.linalg.norm(normal)
    if not abs(np.linalg.det(frame)) > 1e-8 * np.prod(lengths):
        raise _bad_cell(cell, axes)
    return frame


def _bad_cell(cell: Array, axes: NDArray[np.intp]) -> InputError:
    names = " ".join("abc"[k] for k in axes)
    return InputError(
        f"the structure is periodic along {names}, but these cell vectors are zero, linearly dependent or not finite: "
        f"{np.asarray(cell).tolist()} Å",
        "give a full cell, or switch periodicity off along directions without one",
    )


def _find_bonds(positions: Array, cell: Array, frame: Array, pbc: NDArray[np.bool_], reach: float) -> _Bonds:
    """All bonds shorter than ``reach`` and few longer ones, in the order (centre, neighbour, shift)."""
    import vesin

    radius = _search_radius(positions, frame, pbc, reach)
    finder = vesin.NeighborList(cutoff=radius, full_list=True)
    pairs, shifts = finder.compute(positions, frame, pbc, "PS", copy=False)
    # int32: every index fits, and half the memory traffic
    centre, neighbour = (np.ascontiguousarray(pairs[:, k], dtype=np.int32) for k in (0, 1))
    table, index = _distinct_shifts(shifts)
    bonds = _Bonds(centre, neighbour, table, index)
    if radius > 1.01 * reach:  # a hair more is dropped with the skin by whoever computes the vectors
        bonds = _select(bonds, np.flatnonzero(_squared_lengths(bonds.vectors(positions, cell)) < reach * reach))
    return _select(bonds, _canonical_order(bonds, len(positions)))


def _distinct_shifts(shifts: IntArray) -> tuple[Array, NDArray[np.intp]]:
    """Distinct rows, sorted, and the row of every bond; sorts no bonds where shifts are small, as they mostly are."""
    a, b, c = np.ascontiguousarray(shifts.T, dtype=np.int64)
    low = [int(s.min(initial=0)) for s in (a, b, c)]
    span = [int(s.max(initial=0)) - start + 1 for s, start in zip((a, b, c), low, strict=True)]
    size = math.prod(span)
    if size > 1_000_000:  # atoms far outside the cell
        distinct, index = np.unique(shifts, axis=0, return_inverse=True)
        return distinct.astype(np.float64), index.reshape(-1).astype(np.intp)
    code = ((a - low[0]) * span[1] + (b - low[1])) * span[2] + (c - low[2])
    present = np.zeros(size, dtype=bool)
    present[code] = True
    distinct = np.stack(np.unravel_index(np.flatnonzero(present), span), axis=1) + low
    return distinct.astype(np.float64), (np.cumsum(present) - 1)[code]


def _canonical_order(bonds: _Bonds, atoms: int) -> NDArray[np.intp]:
    rows = max(len(bonds.shifts), 1)
    if float(atoms) ** 2 * rows < 2.0**62:
        key = (bonds.centre.astype(np.int64) * atoms + bonds.neighbour) * rows + bonds.shift_index
        return np.argsort(key)
    return np.lexsort((bonds.shift_index, bonds.neighbour, bonds.centre))


def _search_radius(positions: Array, frame: Array, pbc: NDArray[np.bool_], reach: float) -> float:
    """``reach`` plus rounding, enlarged where vesin's grid would have too many cells in a flat box.

    vesin (0.6.2) ends the process by a division by zero when the grid has more than 1e5 cells but only one layer
    along some direction. A larger radius gives a coarser grid; surplus pairs are dropped afterwards.
    """
    inverse = np.linalg.inv(frame)
    extents = 1.0 / np.linalg.norm(inverse, axis=0)
    if len(positions):
        spread = np.ptp(positions @ inverse, axis=0)
        extents = np.where(pbc, extents, spread)
    radius = reach + _ROUNDING
    while True:
        layers = np.maximum(np.floor(extents / radius), 1.0)
        too_many = layers.prod() / _VESIN_CELLS
        if too_many <= 1.0 or layers.min() / np.cbrt(too_many) >= 2.0:
            return float(radius)
        radius *= 1.05
