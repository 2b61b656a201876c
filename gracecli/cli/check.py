"""``grace check``: whether labelled structures are fit to be trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.options import json_option, verbosity_options
from gracecli.cli.output import Column, emit_json, format_table, progress
from gracecli.errors import InputError, UsageError

if TYPE_CHECKING:
    from gracecli.fit.check.run import Check
    from gracecli.fit.config import DataConfig

SCHEMA, VERSION = "gracecli.check", 1
STAGES = 11
UNITS = {
    "energy": "eV", "distance": "Å", "residual": "meV/atom", "mismatch": "meV/atom", "largest": "eV/Å",
    "limit": "eV/Å", "net_force": "eV/Å per atom", "slope": "1", "bulk": "eV/atom", "slabs": "eV/atom",
}  # fmt: skip


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="DATA... | CONFIG.toml")
@click.option("--valid", multiple=True, metavar="FILE", help="Validation structures; may be repeated.")
@click.option("--test", "tests", multiple=True, metavar="FILE", help="Test structures; may be repeated.")
@click.option("--energy-key", metavar="NAME", help="Label of the energy.  [default: free_energy, else energy]")
@click.option("--forces-key", metavar="NAME", help="Label of the forces.")
@click.option("--stress-key", metavar="NAME", help="Label of the stress.")
@click.option("--strict", is_flag=True, help="Exit with 4 when there is an error.")
@json_option
@verbosity_options
def command(inputs: tuple[str, ...], strict: bool, as_json: bool, **options: Any) -> None:
    """Check labelled structures before training on them.

    Sign and units of stresses and forces are found by comparing energies of near structures with the work of the
    labels. Also checked: order of shear stresses, energy zeros of slabs, forces zeroed by constraints, outliers, short
    distances, duplicates within and across sets, elements and their reference energies.

    \b
    Examples:
      grace check train.extxyz --test test.extxyz
      grace check store.h5:set=train vasprun.xml --strict
      grace check fit.toml --json
    """
    from gracecli.fit.check.run import check_data

    data = _data(inputs, options)
    bar = progress(total=STAGES, description="checking", unit="stage")

    def say(name: str) -> None:
        bar.set_postfix_str(name)
        bar.update(1)

    try:
        result = check_data(data, say)
    finally:
        bar.close()
    if as_json:
        findings = [vars(finding) for finding in result.findings]
        payload = {"level": result.level, "structures": result.structures, "atoms": result.atoms, "findings": findings}
        emit_json(SCHEMA, VERSION, payload, UNITS)
    else:
        click.echo(_table(result))
    errors = [finding for finding in result.findings if finding.level == "error"]
    if strict and errors:
        raise InputError(f"{len(errors)} errors in the data, the first: {errors[0].check} ({errors[0].where})")


def _data(inputs: tuple[str, ...], options: dict[str, Any]) -> DataConfig:
    from gracecli.fit.config_read import load_config, make_config

    keys = {name: options[name] for name in ("energy_key", "forces_key", "stress_key")}
    options = {**options, "test": options["tests"]}
    sets = {name: [{"path": path} for path in options[name]] or None for name in ("valid", "test")}
    if any(name.lower().endswith(".toml") for name in inputs):
        if len(inputs) > 1:
            raise UsageError("give one settings file, or data files")
        return load_config(inputs[0], {"data": {**sets, **keys}}).data
    train = [{"path": name} for name in inputs]
    return make_config({}, {"data": {"train": train, **sets, **keys}}, where="the command line").data


def _table(result: Check) -> str:
    columns = [Column("verdict"), Column("check"), Column("where"), Column("found")]
    rows = [[f.level, f.check, f.where, f.found] for f in result.findings]
    counts = ", ".join(f"{n} {split}" for split, n in result.structures.items() if n)
    lines = [format_table(columns, rows), "", f"{counts} structures, {result.atoms} atoms: {_summary(result)}"]
    todo = [f for f in result.findings if f.remedy]
    if todo:
        lines += ["", "what to do"]
        lines += [f"  {f.level:<7}  {f.check} ({f.where}): {f.remedy}" for f in sorted(todo, key=lambda f: f.level)]
    return "\n".join(lines)


def _summary(result: Check) -> str:
    count = {level: sum(f.level == level for f in result.findings) for level in ("error", "warning")}
    parts = [f"{n} {level}{'s' if n > 1 else ''}" for level, n in count.items() if n]
    return ", ".join(parts) if parts else "nothing to object to"
