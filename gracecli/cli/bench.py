"""``grace bench``: how fast engines and models run here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.options import config_option, force_option, json_option, verbosity_options
from gracecli.cli.output import Column, emit_json, format_table, note, progress, warn
from gracecli.errors import InputError, PartialFailureError, UsageError

if TYPE_CHECKING:
    from gracecli.run.bench import BenchResult, Contender
    from gracecli.run.bench_crystal import Sample

SCHEMA, SCHEMA_VERSION = "gracecli.bench", 1
DEFAULT_SIZES = (128, 686)
NOISY = 0.25  # spread from which a warning is due


def _list_of(convert: Callable[[str], Any], what: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> list[Any]:
        words = [word.strip() for word in value.split(",")] if value is not None else []
        try:
            if not all(words):
                raise ValueError
            return list(dict.fromkeys(convert(word) for word in words))
        except ValueError:
            raise click.BadParameter(f"{value!r} is not {what}", context, parameter) from None

    return parse


def _precision(word: str) -> str:
    if word not in ("fp64", "fp32"):
        raise ValueError(word)
    return word


@click.command(short_help="Time engines and models.")
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    metavar="NAME|PATH",
    help="Model; may be repeated. [default: the bundled model]",
)
@click.option(
    "--engine",
    "engines",
    default="auto",
    show_default=True,
    metavar="NAME,...",
    callback=_list_of(str, "a list of names"),
    help="What to time, side by side; the first is what the others are compared with.",
)
@click.option(
    "--precision",
    "precisions",
    metavar="fp64,fp32",
    callback=_list_of(_precision, "a list of fp64 and fp32"),
    help="Arithmetic. [default: fp64, or what the model was published for]",
)
@click.option(
    "--threads",
    default="1",
    show_default=True,
    metavar="N,...",
    callback=_list_of(int, "a list of numbers"),
    help="Threads per process.",
)
@click.option(
    "--sizes",
    metavar="N,...",
    callback=_list_of(int, "a list of numbers of atoms"),
    help="Atoms; the nearest n x n x n supercells are taken. [default: 128,686; with --structure: as it is]",
)
@click.option(
    "--element",
    metavar="SYMBOL",
    help="Crystal to time. [default: W if the models cover it, else the first element with a cubic crystal]",
)
@click.option("--lattice-constant", type=float, metavar="Å", help="Of its cubic cell. [default: ASE's reference data]")
@click.option("--structure", metavar="FILE", help="Time supercells of this structure instead of a crystal.")
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Steps per block.")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Blocks of each contender, run in turn."
)
@click.option(
    "--exclude", type=click.IntRange(min=1), default=5, show_default=True, help="First steps that do not count."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of displacements and velocities.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write bench.json and bench.png into this folder.",
)
@force_option
@json_option
@config_option
@verbosity_options
def command(
    models: tuple[str, ...],
    engines: list[str],
    precisions: list[str],
    threads: list[int],
    sizes: list[int],
    element: str | None,
    lattice_constant: float | None,
    structure: str | None,
    output: Path | None,
    force: bool,
    as_json: bool,
    **protocol: int,
) -> int:
    """Time molecular dynamics (NVE, 1 fs, 300 K) with engines and models, in µs per atom and step.

    Every combination of model, engine, precision and threads is a process of its own. After the first steps, which
    do not count, they run blocks of steps in turn, so that other load on the machine meets all alike. The table gives
    the median and the least of the blocks, their spread, the ratio to the first contender (above 1: faster), seconds
    until the first step is done (compilation), and memory: of the process at its peak, and by how much an atom adds
    since before the first evaluation.

    \b
    grace bench --engine native,tensorflow
    grace bench --precision fp64,fp32 --threads 1,2 --sizes 128,1000,10000 -o speed
    """
    from gracecli.run.bench import UNITS, BenchSettings, bench, contenders

    settings = BenchSettings(**protocol)
    entries = contenders(models or [None], engines, precisions or [None], threads)
    samples = _samples(entries, sizes, element, lattice_constant, structure, settings.seed)
    files = _plan(output, force)
    total = len(samples) * (len(entries) + settings.repeats)
    with progress(total=total, description="bench", unit="block") as bar:

        def watch(text: str) -> None:
            note(text)
            bar.set_description(text)
            bar.update()

        result = bench(entries, samples, settings, watch)
    document = result.to_dict()
    if files:
        _write(files, document, result)
    if as_json:
        emit_json(SCHEMA, SCHEMA_VERSION, document, UNITS)
    else:
        _show(result, samples, files)
    _warn(result)
    return _finish(result)


def _samples(
    entries: list[Contender],
    sizes: list[int],
    element: str | None,
    lattice_constant: float | None,
    structure: str | None,
    seed: int,
) -> list[Sample]:
    """Structures to time, from the options."""
    from gracecli.run.bench_crystal import crystal, default_element, supercells

    if structure is not None:
        if element is not None or lattice_constant is not None:
            raise UsageError(
                "--structure brings its own elements and cell", "leave --element and --lattice-constant away"
            )
        from gracecli.run.structures import Structure, read_structures

        first = read_structures(structure)[0]
        if not isinstance(first, Structure):
            raise first
        first.atoms.calc = None
        first.atoms.set_constraint()
        return supercells(first.name, first.atoms, sizes, seed)
    if element is None:
        element = default_element(_covered(entries))
    return supercells(*crystal(element, lattice_constant), sizes or DEFAULT_SIZES, seed)


def _covered(entries: list[Contender]) -> list[str]:
    """Elements that all models know."""
    from gracecli.registry.resolve import read_model, resolve_model

    common: list[str] | None = None
    for model in dict.fromkeys(entry.model for entry in entries):
        elements = read_model(resolve_model(model)).elements
        common = [e for e in elements if common is None or e in common]
    return common or []


def _plan(output: Path | None, force: bool) -> dict[str, Path]:
    """Files to write; find out now what cannot be written."""
    if output is None:
        return {}
    from gracecli.run.outputs import check_writable

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {output}: {error.strerror}", "choose another -o/--output") from error
    files = {"json": output / "bench.json", "png": output / "bench.png"}
    for path in files.values():
        check_writable(path, force)
    return files


def _write(files: dict[str, Path], document: dict[str, Any], result: BenchResult) -> None:
    from gracecli.cli.output import json_text
    from gracecli.files import write_text_atomically
    from gracecli.report.bench import plot_bench
    from gracecli.run.bench import UNITS

    write_text_atomically(files["json"], json_text(SCHEMA, SCHEMA_VERSION, document, UNITS) + "\n")
    if any(m.times for m in result.measurements):
        plot_bench(result.measurements, files["png"], force=True)


def _show(result: BenchResult, samples: list[Sample], files: dict[str, Path]) -> None:
    """Print the tables."""
    s = result.settings
    for sample in samples:
        click.echo(f"{sample.name}: {sample.atoms} atoms")
    click.echo(
        f"NVE from {s.temperature:g} K, {s.timestep:g} fs; {s.repeats} blocks of {s.steps} steps in turn, "
        f"after {s.exclude} that do not count\n"
    )
    columns: list[Column | str] = [
        "model", "engine", "precision", "threads", Column("atoms", format=","), Column("neighbours", "/atom", ".1f"),
        Column("median", "µs/atom/step", ".4g"), Column("least", "µs/atom/step", ".4g"), Column("spread", "%", ".0f"),
        Column("ratio", "", ".2f"), Column("first", "s", ".2f"), Column("peak", "MB", ".0f"),
        Column("memory", "kB/atom", ".2f"),
    ]  # fmt: skip
    rows = [
        (
            m.model, m.engine, m.precision, m.threads, m.atoms, m.neighbours_per_atom, m.median,
            min(m.times, default=None), None if m.spread is None else 100 * m.spread, m.ratio, m.first_seconds,
            None if m.peak_memory is None else m.peak_memory / 1e6,
            None if m.bytes_per_atom is None else m.bytes_per_atom / 1e3,
        )
        for m in result.measurements
    ]  # fmt: skip
    click.echo(format_table(columns, rows))
    growth = result.growth()
    if growth:
        click.echo()
    for row in growth:
        click.echo(
            f"{row['contender']}: from {row['from_atoms']:,} to {row['to_atoms']:,} atoms the time per atom "
            f"changes by a factor {row['time_ratio']:.2f}; the last atoms cost {row['memory_growth'] / 1e3:.2f} kB each"
        )
    if files:
        click.echo(f"\nwritten to {' and '.join(str(path) for path in files.values())}")


def _warn(result: BenchResult) -> None:
    for m in result.measurements:
        if m.error is not None:
            warn(f"{m.label}, {m.atoms} atoms: {m.error}")
        if m.compiled_while_timed:
            warn(f"{m.label}, {m.atoms} atoms: something was compiled while it was timed; its numbers are too large")
    noisy = [m for m in result.measurements if m.spread is not None and m.spread > NOISY]
    if noisy:
        most = max(m.spread or 0.0 for m in noisy)
        warn(
            f"times of equal blocks differ by up to {100 * most:.0f} %: the machine is busy. Trust ratios "
            "and the least more than medians, and repeat"
        )


def _finish(result: BenchResult) -> int:
    failed = [m for m in result.measurements if m.error is not None]
    if not failed:
        return 0
    if len(failed) == len(result.measurements) and len({error.exit_code for error in result.errors}) == 1:
        raise result.errors[0]
    raise PartialFailureError(
        f"{len(failed)} of {len(result.measurements)} measurements failed", "the warnings say why"
    )
