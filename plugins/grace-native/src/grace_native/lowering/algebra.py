"""Weights while a program is made: arrays of NumPy (inference), or tensors that stay functions of variables (training).

The lowering adds, multiplies and slices weights with operators that both understand; the few functions it needs beyond
that are here. :class:`grace_native.training_program.TensorAlgebra` is the other implementation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class ArrayAlgebra:
    """NumPy."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights = weights

    def weight(self, name: str) -> Any:
        """A weight in double precision."""
        return np.asarray(self._weights[name], dtype=np.float64)

    def array(self, x: Any) -> Any:
        """As an array of doubles."""
        return np.asarray(x, dtype=np.float64)

    def take(self, x: Any, indices: Sequence[int]) -> Any:
        """Entries along the first axis."""
        return x[list(indices)]

    def columns(self, x: Any) -> list[Any]:
        """Entries along the last axis."""
        return [x[..., i] for i in range(x.shape[-1])]

    def swap(self, x: Any) -> Any:
        """Last two axes exchanged."""
        return np.swapaxes(x, -1, -2)

    def transpose(self, x: Any, axes: Sequence[int]) -> Any:
        """Axes in another order."""
        return np.transpose(x, axes)

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        """Another shape."""
        return np.reshape(x, shape)

    def broadcast(self, x: Any, shape: Sequence[int]) -> Any:
        """Repeated to a shape."""
        return np.broadcast_to(x, shape)

    def concatenate(self, parts: Sequence[Any], axis: int) -> Any:
        """Joined along an axis."""
        return np.concatenate(parts, axis=axis)
