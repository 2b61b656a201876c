r"""Design matrix of a linear ACE model: energies, forces and stresses of every single basis function.

A blueprint of the preset ``linear`` has fixed radial functions R and chemical factors z, and weights only in the last
linear map. With the basis functions B_(f,n) (function f, channel n) of an atom of element e

    E = sum_i sum_(f,n) c_(e_i,f,n) B_(f,n)(A_i),      A_i[lm, n] = 1/avg sum_b z_(e_j)[n] sum_k w_l[n, k] phi_b[lm, k]
    phi_b[lm, k] = g_k(d_b) Y_lm(u_b)                  J_i[f, lm, n] = dB_(f,n) / dA_i[lm, n]

Products are channel by channel, so the derivative of B_(f,n) is a small matrix per channel, and forces and stress are

    dF_k/dc = -sum_i J_i D_ik,    D_ik[lm, n] = sum_(b: i->k) dA_i[lm, n] / dr_b   (k = i: minus the sum over all bonds)
    dsigma/dc = 1/V sum_i J_i sym(sum_b dA_i/dr_b r_b)

Both are one matrix product per channel over (lm, i) as inner index, with the derivatives of a group of central atoms
side by side: the arithmetic that remains is that of a BLAS. Images of one neighbour are added up in D first, so that a
small cell is cheap however many bonds it has, and the radial functions are made from the basis g_k only then.

===============  =========================================================
symbol           variable
===============  =========================================================
A, J, D          ``density``, ``jacobian``, ``moved``
phi, d phi/dr    ``phi``, ``slopes`` (:class:`gracecli.fit.linear.bonds.Bonds`)
w z / avg        ``Design.radial``
===============  =========================================================

Source of the basis: R. Drautz, Phys. Rev. B 99, 014104 (2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gracecli.engine.base import Array, Graph
from gracecli.fit.linear.bonds import VOIGT, Bonds, Neighbourhood, check_basis
from gracecli.fit.linear.invariants import Invariants, Source, Tensor
from gracecli.model.blueprint import Blueprint, LinearRadial, RadialBasis

CENTRES = 16
"""Central atoms of one matrix product: more are faster until their derivatives leave the cache."""


@dataclass(frozen=True)
class Rows:
    """Derivatives of the labels of one structure by all coefficients.

    Attributes
    ----------
    energy : (p,) float64
    forces : (p, N, 3) float64
    stress : (p, 6) float64
        NaN without a cell.
    """

    energy: Array
    forces: Array
    stress: Array


class Design:
    """Basis functions of a linear model.

    Parameters
    ----------
    blueprint : Blueprint
        Of the preset ``linear``.
    weights : mapping
        Weights by name; those of the reduction do not matter.
    elements : sequence of int
        Atomic numbers in the order of the model.
    """

    def __init__(self, blueprint: Blueprint, weights: Mapping[str, Array], elements: Sequence[int]) -> None:
        self.elements = list(elements)
        self.invariants = Invariants(blueprint)
        radial: LinearRadial = blueprint.of_type(LinearRadial)[0]
        self.basis: RadialBasis = check_basis(blueprint.by_name[radial.basis])
        self.lmax, self.channels = self.invariants.lmax, self.invariants.channels
        density = self.invariants.density
        table = np.asarray(weights[f"{density.embedding}/w"], dtype=np.float64)
        dense = np.asarray(weights[f"{density.name}/lin_transform/w"], dtype=np.float64)
        assert not isinstance(density.average_neighbours, tuple)  # a fit has one for all
        factors = table @ dense / np.sqrt(table.shape[1]) / density.average_neighbours
        crad = np.asarray(weights[f"{radial.name}/crad"], dtype=np.float64)
        #: (elements, degrees, channels, basis): radial functions of neighbours of an element
        self.radial = np.einsum("nlk,en->elnk", crad, factors)
        self.per_element = self.invariants.size

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return self.per_element * len(self.elements)

    def rows(self, graph: Graph) -> Rows:
        """Derivatives of energy, forces and stress of one structure."""
        energy = np.zeros(self.size)
        forces = np.zeros((self.size, len(graph), 3))
        virial = np.zeros((self.size, 6))
        for part, bonds in self._chunks(graph):
            found = self.invariants.evaluate(self._density(bonds))
            energy[part] += self._values(found, bonds.centres)
            if len(bonds.place):
                self._differentiate(bonds, found, forces[part], virial[part])
        return Rows(energy, forces, virial / graph.volume)

    def predict(self, graph: Graph, coefficients: Array) -> tuple[float, Array, Array]:
        """Energy, forces (N, 3) and stress (6,) of given coefficients, without the rows."""
        energy, forces, virial = 0.0, np.zeros((len(graph), 3)), np.zeros((3, 3))
        for part, bonds in self._chunks(graph):
            own = coefficients[part]
            found = self.invariants.evaluate(self._density(bonds))
            energy += float(self._values(found, bonds.centres) @ own)
            by_density = self._weighted(found, own, bonds.centres)
            degrees = np.repeat(np.arange(self.lmax + 1), 2 * np.arange(self.lmax + 1) + 1)
            pull = np.einsum("xni,exnk->iexk", by_density, self.radial[:, degrees], optimize=True)
            gradient = np.einsum("bcxk,bxk->bc", bonds.slopes, pull[bonds.place, bonds.species], optimize=True)
            np.add.at(forces, bonds.atoms[bonds.place], gradient)
            np.subtract.at(forces, bonds.neighbour, gradient)
            virial += bonds.vector.T @ gradient
        stress = np.array([0.5 * (virial[a, b] + virial[b, a]) for a, b in VOIGT]) / graph.volume
        return energy, forces, stress

    # --- one group of central atoms -----------------------------------------------------------------------------------

    def _chunks(self, graph: Graph) -> Iterator[tuple[slice, Bonds]]:
        """Bonds of central atoms that are treated together, and the coefficients of their element."""
        order = np.argsort(self.elements)
        species = order[np.searchsorted(np.array(self.elements)[order], graph.numbers)]
        for number, bonds in Neighbourhood(graph, species, self.basis, self.lmax).chunks(CENTRES):
            yield slice(number * self.per_element, (number + 1) * self.per_element), bonds

    def _density(self, bonds: Bonds) -> Array:
        """A, (lm, channels, atoms)."""
        density = np.zeros(((self.lmax + 1) ** 2, self.channels, bonds.centres))
        for start, phi in zip(bonds.runs, bonds.sums(bonds.phi), strict=True):
            place, element = bonds.place[start], bonds.species[start]
            for l in range(self.lmax + 1):
                rows = slice(l * l, (l + 1) ** 2)
                density[rows, :, place] += phi[rows] @ self.radial[element, l].T
        return density

    def _values(self, found: Mapping[str, Tensor], atoms: int) -> Array:
        """Sums of all functions over the atoms, (p,): by source, channel, function."""
        parts = []
        for source in self.invariants.sources:
            values = np.stack([found[source.name].values[g][0] for g in source.groups])
            parts.append(values.reshape(len(source.groups), source.channels, atoms).sum(axis=2).T.ravel())
        return np.concatenate(parts)

    def _weighted(self, found: Mapping[str, Tensor], coefficients: Array, atoms: int) -> Array:
        """dE/dA, (lm, channels, atoms)."""
        total = np.zeros(((self.lmax + 1) ** 2, self.channels, atoms))
        start = 0
        for source in self.invariants.sources:
            own = coefficients[start : start + source.size].reshape(source.channels, len(source.groups))
            jacobian = self._jacobian([source], found, atoms)  # [n, f, lm, atoms]
            rows = jacobian.shape[2]
            total[:rows, : source.channels] += np.einsum("nfxi,nf->xni", jacobian, own)
            start += source.size
        return total

    def _jacobian(self, sources: Sequence[Source], found: Mapping[str, Tensor], atoms: int) -> Array:
        """J of sources with equally many channels, (channels, functions, lm, atoms)."""
        channels = sources[0].channels
        degree = max(source.lmax for source in sources)
        count = sum(len(source.groups) for source in sources)
        jacobian = np.zeros((channels, count, (degree + 1) ** 2, atoms))
        place = 0
        for source in sources:
            slopes = found[source.name].slopes
            for group in source.groups:
                if slopes is None:
                    jacobian[:, place, 0] = 1.0  # the only scalar of the density is its own derivative
                else:
                    for l, slope in slopes[group].items():
                        own = slope[0].reshape(2 * l + 1, channels, atoms)
                        jacobian[:, place, l * l : (l + 1) ** 2] = own.transpose(1, 0, 2)
                place += 1
        return jacobian

    def _differentiate(self, bonds: Bonds, found: Mapping[str, Tensor], forces: Array, virial: Array) -> None:
        """Add forces (p, N, 3) and virial (p, 6) of some central atoms of one element."""
        atoms = bonds.centres
        moved = self._moved(bonds)
        channels, rows, _, columns = moved.shape
        inner = moved.reshape(channels, rows * atoms, columns)
        for sources, first in self._batches():
            jacobian = self._jacobian(sources, found, atoms)
            n, count, depth, _ = jacobian.shape
            product = np.matmul(jacobian.reshape(n, count, depth * atoms), inner[:n, : depth * atoms])
            start, group = first, 0
            for source in sources:
                own = slice(start, start + source.size)
                part = product[:, group : group + len(source.groups)].reshape(source.size, columns)
                by_atom = part[:, :-6].reshape(source.size, -1, 3)
                for _, lot, targets in bonds.lots:
                    if np.array_equal(targets, np.arange(forces.shape[1])):
                        forces[own] -= by_atom[:, lot]
                    else:
                        forces[own, targets] -= by_atom[:, lot]
                virial[own] += part[:, -6:]
                start, group = start + source.size, group + len(source.groups)

    def _batches(self) -> list[tuple[list[Source], int]]:
        """Successive sources with equally many channels, and the first coefficient of each lot."""
        found: list[tuple[list[Source], int]] = []
        start = 0
        for source in self.invariants.sources:
            if found and found[-1][0][0].channels == source.channels:
                found[-1][0].append(source)
            else:
                found.append(([source], start))
            start += source.size
        return found

    def _moved(self, bonds: Bonds) -> Array:
        """D, (channels, lm, atoms, columns): by positions, for every element of the neighbours, and by strain."""
        positions, strain = bonds.by_position(), bonds.by_strain()
        moved = np.empty((self.channels, positions.shape[2], bonds.centres, positions.shape[1] + 6))
        lots = [(slice(3 * lot.start, 3 * lot.stop), self.radial[e]) for e, lot, _ in bonds.lots]
        for l in range(self.lmax + 1):
            rows = slice(l * l, (l + 1) ** 2)
            target = moved[:, rows].transpose(1, 2, 0, 3)
            for columns, radial in lots:
                np.matmul(radial[l], positions[:, columns, rows].transpose(2, 0, 3, 1), out=target[..., columns])
            joined = self.radial[bonds.present, l].transpose(1, 0, 2).reshape(self.channels, -1)
            np.matmul(joined, strain[:, :, rows].transpose(2, 0, 3, 1), out=target[..., -6:])
        return moved

    # --- coefficients -------------------------------------------------------------------------------------------------

    def weights(self, coefficients: Array, scale: float) -> dict[str, Array]:
        """Weights of the reduction that have the given coefficients; ``scale`` multiplies the energy behind it."""
        by_element = coefficients.reshape(len(self.elements), self.per_element)
        found, start = {}, 0
        for source in self.invariants.sources:
            part = by_element[:, start : start + source.size]
            cube = part.reshape(-1, 1, source.channels, len(source.groups))
            found[f"{self.invariants.reduce.name}/reducing_{source.name}"] = cube / (source.scale * scale)
            start += source.size
        return found
