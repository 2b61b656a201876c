"""Normalisation and gating blocks (spec 7.7, 13).

Equations::

    full:          x s / sqrt(mean_n x^2 + 1e-10)
    only_nonlin:   channel 0 unchanged, channels 1.. normalised among themselves
    equivariant:   x a_(g)[n] / sqrt(N + eps),   N = mean_n sum_f d_f x[n, f]^2
    gate:          x[n, f] sigmoid(t[n, group(f)])

Symbol -> variable: s -> ``scale``; a -> ``affine_weight``; d_f -> ``degree_weight``; t -> ``logits``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from gracecli.errors import ModelError
from gracecli.model.blocks.base import Block, Context, Equivariant, Variables, block_for, rows_of, size
from gracecli.model.blueprint import EquivariantNorm, Gate, InvariantNorm
from gracecli.model.functions import FunctionTable


def _rms_scaled(x: tf.Tensor, scale: tf.Tensor, epsilon: float) -> tf.Tensor:
    return x * scale / tf.sqrt(tf.reduce_mean(x * x, axis=-1, keepdims=True) + epsilon)


@block_for(InvariantNorm)
class InvariantNormBlock(Block):
    """RMS normalisation of the channels of one scalar function."""

    def __init__(self, node: InvariantNorm, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.table = self.table_of(node.source)
        if len(self.table) != 1:
            raise ModelError(f"model: node {node.name!r} normalises scalars, its input has {len(self.table)} functions")
        if node.mode not in ("full", "only_nonlin", "sep_lin_gate"):
            raise ModelError(f"model: node {node.name!r} has the unknown mode {node.mode!r}")
        self.channels = self.channels_of(node.source)
        n = self.channels if node.mode == "full" else self.channels - 1
        self.scale = self.variable("scale", (1, n, 1))
        self.lin_scale = self.variable("lin_scale", (1, 1)) if node.mode == "sep_lin_gate" else None

    def __call__(self, context: Context) -> Equivariant:
        """Normalised scalars."""
        return {lp: self._scaled(x) for lp, x in context.value(self.node.source).items()}  # type: ignore[attr-defined]

    def _scaled(self, x: tf.Tensor) -> tf.Tensor:
        node: Any = self.node
        scale = tf.reshape(self.scale, (-1,))
        if node.mode == "full":
            return _rms_scaled(x, scale, 1e-10)
        linear, rest = tf.split(x, [1, self.channels - 1], axis=-1)
        if self.lin_scale is not None:
            linear = linear * self.lin_scale[0, 0]
        return tf.concat([linear, _rms_scaled(rest, scale, 1e-10)], axis=-1)


def _as_blocks(rows: tf.Tensor, table: FunctionTable) -> Equivariant:
    """Rows [functions, atoms, channels] back to blocks."""
    blocks = table.blocks()
    parts = tf.split(rows, [v[2] * (2 * lp[0] + 1) for lp, v in blocks.items()], axis=0)
    return {
        lp: tf.reshape(part, (v[2], 2 * lp[0] + 1, size(part, 1), int(part.shape[2])))
        for (lp, v), part in zip(blocks.items(), parts, strict=True)
    }


def _per_row(table: FunctionTable, values: list[float]) -> np.ndarray:
    """Repeat one value per group over the rows of the group."""
    return np.repeat(np.asarray(values), [g.size for g in table.groups])


@block_for(EquivariantNorm)
class EquivariantNormBlock(Block):
    """RMS normalisation of an equivariant tensor, one number per atom."""

    def __init__(self, node: EquivariantNorm, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.table = self.table_of(node.source)
        self.channels = self.channels_of(node.source)
        groups = self.table.groups
        self.affine = self.variable("affine_weight", (len(groups), self.channels))
        self.bias = None
        if node.center and node.center_bias:
            self.bias = self.variable("l0_bias", (1, self.channels, len(self.table)))
        self.epsilon = 1e-12 if self.dtype == tf.float64 else 1e-8
        self.scalar = _per_row(self.table, [float(g.l == 0) for g in groups])
        self.rows_of_degree = {l: sum(g.size for g in groups if g.l == l) for l in sorted({g.l for g in groups})}

    def _weights(self, degrees: list[int]) -> np.ndarray:
        """d_f restricted to the given degrees."""
        node: Any = self.node
        assert self.table is not None
        total = sum(self.rows_of_degree[l] for l in degrees)
        values = []
        for g in self.table.groups:
            if g.l not in degrees:
                values.append(0.0)
            elif node.balance_degrees or node.split:
                values.append(1.0 / (self.rows_of_degree[g.l] * len(degrees)))
            else:
                values.append(1.0 / total)
        return _per_row(self.table, values)

    def _inverse_norm(self, x: tf.Tensor, degrees: list[int]) -> tf.Tensor:
        weights = tf.constant(self._weights(degrees), x.dtype)[:, None, None]
        norm = tf.reduce_mean(tf.reduce_sum(weights * x * x, axis=0, keepdims=True), axis=-1, keepdims=True)
        return tf.math.rsqrt(norm + self.epsilon)

    def __call__(self, context: Context) -> Equivariant:
        """Normalised tensor."""
        node: Any = self.node
        assert self.table is not None
        x = rows_of(context.value(node.source), self.table)
        scalar = tf.constant(self.scalar, x.dtype)[:, None, None]
        if node.center:
            x = x - scalar * tf.reduce_mean(x, axis=-1, keepdims=True)
        degrees = list(self.rows_of_degree)
        affine = tf.repeat(self.affine, [g.size for g in self.table.groups], axis=0)[:, None, :]
        if node.scalars_only:
            factor = scalar * affine * self._inverse_norm(x, [0]) + (1.0 - scalar)
        elif node.split:
            higher = [l for l in degrees if l > 0]
            factor = scalar * self._inverse_norm(x, [0])
            if higher:
                factor = factor + (1.0 - scalar) * self._inverse_norm(x, higher)
            factor = factor * affine
        else:
            factor = affine * self._inverse_norm(x, degrees)
        out = x * factor
        if self.bias is not None:
            out = out + scalar * tf.transpose(self.bias[0])[:, None, :]
        return _as_blocks(out, self.table)


@block_for(Gate)
class GateBlock(Block):
    """Sigmoid gate of every group, driven by the scalars."""

    def __init__(self, node: Gate, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.table = self.table_of(node.source)
        self.channels = self.channels_of(node.source)
        self.rows = [o for g, o in zip(self.table.groups, self.table.offsets, strict=True) if g.l == 0]
        n0, n_groups = len(self.rows), len(self.table.groups)
        self.mix = None
        if node.mix_channels:
            self.mix = (
                self.variable("mix_weight", (self.channels, node.mix_channels)),
                self.variable("mix_weight_back", (node.mix_channels, self.channels)),
            )
        sizes = [n0, n_groups] if node.hidden is None else [n0, node.hidden, n_groups]
        suffixes = [""] if node.hidden is None else ["1", "2"]
        weight, bias = ("gate_weight", "gate_bias") if node.hidden is None else ("gate_w", "gate_b")
        self.layers = [
            (self.variable(weight + s, (a, b)), self.variable(bias + s, (b,)) if node.bias else None)
            for s, a, b in zip(suffixes, sizes, sizes[1:], strict=False)
        ]

    def __call__(self, context: Context) -> Equivariant:
        """Gated tensor."""
        node: Any = self.node
        assert self.table is not None
        x = rows_of(context.value(node.source), self.table)
        h = tf.transpose(tf.gather(x, self.rows), (1, 2, 0))
        if self.mix is not None:
            forth, back = self.mix
            h = tf.nn.silu(tf.einsum("anf,nk->akf", h, forth) / np.sqrt(int(forth.shape[0])))
            h = tf.einsum("akf,kn->anf", h, back) / np.sqrt(int(back.shape[0]))
        for i, (w, b) in enumerate(self.layers):
            h = tf.einsum("anf,fg->ang", h, w) / np.sqrt(int(w.shape[0]))
            h = h if b is None else h + b
            h = tf.nn.silu(h) if i + 1 < len(self.layers) else h
        gates = tf.repeat(tf.transpose(tf.sigmoid(h), (2, 0, 1)), [g.size for g in self.table.groups], axis=0)
        return _as_blocks(x * gates, self.table)
