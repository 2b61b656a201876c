"""``grace fit``: train a model on labelled structures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.error_table import ERROR_UNITS, error_columns, error_row
from gracecli.cli.fit_tuning import default_learning_rate, show_listing, tuning_options, tuning_overrides
from gracecli.cli.options import force_option, json_option, seed_option, verbosity_options
from gracecli.cli.output import emit_json, format_pairs, format_table, verbosity, warn
from gracecli.errors import NotConvergedError, UsageError

if TYPE_CHECKING:
    from gracecli.fit.config import FitConfig
    from gracecli.fit.result import FitResult

_TRAINING_OPTIONS = (
    "epochs", "batch_atoms", "learning_rate", "precision", "radial", "threads", "engine", "workers", "max_time",
    "seed",
)  # fmt: skip
_POSITIVE = click.IntRange(min=1)


@click.command(context_settings={"show_default": False})
@click.argument("inputs", nargs=-1, metavar="CONFIG.toml | TRAIN...")
@click.option("--init", is_flag=True, help="Write a settings file with all keys and defaults [default: fit.toml].")
@click.option(
    "--preset", metavar="NAME", help="Model: fs, 1l, 2l, linear with -small, -medium, -large.  [default: 1l-small]"
)
@click.option("--elements", metavar="A,B,...", help="Elements of the model.  [default: those of the training data]")
@click.option("--cutoff", type=float, metavar="Å", help="Cutoff radius.  [default: the preset's]")
@click.option("--valid", multiple=True, metavar="FILE", help="Validation structures; may be repeated.")
@click.option("--valid-fraction", type=float, metavar="X", help="Split off for validation without --valid.")
@click.option("--test", "tests", multiple=True, metavar="FILE", help="Test structures; may be repeated.")
@click.option("--epochs", type=_POSITIVE, metavar="N", help="Passes over the training data.")
@click.option("--batch-atoms", type=_POSITIVE, metavar="N", help="Atoms per batch.")
@click.option("--learning-rate", type=float, metavar="X", help="Peak of the schedule.")
@click.option("--energy-weight", type=float, metavar="X", help="Weight of energies in the loss.")
@click.option("--forces-weight", type=float, metavar="X", help="Weight of forces in the loss.")
@click.option("--stress-weight", type=float, metavar="X", help="Weight of stresses in the loss.")
@click.option("--precision", type=click.Choice(["fp64", "fp32"]), help="Arithmetic of training.  [default: fp64]")
@click.option(
    "--radial",
    type=click.Choice(["projected", "exact"]),
    help="Radial functions on a grid of distances (fast) or on every bond.  [default: projected]",
)
@click.option("--threads", type=_POSITIVE, metavar="N", help="Processors.  [default: all; TensorFlow: 1]")
@click.option("--engine", metavar="NAME", help="auto, tensorflow or native: what training runs on.  [default: auto]")
@click.option("--workers", type=_POSITIVE, metavar="N", help="Processes of this machine that share every step.")
@click.option("--hosts", metavar="A,B,...", help="One host (or host:port) per worker, when srun or mpirun starts them.")
@click.option("--max-time", metavar="TIME", help="Stop with a checkpoint after, say, 50min; the schedule stays.")
@tuning_options
@click.option("--seeds", metavar="A,B,...", help="An ensemble: one fit per seed, and what they say together.")
@click.option("--resume", is_flag=True, help="Continue from the checkpoint in the output folder.")
@click.option("-o", "--output", metavar="FOLDER", help="Folder of the fit.  [default: fit]")
@seed_option
@force_option
@json_option
@verbosity_options
def command(
    inputs: tuple[str, ...],
    init: bool,
    seeds: str | None,
    hosts: str | None,
    resume: bool,
    force: bool,
    as_json: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Train a model on labelled structures (energies, forces, stresses).

    The input is one TOML file with all settings, or the training data themselves: extended XYZ, runs of VASP,
    store.h5:QUERY (a store alone: its sets train, valid and test). Options win over the file. The folder of the fit
    receives model.grace, report.html, report.json, log.csv, TensorBoard events, pictures and checkpoint.npz.

    \b
    Examples:
      grace check train.extxyz
      grace fit --init fit.toml
      grace fit train.extxyz --preset 1l-small --epochs 200 -o si
      grace fit store.h5:set=train --seeds 1,2,3 -o ensemble
      grace fit fit.toml --max-time 50min
      grace fit fit.toml --workers 4
      srun -N 2 grace fit fit.toml --hosts node1,node2
      grace fit fit.toml --resume
      grace fit new.extxyz --from grace-1l-11el --strategy frozen -o tuned

    Exit code 3: the time limit came before the last epoch; 130: interrupted. Both leave a checkpoint.
    """
    if init:
        _write_settings(inputs, force)
        return
    if not inputs:
        raise UsageError("no settings and no data", "name a file, or write settings with --init")
    config = _settings(inputs, options)
    if dry_run:
        show_listing(config, as_json)
        return
    from gracecli.fit.progress import Progress
    from gracecli.fit.start import create_trainer, is_linear
    from gracecli.fit.workers.cluster import find_cluster

    cluster = find_cluster(config.training.workers, hosts.replace(",", " ").split() if hosts else ())
    progress = Progress(quiet=verbosity() < 0)
    if cluster is not None:
        from gracecli.fit.workers.run import run_cluster

        if seeds is not None:
            raise UsageError(
                "--seeds with several workers", "fit one seed at a time (--seed), or leave out the workers"
            )
        result = run_cluster(config, cluster, progress, resume, force)
        if cluster.rank > 0:  # the chief has the word
            click.get_current_context().exit(0 if result.completed else NotConvergedError.exit_code)
    else:
        if not is_linear(config):
            _limit_threads(config.training.threads)
        if seeds is not None:
            _run_ensemble(config, _seeds(seeds), resume, force, as_json)
            return
        result = create_trainer(config, progress, resume=resume, force=force).run()
    if as_json:
        _emit(result)
    else:
        click.echo(_table(result))
    if not result.completed:
        raise NotConvergedError(
            f"time limit reached after epoch {result.epochs} of {config.training.epochs}", "continue with --resume"
        )


