"""``grace elastic``: structures in, elastic constants and what follows from them out, with their checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gracecli.cli.folder_job import folder_options, reference_option
from gracecli.cli.many import Memory
from gracecli.cli.options import model_options


@click.command(short_help="Elastic constants of crystals.")
@click.argument("structures", nargs=-1, required=True, metavar="STRUCTURE...")
@model_options
@click.option(
    "--method",
    type=click.Choice(["stress", "energy", "both"]),
    default="both",
    show_default=True,
    help="Slopes of stresses, curvatures of energies, or both, compared.",
)
@click.option("--clamped", is_flag=True, help="Clamped ions: no relaxation in strained cells.")
@click.option(
    "--strain", type=float, default=0.005, show_default=True, help="The smaller amplitude; the other is twice it."
)
@click.option("--all-strains", is_flag=True, help="All strain patterns, not only those that symmetry leaves.")
@reference_option("What of the reference relaxes")
@click.option("--fmax", type=float, default=1e-4, show_default=True, help="Largest force of relaxations in eV/Å.")
@click.option("--smax", type=float, default=1e-3, show_default=True, help="Largest stress left in the reference, GPa.")
@click.option("--strict", is_flag=True, help="Exit 9 when a crystal is elastically unstable.")
@folder_options
def command(
    structures: tuple[str, ...],
    model: str | None,
    engine: str,
    precision: str | None,
    engine_option: dict[str, Any],
    strict: bool,
    max_gamma: float | None,
    store: Path | None,
    rerun: bool,
    plots: bool,
    output: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Elastic constants of STRUCTUREs from strained cells, as few as symmetry allows.

    The structure is relaxed first, the ions of every strained cell too. Constants are in GPa in the standard (IEEE)
    setting; moduli are Voigt-Reuss-Hill averages. Results go to NAME.elastic/ in the current folder (-o names another):
    elastic.json, young.png (Young's modulus over all directions), the relaxed reference.

    \b
    Exit codes: 0 done; 3 something did not relax; 4 bad input; 5 some of many failed; 9 unstable, with
    --strict, or beyond --max-gamma.
    """
    from gracecli.cli.elastic_job import ElasticJob
    from gracecli.cli.relax import make_calculator
    from gracecli.cli.relax_job import terminable
    from gracecli.run.elastic import ElasticSettings
    from gracecli.run.work import EngineChoice

    settings, memory = ElasticSettings(**options), Memory(store, rerun)
    job = ElasticJob(as_json=as_json, max_gamma=max_gamma, settings=settings, strict=strict, plots=plots)
    job.read(structures)
    job.plan(output, force)
    if job.runnable:
        choice = EngineChoice.of(model, engine, precision, engine_option)
        with terminable():
            job.run(make_calculator(choice, model), choice.calculation("elastic", model, settings.to_dict()), memory)
    job.print()
    return job.finish()
