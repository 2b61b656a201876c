"""What a run says about itself: checks that pass, fail, or cannot be decided because the run is too short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.units import kB
from numpy.typing import NDArray

from gracecli.run.md_settings import MdSettings
from gracecli.run.md_statistics import Drift, Mean, correlation_time

Array = NDArray[np.float64]
Verdict = Literal["passed", "failed", "undecided"]

DRIFT_LIMIT = 0.01
"""eV/atom/ns: 39 K per nanosecond in a solid's two times three halves kB. Good runs are below a hundredth of it."""
SIGNIFICANCE = 1e-3
"""A distribution less likely than this is not the canonical one."""
RELAXATIONS = 20.0
"""Relaxation times of the thermostat (a quarter as many of the barostat) without which nothing is decided."""
LEAST = 10.0
"""Independent samples without which nothing is decided."""
TEMPERATURE_TOLERANCE = 0.005
"""Relative; the error of the timestep itself is of this size."""
PRESSURE_TOLERANCE = 0.01
"""GPa; as for the temperature."""
ALIASED = 0.02
"""Share of the vibrations in the last tenth below the Nyquist frequency that says frames are too rare."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes
    ----------
    name : str
    verdict : str
        ``passed``, ``failed`` or ``undecided``.
    detail : str
        Numbers, in words.
    """

    name: str
    verdict: Verdict
    detail: str


def check_drift(drift: Drift, name: str) -> Check:
    """Drift of the conserved energy in eV/atom/ns."""
    text = f"{drift.value:+.2e} ± {drift.error:.1e} eV/atom/ns (limit {DRIFT_LIMIT:g})"
    if not np.isfinite(drift.value):
        return Check(name, "undecided", "too few samples")
    if abs(drift.value) <= DRIFT_LIMIT:
        return Check(name, "passed" if drift.error <= DRIFT_LIMIT else "undecided", text)
    return Check(name, "failed" if abs(drift.value) - 3.0 * drift.error > DRIFT_LIMIT else "undecided", text)


def check_mean(name: str, mean: Mean, target: float, tolerance: float, unit: str) -> Check:
    """Whether a mean is its target, within three standard errors and the tolerance of the timestep."""
    text = f"{mean.value:.4g} ± {mean.error:.2g} {unit} (target {target:.4g})"
    if mean.independent < LEAST:
        return Check(name, "undecided", f"{text}; {mean.independent:.0f} independent samples are too few")
    off = abs(mean.value - target) > 3.0 * mean.error + tolerance
    return Check(name, "failed" if off else "passed", text)


def check_distribution(temperature: Array, target: float, freedom: int) -> tuple[Check, float]:
    """Whether kinetic energies are distributed as in the canonical ensemble; also the probability.

    ``K / kT`` follows the gamma distribution of shape ``N_f / 2``: a Kolmogorov-Smirnov test on samples so far apart
    that they are independent.
    """
    from scipy.stats import gamma, kstest

    name = "temperature distribution"
    stride = max(1, int(np.ceil(2.0 * correlation_time(temperature)))) if len(temperature) else 1
    apart = temperature[::stride]
    if len(apart) < LEAST:
        return Check(name, "undecided", f"{len(apart)} independent samples are too few"), float("nan")
    energies = 0.5 * freedom * kB * apart / (kB * target)
    probability = float(kstest(energies, gamma(0.5 * freedom).cdf).pvalue)
    width = float(temperature.std(ddof=1)) / (target * np.sqrt(2.0 / freedom))
    text = (
        f"width {width:.3f} of the canonical one, p = {probability:.3g} (limit {SIGNIFICANCE:g}; {len(apart)} samples)"
    )
    return Check(name, "failed" if probability < SIGNIFICANCE else "passed", text), probability


def check_sampling(share: float, nyquist: float) -> Check:
    """Whether frames are dense enough for the vibrations."""
    text = (
        f"{100 * share:.1f} % of the vibrations in the last tenth below {nyquist:.0f} THz (limit {100 * ALIASED:g} %)"
    )
    return Check("frames resolve vibrations", "failed" if share > ALIASED else "passed", text)


def thermodynamic_checks(
    settings: MdSettings, means: dict[str, Mean], drift: Drift | None, temperature: Array, freedom: int, span: float
) -> list[Check]:
    """Checks of averages over ``span`` fs against what was asked for."""
    found = []
    settled = span >= RELAXATIONS * settings.thermostat_time
    if drift is not None:
        found.append(check_drift(drift, "energy drift" if settings.ensemble == "nve" else "conserved energy drift"))
    if settings.thermostatted and not settings.ramped:
        target = settings.temperature_end
        mean = check_mean("mean temperature", means["temperature"], target, TEMPERATURE_TOLERANCE * target, "K")
        found.append(mean if settled else _too_short(mean))
        if settings.ensemble != "npt-berendsen":
            shape = check_distribution(temperature, target, freedom)[0]
            found.append(shape if settled else _too_short(shape))
    if settings.barostatted and not settings.ramped:
        mean = check_mean("mean pressure", means["pressure"], settings.pressure, PRESSURE_TOLERANCE, "GPa")
        found.append(mean if span >= 0.25 * RELAXATIONS * settings.barostat_time else _too_short(mean))
    return found


def _too_short(check: Check) -> Check:
    """Nothing is decided before thermostat and barostat could do their work."""
    return Check(check.name, "undecided", f"{check.detail}; the run is too short to tell")
