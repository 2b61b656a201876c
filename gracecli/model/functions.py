"""Function tables: which equivariant functions a tensor holds, and how products couple them.

An equivariant tensor has one row per function (l, p, label, m): degree, parity, coupling history, order. A *group* is
the 2l+1 rows of equal (l, p, label); rows are ordered by (l, p, label, m), so a group, and all groups of one (l, p),
are contiguous.

Coupling of two tables (spec section 6.3)::

    out[M] = sum_(m1, m2) F(l1, l2, L) G^L[M, m1, m2] left[m1] right[m2]

Products that are polynomials of each other are dropped (section 6.4); the list is ``coupling_drop_labels.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gracecli.model.blueprint import Product

LP = tuple[int, int]


@dataclass(frozen=True)
class Group:
    """2l+1 rows that transform together.

    Attributes
    ----------
    l, p : int
        Degree and parity (+1 or -1).
    label : str
        Coupling history.
    s : int
        Sum of the elementary degrees used so far.
    """

    l: int
    p: int
    label: str
    s: int

    @property
    def size(self) -> int:
        """Number of rows, 2l+1."""
        return 2 * self.l + 1

    @property
    def history(self) -> int:
        """Largest integer in the label (0 for an elementary function)."""
        return max((int(n) for n in re.findall(r"\d+", self.label)), default=0)


@dataclass(frozen=True)
class FunctionTable:
    """Ordered groups of an equivariant tensor."""

    groups: tuple[Group, ...]

    @classmethod
    def sorted(cls, groups: Iterable[Group]) -> FunctionTable:
        """Table in the canonical order (l, p, label), p = -1 first."""
        return cls(tuple(sorted(groups, key=lambda g: (g.l, g.p, g.label))))

    @classmethod
    def harmonics(cls, lmax: int) -> FunctionTable:
        """Table of the spherical harmonics up to lmax."""
        return cls(tuple(Group(l, (-1) ** l, "", l) for l in range(lmax + 1)))

    def __len__(self) -> int:
        return sum(g.size for g in self.groups)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First row of every group."""
        return tuple(np.concatenate([[0], np.cumsum([g.size for g in self.groups])])[:-1].tolist())

    def blocks(self) -> dict[LP, tuple[int, int, int]]:
        """(l, p) -> (first row, first group, number of groups) of the contiguous block of equal (l, p)."""
        result: dict[LP, tuple[int, int, int]] = {}
        for index, (group, offset) in enumerate(zip(self.groups, self.offsets, strict=True)):
            row, first, count = result.get((group.l, group.p), (offset, index, 0))
            result[group.l, group.p] = (row, first, count + 1)
        return result

    def rows(self) -> list[tuple[int, int, str, int]]:
        """All rows (l, p, label, m) in order."""
        return [(g.l, g.p, g.label, m) for g in self.groups for m in range(-g.l, g.l + 1)]


@dataclass(frozen=True)
class Coupling:
    """One pair of groups and the target groups it feeds.

    Attributes
    ----------
    left, right : int
        Group numbers in the left and right table.
    targets : tuple of (L, group number in the output table)
    """

    left: int
    right: int
    targets: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ProductTable:
    """Output table of a product and the couplings that fill it; ``normalize`` applies F."""

    left: FunctionTable
    right: FunctionTable
    output: FunctionTable
    couplings: tuple[Coupling, ...]
    normalize: bool


@lru_cache(maxsize=1)
def redundant_couplings() -> frozenset[tuple[str, int]]:
    """Set of (label, L) that untagged products leave out (spec section 6.4)."""
    data = json.loads(files("gracecli.model").joinpath("coupling_drop_labels.json").read_text())
    return frozenset(
        (label, int(degree))
        for fold in ("three_fold", "four_fold")
        for degree, labels in data[fold].items()
        for label in labels
    )


def natural_parities(lmax: int) -> frozenset[LP]:
    """The set {(l, (-1)^l)} up to lmax."""
    return frozenset((l, (-1) ** l) for l in range(lmax + 1))


@dataclass(frozen=True)
class CouplingRules:
    """Limits of a product (None = no limit); names follow the published arguments.

    ``tagged`` labels carry parity signs; ``same`` means both factors are one tensor (symmetric product).
    """

    lmax: int | None = None
    Lmax: int | None = None
    keep_parity: frozenset[LP] | None = None
    normalize: bool = False
    same: bool = False
    tagged: bool = False
    lmax_left: int | None = None
    lmax_right: int | None = None
    history_left: int | None = None
    history_right: int | None = None
    max_sum_l: int | None = None
    dropped: frozenset[tuple[str, int]] = frozenset()


