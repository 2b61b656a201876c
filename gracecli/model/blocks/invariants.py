"""What extrapolation grades are made of, from the tensors of the energy (equations: :mod:`gracecli.model.grade`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from gracecli.model.blocks.base import Context
from gracecli.model.grade import Piece


def of_piece(context: Context, piece: Piece) -> tf.Tensor:
    """Invariants of a piece, [atoms, channels * functions], the function running fastest."""
    block = context.value(piece.source)[0, 1]
    return tf.reshape(tf.transpose(block[: piece.functions, 0], (1, 2, 0)), (-1, piece.size))


def projected_and_squares(
    context: Context, pieces: Sequence[Piece], projection: np.ndarray, transform: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Projection of B, [atoms, p], and |B_i|^2 of every reduction, [atoms, reductions], both float64."""
    projected: list[tf.Tensor] = []
    squares: dict[str, list[tf.Tensor]] = {}
    for piece in pieces:
        invariants = of_piece(context, piece)
        squares.setdefault(piece.reduction, []).append(tf.reduce_sum(invariants * invariants, axis=1))
        bent = tf.asinh(invariants) if transform == "asinh" else invariants
        rows = projection[piece.first : piece.first + piece.size]
        projected.append(tf.matmul(bent, tf.constant(rows, bent.dtype)))
    total = [tf.add_n(parts) for parts in squares.values()]
    return tf.cast(tf.add_n(projected), tf.float64), tf.cast(tf.stack(total, axis=1), tf.float64)
