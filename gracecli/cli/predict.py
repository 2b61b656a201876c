"""``grace predict``: energies, forces and stresses of structures; errors where the structures have labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gracecli.cli.committee import committee_options
from gracecli.cli.gamma import GammaJob, gamma_options
from gracecli.cli.many import Memory, spread_options, store_options
from gracecli.cli.options import (
    config_option,
    force_option,
    json_option,
    output_option,
    verbosity_options,
)


@click.command(short_help="Energies, forces and stresses of structures.")
@click.argument("structures", nargs=-1, required=True, metavar="STRUCTURE...")
@committee_options
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Parity plots against the labels.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Extrapolation grades against the true force errors of labelled structures.",
)
@click.option("--energy-key", metavar="KEY", help="Label of the energy (eV). [default: free_energy, else energy]")
@click.option("--forces-key", metavar="KEY", help="Label of the forces (eV/Å). [default: forces]")
@click.option("--stress-key", metavar="KEY", help="Label of the stress (eV/Å^3). [default: stress]")
@gamma_options("Structures beyond it are flagged, and the command ends with exit code 9.")
@spread_options
@store_options
@output_option
@force_option
@json_option
@config_option
@verbosity_options
def command(
    structures: tuple[str, ...],
    models: tuple[str | None, ...],
    engine: str,
    precision: str | None,
    engine_option: dict[str, Any],
    plot: Path | None,
    batch: str,
    jobs: int,
    dask: str | None,
    store: Path | None,
    rerun: bool,
    calibration: Path | None,
    max_gamma: float | None,
    collect_gamma: Path | None,
    output: Path | None,
    force: bool,
    as_json: bool,
    **keys: Any,
) -> int:
    """Predict energies, forces and stresses of STRUCTUREs.

    A STRUCTURE is an extxyz file (every frame), STORE.h5:QUERY, a POSCAR, CIF or any other file that ASE reads. Long
    extxyz files and stores are read as they are evaluated: memory does not grow with their length.

    Where structures have labels (energy, forces, stress of DFT), errors are reported as `grace fit` does: MAE and RMSE
    overall, by set, elements and config_type, of forces by element. Energies are compared as they are; a constant
    difference is pointed out, never removed. -o writes all predictions to one extxyz file.

    \b
    Exit codes: 0 all evaluated; 4 bad input; 5 some of many failed; 9 beyond --max-gamma;
    130 interrupted (what is done is written).
    """
    from gracecli.cli.predict_job import Job
    from gracecli.cli.relax_job import terminable
    from gracecli.cli.relax_many import Spread
    from gracecli.errors import UsageError
    from gracecli.fit.config import DataConfig
    from gracecli.run.work import EngineChoice

    spread, memory = Spread(batch, jobs, dask), Memory(store, rerun)
    model, *others = models
    if others and store is not None:
        raise UsageError("the spread of several models is not kept in a store", "leave --store out, or give one model")
    choice = EngineChoice.of(model, engine, precision, engine_option)
    gamma = GammaJob.of(max_gamma, collect_gamma, choice.create())
    committee = tuple(EngineChoice.of(other, engine, precision, engine_option) for other in others)
    job = Job(structures, DataConfig(**keys), output, plot, force, as_json, gamma, committee, calibration)
    calculation = choice.calculation("predict", model, {})
    with terminable(), memory.open():
        job.run(choice, spread, calculation, memory)
        memory.ends_with = job.exit_code
    job.print(choice.label(model))
    return job.finish()
