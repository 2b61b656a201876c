"""What all steps of the lowering share: weights, tensors, linear maps with their transposes, the backward list.

Every node becomes one or more *steps*; a step emits its forward operations, and later its backward ones. Linear maps
never write gradients one by one: what a consumer owes is noted at the source (``Tensor.pending``), and when the source
is reached all of it becomes one operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from grace_native.analysis import Analysis, Info
from grace_native.features import Features
from grace_native.program import (
    Array,
    BondCode,
    Code,
    LinearBlock,
    LinearTerm,
    Operation,
    Program,
    Tensor,
    linear_operation,
)
from grace_native.tables import RadialTables
from gracecli.errors import ModelError
from gracecli.model.modelfile import Model

Kernels = frozenset[tuple[int, int, int]]
"""Couplings with a compiled kernel: l1, l2, bit mask of target degrees."""


class LoweringBase:
    """State and helpers.

    Parameters
    ----------
    model : Model
    elements : sequence of int
        Element numbers of the model that are present.
    kernels : set of (l1, l2, mask)
        Couplings with compiled kernels.
    precision : str
        ``fp64`` or ``fp32``.
    exact : bool
        Radial functions are given on the bonds instead of tables.
    graded : bool
        Make what the extrapolation grade of the model is computed from.
    """

    def __init__(
        self, model: Model, elements: Sequence[int], kernels: Kernels, precision: str, exact: bool, graded: bool = False
    ) -> None:
        self.blueprint = model.blueprint
        self.weights = {k: np.asarray(v) for k, v in model.weights.items()}
        self.elements = list(elements)
        self.kernels = kernels
        self.precision = precision
        self.analysis = Analysis(model.blueprint, self.weights)
        self.program = Program(len(self.elements), self.analysis.phases)
        self.last = self.analysis.phases - 1
        self.tensors: dict[str, Tensor] = {}
        self.radial = RadialTables(model, self.elements, precision, exact)
        self.backward: list[tuple[int, Any]] = []  # (phase, function) in forward order
        self.features = Features(model) if graded and model.grade is not None else None

    def w(self, name: str) -> Array:
        """A weight in double precision."""
        if name not in self.weights:
            raise ModelError(f"model: variable {name!r} is missing")
        return np.asarray(self.weights[name], dtype=np.float64)

    def info(self, name: str) -> Info:
        """Facts about a node."""
        return self.analysis.info[name]

    def phase(self, name: str) -> int:
        """Phase of a node."""
        return self.analysis.phase[name]

    def tensor(self, name: str, channels: int, groups: Sequence[int], table: Any) -> Tensor:
        """Make the tensor of a node with the given groups."""
        row_of, row = {}, 0
        for g in sorted(groups):
            row_of[g] = row
            row += table.groups[g].size
        return Tensor(name, channels, row_of, row)

    def own(self, node: Any) -> Tensor:
        """Make and remember the tensor of a node."""
        info = self.info(node.name)
        self.tensors[node.name] = self.tensor(node.name, info.channels, sorted(info.needed), info.table)
        return self.tensors[node.name]

    def forward(self, phase: int, operation: Operation) -> None:
        """Append a forward operation."""
        self.program.phases[phase].forward.append(operation)

    def on_backward(self, phase: int, function: Any) -> None:
        """Register what to do for this step in the backward pass."""
        self.backward.append((phase, function))

    def accumulate(self, tensor: Tensor, phase: int) -> None:
        """Make sure that gradients can be added to."""
        if not tensor.zeroed:
            zero = Operation(Code.ZERO, [tensor.gradient_at(), tensor.gradient.rows])
            self.program.phases[phase].backward.append(zero)
            tensor.zeroed = True

    def finish(self, tensor: Tensor, phase: int, table: Any) -> None:
        """Turn pending contributions to a gradient into one operation."""
        if tensor.finished:
            return
        tensor.finished = True
        if any(g not in tensor.pending for g in tensor.row_of):
            self.accumulate(tensor, phase)
        blocks = [
            LinearBlock(tensor.gradient_at(g), tensor.channels, table.groups[g].size, tensor.zeroed, terms)
            for g, terms in sorted(tensor.pending.items())
        ]
        if blocks:
            self.program.phases[phase].backward.append(linear_operation(blocks, len(self.elements)))

    def linear(
        self,
        phase: int,
        blocks: list[LinearBlock],
        owners: list[list[tuple[Tensor, int]]],
        out: list[tuple[Tensor, int]],
        table: Any,
    ) -> None:
        """A linear map and its transpose.

        ``owners[b][t]`` is the tensor and group that term t of block b reads, ``out[b]`` what block b writes.
        """
        self.forward(phase, linear_operation(blocks, len(self.elements)))

        def backward() -> None:
            for tensor, _ in out[:1]:
                self.finish(tensor, phase, table)
            for block, sources, (tensor, group) in zip(blocks, owners, out, strict=True):
                for term, (source, source_group) in zip(block.terms, sources, strict=True):
                    transposed = np.swapaxes(term.weights, -1, -2)
                    source.pending.setdefault(source_group, []).append(
                        LinearTerm(tensor.gradient_at(group), block.outputs, transposed)
                    )

        self.on_backward(phase, backward)

    def by_element(self, weights: Array, dependent: bool) -> Array:
        """Weights of the elements present, or the common ones."""
        return weights[self.elements] if dependent else weights

    def _chemistry(self, path: str, embedding: str) -> Array:
        """Linear map of the embedding for all elements of the model, [elements, ...]."""
        w = self.w(path)
        return self.w(f"{embedding}/w") @ w / np.sqrt(w.shape[0])

    def _bond_item(self, phase: int, code: BondCode, fields: list[Any], tensor: Tensor | None) -> None:
        own = self.program.phases[phase]
        own.bonds.append(Operation(code, fields))
        if tensor is not None:
            own.bond_values.append(tensor.value)
            own.bond_gradients.append(tensor.gradient)