def _write_settings(inputs: tuple[str, ...], force: bool) -> None:
    from pathlib import Path

    from gracecli.fit.template import write_template

    if len(inputs) > 1:
        raise UsageError("--init writes one file")
    path = write_template(Path(inputs[0] if inputs else "fit.toml"), force)
    click.echo(f"{path}: all settings with their defaults; name your data in [data], then `grace fit {path}`")


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UsageError(f"--seeds {text!r}: different numbers, separated by commas")
    return seeds


def _run_ensemble(config: FitConfig, seeds: list[int], resume: bool, force: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from gracecli.fit.ensemble import run_ensemble
    from gracecli.fit.progress import Progress

    def progress(seed: int) -> Progress:
        found = Progress(quiet=verbosity() < 0)
        found.message(f"--- seed {seed}")
        return found

    result = run_ensemble(config, seeds, progress, resume, force)
    if as_json:
        emit_json("gracecli.fit-ensemble", 1, asdict(result), UNITS)
    else:
        rows = []
        for split, mean in result.mean.items():
            for seed, member in zip(result.seeds, result.members, strict=True):
                rows.append(error_row(f"{split} seed {seed}", member.metrics[split]["overall"]))
            rows.append(error_row(f"{split} mean of {len(seeds)}", mean))
        click.echo(format_table(_COLUMNS, rows) + "\n")
        pairs: list[tuple[str, Any]] = [("models", f"{result.directory}/seed-*/model.grace")]
        for split, spread in result.spread.items():
            correlation = spread["forces_rank_correlation"]
            rank = "" if correlation is None else f" (rank correlation with the force errors {correlation:.2f})"
            text = f"{spread['energy_spread']:.2f} meV/atom, {spread['forces_spread']:.1f} meV/Å{rank}"
            pairs.append((f"{split} spread", text))
        click.echo(format_pairs(pairs))
    if not result.completed:
        raise NotConvergedError("time limit reached before the last epoch of every member", "continue with --resume")


def _settings(inputs: tuple[str, ...], options: dict[str, Any]) -> FitConfig:
    """Settings from the command line and, where given, a file."""
    from gracecli.fit.config_read import load_config, make_config

    overrides = _overrides(options)
    for section, entries in tuning_overrides(options).items():
        overrides[section] = {**overrides.get(section, {}), **entries}
    settings_files = [name for name in inputs if name.lower().endswith(".toml")]
    if settings_files:
        if len(inputs) > 1:
            raise UsageError("give one settings file, or training files", "training files belong into [data] train")
        return load_config(inputs[0], overrides)
    overrides["data"]["train"] = [{"path": name} for name in inputs]
    if overrides["model"]["start"] and overrides["training"]["learning_rate"] is None:
        overrides["training"]["learning_rate"] = default_learning_rate(overrides["tuning"]["strategy"])
    return make_config({}, overrides, where="the command line")


def _overrides(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    elements = options["elements"]
    return {
        "data": {
            "valid": [{"path": name} for name in options["valid"]] or None,
            "test": [{"path": name} for name in options["tests"]] or None,
            "valid_fraction": options["valid_fraction"],
        },
        "model": {
            "preset": options["preset"],
            "elements": elements.replace(",", " ").split() if elements else None,
            "cutoff": options["cutoff"],
        },
        "loss": {name: options[f"{name}_weight"] for name in ("energy", "forces", "stress")},
        "training": {name: options[name] for name in _TRAINING_OPTIONS},
        "output": {"directory": options["output"]},
    }


def _limit_threads(threads: int) -> None:
    """Give every batch evaluated at a time one thread; TensorFlow's own would fight over the cores.

    Without effect where TensorFlow has started already.
    """
    from gracecli.quiet import import_tensorflow

    tf = import_tensorflow()
    if threads > 1:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError:
            warn("TensorFlow has started with threads of its own; --threads may gain little")


UNITS = {
    **ERROR_UNITS,
    "energy_spread": "meV/atom",
    "forces_spread": "meV/Å",
    "reference": "eV/atom",
    "seconds": "s",
}
_COLUMNS = error_columns("set")


def _table(result: FitResult) -> str:
    """Errors by set, and where the files are."""
    rows = []
    for split, report in result.metrics.items():
        sets = report["by_set"]
        rows += [error_row(f"{split} {name}", errors) for name, errors in sets.items()]
        if len(sets) > 1:
            rows.append(error_row(f"{split} all", report["overall"]))
    from gracecli.fit.progress import time_text
    from gracecli.fit.reference import energies_text
    from gracecli.fit.training_grade import summary

    pairs = [
        ("model", str(result.model)),
        ("weights", result.parameters),
        ("epochs", result.epochs or None),
        ("best epoch", result.best_epoch or None),
        ("training time", time_text(result.seconds)),
        ("extrapolation grade", summary(result.gamma) if result.gamma else None),
        ("reference energies (eV/atom)", energies_text(result.reference)),
    ]
    table = format_table(_COLUMNS, rows) + "\n\n" if rows else ""
    return table + format_pairs((name, value) for name, value in pairs if value is not None)


def _emit(result: FitResult) -> None:
    from dataclasses import asdict

    emit_json("gracecli.fit", 1, asdict(result), UNITS)
