"""Structures in a row, as the kernels take them, and what they return per structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gracecli.engine.base import Array, Graph, IntArray


class JoinedGraphs:
    """Several graphs as one; a single one is not copied.

    Attributes
    ----------
    offsets : (structures + 1,) int64
        First atom of every structure, and the end.
    centre, neighbour : (bonds,) int
    vectors : (bonds, 3) float64
    first : (atoms + 1,) int64
        First bond of every atom, and the end.
    """

    def __init__(self, graphs: Sequence[Graph]) -> None:
        self.offsets: NDArray[np.int64] = np.concatenate([[0], np.cumsum([len(g) for g in graphs])]).astype(np.int64)
        single = len(graphs) == 1
        pairs = list(zip(graphs, self.offsets, strict=False))
        vectors = graphs[0].bond_vector if single else np.concatenate([g.bond_vector for g in graphs])
        self.centre: IntArray = graphs[0].centre if single else np.concatenate([g.centre + o for g, o in pairs])
        other = graphs[0].neighbour if single else np.concatenate([g.neighbour + o for g, o in pairs])
        first = graphs[0].first if single else None
        if first is None:
            atoms = np.arange(int(self.offsets[-1]) + 1, dtype=self.centre.dtype)
            first = np.searchsorted(self.centre, atoms).astype(np.int64)
        self.first = first
        self.vectors: Array = np.ascontiguousarray(vectors, dtype=np.float64)
        self.neighbour: IntArray = np.ascontiguousarray(other, dtype=np.int32)


def voigt(virial: Any) -> Array:
    """Symmetric part of (..., 9) as (..., 6): xx yy zz yz xz xy."""
    w = np.reshape(virial, (*np.shape(virial)[:-1], 3, 3))
    w = 0.5 * (w + np.swapaxes(w, -1, -2))
    return np.stack([w[..., 0, 0], w[..., 1, 1], w[..., 2, 2], w[..., 1, 2], w[..., 0, 2], w[..., 0, 1]], axis=-1)
