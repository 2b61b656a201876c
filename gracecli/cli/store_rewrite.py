"""``grace store split | merge | dedup | compact``: sets, shards, copies, and the file itself."""

from __future__ import annotations

from pathlib import Path

import click

from gracecli.cli.options import force_option, json_option, verbosity_options
from gracecli.cli.output import Column, emit_json, format_table, warn
from gracecli.errors import UsageError

_path = click.Path(path_type=Path)
_wait = click.option(
    "--wait", default=60.0, show_default=True, metavar="SECONDS", help="How long to wait for another writer."
)
_output = click.option(
    "-o", "--output", type=_path, metavar="FILE", help="Write there and leave the store. [default: in place]"
)
MOST = 10


@click.command("split")
@click.argument("source", metavar="STORE[:QUERY]")
@click.option(
    "--fractions", default="train=0.8,valid=0.1,test=0.1", show_default=True, metavar="NAME=SHARE,...",
    help="Sets and their shares.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, metavar="N", help="Another seed is another split.")
@force_option
@json_option
@verbosity_options
def split(source: str, fractions: str, seed: int, force: bool, as_json: bool) -> None:
    """Put structures into training, validation and test sets, stratified by composition.

    Equal geometries stay together, whatever their labels. The same seed gives the same split on every machine.
    With --force, structures that are in one of the sets are split anew.
    """
    from gracecli.cli.store import split_argument
    from gracecli.store.split import split as run
    from gracecli.store.store import Store

    path, query = split_argument(source)
    with Store(path):  # there must be one
        pass
    with Store(path, "a") as store:
        found = run(store, _shares(fractions), seed=seed, query=query, force=force)
    total = sum(len(rows) for rows in found.values())
    if as_json:
        emit_json("gracecli.store.split", 1, {"store": path, "seed": seed, "sets": found}, {})
        return
    rows = [(name, len(numbers), 100 * len(numbers) / total) for name, numbers in found.items()]
    click.echo(format_table(["set", "structures", Column("share", "%", ".2f")], rows))
    click.echo(f"\n{path}: {total:,} structures split, seed {seed}")


def _shares(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not equals or not name.strip() or share <= 0 or name.strip() in shares:
            raise UsageError(f"--fractions {text}: {part!r} is not NAME=SHARE", "such as train=0.9,test=0.1")
        shares[name.strip()] = share
    return shares


@click.command("merge")
@click.argument("store", type=_path)
@click.argument("sources", nargs=-1, required=True, type=_path, metavar="SOURCE...")
@_wait
@json_option
@verbosity_options
def merge(store: Path, sources: tuple[Path, ...], wait: float, as_json: bool) -> None:
    """Add what other stores (or folders of .h5 shards) hold and STORE does not.

    Results, lineage and sets come along. What is there already is recognised by its content, so a merge that was
    interrupted is simply repeated.
    """
    from gracecli.store.merge import merge as run

    done = run(store, sources, wait)
    rows = [(str(m.source), m.structures, m.added, m.results, m.results_added, ", ".join(m.groups)) for m in done]
    if as_json:
        names = ("source", "structures", "added", "results", "results_added", "groups")
        emit_json(
            "gracecli.store.merge", 1,
            {"store": store, "sources": [dict(zip(names, row, strict=True)) for row in rows]}, {},
        )  # fmt: skip
        return
    heads = ["source", "structures", "new", "results", "new"]
    heads += ["groups of plugins"] if any(row[-1] for row in rows) else []
    click.echo(format_table(heads, [row[: len(heads)] for row in rows]))
    click.echo(f"\n{store}: {sum(m.added for m in done):,} structures added")


@click.command("dedup")
@click.argument("store", type=_path)
@click.option("--match", is_flag=True, help="Also find re-ordered, shifted and rotated copies (StructureMatcher).")
@click.option(
    "--tolerance", default=0.01, show_default=True, metavar="X",
    help="With --match: displacement over (volume per atom)^(1/3) up to which structures are copies.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@_output
@_wait
@force_option
@json_option
@verbosity_options
def dedup(
    store: Path, match: bool, tolerance: float, dry_run: bool, output: Path | None, wait: float, force: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Remove copies: structures with the geometry and the method of another one.

    The store is written anew without them; results and sets refer to the structure that is kept, numbers behind a
    removed one change. Copies with different energies are kept, and listed.
    """
    from gracecli.store.dedup import dedup as run
    from gracecli.store.dedup import find_duplicates
    from gracecli.store.store import Store

    if dry_run:
        with Store(store) as opened:
            duplicates = find_duplicates(opened, match, tolerance)
    else:
        duplicates, _ = run(store, output, match=match, tolerance=tolerance, wait=wait, force=force)
    groups = duplicates.groups
    removed = sum(len(copies) for copies in groups.values())
    if as_json:
        emit_json(
            "gracecli.store.dedup", 1,
            {"store": output or store, "dry_run": dry_run, "removed": removed, "copies": groups,
             "contradictions": duplicates.contradictions}, {},
        )  # fmt: skip
        return
    rows = [(kept, ", ".join(map(str, copies[:MOST]))) for kept, copies in list(groups.items())[:MOST]]
    if rows:
        click.echo(format_table(["id", "copies" + (" (numbers before)" if not dry_run else "")], rows))
        if len(groups) > MOST:
            click.echo(f"... and {len(groups) - MOST} more")
        click.echo("")
    click.echo(f"{output or store}: {removed:,} copies " + ("found" if dry_run else "removed"))
    if duplicates.contradictions:
        pairs = ", ".join(f"{one} and {two}" for one, two in duplicates.contradictions[:MOST])
        warn(f"{len(duplicates.contradictions)} pairs of copies have different energies and are kept: {pairs}")


@click.command("compact")
@click.argument("store", type=_path)
@click.option("--gzip", is_flag=True, help="Compress: smaller, but slow to read at random.")
@click.option("--hot", is_flag=True, help="Make a sealed store one that can be added to again.")
@_output
@_wait
@force_option
@json_option
@verbosity_options
def compact(store: Path, gzip: bool, hot: bool, output: Path | None, wait: float, force: bool, as_json: bool) -> None:
    """Rewrite a store as a sealed one: contiguous, read fastest, never added to.

    The new file takes the place of the old one when it is whole and on the disk.
    """
    from gracecli.store.compact import compact as run

    done = run(store, output, gzip=gzip, hot=hot, wait=wait, force=force)
    state = "hot" if hot else "sealed, gzip" if gzip else "sealed"
    if as_json:
        emit_json("gracecli.store.compact", 1, {"store": output or store, "state": state, **vars(done)}, {
            "size_before": "byte", "size_after": "byte"})  # fmt: skip
        return
    click.echo(
        f"{output or store}: {done.structures:,} structures, {done.results:,} results, {state}; "
        f"{done.size_before / 1e6:.2f} MB -> {done.size_after / 1e6:.2f} MB"
    )
