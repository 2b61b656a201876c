"""Several runs of ``grace md`` in one call: a folder each, a table at the end; one that fails stops no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.md_job import INTERRUPTED, SCHEMA, SCHEMA_VERSION, Ended, begin, stem
from gracecli.cli.output import Column, emit_json, format_table, note, verbosity
from gracecli.errors import GraceError, PartialFailureError, UsageError

if TYPE_CHECKING:
    from gracecli.run.structures import Structure


def run_all(found: Sequence[tuple[str, Structure | GraceError]], options: dict[str, Any], given: set[str]) -> int:
    """All runs, one after the other; ``found`` is what each argument holds, with the argument."""
    from gracecli.cli.md_tables import md_card
    from gracecli.run.md_result import UNITS

    if not found:
        raise UsageError("no structure given", "grace md --help")
    folders = _folders([item for _, item in found], options["output"])
    ends: list[Ended] = []
    for (_, structure), folder in zip(found, folders, strict=True):
        if isinstance(structure, GraceError):
            ends.append(Ended(error=structure))
            continue
        note(f"{structure.name} -> {folder}")
        try:
            ended = begin(structure, folder, options, given)
        except GraceError as error:
            ended = Ended(error=type(error)(f"{structure.name}: {error.message}", error.hint))
        ends.append(ended)
        if ended.interrupted:
            break
        if ended.document is not None and verbosity() >= 1 and not options["as_json"]:
            click.echo(md_card(ended.document))
    documents = [
        _document(end, argument if isinstance(item, GraceError) else item.name)
        for end, (argument, item) in zip(ends, found, strict=False)
    ]
    if options["as_json"]:
        emit_json(SCHEMA, SCHEMA_VERSION, {"results": documents}, UNITS)
    else:
        click.echo(md_summary(documents))
    return _code(ends)


def md_summary(results: Sequence[Mapping[str, Any]]) -> str:
    """A row each; reasons below."""
    columns: list[Column | str] = [
        "structure", "status", Column("time", "ps", ".3g"), Column("temperature", "K", ".1f"),
        Column("pressure", "GPa", ".3f"), Column("energy", "eV/atom", ".5f"), Column("volume", "Å³", ".2f"),
        "checks", "written to",
    ]  # fmt: skip
    rows, remarks = [], []
    for result in results:
        name = PurePath(result["name"]).name
        if "averages" not in result:
            rows.append([name, "FAILED" if "error" in result else "INTERRUPTED", *[None] * 7])
        else:
            mean = {key: (result["averages"].get(key) or {}).get("mean") for key in _SHOWN}
            failed = [check["name"] for check in result["checks"] if check["verdict"] == "failed"]
            rows.append(
                [
                    name, result["status"], result["time"], *(mean[key] for key in _SHOWN),
                    f"FAILED: {', '.join(failed)}" if failed else "ok", (result.get("files") or {}).get("folder"),
                ]
            )  # fmt: skip
        if "error" in result:
            remarks.append(f"  {result['error']['message']}")
    return "\n".join([format_table(columns, rows), *(["", *remarks] if remarks else [])])


_SHOWN = ("temperature", "pressure", "potential_energy", "volume")


def _folders(found: Sequence[Structure | GraceError], output: Path | None) -> list[Path]:
    """One folder for every structure."""
    folders: list[Path] = []
    for item in found:
        if isinstance(item, GraceError):
            folders.append(Path())
            continue
        name = stem(item.path) + (f"-{item.frame + 1}" if item.frames > 1 else "")
        folder, number = (output or Path()) / f"{name}-md", 2
        while folder in folders:
            folder = (output or Path()) / f"{name}-{number}-md"
            number += 1
        folders.append(folder)
    return folders


def _document(ended: Ended, name: str) -> dict[str, Any]:
    document = dict(ended.document or {"name": name})
    if ended.error is not None:
        document["error"] = {"message": ended.error.message, "hint": ended.error.hint}
    return document


def _code(ends: Sequence[Ended]) -> int:
    """Exit code, or the error that carries it."""
    if ends[-1].interrupted:
        click.echo(f"grace: {ends[-1].interrupted}", err=True)
        return INTERRUPTED
    errors = [ended.error for ended in ends if ended.error is not None]
    if not errors:
        return 0
    if len(errors) == len(ends) and len({error.exit_code for error in errors}) == 1:
        raise errors[0]
    raise PartialFailureError(f"{len(errors)} of {len(ends)} runs failed", "the table says why")
