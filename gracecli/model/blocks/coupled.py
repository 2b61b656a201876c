"""Blocks that act on equivariant tensors of one atom: products, channel mixing, reductions.

A product couples pairs of groups, ``out[M] = sum_(m1,m2) F G^L[M, m1, m2] left[m1] right[m2]``. Pairs are bucketed by
the degrees and parities of their factors: per bucket one outer product and one small matrix product with the constant
``G`` of all targets; pairs that only make scalars skip the outer product (G^0 is diagonal).

See :mod:`gracecli.model.functions` for tables, spec 7.4 to 7.6 for the equations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from gracecli.errors import ModelError
from gracecli.model.blocks.base import Block, Context, Variables, block_for
from gracecli.model.blueprint import Mix, Product, Reduce
from gracecli.model.couplings import coupling_scale, real_coupling
from gracecli.model.functions import (
    Coupling,
    CouplingRules,
    FunctionTable,
    ProductTable,
    couple,
    natural_parities,
    reduced_table,
)


def scaled_coupling(l1: int, l2: int, l3: int, normalize: bool) -> np.ndarray:
    """F G^L as a matrix (2L+1, (2l1+1)(2l2+1))."""
    table = real_coupling(l1, l2, l3) * (coupling_scale(l1, l2, l3) if normalize else 1.0)
    return table.reshape(2 * l3 + 1, -1)


@dataclass(frozen=True)
class Bucket:
    """Pairs whose factors have equal degrees and parities."""

    l1: int
    l2: int
    left: tuple[int, ...]
    right: tuple[int, ...]
    degrees: tuple[int, ...]
    outputs: tuple[tuple[int, int, int], ...]
    """(pair in the bucket, degree, group in the output table)."""


def buckets_of(product: ProductTable) -> list[Bucket]:
    """Group the couplings of a product."""
    found: dict[tuple[int, int, int, int, bool], list[Coupling]] = {}
    for c in product.couplings:
        a, b = product.left.groups[c.left], product.right.groups[c.right]
        scalar = a.l > 0 and all(L == 0 for L, _ in c.targets)
        found.setdefault((a.l, a.p, b.l, b.p, scalar), []).append(c)
    result = []
    for (l1, _, l2, _, _), pairs in found.items():
        degrees = tuple(sorted({L for c in pairs for L, _ in c.targets}))
        outputs = tuple((i, L, group) for i, c in enumerate(pairs) for L, group in c.targets)
        left, right = tuple(c.left for c in pairs), tuple(c.right for c in pairs)
        result.append(Bucket(l1, l2, left, right, degrees, outputs))
    return result


def take_groups(x: tf.Tensor, table: FunctionTable, groups: Sequence[int]) -> tf.Tensor:
    """Groups of one degree from [functions, ...]: [len(groups), 2l+1, ...], one group if they are all the same."""
    size = table.groups[groups[0]].size
    offsets = table.offsets
    distinct = list(groups) if len(set(groups)) > 1 else [groups[0]]
    if distinct == list(range(distinct[0], distinct[0] + len(distinct))):
        start = offsets[distinct[0]]
        return tf.reshape(x[start : start + size * len(distinct)], (len(distinct), size, *x.shape[1:]))
    return tf.stack([x[offsets[g] : offsets[g] + size] for g in distinct])


def assemble(parts: dict[int, tf.Tensor], table: FunctionTable) -> tf.Tensor:
    """Concatenate group tensors [2l+1, ...] in the order of the table."""
    return tf.concat([parts[g] for g in range(len(table.groups))], axis=0)


def _spread(bucket: Bucket, values: tf.Tensor, parts: dict[int, tf.Tensor]) -> None:
    """Cut [pairs, sum of (2L+1), ...] into the output groups of a bucket."""
    first = dict(zip(bucket.degrees, np.cumsum([0] + [2 * L + 1 for L in bucket.degrees])[:-1].tolist(), strict=True))
    for pair, L, group in bucket.outputs:
        parts[group] = values[pair, first[L] : first[L] + 2 * L + 1]


def multiply(left: tf.Tensor, right: tf.Tensor, product: ProductTable) -> tf.Tensor:
    """Coupled product of [F1, atoms, n] and [F2, atoms, n] -> [F3, atoms, n]."""
    n_atoms, channels = int(left.shape[1]), int(left.shape[2])
    flat = n_atoms * channels
    left, right = tf.reshape(left, (-1, flat)), tf.reshape(right, (-1, flat))
    parts: dict[int, tf.Tensor] = {}
    for bucket in buckets_of(product):
        a = take_groups(left, product.left, bucket.left)
        b = take_groups(right, product.right, bucket.right)
        if bucket.degrees == (0,):
            diagonal = np.diag(
                scaled_coupling(bucket.l1, bucket.l2, 0, product.normalize).reshape(2 * bucket.l1 + 1, -1)
            )
            if np.ptp(diagonal) < 1e-14:
                values = tf.reduce_sum(a * b, axis=1, keepdims=True) * tf.constant(diagonal[0], left.dtype)
            else:
                values = tf.reduce_sum(a * b * tf.constant(diagonal, left.dtype)[:, None], axis=1, keepdims=True)
            _spread(bucket, values, parts)
            continue
        outer = a[:, :, None] * b[:, None, :]
        outer = tf.reshape(outer, (outer.shape[0], -1, flat))
        matrix = np.concatenate([scaled_coupling(bucket.l1, bucket.l2, L, product.normalize) for L in bucket.degrees])
        values = tf.einsum("uq,pqx->pux", tf.constant(matrix, left.dtype), outer)
        _spread(bucket, values, parts)
    return tf.reshape(assemble(parts, product.output), (-1, n_atoms, channels))


def contract_pairs(density: tf.Tensor, product: ProductTable) -> tf.Tensor:
    """Couple the two function axes of a density [F1, F2, atoms, n] -> [F3, atoms, n]."""
    n_atoms, channels = int(density.shape[2]), int(density.shape[3])
    density = tf.reshape(density, (*density.shape[:2], n_atoms * channels))
    parts: dict[int, tf.Tensor] = {}
    offsets1, offsets2 = product.left.offsets, product.right.offsets
    for c in product.couplings:
        a, b = product.left.groups[c.left], product.right.groups[c.right]
        block = density[offsets1[c.left] : offsets1[c.left] + a.size, offsets2[c.right] : offsets2[c.right] + b.size]
        block = tf.reshape(block, (a.size * b.size, -1))
        matrix = np.concatenate([scaled_coupling(a.l, b.l, L, product.normalize) for L, _ in c.targets])
        values = tf.matmul(tf.constant(matrix, density.dtype), block)
        row = 0
        for L, group in c.targets:
            parts[group] = values[row : row + 2 * L + 1]
            row += 2 * L + 1
    return tf.reshape(assemble(parts, product.output), (-1, n_atoms, channels))


@block_for(Product)
class ProductBlock(Block):
    """Coupled product, plain or through low-rank channel maps U, V (and S)."""

    def __init__(self, node: Product, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        left, right = self.table_of(node.left), self.table_of(node.right)
        same = node.left == node.right if node.same is None else node.same
        rules = CouplingRules(
            lmax=node.lmax, Lmax=node.Lmax, normalize=node.normalize, same=same, tagged=node.mode != "plain",
            keep_parity=None if node.keep_parity is None else frozenset(node.keep_parity),
            lmax_left=node.lmax_left, lmax_right=node.lmax_right, history_left=node.history_left,
            history_right=node.history_right, max_sum_l=node.max_sum_l, dropped=frozenset(node.dropped),
        )  # fmt: skip
        try:
            self.product = couple(left, right, rules)
        except ValueError as error:
            raise ModelError(f"model: node {node.name!r}: {error}") from error
        if not self.product.couplings:
            raise ModelError(f"model: product {node.name!r} has no functions within its limits")
        self.table = self.product.output
        n_left, n_right = self.channels_of(node.left), self.channels_of(node.right)
        if node.mode in ("plain", "elementwise"):
            if node.crop is None and n_left != n_right:
                raise ModelError(f"model: product {node.name!r} couples {n_left} with {n_right} channels")
            self.channels = n_left if node.crop is None else min(node.crop, n_left, n_right)
            rank = self.channels
        else:
            if node.rank is None:
                raise ModelError(f"model: product {node.name!r} in mode {node.mode} needs a rank")
            rank = node.rank
            self.channels = node.n_out if node.use_S and node.n_out is not None else rank
            self._low_rank(node, rank, n_left, n_right)
        low_rank = node.mode not in ("plain", "elementwise")
        self.S = self.variable("S", (self.channels, rank)) if node.use_S and low_rank else None

    def _low_rank(self, node: Product, rank: int, n_left: int, n_right: int) -> None:
        """Variables U, V and, per group (or per group and L), which of their matrices applies."""
        left, right = self.product.left, self.product.right
        if node.mode == "cp":
            self.U, self.V = self.variable("U", (rank, n_left)), self.variable("V", (rank, n_right))
            return
        if node.mode == "cp_l":
            order = {
                side: sorted(range(len(t.groups)), key=lambda i, t=t: (t.groups[i].l, t.groups[i].label, t.groups[i].p))  # type: ignore[misc]
                for side, t in (("left", left), ("right", right))
            }
            self.of_left = [order["left"].index(i) for i in range(len(left.groups))]
            self.of_right = [order["right"].index(i) for i in range(len(right.groups))]
            counts = len(left.groups), len(right.groups)
        elif node.mode == "cp_lL":
            by_target = sorted((group, L, c) for c in self.product.couplings for L, group in c.targets)
            self.left_L: dict[tuple[int, int], int] = {}
            self.right_L: dict[tuple[int, int], int] = {}
            for _, L, c in by_target:
                self.left_L.setdefault((c.left, L), len(self.left_L))
                self.right_L.setdefault((c.right, L), len(self.right_L))
            counts = len(self.left_L), len(self.right_L)
        else:
            raise ModelError(f"model: product {node.name!r} has the unknown mode {node.mode!r}")
        self.U = self.variable("U", (counts[0], rank, n_left))
        self.V = self.variable("V", (counts[1], rank, n_right))

    def _mapped(self, x: tf.Tensor, matrix: tf.Tensor, groups: Sequence[int] | None, table: FunctionTable) -> tf.Tensor:
        """Channel map of every group: matrix[groups[g]] applied to group g (one matrix if groups is None)."""
        scale = 1.0 / np.sqrt(int(x.shape[-1]))
        if groups is None:
            return tf.einsum("fan,rn->far", x, matrix) * scale
        per_row = [groups[i] for i, g in enumerate(table.groups) for _ in range(g.size)]
        return tf.matmul(x, tf.gather(matrix, per_row), transpose_b=True) * scale

    def _per_target(self, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        """Mode cp_lL: one pair of matrices per (group, L)."""
        parts: dict[int, tf.Tensor] = {}
        for c in self.product.couplings:
            for L, group in c.targets:
                a = take_groups(left, self.product.left, [c.left])[0]
                b = take_groups(right, self.product.right, [c.right])[0]
                u, v = self.U[self.left_L[c.left, L]], self.V[self.right_L[c.right, L]]
                a = tf.einsum("man,rn->mar", a, u) / np.sqrt(int(a.shape[-1]))
                b = tf.einsum("man,rn->mar", b, v) / np.sqrt(int(b.shape[-1]))
                matrix = scaled_coupling((a.shape[0] - 1) // 2, (b.shape[0] - 1) // 2, L, self.product.normalize)
                cube = tf.constant(matrix.reshape(2 * L + 1, a.shape[0], b.shape[0]), a.dtype)
                parts[group] = tf.einsum("Mij,iar,jar->Mar", cube, a, b)
        return assemble(parts, self.product.output)

    def __call__(self, context: Context) -> tf.Tensor:
        """Product, [functions, atoms, channels]."""
        node: Any = self.node
        left, right = context.value(node.left), context.value(node.right)
        if node.mode in ("plain", "elementwise"):
            if node.crop is not None:
                left, right = left[..., : self.channels], right[..., : self.channels]
            result = multiply(left, right, self.product)
        elif node.mode == "cp_lL":
            result = self._per_target(left, right)
        else:
            groups = (None, None) if node.mode == "cp" else (self.of_left, self.of_right)
            left = self._mapped(left, self.U, groups[0], self.product.left)
            right = self._mapped(right, self.V, groups[1], self.product.right)
            result = multiply(left, right, self.product)
        if self.S is not None:
            result = tf.einsum("far,kr->fak", result, self.S) / np.sqrt(int(self.S.shape[1]))
        return result


def by_element(context: Context, make: Any, weights: tf.Tensor, axis: int) -> tf.Tensor:
    """Evaluate ``make(weights of one element)`` for the elements of the batch and select per atom.

    ``weights`` has a leading axis over all elements of the model; ``axis`` is the atom axis of the result. With one
    element in the batch nothing is selected.
    """
    own = context.of_elements(weights)
    if context.n_elements == 1:
        return make(own[0])
    shape = [1, 1, 1]
    shape[axis] = -1
    total = None
    for e in range(context.n_elements):
        term = make(own[e]) * tf.reshape(context.one_hot()[e], shape)
        total = term if total is None else total + term
    return total


@block_for(Mix)
class MixBlock(Block):
    """out_u = c_u (left_u W_u + sum over right groups of equal (l, p))."""

    def __init__(self, node: Mix, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        left, right = self.table_of(node.left), self.table_of(node.right)
        self.table, self.right_table = left, right
        n_left, n_right = self.channels_of(node.left), self.channels_of(node.right)
        self.channels = n_left if node.n_out is None else node.n_out
        if not node.left_weights and self.channels != n_left:
            raise ModelError(f"model: node {node.name!r} keeps the left tensor but changes its channels")
        right_blocks = right.blocks()
        matches = [right_blocks.get((g.l, g.p), (0, 0, 0))[2] for g in left.groups]
        self.first_pair = np.concatenate([[0], np.cumsum(matches)]).astype(int)
        n_el = (None,)
        self.w_left = None
        if node.left_weights:
            shape = (self.channels, n_left, len(left.groups))
            self.w_left = self.variable("w_left", (*n_el, *shape) if node.element_left else shape)
        shape = (self.channels, n_right, int(self.first_pair[-1]))
        self.w_right = self.variable("w_right", (*n_el, *shape) if node.element_right else shape)
        self.factors = [1.0 / np.sqrt(1 + m) if node.output_norm else 1.0 for m in matches]
        self.scale_left = 1.0 / np.sqrt(n_left) if node.normalize else 1.0
        self.scale_right = 1.0 / np.sqrt(n_right) if node.normalize else 1.0

    def _left(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """Left term without normalisation: per group one matrix."""
        w = tf.transpose(w, (2, 1, 0))
        n_atoms = int(x.shape[1])
        parts = []
        assert self.table is not None
        for (l, _), (row, first, count) in self.table.blocks().items():
            d = 2 * l + 1
            block = tf.reshape(x[row : row + d * count], (count, d * n_atoms, -1))
            parts.append(tf.reshape(tf.matmul(block, w[first : first + count]), (d * count, n_atoms, -1)))
        return tf.concat(parts, axis=0)

    def _right(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """Right term: all right groups of equal (l, p) feed every left group."""
        w = tf.transpose(w, (2, 1, 0))
        n_atoms, channels = int(x.shape[1]), int(w.shape[2])
        blocks = self.right_table.blocks()
        parts = []
        assert self.table is not None
        for lp, (_, first, count) in self.table.blocks().items():
            d = 2 * lp[0] + 1
            if lp not in blocks:
                parts.append(tf.zeros((d * count, n_atoms, channels), x.dtype))
                continue
            row, _, n_right = blocks[lp]
            pairs = w[int(self.first_pair[first]) : int(self.first_pair[first + count])]
            # stack the right groups along channels: one matrix product makes all left groups
            source = tf.transpose(tf.reshape(x[row : row + d * n_right], (n_right, d * n_atoms, -1)), (1, 0, 2))
            source = tf.reshape(source, (d * n_atoms, -1))
            matrix = tf.reshape(pairs, (count, -1, channels))
            out = tf.matmul(source, tf.reshape(tf.transpose(matrix, (1, 0, 2)), (-1, count * channels)))
            out = tf.transpose(tf.reshape(out, (d * n_atoms, count, channels)), (1, 0, 2))
            parts.append(tf.reshape(out, (count * d, n_atoms, channels)))
        return tf.concat(parts, axis=0)

    def __call__(self, context: Context) -> tf.Tensor:
        """Mixed tensor, [functions, atoms, channels]."""
        node: Any = self.node
        left, right = context.value(node.left), context.value(node.right)
        factors = np.repeat(self.factors, [g.size for g in self.table.groups])  # type: ignore[union-attr]
        if self.w_left is None:
            first = left
        elif node.element_left:
            first = by_element(context, lambda w: self._left(left, w), self.w_left * self.scale_left, 1)
        else:
            first = self._left(left, self.w_left * self.scale_left)
        if node.element_right:
            second = by_element(context, lambda w: self._right(right, w), self.w_right * self.scale_right, 1)
        else:
            second = self._right(right, self.w_right * self.scale_right)
        total = first + second
        return total if np.all(factors == 1.0) else total * tf.constant(factors, total.dtype)[:, None, None]


@block_for(Reduce)
class ReduceBlock(Block):
    """Linear map of the collected groups and channels to one group per (l, p)."""

    def __init__(self, node: Reduce, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        tables = [self.table_of(s) for s in node.sources]
        if len(node.lmax) != len(node.sources):
            raise ModelError(f"model: node {node.name!r} needs one lmax per source")
        self.table, self.collected = reduced_table(zip(tables, node.lmax, strict=True), frozenset(node.allowed))
        self.channels = node.n_out
        self.weights, self.scales = [], []
        for source, groups in zip(node.sources, self.collected, strict=True):
            n_in = self.channels_of(source)
            shape: tuple[int | None, ...] = (node.n_out, n_in, len(groups))
            self.weights.append(
                self.variable(f"reducing_{source}", (None, *shape) if node.element_dependent else shape)
            )
            self.scales.append(node.scale / np.sqrt(n_in) if node.normalize else 1.0)

    def _part(self, context: Context, lp: tuple[int, int]) -> tuple[tf.Tensor, int]:
        """One output group: all (source, group) columns of equal (l, p) stacked along channels."""
        node: Any = self.node
        d = 2 * lp[0] + 1
        columns, matrices, count = [], [], 0
        for source, groups, weight, scale in zip(node.sources, self.collected, self.weights, self.scales, strict=True):
            table = self.table_of(source)
            chosen = [w for w, g in enumerate(groups) if (table.groups[g].l, table.groups[g].p) == lp]
            if not chosen:
                continue
            count += len(chosen)
            value = context.value(source)
            x = take_groups(value, table, [groups[w] for w in chosen])
            columns.append(tf.reshape(tf.transpose(x, (1, 2, 0, 3)), (d, context.n_atoms, -1)))
            w = tf.gather(weight, chosen, axis=-1) * tf.constant(scale, weight.dtype)
            lead = tuple(w.shape[:-3])
            order = (0, 3, 2, 1) if lead else (2, 1, 0)
            matrices.append(tf.reshape(tf.transpose(w, order), (*lead, -1, node.n_out)))
        if not count:
            return tf.zeros((d, context.n_atoms, node.n_out), self.dtype), 0
        x = tf.reshape(tf.concat(columns, axis=-1), (d * context.n_atoms, -1))
        matrix = tf.concat(matrices, axis=-2)

        def apply(m: tf.Tensor) -> tf.Tensor:
            return tf.reshape(tf.matmul(x, m), (d, context.n_atoms, node.n_out))

        return (by_element(context, apply, matrix, 1) if node.element_dependent else apply(matrix)), count

    def __call__(self, context: Context) -> tf.Tensor:
        """Reduced tensor, [functions, atoms, n_out]."""
        node: Any = self.node
        parts = []
        assert self.table is not None
        for group in self.table.groups:
            value, count = self._part(context, (group.l, group.p))
            value = value + node.initial_value if node.initial_value else value
            parts.append(value / np.sqrt(count) if node.output_norm and count else value)
        return tf.concat(parts, axis=0)


__all__ = ["MixBlock", "ProductBlock", "ReduceBlock", "contract_pairs", "multiply", "natural_parities"]
