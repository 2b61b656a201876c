"""``grace models gamma``: give a model extrapolation grades, from the structures it was trained on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.options import force_option, json_option, verbosity_options
from gracecli.cli.output import Column, emit_json, format_pairs, format_table, progress, warn
from gracecli.errors import GraceError, InputError, ModelError, UsageError

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.engine.base import Engine
    from gracecli.model.modelfile import Model

UNITS = {"size": "byte", "seconds": "s"}


@click.command("gamma", short_help="Give a model extrapolation grades.")
@click.argument("model", metavar="NAME|PATH")
@click.option(
    "--structures",
    multiple=True,
    metavar="FILE|STORE.h5:QUERY",
    help="What the model was trained on; may be repeated. Labels are not needed.",
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Take the training structures of a recipe of `grace fit`, filters included.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.grace",
    help="Where the model with grades goes. [default: NAME-gamma.grace here]",
)
@click.option(
    "--clusters",
    default="auto",
    show_default=True,
    metavar="auto|N",
    help="Clusters per element: 1 to 4 by an information criterion, or N where there are atoms enough.",
)
@click.option(
    "--dimension", type=click.IntRange(2, 512), default=32, show_default=True, help="Numbers that describe an atom."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of the projection."
)
@click.option("--engine", default="auto", show_default=True, metavar="NAME", help="What evaluates the model.")
@force_option
@json_option
@verbosity_options
def command(
    model: str,
    structures: tuple[str, ...],
    recipe: Path | None,
    output: Path | None,
    clusters: str,
    dimension: int,
    seed: int,
    engine: str,
    force: bool,
    as_json: bool,
) -> None:
    """Make the extrapolation grades (gamma) of MODEL from its training structures.

    gamma of an atom says how far its surroundings are from everything the model was trained on: up to 1 inside, beyond
    it the model extrapolates. `grace predict`, relax, md, phonons and elastic then show the largest gamma, and
    --max-gamma stops or flags runs.

    The invariants of an atom that enter the energy are projected at random onto a few numbers; these are cut into
    clusters per element, and the distance from a cluster (Mahalanobis) is divided by that of the outermost training
    atom of the cluster. Every training atom therefore has gamma <= 1. Blueprint, weights and their sha256 stay as they
    are; only the file grows.

    \b
      grace models gamma my-model/model.grace --structures train.extxyz
      grace models gamma my-model/model.grace --structures "store.h5:set=train" -o model.grace
    """
    from gracecli.files import refuse_overwrite
    from gracecli.fit.grading import GradeSettings, make_grade
    from gracecli.model.modelfile import save_model
    from gracecli.registry.resolve import read_model, resolve_model

    if bool(structures) == (recipe is not None):
        raise UsageError("the training structures are needed", "--structures FILE (any number), or --recipe FILE.toml")
    if clusters != "auto" and not (clusters.isdigit() and 1 <= int(clusters) <= 64):
        raise UsageError(f"--clusters {clusters} is neither auto nor a number from 1 to 64")
    path = resolve_model(model)
    target = output or Path(f"{path.resolve().name.removesuffix('.grace')}-gamma.grace")
    refuse_overwrite(target, force)
    exactly = clusters != "auto"
    settings = GradeSettings(dimension, int(clusters) if exactly else 4, exactly, seed)
    given = _of_recipe(recipe) if recipe is not None else _of_arguments(structures)
    bar = progress(description="training structures", unit="structure")
    with tempfile.TemporaryDirectory() as folder:
        try:
            made, report = make_grade(
                read_model(path), given, lambda m: _engine(m, engine, Path(folder)), settings, bar.update
            )
        finally:
            bar.close()
    if report.skipped:
        warn(f"{report.skipped} structures hold elements the model does not have and were left out")
    if report.without_data:
        warn(f"no structure holds {', '.join(report.without_data)}: these atoms will always count as extrapolation")
    before = path.stat().st_size if path.is_file() else None
    save_model(target, made, overwrite=force)
    document = {
        "model": model,
        "output": target,
        "sha256": made.sha256(),
        "size": target.stat().st_size,
        "size_before": before,
        "structures": report.structures,
        "atoms": report.atoms,
        "skipped": report.skipped,
        "seconds": report.seconds,
        "elements": report.by_element,
        "without_data": report.without_data,
    }
    if as_json:
        emit_json("gracecli.models.gamma", 1, document, UNITS)
        return
    click.echo(_text(document))


def _text(d: dict[str, Any]) -> str:
    columns: list[Column | str] = ["element", Column("atoms", format=","), Column("structures", format=","), "clusters"]
    rows = [[symbol, *values.values()] for symbol, values in d["elements"].items()]
    grown = f", {(d['size'] - d['size_before']) / 1e6:.2f} more than before" if d["size_before"] else ""
    pairs = [
        ("graded by", f"{d['atoms']:,} atoms of {d['structures']:,} structures ({d['seconds']:.1f} s)"),
        ("sha256", f"{d['sha256']} (as before)"),
        ("written to", f"{d['output']} ({d['size'] / 1e6:.2f} MB{grown})"),
    ]
    return f"{format_table(columns, rows)}\n\n{format_pairs(pairs)}"


def _of_arguments(arguments: tuple[str, ...]) -> Iterator[Atoms]:
    from gracecli.run.structures import stream_structures

    for argument in arguments:
        for item in stream_structures(argument):
            if isinstance(item, GraceError):
                raise item
            yield item.atoms


def _of_recipe(path: Path) -> Iterator[Atoms]:
    from gracecli.fit.config_read import load_config
    from gracecli.fit.data import read_set

    data = load_config(path).data
    if not data.train:
        raise InputError(f"{path}: no training sets in it", "give the structures themselves: --structures FILE")
    for entry in data.train:
        for frame in read_set(entry, data)[0]:
            yield frame.atoms


def _engine(model: Model, name: str, folder: Path) -> Engine:
    """An engine for a model that has no file yet."""
    from gracecli.engine.create import create_engine
    from gracecli.model.modelfile import save_model

    made = create_engine(save_model(folder / "model.grace", model), name)
    if not hasattr(made, "features"):
        raise ModelError(f"the engine {made.name} makes no extrapolation grades", "use --engine native or tensorflow")
    return made
