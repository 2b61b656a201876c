"""``grace models``: what models there are, what they know, and how they come into the local library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.options import force_option, json_option, verbosity_options
from gracecli.cli.output import Column, emit_json, format_pairs, format_table, note, warn
from gracecli.errors import ModelError

if TYPE_CHECKING:
    from gracecli.registry.summary import Summary

UNITS = {"cutoff": "Å", "smallest_cutoff": "Å", "pair_cutoffs": "Å", "size": "byte"}
MOST_ELEMENTS = 9  # longer lists are shortened in tables


@click.group(invoke_without_command=True)
@verbosity_options
@click.pass_context
def command(context: click.Context) -> None:
    """List, inspect and add models.

    A model is named by its name here, or by the path of a .grace file or of a published folder (model.yaml and
    checkpoint, or a SavedModel). The library is in $GRACE_CACHE/models, by default ~/.cache/grace/models.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_models, as_json=False, everything=False)


@command.command("list")
@click.option("--all", "everything", is_flag=True, help="Also the models of the catalogs that are not on this machine.")
@json_option
@verbosity_options
def list_models(as_json: bool, everything: bool = False) -> None:
    """List the bundled models and those in the library; with --all what can be had."""
    if everything:
        from gracecli.cli.models_remote import list_catalogs

        list_catalogs(as_json)
        return
    from gracecli.registry.resolve import DEFAULT_MODEL, bundled_models, library_directory
    from gracecli.registry.summary import Summary, summaries

    found = summaries()
    bundled = bundled_models()
    good = [item for item in found if isinstance(item, Summary)]
    bad = [item for item in found if not isinstance(item, Summary)]
    if as_json:
        documents = [{**plain(item), "bundled": item.name in bundled} for item in good]
        payload = {"default": DEFAULT_MODEL, "library": library_directory(), "models": documents, "unreadable": bad}
        emit_json("gracecli.models.list", 1, payload, UNITS)
        return
    if good:
        click.echo(_table(good, set(bundled)))
    for item in bad:
        warn(f"{item.name}: {item.error}")
    if not library_directory().is_dir() or len(found) == len(bundled):
        note(f"the library {library_directory()} is empty; `grace models get NAME` and `add PATH` fill it")


def plain(summary: Summary) -> dict[str, Any]:
    """A summary as JSON values."""
    from dataclasses import asdict

    return asdict(summary)


def _table(summaries: list[Summary], bundled: set[str]) -> str:
    from gracecli.registry.resolve import DEFAULT_MODEL

    columns: list[Column | str] = [
        "model", "layers", "elements", Column("cutoff", "Å"), Column("parameters", format=","), "precision",
        Column("size", "MB", ".2f"), "licence", "from",
    ]  # fmt: skip
    rows = [
        (
            f"{s.name} (default)" if s.name == DEFAULT_MODEL else s.name,
            s.layers,
            short_elements(s.elements),
            cutoff_range(s.smallest_cutoff, s.cutoff),
            s.parameters,
            s.precision,
            s.size / 1e6,
            short_licence(s.licence),
            "bundled" if s.name in bundled else "library",
        )
        for s in summaries
    ]
    return format_table(columns, rows)


def short_elements(elements: tuple[str, ...]) -> str:
    """All of a few elements; the number and the first of many."""
    if len(elements) <= MOST_ELEMENTS:
        return " ".join(elements)
    return f"{len(elements)}: {' '.join(elements[: MOST_ELEMENTS - 3])} ..."


def cutoff_range(smallest: float, largest: float) -> str:
    """A cutoff, or the range of pair cutoffs."""
    return f"{largest:g}" if smallest == largest else f"{smallest:g}-{largest:g}"


def short_licence(licence: str | None) -> str | None:
    """The first sentence of a licence text, in at most 28 characters."""
    first = licence.split(". ")[0] if licence else None
    return first if first is None or len(first) <= 28 else f"{first[:25]}..."


