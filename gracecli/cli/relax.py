"""``grace relax``: structures in, relaxed structures and a table (or JSON) out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.gamma import GammaJob, gamma_options
from gracecli.cli.many import Memory, spread_options, store_options
from gracecli.cli.options import (
    config_option,
    force_option,
    json_option,
    model_options,
    output_option,
    verbosity_options,
)
from gracecli.cli.relax_job import Job, report_statistics, terminable
from gracecli.cli.relax_many import Recording, Spread, open_journal, run_many
from gracecli.errors import UsageError

if TYPE_CHECKING:
    from gracecli.engine.calculator import GraceCalculator
    from gracecli.run.work import EngineChoice


@click.command(short_help="Relax structures.")
@click.argument("structures", nargs=-1, required=True, metavar="STRUCTURE...")
@model_options
@click.option("--fmax", type=float, default=0.02, show_default=True, help="Largest residual force in eV/Å.")
@click.option(
    "--smax",
    type=float,
    default=0.02,
    show_default=True,
    help="Largest residual stress in GPa, where the cell relaxes.",
)
@click.option("--steps", type=click.IntRange(min=0), default=500, show_default=True, help="Most optimizer steps.")
@click.option(
    "--optimizer",
    default="lbfgs",
    show_default=True,
    metavar="NAME",
    help="lbfgs, fire, fire2, bfgs, cell-aware-bfgs, ... (`grace plugins info gracecli` lists all).",
)
@click.option(
    "--cell",
    type=click.Choice(["none", "full", "volume", "shape", "lengths"]),
    default="none",
    show_default=True,
    help="What of the cell relaxes: nothing; everything; the volume at fixed shape; the shape at fixed volume; the "
    "lattice vector lengths at fixed angles.",
)
@click.option(
    "--pressure", type=float, default=0.0, show_default=True, help="External pressure in GPa; positive compresses."
)
@click.option("--fix-symmetry", is_flag=True, help="Hold the space group of the input (tolerance 0.01 Å).")
@click.option(
    "--trajectory",
    type=click.Path(path_type=Path),
    metavar="FILE.extxyz",
    help="Write every step here; a folder for several structures.",
)
@spread_options
@store_options
@gamma_options("Results beyond it are flagged, and the command ends with exit code 9.")
@click.option("--resume", is_flag=True, help="Go on with a run over many structures that was stopped.")
@output_option
@force_option
@json_option
@config_option
@verbosity_options
def command(
    structures: tuple[str, ...],
    model: str | None,
    engine: str,
    precision: str | None,
    engine_option: dict[str, Any],
    trajectory: Path | None,
    batch: str,
    jobs: int,
    dask: str | None,
    store: Path | None,
    rerun: bool,
    resume: bool,
    max_gamma: float | None,
    collect_gamma: Path | None,
    output: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Relax STRUCTUREs to the nearest energy minimum.

    A STRUCTURE is a POSCAR, CIF, extxyz (every frame) or any other file that ASE reads; FILE@INDEX picks frames,
    STORE.h5:QUERY structures of a store. Relaxed structures go to NAME.relaxed.EXT in the current folder, in the format
    of the input; -o names a file, or a folder for several. Constraints of the input (selective dynamics) are kept.

    Several structures are relaxed at once where the optimizer is lbfgs or fire (--batch). What is finished is kept in
    a journal beside the outputs: after a kill or Ctrl-C the same command with --resume goes on with what is missing.

    \b
    Exit codes: 0 all converged; 3 not converged (results written, flagged); 4 bad input; 5 some of many failed;
    9 exploded (last good geometry written), or beyond --max-gamma; 130 interrupted (last geometry written).
    """
    from gracecli.run.result import RelaxSettings

    settings = RelaxSettings(**options)
    _check_optimizer(settings.optimizer)
    spread, memory = Spread(batch, jobs, dask), Memory(store, rerun)
    job = Job(settings, as_json=as_json)
    job.read(structures)
    job.plan(output, trajectory, force or resume)
    if job.runnable:
        from gracecli.run.work import EngineChoice

        choice = EngineChoice.of(model, engine, precision, engine_option)
        gamma = GammaJob.of(max_gamma, collect_gamma, choice.create())
        calculation = choice.calculation("relax", model, settings.to_dict())
        journal = open_journal(job, calculation, resume, force)
        if resume and not force and (journal is None or not journal.done):
            job.plan(output, trajectory, force)  # nothing to go on with: existing files are not this run's
        finished = False
        try:
            with terminable(), memory.open():
                record = Recording(calculation, memory, journal)
                if spread.is_many(job):
                    run_many(job, choice, choice.label(model), spread, record)
                else:
                    calculator = make_calculator(choice, model)
                    job.run(calculator, record)
                    report_statistics(calculator)
                memory.ends_with = job.exit_code
            finished = not job.interrupted
        finally:
            if journal is not None:
                journal.close(finished)
        job.grade(gamma, choice.create())
    job.print()
    return job.finish()


def _check_optimizer(name: str) -> None:
    from gracecli.names import suggestion
    from gracecli.plugin.manager import get_plugin_manager
    from gracecli.plugin.specs import OptimizerSpec

    manager = get_plugin_manager()
    if name not in manager.optimizers():
        manager.raise_if_unusable(OptimizerSpec, name)
        raise UsageError(f"no optimizer is called {name!r}", suggestion(name, manager.optimizers()))


def make_calculator(choice: EngineChoice, given: str | None) -> GraceCalculator:
    """Calculator of an engine, named as results call it."""
    from gracecli.engine.calculator import GraceCalculator

    calculator = GraceCalculator(engine=choice.create())
    calculator.model_name = choice.label(given)
    return calculator
