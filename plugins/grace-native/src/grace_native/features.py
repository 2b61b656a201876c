"""What extrapolation grades are computed from (:mod:`gracecli.model.grade`), as columns of the kernels.

Every reduction, in every phase in which it takes invariants, makes p + 1 columns: its part of the projection of B, and
of |B_i|^2. Summed up over columns they are ``projected`` and ``squares``.
"""

from __future__ import annotations

import numpy as np

from grace_native.program import Array
from gracecli.model.grade import energy_reductions, invariant_pieces
from gracecli.model.modelfile import Model


class Features:
    """Weights and columns of one program."""

    def __init__(self, model: Model) -> None:
        assert model.grade is not None
        self.projection = np.asarray(model.grade.projection, dtype=np.float64)
        self.bent = model.grade.transform == "asinh"
        self.reductions = energy_reductions(model.blueprint)
        self.columns: list[str] = []
        self._pieces = {(p.reduction, p.source): p for p in invariant_pieces(model.blueprint, model.weights)}

    def rows(self, reduction: str, source: str, function: int) -> Array:
        """Rows of the projection that belong to one function of a source, [channels, p]."""
        piece = self._pieces[reduction, source]
        own = self.projection[piece.first : piece.first + piece.size]
        return own.reshape(piece.channels, piece.functions, -1)[:, function]

    def new_columns(self, reduction: str) -> int:
        """Reserve p + 1 columns; the number of the first."""
        self.columns.append(reduction)
        return (len(self.columns) - 1) * (self.projection.shape[1] + 1)

    def sums(self, made: Array) -> tuple[Array, Array]:
        """``projected`` (N, p) and ``squares`` (N, reductions) from the columns of the kernels."""
        size = self.projection.shape[1]
        blocks = made.reshape(len(made), len(self.columns), size + 1)
        squares = np.zeros((len(made), len(self.reductions)))
        for place, reduction in enumerate(self.columns):
            squares[:, self.reductions.index(reduction)] += blocks[:, place, size]
        return blocks[:, :, :size].sum(axis=1), squares
