"""Tables of phonons for people, made from the documents that ``--json`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from gracecli.cli.gamma import gamma_line
from gracecli.cli.output import Column, format_pairs, format_table

Document = Mapping[str, Any]

VERDICTS = {
    "stable": "dynamically stable: no imaginary modes",
    "interpolated": "imaginary modes between the wave vectors of the supercell only: take a larger one (--min-length)",
    "unstable": "DYNAMICALLY UNSTABLE: imaginary modes (--follow-imaginary 3 looks for the way down)",
}


def phonon_card(result: Document) -> str:
    """One structure at length."""
    stability = result["stability"]
    gamma = [f for f in result["gamma"] if f > 0.1]
    matrix = result["supercell_matrix"]
    rows: list[tuple[str, Any]] = [
        (
            "supercell",
            f"{_matrix(matrix)}: {result['supercell_atoms']} atoms, {result['evaluated_supercells'] - 1} displaced",
        ),
        ("optical modes at Γ", ", ".join(_levels(gamma)) + " THz" if gamma else "none"),
        ("highest frequency", f"{result['highest']:.3f} THz"),
        ("lowest frequency", f"{_imaginary(stability['lowest'])} at q = {_q(stability['lowest_q'])}"),
    ]
    if result["sound_speed"]:
        low, high = result["sound_speed"]
        rows.append(("speed of sound", f"{low:.2f} to {high:.2f} km/s along the band path"))
    rows.append(
        (
            "zero-point energy",
            f"{result['zero_point_energy'] * 1000 / 96.48533212 / result['primitive_atoms']:.1f} meV/atom",
        )
    )
    thermal = _at(result["thermal"], 300.0)
    if thermal is not None:
        count = result["primitive_atoms"]
        capacity, entropy = thermal["heat_capacity"] / count, thermal["entropy"] / count
        rows.append(("at 300 K", f"C_V {capacity:.2f} J/K/mol, S {entropy:.2f} J/K/mol of atoms"))
    expansion = result.get("quasiharmonic")
    if expansion is not None:
        rows += _expansion_rows(expansion)
    transport = result.get("thermal_conductivity")
    if transport is not None:
        rows += _conductivity_rows(transport)
    checks: list[tuple[str, Any]] = [
        ("residual force", f"{result['residual_force']:.1e} eV/Å in the undisplaced supercell, subtracted"),
        ("acoustic sum rule", f"violated by {result['sum_rule']:.1e} of the largest force constant, then imposed"),
        ("reach", f"force constants at half the supercell: {_reach(result['decay'])}"),
        ("verdict", VERDICTS[stability["verdict"]]),
    ]
    if stability["verdict"] == "unstable":
        checks.append(
            ("worst mode", f"{_imaginary(stability['lowest_commensurate'])} at q = {_q(stability['commensurate_q'])}; "
             f"{100 * stability['imaginary_fraction']:.1f} % of all modes are imaginary")
        )  # fmt: skip
    head = f"{PurePath(result['name']).name}: {result['formula']}, phonons with {result['model']}"
    checks += [("followed", _followed(step)) for step in result["followed"]]
    if result.get("extrapolation"):
        checks.append(("extrapolation", gamma_line(result["extrapolation"])))
    checks.append(("written to", result["folder"]))
    checks += [("warning", text) for text in result["warnings"]]
    lines = format_pairs([*rows, *checks], indent="  ").splitlines()
    return "\n".join([head, "", *lines[: len(rows)], "", *lines[len(rows) :]])


def phonon_summary(results: Sequence[Document]) -> str:
    """Several structures, a row each; reasons below."""
    columns: list[Column | str] = [
        "structure", "verdict", Column("lowest", "THz", ".3f"), Column("highest", "THz", ".3f"),
        Column("C_V(300 K)", "J/K/mol", ".2f"), Column("supercell", "atoms"), "written to",
    ]  # fmt: skip
    rows = []
    for result in results:
        name = PurePath(result["name"]).name
        if "error" in result:
            rows.append([name, "FAILED", *[None] * 5])
            continue
        thermal = _at(result["thermal"], 300.0)
        rows.append(
            [
                name, result["stability"]["verdict"], result["stability"]["lowest"], result["highest"],
                None if thermal is None else thermal["heat_capacity"] / result["primitive_atoms"],
                result["supercell_atoms"], result["folder"],
            ]
        )  # fmt: skip
    remarks = [f"  {result['error']['message']}" for result in results if "error" in result]
    return "\n".join([format_table(columns, rows), *(["", *remarks] if remarks else [])])


def _expansion_rows(expansion: Document) -> list[tuple[str, Any]]:
    index = min(range(len(expansion["temperatures"])), key=lambda i: abs(expansion["temperatures"][i] - 300.0))
    t = expansion["temperatures"][index]
    alpha, modulus = expansion["thermal_expansion"][index] * 1e6, expansion["bulk_modulus"][index]
    capacity, volume = expansion["heat_capacity_p"][index], expansion["volume"][index]
    text = (
        f"volume expansion {alpha:.1f} 10⁻⁶/K, B {modulus:.1f} GPa, C_p {capacity:.2f} J/K/mol, V {volume:.3f} Å³/atom"
    )
    rows: list[tuple[str, Any]] = [(f"quasi-harmonic, {t:.0f} K", text)]
    last = expansion["temperatures"][-1]
    rows.append(("quasi-harmonic range", f"0 to {last:.0f} K, in which V stays within the computed cells"))
    if expansion["left_out"]:
        rows.append(("volumes left out", ", ".join(f"{100 * s:+.0f} %" for s in expansion["left_out"]) + " (unstable)"))
    return rows


def _conductivity_rows(transport: Document) -> list[tuple[str, Any]]:
    index = min(range(len(transport["temperatures"])), key=lambda i: abs(transport["temperatures"][i] - 300.0))
    kappa = transport["kappa"][index][:3]
    text = f"{transport['average'][index]:.2f} W/m/K"
    if max(kappa) - min(kappa) > 0.01 * max(kappa):
        text += f" (xx {kappa[0]:.2f}, yy {kappa[1]:.2f}, zz {kappa[2]:.2f})"
    mesh = " x ".join(map(str, transport["mesh"]))
    how = f"relaxation-time approximation, mesh {mesh}, {transport['supercells']} supercells"
    return [(f"conductivity, {transport['temperatures'][index]:.0f} K", f"{text}; {how}")]


def _followed(step: Document) -> str:
    change = f"{1000 * step['energy_change']:+.2f} meV/atom"
    way = f"{step['space_group_before']} -> {step.get('space_group', 'the same')}"
    return f"{_imaginary(step['frequency'])} at q = {_q(step['q'])}: {change}, {way}"


def _levels(frequencies: Sequence[float]) -> list[str]:
    """Frequencies with their degeneracy: ``14.687 (3)``."""
    groups: list[list[float]] = []
    for value in sorted(frequencies):
        if groups and abs(groups[-1][-1] - value) < 5e-4:
            groups[-1].append(value)
        else:
            groups.append([value])
    shown = [f"{group[0]:.3f}" + (f" ({len(group)})" if len(group) > 1 else "") for group in groups]
    return shown if len(shown) <= 12 else [*shown[:6], "...", *shown[-3:]]


def _imaginary(frequency: float) -> str:
    return f"{abs(frequency):.3f}i THz" if frequency < -0.0005 else f"{abs(frequency):.3f} THz"


def _q(q: Sequence[float]) -> str:
    return "Γ" if not any(q) else f"({', '.join(f'{x:.3g}' for x in q)})"


def _matrix(matrix: Sequence[Sequence[int]]) -> str:
    diagonal = all(matrix[i][j] == 0 for i in range(3) for j in range(3) if i != j)
    if diagonal:
        return " x ".join(str(matrix[i][i]) for i in range(3))
    return "[" + "; ".join(" ".join(str(x) for x in row) for row in matrix) + "]"


def _reach(decay: float) -> str:
    hint = " (a larger --min-length would change the result)" if decay > 0.02 else ""
    return f"{100 * decay:.2g} % of the largest{hint}"


def _at(thermal: Document, temperature: float) -> dict[str, float] | None:
    for index, value in enumerate(thermal["temperature"]):
        if abs(value - temperature) < 1e-6:
            return {key: column[index] for key, column in thermal.items()}
    return None
