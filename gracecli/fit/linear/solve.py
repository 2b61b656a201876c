r"""Ridge regression from normal equations; its strength by cross-validation, validation structures or evidence.

Rows are weighted as the loss weighs labels, columns divided by their norm::

    (X^T W X + lambda) c = X^T W y,         X^T W X = V diag(d) V^T  once, then every lambda costs nothing

Cross-validation: the structures in K parts; lambda is the one whose solutions without a part leave the smallest loss
there, summed over the parts. Normal equations are sums over rows, so those without a part are a difference::

    sum_k loss_k(c_k),   c_k from X^T W X - (X^T W X)_k,   loss_k(c) = c (X^T W X)_k c - 2 c (X^T W y)_k + (y^T W y)_k

Evidence (D. J. C. MacKay, Neural Comput. 4, 415 (1992)), iterated to self-consistency, N the number of rows::

    gamma = sum d / (d + lambda),   alpha = gamma / |c|^2,   beta = (N - gamma) / chi^2,   lambda = alpha / beta

===========  =====================================
symbol       variable
===========  =====================================
X^T W X, d   ``matrix``, ``eigenvalues``
gamma        ``effective``
===========  =====================================
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from scipy.linalg import eigh

from gracecli.engine.base import Array

BLOCK_ROWS = 2048
"""Rows that enter the normal equations together: enough for the speed of a matrix product."""

STRENGTHS = tuple(10.0 ** (k / 3.0) for k in range(-42, 1))
"""Values of lambda that are compared, of columns of norm 1."""

RowBlock = tuple[Array, Array, Array]
"""Design (p, n), labels (n,) and weights (n,)."""


@dataclass
class NormalEquations:
    """Sums over rows.

    Attributes
    ----------
    matrix : (p, p) float64
        X^T W X.
    right : (p,) float64
        X^T W y.
    square : float
        y^T W y.
    rows : int
    """

    matrix: Array
    right: Array
    square: float
    rows: int

    @classmethod
    def empty(cls, size: int) -> NormalEquations:
        """Of no rows, for ``size`` coefficients."""
        return cls(np.zeros((size, size)), np.zeros(size), 0.0, 0)

    @classmethod
    def of(cls, design: Array, target: Array, weight: Array) -> NormalEquations:
        """Of rows (p, n), one per column, labels (n,) and weights (n,)."""
        root = np.sqrt(weight)
        scaled = design * root
        return cls(scaled @ scaled.T, scaled @ (target * root), float(np.sum(weight * target**2)), len(target))

    def __iadd__(self, other: NormalEquations) -> NormalEquations:
        self.matrix += other.matrix
        self.right += other.right
        self.square += other.square
        self.rows += other.rows
        return self

    def __add__(self, other: NormalEquations) -> NormalEquations:
        return NormalEquations(
            self.matrix + other.matrix, self.right + other.right, self.square + other.square, self.rows + other.rows
        )

    def __sub__(self, other: NormalEquations) -> NormalEquations:
        return NormalEquations(
            self.matrix - other.matrix, self.right - other.right, self.square - other.square, self.rows - other.rows
        )

    def loss(self, coefficients: Array) -> float:
        """Weighted sum of squares that coefficients leave."""
        curved = float(coefficients @ (self.matrix @ coefficients))
        return curved - 2.0 * float(self.right @ coefficients) + self.square


def accumulate(
    equations: NormalEquations,
    rows_of: Callable[[int], RowBlock],
    counts: Sequence[int],
    threads: int,
    done: Callable[[int], object] = lambda _: None,
) -> None:
    """Add all structures, on several threads; the sums are the same, bit for bit, whatever their number.

    Parameters
    ----------
    equations : NormalEquations
    rows_of : callable
        Rows of a structure by its number; called from all threads.
    counts : sequence of int
        About how many rows every structure has; they decide which go together.
    threads : int
    done : callable
        Called with the number of structures added so far.
    """

    def work(members: Sequence[int]) -> NormalEquations:
        parts = [rows_of(i) for i in members]
        design, target, weight = (np.concatenate([p[k] for p in parts], axis=-1) for k in range(3))
        return NormalEquations.of(design, target, weight)

    finished = 0
    with single_threaded_blas():
        for members, part in ordered(work, _blocks(counts), threads):
            equations += part
            finished += len(members)
            done(finished)


def _blocks(counts: Sequence[int]) -> list[list[int]]:
    """Successive structures of about :data:`BLOCK_ROWS` rows."""
    blocks: list[list[int]] = []
    load = BLOCK_ROWS
    for index, count in enumerate(counts):
        if load + count > BLOCK_ROWS:
            blocks.append([])
            load = 0
        blocks[-1].append(index)
        load += count
    return blocks


T = TypeVar("T")
R = TypeVar("R")


def ordered(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[tuple[T, R]]:
    """Items and their results in order, computed by several threads that are at most one round ahead."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def single_threaded_blas() -> Any:
    """Context in which matrix products use one thread each: the threads here are busy with structures of their own."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")


@dataclass(frozen=True)
class Solution:
    """Coefficients and how they were chosen.

    Attributes
    ----------
    coefficients : (p,) float64
    strength : float
        lambda, of columns of norm 1.
    effective : float
        Number of coefficients that the data determine (gamma).
    """

    coefficients: Array
    strength: float
    effective: float


class Ridge:
    """Solutions of all strengths."""

    def __init__(self, equations: NormalEquations) -> None:
        norm = np.sqrt(np.diag(equations.matrix))
        self.scale = np.where(norm > 1e-12 * norm.max(), 1.0 / np.maximum(norm, 1e-300), 0.0)
        scaled = equations.matrix * self.scale[:, None] * self.scale
        self.eigenvalues, self.vectors = eigh(scaled, overwrite_a=True, check_finite=False)
        self.eigenvalues = np.maximum(self.eigenvalues, 0.0)
        self.right = self.vectors.T @ (equations.right * self.scale)
        self.square, self.rows = equations.square, equations.rows

    def solve(self, strength: float) -> Solution:
        """Coefficients for one lambda."""
        shifted = self.eigenvalues + strength
        coefficients = self.scale * (self.vectors @ (self.right / shifted))
        return Solution(coefficients, strength, float(np.sum(self.eigenvalues / shifted)))

    def by_evidence(self) -> Solution:
        """Lambda of the largest evidence."""
        strength = 1e-8
        for _ in range(200):
            shifted = self.eigenvalues + strength
            effective = float(np.sum(self.eigenvalues / shifted))
            rotated = self.right / shifted
            chi = self.square - 2.0 * float(rotated @ self.right) + float(np.sum(self.eigenvalues * rotated**2))
            alpha = effective / max(float(rotated @ rotated), 1e-300)
            beta = max(self.rows - effective, 1.0) / max(chi, 1e-300)
            new = float(np.clip(alpha / beta, 1e-15, 1e3))
            if abs(np.log(new / strength)) < 1e-4:
                break
            strength = new
        return self.solve(strength)

    def by_validation(self, loss: Callable[[Array], float]) -> Solution:
        """Lambda of the smallest loss of other structures, to a third of a decade."""
        solutions = [self.solve(strength) for strength in STRENGTHS]
        return min(solutions, key=lambda solution: loss(solution.coefficients))

    def by_cross_validation(self, whole: NormalEquations, parts: Sequence[NormalEquations]) -> Solution:
        """Lambda of the smallest loss of every part by the solution without it; ``whole``: the sum of the parts."""
        losses = np.zeros(len(STRENGTHS))
        for part in parts:
            rest = Ridge(whole - part)
            losses += [part.loss(rest.solve(strength).coefficients) for strength in STRENGTHS]
        return self.solve(STRENGTHS[int(np.argmin(losses))])
