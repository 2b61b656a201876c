r"""Averages of correlated series with honest error bars, and drifts.

The integrated autocorrelation time of a series x_1 ... x_n, in units of its spacing, and what follows from it::

    tau = 1/2 + sum_{t=1..M} c(t) / c(0),      M the smallest with M >= 5 tau          (Sokal's window)
    independent samples n_eff = n / 2 tau
    error of the mean = sqrt(var(x) / n_eff)

Equilibration ends where the rest of the series has the most independent samples (Chodera). The drift is the slope of a
least-squares line; its error takes the residuals' correlation into account::

    slope error = sqrt(var(residual) 2 tau / sum (t - mean t)^2)

A slow motion of small amplitude (energy that wanders between phonons) escapes the window. It shows in the scatter of
the means of twenty blocks, so errors are at least what that scatter gives.

=================  =========================================
symbol             variable
=================  =========================================
tau                ``correlation_time()``, 0.5: uncorrelated
n_eff              ``Mean.independent``
=================  =========================================

Sources: A. D. Sokal, in Functional Integration (Plenum, 1997); J. D. Chodera, J. Chem. Theory Comput. 12, 1799 (2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
WINDOW = 5.0
CANDIDATES = 20
BLOCKS = 20
"""Of the second estimate of errors; series shorter than ten times as many have none."""


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error.

    Attributes
    ----------
    value, error, deviation : float
        Mean, standard error of the mean, standard deviation of the samples. NaN without samples.
    independent : float
        Number of independent samples.
    """

    value: float
    error: float
    deviation: float
    independent: float

    def to_dict(self) -> dict[str, float]:
        """JSON form."""
        return {
            "mean": self.value,
            "error": self.error,
            "standard_deviation": self.deviation,
            "independent_samples": self.independent,
        }


@dataclass(frozen=True)
class Drift:
    """Slope of a series, and its standard error."""

    value: float
    error: float


def correlation_time(series: Array) -> float:
    """Integrated autocorrelation time in sample spacings (0.5: uncorrelated; a constant series: n / 2)."""
    count = len(series)
    deviation = series - series.mean() if count else series
    variance = float(deviation @ deviation) / max(count, 1)
    if count < 2 or variance <= 1e-28 * max(1.0, float(series.mean() ** 2) if count else 0.0):
        return 0.5 * max(count, 1)
    padded = np.fft.rfft(deviation, 2 * count)
    correlation = np.fft.irfft(np.abs(padded) ** 2, 2 * count)[:count] / (variance * count)
    sums = np.cumsum(correlation) - 0.5
    window = np.arange(count) >= WINDOW * sums
    last = int(np.argmax(window)) if window.any() else count - 1
    return float(min(max(sums[last], 0.5), 0.5 * count))


def average(series: Array) -> Mean:
    """Mean of a correlated series."""
    series = np.asarray(series, dtype=np.float64)
    if len(series) == 0 or not np.isfinite(series).all():
        return Mean(float("nan"), float("nan"), float("nan"), 0.0)
    independent = len(series) / (2.0 * correlation_time(series))
    deviation = float(series.std(ddof=1)) if len(series) > 1 else float("nan")
    error = deviation / np.sqrt(independent)
    means = _block_means(series)
    if len(means):
        error = max(error, float(means.std(ddof=1)) / np.sqrt(BLOCKS))
        independent = min(independent, (deviation / error) ** 2) if error > 0 else independent
    return Mean(float(series.mean()), error, deviation, independent)


def equilibrated(series: Array) -> int:
    """First sample of the part to average over, at most half of the series in."""
    count = len(series)
    best, start = -1.0, 0
    if count < 20 or not np.isfinite(series).all():
        return 0
    for candidate in np.linspace(0, count // 2, CANDIDATES, dtype=int):
        rest = series[candidate:]
        independent = len(rest) / (2.0 * correlation_time(rest))
        if independent > best:
            best, start = independent, int(candidate)
    return start


def drift(times: Array, series: Array) -> Drift:
    """Slope of ``series`` over ``times`` with its standard error; NaN for fewer than four samples."""
    good = np.isfinite(series)
    times, series = np.asarray(times)[good], np.asarray(series)[good]
    if len(series) < 4:
        return Drift(float("nan"), float("nan"))
    arm = times - times.mean()
    spread = float(arm @ arm)
    slope = float(arm @ (series - series.mean())) / spread
    residual = series - series.mean() - slope * arm
    variance = float(residual @ residual) / (len(series) - 2)
    tau = correlation_time(residual) if variance > 0 else 0.5
    error = float(np.sqrt(2.0 * tau * variance / spread))
    means = _block_means(residual)
    if len(means):
        wander = float(means @ means) / (BLOCKS - 2)
        error = max(error, float(np.sqrt(wander * len(series) / BLOCKS / spread)))
    return Drift(slope, error)


def _block_means(series: Array) -> Array:
    """Means of twenty blocks; empty for a short series."""
    length = len(series) // BLOCKS
    if length < 10:
        return np.empty(0)
    return np.asarray(series[: length * BLOCKS].reshape(BLOCKS, length).mean(axis=1))


def block_average(values: Array) -> tuple[Array, Array]:
    """Mean of independent estimates (B, ...) and its standard error (NaN for one)."""
    values = np.asarray(values, dtype=np.float64)
    count = len(values)
    mean = values.mean(axis=0)
    if count < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, values.std(axis=0, ddof=1) / np.sqrt(count)
