"""Tables of ``grace predict``, made from the document that ``--json`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from gracecli.cli.gamma import gamma_summary
from gracecli.cli.output import Column, format_table

#: More structures than this are not listed for people.
ROWS = 20
GROUPS = 30


def predict_text(document: Mapping[str, Any]) -> str:
    """Structures (where they are few), errors, notes."""
    parts = [f"model {document['model']}"]
    results = document["results"]
    if results and len(results) + document["results_not_listed"] <= ROWS:
        parts.append(_structures(results))
    else:
        parts.append(
            f"{document['structures']} structures, {document['structures'] - len(document['failed'])} evaluated"
        )
    if document["errors"] is not None:
        parts += _errors(document["errors"])
    if document.get("calibration"):
        parts.append(_calibration(document["calibration"]))
    lines = [f"failed            {entry['name']}: {entry['message']}" for entry in document["failed"][:ROWS]]
    if len(document["failed"]) > ROWS:
        lines.append(f"                  and {len(document['failed']) - ROWS} more")
    if document.get("extrapolation"):
        lines.append(f"extrapolation     {gamma_summary(document['extrapolation'])}")
    if document["from_store"]:
        lines.append(f"from the store    {document['from_store']} of {document['structures']}")
    lines += [
        f"{name:<16}  {document[key]}"
        for name, key in (("written to", "output"), ("plot", "plot"), ("calibration", "calibration_plot"))
        if document[key]
    ]
    return "\n\n".join([*parts, *(["\n".join(lines)] if lines else [])])


def _structures(results: list[dict[str, Any]]) -> str:
    columns: list[Column | str] = [
        "structure",
        "formula",
        Column("energy", "eV", ".6f"),
        Column("per atom", "eV/atom", ".6f"),
        Column("error", "meV/atom", "+.2f"),
        Column("max force", "eV/Å", ".4f"),
        Column("pressure", "GPa", ".3f"),
        Column("gamma", "", ".2f"),
        "atom",
        "extrapolation",
        Column("energy spread", "meV/atom", ".2f"),
        Column("force spread", "eV/Å", ".4f"),
        "source",
    ]
    rows = []
    for r in results:
        pressure = None if r["stress"] is None else -sum(r["stress"][:3]) / 3.0
        source = r["source"] if r["source"] != "computed" else None
        graded, spread = r.get("extrapolation") or {}, r.get("spread") or {}
        outside = graded.get("verdict") if graded.get("verdict") != "inside" else None
        rows.append(
            [
                PurePath(r["name"]).name,
                r["formula"],
                r["energy"],
                r["energy_per_atom"],
                r["energy_error"],
                r["max_force"],
                pressure,
                graded.get("gamma"),
                f"{graded['atom']} {graded['element']}" if graded else None,
                "FLAGGED" if graded.get("flagged") else outside,
                spread.get("energy_per_atom"),
                spread.get("forces_max"),
                source,
            ]
        )
    kept = [i for i in range(len(columns)) if i < 4 or any(row[i] is not None for row in rows)]
    return format_table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _calibration(report: Mapping[str, Any]) -> str:
    """Force errors by grade."""
    columns: list[Column | str] = [
        "gamma", Column("atoms"), Column("median error", "eV/Å", ".4f"), Column("mean", "eV/Å", ".4f"),
        Column("95 % below", "eV/Å", ".4f"),
    ]  # fmt: skip
    rows = [
        [
            f"{r['from']:g} to {r['to']:g}" if r["to"] < float("inf") else f"beyond {r['from']:g}",
            r["atoms"], r["median"], r["mean"], r["percentile_95"],
        ]
        for r in report["force_error"]
    ]  # fmt: skip
    text = (
        f"rank correlation of gamma and force error: {report['rank_correlation_atoms']:.2f} by atoms, "
        f"{report['rank_correlation_structures']:.2f} by structures (largest of each)"
    )
    return f"{format_table(columns, rows)}\n\n{text}"


def _errors(report: Mapping[str, Any]) -> list[str]:
    """Tables of errors and the note about an offset."""
    columns: list[Column | str] = ["group", Column("structures"), Column("atoms")]
    for name, unit in (("energy", "meV/atom"), ("forces", "meV/Å"), ("stress", "GPa")):
        digits = ".4f" if unit == "GPa" else ".2f"
        columns += [Column(f"{name} MAE", unit, digits), Column(f"{name} RMSE", unit, digits)]
    groups = {"all": report["overall"]}
    for key in ("by_set", "by_config_type", "by_elements"):
        if len(report[key]) > 1:
            groups |= dict(list(report[key].items())[:GROUPS])
    rows = [[name, *values.values()] for name, values in groups.items()]
    kept = [i for i in range(len(columns)) if i < 3 or any(row[i] is not None and row[i] == row[i] for row in rows)]
    parts = [format_table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])]
    elements = report["forces_by_element"]
    if len(elements) > 1:
        shown = [Column("atoms"), Column("forces MAE", "meV/Å", ".2f"), Column("forces RMSE", "meV/Å", ".2f")]
        parts.append(format_table(["element", *shown], [[name, *e.values()] for name, e in elements.items()]))
    difference = report["energy_difference"]
    if difference["constant"]:
        parts.append(
            f"note: energies differ by a constant, {difference['median']:+.1f} meV/atom (median); around it the MAE is "
            f"{difference['mae_around_median']:.2f} meV/atom.\n"
            "      Labels and model have different energy zeros (code, pseudopotentials or functional); nothing was "
            "removed above."
        )
    return parts
