"""Blocks that sum over neighbours: the atomic base A, message passing, and the chemistry-dependent density.

Equations (spec 7.1 to 7.3; b runs over the bonds of atom a)::

    A_a[n, lm]     = 1/avg sum_b R_b[n, l] Y_b[lm] z_(mu_j)[n]
    T_a[n, lm, q]  = 1/avg sum_b R_b[n, l] Y_b[lm] I_(j)[n, q]        out_a[n, f] = sum_terms c T_a[n, i, j]

Per row of W bonds the sum is a matrix product (2l+1, W) x (W, channels).

Symbol -> variable: A, T -> ``density``; R -> ``radial``; Y -> ``harmonics``; z -> ``chemistry``; I -> ``indicator``.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf

from gracecli.errors import ModelError
from gracecli.model import radial as formulas
from gracecli.model.blocks.base import Block, Context, Variables, activation, block_for
from gracecli.model.blocks.coupled import contract_pairs
from gracecli.model.blocks.radial import PROJECTION_INTERVALS, SPLINE_INTERVALS, RadialBlock, RadialTable
from gracecli.model.blueprint import ChemicalDensity, Density, Embedding, MessageDensity
from gracecli.model.functions import CouplingRules, FunctionTable, couple


def rows_times_harmonics(weights: list[tf.Tensor], harmonics: tf.Tensor) -> tf.Tensor:
    """Sum over the bonds of every row: weights[l] [rows, W, c], harmonics [rows, W, lm] -> [rows, lm, c]."""
    parts = []
    for l, weight in enumerate(weights):
        y = tf.cast(harmonics[:, :, l * l : (l + 1) ** 2], weight.dtype)
        parts.append(tf.matmul(y, weight, transpose_a=True))
    return tf.concat(parts, axis=1)


def divide_by_neighbours(context: Context, density: tf.Tensor, average: float | tuple[float, ...]) -> tf.Tensor:
    """Apply 1/avg to [functions, atoms, channels]; a tuple is one value per element of the model."""
    if isinstance(average, tuple):
        values = np.array([1.0 / v if v > 0 else 1.0 for v in average])
        factor = tf.gather(context.of_elements(tf.constant(values, density.dtype)), context.inputs.species)
        return density * factor[None, :, None]
    return density * tf.constant(1.0 / average, density.dtype)


def radial_values(context: Context, block: Block, table: RadialTable | None) -> tf.Tensor:
    """R of the bonds in the mode of the context, [rows, W, lmax + 1, n]."""
    if table is not None and context.radial == "spline":
        name = block.node.name

        def make() -> tf.Tensor:
            return table.evaluate(context.distance, table.coefficients() if table.frozen is None else table.frozen)

        return context.cached(f"spline {name}", make)
    return context.value(block.node.name)


@block_for(Density)
class DensityBlock(Block):
    """The atomic base."""

    def __init__(self, node: Density, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.radial: Any = self._inputs[node.radial]
        lmax = self.table_of(node.harmonics).groups[-1].l
        self.lmax = min(lmax if node.lmax is None else node.lmax, self.radial.lmax, lmax)
        self.table = FunctionTable.harmonics(self.lmax)
        self.channels = self.radial.n_radial
        self.w = None
        if node.embedding:
            per_l = self.lmax + 1 if node.embedding_per_l else 1
            self.w = self.variable("lin_transform/w", (self._inputs[node.embedding].size, self.channels * per_l))
        tabulated = isinstance(self.radial, RadialBlock) and self.radial.grid_end is not None
        self.spline = RadialTable(self.radial, SPLINE_INTERVALS) if tabulated else None
        self.projector = RadialTable(self.radial, PROJECTION_INTERVALS) if tabulated else None

    def _chemistry(self, context: Context) -> tf.Tensor | None:
        """Factor z of the elements of the batch: [elements, n], or [elements, lmax + 1, n]."""
        node: Any = self.node
        if self.w is None:
            return None
        z = tf.matmul(context.of_elements(context.value(node.embedding)), self.w) / np.sqrt(self.w.shape[0])
        if node.embedding_per_l:
            return tf.transpose(tf.reshape(z, (-1, self.channels, self.lmax + 1)), (0, 2, 1))
        return z

    def _projected(self, context: Context) -> tf.Tensor:
        """Density by projection on splines, [functions, atoms, channels] before 1/avg."""
        node: Any = self.node
        assert self.projector is not None
        inputs = context.inputs
        z = self._chemistry(context)
        weights = context.cached(
            f"projection {self.projector.grid}", lambda: self.projector.projection(context.distance)
        )
        n_spline = weights.shape[-1]
        if z is None or inputs.slot is None:
            slots, slot_species = context.n_elements if z is not None else 1, None
            which = context.neighbour_species()
        else:
            slots, slot_species = int(inputs.slot_species.shape[1]), inputs.slot_species
            which = tf.gather(inputs.slot, inputs.neighbour)

        def project() -> tf.Tensor:
            y = context.value(node.harmonics)
            w = weights
            if slots > 1:
                w = tf.reshape(
                    tf.one_hot(which, slots, dtype=w.dtype)[..., None] * w[:, :, None, :],
                    (*w.shape[:2], slots * n_spline),
                )
            per_row = tf.matmul(tf.cast(y, self.dtype), tf.cast(w, self.dtype), transpose_a=True)
            return tf.transpose(context.sum_over_rows(per_row), (1, 0, 2))

        projected = context.cached(f"projected {self.projector.grid} {node.harmonics} {slots}", project)
        n_atoms, coefficients = context.n_atoms, self.projector.coefficients()
        parts = []
        for l in range(self.lmax + 1):
            d = projected[l * l : (l + 1) ** 2]
            flat = tf.reshape(d, (-1, n_spline))
            part = tf.reshape(tf.matmul(flat, coefficients[:, l, :]), (2 * l + 1, n_atoms, slots, self.channels))
            if z is None:
                parts.append(part[:, :, 0])
                continue
            zl = z[:, l] if node.embedding_per_l else z
            zl = zl[None, None] if slot_species is None else tf.gather(zl, slot_species)[None]
            parts.append(tf.reduce_sum(part * zl, axis=2))
        return tf.concat(parts, axis=0)

    def _direct(self, context: Context) -> tf.Tensor:
        """Density from radial functions on bonds."""
        node: Any = self.node
        values = radial_values(context, self.radial, self.spline)
        z = self._chemistry(context)
        weights = [values[:, :, l] for l in range(self.lmax + 1)]
        if z is not None:
            zj = tf.gather(z, context.neighbour_species())
            weights = [w * (zj[:, :, l] if node.embedding_per_l else zj) for l, w in enumerate(weights)]
        per_row = rows_times_harmonics(weights, context.value(node.harmonics))
        return tf.transpose(context.sum_over_rows(per_row), (1, 0, 2))

    def __call__(self, context: Context) -> tf.Tensor:
        """Density, [functions, atoms, channels]."""
        node: Any = self.node
        projected = context.radial == "projected" and self.projector is not None
        density = self._projected(context) if projected else self._direct(context)
        return divide_by_neighbours(context, density, node.average_neighbours)


def indicator_of_neighbours(
    context: Context, indicator: tf.Tensor, chemistry: tf.Tensor | None, scalar_row: int | None
) -> tf.Tensor:
    """Indicator rows of the neighbours, [rows, W, q, n]; ``chemistry`` [elements, n] is added to the scalar row."""
    by_atom = tf.transpose(indicator, (1, 0, 2))
    if chemistry is not None:
        assert scalar_row is not None
        unit = np.zeros((1, by_atom.shape[1], 1))
        unit[0, scalar_row, 0] = 1.0
        own = tf.gather(chemistry, context.inputs.species)[:, None, :]
        by_atom = by_atom + tf.constant(unit, by_atom.dtype) * own
    return tf.gather(by_atom, context.inputs.neighbour)


def scalar_row_of(table: FunctionTable, node: str) -> int:
    """Row number of the only (0, +) group."""
    rows = [o for g, o in zip(table.groups, table.offsets, strict=True) if (g.l, g.p) == (0, 1)]
    if len(rows) != 1:
        raise ModelError(f"model: node {node!r} needs an indicator with exactly one scalar function")
    return rows[0]


@block_for(MessageDensity)
class MessageDensityBlock(Block):
    """Message passing: bonds carry an equivariant tensor of the neighbour."""

    def __init__(self, node: MessageDensity, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.radial: Any = self._inputs[node.radial]
        self.channels = self.radial.n_radial
        lmax = self.table_of(node.harmonics).groups[-1].l
        self.lmax = min(node.lmax, lmax, self.radial.lmax)
        self.indicator_table = self.table_of(node.indicator)
        if self.channels_of(node.indicator) != self.channels:
            raise ModelError(f"model: node {node.name!r}: indicator and radial functions differ in channels")
        rules = CouplingRules(
            lmax=node.lmax, Lmax=node.Lmax, normalize=node.normalize, tagged=True, lmax_right=node.lmax_indicator,
            keep_parity=None if node.keep_parity is None else frozenset(node.keep_parity), max_sum_l=node.max_sum_l,
        )  # fmt: skip
        self.product = couple(FunctionTable.harmonics(self.lmax), self.indicator_table, rules)
        self.table = self.product.output
        self.w = None
        if node.embedding:
            self.w = self.variable("chem_linear/w", (self._inputs[node.embedding].size, self.channels))
            self.scalar_row = scalar_row_of(self.indicator_table, node.name)
        tabulated = isinstance(self.radial, RadialBlock) and self.radial.grid_end is not None
        self.spline = RadialTable(self.radial, SPLINE_INTERVALS) if tabulated else None

    def __call__(self, context: Context) -> tf.Tensor:
        """Coupled messages, [functions, atoms, channels]."""
        node: Any = self.node
        values = radial_values(context, self.radial, self.spline)
        chemistry = None
        if self.w is not None:
            chemistry = tf.matmul(context.of_elements(context.value(node.embedding)), self.w) / np.sqrt(self.w.shape[0])
        message = indicator_of_neighbours(
            context, context.value(node.indicator), chemistry, self.scalar_row if chemistry is not None else None
        )
        weights = [values[:, :, l] for l in range(self.lmax + 1)]
        density = message_density(context, weights, message, context.value(node.harmonics))
        return divide_by_neighbours(context, contract_pairs(density, self.product), node.average_neighbours)


def message_density(context: Context, weights: list[tf.Tensor], message: tf.Tensor, harmonics: tf.Tensor) -> tf.Tensor:
    """T = sum_b R Y I, [lm, q, atoms, n]."""
    rows, width, q, n = (int(s) for s in message.shape)
    carried = [tf.reshape(w[:, :, None, :] * message, (rows, width, q * n)) for w in weights]
    per_row = rows_times_harmonics(carried, harmonics)
    density = tf.reshape(context.sum_over_rows(per_row), (context.n_atoms, per_row.shape[1], q, n))
    return tf.transpose(density, (1, 2, 0, 3))


@block_for(ChemicalDensity)
class ChemicalDensityBlock(Block):
    """Density whose radial network sees both elements, with a scalar or an equivariant indicator."""

    def __init__(self, node: ChemicalDensity, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.channels = node.n_radial
        self.lmax = min(node.lmax, self.table_of(node.harmonics).groups[-1].l)
        self.size = self._inputs[node.embedding].size
        sizes = [node.n_basis + 2 * self.size, *node.hidden, node.n_radial * (self.lmax + 1)]
        pairs = list(pairwise(sizes))
        self.weights = [self.variable(f"mlp_layers/{i}/w", pair) for i, pair in enumerate(pairs)]
        self.biases = [self.variable(f"mlp_layers/{i}/b", (1, pair[1])) for i, pair in enumerate(pairs[:-1])]
        if variables.has(node.name, "rc"):
            self.variable("rc", (), trainable=False)
        self.activation = activation(node.activation)
        self.equivariant = node.indicator is not None and not isinstance(self._inputs[node.indicator].node, Embedding)
        self.w, self.product = None, None
        if self.equivariant:
            assert node.indicator is not None
            rules = CouplingRules(
                lmax=node.lmax, Lmax=node.Lmax, normalize=node.normalize, tagged=True, lmax_right=node.lmax_indicator,
                keep_parity=None if node.keep_parity is None else frozenset(node.keep_parity),
                max_sum_l=node.max_sum_l,
            )  # fmt: skip
            self.product = couple(FunctionTable.harmonics(self.lmax), self.table_of(node.indicator), rules)
            self.table = self.product.output
            self.w = self.variable("chem_linear/w", (self.size, self.channels))
            self.scalar_row = scalar_row_of(self.table_of(node.indicator), node.name)
        else:
            self.table = FunctionTable.harmonics(self.lmax)
            if node.indicator is not None:
                self.w = self.variable("lin_transform/w", (self._inputs[node.indicator].size, self.channels))

    def _radial(self, context: Context) -> list[tf.Tensor]:
        """Envelope times network, one [rows, W, n] per degree."""
        node: Any = self.node
        distance = context.distance
        x = tf.minimum(distance / node.cutoff, 1.0)
        t = tf.clip_by_value(2.0 * (1.0 - tf.abs(1.0 - x)) - 1.0, -1.0, 1.0)
        basis = tf.cast(tf.stack(formulas.chebyshev(t, node.n_basis), axis=-1), self.dtype)
        table = context.of_elements(context.value(node.embedding))
        rows, width = (int(s) for s in distance.shape)
        centre = tf.broadcast_to(tf.gather(table, context.centre_species())[:, None], (rows, width, self.size))
        neighbour = tf.gather(table, context.neighbour_species())
        h = tf.reshape(tf.concat([basis, centre, neighbour], -1), (rows * width, -1))
        for i, w in enumerate(self.weights):
            h = tf.matmul(h, w)
            if i < len(self.biases):
                h = self.activation((h + self.biases[i]) / np.sqrt(w.shape[0]))
            else:
                h = h / np.sqrt(w.shape[0])
        cut = tf.where(distance < node.cutoff, formulas.envelope(x, node.envelope_p), tf.zeros_like(distance))
        cube = tf.reshape(h, (rows, width, self.channels, self.lmax + 1))
        return [cube[..., l] * tf.cast(cut, self.dtype)[..., None] for l in range(self.lmax + 1)]

    def __call__(self, context: Context) -> tf.Tensor:
        """Density, [functions, atoms, channels]."""
        node: Any = self.node
        weights = self._radial(context)
        harmonics = context.value(node.harmonics)
        if not self.equivariant:
            if self.w is not None:
                z = tf.matmul(context.of_elements(context.value(node.indicator)), self.w) / np.sqrt(self.w.shape[0])
                zj = tf.gather(z, context.neighbour_species())
                weights = [w * zj for w in weights]
            per_row = rows_times_harmonics(weights, harmonics)
            density = tf.transpose(context.sum_over_rows(per_row), (1, 0, 2))
        else:
            assert self.w is not None
            assert self.product is not None
            chemistry = tf.matmul(context.of_elements(context.value(node.embedding)), self.w) / np.sqrt(self.size)
            message = indicator_of_neighbours(context, context.value(node.indicator), chemistry, self.scalar_row)
            density = contract_pairs(message_density(context, weights, message, harmonics), self.product)
        return divide_by_neighbours(context, density, node.average_neighbours)
