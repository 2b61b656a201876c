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
from grace_native.lowering.algebra import ArrayAlgebra
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

    trained = False  # whether operations for gradients by the weights are wanted (training)

    def __init__(
        self, model: Model, elements: Sequence[int], kernels: Kernels, precision: str, exact: bool, graded: bool = False
    ) -> None:
        self.blueprint = model.blueprint
        self.weights = {k: np.asarray(v) for k, v in model.weights.items()}
        self.algebra: Any = ArrayAlgebra(self.weights)
        self.elements = list(elements)
        self.kernels = kernels
        self.precision = precision
        self.analysis = Analysis(model.blueprint, self.weights)
        self.program = Program(len(self.elements), self.analysis.phases)
        self.last = self.analysis.phases - 1
        self.tensors: dict[str, Tensor] = {}
        self.radial: Any = RadialTables(model, self.elements, precision, exact)
        self.backward: list[tuple[int, Any]] = []  # (phase, function) in forward order
        self.features = Features(model) if graded and model.grade is not None else None

    def w(self, name: str) -> Any:
        """A weight in double precision."""
        return self.algebra.weight(self.present(name))

    def fixed(self, name: str) -> Array:
        """A number that no training moves."""
        return np.asarray(self.weights[self.present(name)], dtype=np.float64)

    def present(self, name: str) -> str:
        """The name, if the model has such a variable."""
        if name not in self.weights:
            raise ModelError(f"model: variable {name!r} is missing")
        return name

    def slot(self, weights: Any) -> int:
        """Place of an array in the gradient by the weights (training)."""
        raise NotImplementedError("this program is not made for training")

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
            self.program.phases[phase].backward.append(linear_operation(blocks, len(self.elements), self.algebra))

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
        self.forward(phase, linear_operation(blocks, len(self.elements), self.algebra))

        def backward() -> None:
            for tensor, _ in out[:1]:
                self.finish(tensor, phase, table)
            if self.trained:
                self._weight_gradients(phase, blocks, out)
            for block, sources, (tensor, group) in zip(blocks, owners, out, strict=True):
                for term, (source, source_group) in zip(block.terms, sources, strict=True):
                    transposed = self.algebra.swap(term.weights)
                    source.pending.setdefault(source_group, []).append(
                        LinearTerm(tensor.gradient_at(group), block.outputs, transposed)
                    )

        self.on_backward(phase, backward)

    def _weight_gradients(self, phase: int, blocks: list[LinearBlock], out: list[tuple[Tensor, int]]) -> None:
        """Gradients by the weights of a linear map."""
        fields: list[Any] = [len(blocks)]
        for block, (tensor, group) in zip(blocks, out, strict=True):
            fields += [tensor.gradient_at(group), block.outputs, block.rows, len(block.terms)]
            for term in block.terms:
                fields += [term.source, term.channels, int(term.weights.ndim == 3), self.slot(term.weights)]
        self.program.phases[phase].backward.append(Operation(Code.LINEAR_GRADIENT, fields))

    def by_element(self, weights: Any, dependent: bool) -> Any:
        """Weights of the elements present, or the common ones."""
        return self.algebra.take(weights, self.elements) if dependent else weights

    def _chemistry(self, path: str, embedding: str) -> Any:
        """Linear map of the embedding for the elements present, [elements, ...]."""
        w = self.w(path)
        # of all elements: bits must not depend on who is present
        full = self.w(f"{embedding}/w") @ w / np.sqrt(w.shape[0])
        return self.algebra.take(full, self.elements)

    def _bond_item(self, phase: int, code: BondCode, fields: list[Any], tensor: Tensor | None) -> None:
        own = self.program.phases[phase]
        own.bonds.append(Operation(code, fields))
        if tensor is not None:
            own.bond_values.append(tensor.value)
            own.bond_gradients.append(tensor.gradient)
