"""Tables of relaxations for people, made from the same documents that ``--json`` prints.

Numbers are rounded here and nowhere else: what a table shows is a rounding of what the document holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from gracecli.cli.gamma import gamma_line
from gracecli.cli.output import Column, format_table

Document = Mapping[str, Any]

_STATUS = {
    "converged": "converged",
    "not-converged": "NOT CONVERGED",
    "interrupted": "INTERRUPTED",
    "exploded": "EXPLODED",
    "failed": "FAILED",
}


def relax_card(result: Document) -> str:
    """One relaxation at length: before, after, criteria, warnings, file."""
    settings, before, after = result["settings"], result["initial"], result["final"]
    rows = [
        ("energy", "eV", *_both(before, after, "energy", ".6f"), ""),
        ("energy per atom", "eV/atom", *_both(before, after, "energy_per_atom", ".6f"), ""),
    ]
    if after["enthalpy"] is not None:
        rows.append(("enthalpy", "eV", *_both(before, after, "enthalpy", ".6f"), f"at {settings['pressure']:g} GPa"))
    rows.append(("max force", "eV/Å", *_both(before, after, "max_force", ".4f"), _limit(settings["fmax"])))
    if after["max_force_with_fixed"] > after["max_force"] + 5e-5:
        rows.append(("  fixed atoms incl.", "eV/Å", *_both(before, after, "max_force_with_fixed", ".4f"), ""))
    if after["max_stress"] is not None:
        rows.append(("max stress left", "GPa", *_both(before, after, "max_stress", ".4f"), _limit(settings["smax"])))
    if after["stress"] is not None:
        rows += [
            (f"stress {name}", "GPa", _number(before["stress"][i], ".3f"), _number(after["stress"][i], ".3f"), "")
            for i, name in enumerate(("xx", "yy", "zz", "yz", "xz", "xy"))
        ]
    if after["volume"] is not None:
        rows.append(
            ("volume", "Å³", *_both(before, after, "volume", ".4f"), _percent(before["volume"], after["volume"]))
        )
        rows += [(name, "Å", *_item(before, after, "lengths", i, ".5f"), "") for i, name in enumerate("abc")]
        rows += [(name, "°", *_item(before, after, "angles", i, ".4f"), "") for i, name in enumerate("αβγ")]
    groups = [_group(state["space_group"]) for state in (before, after)]
    lines = [_headline(result), "", *_aligned([("", "", "before", "after", ""), *rows]), ""]
    tolerance = f"   (tolerance {settings['symmetry_tolerance']:g} Å)" if after["volume"] is not None else ""
    lines.append(f"  space group       {groups[0] if groups[0] == groups[1] else ' -> '.join(groups)}{tolerance}")
    lines.append(f"  farthest move     {result['max_displacement']:.4f} Å")
    if result.get("extrapolation"):
        lines.append(f"  extrapolation     {gamma_line(result['extrapolation'])}")
    if result.get("output"):
        lines.append(f"  written to        {result['output']}")
    if result.get("source") == "store":
        lines.append(f"  source            store (result {result['store_result']}; --rerun computes it again)")
    if result["message"]:
        lines.append(f"  {_STATUS[result['status']]:<17} {result['message']}")
    lines += [f"  warning           {text}" for text in result["warnings"]]
    return "\n".join(lines)


def relax_summary(results: Sequence[Document]) -> str:
    """Several relaxations, a row each; reasons and warnings below."""
    columns: list[Column | str] = [
        "structure",
        "status",
        Column("steps"),
        Column("energy", "eV/atom", ".6f"),
        Column("change", "eV/atom", "+.6f"),
        Column("max force", "eV/Å", ".4f"),
        Column("stress left", "GPa", ".4f"),
        Column("volume", "Å³", ".3f"),
        Column("gamma", "", ".2f"),
        "space group",
        "source",
        "written to",
    ]
    names = _short_names([result["name"] for result in results])
    rows = [_summary_row(result, name) for result, name in zip(results, names, strict=True)]
    kept = [i for i in range(len(columns)) if i < 3 or any(row[i] is not None for row in rows)]
    table = format_table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])
    remarks = []
    for result, name in zip(results, names, strict=True):
        if result["status"] == "failed":
            remarks.append(f"  {result['error']['message']}")
            continue
        remarks += [f"  {name}: {text}" for text in [result["message"], *result["warnings"]] if text]
    return "\n".join([table, *(["", *remarks] if remarks else [])])


def _short_names(names: Sequence[str]) -> list[str]:
    """Names without their folders where they stay distinct."""
    short = [PurePath(name).name for name in names]
    return [one if short.count(one) == 1 else name for one, name in zip(short, names, strict=True)]


def _summary_row(result: Document, name: str) -> list[Any]:
    if result["status"] == "failed":
        return [name, "FAILED", *[None] * 10]
    before, after = result["initial"], result["final"]
    return [
        name,
        _STATUS[result["status"]],
        result["steps"],
        after["energy_per_atom"],
        after["energy_per_atom"] - before["energy_per_atom"],
        after["max_force"],
        after["max_stress"],
        after["volume"],
        (result.get("extrapolation") or {}).get("gamma"),
        _group(after["space_group"]),
        result["source"] if result.get("source", "computed") != "computed" else None,
        result.get("output"),
    ]


def _headline(result: Document) -> str:
    settings = result["settings"]
    how = [f"cell {settings['cell']}", settings["optimizer"]]
    if settings["pressure"]:
        how.append(f"{settings['pressure']:g} GPa")
    if settings["fix_symmetry"]:
        how.append("symmetry fixed")
    steps = f"{result['steps']} step{'s' * (result['steps'] != 1)}"
    return (
        f"{result['name']}: {result['formula']}, {_STATUS[result['status']]} in {steps} "
        f"({', '.join(how)}; {result['force_calls']} evaluations, {result['wall_time']:.2f} s)\n"
        f"model {result['model']}"
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Name and unit to the left, the two numbers to the right, a remark."""
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = []
    for name, unit, before, after, remark in rows:
        cells = (name.ljust(max(widths[0], 16)), unit.ljust(widths[1]), before.rjust(widths[2]), after.rjust(widths[3]))
        lines.append(f"  {'  '.join(cells)}  {remark}".rstrip())
    return lines


def _both(before: Document, after: Document, key: str, specification: str) -> tuple[str, str]:
    return _number(before[key], specification), _number(after[key], specification)


def _item(before: Document, after: Document, key: str, index: int, specification: str) -> tuple[str, str]:
    return _number(before[key][index], specification), _number(after[key][index], specification)


def _number(value: float | None, specification: str) -> str:
    if value is None:
        return "-"
    text = format(value, specification)
    return text.lstrip("-") if float(text) == 0.0 else text  # no "-0.000"


def _limit(value: float) -> str:
    return f"(limit {value:g})"


def _percent(before: float, after: float) -> str:
    return f"({100.0 * (after / before - 1.0):+.2f} %)"


def _group(group: Document) -> str:
    return group["symbol"] if group["number"] is None else f"{group['symbol']} ({group['number']})"
