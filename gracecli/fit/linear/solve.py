r"""Ridge regression from normal equations, with the strength chosen by the evidence or by validation structures.

Rows are weighted as the loss weighs labels, columns divided by their norm::

    (X^T W X + lambda) c = X^T W y,         X^T W X = V diag(d) V^T  once, then every lambda costs nothing

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

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from gracecli.engine.base import Array


class NormalEquations:
    """Sums over rows, taken in block by block.

    Parameters
    ----------
    size : int
        Number of coefficients.
    """

    def __init__(self, size: int) -> None:
        self.matrix = np.zeros((size, size))
        self.right = np.zeros(size)
        self.square = 0.0
        self.rows = 0

    def add(self, design: Array, target: Array, weight: Array) -> None:
        """Rows (n, p), labels (n,), weights (n,)."""
        root = np.sqrt(weight)
        scaled = design * root[:, None]
        self.matrix += scaled.T @ scaled
        self.right += scaled.T @ (target * root)
        self.square += float(np.sum(weight * target**2))
        self.rows += len(target)


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
        solutions = [self.solve(10.0 ** (k / 3.0)) for k in range(-42, 1)]
        return min(solutions, key=lambda solution: loss(solution.coefficients))
