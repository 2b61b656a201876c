"""Coupled products, plain and through low-rank channel maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from grace_native.lowering.base import Kernels, LoweringBase
from grace_native.program import Array, Code, LinearBlock, LinearTerm, Operation, Tensor
from gracecli.model.blueprint import Product
from gracecli.model.couplings import coupling_scale, real_coupling


class ProductSteps(LoweringBase):
    """Product."""

    def _product(self, node: Product) -> None:
        phase, info = self.phase(node.name), self.info(node.name)
        left, right = self.tensors[node.left], self.tensors[node.right]
        couplings = self.analysis.couplings(node.name)
        assert info.product is not None
        entries = [(c.left, c.right, L, target) for c in couplings for L, target in c.targets]
        left_rows = {(c, L): left.row_of[c] for c, _, L, _ in entries}
        right_rows = {(c, L): right.row_of[c] for _, c, L, _ in entries}
        if node.mode not in ("plain", "elementwise"):
            left, left_rows = self._mapped(
                node, "U", left, info.product.left, [(a, b, L, t) for a, b, L, t in entries], 0
            )
            right, right_rows = self._mapped(node, "V", right, info.product.right, entries, 1)
        rank = info.channels
        if node.mode not in ("plain", "elementwise") and node.use_S:
            assert node.rank is not None
            rank = node.rank
        out = self.own(node)
        target = (
            out
            if rank == info.channels and not self._has_S(node)
            else self.tensor(f"{node.name} before S", rank, sorted(info.needed), info.table)
        )
        self._multiply(phase, node, entries, left, left_rows, right, right_rows, target)
        if target is not out:
            s = self.w(f"{node.name}/S") / np.sqrt(rank)
            blocks = [
                LinearBlock(
                    out.at(g), out.channels, info.table.groups[g].size, False, [LinearTerm(target.at(g), rank, s)]
                )
                for g in sorted(out.row_of)
            ]
            groups = sorted(out.row_of)
            self.linear(phase, blocks, [[(target, g)] for g in groups], [(out, g) for g in groups], info.table)

    def _has_S(self, node: Product) -> bool:
        return node.mode not in ("plain", "elementwise") and node.use_S

    def _mapped(
        self, node: Product, name: str, source: Tensor, table: Any, entries: list[tuple[int, int, int, int]], side: int
    ) -> tuple[Tensor, dict[tuple[int, int], int]]:
        """Low-rank channel map of one factor: its tensor and the first row of (group, target degree)."""
        phase = self.phase(node.name)
        matrix = self.w(f"{node.name}/{name}") / np.sqrt(source.channels)
        assert node.rank is not None
        own_phase_table = _MappedTable()
        rows: dict[tuple[int, int], int] = {}
        maps: dict[Any, tuple[int, Array]] = {}  # what is mapped -> (group, weights)
        if node.mode == "cp_lL":
            product = self.info(node.name).product
            assert product is not None
            numbers: dict[tuple[int, int], int] = {}
            by_target = sorted((g, L, (c.left, c.right)[side]) for c in product.couplings for L, g in c.targets)
            for _, L, group in by_target:
                numbers.setdefault((group, L), len(numbers))
            for entry in entries:
                key = (entry[side], entry[2])
                maps.setdefault(key, (entry[side], matrix[numbers[key]]))
        else:
            order = sorted(
                range(len(table.groups)), key=lambda i: (table.groups[i].l, table.groups[i].label, table.groups[i].p)
            )
            for entry in entries:
                g = entry[side]
                maps.setdefault(g, (g, matrix if node.mode == "cp" else matrix[order.index(g)]))
        row_of, row = {}, 0
        for number, (key, (g, _)) in enumerate(maps.items()):
            row_of[number] = row
            own_phase_table.groups.append(table.groups[g])
            for entry in entries:
                if entry[side] == g and (node.mode != "cp_lL" or key == (g, entry[2])):
                    rows[g, entry[2]] = row
            row += table.groups[g].size
        mapped = Tensor(f"{node.name} {name}", node.rank, row_of, row)
        blocks, owners, outs = [], [], []
        for number, (g, weights) in enumerate(maps.values()):
            size = table.groups[g].size
            blocks.append(
                LinearBlock(
                    mapped.at(number), node.rank, size, False, [LinearTerm(source.at(g), source.channels, weights)]
                )
            )
            owners.append([(source, g)])
            outs.append((mapped, number))
        self.linear(phase, blocks, owners, outs, own_phase_table)
        return mapped, rows

    def _multiply(
        self, phase: int, node: Product, entries: list[tuple[int, int, int, int]],
        left: Tensor, left_rows: dict[tuple[int, int], int],
        right: Tensor, right_rows: dict[tuple[int, int], int], out: Tensor,
    ) -> None:  # fmt: skip
        """The channel-wise product itself."""
        product = self.info(node.name).product
        assert product is not None
        pairs: dict[tuple[int, int, int, int], list[tuple[int, int]]] = {}  # (rows, degrees) -> targets
        for a, b, L, target in entries:
            la, lb = product.left.groups[a].l, product.right.groups[b].l
            pairs.setdefault((left_rows[a, L], right_rows[b, L], la, lb), []).append((L, out.row_of[target]))
        buckets: dict[tuple[int, int, tuple[int, ...]], list[list[int]]] = {}
        terms: list[tuple[int, int, int, float]] = []
        for (row_a, row_b, la, lb), targets in pairs.items():
            rows = dict(targets)
            for degrees in split_degrees(la, lb, tuple(sorted(rows)), self.kernels):
                if (la, lb, mask_of(degrees)) in self.kernels:
                    buckets.setdefault((la, lb, degrees), []).append([row_a, row_b, *(rows[L] for L in degrees)])
                    continue
                for L in degrees:
                    table = real_coupling(la, lb, L) * (coupling_scale(la, lb, L) if node.normalize else 1.0)
                    terms += [
                        (row_a + int(i), row_b + int(j), rows[L] + int(M), float(table[M, i, j]))
                        for M, i, j in zip(*np.nonzero(table), strict=True)
                    ]
        terms.sort(key=lambda t: t[2])
        tail: list[Any] = [len(buckets)]
        for (la, lb, degrees), lists in buckets.items():
            scale = np.array([coupling_scale(la, lb, L) if node.normalize else 1.0 for L in degrees])
            tail += [la, lb, mask_of(degrees), len(degrees), scale, len(lists)]
            for entry in lists:
                tail += entry
        tail.append(len(terms))
        for a, b, o, value in terms:
            tail += [a, b, o, value]
        head = [out.channels, left.at(), right.at(), out.at()]
        self.forward(phase, Operation(Code.PRODUCT, [*head, *tail]))
        output = self.info(node.name).table

        def backward() -> None:
            self.finish(out, phase, output)
            self.accumulate(left, phase)
            self.accumulate(right, phase)
            gradients = [out.gradient_at(), left.gradient_at(), right.gradient_at()]
            # the values of the product itself are not read: its place holds the left factor
            fields = [out.channels, left.at(), right.at(), left.at(), *gradients, *tail]
            self.program.phases[phase].backward.append(Operation(Code.PRODUCT_BACKWARD, fields))

        self.on_backward(phase, backward)


class _MappedTable:
    """Groups of a mapped factor, enough of a function table for :meth:`Lowering.finish`."""

    def __init__(self) -> None:
        self.groups: list[Any] = []


def mask_of(degrees: Sequence[int]) -> int:
    """Bit L set for every degree L."""
    return sum(1 << L for L in degrees)


def split_degrees(l1: int, l2: int, degrees: tuple[int, ...], kernels: Kernels) -> list[tuple[int, ...]]:
    """Cut a set of target degrees into sets with kernels: as it is, by parity, or one by one."""
    if (l1, l2, mask_of(degrees)) in kernels:
        return [degrees]
    result: list[tuple[int, ...]] = []
    for parity in (0, 1):
        part = tuple(L for L in degrees if parity == L % 2)
        if part and (l1, l2, mask_of(part)) in kernels:
            result.append(part)
        else:
            result += [(L,) for L in part]
    return result
