"""Real Clebsch-Gordan couplings.

Equations (Condon-Shortley convention for the complex coefficients)::

    C^l[m, m]  = (-1)^m h     C^l[m, -m]  = i (-1)^m h          (m > 0, h = 1/sqrt 2)
    C^l[-m, m] = h            C^l[-m, -m] = -i h                C^l[0, 0] = 1,  everything times (-i)^l
    G^L[M, m1, m2] = sum conj(C^L[M', M]) <l1 m1' l2 m2' | L M'> C^l1[m1', m1] C^l2[m2', m2]
    F(l1, l2, L)   = sqrt((2L+1) / ((2l1+1)(2l2+1))) / |<l1 0 l2 0 | L 0>|    for l1+l2+L even

With the 4-pi normalised real harmonics Y of :mod:`gracecli.model.harmonics` and l1+l2+L even,
``sum F G Y_l1 Y_l2 = Y_L``.

Symbol -> variable: l1, l2, L -> ``l1, l2, l3``; G -> ``real_coupling``; F -> ``coupling_scale``.

Source: Varshalovich, Moskalev, Khersonskii, Quantum Theory of Angular Momentum, section 8.2; conventions of the
published GRACE models (spec section 6.2).
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import factorial, sqrt

import numpy as np
from numpy.typing import NDArray


@cache
def clebsch_gordan(l1: int, m1: int, l2: int, m2: int, l3: int, m3: int) -> float:
    """Return <l1 m1 l2 m2 | l3 m3> by Racah's formula, the rational part evaluated exactly."""
    if m3 != m1 + m2 or not abs(l1 - l2) <= l3 <= l1 + l2 or abs(m1) > l1 or abs(m2) > l2 or abs(m3) > l3:
        return 0.0
    f = factorial
    prefactor = Fraction((2 * l3 + 1) * f(l3 + l1 - l2) * f(l3 - l1 + l2) * f(l1 + l2 - l3), f(l1 + l2 + l3 + 1)) * (
        f(l3 + m3) * f(l3 - m3) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2)
    )
    total = Fraction(0)
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        denominator = f(k) * f(l1 + l2 - l3 - k) * f(l1 - m1 - k) * f(l2 + m2 - k)
        denominator *= f(l3 - l2 + m1 + k) * f(l3 - l1 - m2 + k)
        total += Fraction((-1) ** k, denominator)
    return (1.0 if total > 0 else -1.0) * sqrt(prefactor * total * total)


def _complex_to_real(l: int) -> NDArray[np.complex128]:
    """Matrix C^l: rows complex orders m = -l..l, columns real orders."""
    matrix = np.zeros((2 * l + 1, 2 * l + 1), dtype=complex)
    matrix[l, l] = 1.0
    for m in range(1, l + 1):
        sign = (-1.0) ** m / sqrt(2.0)
        matrix[l + m, l + m] = sign
        matrix[l + m, l - m] = 1j * sign
        matrix[l - m, l + m] = 1 / sqrt(2.0)
        matrix[l - m, l - m] = -1j / sqrt(2.0)
    return (-1j) ** l * matrix


@cache
def real_coupling(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """Coupling coefficients in the real basis.

    Parameters
    ----------
    l1, l2, l3 : int
        Degrees with ``|l1 - l2| <= l3 <= l1 + l2``.

    Returns
    -------
    (2 l3 + 1, 2 l1 + 1, 2 l2 + 1) float64
        ``G[M, m1, m2]``, read-only; entries below 1e-10 are exactly zero.
    """
    complex_table = np.zeros((2 * l3 + 1, 2 * l1 + 1, 2 * l2 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(-l2, l2 + 1):
            if abs(m1 + m2) <= l3:
                complex_table[l3 + m1 + m2, l1 + m1, l2 + m2] = clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2)
    c1, c2, c3 = _complex_to_real(l1), _complex_to_real(l2), _complex_to_real(l3)
    table = np.einsum("AM,Aab,am,bn->Mmn", c3.conj(), complex_table, c1, c2)
    if np.abs(table.imag).max() > 1e-10:
        raise ArithmeticError(f"real coupling ({l1},{l2},{l3}) is not real")
    result = np.where(np.abs(table.real) < 1e-10, 0.0, table.real)
    result.flags.writeable = False
    return result


def coupling_scale(l1: int, l2: int, l3: int) -> float:
    """Normalisation F(l1, l2, L); 1 for odd l1+l2+L and where a degree exceeds 7 (as in published models)."""
    if (l1 + l2 + l3) % 2 or l1 > 7 or l2 > 7:
        return 1.0
    return sqrt((2 * l3 + 1) / ((2 * l1 + 1) * (2 * l2 + 1))) / abs(clebsch_gordan(l1, 0, l2, 0, l3, 0))
