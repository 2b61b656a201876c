"""``grace eos``: structures in, equations of state out, with their checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gracecli.cli.folder_job import folder_options, reference_option
from gracecli.cli.many import Memory
from gracecli.cli.options import model_options


@click.command(short_help="Equation of state of crystals.")
@click.argument("structures", nargs=-1, required=True, metavar="STRUCTURE...")
@model_options
@click.option(
    "--equation",
    type=click.Choice(["birch-murnaghan", "vinet"]),
    default="birch-murnaghan",
    show_default=True,
    help="The equation that is reported; the other is a check.",
)
@click.option(
    "--strain",
    type=float,
    default=0.06,
    show_default=True,
    help="Largest relative change of the volume, to both sides.",
)
@click.option("--points", type=int, default=11, show_default=True, help="Volumes.")
@click.option("--clamped", is_flag=True, help="Scale the cell as it is; nothing relaxes at the other volumes.")
@reference_option("What of the reference relaxes")
@click.option("--fmax", type=float, default=1e-3, show_default=True, help="Largest force of relaxations in eV/Å.")
@click.option("--smax", type=float, default=5e-3, show_default=True, help="Largest stress left (the shape), GPa.")
@folder_options
def command(
    structures: tuple[str, ...],
    model: str | None,
    engine: str,
    precision: str | None,
    engine_option: dict[str, Any],
    max_gamma: float | None,
    store: Path | None,
    rerun: bool,
    plots: bool,
    output: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Equation of state of STRUCTUREs: energy against volume, volume and bulk modulus of the minimum.

    The structure is relaxed first; at every other volume shape and atoms relax, all cells as one batch. Results go to
    NAME.eos/ in the current folder (-o names another): eos.json, eos.csv, eos.png, the relaxed reference.

    \b
    Exit codes: 0 done; 3 something did not relax; 4 bad input; 5 some of many failed; 9 no minimum in
    the range, or beyond --max-gamma.
    """
    from gracecli.cli.eos_job import EosJob
    from gracecli.cli.relax import make_calculator
    from gracecli.cli.relax_job import terminable
    from gracecli.run.eos import EosSettings
    from gracecli.run.work import EngineChoice

    settings, memory = EosSettings(**options), Memory(store, rerun)
    job = EosJob(as_json=as_json, max_gamma=max_gamma, settings=settings, plots=plots)
    job.read(structures)
    job.plan(output, force)
    if job.runnable:
        choice = EngineChoice.of(model, engine, precision, engine_option)
        with terminable():
            job.run(make_calculator(choice, model), choice.calculation("eos", model, settings.to_dict()), memory)
    job.print()
    return job.finish()
