"""Compression of radial functions and their tables of quintic B-splines.

``F = phi(grid)``, ``F C = U S V^T``; the functions ``phi C V_K`` with K singular values above the tolerance span R.
They are interpolated on uniform grids of growing fineness until values and slopes are within the tolerance; the error
of values falls with h^6, of slopes with h^5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from grace_native.radial_functions import STEP, Array, RadialFunction
from gracecli.model import radial as formulas

INTERVALS = (128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Compressed:
    """phi and C after compression: ``features @ projection``, ``mixing`` [K, n, lmax + 1]."""

    projection: Array
    mixing: Array


def _nodes(count: int, end: float) -> Array:
    """Points dense at both ends, (0, end)."""
    return end * 0.5 * (1.0 - np.cos(np.pi * (np.arange(count) + 0.5) / count))


def compress(function: RadialFunction, tolerance: float) -> Compressed:
    """Fewest combinations of the phi that give R within ``tolerance`` of its largest value.

    With ``F = phi(grid)``, ``F C = U S V^T`` in the metric of values on the grid; K is cut where S has fallen below the
    tolerance.
    """
    features = np.real(function.features(_nodes(600, function.end)))
    flat = function.mixing.reshape(len(function.mixing), -1)
    r = np.linalg.qr(features, mode="r")
    _, s, vt = np.linalg.svd(r @ flat, full_matrices=False)
    rank = max(1, int((s > tolerance * s[0]).sum()))
    if rank == len(function.mixing):
        return Compressed(np.eye(rank), function.mixing)
    # new features are R projected on the leading right vectors, phi C V: an exact linear map of phi
    return Compressed(flat @ vt[:rank].T, vt[:rank].reshape(rank, *function.mixing.shape[1:]))


def tabulate(sample: Callable[[Any], Any], end: float, tolerance: float) -> tuple[int, Array, float]:
    """Spline coefficients of functions of d on [0, end].

    Parameters
    ----------
    sample : callable
        d (points,) real or complex -> (points, K).
    tolerance : float
        Of values and of slopes times the cutoff, relative to the largest value, above 1/20 of the cutoff.

    Returns
    -------
    intervals, coefficients (intervals + 5, K), error reached
    """
    probe = np.linspace(0.05, 1.0, 1501)[:-1] * end * (1 - 1e-9)
    exact = sample(probe + 1j * STEP)
    value, slope = exact.real, exact.imag / STEP
    scale = np.abs(value).max() or 1.0
    previous = np.inf
    best: tuple[int, Array, float] | None = None
    for intervals in INTERVALS:
        grid = formulas.SplineGrid(end, intervals)
        coefficients = solve_spline(grid, np.real(sample(np.minimum(grid.samples, end))))
        found, derivative = evaluate_spline(grid, coefficients, probe)
        error = max(np.abs(found - value).max(), np.abs(derivative - slope).max() * end / 20) / scale
        if best is None or error < best[2]:
            best = (intervals, coefficients, float(error))
        if error < tolerance or error > 0.5 * previous:
            break
        previous = error
    assert best is not None
    return best


def solve_spline(grid: formulas.SplineGrid, samples: Array) -> Array:
    """Coefficients that interpolate the samples (banded system)."""
    from scipy.linalg import solve_banded

    design = grid.design(grid.samples)
    width = 6
    n = len(design)
    banded = np.zeros((2 * width + 1, n))
    rows, columns = np.nonzero(design)
    banded[width + rows - columns, columns] = design[rows, columns]
    return np.ascontiguousarray(solve_banded((width, width), banded, samples))


def evaluate_spline(grid: formulas.SplineGrid, coefficients: Array, distance: Array) -> tuple[Array, Array]:
    """Values and slopes of a spline."""
    x = distance * (grid.intervals / grid.end)
    k = np.clip(np.floor(x).astype(int), 0, grid.intervals - 1)
    weights = formulas.bspline_weights((x - k) + 1j * STEP)
    value = sum(w.real[:, None] * coefficients[k + s] for s, w in enumerate(weights))
    slope = sum(w.imag[:, None] * coefficients[k + s] for s, w in enumerate(weights))
    return value, slope * (grid.intervals / grid.end / STEP)
