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
from gracecli.model.blocks.base import Block, Context, Equivariant, Variables, activation, block_for, rows_of, size
from gracecli.model.blocks.coupled import contract_pairs
from gracecli.model.blocks.radial import PROJECTION_INTERVALS, SPLINE_INTERVALS, RadialBlock, RadialTable
from gracecli.model.blueprint import ChemicalDensity, Density, Embedding, MessageDensity
from gracecli.model.functions import CouplingRules, FunctionTable, couple


def sum_over_bonds(context: Context, weights: list[tf.Tensor], harmonics: tf.Tensor) -> list[tf.Tensor]:
    """Sum of weights[l] [rows, W, c] times harmonics [rows, W, lm] over the bonds: per l, [atoms, 2l+1, c]."""
    sizes = [2 * l + 1 for l in range(len(weights))]
    rest = int(harmonics.shape[2]) - sum(sizes)
    parts = tf.split(harmonics, [*sizes, rest] if rest else sizes, axis=2)
    if weights[0].shape[1] == 1:  # one bond per row: a product, not a matrix product for each
        per_row = [tf.cast(y, w.dtype)[:, 0, :, None] * w for y, w in zip(parts, weights, strict=False)]
    else:
        per_row = [tf.matmul(tf.cast(y, w.dtype), w, transpose_a=True) for y, w in zip(parts, weights, strict=False)]
    return tf.split(context.sum_over_rows(tf.concat(per_row, axis=1)), sizes, axis=1)


def as_harmonic_blocks(parts: list[tf.Tensor]) -> Equivariant:
    """Per-l densities [atoms, 2l+1, n] as blocks of natural parity."""
    return {(l, (-1) ** l): tf.transpose(part, (1, 0, 2))[None] for l, part in enumerate(parts)}


def divide_by_neighbours(context: Context, density: Equivariant, average: float | tuple[float, ...]) -> Equivariant:
    """Apply 1/avg; a tuple is one value per element of the model."""
    if isinstance(average, tuple):
        values = np.array([1.0 / v if v > 0 else 1.0 for v in average])
        dtype = next(iter(density.values())).dtype
        factor = tf.gather(context.of_elements(tf.constant(values, dtype)), context.inputs.species)[:, None]
        return {lp: block * factor for lp, block in density.items()}
    return {lp: block * tf.constant(1.0 / average, block.dtype) for lp, block in density.items()}


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

    def _projected(self, context: Context) -> Equivariant:
        """Density by projection on splines, before 1/avg."""
        node: Any = self.node
        projector = self.projector
        assert projector is not None
        inputs = context.inputs
        z = self._chemistry(context)
        weights = context.cached(f"projection {projector.grid}", lambda: projector.projection(context.distance))
        n_spline = weights.shape[-1]
        if z is None or inputs.slot_species is None:
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

        projected = context.cached(f"projected {projector.grid} {node.harmonics} {slots}", project)
        n_atoms = context.n_atoms
        lmax_y = round(int(projected.shape[0]) ** 0.5) - 1
        by_degree = tf.split(projected, [2 * l + 1 for l in range(lmax_y + 1)], axis=0)
        coefficients = tf.unstack(projector.coefficients(), axis=1)
        blocks = {}
        for l in range(self.lmax + 1):
            flat = tf.reshape(by_degree[l], (-1, n_spline))
            part = tf.reshape(tf.matmul(flat, coefficients[l]), (2 * l + 1, n_atoms, slots, self.channels))
            if z is not None:
                zl = z[:, l] if node.embedding_per_l else z
                part = part * (zl[None, None] if slot_species is None else tf.gather(zl, slot_species)[None])
            blocks[l, (-1) ** l] = tf.reduce_sum(part, axis=2)[None]
        return blocks

    def _direct(self, context: Context) -> Equivariant:
        """Density from radial functions on bonds."""
        node: Any = self.node
        weights = tf.unstack(radial_values(context, self.radial, self.spline), axis=2)[: self.lmax + 1]
        z = self._chemistry(context)
        if z is not None:
            zj = tf.gather(z, context.neighbour_species())
            per_l = tf.unstack(zj, axis=2) if node.embedding_per_l else [zj] * len(weights)
            weights = [w * f for w, f in zip(weights, per_l, strict=True)]
        return as_harmonic_blocks(sum_over_bonds(context, weights, context.value(node.harmonics)))

    def __call__(self, context: Context) -> Equivariant:
        """Density."""
        node: Any = self.node
        projected = context.radial == "projected" and self.projector is not None
        density = self._projected(context) if projected else self._direct(context)
        return divide_by_neighbours(context, density, node.average_neighbours)


