"""Tables of elastic constants for people, made from the documents that ``--json`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from gracecli.cli.gamma import gamma_line
from gracecli.cli.output import Column, format_pairs, format_table

Document = Mapping[str, Any]


def elastic_card(result: Document) -> str:
    """One crystal at length."""
    settings, m = result["settings"], result["moduli"]
    ions = "clamped ions" if settings["clamped"] else "relaxed ions"
    head = f"{PurePath(result['name']).name}: {result['formula']}, {result['space_group']}, {ions}, {result['model']}"
    rows = [[f"{value:.2f}" if abs(value) >= 0.005 else "." for value in row] for row in result["tensor"]]
    width = max(len(cell) for row in rows for cell in row)
    matrix = ["    " + "  ".join(cell.rjust(width) for cell in row) for row in rows]
    young = result["young_modulus"]
    values: list[tuple[str, Any]] = [
        ("bulk modulus", _average(m, "bulk")),
        ("shear modulus", _average(m, "shear")),
        ("Young's modulus", f"{m['young']:.2f} GPa; {young['smallest']:.2f} to {young['largest']:.2f} by direction"),
        ("Poisson's ratio", f"{m['poisson']:.4f}"),
        ("universal anisotropy", f"{m['anisotropy']:.3f}"),
        (
            "Pugh's ratio K/G",
            f"{m['pugh']:.3f} ({'ductile' if m['pugh'] > 1.75 else 'brittle'} by the usual limit, 1.75)",
        ),
        ("speed of sound", f"{m['longitudinal']:.3f} km/s longitudinal, {m['transverse']:.3f} km/s transverse"),
        ("Debye temperature", f"{m['debye']:.1f} K"),
        ("density", f"{m['density']:.4f} g/cm³"),
    ]
    checks: list[tuple[str, Any]] = [
        ("strained cells", f"{result['strained_cells']}, for {result['independent_constants']} independent constants"),
        ("reference pressure", f"{result['pressure']:+.4f} GPa"),
    ]
    if result["linearity"] is not None:
        checks.append(("linearity", f"R² >= {result['linearity']:.6f} of stress against strain"))
    checks.append(("symmetry misfit", f"{result['misfit']:.1e} of the largest derivative"))
    if result["difference"] is not None:
        checks.append(("stress against energy", f"constants differ by at most {result['difference']:.3f} GPa"))
    checks.append(("Born stability", _stability(result)))
    if result.get("extrapolation"):
        checks.append(("extrapolation", gamma_line(result["extrapolation"])))
    checks.append(("written to", result["folder"]))
    checks += [("warning", text) for text in result["warnings"]]
    lines = format_pairs([*values, *checks], indent="  ").splitlines()
    body = [*lines[: len(values)], "", *lines[len(values) :]]
    return "\n".join([head, "", "  elastic constants (GPa, Voigt, IEEE setting)", *matrix, "", *body])


def elastic_summary(results: Sequence[Document]) -> str:
    """Several crystals, a row each; reasons below."""
    columns: list[Column | str] = [
        "structure", "space group", *(Column(name, "GPa", ".1f") for name in ("C11", "C12", "C44", "K", "G", "E")),
        Column("Poisson", "", ".3f"),
        "stable", "written to",
    ]  # fmt: skip
    rows = []
    for result in results:
        name = PurePath(result["name"]).name
        if "error" in result:
            rows.append([name, "FAILED", *[None] * 9])
            continue
        c, m = result["tensor"], result["moduli"]
        rows.append(
            [
                name, result["space_group"], c[0][0], c[0][1], c[3][3], m["bulk"], m["shear"], m["young"], m["poisson"],
                result["stable"], result["folder"],
            ]
        )  # fmt: skip
    remarks = [f"  {result['error']['message']}" for result in results if "error" in result]
    return "\n".join([format_table(columns, rows), *(["", *remarks] if remarks else [])])


def _average(m: Document, name: str) -> str:
    hill, voigt, reuss = m[name], m[f"{name}_voigt"], m[f"{name}_reuss"]
    return f"{hill:.2f} GPa (Voigt {voigt:.2f}, Reuss {reuss:.2f})"


def _stability(result: Document) -> str:
    value = f"smallest eigenvalue {result['smallest_eigenvalue']:.2f} GPa"
    if result["stable"]:
        return f"stable, {value}"
    soft = ", ".join(f"{x:+.2f}" for x in result["soft_strain"])
    return f"UNSTABLE, {value} along the strain ({soft})"
