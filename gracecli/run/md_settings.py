"""Settings of a molecular-dynamics run: frozen, checked, JSON in and out; the words people type for times and ramps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import UsageError

ALIASES = {"nvt": "nvt-csvr", "npt": "npt-mtk"}
FEMTOSECONDS = {"fs": 1.0, "ps": 1e3, "ns": 1e6}
TIMESTEP, TIMESTEP_HYDROGEN = 1.0, 0.5
"""Default timesteps in fs. An O-H stretch has a period of 9 fs; the fastest modes without hydrogen have 20 fs."""
THERMOSTAT_TIME, LANGEVIN_TIME, BAROSTAT_TIME = 100.0, 1000.0, 1000.0
"""Default relaxation times in fs. Langevin is gentler: it acts on every atom and would otherwise slow diffusion."""


@dataclass(frozen=True)
class MdSettings:
    """What is integrated, how far, and what is written.

    Attributes
    ----------
    ensemble : str
        Name of a registered ensemble (``nvt`` and ``npt`` stand for their defaults).
    temperature, temperature_end : float
        Target at the start and, where it ramps, at the end (K).
    pressure : float
        Target in GPa, positive compresses.
    timestep : float
        fs.
    steps : int
        Length of the run.
    ramp_steps : int
        The ramp ends at this step; a run that is continued holds the end temperature.
    seed : int
        Of the random numbers (velocities, thermostats).
    thermostat_time, barostat_time : float
        Relaxation times in fs; for Langevin the inverse friction.
    chain : int
        Number of links of Nosé-Hoover chains.
    bulk_modulus : float
        GPa; sets the scale of Berendsen's barostat, which knows no masses.
    thermo_every, trajectory_every : int
        Steps between rows of the log, frames of the trajectory.
    write_forces : bool
        Whether the trajectory holds forces.
    checkpoint_every : int
        Steps between checkpoints; 0: every half minute.
    equilibration : float or None
        fs at the start that averages leave out; None finds it.
    min_distance : float or None
        Å; closer atoms stop the run. None: by the elements.
    max_temperature : float or None
        K; hotter stops the run. None: ten times the target and 2000 K more.
    """

    ensemble: str = "nvt-csvr"
    temperature: float = 300.0
    temperature_end: float = 300.0
    pressure: float = 0.0
    timestep: float = TIMESTEP
    steps: int = 1000
    ramp_steps: int = 0
    seed: int = 0
    thermostat_time: float = THERMOSTAT_TIME
    barostat_time: float = BAROSTAT_TIME
    chain: int = 3
    bulk_modulus: float = 100.0
    thermo_every: int = 10
    trajectory_every: int = 10
    write_forces: bool = False
    checkpoint_every: int = 0
    equilibration: float | None = None
    min_distance: float | None = None
    max_temperature: float | None = None

    def __post_init__(self) -> None:
        for name in ("timestep", "thermostat_time", "barostat_time", "bulk_modulus"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise UsageError(f"{name.replace('_', ' ')} must be a positive number, not {value}")
        for name in ("temperature", "temperature_end"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise UsageError(f"the temperature must be a number of kelvin, not {value}")
        if not np.isfinite(self.pressure):
            raise UsageError(f"the pressure must be a number, not {self.pressure}")
        for name, least in (("steps", 0), ("chain", 1), ("thermo_every", 1), ("trajectory_every", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name.replace('_', ' ')} must be at least {least}, not {getattr(self, name)}")
        if self.thermostatted and min(self.temperature, self.temperature_end) <= 0:
            raise UsageError(f"{self.ensemble} needs a temperature above 0 K")
        if self.thermostatted and self.ensemble != "npt-berendsen" and self.thermostat_time < 2 * self.timestep:
            raise UsageError(
                f"a thermostat time of {self.thermostat_time:g} fs is too short for a timestep of {self.timestep:g} fs",
                "take 50 to 200 timesteps",
            )

    @property
    def thermostatted(self) -> bool:
        """Whether the ensemble has a temperature."""
        return self.ensemble != "nve"

    @property
    def barostatted(self) -> bool:
        """Whether the cell moves."""
        return self.ensemble.startswith("npt")

    @property
    def ramped(self) -> bool:
        """Whether the target temperature changes."""
        return self.thermostatted and self.temperature != self.temperature_end

    def target_temperature(self, step: int) -> float:
        """Target in K at a step: a straight line, then constant."""
        if not self.ramped or self.ramp_steps <= 0:
            return self.temperature_end
        done = min(step / self.ramp_steps, 1.0)
        return self.temperature + (self.temperature_end - self.temperature) * done

    def continued(self, steps: int) -> MdSettings:
        """The same with another length; what ramped keeps its ramp."""
        return replace(self, steps=steps)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MdSettings:
        """Inverse of :meth:`to_dict`."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


def parse_time(text: str) -> float:
    """``"10ps"`` in fs.

    Raises
    ------
    UsageError
        Not a number with one of the units fs, ps, ns.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?\d+)?)\s*(fs|ps|ns)\s*", text)
    try:
        value = float(match.group(1)) * FEMTOSECONDS[match.group(2)] if match else float("nan")
    except ValueError:
        value = float("nan")
    if not (np.isfinite(value) and value > 0):
        raise UsageError(f"{text!r} is not a time", "write a number with its unit, such as 500fs, 10ps or 1ns")
    return value


def parse_temperature(text: str) -> tuple[float, float]:
    """``"300"`` or ``"300:1200"``: start and end in K.

    Raises
    ------
    UsageError
        Neither.
    """
    parts = text.split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not np.isfinite(values).all() or min(values) < 0:
        raise UsageError(f"{text!r} is not a temperature", "write kelvin, or a ramp such as 300:1200")
    return values[0], values[-1]


def default_timestep(numbers: NDArray[np.integer[Any]]) -> float:
    """Sensible timestep in fs for the elements."""
    return TIMESTEP_HYDROGEN if (np.asarray(numbers) == 1).any() else TIMESTEP


def default_thermostat_time(ensemble: str) -> float:
    """Sensible relaxation time in fs."""
    return LANGEVIN_TIME if ensemble == "nvt-langevin" else THERMOSTAT_TIME
