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
from gracecli.model.blocks.base import Block, Context, Equivariant, Variables, block_for, size
from gracecli.model.blueprint import Mix, Product, Reduce
from gracecli.model.couplings import coupling_scale, real_coupling
from gracecli.model.functions import (
    LP,
    Coupling,
    FunctionTable,
    ProductTable,
    couple,
    reduced_table,
    rules_of,
)


def scaled_coupling(l1: int, l2: int, l3: int, normalize: bool) -> np.ndarray:
    """F G^L as a matrix (2L+1, (2l1+1)(2l2+1))."""
    table = real_coupling(l1, l2, l3) * (coupling_scale(l1, l2, l3) if normalize else 1.0)
    return table.reshape(2 * l3 + 1, -1)


@dataclass(frozen=True)
class Bucket:
    """Pairs whose factors have equal degrees and parities.

    ``left`` and ``right`` number the groups within their (l, p) block; ``targets`` are, per degree L, the pairs that
    have a target and its number within the output block.
    """

    left_lp: LP
    right_lp: LP
    left: tuple[int, ...]
    right: tuple[int, ...]
    targets: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]

    @property
    def parity(self) -> int:
        """Parity of all targets."""
        return self.left_lp[1] * self.right_lp[1]


def buckets_of(product: ProductTable) -> list[Bucket]:
    """Group the couplings of a product; pairs that only make scalars are kept apart."""
    found: dict[tuple[LP, LP, bool], list[Coupling]] = {}
    for c in product.couplings:
        a, b = product.left.groups[c.left], product.right.groups[c.right]
        scalar = a.l > 0 and all(L == 0 for L, _ in c.targets)
        found.setdefault(((a.l, a.p), (b.l, b.p), scalar), []).append(c)
    tables = {"left": product.left, "right": product.right, "out": product.output}
    first = {side: {lp: v[1] for lp, v in table.blocks().items()} for side, table in tables.items()}
    result = []
    for (lp1, lp2, _), pairs in found.items():
        degrees = sorted({L for c in pairs for L, _ in c.targets})
        parity = lp1[1] * lp2[1]
        targets = tuple(
            (L, tuple((i, g - first["out"][L, parity]) for i, c in enumerate(pairs) for M, g in c.targets if M == L))
            for L in degrees
        )
        left = tuple(c.left - first["left"][lp1] for c in pairs)
        right = tuple(c.right - first["right"][lp2] for c in pairs)
        result.append(Bucket(lp1, lp2, left, right, targets))
    return result


def take_groups(block: tf.Tensor, groups: Sequence[int]) -> tf.Tensor:
    """Groups of a block [groups, 2l+1, ...]; a single one if they are all the same.

    Only split and stack are used: their gradients are stack and split, whereas a slice is differentiated to a padded
    tensor of full size.
    """
    distinct = list(groups) if len(set(groups)) > 1 else [groups[0]]
    if distinct == list(range(int(block.shape[0]))):
        return block
    pieces = tf.unstack(block, axis=0)
    return tf.stack([pieces[g] for g in distinct], axis=0)


class _Assembly:
    """Collects output groups and stacks them in table order."""

    def __init__(self) -> None:
        self.parts: dict[LP, dict[int, tf.Tensor]] = {}

    def add(self, bucket: Bucket, values: tf.Tensor) -> None:
        """Take [pairs, sum over degrees of (2L+1), X] of a bucket."""
        sizes = [2 * L + 1 for L, _ in bucket.targets]
        by_degree = [values] if len(sizes) == 1 else tf.split(values, sizes, axis=1)
        for (L, pairs), piece in zip(bucket.targets, by_degree, strict=True):
            rows = tf.unstack(piece, axis=0)
            for pair, group in pairs:
                self.parts.setdefault((L, bucket.parity), {})[group] = rows[pair]

    def result(self, n_channels: int) -> Equivariant:
        """Blocks [groups, 2L+1, atoms, channels]."""
        blocks = {}
        for lp, parts in self.parts.items():
            stacked = tf.stack([parts[g] for g in range(len(parts))], axis=0)
            blocks[lp] = tf.reshape(stacked, (len(parts), 2 * lp[0] + 1, -1, n_channels))
        return blocks


