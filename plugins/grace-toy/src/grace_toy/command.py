"""``grace toy``."""

from __future__ import annotations

import click

from gracecli.cli.options import json_option
from gracecli.cli.output import Column, emit_json, format_table


@click.group()
def command() -> None:
    """Show the toy potentials."""


@command.command()
@json_option
def info(as_json: bool) -> None:
    """List the potentials: cutoff and elements."""
    from grace_toy import emt, lj
    from gracecli.engine.base import Engine

    engines: list[Engine] = [lj.create_engine(), emt.create_engine()]
    if as_json:
        payload = [{"name": e.name, "cutoff": e.cutoff, "elements": list(e.elements)} for e in engines]
        emit_json("grace-toy.info", 1, {"engines": payload}, {"cutoff": "Å"})
        return
    rows = [(e.name, e.cutoff, "all" if len(e.elements) > 90 else " ".join(e.elements)) for e in engines]
    click.echo(format_table(["engine", Column("cutoff", "Å", ".3f"), "elements"], rows))
