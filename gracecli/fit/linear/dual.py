"""Forward-mode differentiation of NumPy formulas: numbers that carry their derivatives.

A dual number is ``value + slope e`` with ``e^2 = 0``. The formulas of :mod:`gracecli.model.harmonics` and
:mod:`gracecli.model.radial` use arithmetic and a few functions alone, so they return exact derivatives when given one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gracecli.engine.base import Array


class Dual:
    """A value and its derivatives.

    Parameters
    ----------
    value : (B,) float64
    slope : (..., B) float64
        Derivatives by any number of directions.
    """

    __array_ufunc__ = None  # ``array * dual`` is the dual's business

    def __init__(self, value: Array, slope: Array) -> None:
        self.value, self.slope = value, slope

    def __add__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value + other.value, self.slope + other.slope)
        return Dual(self.value + other, self.slope)

    def __sub__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value - other.value, self.slope - other.slope)
        return Dual(self.value - other, self.slope)

    def __mul__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value * other.value, self.slope * other.value + other.slope * self.value)
        return Dual(self.value * other, self.slope * other)

    def __truediv__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            ratio = self.value / other.value
            return Dual(ratio, (self.slope - other.slope * ratio) / other.value)
        return self * (1.0 / other)

    def __neg__(self) -> Dual:
        return Dual(-self.value, -self.slope)

    def __radd__(self, other: Any) -> Dual:
        return self + other

    def __rmul__(self, other: Any) -> Dual:
        return self * other

    def __rsub__(self, other: Any) -> Dual:
        return -self + other

    def __lt__(self, other: float) -> Any:
        return self.value < other


class DualFunctions:
    """The functions that the formulas ask their module ``ops`` for."""

    @staticmethod
    def abs(x: Dual) -> Dual:
        """|x|."""
        return Dual(np.abs(x.value), x.slope * np.sign(x.value))

    @staticmethod
    def sin(x: Dual) -> Dual:
        """Sine."""
        return Dual(np.sin(x.value), x.slope * np.cos(x.value))

    @staticmethod
    def where(condition: Any, x: Dual, y: Dual) -> Dual:
        """One or the other, derivatives included."""
        return Dual(np.where(condition, x.value, y.value), np.where(condition, x.slope, y.slope))
