r"""Bonds of some central atoms: basis functions of every bond, their derivatives, and sums of these, in NumPy.

    phi[lm, k] = g_k(d) Y_lm(u),    dphi/dr_c = g_k'(d) u_c Y_lm + g_k dY_lm/dr_c,    d = sqrt(|r|^2 + 1e-10), u = r/d

===========  ==============================
symbol       variable
===========  ==============================
phi          ``Bonds.phi``
dphi/dr      ``Bonds.slopes``
r            ``Bonds.vector``
===========  ==============================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from gracecli.engine.base import Array, Graph
from gracecli.errors import UsageError
from gracecli.fit.linear.dual import Dual, DualFunctions
from gracecli.model.blueprint import Node, RadialBasis
from gracecli.model.harmonics import real_harmonics
from gracecli.model.radial import sbessel_basis

SOFTENING = 1e-10  # Å^2, as in the network
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def check_basis(node: Node) -> RadialBasis:
    """The radial basis, if it is one that is solved directly."""
    if not isinstance(node, RadialBasis) or node.basis != "SBessel":
        raise UsageError(
            "linear models are solved with one cutoff for all pairs", "leave cutoffs out of [model] overrides"
        )
    return node


@dataclass(frozen=True)
class Bonds:
    """Bonds of some central atoms, sorted by central atom, element of the neighbour, neighbour.

    Attributes
    ----------
    atoms : (C,) int
        The central atoms.
    place : (B,) int
        Which of them.
    neighbour, species : (B,) int
        Neighbour, and its element's number in the model.
    vector : (B, 3) float64
        Å.
    phi : (B, lm, k) float64
    slopes : (B, 3, lm, k) float64
    runs, pairs : int arrays
        First bonds of all with one central atom and element, and of all with one central atom and neighbour.
    present : list of int
        Elements of the neighbours.
    """

    atoms: Any
    place: Any
    neighbour: Any
    species: Any
    vector: Array
    phi: Array
    slopes: Array
    runs: Any
    pairs: Any
    present: list[int]

    @property
    def centres(self) -> int:
        """C."""
        return len(self.atoms)

    def sums(self, values: Array) -> Array:
        """Sums over the bonds of every run."""
        return _sums(values, self.runs)

    @cached_property
    def _targets(self) -> tuple[Any, Any]:
        """Keys (element of a bond's neighbour, atom that moves), sorted, and the number of atoms in them."""
        width = int(max(self.neighbour.max(initial=0), self.atoms.max())) + 1
        pairs = self.species[self.pairs] * width + self.neighbour[self.pairs]
        runs = self.species[self.runs] * width + self.atoms[self.place[self.runs]]
        return np.unique(np.concatenate([pairs, runs]), return_inverse=True)

    @cached_property
    def lots(self) -> list[tuple[int, slice, Any]]:
        """Element of the neighbours, columns of :meth:`by_position` (in threes), and the atoms that move."""
        width = int(max(self.neighbour.max(initial=0), self.atoms.max())) + 1
        keys = self._targets[0]
        edges = [(e, *np.searchsorted(keys, (e * width, (e + 1) * width)).tolist()) for e in self.present]
        return [(e, slice(a, b), keys[a:b] % width) for e, a, b in edges]

    @property
    def columns(self) -> int:
        """Number of atoms that move, counted once for every element of the neighbours."""
        return len(self._targets[0])

    def by_position(self) -> Array:
        """Derivatives of every central atom's sum of phi over neighbours of one element, (C, 3 columns, lm, k).

        Bonds to images of the atom itself do not change with positions.
        """
        lm, k = self.phi.shape[1:]
        result = np.zeros((self.centres, self.columns, 3, lm, k))
        moving = self.slopes
        same = self.neighbour == self.atoms[self.place]
        if same.any():
            moving = np.where(same[:, None, None, None], 0.0, moving)
        split = len(self.pairs)
        result[self.place[self.pairs], self._targets[1][:split]] = _sums(moving, self.pairs)
        result[self.place[self.runs], self._targets[1][split:]] -= _sums(moving, self.runs)
        return result.reshape(self.centres, -1, lm, k)

    def by_strain(self) -> Array:
        """Derivatives by strain (Voigt), (C, 6, lm, elements present * k)."""
        lm, k = self.phi.shape[1:]
        result = np.zeros((self.centres, 6, lm, len(self.present), k))
        ends = np.append(self.runs[1:], len(self.place))
        for start, end in zip(self.runs, ends, strict=True):
            flat = self.slopes[start:end].reshape(end - start, -1)
            virial = (self.vector[start:end].T @ flat).reshape(3, 3, lm, k)
            element = self.present.index(self.species[start])
            for v, (a, b) in enumerate(VOIGT):
                result[self.place[start], v, :, element] = 0.5 * (virial[a, b] + virial[b, a])
        return result.reshape(self.centres, 6, lm, len(self.present) * k)


class Neighbourhood:
    """All bonds of a structure, sorted by element and number of the central atom, then of the neighbour.

    Parameters
    ----------
    graph : Graph
    species : (N,) int
        Numbers of the elements in the model.
    basis : RadialBasis
    lmax : int
    """

    def __init__(self, graph: Graph, species: Any, basis: RadialBasis, lmax: int) -> None:
        order = np.lexsort((graph.neighbour, species[graph.neighbour], graph.centre, species[graph.centre]))
        #: central atoms by element
        self.atoms = np.lexsort((np.arange(len(species)), species))
        self.species = species
        self.neighbour = graph.neighbour[order].astype(np.int64)
        self.vector = graph.bond_vector[order]
        counts = np.bincount(graph.centre, minlength=len(species))[self.atoms]
        self.first = np.concatenate([[0], np.cumsum(counts)])
        self._functions = bond_functions(self.vector, basis, lmax)

    def chunks(self, size: int) -> Iterator[tuple[int, Bonds]]:
        """Bonds of at most ``size`` central atoms of one element, and which element."""
        kinds = self.species[self.atoms]
        for number in np.unique(kinds):
            begin, end = np.searchsorted(kinds, number), np.searchsorted(kinds, number, side="right")
            for start in range(begin, end, size):
                yield int(number), self._chunk(start, min(start + size, end))

    def _chunk(self, start: int, end: int) -> Bonds:
        own = slice(self.first[start], self.first[end])
        place = np.repeat(np.arange(end - start), np.diff(self.first[start : end + 1]))
        neighbour = self.neighbour[own]
        kinds = self.species[neighbour]
        u, y, dy, g, dg = (values[own] for values in self._functions)
        # as products of small matrices, ten times as fast as by broadcasting over a short last axis
        phi = np.matmul(y[:, :, None], g[:, None, :])
        angular = np.stack([u[:, :, None] * y[:, None, :], dy], axis=-1)
        slopes = np.matmul(angular, np.stack([dg, g], axis=1)[:, None])
        return Bonds(
            self.atoms[start:end], place, neighbour, kinds, self.vector[own], phi, slopes,
            _starts(place, kinds), _starts(place, neighbour), np.unique(kinds).tolist(),
        )  # fmt: skip


def _starts(*keys: Any) -> Any:
    """Where a new combination begins."""
    if not len(keys[0]):
        return np.zeros(0, dtype=np.int64)
    new = np.zeros(len(keys[0]), dtype=bool)
    new[0] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(new)


def _sums(values: Array, starts: Any) -> Array:
    """Sums over successive bonds (several times as fast as ``np.add.reduceat``)."""
    count = len(values)
    if len(starts) == count:
        return values
    matrix = sparse.csr_matrix((np.ones(count), np.arange(count), np.append(starts, count)), (len(starts), count))
    found: Array = (matrix @ values.reshape(count, -1)).reshape(len(starts), *values.shape[1:])
    return found


def bond_functions(vector: Array, basis: RadialBasis, lmax: int) -> tuple[Array, Array, Array, Array, Array]:
    """Directions u (B, 3), Y (B, lm), dY/dr (B, 3, lm), g (B, k) and g' (B, k) of the bond vectors (B, 3)."""
    distance = np.sqrt((vector**2).sum(axis=1) + SOFTENING)
    u = (vector / distance[:, None]).T
    # du_a/dr_c = (delta_ac - u_a u_c) / d
    slope = (np.eye(3)[:, :, None] - u[:, None] * u[None]) / distance
    x, y, z = (Dual(u[a], slope[a]) for a in range(3))
    harmonics = real_harmonics(x, y, z, lmax)
    values = np.stack([h.value for h in harmonics], axis=1)
    slopes = np.stack([h.slope for h in harmonics], axis=2).transpose(1, 0, 2)
    inside = distance <= basis.cutoff
    d = Dual(np.minimum(distance, basis.cutoff), inside.astype(np.float64))
    functions = sbessel_basis(d, basis.n_functions, basis.cutoff, DualFunctions)
    g = np.stack([f.value * inside for f in functions], axis=1)
    dg = np.stack([f.slope * inside for f in functions], axis=1)
    return u.T, values, slopes, g, dg
