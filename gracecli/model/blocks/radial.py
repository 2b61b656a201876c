"""Blocks of the distance: radial bases, radial functions (exact, from a spline, or projected), harmonics, embedding.

A radial function that depends on the distance alone is an MLP or a linear map of the basis; it can be evaluated

* ``exact``: on every bond;
* ``spline``: from a quintic B-spline table of its weights (inference), error stated by :func:`spline_error`;
* ``projected``: not on bonds at all. With R(d) = sum_k w_k(d) T_k the density becomes
  ``A[n, lm] = sum_k T[k, n, l] (sum_b w_k(d_b) Y_lm(u_b) z_b)``: bonds are projected on K splines and the harmonics,
  and the network is evaluated on K grid points only (training; same splines, coarser grid).

See :mod:`gracecli.model.radial` for the equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf

from gracecli.errors import ModelError
from gracecli.model import radial as formulas
from gracecli.model.blocks.base import Block, Context, Variables, activation, block_for, size
from gracecli.model.blueprint import Embedding, Harmonics, LinearRadial, MLPRadial, Node, PairRadialBasis, RadialBasis
from gracecli.model.functions import FunctionTable

PROJECTION_INTERVALS = 56
SPLINE_INTERVALS = 1024


class RadialBlock(Block):
    """Base of blocks whose value is R[rows, W, lmax + 1, n_radial]."""

    lmax: int
    n_radial: int

    @property
    def grid_end(self) -> float | None:
        """Cutoff when the function depends on the distance alone, else None (no tabulation)."""
        return None

    def on_grid(self, distance: tf.Tensor) -> tf.Tensor:
        """Exact values at given distances, [points, lmax + 1, n_radial]."""
        raise NotImplementedError


@block_for(RadialBasis)
class RadialBasisBlock(Block):
    """g_k(d), [rows, W, n_functions] float64."""

    def __init__(self, node: RadialBasis, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.n_functions = node.n_functions
        rc = node.cutoff
        # the published models keep rc in the precision of the model
        self.cutoff = float(np.float32(rc)) if self.dtype == tf.float32 else float(rc)
        for path in ("rc", "basis_function/rc"):
            if variables.has(node.name, path):
                stored = float(self.variable(path, (), trainable=False))
                if abs(stored - rc) > 1e-5 * rc:
                    raise ModelError(
                        f"model: node {node.name!r} has cutoff {rc:g} Å, but its variable {path!r} says {stored:g} Å",
                        "the checkpoint and model.yaml do not belong together",
                    )
        if node.basis == "Gaussian":
            self.grid = self.variable("basis_function/grid", (1, node.n_functions))
            self.scale = self.variable("basis_function/scale", ())
        elif node.basis not in ("Cheb", "SBessel", "RadSinBessel"):
            raise ModelError(f"model: unknown radial basis {node.basis!r} in node {node.name!r}")

    def at(self, distance: tf.Tensor) -> tf.Tensor:
        """Basis at given distances of any shape, functions last."""
        node: Any = self.node
        inside = distance <= self.cutoff
        d = tf.minimum(distance, self.cutoff)
        x = d / self.cutoff
        if node.basis == "Cheb":
            terms = formulas.chebyshev_basis(
                x,
                node.n_functions,
                node.envelope_p,
                normalized=node.normalized,
                kind=node.chebyshev_kind,
                reverse=node.reversed,
                ops=tf,
            )
        elif node.basis == "SBessel":
            terms = formulas.sbessel_basis(d, node.n_functions, self.cutoff, tf)
        elif node.basis == "RadSinBessel":
            terms = formulas.sine_basis(x, node.n_functions, node.envelope_p, self.cutoff, node.normalized, tf)
        else:
            grid, scale = tf.cast(self.grid[0], tf.float64), tf.cast(self.scale, tf.float64)
            f = formulas.envelope(x, node.envelope_p)
            terms = [tf.exp(scale * (d - grid[k]) ** 2) * f for k in range(node.n_functions)]
        return tf.where(inside[..., None], tf.stack(terms, axis=-1), tf.zeros([], tf.float64))

    def __call__(self, context: Context) -> tf.Tensor:
        """Basis of the bonds."""
        return self.at(context.distance)


@block_for(PairRadialBasis)
class PairRadialBasisBlock(Block):
    """g_k(d / rc(mu_i, mu_j)), [rows, W, n_functions] float64."""

    def __init__(self, node: PairRadialBasis, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.n_functions = node.n_functions
        self.cutoff_map = self.variable("bond_cutoff_map", (None, 1), trainable=False)
        if node.basis == "Gaussian":
            self.grid = self.variable("basis_function/grid", (1, node.n_functions))
            self.scale = self.variable("basis_function/scale", (1, None))
        elif node.basis not in ("Cheb", "RadSinBessel"):
            raise ModelError(f"model: pair-dependent cutoffs are not defined for the basis {node.basis!r}")

    def __call__(self, context: Context) -> tf.Tensor:
        """Basis of the bonds, zero where d >= rc of the pair."""
        node: Any = self.node
        n_all = round(self.cutoff_map.shape[0] ** 0.5)
        matrix = tf.cast(tf.reshape(self.cutoff_map, (n_all, n_all)), tf.float64)
        pairs = tf.gather(tf.gather(matrix, context.inputs.elements), context.inputs.elements, axis=1)
        i, j = context.centre_species()[:, None], context.neighbour_species()
        cutoff = tf.gather(tf.reshape(pairs, [-1]), i * context.n_elements + j)
        inside = context.distance < cutoff
        positive = tf.where(cutoff > 0, cutoff, tf.ones_like(cutoff))
        d = tf.minimum(context.distance, positive)
        x = d / positive
        if node.basis == "Cheb":
            terms = formulas.chebyshev_basis(
                x, node.n_functions, node.envelope_p, normalized=False, kind=1, reverse=False, ops=tf
            )
        elif node.basis == "RadSinBessel":
            terms = formulas.pair_sine_basis(x, node.n_functions, node.envelope_p, positive, node.normalized, tf)
        else:
            grid = tf.cast(self.grid[0], tf.float64)
            scale = tf.broadcast_to(tf.cast(tf.reshape(self.scale, [-1]), tf.float64), [node.n_functions])
            f = formulas.envelope(x, node.envelope_p)
            terms = [tf.exp(-((scale[k] * (d - grid[k])) ** 2)) * f for k in range(node.n_functions)]
        return tf.where(inside[..., None], tf.stack(terms, axis=-1), tf.zeros([], tf.float64))


@block_for(LinearRadial)
class LinearRadialBlock(RadialBlock):
    """R[n, l] = sum_k crad[n, l, k] g_k."""

    def __init__(self, node: LinearRadial, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.lmax, self.n_radial = node.lmax, node.n_radial
        self.basis: Any = self._inputs[node.basis]
        self.crad = self.variable("crad", (node.n_radial, node.lmax + 1, self.basis.n_functions))

    @property
    def grid_end(self) -> float | None:
        """Cutoff of the basis."""
        return self.basis.cutoff if isinstance(self.basis, RadialBasisBlock) else None

    def _linear(self, g: tf.Tensor) -> tf.Tensor:
        weights = tf.reshape(tf.transpose(self.crad, (2, 1, 0)), (g.shape[-1], -1))
        flat = tf.matmul(tf.reshape(tf.cast(g, self.dtype), (-1, g.shape[-1])), weights)
        lead = [size(g, axis) for axis in range(len(g.shape) - 1)]
        return tf.reshape(flat, (*lead, self.lmax + 1, self.n_radial))

    def on_grid(self, distance: tf.Tensor) -> tf.Tensor:
        """Exact values at given distances."""
        return self._linear(self.basis.at(distance))

    def __call__(self, context: Context) -> tf.Tensor:
        """Radial functions of the bonds."""
        return self._linear(context.value(self.node.basis))  # type: ignore[attr-defined]


@block_for(MLPRadial)
class MLPRadialBlock(RadialBlock):
    """Network without bias on the radial basis, both generations."""

    def __init__(self, node: MLPRadial, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.lmax, self.n_radial = node.lmax, node.n_radial
        self.basis: Any = self._inputs[node.basis]
        n_out = node.n_radial * (node.lmax + 1)
        embeddings = [e for e in (node.embedding_i, node.embedding_j) if e]
        extra = sum(self._inputs[e].size for e in embeddings) if node.generation == 1 else 0
        sizes = [self.basis.n_functions + extra, *node.hidden, n_out]
        pattern = "mlp/layer{}/w" if node.generation == 1 else "layers/{}/w"
        self.layers = [self.variable(pattern.format(i), (a, b)) for i, (a, b) in enumerate(pairwise(sizes))]
        self.activations = [activation(a) for a in node.activations]
        if len(self.activations) != len(node.hidden):
            raise ModelError(f"model: node {node.name!r} needs one activation per hidden layer")
        self.gamma = self.variable("gamma", (1, n_out)) if node.output_norm else None
        self.embed = None
        if node.generation == 2 and embeddings:
            self.embed = self.variable("embed_transform/w", (self._inputs[embeddings[0]].size, n_out))

    @property
    def grid_end(self) -> float | None:
        """Cutoff when neither embeddings nor pair cutoffs enter."""
        node: Any = self.node
        plain = isinstance(self.basis, RadialBasisBlock) and not (node.embedding_i or node.embedding_j)
        return self.basis.cutoff if plain else None

    def _network(self, x: tf.Tensor) -> tf.Tensor:
        """The plain network; output index n * (lmax + 1) + l."""
        node: Any = self.node
        x = tf.cast(x, self.dtype)
        for i, w in enumerate(self.layers):
            scale = 1.0 / np.sqrt(w.shape[0]) if node.scale_inputs else 1.0
            x = tf.matmul(x, w * tf.constant(scale, self.dtype))
            if i < len(self.activations):
                x = self.activations[i](x)
        if self.gamma is not None:
            mean = tf.reduce_mean(x, -1, keepdims=True)
            variance = tf.reduce_mean((x - mean) ** 2, -1, keepdims=True)
            x = x * self.gamma / tf.sqrt(variance + 1e-5)
        return x

    def _by_degree(self, flat: tf.Tensor, shape: tuple[Any, ...]) -> tf.Tensor:
        """[points, n * (lmax + 1)] -> [..., lmax + 1, n]."""
        cube = tf.reshape(flat, (-1, self.n_radial, self.lmax + 1))
        return tf.reshape(tf.transpose(cube, (0, 2, 1)), (*shape, self.lmax + 1, self.n_radial))

    def on_grid(self, distance: tf.Tensor) -> tf.Tensor:
        """Exact values at given distances."""
        return self._by_degree(self._network(self.basis.at(distance)), (int(distance.shape[0]),))

    def _embedding_factor(self, context: Context) -> tf.Tensor:
        """Second generation: product of the maps of the embeddings, [bonds, n_out]."""
        node: Any = self.node
        assert self.embed is not None
        name = node.embedding_j or node.embedding_i
        z = tf.matmul(context.of_elements(context.value(name)), self.embed) / np.sqrt(self.embed.shape[0])
        j = tf.gather(z, tf.reshape(context.neighbour_species(), [-1])) if node.embedding_j else None
        if not node.embedding_i:
            assert j is not None
            return j
        i = tf.gather(z, tf.repeat(context.centre_species(), size(context.inputs.neighbour, 1)))
        return tf.tanh(i if j is None else i * j)

    def __call__(self, context: Context) -> tf.Tensor:
        """Radial functions of the bonds."""
        node: Any = self.node
        g = context.value(node.basis)
        shape = size(g, 0), size(g, 1)
        x = tf.cast(tf.reshape(g, (-1, g.shape[-1])), self.dtype)
        if node.generation == 1:
            rows = {
                "i": tf.repeat(context.centre_species(), shape[1]),
                "j": tf.reshape(context.neighbour_species(), [-1]),
            }
            for side, name in (("i", node.embedding_i), ("j", node.embedding_j)):
                if name:
                    x = tf.concat([x, tf.gather(context.of_elements(context.value(name)), rows[side])], -1)
        out = self._network(x)
        if self.embed is not None:
            out = out * self._embedding_factor(context)
        return self._by_degree(out, shape)


@block_for(Harmonics)
class HarmonicsBlock(Block):
    """Y_lm of the bonds, [rows, W, (lmax + 1)^2] float64."""

    def __init__(self, node: Harmonics, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.table = FunctionTable.harmonics(node.lmax)

    def __call__(self, context: Context) -> tf.Tensor:
        """Harmonics of the bonds."""
        return context.harmonics(self.node.lmax)  # type: ignore[attr-defined]


@block_for(Embedding)
class EmbeddingBlock(Block):
    """The table w [n_elements, size]."""

    def __init__(self, node: Embedding, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.size = node.size
        self.w = self.variable("w", (len(node.elements), node.size))

    def __call__(self, context: Context) -> tf.Tensor:
        """The whole table."""
        return self.w


class RadialTable:
    """Quintic B-spline table of a radial function (see :mod:`gracecli.model.radial`)."""

    def __init__(self, block: RadialBlock, intervals: int) -> None:
        end = block.grid_end
        if end is None:
            raise ModelError(f"model: the radial function {block.node.name!r} depends on more than the distance")
        self.block = block
        self.grid = formulas.SplineGrid(end, intervals)
        self._samples = self.grid.samples
        self._solve = self.grid.solve()
        self.frozen: tf.Tensor | None = None

    def freeze(self) -> None:
        """Tabulate the present weights once (inference)."""
        self.frozen = tf.constant(self.coefficients().numpy())

    def coefficients(self) -> tf.Tensor:
        """T [intervals + 5, lmax + 1, n_radial], differentiable in the weights."""
        values = self.block.on_grid(tf.constant(self._samples))
        flat = tf.matmul(tf.constant(self._solve, values.dtype), tf.reshape(values, (len(self._samples), -1)))
        return tf.reshape(flat, (-1, self.block.lmax + 1, self.block.n_radial))

    def evaluate(self, distance: tf.Tensor, coefficients: tf.Tensor) -> tf.Tensor:
        """R [..., lmax + 1, n_radial] from given coefficients; zero beyond the cutoff."""
        x = tf.minimum(distance, self.grid.end) * (self.grid.intervals / self.grid.end)
        k = tf.cast(tf.clip_by_value(tf.floor(x), 0, self.grid.intervals - 1), tf.int32)
        inside = tf.cast(distance <= self.grid.end, tf.float64)
        weights = formulas.bspline_weights(x - tf.cast(k, tf.float64))
        total = None
        for s, w in enumerate(weights):
            term = tf.cast(w * inside, self.block.dtype)[..., None, None] * tf.gather(coefficients, k + s)
            total = term if total is None else total + term
        assert total is not None
        return total

    def projection(self, distance: tf.Tensor) -> tf.Tensor:
        """All spline weights of every bond, [..., intervals + 5]; zero beyond the cutoff."""
        x = distance * (self.grid.intervals / self.grid.end)
        inside = tf.cast(distance <= self.grid.end, tf.float64)
        centre = tf.constant(np.arange(self.grid.intervals + 5) - 2.0)
        # cardinal quintic B-spline of |y| < 3 by truncated powers, evaluated densely: no gather, no scatter
        y = tf.abs(x[..., None] - centre)
        powers = [formulas.power(tf.nn.relu(c - y), 5) for c in (3.0, 2.0, 1.0)]
        return (powers[0] - 6.0 * powers[1] + 15.0 * powers[2]) * (inside[..., None] / 120.0)


def spline_error(table: RadialTable) -> tuple[float, float]:
    """Largest error of values and of derivatives (1/Å) over [0.2 Å, cutoff], relative to the largest value.

    Checked at the knots and both ends, where the error of the slope peaks, and at 15 points between them.
    """
    end = table.grid.end * (1.0 - 1e-12)  # just inside, where the slope is still defined
    points = np.linspace(0.0, end, 16 * table.grid.intervals + 1)
    distance = tf.constant(points[points > 0.2])
    coefficients = table.coefficients()
    with tf.autodiff.ForwardAccumulator(distance, tf.ones_like(distance)) as exact_tangent:
        exact = table.block.on_grid(distance)
    with tf.autodiff.ForwardAccumulator(distance, tf.ones_like(distance)) as spline_tangent:
        spline = table.evaluate(distance, coefficients)
    scale = float(tf.reduce_max(tf.abs(exact))) or 1.0
    value_error = float(tf.reduce_max(tf.abs(exact - spline))) / scale
    slope_error = float(tf.reduce_max(tf.abs(exact_tangent.jvp(exact) - spline_tangent.jvp(spline)))) / scale
    return value_error, slope_error


__all__ = ["PROJECTION_INTERVALS", "SPLINE_INTERVALS", "Node", "RadialBlock", "RadialTable", "spline_error"]