def indicator_of_neighbours(
    context: Context,
    indicator: Equivariant,
    table: FunctionTable,
    chemistry: tf.Tensor | None,
    scalar_row: int | None,
) -> tf.Tensor:
    """Indicator rows of the neighbours, [rows, W, q, n]; ``chemistry`` [elements, n] is added to the scalar row."""
    by_atom = tf.transpose(rows_of(indicator, table), (1, 0, 2))
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

    def __call__(self, context: Context) -> Equivariant:
        """Coupled messages."""
        node: Any = self.node
        values = radial_values(context, self.radial, self.spline)
        chemistry = None
        if self.w is not None:
            chemistry = tf.matmul(context.of_elements(context.value(node.embedding)), self.w) / np.sqrt(self.w.shape[0])
        message = indicator_of_neighbours(
            context,
            context.value(node.indicator),
            self.indicator_table,
            chemistry,
            self.scalar_row if chemistry is not None else None,
        )
        weights = tf.unstack(values, axis=2)[: self.lmax + 1]
        density = message_density(context, weights, message, context.value(node.harmonics))
        return divide_by_neighbours(context, contract_pairs(density, self.product), node.average_neighbours)


def message_density(
    context: Context, weights: list[tf.Tensor], message: tf.Tensor, harmonics: tf.Tensor
) -> dict[int, tf.Tensor]:
    """T = sum_b R Y I: l -> [2l+1, q, atoms, n]."""
    rows, width, q, n = (size(message, axis) for axis in range(4))
    carried = [tf.reshape(w[:, :, None, :] * message, (rows, width, q * n)) for w in weights]
    parts = sum_over_bonds(context, carried, harmonics)
    return {
        l: tf.transpose(tf.reshape(part, (context.n_atoms, 2 * l + 1, q, n)), (1, 2, 0, 3))
        for l, part in enumerate(parts)
    }


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
        rows, width = size(distance, 0), size(distance, 1)
        centre = tf.broadcast_to(tf.gather(table, context.centre_species())[:, None], (rows, width, self.size))
        neighbour = tf.gather(table, context.neighbour_species())
        h = tf.reshape(tf.concat([basis, centre, neighbour], -1), (rows * width, node.n_basis + 2 * self.size))
        for i, w in enumerate(self.weights):
            h = tf.matmul(h, w)
            if i < len(self.biases):
                h = self.activation((h + self.biases[i]) / np.sqrt(w.shape[0]))
            else:
                h = h / np.sqrt(w.shape[0])
        cut = tf.where(distance < node.cutoff, formulas.envelope(x, node.envelope_p), tf.zeros_like(distance))
        cube = tf.reshape(h, (rows, width, self.channels, self.lmax + 1))
        return [part * tf.cast(cut, self.dtype)[..., None] for part in tf.unstack(cube, axis=-1)]

    def __call__(self, context: Context) -> Equivariant:
        """Density."""
        node: Any = self.node
        weights = self._radial(context)
        harmonics = context.value(node.harmonics)
        if not self.equivariant:
            if self.w is not None:
                z = tf.matmul(context.of_elements(context.value(node.indicator)), self.w) / np.sqrt(self.w.shape[0])
                zj = tf.gather(z, context.neighbour_species())
                weights = [w * zj for w in weights]
            density = as_harmonic_blocks(sum_over_bonds(context, weights, harmonics))
        else:
            assert self.w is not None
            assert self.product is not None
            chemistry = tf.matmul(context.of_elements(context.value(node.embedding)), self.w) / np.sqrt(self.size)
            indicator = context.value(node.indicator)
            message = indicator_of_neighbours(
                context, indicator, self.table_of(node.indicator), chemistry, self.scalar_row
            )
            density = contract_pairs(message_density(context, weights, message, harmonics), self.product)
        return divide_by_neighbours(context, density, node.average_neighbours)
