"""``grace store``: keep structures, their labels and results in one file that survives crashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gracecli.cli.options import force_option, json_option, verbosity_options
from gracecli.cli.output import Column, emit_json, format_pairs, format_table, progress, warn
from gracecli.errors import InputError, StoreError

UNITS = {
    "energy": "eV",
    "energy_per_atom": "eV/atom",
    "fmax": "eV/Å",
    "pressure": "GPa",
    "volume": "Å^3",
    "size": "byte",
}
ARRAY_UNITS = {
    "positions": "Å",
    "cell": "Å",
    "forces": "eV/Å",
    "stress": "eV/Å^3 (tensile-positive; xx yy zz yz xz xy)",
}
ROWS = 20
_path = click.Path(path_type=Path)


@click.group()
@verbosity_options
def command() -> None:
    """Keep structures, their labels and results in one file.

    A store loses nothing: a kill at any instant costs at most the append that was open. STORE:QUERY selects structures,
    such as 'data.h5:elements=Si,Ge and natoms<50 and energy_per_atom<-3 and set=train'.
    """


@command.command("add")
@click.argument("store", type=_path)
@click.argument("files", nargs=-1, required=True, type=_path, metavar="FILE...")
@click.option("--set", "set_name", default="", metavar="NAME", help="Put the structures into this set.")
@click.option("--method", default="", metavar="TEXT", help="What calculated the labels. [default: what the file says]")
@click.option("--wait", default=60.0, show_default=True, metavar="SECONDS", help="How long to wait for another writer.")
@json_option
@verbosity_options
def add(store: Path, files: tuple[Path, ...], set_name: str, method: str, wait: float, as_json: bool) -> None:
    """Add labelled structures: POSCAR, CIF, extxyz, vasprun.xml, OUTCAR, ASE db or trajectory, ...

    Every frame is added. Energies are force-consistent where the file has them; forces of fixed atoms stay as they
    were calculated; stresses become tensile-positive eV/Å^3. STORE is made if it does not exist.
    """
    from gracecli.store.formats import read_file
    from gracecli.store.store import Store

    readings = [(file, read_file(file, method)) for file in progress(files, description="reading")]
    rows = []
    with Store(store, "a", wait=wait) as target:
        for file, reading in readings:
            added = target.append(reading.entries, set_name=set_name)
            rows.append((str(file), reading.format, len(added), added.start, added.stop - 1))
            for text in reading.notes:
                warn(f"{file}: {text}")
        total = len(target)
    if as_json:
        names = ("file", "format", "structures", "first", "last")
        files_added = [dict(zip(names, row, strict=True)) for row in rows]
        emit_json("gracecli.store.add", 1, {"store": store, "files": files_added, "structures": total}, {})
        return
    click.echo(format_table(["file", "format", "structures", "first id", "last id"], rows))
    click.echo(f"\n{store}: {total:,} structures" + (f"; added to set {set_name}" if set_name else ""))


def _split(argument: str) -> tuple[Path, str]:
    """Store and query of ``STORE:QUERY``."""
    if Path(argument).exists():
        return Path(argument), ""
    path, _, query = argument.partition(":")
    return Path(path), query


@command.command("ls")
@click.argument("store", type=_path)
@json_option
@verbosity_options
def ls(store: Path, as_json: bool) -> None:
    """Say what a store holds."""
    from gracecli.store.store import Store
    from gracecli.store.summary import summary

    with Store(store) as opened:
        document = summary(opened)
    if as_json:
        emit_json("gracecli.store.ls", 1, document, UNITS)
        return
    low, high = document["energy_per_atom"]
    sets = ", ".join(f"{name} ({count:,})" for name, count in document["sets"].items()) or "-"
    labels = ", ".join(f"{name} {count:,}" for name, count in document["labels"].items() if count) or "none"
    pairs: list[tuple[str, Any]] = [
        ("store", f"{store} ({document['size'] / 1e6:.2f} MB, {document['state']}, schema {document['schema']})"),
        ("structures", f"{document['structures']:,} in {document['commits']:,} commits"),
        ("atoms", f"{document['atoms']:,}"),
        ("elements", " ".join(document["elements"]) or "-"),
        ("labels", labels),
        ("energy per atom", "-" if low is None else f"{low:.4f} to {high:.4f} eV/atom"),
        ("sets", sets),
        ("last commit", document["last_commit"] or "-"),
    ]
    click.echo(format_pairs(pairs))
    if document["formulas"]:
        rows = [(name, count) for name, count in list(document["formulas"].items())[:ROWS]]
        click.echo("\n" + format_table(["formula", "structures"], rows))
        if len(document["formulas"]) > ROWS:
            click.echo(f"... and {len(document['formulas']) - ROWS} more")


@command.command("query")
@click.argument("store", type=_path)
@click.argument("expression", default="")
@click.option("--limit", default=ROWS, show_default=True, metavar="N", help="Most rows shown; 0 for all.")
@click.option("--ids", is_flag=True, help="Print the numbers alone, one per line.")
@json_option
@verbosity_options
def query(store: Path, expression: str, limit: int, ids: bool, as_json: bool) -> None:
    """List the structures that EXPRESSION selects (all without one).

    \b
    Fields: id natoms nelements elements formula energy energy_per_atom fmax volume volume_per_atom pressure set has
            method source info.KEY, and an element symbol for the number of its atoms
    Words:  = != < <= > >= and or not ( ); elements=Si,Ge is exactly these, >= at least these, <= none but these
    """
    from gracecli.store.store import Store
    from gracecli.store.summary import rows

    with Store(store) as opened:
        found = opened.query(expression)
        shown = found if ids or as_json or not limit else found[:limit]
        table = [] if ids else rows(opened, shown)
    if as_json:
        names = ("id", "formula", "natoms", "energy", "energy_per_atom", "fmax", "pressure", "volume", "sets")
        listed = [dict(zip(names, row, strict=True)) for row in table]
        emit_json("gracecli.store.query", 1, {"store": store, "query": expression, "structures": listed}, UNITS)
    elif ids:
        click.echo("\n".join(str(number) for number in found), nl=bool(len(found)))
    else:
        if table:
            click.echo(_rows_table(table))
        more = f", {len(shown)} shown" if len(shown) < len(found) else ""
        click.echo(f"\n{len(found):,} structures{more}" if table else "no structure matches")


def _rows_table(table: list[tuple[Any, ...]]) -> str:
    columns: list[Column | str] = [
        "id", "formula", "atoms", Column("energy", "eV", ".4f"), Column("energy per atom", "eV/atom", ".4f"),
        Column("max force", "eV/Å", ".3f"), Column("pressure", "GPa", ".2f"), Column("volume", "Å³", ".2f"), "sets",
    ]  # fmt: skip
    return format_table(columns, table)


@command.command("show")
@click.argument("store", type=_path)
@click.argument("number", metavar="ID", type=int)
@json_option
@verbosity_options
def show(store: Path, number: int, as_json: bool) -> None:
    """Show one structure: geometry, labels, where it comes from."""
    from gracecli.cli.store_card import card, document
    from gracecli.store.store import Store

    with Store(store) as opened:
        content = document(opened, number)
    if as_json:
        emit_json("gracecli.store.show", 1, content, {**UNITS, **ARRAY_UNITS})
        return
    click.echo(card(content))


@command.command("export")
@click.argument("source", metavar="STORE[:QUERY]")
@click.option("-o", "--output", required=True, type=_path, metavar="FILE", help="extxyz, POSCAR or ASE db.")
@click.option("--format", "format_name", type=click.Choice(["extxyz", "poscar", "db"]), help="[default: by the name]")
@force_option
@verbosity_options
def export(source: str, output: Path, format_name: str | None, force: bool) -> None:
    """Write structures to a file; extxyz keeps every bit of every number."""
    from gracecli.store.exporters import export as write
    from gracecli.store.store import Store

    path, expression = _split(source)
    with Store(path) as opened:
        found = [int(number) for number in opened.query(expression)]
        name = write(opened, found, output, format_name, force)
    click.echo(f"{len(found):,} structures written to {output} ({name})")


@command.command("sets")
@click.argument("store", type=_path)
@json_option
@verbosity_options
def sets(store: Path, as_json: bool) -> None:
    """List the sets and how many structures each has."""
    from gracecli.store.store import Store

    with Store(store) as opened:
        rows = [(name, int(opened.in_set(name).sum())) for name in opened.set_names()]
    if as_json:
        emit_json("gracecli.store.sets", 1, {"store": store, "sets": dict(rows)}, {})
    else:
        click.echo(format_table(["set", "structures"], rows) if rows else "no sets; `grace store add --set NAME`")


@command.command("check")
@click.argument("store", type=_path)
@json_option
@verbosity_options
def check(store: Path, as_json: bool) -> None:
    """Compare everything in a store with its checksums; exit code 7 if anything is damaged."""
    from gracecli.store.check import check as examine

    if not store.is_file():
        raise InputError(f"{store}: no such store")
    report = examine(store)
    if as_json:
        emit_json("gracecli.store.check", 1, {"store": store, **vars(report)}, {})
    else:
        click.echo(f"{store}: {report.structures:,} structures in {report.commits:,} commits")
        for text in report.notes:
            click.echo(f"  note: {text}")
        click.echo("  every committed structure is intact" if not report.problems else "")
    if report.problems:
        raise StoreError(f"{store}: {'; '.join(report.problems)}", f"grace store repair {store}")


@command.command("repair")
@click.argument("store", type=_path)
@verbosity_options
def repair(store: Path) -> None:
    """Rewrite a damaged store with every structure that is intact; the damaged file is kept."""
    from gracecli.store.check import repair as rescue

    if not store.is_file():
        raise InputError(f"{store}: no such store")
    kept, lost, damaged = rescue(store)
    click.echo(f"{store}: {kept:,} structures kept, {lost:,} lost; the damaged file is {damaged}")


@command.command("why")
@click.argument("store", type=_path)
@click.argument("name", metavar="ID")
@json_option
@verbosity_options
def why(store: Path, name: str, as_json: bool) -> None:
    """Say how structure ID (a number) or result ID (such as r3) came about, back to the file it started from."""
    from gracecli.cli.store_why import tree
    from gracecli.store.store import Store

    with Store(store) as opened:
        lineage = opened.why(name)
    if as_json:
        emit_json("gracecli.store.why", 1, {"store": store, "id": name, **lineage.to_dict()}, UNITS)
    else:
        click.echo(tree(lineage))
