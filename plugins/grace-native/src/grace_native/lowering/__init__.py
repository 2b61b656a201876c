"""From a blueprint with weights to a :class:`~grace_native.program.Program` for a set of elements.

Normalisations, 1/sqrt(fan-in), 1/avg and embeddings are folded into weights here; weights of the central element are
kept for the elements present only.
"""

from __future__ import annotations

from typing import Any

from grace_native.lowering.bonds import BondSteps
from grace_native.lowering.energy import EnergySteps
from grace_native.lowering.linear import LinearSteps
from grace_native.lowering.norms import NormSteps
from grace_native.lowering.products import ProductSteps
from grace_native.program import Program
from gracecli.model.blueprint import (
    ChemicalDensity,
    Density,
    EquivariantNorm,
    Gate,
    InvariantNorm,
    MessageDensity,
    Mix,
    Product,
    Reduce,
)


class Lowering(BondSteps, LinearSteps, ProductSteps, NormSteps, EnergySteps):
    """Builds the program; parameters as in :class:`~grace_native.lowering.base.LoweringBase`."""

    def build(self) -> Program:
        """Lower all nodes, then the backward pass."""
        steps = {
            Density: self._density, ChemicalDensity: self._chemical_density, MessageDensity: self._message,
            Mix: self._mix, Product: self._product, Reduce: self._reduce, InvariantNorm: self._invariant_norm,
            EquivariantNorm: self._equivariant_norm, Gate: self._gate,
        }  # fmt: skip
        for node in self.blueprint:
            step: Any = steps.get(type(node))
            if step is not None and self.analysis.info[node.name].needed:
                step(node)
        self._readouts()
        order = sorted(range(len(self.backward)), key=lambda i: (self.backward[i][0], i))
        for i in reversed(order):
            self.backward[i][1]()
        self.program.radials = self.radial.encoded()
        self.program.place()
        return self.program