def flatten(block: tf.Tensor) -> tf.Tensor:
    """[groups, 2l+1, atoms, n] -> [groups, 2l+1, atoms * n]."""
    return tf.reshape(block, (*block.shape[:2], -1))


def multiply(left: Equivariant, right: Equivariant, product: ProductTable) -> Equivariant:
    """Coupled product, channel by channel."""
    n_channels = int(next(iter(left.values())).shape[3])
    assembly = _Assembly()
    for bucket in buckets_of(product):
        a = take_groups(flatten(left[bucket.left_lp]), bucket.left)
        b = take_groups(flatten(right[bucket.right_lp]), bucket.right)
        l1, l2 = bucket.left_lp[0], bucket.right_lp[0]
        if l1 > 0 and [L for L, _ in bucket.targets] == [0]:
            diagonal = np.diag(scaled_coupling(l1, l2, 0, product.normalize).reshape(2 * l1 + 1, -1))
            weights = tf.constant(diagonal, a.dtype)[:, None]
            assembly.add(bucket, tf.reduce_sum(a * b * weights, axis=1, keepdims=True))
            continue
        outer = a[:, :, None] * b[:, None, :]
        outer = tf.reshape(outer, (int(outer.shape[0]), (2 * l1 + 1) * (2 * l2 + 1), -1))
        matrix = np.concatenate([scaled_coupling(l1, l2, L, product.normalize) for L, _ in bucket.targets])
        if outer.shape[0] == 1:
            values = tf.matmul(tf.constant(matrix, a.dtype), outer[0])[None]
        else:
            values = tf.einsum("uq,pqx->pux", tf.constant(matrix, a.dtype), outer)
        assembly.add(bucket, values)
    return assembly.result(n_channels)


def contract_pairs(densities: dict[int, tf.Tensor], product: ProductTable) -> Equivariant:
    """Couple harmonics of degree l1 with the rows of an indicator.

    Parameters
    ----------
    densities : dict
        l1 -> [2 l1 + 1, rows of the right table, atoms, n].
    """
    n_channels = int(next(iter(densities.values())).shape[3])
    sizes = [g.size for g in product.right.groups]
    pieces = {
        l: tf.split(tf.reshape(t, (2 * l + 1, sum(sizes), -1)), sizes, axis=1) if len(sizes) > 1 else [
            tf.reshape(t, (2 * l + 1, sum(sizes), -1))]
        for l, t in densities.items()
    }  # fmt: skip
    first_out = {lp: v[1] for lp, v in product.output.blocks().items()}
    parts: dict[LP, dict[int, tf.Tensor]] = {}
    for c in product.couplings:
        a, b = product.left.groups[c.left], product.right.groups[c.right]
        block = tf.reshape(pieces[a.l][c.right], (a.size * b.size, -1))
        matrix = np.concatenate([scaled_coupling(a.l, b.l, L, product.normalize) for L, _ in c.targets])
        values = tf.matmul(tf.constant(matrix, block.dtype), block)
        rows = tf.split(values, [2 * L + 1 for L, _ in c.targets], axis=0)
        for (L, group), row in zip(c.targets, rows, strict=True):
            lp = (L, a.p * b.p)
            parts.setdefault(lp, {})[group - first_out[lp]] = row
    assembly = _Assembly()
    assembly.parts = parts
    return assembly.result(n_channels)


