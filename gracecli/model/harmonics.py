"""Real spherical harmonics as polynomials, normalised so that Y_00 = 1.

Equations (u = (x, y, z), flat index l^2 + l + m, no Condon-Shortley sign)::

    Y_(l,0) = P_(l,0)(z)    Y_(l,m) = sqrt2 P_(l,m)(z) Re (x+iy)^m    Y_(l,-m) = sqrt2 P_(l,m)(z) Im (x+iy)^m
    P_00 = 1    P_mm = sqrt((2m+1)/(2m)) P_(m-1,m-1)    P_(m+1,m) = sqrt(2m+3) z P_mm
    P_lm = sqrt((4l^2-1)/(l^2-m^2)) [ z P_(l-1,m) - sqrt(((l-1)^2-m^2)/(4(l-1)^2-1)) P_(l-2,m) ]

The polynomial form is evaluated even where u is not exactly a unit vector (GRACE softens the bond length), so it must
not be rewritten with x^2+y^2+z^2 = 1.

Symbol -> variable: P_lm -> ``legendre[l, m]``; Re/Im (x+iy)^m -> ``real[m]``, ``imaginary[m]``.

Source: recurrences of orthonormal associated Legendre functions (e.g. Limpanuparb & Milthorpe, arXiv:1410.1748).
"""

from __future__ import annotations

from math import sqrt
from typing import Any


def real_harmonics(x: Any, y: Any, z: Any, lmax: int) -> list[Any]:
    """Evaluate all Y_lm with l <= lmax.

    Parameters
    ----------
    x, y, z : arrays or tensors of one shape
        Components of the (nearly) unit vectors; only ``+ - *`` are used, so NumPy and TensorFlow both work.
    lmax : int
        Largest degree.

    Returns
    -------
    list of (lmax + 1)^2 arrays
        In flat order l^2 + l + m.
    """
    one = x * 0.0 + 1.0
    real, imaginary = [one], [one * 0.0]
    for m in range(1, lmax + 1):
        real.append(x * real[m - 1] - y * imaginary[m - 1])
        imaginary.append(x * imaginary[m - 1] + y * real[m - 1])
    legendre: dict[tuple[int, int], Any] = {(0, 0): one}
    for m in range(lmax + 1):
        if m:
            legendre[m, m] = sqrt((2 * m + 1) / (2 * m)) * legendre[m - 1, m - 1]
        if m < lmax:
            legendre[m + 1, m] = sqrt(2 * m + 3) * z * legendre[m, m]
        for l in range(m + 2, lmax + 1):
            previous = sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1))
            legendre[l, m] = sqrt((4 * l * l - 1) / (l * l - m * m)) * (
                z * legendre[l - 1, m] - previous * legendre[l - 2, m]
            )
    result = []
    for l in range(lmax + 1):
        for m in range(-l, l + 1):
            if m == 0:
                result.append(legendre[l, 0])
            else:
                part = real[m] if m > 0 else imaginary[-m]
                result.append(sqrt(2.0) * legendre[l, abs(m)] * part)
    return result
