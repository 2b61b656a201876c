"""``grace distill``: a small student that says what a large teacher says."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.error_table import ERROR_UNITS, error_columns, error_row
from gracecli.cli.options import force_option, json_option, seed_option, verbosity_options
from gracecli.cli.output import emit_json, format_pairs, format_table, note, verbosity
from gracecli.errors import NotConvergedError

if TYPE_CHECKING:
    from gracecli.fit.tuning.distill import DistillConfig, DistillResult

_POSITIVE = click.IntRange(min=1)
UNITS = {**ERROR_UNITS, "microseconds": "µs/atom/step"}


@click.command(context_settings={"show_default": False})
@click.option("--teacher", required=True, metavar="NAME|PATH", help="Model that labels.")
@click.option("--student", required=True, metavar="PRESET", help="Architecture to fit, such as fs-small.")
@click.option(
    "--structures", multiple=True, required=True, metavar="FILE", help="Structures, or store.h5:QUERY; may be repeated."
)
@click.option(
    "--pathway",
    default="raw",
    metavar="NAME",
    help="naive (labels of the structures alone), raw (the teacher's), distilled+finetuned, extended.  [default: raw]",
)
@click.option("--augment", metavar="KIND,...", help="With extended: rattle, strain, unaries, binaries.")
@click.option("--held-out", type=float, default=0.1, metavar="X", help="Share kept to compare.  [default: 0.1]")
@click.option("--cutoff", type=float, metavar="Å", help="Of the student.  [default: the teacher's]")
@click.option("--epochs", type=_POSITIVE, metavar="N", help="Passes over the labelled structures.")
@click.option("--finetune-epochs", type=_POSITIVE, default=10, metavar="N", help="On original labels.  [default: 10]")
@click.option("--batch-atoms", type=_POSITIVE, metavar="N", help="Atoms per batch.")
@click.option("--learning-rate", type=float, metavar="X", help="Peak of the schedule.")
@click.option("--precision", type=click.Choice(["fp64", "fp32"]), help="Arithmetic of training.  [default: fp64]")
@click.option("--threads", type=_POSITIVE, metavar="N", help="Batches of one step evaluated at a time.")
@click.option("--max-time", metavar="TIME", help="Stop a fit with a checkpoint after, say, 50min.")
@click.option("--engine", default="auto", metavar="NAME", help="What evaluates the teacher.  [default: auto]")
@click.option("--bench/--no-bench", default=True, help="Time teacher and student side by side.  [default: yes]")
@click.option("--resume", is_flag=True, help="Continue in the output folder.")
@click.option("-o", "--output", default="distilled", metavar="FOLDER", help="[default: distilled]")
@seed_option
@force_option
@json_option
@verbosity_options
def command(bench: bool, resume: bool, force: bool, as_json: bool, **options: Any) -> None:
    """Fit a student model to what a teacher says about structures.

    The teacher labels the structures in batches, the student is trained on the labels, and both are compared on
    structures held out. The folder receives labels.extxyz, held-out.extxyz, the fit and distill.json.

    \b
    Examples:
      grace distill --teacher grace-1l-11el --student fs-small --structures liquid.extxyz -o fast
      grace distill --teacher GRACE-2L-OAM --student 1l-small --structures "store.h5:set=train" \\
          --pathway extended --augment rattle,strain,unaries -o small

    Exit code 3: the time limit came before the last epoch; continue with --resume.
    """
    config = _config(options)
    from gracecli.fit.progress import Progress
    from gracecli.fit.tuning.distill import distill

    result = distill(config, Progress(quiet=verbosity() < 0), resume, force)
    timings = _timings(config, result) if bench and result.completed else {}
    if as_json:
        emit_json("gracecli.distill", 1, {**asdict(result), "timings": timings}, UNITS)
    else:
        click.echo(_table(result, timings))
    if not result.completed:
        raise NotConvergedError("time limit reached before the last epoch", "continue with --resume")


def _config(options: dict[str, Any]) -> DistillConfig:
    from gracecli.fit.tuning.distill import DistillConfig

    names = ("epochs", "batch_atoms", "learning_rate", "precision", "threads", "max_time")
    training = {name: options[name] for name in names if options[name] is not None}
    augment = options["augment"]
    return DistillConfig(
        teacher=options["teacher"],
        student=options["student"],
        structures=tuple(options["structures"]),
        pathway=options["pathway"],
        augment=tuple(augment.replace(",", " ").split()) if augment else (),
        held_out=options["held_out"],
        directory=options["output"],
        seed=1 if options["seed"] is None else options["seed"],
        training=training,
        cutoff=options["cutoff"],
        finetune_epochs=options["finetune_epochs"],
        engine=options["engine"],
    )


def _timings(config: DistillConfig, result: DistillResult) -> dict[str, Any]:
    """Cost of both by the protocol of ``grace bench``, one thread, on a structure that was held out."""
    import ase.io

    from gracecli.fit.tuning.distill import HELD_OUT
    from gracecli.run.bench import BenchSettings, bench, contenders, resolve_engine
    from gracecli.run.bench_crystal import supercells

    cell: Any = ase.io.read(result.directory / HELD_OUT, 0)
    cell.calc = None
    samples = supercells(cell.get_chemical_formula(), cell, [128] if all(cell.pbc) else [])
    entries = contenders([config.teacher, str(result.model)], [resolve_engine("auto")], [None], [1])
    found = bench(entries, samples, BenchSettings(steps=10, repeats=3), note).measurements
    names = ("teacher", "student")
    return {
        name: {"engine": m.engine, "atoms": m.atoms, "microseconds": m.median, "error": m.error}
        for name, m in zip(names, found, strict=True)
    }


def _table(result: DistillResult, timings: dict[str, Any]) -> str:
    """Student against teacher, both against labels, and what each costs."""
    rows = [error_row("student - teacher", asdict(result.against_teacher))]
    rows += [error_row(f"{name} - labels", asdict(errors)) for name, errors in result.against_labels.items()]
    pairs: list[tuple[str, Any]] = [
        ("pathway", f"{result.pathway}, {result.labelled:,} structures"),
        ("weights", f"teacher {result.parameters['teacher']:,}, student {result.parameters['student']:,}"),
    ]
    costs = {name: entry["microseconds"] for name, entry in timings.items()}
    if costs.get("teacher") and costs.get("student"):
        ratio = costs["teacher"] / costs["student"]
        entry = timings["student"]
        how = f"{entry['engine']}, {entry['atoms']} atoms, 1 thread"
        text = f"teacher {costs['teacher']:.0f}, student {costs['student']:.0f} µs/atom/step"
        pairs.append(("cost", f"{text}: {ratio:.1f} x faster ({how})"))
    for name, entry in timings.items():
        if entry["error"]:
            pairs.append((f"cost of {name}", f"not measured: {entry['error']}"))
    if result.gamma:
        from gracecli.fit.training_grade import summary

        pairs.append(("extrapolation grade", summary(result.gamma)))
    pairs.append(("written to", str(result.model)))
    return format_table(error_columns("held-out structures"), rows) + "\n\n" + format_pairs(pairs)
