"""The program of a network in training: its numbers as functions of TensorFlow variables, and the way back.

::

    N = numbers(w)                        all numbers of the program: maps, spline coefficients of radial functions ...
    S = slots(w)                          those of them that weights enter, each once
    dL/dw = (dS/dw)^T dL/dS               dL/dS from the kernels (sum over atoms and bonds), the rest by TensorFlow

The lowering runs on tensors (:class:`TensorAlgebra`), so that everything it folds into a number is differentiated with
it. The cost of N and of the way back does not depend on the number of atoms: radial networks are evaluated on a grid.

======  ====================================
symbol  variable
======  ====================================
w       ``network.variables_by_name``
S       ``TrainingLowering.slots``
======  ====================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from grace_native.library import couplings
from grace_native.lowering import Lowering
from grace_native.program import Array
from gracecli.errors import ModelError
from gracecli.model.blocks.radial import RadialTable, spline_error
from gracecli.model.modelfile import Model

INTERVALS = (64, 128, 256, 512, 1024)
LANES = 8


class TensorAlgebra:
    """What the lowering does with weights, in TensorFlow."""

    def __init__(self, variables: dict[str, tf.Variable]) -> None:
        self._variables = variables

    def weight(self, name: str) -> Any:
        """A weight in double precision."""
        return tf.cast(self._variables[name], tf.float64)

    def array(self, x: Any) -> Any:
        """As a tensor of doubles."""
        return tf.convert_to_tensor(x, tf.float64)

    def take(self, x: Any, indices: Sequence[int]) -> Any:
        """Entries along the first axis."""
        return x if list(indices) == list(range(x.shape[0])) else tf.gather(x, list(indices))

    def columns(self, x: Any) -> list[Any]:
        """Entries along the last axis, all at once: the gradient of one at a time is as large as all of them."""
        return tf.unstack(self.array(x), axis=-1)

    def swap(self, x: Any) -> Any:
        """Last two axes exchanged."""
        return tf.linalg.matrix_transpose(self.array(x))

    def transpose(self, x: Any, axes: Sequence[int]) -> Any:
        """Axes in another order."""
        return tf.transpose(x, axes)

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        """Another shape."""
        return tf.reshape(self.array(x), shape)

    def broadcast(self, x: Any, shape: Sequence[int]) -> Any:
        """Repeated to a shape."""
        return tf.broadcast_to(self.array(x), shape)

    def concatenate(self, parts: Sequence[Any], axis: int) -> Any:
        """Joined along an axis."""
        return tf.concat([self.array(part) for part in parts], axis)


@dataclass(frozen=True)
class _Table:
    """Coefficients [intervals + 5, l, n padded] of one radial function on [0, end], and their place in the gradient."""

    coefficients: Any
    intervals: int
    end: float
    slot: int


class TrainingTables:
    """Splines of the radial functions, in the direct form R[l][n].

    Parameters
    ----------
    network : gracecli.model.network.Network
    elements : int
        Number of elements.
    intervals : mapping
        Of every radial function that can be tabulated.
    slot : callable
        Reserves the place of an array in the gradient.
    """

    def __init__(self, network: Any, elements: int, intervals: Mapping[str, int], slot: Any) -> None:
        self._network = network
        self._intervals = intervals
        self._elements = elements
        self._new_slot = slot
        self._tables: dict[str, _Table] = {}

    def projected(self, name: str, channels: int) -> None:
        """Never: functions common to all degrees would need products of weights per pair of elements."""

    def full(self, name: str) -> tuple[int, int]:
        """Number of the table, and the padded number of channels."""
        if name not in self._tables:
            if name not in self._intervals:
                raise ModelError(f"native training: the radial function {name!r} depends on more than the distance")
            self._tables[name] = self._tabulate(name)
        return list(self._tables).index(name), int(self._tables[name].coefficients.shape[-1])

    def slot(self, number: int) -> int:
        """Place of a table in the gradient."""
        return list(self._tables.values())[number].slot

    def _tabulate(self, name: str) -> _Table:
        table = RadialTable(self._network.blocks[name], self._intervals[name])
        coefficients = tf.cast(table.coefficients(), tf.float64)
        coefficients = tf.pad(coefficients, [[0, 0], [0, 0], [0, -coefficients.shape[-1] % LANES]])
        return _Table(coefficients, table.grid.intervals, float(table.grid.end), self._new_slot(coefficients))

    def encoded(self) -> list[list[Any]]:
        """Fields of every table."""
        pairs = (self._elements, self._elements)
        return [
            [int(np.prod(t.coefficients.shape[1:])), 1, *[0] * self._elements**2, np.full(pairs, t.end), t.intervals,
             t.coefficients]
            for t in self._tables.values()
        ]  # fmt: skip


def enough_intervals(block: Any, tolerance: float) -> int:
    """Fewest intervals that reach the tolerance with the present weights."""
    return next((n for n in INTERVALS if max(spline_error(RadialTable(block, n))) < tolerance), INTERVALS[-1])


class TrainingLowering(Lowering):
    """The lowering of a network whose weights move.

    Attributes
    ----------
    slots : list of tensors
        In the order of their places in the gradient.
    size : int
        Length of the gradient so far.
    """

    trained = True

    def __init__(self, network: Any, fixed: Mapping[str, np.ndarray], intervals: Mapping[str, int]) -> None:
        model = Model(network.blueprint, network.weights_by_name | dict(fixed), {})
        super().__init__(model, range(len(model.elements)), couplings(), "fp64", exact=True)
        self.algebra = TensorAlgebra(network.variables_by_name)
        self.slots: list[Any] = []
        self.size = 0
        self.radial = TrainingTables(network, len(self.elements), intervals, self.slot)

    def slot(self, weights: Any) -> int:
        """Place of an array in the gradient."""
        place = self.size
        self.slots.append(weights)
        self.size += int(np.prod(weights.shape))
        return place

    def joined_slots(self) -> Any:
        """S."""
        return tf.concat([tf.reshape(tf.convert_to_tensor(s, tf.float64), [-1]) for s in self.slots], 0)


class TrainingProgram:
    """N and the way back of one network.

    Parameters
    ----------
    network : gracecli.model.network.Network
        In double precision.
    trainable : sequence of tf.Variable
        Variables to differentiate by.
    tolerance : float
        Of tabulated radial functions, values and slopes, relative to the largest, at the present weights.

    Attributes
    ----------
    code : (n,) int64
        Stream of integers, of the first call of :meth:`numbers`.
    size, constant_slot : int
        Length of S; where its constants per element begin.
    """

    def __init__(self, network: Any, trainable: Sequence[tf.Variable], tolerance: float) -> None:
        self._network = network
        self._trainable = list(trainable)
        variables = network.variables_by_name
        self._fixed = {name: variable.numpy() for name, variable in variables.items() if not variable.trainable}
        self.code = np.zeros(0, np.int64)
        self.size = self.constant_slot = 0
        self._block = np.empty(0)
        self._intervals = {
            name: enough_intervals(block, tolerance)
            for name, block in network.blocks.items()
            if getattr(block, "grid_end", None) is not None
        }
        self._numbers = tf.function(self._make_numbers, autograph=False, jit_compile=True)
        self._pull_back = tf.function(self._make_pull_back, autograph=False, jit_compile=True)

    def numbers(self) -> Array:
        """N for the present weights, in a block that the next call writes to again."""
        parts = [np.frombuffer(memoryview(part)) for part in self._numbers()]  # no copies: up to a hundred megabytes
        if not self._block.size:
            self._block = np.empty(sum(part.size for part in parts))
        return np.concatenate(parts, out=self._block)

    def pull_back(self, gradient: Array) -> list[tf.Tensor]:
        """Gradients by the variables from one by S."""
        return list(self._pull_back(tf.constant(gradient)))

    def _lower(self) -> TrainingLowering:
        lowering = TrainingLowering(self._network, self._fixed, self._intervals)
        program = lowering.build()
        self.constant_slot = lowering.slot(lowering.algebra.array(program.constant))
        self.size = lowering.size
        return lowering

    def _make_numbers(self) -> list[tf.Tensor]:
        self.code, parts = self._lower().program.encoded_parts()
        return [tf.convert_to_tensor(p, tf.float64) for p in (*parts, np.zeros(1))]

    def _make_pull_back(self, gradient: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._trainable)
            slots = self._lower().joined_slots()
        found = tape.gradient(
            slots, self._trainable, output_gradients=gradient, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return [tf.convert_to_tensor(g) for g in found]
