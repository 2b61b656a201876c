"""From the options of ``grace md`` to settings."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from gracecli.errors import UsageError

if TYPE_CHECKING:
    from gracecli.run.md_settings import MdSettings

LARGEST_SEED = 2**32


def settings_from(options: dict[str, Any], given: set[str], numbers: Any) -> MdSettings:
    """Settings of the options; contradictions are errors."""
    from gracecli.run.md import find_ensemble
    from gracecli.run.md_settings import (
        ALIASES,
        MdSettings,
        default_thermostat_time,
        default_timestep,
        parse_temperature,
        parse_time,
    )

    ensemble = ALIASES.get(options["ensemble"], options["ensemble"])
    find_ensemble(ensemble)
    first, last = parse_temperature(options["temperature"])
    timestep = default_timestep(numbers) if options["timestep"] is None else options["timestep"]
    if not timestep > 0:
        raise UsageError(f"the timestep must be positive, not {timestep}")
    if ensemble == "nve" and first != last:
        raise UsageError("nve has no thermostat that could follow a ramp", "--ensemble nvt")
    for name, applies in (
        ("pressure", ensemble.startswith("npt")),
        ("barostat_time", ensemble.startswith("npt")),
        ("thermostat_time", ensemble != "nve"),
        ("bulk_modulus", ensemble == "npt-berendsen"),
        ("chain_length", ensemble in ("nvt-nhc", "npt-mtk", "npt-mtk-iso")),
    ):
        if name in given and not applies:
            raise UsageError(f"--{name.replace('_', '-')} has no effect with --ensemble {ensemble}")
    steps = steps_from(options, timestep, 1000)
    equilibration = None if options["equilibration"] is None else parse_time(options["equilibration"])
    return MdSettings(
        ensemble=ensemble,
        temperature=first,
        temperature_end=last,
        pressure=options["pressure"],
        timestep=timestep,
        steps=steps,
        ramp_steps=steps if first != last else 0,
        seed=secrets.randbelow(LARGEST_SEED) if options["seed"] is None else options["seed"],
        thermostat_time=options["thermostat_time"] or default_thermostat_time(ensemble),
        barostat_time=options["barostat_time"],
        chain=options["chain_length"],
        bulk_modulus=options["bulk_modulus"],
        thermo_every=options["thermo_every"],
        trajectory_every=options["trajectory_every"],
        write_forces=options["write_forces"],
        checkpoint_every=options["checkpoint_every"],
        equilibration=equilibration,
        min_distance=options["min_distance"],
        max_temperature=options["max_temperature"],
    )


def steps_from(options: dict[str, Any], timestep: float, default: int) -> int:
    """Length of the run in steps."""
    from gracecli.run.md_settings import parse_time

    if options["time"] is not None:
        return max(1, round(parse_time(options["time"]) / timestep))
    return default if options["steps"] is None else int(options["steps"])
