"""``grace models get|bundle|unbundle`` and ``list --all``: models that are not on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.options import force_option, json_option, verbosity_options
from gracecli.cli.output import Column, emit_json, format_pairs, format_table, verbosity, warn

if TYPE_CHECKING:
    from gracecli.registry.download import Progress

accept_option = click.option(
    "--accept-licence", is_flag=True, help="Accept the licence of the model; asked once where there is a terminal."
)


def list_catalogs(as_json: bool) -> None:
    """All models of the catalogs, and whether they are here."""
    from dataclasses import asdict

    from gracecli.cli.models import cutoff_range
    from gracecli.registry.catalog import all_models
    from gracecli.registry.resolve import known_models

    here = known_models()
    entries = list(all_models().values())
    if as_json:
        payload = {"models": [{**asdict(entry), "here": entry.name in here} for entry in entries]}
        emit_json("gracecli.models.catalog", 1, payload, {"cutoff": "Å"})
        return
    columns: list[Column | str] = [
        "model", "alias", "kind", "trained on", Column("cutoff", "Å"), "precision", "here",
    ]  # fmt: skip
    rows = [
        (
            e.name,
            ", ".join(e.aliases) or None,
            e.description,
            e.training_data,
            cutoff_range(*e.cutoff),
            e.precision,
            "yes" if e.name in here else None,
        )
        for e in entries
    ]
    click.echo(format_table(columns, rows))
    for licence in dict.fromkeys(entry.licence for entry in entries):
        names = [entry.name for entry in entries if entry.licence == licence]
        click.echo(f"\n{len(names)} models: {licence}")
    click.echo("`grace models get NAME` fetches one and converts it.")


def _asker() -> Callable[[str], bool] | None:
    """What puts a question to the user; None where there is no terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return lambda question: click.confirm(question, err=True)


@contextmanager
def _bar(name: str) -> Iterator[Progress | None]:
    """A progress bar in bytes; None where nobody looks."""
    if verbosity() < 0 or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, unit_divisor=1000, desc=name, leave=False) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


@click.command("get")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "--mirror", "mirrors", multiple=True, metavar="URL", help="Try this address first; may be repeated. [GRACE_MIRRORS]"
)
@click.option("--offline", is_flag=True, help="Use no network. [GRACE_OFFLINE=1]")
@accept_option
@force_option
@json_option
@verbosity_options
def get(
    names: tuple[str, ...], mirrors: tuple[str, ...], offline: bool, accept_licence: bool, force: bool, as_json: bool
) -> None:
    """Fetch published models (see `grace models list --all`) and convert them into the library.

    A fetch that was cut off is continued. What came is checked against grace.lock, unpacked, converted and read back
    before it becomes a model.
    """
    from gracecli.registry.get import get_model

    ask = _asker()
    documents: list[dict[str, Any]] = []
    for name in names:
        with _bar(name) as progress:
            got = get_model(
                name,
                force=force,
                offline=offline,
                mirrors=mirrors,
                accept_licence=accept_licence,
                ask=ask,
                progress=progress,
            )
        for text in got.notes:
            warn(text)
        s, f = got.summary, got.fetched
        documents.append(
            {
                "name": s.name, "path": s.path, "sha256": s.sha256, "licence": s.licence, "fetched": f is not None,
                "url": f.url if f else None, "size": f.size if f else None, "resumed_from": f.resumed if f else None,
            }
        )  # fmt: skip
        if not as_json:
            came = f"{f.size / 1e6:.2f} MB from {f.url}" if f else "nothing: it is here already"
            pairs = [
                ("model", s.name),
                ("fetched", came),
                ("licence", s.licence or "not stated"),
                ("sha256", s.sha256),
                ("file", s.path),
            ]
            click.echo(format_pairs(pairs))
    if as_json:
        emit_json("gracecli.models.get", 1, {"models": documents}, {"size": "byte", "resumed_from": "byte"})


@click.command("bundle")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="[default: FIRST-NAME.gracebundle]"
)
@force_option
@verbosity_options
def bundle(names: tuple[str, ...], output: Path | None, force: bool) -> None:
    """Write models of the library into one file, for a machine without internet."""
    from gracecli.registry.bundle import bundle as write

    target = output or Path(f"{names[0]}.gracebundle")
    written = write(names, target, force=force)
    click.echo(f"{target} ({target.stat().st_size / 1e6:.2f} MB): {', '.join(written)}")


@click.command("unbundle")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@accept_option
@force_option
@verbosity_options
def unbundle(source: Path, accept_licence: bool, force: bool) -> None:
    """Put the models of a bundle into the library."""
    from gracecli.registry.bundle import unbundle as read

    ask = _asker()
    for added in read(source, force=force, accept_licence=accept_licence, ask=ask):
        click.echo(f"{'replaced' if added.replaced else 'added'} {added.summary.name} ({added.summary.path})")
