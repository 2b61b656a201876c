"""What every node of a blueprint holds (function table, channels, phase) and which of it anybody needs.

Products keep many functions that no later node reads: AAA = AA1 x A, for instance, needs 14 of the 27 groups of AA1.
:func:`analyse` walks the blueprint backwards and marks what the energy depends on; the rest is never computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gracecli.errors import ModelError
from gracecli.model.blueprint import (
    ZBL,
    Blueprint,
    BranchReadout,
    ChemicalDensity,
    Density,
    ElementShift,
    Embedding,
    EquivariantNorm,
    FinnisSinclairReadout,
    Gate,
    Harmonics,
    InitialEnergy,
    InvariantNorm,
    LinearRadial,
    LinearReadout,
    MessageDensity,
    Mix,
    MLPRadial,
    MLPReadout,
    OutputNode,
    PairRadialBasis,
    Product,
    RadialBasis,
    Reduce,
    ScaleShift,
)
from gracecli.model.functions import CouplingRules, FunctionTable, Group, ProductTable, couple, reduced_table

SUPPORTED = (
    RadialBasis, PairRadialBasis, LinearRadial, MLPRadial, Harmonics, Embedding, Density, MessageDensity,
    ChemicalDensity, Mix, Product, Reduce, InvariantNorm, EquivariantNorm, Gate, ZBL, InitialEnergy, MLPReadout,
    BranchReadout, FinnisSinclairReadout, LinearReadout, ScaleShift, ElementShift,
)  # fmt: skip
MAX_DEGREE = 6
"""Largest degree of harmonics the message kernels are written for."""


@dataclass
class Info:
    """Facts about one node with an equivariant value."""

    table: FunctionTable
    channels: int
    product: ProductTable | None = None
    collected: list[list[int]] = field(default_factory=list)
    needed: set[int] = field(default_factory=set)


def is_message(node: Any, blueprint: Blueprint) -> bool:
    """Whether the node reads tensors of the neighbours."""
    return isinstance(node, MessageDensity) or (
        isinstance(node, ChemicalDensity)
        and node.indicator is not None
        and not isinstance(blueprint.by_name[node.indicator], Embedding)
    )


def radial_shape(blueprint: Blueprint, name: str) -> tuple[int, int]:
    """Channels and largest degree of a radial function."""
    node: Any = blueprint.by_name[name]
    return node.n_radial, node.lmax


def _keep(node: Any) -> frozenset[tuple[int, int]] | None:
    return None if node.keep_parity is None else frozenset(node.keep_parity)


def _message_rules(node: Any) -> CouplingRules:
    return CouplingRules(
        lmax=node.lmax, Lmax=node.Lmax, normalize=node.normalize, tagged=True, lmax_right=node.lmax_indicator,
        keep_parity=_keep(node), max_sum_l=node.max_sum_l,
    )  # fmt: skip


def _product_rules(node: Product) -> CouplingRules:
    return CouplingRules(
        lmax=node.lmax, Lmax=node.Lmax, normalize=node.normalize,
        same=node.left == node.right if node.same is None else node.same, tagged=node.mode != "plain",
        keep_parity=_keep(node), lmax_left=node.lmax_left, lmax_right=node.lmax_right,
        history_left=node.history_left, history_right=node.history_right, max_sum_l=node.max_sum_l,
        dropped=frozenset(node.dropped),
    )  # fmt: skip


class Analysis:
    """Tables, channels, phases and demand of all nodes."""

    def __init__(self, blueprint: Blueprint, weights: Mapping[str, np.ndarray]) -> None:
        self.blueprint = blueprint
        self.weights = weights
        self.info: dict[str, Info] = {}
        unsupported = [n for n in blueprint if not isinstance(n, SUPPORTED)]
        if unsupported:
            node = unsupported[0]
            raise ModelError(
                f"native engine: node {node.name!r} is of type {node.kind}, which it cannot evaluate",
                "use --engine tensorflow for this model",
            )
        for node in blueprint:
            made = self._info(node)
            if made is not None:
                self.info[node.name] = made
        self.phase = self._phases()
        for node in reversed(blueprint.nodes):
            self._demand(node)

    # -- tables -------------------------------------------------------------------------------------------------------
    def _info(self, node: Any) -> Info | None:
        if isinstance(node, Harmonics):
            if node.lmax > MAX_DEGREE:
                raise ModelError(f"native engine: node {node.name!r} has harmonics beyond degree {MAX_DEGREE}")
            return Info(FunctionTable.harmonics(node.lmax), 1)
        if isinstance(node, Density):
            channels, lmax = radial_shape(self.blueprint, node.radial)
            top = self.info[node.harmonics].table.groups[-1].l
            return Info(FunctionTable.harmonics(min(top if node.lmax is None else node.lmax, lmax, top)), channels)
        if isinstance(node, MessageDensity):
            channels, lmax = radial_shape(self.blueprint, node.radial)
            return self._message(node, channels, min(node.lmax, lmax, self.info[node.harmonics].table.groups[-1].l))
        if isinstance(node, ChemicalDensity):
            lmax = min(node.lmax, self.info[node.harmonics].table.groups[-1].l)
            if is_message(node, self.blueprint):
                return self._message(node, node.n_radial, lmax)
            return Info(FunctionTable.harmonics(lmax), node.n_radial)
        if isinstance(node, Mix):
            left = self.info[node.left]
            return Info(left.table, left.channels if node.n_out is None else node.n_out)
        if isinstance(node, Product):
            return self._product(node)
        if isinstance(node, Reduce):
            tables = [self.info[s].table for s in node.sources]
            table, collected = reduced_table(zip(tables, node.lmax, strict=True), frozenset(node.allowed))
            return Info(table, node.n_out, collected=collected)
        if isinstance(node, InvariantNorm | EquivariantNorm | Gate):
            return Info(self.info[node.source].table, self.info[node.source].channels)
        if isinstance(node, ZBL):
            return Info(FunctionTable((Group(0, 1, "", 0),)), 1)
        return None

    def _message(self, node: Any, channels: int, lmax: int) -> Info:
        product = couple(FunctionTable.harmonics(lmax), self.info[node.indicator].table, _message_rules(node))
        if self.info[node.indicator].channels != channels:
            raise ModelError(f"model: node {node.name!r}: indicator and radial functions differ in channels")
        return Info(product.output, channels, product)

    def _product(self, node: Product) -> Info:
        left, right = self.info[node.left], self.info[node.right]
        product = couple(left.table, right.table, _product_rules(node))
        if not product.couplings:
            raise ModelError(f"model: product {node.name!r} has no functions within its limits")
        if node.mode in ("plain", "elementwise"):
            channels = left.channels if node.crop is None else min(node.crop, left.channels, right.channels)
        else:
            assert node.rank is not None
            channels = node.n_out if node.use_S and node.n_out is not None else node.rank
        return Info(product.output, channels, product)

    # -- phases -------------------------------------------------------------------------------------------------------
    def _phases(self) -> dict[str, int]:
        """Number of message passes below every node; local densities move up to where they are first used."""
        phase: dict[str, int] = {}
        for node in self.blueprint:
            below = max((phase[s] for s in node.inputs() if s in phase), default=0)
            phase[node.name] = below + 1 if is_message(node, self.blueprint) else below
        last = max(phase.values(), default=0)
        for node in self.blueprint:
            if isinstance(node, OutputNode | ZBL):
                phase[node.name] = last
        for node in self.blueprint:
            if isinstance(node, Density | ChemicalDensity) and not is_message(node, self.blueprint):
                users = [phase[n.name] for n in self.blueprint if node.name in n.inputs()]
                phase[node.name] = min(users, default=phase[node.name])
        return phase

    @property
    def phases(self) -> int:
        """Number of phases."""
        return max(self.phase.values()) + 1

    # -- demand -------------------------------------------------------------------------------------------------------
    def _demand(self, node: Any) -> None:
        """Mark what this node needs of its inputs."""
        if isinstance(node, OutputNode):
            for source in node.inputs():
                if source in self.info:
                    self.info[source].needed.add(0)
            return
        own = self.info.get(node.name)
        if own is None or not own.needed:
            return
        if isinstance(node, Mix):
            left, right = self.info[node.left], self.info[node.right]
            wanted = {(own.table.groups[u].l, own.table.groups[u].p) for u in own.needed}
            left.needed |= own.needed
            right.needed |= {v for v, g in enumerate(right.table.groups) if (g.l, g.p) in wanted}
        elif isinstance(node, Product):
            for c in self.couplings(node.name):
                self.info[node.left].needed.add(c.left)
                self.info[node.right].needed.add(c.right)
        elif isinstance(node, Reduce):
            wanted = {(own.table.groups[g].l, own.table.groups[g].p) for g in own.needed}
            for source, groups in zip(node.sources, own.collected, strict=True):
                table = self.info[source].table
                self.info[source].needed |= {g for g in groups if (table.groups[g].l, table.groups[g].p) in wanted}
        elif isinstance(node, EquivariantNorm | InvariantNorm | Gate):
            own.needed = set(range(len(own.table.groups)))
            self.info[node.source].needed |= own.needed
        elif is_message(node, self.blueprint):
            self.info[node.indicator].needed |= {c.right for c in self.couplings(node.name)}
        elif isinstance(node, Density | ChemicalDensity):
            own.needed = set(range(max(own.needed) + 1))

    def couplings(self, name: str) -> list[Any]:
        """Couplings of a product or message with at least one needed target, restricted to needed targets."""
        from gracecli.model.functions import Coupling

        own = self.info[name]
        assert own.product is not None
        result = []
        for c in own.product.couplings:
            targets = tuple((L, g) for L, g in c.targets if g in own.needed)
            if targets:
                result.append(Coupling(c.left, c.right, targets))
        return result
