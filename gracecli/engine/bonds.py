"""All bonds of one structure, by vesin: which atoms, which image, in which order.

Vectors are evaluated as ``(r_j - r_i) + S · H`` (see :mod:`gracecli.engine.neighbours`).
"""
# Why vesin (0.6.2) and not matscipy (1.3.1); `python benchmarks/neighbours.py`, diamond Si, 6 Å, one thread, ms:
#
#     atoms    bonds    vesin   matscipy   build_graph   NeighbourList.graph reused, skin 0.5 Å
#         2       86     0.04       0.04          0.47     0.10
#        64     2868     1.2        2.9           2.1      0.23
#      1000    44524     5.2       12.6          10.6      1.8
#      9600   427492      40         95            92       20
#
# build_graph adds to vesin the order of bonds, exactly antisymmetric vectors and the strict cutoff.
# Against brute force both are right for triclinic, left-handed and small cells, mixed periodicity, atoms outside the
# cell and bonds as long as the cutoff. matscipy raises LinAlgError for a zero cell vector along an open direction,
# so for every molecule as ASE makes it. vesin ends the process (SIGFPE) in vast flat boxes, see search_radius. Through
# this module vesin 0.4.2 and 0.5.8 pass the same cases; 0.3 has no periodicity by direction.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gracecli.engine.base import Array, IntArray
from gracecli.errors import InputError

_LARGEST_COORDINATE = 1e6  # Å; beyond it double precision no longer resolves 1e-10 Å, the structure has exploded
_VESIN_CELLS = 90_000  # vesin coarsens its grid above 1e5 cells and divides by zero where the box is flat
ROUNDING = 1e-8  # Å, safety of comparisons against accumulated rounding of coordinates up to 1e6 Å


@dataclass(frozen=True)
class Bonds:
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

    def offsets(self, cell: Array) -> Array:
        """Displacements (U, 3) in Å that belong to ``shifts``."""
        # written out, not `shifts @ cell`: a BLAS product may round rows differently by their place in the matrix
        s = self.shifts
        return s[:, :1] * cell[0] + s[:, 1:2] * cell[1] + s[:, 2:] * cell[2]

    def vectors(self, positions: Array, cell: Array) -> Array:
        """Bond vectors (B, 3) in Å, exactly antisymmetric (module docstring)."""
        offsets = self.offsets(cell)
        vectors = np.take(positions, self.neighbour, axis=0)
        vectors -= np.take(positions, self.centre, axis=0)
        vectors += np.take(offsets, self.shift_index, axis=0)
        return vectors


@dataclass(frozen=True)
class NearBonds:
    """The bonds of a list that are shorter than their cutoff, as :class:`gracecli.engine.base.Graph` wants them."""

    centre: IntArray
    neighbour: IntArray
    vectors: Array
    first: NDArray[np.int64] | None = None
    shortest: float | None = None


BondFilter = Callable[[Bonds, Array, Array, "Array | float"], NearBonds]
"""Bonds, positions (N, 3), cell (3, 3), squared cutoffs (one, or (B,)) -> those shorter, in the same order."""


def near_bonds(bonds: Bonds, positions: Array, cell: Array, squared_cutoff: Array | float) -> NearBonds:
    """Those shorter than their cutoff (the :data:`BondFilter` in NumPy; engines may bring a compiled one)."""
    vectors = bonds.vectors(positions, cell)
    keep = np.flatnonzero(squared_lengths(vectors) < squared_cutoff)
    return NearBonds(bonds.centre[keep], bonds.neighbour[keep], np.take(vectors, keep, axis=0))


def cell_volume(cell: Array) -> float:
    """Volume of a (3, 3) cell in Å^3; NaN unless its three vectors are independent."""
    # plain numbers: for nine of them NumPy's calls take ten times as long, and dynamics asks several times a step
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = np.asarray(cell, dtype=np.float64).tolist()
    volume = abs(ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx))
    lengths = math.hypot(ax, ay, az) * math.hypot(bx, by, bz) * math.hypot(cx, cy, cz)
    return volume if volume > 1e-9 * lengths else float("nan")


def squared_lengths(vectors: Array) -> Array:
    """Squared lengths (B,) of vectors (B, 3)."""
    return np.einsum("bx,bx->b", vectors, vectors)


