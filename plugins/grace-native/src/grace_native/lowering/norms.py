"""Normalisations and gates."""

from __future__ import annotations

from typing import Any

import numpy as np

from grace_native.analysis import Info
from grace_native.lowering.base import LoweringBase
from grace_native.program import Array, Code, Operation
from gracecli.errors import ModelError
from gracecli.model.blueprint import EquivariantNorm, Gate, InvariantNorm


class NormSteps(LoweringBase):
    """InvariantNorm, EquivariantNorm, Gate."""

    def _norm(self, node: Any, codes: tuple[Code, Code], fields: list[Any], slots: Any = None) -> None:
        phase, source, out = self.phase(node.name), self.tensors[node.source], self.own(node)
        table = self.info(node.name).table
        self.forward(phase, Operation(codes[0], [source.at(), out.at(), *fields]))

        def backward() -> None:
            self.finish(out, phase, table)
            self.accumulate(source, phase)
            pointers = [source.at(), source.at(), source.gradient_at(), out.gradient_at()]
            own = [*fields, *(slots() if slots else ())]
            self.program.phases[phase].backward.append(Operation(codes[1], [*pointers, *own]))

        self.on_backward(phase, backward)

    def _invariant_norm(self, node: InvariantNorm) -> None:
        channels, first = self.info(node.name).channels, 0 if node.mode == "full" else 1
        linear: Any = self.w(f"{node.name}/lin_scale") if node.mode == "sep_lin_gate" else np.ones(1)
        linear, scale = (self.algebra.reshape(x, (-1,)) for x in (linear, self.w(f"{node.name}/scale")))
        fields = [channels, first, linear, scale]
        if self.trained:
            codes = Code.INVARIANT_NORM, Code.INVARIANT_NORM_BACKWARD_TRAINED
            self._norm(node, codes, fields, lambda: [self.slot(linear), self.slot(scale)])
        else:
            self._norm(node, (Code.INVARIANT_NORM, Code.INVARIANT_NORM_BACKWARD), fields)

    def _equivariant_norm(self, node: EquivariantNorm) -> None:
        self._only_inference(node)
        info = self.info(node.name)
        groups, sizes = info.table.groups, [g.size for g in info.table.groups]
        degrees = sorted({g.l for g in groups})
        higher = [l for l in degrees if l > 0]
        scalar = np.repeat([g.l == 0 for g in groups], sizes)
        sets = np.zeros(len(scalar), dtype=int)
        if node.scalars_only:
            weights, sets = [self._degree_weights(node, info, [0]), np.zeros(len(scalar))], np.where(scalar, 0, -1)
        elif node.split:
            second = self._degree_weights(node, info, higher) if higher else np.zeros(len(scalar))
            weights, sets = [self._degree_weights(node, info, [0]), second], np.where(scalar, 0, 1)
        else:
            weights = [self._degree_weights(node, info, degrees), np.zeros(len(scalar))]
        affine = np.repeat(self.w(f"{node.name}/affine_weight"), sizes, axis=0)
        affine = np.where((sets < 0)[:, None], 1.0, affine)
        bias = np.zeros_like(affine)
        if node.center and node.center_bias:
            bias = self.w(f"{node.name}/l0_bias")[0].T * scalar[:, None]
        centre = scalar & node.center
        fields: list[Any] = [info.channels, len(scalar), 1e-12 if self.precision == "fp64" else 1e-8]
        fields += [*sets.tolist(), *(int(c) for c in centre), np.concatenate(weights), affine, bias]
        self._norm(node, (Code.EQUIVARIANT_NORM, Code.EQUIVARIANT_NORM_BACKWARD), fields)

    def _only_inference(self, node: Any) -> None:
        if self.trained:
            raise ModelError(f"native training: node {node.name!r} ({node.kind}) is not among what it can train")

    def _gate(self, node: Gate) -> None:
        self._only_inference(node)
        info = self.info(node.name)
        groups = info.table.groups
        first = np.concatenate([[0], np.cumsum([g.size for g in groups])])
        scalars = [int(o) for g, o in zip(groups, first, strict=False) if g.l == 0]
        channels, mixed = info.channels, node.mix_channels or 0
        fields: list[Any] = [channels, len(groups), *first.tolist(), len(scalars), *scalars, mixed]
        if mixed:
            fields += [
                self.w(f"{node.name}/mix_weight") / np.sqrt(channels),
                self.w(f"{node.name}/mix_weight_back") / np.sqrt(mixed),
            ]
        else:
            fields += [np.zeros(0), np.zeros(0)]
        names = (
            [("gate_weight", "gate_bias")] if node.hidden is None else [("gate_w1", "gate_b1"), ("gate_w2", "gate_b2")]
        )
        fields.append(len(names))
        for weight, bias in names:
            w = self.w(f"{node.name}/{weight}")
            b = self.w(f"{node.name}/{bias}") if node.bias else np.zeros(w.shape[1])
            fields += [w.shape[0], w.shape[1], w / np.sqrt(w.shape[0]), b]
        self._norm(node, (Code.GATE, Code.GATE_BACKWARD), fields)

    def _degree_weights(self, node: EquivariantNorm, info: Info, degrees: list[int]) -> Array:
        """d_f restricted to the given degrees."""
        rows = {l: sum(g.size for g in info.table.groups if g.l == l) for l in degrees}
        total = sum(rows.values())
        balanced = node.balance_degrees or node.split
        values = [
            0.0 if g.l not in rows else 1.0 / (rows[g.l] * len(degrees)) if balanced else 1.0 / total
            for g in info.table.groups
        ]
        return np.repeat(values, [g.size for g in info.table.groups])
