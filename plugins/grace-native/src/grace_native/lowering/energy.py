"""Readouts, shifts, repulsion: from tensors to the energy of an atom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import units
from ase.data import atomic_numbers

from grace_native.lowering.base import LoweringBase
from grace_native.program import BondCode, Code, Operation
from gracecli.errors import ModelError
from gracecli.model.blueprint import (
    ZBL,
    BranchReadout,
    ElementShift,
    FinnisSinclairReadout,
    InitialEnergy,
    LinearReadout,
    MLPReadout,
    OutputNode,
    ScaleShift,
)

ACTIVATION_CODES = {"tanh": 0, "silu": 1, "sigmoid": 2, "scaled-silu": 3, "linear": 4}


class EnergySteps(LoweringBase):
    """Output nodes and ZBL."""

    def _readouts(self) -> None:
        """Readouts with the product of all later scales; constants are summed up per element."""
        outputs = [n for n in self.blueprint if isinstance(n, OutputNode)]
        constant: Any = np.zeros(len(self.elements))
        for place, node in enumerate(outputs):
            if isinstance(node, InitialEnergy):
                constant = constant + node.value
            elif isinstance(node, ScaleShift):
                constant = constant * node.scale + self._scale_shift(node)
            elif isinstance(node, ElementShift):
                constant = constant + self._element_shift(node)
            else:
                multiplier = float(np.prod([n.scale for n in outputs[place + 1 :] if isinstance(n, ScaleShift)]))
                self._readout(node, multiplier)
        self.program.constant = constant

    def _scale_shift(self, node: ScaleShift) -> Any:
        shift: Any = np.full(len(self.elements), node.shift)
        if node.element_shifts is not None:
            shift = shift + np.array(node.element_shifts)[self.elements]
        if node.embedding:
            shift = shift + self._chemistry(f"{node.name}/embedding_shift", node.embedding)[:, 0]
        return shift

    def _element_shift(self, node: ElementShift) -> Any:
        if node.embedding:
            shifts = self.w(f"{node.embedding}/w") @ self.w(f"{node.name}/proj")
        else:
            shifts = self.w(f"{node.name}/at_shifts")
        return self.algebra.take(shifts, self.elements)[:, 0]

    def _readout(self, node: Any, multiplier: float) -> None:
        if isinstance(node, MLPReadout):
            self._network_readout(node, multiplier)
        elif isinstance(node, BranchReadout):
            self._branch_readout(node, multiplier)
        elif isinstance(node, FinnisSinclairReadout):
            parameters = np.array(node.parameters, dtype=float)
            fields: list[Any] = [len(node.sources)]
            for s in node.sources:
                fields += [self.tensors[s].at(0), self.tensors[s].gradient_at(0)]
            self._emit_readout(
                node.sources, Code.FINNIS_SINCLAIR_READOUT, [*fields, multiplier, len(parameters), parameters]
            )
        elif isinstance(node, LinearReadout):
            self._linear_readout(node, multiplier)
        else:
            raise ModelError(
                f"native engine: output node {node.name!r} is of type {node.kind}, which it cannot evaluate"
            )

    def _emit_readout(self, sources: Sequence[str], code: Code, fields: list[Any]) -> None:
        """Readouts run at the start of the backward pass of the last phase."""

        def backward() -> None:
            for s in dict.fromkeys(sources):
                self.accumulate(self.tensors[s], self.last)
            self.program.phases[self.last].backward.append(Operation(code, fields))

        self.on_backward(self.last, backward)

    def _network_fields(
        self, sources: Sequence[str], linear: list[Any], first: int, multiplier: float, norms: list[Any],
        per_source: bool, layers: list[Any], activation: str, dependent: bool,
    ) -> list[Any]:  # fmt: skip
        fields: list[Any] = [len(sources)]
        linear = [self.algebra.reshape(self.algebra.array(factor), (1,)) for factor in linear]
        for s, factor in zip(sources, linear, strict=True):
            fields += [self.tensors[s].at(0), self.tensors[s].gradient_at(0), factor]
        fields += [self.info(sources[0]).channels, first, float(multiplier), 1e-16, int(per_source), len(norms), *norms]
        fields += [len(layers), ACTIVATION_CODES[activation], int(dependent)]
        matrices = [self.algebra.swap(self.by_element(w, dependent)) / np.sqrt(w.shape[-2]) for w in layers]
        for scaled in matrices:
            fields += [scaled.shape[-2], scaled.shape[-1], scaled]
        if self.trained:
            joined = self.algebra.concatenate(norms, 0) if norms else np.zeros(0)
            fields += [self.slot(self.algebra.concatenate(linear, 0)), self.slot(joined)]
            fields += [self.slot(scaled) for scaled in matrices]
        return fields

    def _network_readout(self, node: MLPReadout, multiplier: float) -> None:
        layers = [self.w(f"{node.name}/mlp/layer{i}/w") for i in range(len(node.hidden) + 1)]
        norms = [self._flat(f"{node.name}/scale")] if node.normalize else []
        first = int(node.linear_channel)
        fields = self._network_fields(
            node.sources,
            [float(first)] * len(node.sources),
            first,
            multiplier,
            norms,
            False,
            layers,
            node.activation,
            False,
        )
        self._emit_readout(node.sources, self._network_code, fields)

    @property
    def _network_code(self) -> Code:
        return Code.NETWORK_READOUT_TRAINED if self.trained else Code.NETWORK_READOUT

    def _flat(self, name: str) -> Any:
        return self.algebra.reshape(self.w(name), (-1,))

    def _branch_readout(self, node: BranchReadout, multiplier: float) -> None:
        alpha = [self.w(f"{node.name}/alpha/{i}") for i in range(len(node.sources))]
        scales = [self._flat(f"{node.name}/scales/{i}") for i in range(len(node.sources))]
        parts = [list(range(len(node.sources)))] if node.shared else [[i] for i in range(len(node.sources))]
        for number, part in enumerate(parts):
            layers = [self.w(f"{node.name}/mlp_layers/{number}/{k}/w") for k in range(len(node.hidden) + 1)]
            sources = [node.sources[i] for i in part]
            fields = self._network_fields(
                sources, [alpha[i] for i in part], 1, multiplier, [scales[i] for i in part], True, layers,
                node.activation, node.element_dependent,
            )  # fmt: skip
            self._emit_readout(sources, self._network_code, fields)

    def _linear_readout(self, node: LinearReadout, multiplier: float) -> None:
        paths = ["w"] if len(node.sources) == 1 else [f"w/{i}" for i in range(len(node.sources))]
        for source, path in zip(node.sources, paths, strict=True):
            channels = self.info(source).channels
            weights: Any = np.full(channels, multiplier)
            origin = self.blueprint.by_name[source]
            if node.trainable:
                if self.trained and isinstance(origin, ZBL):
                    raise ModelError(f"native training: node {node.name!r} scales the repulsion, which it cannot train")
                w = self.w(f"{node.name}/{path}")
                weights = w[:, 0] * (multiplier / np.sqrt(w.shape[0]))
            if isinstance(origin, ZBL):
                self._zbl(origin, float(weights[0]))
                continue
            tensor = self.tensors[source]
            fields = [tensor.at(0), tensor.gradient_at(0), channels, weights]
            if self.trained:
                self._emit_readout([source], Code.LINEAR_READOUT_TRAINED, [*fields, self.slot(weights)])
            else:
                self._emit_readout([source], Code.LINEAR_READOUT, fields)

    def _zbl(self, node: ZBL, factor: float) -> None:
        n = len(node.elements)
        if f"{node.name}/bond_zbl_cutoff_map" in self.weights:
            cutoffs = self.fixed(f"{node.name}/bond_zbl_cutoff_map").reshape(n, n)
        else:
            cutoffs = np.full((n, n), float(self.fixed(f"{node.name}/cutoff")[0, 0]))
        charge = np.array([float(atomic_numbers[node.elements[e]]) for e in self.elements])
        delta = float(self.fixed(f"{node.name}/delta_cutoff")[0, 0])
        coulomb = float(units.Hartree * units.Bohr)
        own = np.ascontiguousarray(cutoffs[np.ix_(self.elements, self.elements)])
        self._bond_item(self.last, BondCode.ZBL, [own, charge, delta, 0.5 * coulomb * factor], None)