def select(bonds: Bonds, keep: NDArray[np.intp]) -> Bonds:
    """The bonds at the places ``keep``."""
    return Bonds(bonds.centre[keep], bonds.neighbour[keep], bonds.shifts, bonds.shift_index[keep])


def check_coordinates(positions: Array, numbers: IntArray) -> None:
    """Raise :class:`InputError` naming the first atom whose position is not finite or beyond 1e6 Å."""
    if len(positions) and float(np.abs(positions).max()) <= _LARGEST_COORDINATE:  # False for NaN
        return
    bad = np.flatnonzero(~(np.abs(positions) <= _LARGEST_COORDINATE).all(axis=1))
    if len(bad):
        from ase.data import chemical_symbols

        first = int(bad[0])
        raise InputError(
            f"atom {first + 1} ({chemical_symbols[numbers[first]]}) has the position {positions[first].tolist()} Å"
            + (f", and {len(bad) - 1} more atoms are as bad" if len(bad) > 1 else ""),
            "check the input file; in a run, take a smaller time step or maximum step",
        )


def periodic_frame(cell: Array, pbc: NDArray[np.bool_]) -> Array:
    """The periodic cell vectors, completed along non-periodic directions by unit vectors normal to them."""
    frame = np.array(cell, dtype=np.float64)
    axes = np.flatnonzero(pbc)
    lengths = np.linalg.norm(frame[axes], axis=1)
    if not np.isfinite(frame).all():
        raise InputError(f"the cell is not finite: {frame.tolist()} Å", "check the input file")
    if len(axes) == 0:
        return np.eye(3)
    if not (lengths > 1e-6).all():
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
        f"the structure is periodic along {names}, but these cell vectors are zero or linearly dependent: "
        f"{np.asarray(cell).tolist()} Å",
        "give a full cell, or switch periodicity off along directions without one",
    )


def find_bonds(positions: Array, cell: Array, frame: Array, pbc: NDArray[np.bool_], reach: float) -> Bonds:
    """All bonds shorter than ``reach`` and few longer ones, in the order (centre, neighbour, shift)."""
    import vesin

    radius = search_radius(positions, frame, pbc, reach)
    finder = vesin.NeighborList(cutoff=radius, full_list=True)
    pairs, shifts = finder.compute(positions, frame, pbc, "PS", copy=False)
    # int32: every index fits, and half the memory traffic
    centre, neighbour = (np.ascontiguousarray(pairs[:, k], dtype=np.int32) for k in (0, 1))
    table, index = _distinct_shifts(shifts)
    bonds = Bonds(centre, neighbour, table, index)
    if radius > 1.01 * reach:  # a hair more is dropped with the skin by whoever computes the vectors
        bonds = select(bonds, np.flatnonzero(squared_lengths(bonds.vectors(positions, cell)) < reach * reach))
    return select(bonds, _canonical_order(bonds, len(positions)))


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


def _canonical_order(bonds: Bonds, atoms: int) -> NDArray[np.intp]:
    rows = max(len(bonds.shifts), 1)
    if float(atoms) ** 2 * rows < 2.0**62:
        key = (bonds.centre.astype(np.int64) * atoms + bonds.neighbour) * rows + bonds.shift_index
        return np.argsort(key)
    return np.lexsort((bonds.shift_index, bonds.neighbour, bonds.centre))


def search_radius(positions: Array, frame: Array, pbc: NDArray[np.bool_], reach: float) -> float:
    """``reach`` plus rounding, enlarged where vesin's grid would have too many cells in a flat box.

    vesin (0.6.2) ends the process by a division by zero when the grid has more than 1e5 cells but only one layer
    along some direction. A larger radius gives a coarser grid; surplus pairs are dropped afterwards.
    """
    inverse = np.linalg.inv(frame)
    extents = 1.0 / np.linalg.norm(inverse, axis=0)
    if len(positions):
        spread = np.ptp(positions @ inverse, axis=0)
        extents = np.where(pbc, extents, spread)
    radius = reach + ROUNDING
    while True:
        layers = np.maximum(np.floor(extents / radius), 1.0)
        too_many = layers.prod() / _VESIN_CELLS
        if too_many <= 1.0 or layers.min() / np.cbrt(too_many) >= 2.0:
            return float(radius)
        radius *= 1.05
