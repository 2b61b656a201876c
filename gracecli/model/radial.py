"""Radial bases, envelope, and their tabulation by quintic B-splines.

Equations (x = d / rc; spec section 3)::

    f_p(x) = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2)                 envelope
    Cheb        g_k = T_k(t) f_p,  t = 2 (1 - |1 - x|) - 1,  k = 1..n
    SBessel     orthogonalised spherical Bessel functions h_n (Kocer et al., J. Chem. Phys. 150, 154102 (2019))
    RadSinBessel g_n = sqrt(2/rc) sin(n pi x) / d f_p
    Gaussian    g_k = exp(s (d - c_k)^2) f_p

A function R(d) on [0, rc] is tabulated as ``R(d) = sum_s b_s(u) T[k + s]`` with k = floor(d / h), u = d / h - k, the
six cardinal quintic B-splines b_s, and coefficients T that are linear in samples of R: ``T = solve @ R(samples)``.
The interpolant has four continuous derivatives; its error falls with h^6.

Symbol -> variable: d -> ``distance``; rc -> ``cutoff``; p -> ``p``; h -> ``rc / intervals``;
b_s -> ``bspline_weights``.

All functions work on NumPy arrays and TensorFlow tensors alike: ``ops`` is the module that supplies sin, cos, exp,
where and stack.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import pi, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import sici

Array = NDArray[np.float64]


def power(x: Any, n: int) -> Any:
    """x^n by repeated squaring: XLA leaves ``x ** n`` to the general pow(), fifty times slower."""
    result = None
    while n:
        if n & 1:
            result = x if result is None else result * x
        x, n = x * x, n >> 1
    return result


def envelope(x: Any, p: int) -> Any:
    """f_p(x), meant for x <= 1."""
    xp = power(x, p)
    return 1.0 - (p + 1) * (p + 2) / 2 * xp + p * (p + 2) * xp * x - p * (p + 1) / 2 * xp * x * x


def chebyshev(t: Any, n: int, kind: int = 1) -> list[Any]:
    """T_1..T_n (first kind), or U_1..U_n with U_1 = 2t (second kind)."""
    terms = [t * 0.0 + 1.0, t if kind == 1 else 2.0 * t]
    for _ in range(2, n + 1):
        terms.append(2.0 * t * terms[-1] - terms[-2])
    return terms[1 : n + 1]


def chebyshev_basis(x: Any, n: int, p: int, *, normalized: bool, kind: int, reverse: bool, ops: Any) -> list[Any]:
    """Chebyshev basis with envelope; ``x`` is d / rc."""
    t = 2.0 * (1.0 - ops.abs(1.0 - x)) - 1.0
    factor = envelope(x, p) * (sqrt(1.0 / pi) if normalized else 1.0)
    return [term * factor for term in chebyshev(-t if reverse else t, n, kind)]


def _sinc(x: Any, ops: Any) -> Any:
    """sin(x) / x, finite with finite derivatives at 0."""
    small = ops.abs(x) < 1e-4
    safe = ops.where(small, x * 0.0 + 1.0, x)
    return ops.where(small, 1.0 - x * x / 6.0, ops.sin(safe) / safe)


def sbessel_basis(distance: Any, n: int, cutoff: Any, ops: Any) -> list[Any]:
    """Orthogonalised spherical Bessel functions g_0..g_(n-1); no envelope."""
    result: list[Any] = []
    previous_d = 1.0
    for k in range(n):
        norm = (-1.0) ** k * sqrt(2.0) * pi * (k + 1) * (k + 2) / sqrt((k + 1) ** 2 + (k + 2) ** 2)
        x = distance * (pi / cutoff)
        h = norm * cutoff**-1.5 * (_sinc((k + 1.0) * x, ops) + _sinc((k + 2.0) * x, ops))
        e = k**2 * (k + 2) ** 2 / (4.0 * (k + 1) ** 4 + 1.0)
        if k == 0:
            result.append(h)
            continue
        d = 1.0 - e / previous_d
        result.append((h + sqrt(e / previous_d) * result[-1]) / sqrt(d))
        previous_d = d
    return result


def sine_basis(x: Any, n: int, p: int, cutoff: Any, normalized: bool, ops: Any) -> list[Any]:
    """RadSinBessel of one cutoff; ``x`` is d / rc. The normalised form removes the mean."""
    f = envelope(x, p)
    if not normalized:
        return [sqrt(2.0) * cutoff**-1.5 * (k * pi) * _sinc((k * pi) * x, ops) * f for k in range(1, n + 1)]
    result = []
    for k in range(1, n + 1):
        si1, si2 = sici(k * pi)[0], sici(2 * k * pi)[0]
        mean = sqrt(2.0) * si1
        variance = 2 * k * pi * si2 + np.cos(2 * k * pi) - 1.0 - 2**1.5 * mean * si1 + mean**2
        result.append((sqrt(2.0) * (k * pi) * _sinc((k * pi) * x, ops) - mean) / sqrt(variance) * f)
    return result


def pair_sine_basis(x: Any, n: int, p: int, cutoff: Any, normalized: bool, ops: Any) -> list[Any]:
    """RadSinBessel of pair cutoffs: normalised means without the factor rc^(-3/2)."""
    factor = sqrt(2.0) * envelope(x, p) * (1.0 if normalized else cutoff**-1.5)
    return [factor * (k * pi) * _sinc((k * pi) * x, ops) for k in range(1, n + 1)]


@lru_cache(maxsize=1)
def _quintic_pieces() -> Array:
    """Coefficients of the six pieces: ``b_s(u) = sum_q pieces[s, q] u^q``, s = 0 for the leftmost coefficient."""
    binomials = [1, 6, 15, 20, 15, 6, 1]
    pieces = np.zeros((6, 6))
    # cardinal spline M(x) = sum_j (-1)^j C(6,j) (x - j)_+^5 / 120 on [0, 6]; coefficient k+s sees x = u + 5 - s
    for s in range(6):
        for j in range(6 - s):
            shift = np.poly1d([1.0, 5.0 - s - j]) ** 5
            padded = np.zeros(6)
            padded[: len(shift.coeffs)] = shift.coeffs[::-1]
            pieces[s] += (-1) ** j * binomials[j] * padded / 120.0
    return pieces


def bspline_weights(u: Any) -> list[Any]:
    """The six weights b_s(u), 0 <= u < 1."""
    weights = []
    for row in _quintic_pieces():
        value = u * 0.0 + row[5]
        for q in range(4, -1, -1):
            value = value * u + row[q]
        weights.append(value)
    return weights


@dataclass(frozen=True)
class SplineGrid:
    """Uniform quintic B-spline grid on [0, end].

    Attributes
    ----------
    end : float
        Right end (the cutoff), Å.
    intervals : int
        Number of intervals; there are ``intervals + 5`` coefficients.
    """

    end: float
    intervals: int

    @property
    def samples(self) -> Array:
        """Distances at which the function is sampled, (intervals + 5,): the knots and four midpoints at the ends."""
        n = self.intervals
        points = np.concatenate([np.arange(n + 1.0), [0.5, 1.5, n - 1.5, n - 0.5]])
        samples: Array = np.sort(points).astype(np.float64)
        samples *= self.end / n
        return samples

    def design(self, distance: Array) -> Array:
        """Interpolation matrix, (len(distance), intervals + 5): R = design @ T."""
        x = np.asarray(distance) * (self.intervals / self.end)
        k = np.clip(np.floor(x).astype(int), 0, self.intervals - 1)
        matrix = np.zeros((len(x), self.intervals + 5))
        for s, w in enumerate(bspline_weights(x - k)):
            matrix[np.arange(len(x)), k + s] = w
        return matrix

    def solve(self) -> Array:
        """Matrix (intervals + 5, intervals + 5) that turns samples into coefficients."""
        inverse: Array = np.asarray(np.linalg.inv(self.design(self.samples)), dtype=np.float64)
        return inverse
