"""``grace export``: a model in another format, verified before it is handed over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.options import force_option, json_option, key_value_option, verbosity_options
from gracecli.cli.output import Column, emit_json, format_pairs, format_table

if TYPE_CHECKING:
    from gracecli.export.run import Exported

UNITS = {"size": "byte", "energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³", "write_seconds": "s",
         "verify_seconds": "s"}  # fmt: skip


def _format_help(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """``--formats``: list what there is, and leave."""
    if not value or context.resilient_parsing:
        return
    from gracecli.plugin.manager import get_plugin_manager

    rows = [
        (spec.name, spec.suffix, spec.distribution, spec.help, ", ".join(spec.options) or None)
        for spec in get_plugin_manager().exporters().values()
    ]
    click.echo(format_table(["format", "ending", "from", "what it is", "options"], rows))
    context.exit()


@click.command(context_settings={"show_default": False})
@click.argument("model", required=False, metavar="[MODEL]")
@click.option("--format", "format_", required=True, metavar="NAME", help="grace, saved-model, upstream, npz, hlo, ...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="PATH",
    help="What is written.  [default: the model's name with the ending of the format]",
)  # fmt: skip
@click.option("--elements", metavar="A,B,...", help="Keep only these elements.")
@click.option("--head", metavar="NAME", help="Head (level of theory) of a model that has several.")
@click.option(
    "--precision",
    type=click.Choice(["fp64", "fp32"]),
    help="Of the weights, and of a program's arithmetic.  [default: as stored; programs compute in fp64]",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    help="Evaluate what was written and compare it with the model before it takes its name.  [default: verify]",
)
@click.option("--atoms", type=click.IntRange(min=1), metavar="N", help="Atoms a program of fixed size holds (hlo).")
@click.option("--bonds", type=click.IntRange(min=1), metavar="M", help="Directed bonds it holds (hlo).")
@click.option(
    "--structure", type=click.Path(path_type=Path), metavar="FILE", help="Structure that gives --atoms and --bonds."
)
@key_value_option("--export-option", "Option of the format; may be repeated.")
@click.option(
    "--formats", is_flag=True, is_eager=True, expose_value=False, callback=_format_help, help="List the formats."
)
@force_option
@json_option
@verbosity_options
def command(
    model: str | None,
    format_: str,
    output: Path | None,
    elements: str | None,
    head: str | None,
    precision: str | None,
    verify: bool,
    atoms: int | None,
    bonds: int | None,
    structure: Path | None,
    export_option: Mapping[str, Any],
    force: bool,
    as_json: bool,
) -> None:
    """Export a model: a registered name, a .grace file or a published folder (default: the bundled model).

    What was written is evaluated and compared with the model on structures that hold every pair of its elements;
    only then does it take its name. --elements leaves out what other elements need, and changes no number.

    \b
    Examples:
      grace export grace-1l-11el --format saved-model
      grace export my-model/model.grace --format upstream -o published
      grace export grace-1l-11el --format grace --elements Si,Ge -o sige.grace
      grace export --format hlo --structure POSCAR

    Exit code 1: it deviates, and nothing is left behind.
    """
    from gracecli.export.run import export_model
    from gracecli.registry.resolve import with_head

    sizes = {"atoms": atoms, "bonds": bonds, "structure": structure}
    options = {**export_option, **{name: value for name, value in sizes.items() if value is not None}}
    result = export_model(
        with_head(model, head),
        format_,
        output,
        elements=elements.replace(",", " ").split() if elements is not None else None,
        precision=precision,
        verify=verify,
        force=force,
        options=options,
    )
    if as_json:
        emit_json("gracecli.export", 1, _document(result), UNITS)
    else:
        click.echo(_table(result))


def _document(result: Exported) -> dict[str, Any]:
    from dataclasses import asdict

    document = asdict(result)
    verification = document.pop("verification")
    if verification is not None:
        verification["deviations"] = {d.pop("quantity"): d for d in verification["deviations"]}
    return {**document, "verified": verification is not None, "verification": verification}


def _table(result: Exported) -> str:
    from gracecli.cli.models import short_elements

    covered = short_elements(result.elements)
    if result.elements != result.all_elements:
        covered += f"  ({len(result.elements)} of {len(result.all_elements)})"
    pairs = [
        ("written to", str(result.path)),
        ("format", result.format),
        ("model", result.model),
        ("elements", covered),
        ("weights", f"{result.parameters:,}, {result.precision}"),
        ("size", f"{result.size / 1e6:.2f} MB"),
    ]
    pairs += [("note", text) for text in result.notes]
    verification = result.verification
    if verification is None:
        return format_pairs([*pairs, ("verified", "no (--no-verify)")])
    pairs.append(
        (
            "verified",
            f"{verification.structures} structures, {verification.atoms} atoms, "
            f"{verification.pairs} of {verification.all_pairs} element pairs within cutoff",
        )
    )
    columns: list[Column | str] = [
        "", Column("deviation", format=".1e"), Column("allowed", format=".1e"),
        Column("largest value", format=".4g"), "",
    ]  # fmt: skip
    rows = [(d.quantity, d.largest, d.limit, d.scale, d.unit) for d in verification.deviations]
    return format_pairs(pairs) + "\n\n" + format_table(columns, rows)