@command.command("info")
@click.argument("model", metavar="NAME|PATH")
@json_option
@verbosity_options
def info(model: str, as_json: bool) -> None:
    """Show what a model covers, where it comes from, and how good it is."""
    from gracecli.registry.information import model_information

    document = model_information(model)
    if as_json:
        emit_json("gracecli.models.info", 1, document, {**UNITS, **document.get("metrics_units", {})})
        return
    from gracecli.cli.models_card import card

    click.echo(card(document))


@command.command("path")
@click.argument("model", metavar="NAME|PATH")
@verbosity_options
def path(model: str) -> None:
    """Print where a model's file is."""
    from gracecli.registry.resolve import resolve_model

    click.echo(str(resolve_model(model).absolute()))


@command.command("add")
@click.argument("source", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="Name in the library. [default: that of the file or folder]")
@click.option(
    "--checkpoint",
    metavar="PREFIX",
    help="Checkpoint of a folder that holds several. [default: checkpoint, else the best of a training run]",
)
@force_option
@json_option
@verbosity_options
def add(source: Path, name: str | None, checkpoint: str | None, force: bool, as_json: bool) -> None:
    """Put a model into the library: a .grace file, or a published folder, which is converted.

    A published folder holds model.yaml (or name the YAML file itself) and a TensorFlow checkpoint. The model is checked
    and read back before it takes its name; one that is damaged or unknown never enters the library.
    """
    from gracecli.registry.library import add_model

    added = add_model(source, name, checkpoint=checkpoint, force=force)
    for text in added.notes:
        warn(text)
    s = added.summary
    if as_json:
        payload = {**plain(s), "source": added.source, "replaced": added.replaced, "notes": added.notes}
        emit_json("gracecli.models.add", 1, payload, UNITS)
        return
    click.echo(
        format_pairs(
            [
                ("replaced" if added.replaced else "added", s.name),
                ("elements", short_elements(s.elements)),
                ("layers", s.layers),
                ("cutoff", f"{cutoff_range(s.smallest_cutoff, s.cutoff)} Å"),
                ("parameters", f"{s.parameters:,}"),
                ("precision", s.precision),
                ("licence", s.licence or "not stated"),
                ("sha256", s.sha256),
                ("file", f"{s.path} ({s.size / 1e6:.2f} MB)"),
            ]
        )
    )


@command.command("rm")
@click.argument("name")
@verbosity_options
def remove(name: str) -> None:
    """Delete a model from the library."""
    from gracecli.registry.library import remove_model

    click.echo(f"removed {remove_model(name)}")


@command.command("verify")
@click.argument("model", metavar="[NAME|PATH]", required=False)
@click.option("--accept", is_flag=True, help="Let grace.lock record the content that the model has now.")
@json_option
@verbosity_options
def verify(model: str | None, accept: bool, as_json: bool) -> None:
    """Compare a model (or all) with the sha256 in its file, and with what grace.lock recorded at first use."""
    from gracecli.errors import UsageError
    from gracecli.registry.library import accept_content, verify_models

    if accept:
        if model is None:
            raise UsageError("--accept without a model", "name the model whose content you accept")
        accept_content(model)
    results = verify_models(model)
    if as_json:
        emit_json("gracecli.models.verify", 1, {"models": results}, {})
    elif results:
        rows = [(r.name, "ok" if r.ok else "FAILED", r.sha256 if r.ok else r.problem) for r in results]
        click.echo(format_table(["model", "content", "sha256"], rows))
    failed = [r for r in results if not r.ok]
    if failed:
        raise ModelError(
            f"{len(failed)} of {len(results)} models failed: {', '.join(r.name for r in failed)}",
            "`grace models rm` and add them again; reinstall gracecli if a bundled one failed",
        )


def _register_remote() -> None:
    """The subcommands of other files: grades; what uses the network, or carries models without it."""
    from gracecli.cli import models_gamma, models_remote

    for subcommand in (models_gamma.command, models_remote.get, models_remote.bundle, models_remote.unbundle):
        command.add_command(subcommand)


_register_remote()