def rules_of(node: Product) -> CouplingRules:
    """Limits that a node of a blueprint asks for."""
    return CouplingRules(
        lmax=node.lmax, Lmax=node.Lmax, normalize=node.normalize,
        same=node.left == node.right if node.same is None else node.same, tagged=node.mode != "plain",
        keep_parity=None if node.keep_parity is None else frozenset(node.keep_parity),
        lmax_left=node.lmax_left, lmax_right=node.lmax_right, history_left=node.history_left,
        history_right=node.history_right, max_sum_l=node.max_sum_l, dropped=frozenset(node.dropped),
    )  # fmt: skip


def _within(value: int, limit: int | None) -> bool:
    return limit is None or value <= limit


def _label(left: Group, right: Group, tagged: bool) -> tuple[str, str]:
    """The label of the pair and its mirror (halves exchanged)."""
    sign = {1: "+", -1: "-"} if tagged else {1: "", -1: ""}
    a, b = f"{left.label}{left.l}{sign[left.p]}", f"{right.label}{right.l}{sign[right.p]}"
    return f"({a},{b})", f"({b},{a})"


def _admits(rules: CouplingRules, left: Group, right: Group) -> bool:
    return (
        _within(left.s + right.s, rules.max_sum_l)
        and _within(max(left.l, right.l), rules.lmax)
        and _within(left.l, rules.lmax_left)
        and _within(right.l, rules.lmax_right)
        and not (rules.same and right.l > left.l)
        and _within(left.history, rules.history_left)
        and _within(right.history, rules.history_right)
    )


def couple(left: FunctionTable, right: FunctionTable, rules: CouplingRules) -> ProductTable:
    """Build the table and couplings of a product (spec section 6.3, in its order).

    In untagged symmetric products the memory of seen pairs is keyed by the label alone, so factors that differ only
    by parity collide and the first survives: part of the published models.
    """
    dropped = rules.dropped if rules.tagged else rules.dropped | redundant_couplings()
    symmetric = rules.same and not rules.tagged
    order = {
        side: sorted(
            range(len(t.groups)),
            key=lambda i: (t.groups[i].l, t.groups[i].label, t.groups[i].p, t.groups[i].s),
        )
        for side, t in (("left", left), ("right", right))
    }
    seen: set[str] = set()
    found: list[tuple[int, int, list[Group]]] = []
    for i in order["left"]:
        for j in order["right"]:
            a, b = left.groups[i], right.groups[j]
            if not _admits(rules, a, b):
                continue
            label, mirror = _label(a, b, rules.tagged)
            if rules.same:
                if label in seen or mirror in seen:
                    continue
                seen.update((label, mirror))
            targets = []
            for L in range(abs(a.l - b.l), a.l + b.l + 1):
                if rules.Lmax is not None and rules.Lmax < L:
                    break
                parity = a.p * b.p
                allowed = (L, parity) in rules.keep_parity if rules.keep_parity is not None else parity == (-1) ** L
                antisymmetric = symmetric and i == j and L % 2 == 1
                if allowed and not antisymmetric and (rules.tagged or (label, L) not in dropped):
                    targets.append(Group(L, parity, label, a.s + b.s))
            if targets:
                found.append((i, j, targets))
    output = FunctionTable.sorted(t for _, _, targets in found for t in targets)
    number = {(g.l, g.p, g.label): index for index, g in enumerate(output.groups)}
    if len(number) != len(output.groups):
        raise ValueError("two couplings share one label and degree; this product is not defined by the published rules")
    couplings = tuple(
        Coupling(i, j, tuple((t.l, number[t.l, t.p, t.label]) for t in targets)) for i, j, targets in found
    )
    return ProductTable(left, right, output, couplings, rules.normalize)


def reduced_table(
    inputs: Iterable[tuple[FunctionTable, int]], allowed: frozenset[LP]
) -> tuple[FunctionTable, list[list[int]]]:
    """Table of a reduction and, per input, the group numbers collected, sorted by (p, l, label).

    The table has one group for every allowed (l, p) up to the largest degree taken, also for those no input feeds.

    Parameters
    ----------
    inputs : iterable of (table, largest degree taken from it)
    allowed : set of (l, p)
    """
    collected: list[list[int]] = []
    largest = 0
    for table, lmax in inputs:
        chosen = [i for i, g in enumerate(table.groups) if g.l <= lmax and (g.l, g.p) in allowed]
        chosen.sort(key=lambda i, t=table: (t.groups[i].p, t.groups[i].l, t.groups[i].label))  # type: ignore[misc]
        collected.append(chosen)
        largest = max(largest, lmax)
    return FunctionTable.sorted(Group(l, p, "", l) for l, p in allowed if l <= largest), collected
