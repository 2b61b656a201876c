r"""Slopes of energy differences against the work of stresses and forces, with their uncertainty.

::

    E_b - E_a = k_n W_normal + k_s W_shear + k_f W_forces + noise

fitted by least squares with weights 1 / (0.1 |W_b - W_a| + floor), outliers (beyond 6 robust standard deviations) left
out, errors by resampling structures (bootstrap, clustered: pairs share structures). A part of the work that is too
small beside the others is held at k = 1. All limits are relative, so that wrong units do not disturb the fit.

===========  =====================================
symbol       variable
===========  =====================================
W            ``columns``, mean over the two ends
W_b - W_a    ``curvature``
===========  =====================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gracecli.engine.base import Array
from gracecli.fit.check.pairs import Pair

NAMES = ("normal", "shear", "forces")
SMALLEST = 0.02
"""Least share (RMS, of the largest part) at which a slope is fitted."""
FEWEST = 6
SAMPLES = 60


@dataclass(frozen=True)
class Slopes:
    """Result of a regression.

    Attributes
    ----------
    slope, error : dict
        By name of the part (normal, shear, forces); one standard deviation.
    pairs : int
        Used, outliers left out.
    residual : float
        RMS, eV/atom.
    spread : float
        RMS of the energy differences, eV/atom.
    outliers : tuple of int
        Positions among the pairs given.
    """

    slope: dict[str, float]
    error: dict[str, float]
    pairs: int
    residual: float
    spread: float
    outliers: tuple[int, ...]


def columns_of(pairs: Sequence[Pair], order: int = 0) -> tuple[Array, Array]:
    """Mean work and its change from end to end, (pairs, 3)."""
    ends = np.array([[pair.normal, pair.shear[order], pair.forces] for pair in pairs])
    return ends.mean(axis=2), ends[:, :, 1] - ends[:, :, 0]


def fit_slopes(pairs: Sequence[Pair], energies: Array | None = None, order: int = 0, errors: bool = True) -> Slopes:
    """Regression over pairs whose labels are complete.

    Parameters
    ----------
    pairs : sequence of Pair
    energies : (pairs,) array, optional
        Energy differences other than those of the labels, eV.
    order : int
        Order of the shear components.
    errors : bool
        Whether to resample.
    """
    target = np.array([pair.energy for pair in pairs]) if energies is None else energies
    columns, curvature = columns_of(pairs, order)
    size = np.array([pair.atoms for pair in pairs], float)
    rms = np.sqrt(np.mean(columns**2, axis=0))
    used = np.flatnonzero(rms > SMALLEST * max(rms.max(), 1e-300))
    held = np.setdiff1d(np.arange(3), used)
    rest = target - columns[:, held].sum(axis=1)
    slope, weights, good = _robust(columns[:, used], rest, curvature[:, used])
    noise = np.zeros(len(used))
    if errors:
        noise = _bootstrap(columns[:, used], rest, weights * good, pairs)
    left = (rest - columns[:, used] @ slope) / size
    return Slopes(
        slope={NAMES[k]: float(value) for k, value in zip(used, slope, strict=True)},
        error={NAMES[k]: float(value) for k, value in zip(used, noise, strict=True)},
        pairs=int(good.sum()),
        residual=float(np.sqrt(np.average(left**2, weights=weights * good))),
        spread=float(np.sqrt(np.mean((target / size) ** 2))),
        outliers=tuple(int(i) for i in np.flatnonzero(np.logical_not(good))),
    )


def _robust(columns: Array, target: Array, curvature: Array) -> tuple[Array, Array, Array]:
    good = np.ones(len(target), bool)
    weights = np.ones(len(target))
    slope = _solve(columns, target, weights)
    for _ in range(6):
        weights = trust(curvature @ slope, target)
        slope = _solve(columns, target, weights * good)
        scaled = np.abs(target - columns @ slope) * np.sqrt(weights)
        limit = 6.0 * 1.4826 * float(np.median(scaled[good]))
        good = scaled <= max(limit, 1e-9)
        if good.sum() < FEWEST:
            good = np.ones(len(target), bool)
    return slope, weights, good


def trust(curvature: Array, energy: Array) -> Array:
    """Weights of pairs by how exact the trapezoid is for them, at most 1.

    Parameters
    ----------
    curvature : (pairs,)
        Change of the work from end to end, eV.
    energy : (pairs,)
        Energy differences, eV.
    """
    floor = 0.02 * float(np.median(np.abs(energy))) + 1e-12
    weights = 1.0 / (0.1 * np.abs(curvature) + floor) ** 2
    return np.asarray(weights / weights.max())


def _solve(columns: Array, target: Array, weights: Array) -> Array:
    root = np.sqrt(weights)
    return np.asarray(np.linalg.lstsq(columns * root[:, None], target * root, rcond=1e-10)[0])


def _bootstrap(columns: Array, target: Array, weights: Array, pairs: Sequence[Pair]) -> Array:
    """Standard deviation of the slopes under resampling of structures."""
    first, second = (np.array([getattr(pair, end) for pair in pairs]) for end in ("first", "second"))
    names, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    ends = places.reshape(2, -1)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(SAMPLES):
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        chosen = weights * times[ends[0]] * times[ends[1]]
        if (chosen > 0).sum() >= columns.shape[1] + 2:
            found.append(_solve(columns, target, chosen))
    return np.std(found, axis=0) if len(found) > 5 else np.full(columns.shape[1], np.inf)
