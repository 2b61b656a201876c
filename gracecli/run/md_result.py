"""Result of a run: averages with errors, drifts, structure and transport, checks; JSON-ready."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import kB
from numpy.typing import NDArray

from gracecli.errors import PhysicsError
from gracecli.run.md_checks import Check, check_sampling, thermodynamic_checks
from gracecli.run.md_log import read_log
from gracecli.run.md_settings import MdSettings
from gracecli.run.md_statistics import Drift, Mean, average, drift, equilibrated
from gracecli.run.md_structure import PairDistribution, pair_distributions
from gracecli.run.md_trajectory import Trajectory
from gracecli.run.md_transport import Diffusion, Vibrations, diffusion, vibrations

Array = NDArray[np.float64]
AVERAGED = (
    "temperature", "pressure", "density", "volume", "potential_energy", "total_energy", "a", "b", "c", "alpha", "beta",
    "gamma",
)  # fmt: skip

UNITS = {
    "temperature": "K", "pressure": "GPa (positive compresses)", "density": "g/cm^3", "volume": "Å^3",
    "potential_energy": "eV/atom", "total_energy": "eV/atom", "a": "Å", "b": "Å", "c": "Å", "alpha": "degree",
    "beta": "degree", "gamma": "degree", "energy_drift": "eV/atom/ns", "energy_fluctuation": "eV/atom",
    "time": "ps", "equilibration": "ps", "timestep": "fs", "thermostat_time": "fs", "barostat_time": "fs",
    "wall_time": "s", "speed": "ns/day", "coefficient": "1e-9 m^2/s", "first_peak": "Å", "first_minimum": "Å",
    "nyquist": "THz", "bulk_modulus": "GPa", "min_distance": "Å", "max_temperature": "K", "smallest_distance": "Å",
}  # fmt: skip
"""Units of every number in :meth:`MdResult.to_dict`."""


@dataclass(frozen=True)
class MdResult:
    """A finished (or stopped) run.

    Attributes
    ----------
    status : str
        ``finished``, ``interrupted``, ``exploded``, ``extrapolated``, or ``analysed`` for a trajectory that was only
        read.
    message : str
    formula : str
    atoms : int
    model : str
    settings : MdSettings or None
        None where only a trajectory is known.
    steps : int
    wall_time : float
        s.
    speed : float
        ns/day, of the steps of this call.
    start : float
        fs at which averages begin.
    end : float
        fs.
    freedom : int
        Degrees of freedom of the temperature.
    means : dict of Mean
        Energies per atom.
    drift : Drift or None
        eV/atom/ns, of the energy that the ensemble conserves.
    fluctuation : float
        Standard deviation of that energy about its line, eV/atom.
    pairs, diffusions, spectra : list
    checks : list of Check
    warnings : tuple of str
    columns : dict of arrays
        The log.
    """

    status: str
    message: str
    formula: str
    atoms: int
    model: str
    settings: MdSettings | None
    steps: int
    wall_time: float
    speed: float
    start: float
    end: float
    freedom: int
    means: dict[str, Mean]
    drift: Drift | None
    fluctuation: float
    pairs: list[PairDistribution] = field(default_factory=list)
    diffusions: list[Diffusion] = field(default_factory=list)
    spectra: list[Vibrations] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    columns: dict[str, Array] = field(default_factory=dict)

    @property
    def failed(self) -> list[Check]:
        """Checks that did not pass."""
        return [check for check in self.checks if check.verdict == "failed"]

    def raise_for_status(self, strict: bool = False) -> None:
        """Raise PhysicsError for an explosion or extrapolation, and with ``strict`` for a failed check."""
        if self.status in ("exploded", "extrapolated"):
            raise PhysicsError(self.message)
        if strict and self.failed:
            names = ", ".join(check.name for check in self.failed)
            raise PhysicsError(f"checks failed: {names}", "the card says by how much")

    def to_dict(self) -> dict[str, Any]:
        """JSON form with ``_units``; curves are in the CSV files."""
        return {
            "_units": UNITS,
            "formula": self.formula,
            "atoms": self.atoms,
            "status": self.status,
            "message": self.message,
            "model": self.model,
            "settings": None if self.settings is None else self.settings.to_dict(),
            "steps": self.steps,
            "time": self.end / 1e3,
            "equilibration": self.start / 1e3,
            "degrees_of_freedom": self.freedom,
            "averages": {name: mean.to_dict() for name, mean in self.means.items()},
            "energy_drift": None if self.drift is None else asdict(self.drift),
            "energy_fluctuation": self.fluctuation,
            "pair_distributions": [
                {key: getattr(pair, key) for key in ("pair", "first_peak", "first_minimum", "coordination")}
                for pair in self.pairs
            ],
            "diffusion": [
                {
                    "element": d.element,
                    "coefficient": d.coefficient,
                    "error": d.coefficient_error,
                    "exponent": d.exponent,
                    "exponent_early": d.early,
                    "exponent_late": d.late,
                    "diffusive": d.diffusive,
                    "bound": d.bound,
                }
                for d in self.diffusions
            ],
            "vibrations": [{"element": v.element, "nyquist": v.nyquist} for v in self.spectra],
            "checks": [asdict(check) for check in self.checks],
            "wall_time": self.wall_time,
            "speed": self.speed,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Run:
    """What is known of a run besides its files."""

    status: str = "analysed"
    message: str = ""
    model: str = ""
    settings: MdSettings | None = None
    steps: int = 0
    wall_time: float = float("nan")
    speed: float = float("nan")
    warnings: tuple[str, ...] = ()


def analyse(run: Run, log: Path | None, trajectory: Path | None, structure: Atoms | None = None) -> MdResult:
    """Result from the files of a run.

    Parameters
    ----------
    run : Run
    log : Path or None
        CSV of the run; without it the observables of the trajectory serve.
    trajectory : Path or None
    structure : Atoms, optional
        Where there is no trajectory.
    """
    opened = Trajectory(trajectory) if trajectory is not None else None
    try:
        return _analyse(run, log, opened, structure)
    finally:
        if opened is not None:
            opened.__exit__()


def _analyse(run: Run, log: Path | None, trajectory: Trajectory | None, structure: Atoms | None) -> MdResult:
    numbers = trajectory.numbers if trajectory is not None else structure.numbers if structure is not None else []
    count = len(numbers)
    if log is not None:
        columns = read_log(log)
    else:
        assert trajectory is not None
        columns = {"step": trajectory.steps, "time": trajectory.times, **trajectory.observables()}
    time, temperature = columns["time"], columns["temperature"]
    start = _start(run.settings, columns)
    kept = time >= start
    means = {name: average(_per_atom(name, columns[name][kept], count)) for name in AVERAGED if name in columns}
    means = {name: mean for name, mean in means.items() if np.isfinite(mean.value)}
    hot = temperature > 0
    ratios = 2.0 * columns["kinetic_energy"][hot] / (kB * temperature[hot])
    freedom = round(float(np.median(ratios))) if len(ratios) else 0
    slope, fluctuation = _conserved({name: values[kept] for name, values in columns.items()}, count)
    checks: list[Check] = []
    if run.settings is not None:
        span = float(time[-1]) - start if len(time) else 0.0
        checks += thermodynamic_checks(run.settings, means, slope, temperature[kept], freedom, span)
    pairs: list[PairDistribution] = []
    diffusions: list[Diffusion] = []
    spectra: list[Vibrations] = []
    if trajectory is not None and trajectory.frames:
        first = int(np.searchsorted(trajectory.times, start))
        frames = slice(first, trajectory.frames)
        pairs = pair_distributions(trajectory, frames)
        diffusions = diffusion(trajectory, frames)
        spectra = vibrations(trajectory, frames)
        if spectra:
            whole = spectra[-1]
            checks.append(check_sampling(whole.aliased, whole.nyquist))
    return MdResult(
        status=run.status, message=run.message, formula=Atoms(numbers).get_chemical_formula(), atoms=count,
        model=run.model, settings=run.settings, steps=run.steps or int(columns["step"][-1] if len(time) else 0),
        wall_time=run.wall_time, speed=run.speed, start=start, end=float(time[-1]) if len(time) else 0.0,
        freedom=freedom, means=means, drift=slope, fluctuation=fluctuation, pairs=pairs, diffusions=diffusions,
        spectra=spectra, checks=checks, warnings=run.warnings, columns=columns,
    )  # fmt: skip


def _start(settings: MdSettings | None, columns: dict[str, Array]) -> float:
    """Where averages begin, fs: as asked, else where potential energy, temperature and pressure have settled."""
    time = columns["time"]
    if settings is not None and settings.equilibration is not None:
        return settings.equilibration
    if settings is not None and settings.ramped:
        ramp = settings.ramp_steps * settings.timestep
        return ramp if len(time) and time[-1] > 1.5 * ramp else 0.0  # a run that is a ramp: all of it
    names = ("potential_energy", "temperature", "pressure", "volume")
    first = max((equilibrated(columns[name]) for name in names if name in columns), default=0)
    return float(time[first]) if len(time) else 0.0


def _per_atom(name: str, series: Array, count: int) -> Array:
    return series / count if name in ("potential_energy", "total_energy") else series


def _conserved(columns: dict[str, Array], count: int) -> tuple[Drift | None, float]:
    """Drift (eV/atom/ns) and fluctuation (eV/atom) of what is conserved; the shadow energy where there is one."""
    known = np.isfinite(columns.get("shadow_energy", np.array([np.nan]))).sum() >= 4
    name = "shadow_energy" if known else "conserved_energy"
    series, time = columns[name] / max(count, 1), columns["time"]
    good = np.isfinite(series)
    if not good.any():
        return None, float("nan")
    found = drift(time[good], series[good])
    plain = columns["conserved_energy"] / max(count, 1)
    return Drift(found.value * 1e6, found.error * 1e6), float(np.nanstd(plain))
