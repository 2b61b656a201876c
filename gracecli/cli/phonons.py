"""``grace phonons``: structures in; phonon bands, densities of states and thermal properties out, with a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gracecli.cli.folder_job import folder_options, reference_option
from gracecli.cli.many import Memory
from gracecli.cli.options import model_options


@click.command(short_help="Phonons of crystals.")
@click.argument("structures", nargs=-1, required=True, metavar="STRUCTURE...")
@model_options
@click.option(
    "--supercell",
    type=click.IntRange(min=1),
    nargs=3,
    metavar="A B C",
    help="Multiples of the cell for the displacements. [default: by --min-length, of the conventional cell]",
)
@click.option(
    "--min-length", type=float, default=15.0, show_default=True, help="Shortest vector of that supercell in Å."
)
@click.option("--displacement", type=float, default=0.01, show_default=True, help="Displacement in Å.")
@reference_option("What relaxes")
@click.option(
    "--fmax", type=float, help="Largest force after that in eV/Å. [default: 1e-5, with single precision 1e-4]"
)
@click.option("--fix-symmetry/--no-fix-symmetry", default=True, show_default=True, help="Hold the space group in it.")
@click.option("--mesh", type=float, default=100.0, show_default=True, help="Mesh of wave vectors: 2 pi / spacing, Å.")
@click.option("--t-max", type=float, default=1000.0, show_default=True, help="Thermal properties up to here, K.")
@click.option("--t-step", type=float, default=10.0, show_default=True, help="Their step in K.")
@click.option(
    "--born",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Born charges and dielectric constant (phonopy's BORN file) for the splitting of optical modes.",
)
@click.option("--qha", is_flag=True, help="Quasi-harmonic: nine volumes, thermal expansion, B(T), Cp(T).")
@click.option("--kappa", is_flag=True, help="Lattice thermal conductivity (needs the extra gracecli[kappa]; minutes).")
@click.option("--isotopes", is_flag=True, help="With --kappa: scattering by natural isotopes too.")
@click.option(
    "--follow-imaginary",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Follow the worst imaginary mode to a lower structure, at most N times. [default: 0]",
)
@click.option("--strict", is_flag=True, help="Exit 9 when a structure is dynamically unstable.")
@folder_options
def command(
    structures: tuple[str, ...],
    model: str | None,
    engine: str,
    precision: str | None,
    engine_option: dict[str, Any],
    supercell: tuple[int, int, int] | None,
    fmax: float | None,
    qha: bool,
    kappa: bool,
    isotopes: bool,
    follow_imaginary: int,
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
    """Phonons of STRUCTUREs by finite displacements, all displaced supercells evaluated together.

    The structure is relaxed first. Results go to NAME.phonons/ in the current folder (-o names another): band.png,
    dos.png, thermal.png, and what phonopy reads back (phonopy_params.yaml with forces and force constants, band.yaml,
    total_dos.dat, projected_dos.dat, thermal_properties.yaml), the relaxed reference, phonons.json.

    \b
    Exit codes: 0 done; 3 the structure did not relax; 4 bad input; 5 some of many failed; 9 imaginary modes at wave
    vectors of the supercell, with --strict, or beyond --max-gamma.
    """
    from gracecli.cli.phonons_job import PhononJob
    from gracecli.cli.relax import make_calculator
    from gracecli.cli.relax_job import terminable
    from gracecli.run.conductivity import ConductivitySettings, require_phono3py
    from gracecli.run.phonons import PhononSettings
    from gracecli.run.work import EngineChoice

    if kappa:
        require_phono3py()
    memory = Memory(store, rerun)
    job = PhononJob(
        as_json=as_json,
        max_gamma=max_gamma,
        quasiharmonic=qha,
        conductivity=ConductivitySettings(isotopes=isotopes) if kappa else None,
        follow=follow_imaginary,
        strict=strict,
        plots=plots,
    )
    PhononSettings(supercell=supercell or None, fmax=fmax or 1e-5, **options)  # checked before anything is read
    job.read(structures)
    job.plan(output, force)
    if job.runnable:
        choice = EngineChoice.of(model, engine, precision, engine_option)
        calculator = make_calculator(choice, model)
        default = 1e-4 if calculator.engine.precision == "fp32" else 1e-5
        job.settings = PhononSettings(supercell=supercell or None, fmax=fmax or default, **options)
        with terminable():
            job.run(calculator, choice.calculation("phonons", model, job.identity()), memory)
    job.print()
    return job.finish()
