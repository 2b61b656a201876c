r"""Design matrix of a linear ACE model: energies, forces and stresses of every single basis function.

A blueprint of the preset ``linear`` has fixed radial functions R and chemical factors z, and weights only in the last
linear map. With the basis functions B_(f,n) (group f, channel n) of an atom of element e

    E = sum_i sum_(f,n) c_(e_i,f,n) B_(f,n)(A_i),      A_i[lm, n] = 1/avg sum_b phi_b[lm, n]
    phi_b[lm, n] = z_(e_j)[n] R[n, l](d_b) Y_lm(u_b)

Products are channel by channel, so B_(f,n) depends on A[:, n] alone and its derivative is a small matrix per channel:

    J_i[f, lm, n] = dB_(f,n) / dA_i[lm, n]            by forward mode, one pass per lm
    g_b[f, n]     = dB_i / dr_b = sum_lm J_i[f, lm, n] dphi_b[lm, n] / dr_b

    dE/dc = sum_i B_i,     dF_k/dc = sum_(b: i=k) g_b - sum_(b: j=k) g_b,     dsigma/dc = 1/V sum_b sym(g_b r_b)

===========  =====================================
symbol       variable
===========  =====================================
A, B, J      ``density``, ``values``, ``slopes``
phi, dphi    ``bonds``, ``bond_slopes``
===========  =====================================

Source of the basis: R. Drautz, Phys. Rev. B 99, 014104 (2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import sparse

from gracecli.engine.base import Array, Graph
from gracecli.model.blocks.base import Equivariant
from gracecli.model.blueprint import Density, LinearRadial, Reduce
from gracecli.model.harmonics import real_harmonics
from gracecli.model.network import Network

CHUNK, BONDS = 32, 1024
"""Atoms, and bonds, that are evaluated together."""
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True)
class Rows:
    """Derivatives of the labels of one structure by all coefficients.

    Attributes
    ----------
    energy : (p,) float64
    forces : (N, 3, p) float64
    stress : (6, p) float64
        NaN without a cell.
    """

    energy: Array
    forces: Array
    stress: Array


def _in_blocks(function: Any, values: Array, axis: int, block: int) -> list[Array]:
    """Results of a compiled function over blocks of one size along an axis, joined along their first."""
    count = values.shape[axis]
    found = []
    for start in range(0, max(count, 1), block):
        part = np.take(values, range(start, min(start + block, count)), axis=axis)
        missing = block - part.shape[axis]
        padding = [(0, missing if k == axis else 0) for k in range(values.ndim)]
        # padded with ones: a bond of length zero has no direction
        results = function(tf.constant(np.pad(part, padding, constant_values=1.0)))
        results = results if isinstance(results, list | tuple) else [results]
        found.append([result.numpy()[: block - missing] for result in results])
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


class _Values:
    """Stands for a :class:`Context` whose density is given."""

    def __init__(self, network: Network, name: str, density: Equivariant) -> None:
        self._network, self._values = network, {name: density}

    def value(self, name: str) -> Any:
        if name not in self._values:
            context: Any = self
            self._values[name] = self._network.blocks[name](context)
        return self._values[name]


class Design:
    """Basis functions of a linear model.

    Parameters
    ----------
    network : Network
        Of a ``linear`` blueprint.
    elements : sequence of int
        Atomic numbers in the order of the model.
    """

    def __init__(self, network: Network, elements: list[int]) -> None:
        blueprint = network.blueprint
        self.network = network
        self.elements = elements
        self.density: Density = blueprint.of_type(Density)[0]
        self.reduce: Reduce = blueprint.of_type(Reduce)[0]
        radial: LinearRadial = blueprint.of_type(LinearRadial)[0]
        self.radial: Any = network.blocks[radial.name]
        self.lmax, self.channels = radial.lmax, radial.n_radial
        self.degree = np.repeat(np.arange(self.lmax + 1), 2 * np.arange(self.lmax + 1) + 1)
        block: Any = network.blocks[self.reduce.name]
        #: per source: name, groups, channels, scale of its weights
        self.sources = [
            (name, len(groups), block.channels_of(name), scale)
            for name, groups, scale in zip(self.reduce.sources, block.collected, block.scales, strict=True)
        ]
        self.per_element = sum(groups * channels for _, groups, channels, _ in self.sources)
        self._basis = tf.function(self._basis_of, jit_compile=True)
        self._slopes = tf.function(self._slopes_of, jit_compile=True)
        self._bond = tf.function(self._bond_of, jit_compile=True)
        dense: Any = network.blocks[self.density.name]
        table = network.variables_by_name[f"{self.density.embedding}/w"].numpy()
        self.factors = table @ dense.w.numpy() / np.sqrt(table.shape[1]) / float(self.density.average_neighbours)

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return self.per_element * len(self.elements)

    def rows(self, graph: Graph) -> Rows:
        """Derivatives of energy, forces and stress of one structure."""
        atoms, p = len(graph), self.per_element
        bonds, slopes = _in_blocks(self._bond, graph.bond_vector, 0, BONDS)
        species = np.array([self.elements.index(z) for z in graph.numbers])
        factor = self.factors[species[graph.neighbour]]
        bonds, slopes = bonds * factor[:, None, :], slopes * factor[:, None, :, None]
        first = np.searchsorted(graph.centre, np.arange(atoms + 1))
        total = np.concatenate([np.zeros((1, *bonds.shape[1:])), np.cumsum(bonds, axis=0)])
        density = (total[first[1:]] - total[first[:-1]]).transpose(1, 0, 2)
        (values,) = _in_blocks(self._basis, density, 1, CHUNK)
        jacobian = _in_blocks(self._slopes, density, 1, CHUNK)
        energy = np.zeros(self.size)
        forces = np.zeros((atoms, 3, self.size))
        virial = np.zeros((3, 3, self.size))
        for number in np.unique(species):
            part = slice(number * p, (number + 1) * p)
            mine = np.flatnonzero(species == number)
            energy[part] = values[mine].sum(axis=0)
            for start in range(0, len(mine), CHUNK):
                self._differentiate(graph, mine[start : start + CHUNK], first, jacobian, slopes, forces, virial, part)
        volume = graph.volume
        stress = np.stack([0.5 * (virial[a, b] + virial[b, a]) for a, b in VOIGT]) / volume
        return Rows(energy, forces, stress)

    def _differentiate(
        self, graph: Graph, centres: Any, first: Any, jacobian: list[Array], slopes: Array,
        forces: Array, virial: Array, part: slice,
    ) -> None:  # fmt: skip
        """Add forces and virial of some centres of one element."""
        chosen = np.concatenate([np.arange(first[i], first[i + 1]) for i in centres])
        if not len(chosen):
            return
        counts = first[centres + 1] - first[centres]
        place = np.repeat(np.arange(len(centres)), counts)
        inside = np.concatenate([np.arange(n) for n in counts])
        padded = np.zeros((len(centres), counts.max(), *slopes.shape[1:]))
        padded[place, inside] = slopes[chosen]
        columns = []
        for number, (_, groups, channels, _) in enumerate(self.sources):
            own = jacobian[number][centres]  # [atoms, channels, groups, lm]
            moved = padded[..., :channels, :].transpose(0, 3, 2, 1, 4)  # [atoms, channels, lm, bonds, 3]
            shape = moved.shape
            g = own @ moved.reshape(*shape[:3], -1)  # [atoms, channels, groups, bonds * 3]
            g = g.reshape(shape[0], channels * groups, shape[3], 3).transpose(0, 2, 3, 1)
            columns.append(g[place, inside])
        gradient = np.concatenate(columns, axis=2)  # [bonds, 3, p]
        flat = gradient.reshape(len(chosen), -1)
        ones, order = np.ones(len(chosen)), np.arange(len(chosen))
        shape = (len(graph), len(chosen))
        scatter = sparse.csr_matrix((ones, (graph.centre[chosen], order)), shape)
        scatter -= sparse.csr_matrix((ones, (graph.neighbour[chosen], order)), shape)
        forces[..., part] += (scatter @ flat).reshape(len(graph), 3, -1)
        virial[..., part] += (graph.bond_vector[chosen].T @ flat).reshape(3, 3, -1)

    # --- basis functions ----------------------------------------------------------------------------------------------

    def _groups(self, density: tf.Tensor) -> list[tf.Tensor]:
        """Scalar functions of every source, [groups, atoms, channels]; ``density`` is [lm, atoms, channels]."""
        parts = tf.split(density, [2 * l + 1 for l in range(self.lmax + 1)], axis=0)
        blocks = {(l, (-1) ** l): part[None] for l, part in enumerate(parts)}
        context = _Values(self.network, self.density.name, blocks)
        return [context.value(name)[0, 1][:, 0] for name, *_ in self.sources]

    def _basis_of(self, density: tf.Tensor) -> tf.Tensor:
        """All basis functions of every atom, [atoms, p]: source, channel, group."""
        flat = [tf.transpose(x, (1, 2, 0)) for x in self._groups(density)]
        return tf.concat([tf.reshape(x, (int(density.shape[1]), -1)) for x in flat], axis=1)

    def _slopes_of(self, density: tf.Tensor) -> list[tf.Tensor]:
        """J per source, [atoms, channels, groups, lm]: the atoms once per lm, each copy with its own tangent."""
        n, atoms = len(self.degree), int(density.shape[1])
        tiled = tf.tile(density, (1, n, 1))
        tangent = tf.constant(np.repeat(np.repeat(np.eye(n), atoms, axis=1)[:, :, None], self.channels, axis=2))
        with tf.autodiff.ForwardAccumulator(tiled, tangent) as accumulator:
            groups = self._groups(tiled)
        found = []
        for values, (_, count, channels, _) in zip(groups, self.sources, strict=True):
            slope = accumulator.jvp(values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            cube = tf.reshape(slope, (count, n, atoms, channels))
            found.append(tf.transpose(cube, (2, 3, 0, 1)))
        return found

    def _bond_of(self, vectors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """R Y of every bond [bonds, lm, n] and its derivative by the bond vector [bonds, lm, n, 3]."""

        def phi(r: tf.Tensor) -> tf.Tensor:
            distance = tf.sqrt(tf.reduce_sum(r**2, axis=-1) + 1e-10)
            x, y, z = (r[:, k] / distance for k in range(3))
            harmonics = tf.stack(real_harmonics(x, y, z, self.lmax), axis=-1)
            radial = tf.cast(self.radial._linear(self.radial.basis.at(distance)), tf.float64)
            return harmonics[:, :, None] * tf.gather(radial, self.degree, axis=1)

        slopes = []
        for axis in range(3):
            tangent = tf.constant(np.tile(np.eye(3)[axis], (int(vectors.shape[0]), 1)))
            with tf.autodiff.ForwardAccumulator(vectors, tangent) as accumulator:
                value = phi(vectors)
            slopes.append(accumulator.jvp(value))
        return value, tf.stack(slopes, axis=-1)

    # --- coefficients -------------------------------------------------------------------------------------------------

    def weights(self, coefficients: Array, scale: float) -> dict[str, Array]:
        """Weights of the reduction that have the given coefficients; ``scale`` multiplies the energy behind it."""
        by_element = coefficients.reshape(len(self.elements), self.per_element)
        found, start = {}, 0
        for name, groups, channels, factor in self.sources:
            part = by_element[:, start : start + groups * channels].reshape(-1, 1, channels, groups)
            found[f"{self.reduce.name}/reducing_{name}"] = part / (factor * scale)
            start += groups * channels
        return found