@block_for(Product)
class ProductBlock(Block):
    """Coupled product, plain or through low-rank channel maps U, V (and S)."""

    def __init__(self, node: Product, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        left, right = self.table_of(node.left), self.table_of(node.right)
        try:
            self.product = couple(left, right, rules_of(node))
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

    def _mapped(
        self, x: Equivariant, matrix: tf.Tensor, groups: Sequence[int] | None, table: FunctionTable
    ) -> Equivariant:
        """Channel map of every group: matrix[groups[g]] applied to group g (one matrix if groups is None)."""
        result = {}
        for lp, (_, first, count) in table.blocks().items():
            block = x[lp]
            scale = 1.0 / np.sqrt(int(block.shape[-1]))
            if groups is None:
                result[lp] = tf.einsum("gman,rn->gmar", block, matrix) * scale
            else:
                own = tf.gather(matrix, list(groups[first : first + count]))
                result[lp] = tf.einsum("gman,grn->gmar", block, own) * scale
        return result

    def _per_target(self, left: Equivariant, right: Equivariant) -> Equivariant:
        """Mode cp_lL: one pair of matrices per (group, L)."""
        tables = {"l": self.product.left, "r": self.product.right, "o": self.product.output}
        first = {side: {lp: v[1] for lp, v in table.blocks().items()} for side, table in tables.items()}
        assembly = _Assembly()
        for c in self.product.couplings:
            ga, gb = self.product.left.groups[c.left], self.product.right.groups[c.right]
            a = left[ga.l, ga.p][c.left - first["l"][ga.l, ga.p]]
            b = right[gb.l, gb.p][c.right - first["r"][gb.l, gb.p]]
            for L, group in c.targets:
                u, v = self.U[self.left_L[c.left, L]], self.V[self.right_L[c.right, L]]
                x = tf.einsum("man,rn->mar", a, u) / np.sqrt(int(a.shape[-1]))
                y = tf.einsum("man,rn->mar", b, v) / np.sqrt(int(b.shape[-1]))
                matrix = scaled_coupling(ga.l, gb.l, L, self.product.normalize)
                cube = tf.constant(matrix.reshape(2 * L + 1, ga.size, gb.size), a.dtype)
                lp = (L, ga.p * gb.p)
                value = tf.einsum("Mij,iar,jar->Mar", cube, x, y)
                assembly.parts.setdefault(lp, {})[group - first["o"][lp]] = value
        return assembly.result(int(self.U.shape[1]))

    def __call__(self, context: Context) -> Equivariant:
        """Product, block by block."""
        node: Any = self.node
        left, right = context.value(node.left), context.value(node.right)
        if node.mode in ("plain", "elementwise"):
            if node.crop is not None:
                left = {lp: x[..., : self.channels] for lp, x in left.items()}
                right = {lp: x[..., : self.channels] for lp, x in right.items()}
            result = multiply(left, right, self.product)
        elif node.mode == "cp_lL":
            result = self._per_target(left, right)
        else:
            groups = (None, None) if node.mode == "cp" else (self.of_left, self.of_right)
            left = self._mapped(left, self.U, groups[0], self.product.left)
            right = self._mapped(right, self.V, groups[1], self.product.right)
            result = multiply(left, right, self.product)
        if self.S is not None:
            scale = 1.0 / np.sqrt(int(self.S.shape[1]))
            result = {lp: tf.einsum("gmar,kr->gmak", x, self.S) * scale for lp, x in result.items()}
        return result


def by_element(context: Context, make: Any, weights: tf.Tensor) -> tf.Tensor:
    """Evaluate ``make(weights of one element)`` for the elements of the batch and select per atom.

    ``weights`` has a leading axis over all elements of the model; results are [..., atoms, channels]. With one
    element in the batch nothing is selected.
    """
    own = context.of_elements(weights)
    if context.n_elements == 1:
        return make(own[0])
    total = None
    for w, indicator in zip(tf.unstack(own), tf.unstack(context.one_hot()), strict=True):
        term = make(w) * indicator
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

    def _left(self, x: Equivariant, w: tf.Tensor) -> Equivariant:
        """Left term: per group one matrix."""
        w = tf.transpose(w, (2, 1, 0))
        assert self.table is not None
        blocks = self.table.blocks()
        own = tf.split(w, [v[2] for v in blocks.values()], axis=0)
        result = {}
        for (lp, (_, _, count)), matrix in zip(blocks.items(), own, strict=True):
            block = x[lp]
            rows = tf.reshape(block, (count, -1, int(block.shape[-1])))
            d, n_out = int(block.shape[1]), int(w.shape[2])
            result[lp] = tf.reshape(tf.matmul(rows, matrix), (count, d, size(block, 2), n_out))
        return result

    def _right(self, x: Equivariant, w: tf.Tensor) -> Equivariant:
        """Right term: all right groups of equal (l, p) feed every left group."""
        w = tf.transpose(w, (2, 1, 0))
        channels = int(w.shape[2])
        assert self.table is not None
        blocks = self.table.blocks()
        counts = [int(self.first_pair[v[1] + v[2]] - self.first_pair[v[1]]) for v in blocks.values()]
        result = {}
        for (lp, (_, _, count)), pairs in zip(blocks.items(), tf.split(w, counts, axis=0), strict=True):
            if lp not in x:
                continue
            block = x[lp]
            n_right, d, n_atoms, n_in = (size(block, axis) for axis in range(4))
            # stack the right groups along channels: one matrix product makes all left groups
            source = block[0] if n_right == 1 else tf.transpose(block, (1, 2, 0, 3))
            source = tf.reshape(source, (d * n_atoms, n_right * n_in))
            matrix = tf.transpose(tf.reshape(pairs, (count, n_right * n_in, channels)), (1, 0, 2))
            out = tf.matmul(source, tf.reshape(matrix, (n_right * n_in, count * channels)))
            out = tf.transpose(tf.reshape(out, (d * n_atoms, count, channels)), (1, 0, 2))
            result[lp] = tf.reshape(out, (count, d, n_atoms, channels))
        return result

    def __call__(self, context: Context) -> Equivariant:
        """Mixed tensor, block by block."""
        node: Any = self.node
        left, right = context.value(node.left), context.value(node.right)
        first = self._term(context, self._left, left, self.w_left, self.scale_left, node.element_left)
        second = self._term(context, self._right, right, self.w_right, self.scale_right, node.element_right)
        result = {}
        assert self.table is not None
        for lp, (_, group, _) in self.table.blocks().items():
            total = first[lp] + second[lp] if lp in second else first[lp]
            factor = self.factors[group]
            result[lp] = total if factor == 1.0 else total * tf.constant(factor, total.dtype)
        return result

    def _term(
        self, context: Context, apply: Any, x: Equivariant, w: tf.Tensor | None, scale: float, dependent: bool
    ) -> Equivariant:
        """One of the two terms; weights may depend on the central element."""
        if w is None:
            return x
        w = w * tf.constant(scale, w.dtype)
        if not dependent:
            return apply(x, w)
        per_element = [apply(x, m) for m in tf.unstack(context.of_elements(w))]
        masks = tf.unstack(context.one_hot())
        return {lp: tf.add_n([e[lp] * m for e, m in zip(per_element, masks, strict=True)]) for lp in per_element[0]}


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

    def _part(self, context: Context, lp: LP) -> tuple[tf.Tensor, int]:
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
            # the collected groups of one (l, p) are the whole block, in order
            block = context.value(source)[lp]
            n_in = int(block.shape[0]) * int(block.shape[3])
            columns.append(tf.reshape(tf.transpose(block, (1, 2, 0, 3)), (d * context.n_atoms, n_in)))
            w = tf.gather(weight, chosen, axis=-1) * tf.constant(scale, weight.dtype)
            lead = tuple(w.shape[:-3])
            order = (0, 3, 2, 1) if lead else (2, 1, 0)
            matrices.append(tf.reshape(tf.transpose(w, order), (*lead, -1, node.n_out)))
        if not count:
            return tf.zeros((1, d, context.n_atoms, node.n_out), self.dtype), 0
        x = tf.concat(columns, axis=-1)
        matrix = tf.concat(matrices, axis=-2)

        def apply(m: tf.Tensor) -> tf.Tensor:
            return tf.reshape(tf.matmul(x, m), (1, d, context.n_atoms, node.n_out))

        return (by_element(context, apply, matrix) if node.element_dependent else apply(matrix)), count

    def __call__(self, context: Context) -> Equivariant:
        """Reduced tensor, one group per (l, p)."""
        node: Any = self.node
        result = {}
        assert self.table is not None
        for group in self.table.groups:
            value, count = self._part(context, (group.l, group.p))
            value = value + node.initial_value if node.initial_value else value
            result[group.l, group.p] = value / np.sqrt(count) if node.output_norm and count else value
        return result


__all__ = ["MixBlock", "ProductBlock", "ReduceBlock", "contract_pairs", "multiply"]
