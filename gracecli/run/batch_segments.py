"""Rows of many structures behind each other, and sums and maxima over the rows of each structure."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Segments:
    """Which rows belong to which structure.

    Parameters
    ----------
    counts : (S,) int
        Rows of every structure, at least one each.

    Attributes
    ----------
    counts, starts : (S,) int64
    total : int
    """

    def __init__(self, counts: NDArray[np.int64]) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        ends = np.cumsum(self.counts)
        self.total = int(ends[-1]) if len(ends) else 0
        self.starts = ends - self.counts

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """Structure (R,) of every row."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def within(self) -> NDArray[np.int64]:
        """Place (R,) of every row in its structure."""
        return np.arange(self.total) - self.starts[self.owner]

    def slices(self) -> list[slice]:
        """Rows of every structure."""
        return [slice(a, a + n) for a, n in zip(self.starts.tolist(), self.counts.tolist(), strict=True)]

    def sum(self, values: Array) -> Array:
        """Sums (S, ...) of ``values`` (R, ...)."""
        return np.asarray(np.add.reduceat(values, self.starts, axis=0))

    def max(self, values: Array) -> Array:
        """Maxima (S, ...) of ``values`` (R, ...)."""
        return np.asarray(np.maximum.reduceat(values, self.starts, axis=0))

    def dot(self, first: Array, second: Array) -> Array:
        """Scalar products (S,) of rows (R, 3)."""
        return self.sum(np.einsum("rx,rx->r", first, second))

    def longest(self, vectors: Array) -> Array:
        """Length (S,) of the longest row of ``vectors`` (R, 3)."""
        return np.sqrt(self.max(np.einsum("rx,rx->r", vectors, vectors)))

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """``values`` (S, ...) repeated for every row (R, ...)."""
        return values[self.owner]

    def rows_of(self, structures: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers of the chosen structures, in their order."""
        counts = self.counts[structures]
        offset = np.cumsum(counts) - counts
        return np.repeat(self.starts[structures] - offset, counts) + np.arange(int(counts.sum()))
