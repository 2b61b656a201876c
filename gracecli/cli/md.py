"""``grace md``: structures in, trajectories, averages and their checks out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gracecli.cli.gamma import gamma_options
from gracecli.cli.many import store_options
from gracecli.cli.options import (
    config_option,
    force_option,
    json_option,
    model_options,
    output_option,
    plots_option,
    seed_option,
    verbosity_options,
)
from gracecli.errors import UsageError

_WITH_RESUME = {"resume", "max_gamma", "collect_gamma", "time", "steps", "as_json", "strict", "plots", "config"}
_WITH_ANALYSE = {"analyse", "output", "as_json", "strict", "plots", "force", "equilibration", "config"}
_POSITIVE = click.IntRange(min=1)


@click.command(short_help="Molecular dynamics.")
@click.argument("structures", nargs=-1, metavar="[STRUCTURE...]")
@model_options
@click.option(
    "--ensemble",
    default="nvt-csvr",
    show_default=True,
    metavar="NAME",
    help="nve; nvt-csvr (or nvt), nvt-langevin, nvt-nhc; npt-mtk (or npt), npt-mtk-iso, npt-berendsen.",
)
@click.option(
    "--temperature", default="300", show_default=True, metavar="K|K:K", help="Temperature in K, or a ramp (300:1200)."
)
@click.option(
    "--pressure", type=float, default=0.0, show_default=True, metavar="GPa", help="Pressure in GPa; npt only."
)
@click.option("--timestep", type=float, metavar="fs", help="Timestep in fs.  [default: 1; 0.5 with hydrogen]")
@click.option("--time", metavar="TIME", help="Length, such as 10ps (fs, ps, ns); with --resume the new total.")
@click.option("--steps", type=click.IntRange(min=0), metavar="N", help="Length in steps.  [default: 1000]")
@click.option("--supercell", type=_POSITIVE, nargs=3, metavar="A B C", help="Repeat the cell along its vectors.")
@click.option("--keep-velocities", is_flag=True, help="Start from the velocities in the file instead of drawing them.")
@click.option(
    "--thermostat-time",
    type=float,
    metavar="fs",
    help="Relaxation time of the thermostat in fs; for Langevin 1/friction.  [default: 100; Langevin 1000]",
)
@click.option(
    "--barostat-time",
    type=float,
    default=1000.0,
    show_default=True,
    metavar="fs",
    help="Relaxation time of the barostat in fs.",
)
@click.option(
    "--chain-length", type=_POSITIVE, default=3, show_default=True, metavar="N", help="Links of Nosé-Hoover chains."
)
@click.option(
    "--bulk-modulus",
    type=float,
    default=100.0,
    show_default=True,
    metavar="GPa",
    help="Rough bulk modulus in GPa; npt-berendsen only.",
)
@click.option(
    "--thermo-every", type=_POSITIVE, default=10, show_default=True, metavar="N", help="Steps between rows of the log."
)
@click.option(
    "--trajectory-every",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="Steps between frames of the trajectory; 0: no trajectory.",
)
@click.option("--write-forces", is_flag=True, help="Frames hold forces too.")
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Steps between checkpoints.  [default: every 30 s]",
)
@click.option("--equilibration", metavar="TIME", help="Leave this much out of averages.  [default: found by itself]")
@click.option(
    "--max-temperature", type=float, metavar="K", help="Stop when hotter.  [default: 10 times the target + 2000 K]"
)
@click.option(
    "--min-distance",
    type=float,
    metavar="Å",
    help="Stop when atoms are closer than this many Å.  [default: by the elements]",
)
@gamma_options("Looked at with every row of the log (--thermo-every); beyond it the run stops with exit code 9.")
@click.option("--strict", is_flag=True, help="Exit code 9 when a check of the result fails.")
@plots_option
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Go on from the checkpoint in the folder of a run, exactly as if it had not been stopped.",
)
@click.option(
    "--analyse",
    type=click.Path(path_type=Path),
    metavar="FOLDER|FILE.h5md",
    help="Only analyse the folder of a run, or a trajectory.",
)
@seed_option
@store_options
@output_option
@force_option
@json_option
@config_option
@verbosity_options
@click.pass_context
def command(context: click.Context, **options: Any) -> int:
    """Molecular dynamics of STRUCTUREs (POSCAR, CIF, extxyz, any file that ASE reads, store.h5:QUERY).

    Several run one after the other, and -o names the folder of their folders. Each writes a folder (-o; NAME-md):
    trajectory.h5md (opens in MDAnalysis), thermo.csv, checkpoint.npz, final.extxyz,
    result.json, pictures and curves. Velocities are drawn from the Maxwell-Boltzmann distribution (net momentum, and a
    molecule's rotation, removed); those in the file count only with --keep-velocities. In nve, a relaxed structure
    settles near half of the temperature: the other half becomes potential energy.

    \b
      grace md Si.poscar --supercell 2 2 2 --temperature 300 --time 10ps
      grace md Cu.cif --ensemble npt --temperature 300:1200 --pressure 1 --time 50ps --seed 1
      grace md --resume Si-md --time 20ps
      grace md --analyse Si-md

    Ctrl-C and SIGTERM save a checkpoint; after kill -9 at most half a minute is computed again. A resumed run is the
    uninterrupted one, bit for bit on the same machine.

    \b
    Exit codes: 0 done (failed checks are marked; with --strict they are 9); 4 bad input; 9 exploded, or beyond
    --max-gamma (last good structure and checkpoint kept); 5 some of many failed; 130 interrupted, checkpoint saved.
    """
    given = {
        name for name in context.params if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    modes = [name for name in ("structures", "resume", "analyse") if options[name]]
    if len(modes) != 1:
        raise UsageError("give one of STRUCTURE, --resume FOLDER, --analyse FOLDER", "grace md --help")
    from gracecli.cli import md_job

    if options["time"] is not None and options["steps"] is not None:
        raise UsageError("--time and --steps contradict each other", "give one")
    if modes == ["resume"]:
        _refuse(given - _WITH_RESUME, "--resume", "a run goes on with what it was started with; only --time or --steps")
        return md_job.resume(options)
    if modes == ["analyse"]:
        _refuse(given - _WITH_ANALYSE, "--analyse", "it computes nothing but the analysis")
        return md_job.analyse_only(options)
    return md_job.start(options, given)


def _refuse(names: set[str], mode: str, why: str) -> None:
    if names:
        raise UsageError(f"--{sorted(names)[0].replace('_', '-')} has no effect with {mode}", why)
