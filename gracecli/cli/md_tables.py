"""The card of a run, made from the document that ``--json`` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gracecli.cli.gamma import gamma_line

Document = Mapping[str, Any]
_STATUS = {
    "finished": "finished", "exploded": "EXPLODED", "extrapolated": "EXTRAPOLATED", "interrupted": "INTERRUPTED",
    "analysed": "analysed",
}  # fmt: skip
_MARK = {"passed": "ok", "failed": "FAILED", "undecided": "open"}
_ROWS = (
    ("temperature", "temperature", "K"),
    ("pressure", "pressure", "GPa"),
    ("potential_energy", "potential energy", "eV/atom"),
    ("total_energy", "total energy", "eV/atom"),
    ("volume", "volume", "Å³"),
    ("density", "density", "g/cm³"),
    ("a", "a", "Å"),
    ("b", "b", "Å"),
    ("c", "c", "Å"),
    ("alpha", "α", "°"),
    ("beta", "β", "°"),
    ("gamma", "γ", "°"),
)


def md_card(result: Document) -> str:
    """One run at length: averages, transport, checks, files."""
    lines = [*_headline(result), "", *_averages(result)]
    for part in (_dynamics(result), _checks(result["checks"])):
        lines += ["", *part] if part else []
    graded = result.get("extrapolation")
    if graded:
        lines += ["", f"  extrapolation     {gamma_line(graded)} (every {graded['every']} steps)"]
    files = result.get("files") or {}
    if files.get("folder"):
        lines += ["", f"  written to        {files['folder']}"]
    if result["message"]:
        lines.append(f"  {_STATUS[result['status']]:<17} {result['message']}")
    lines += [f"  warning           {text}" for text in result["warnings"]]
    return "\n".join(lines)


def _headline(result: Document) -> list[str]:
    settings = result["settings"]
    first = f"{result['name']}: {result['formula']}, {_STATUS[result['status']]}, {result['time']:g} ps"
    if settings is None:
        return [first]
    how = [settings["ensemble"]]
    if settings["ensemble"] != "nve":
        ends = (settings["temperature"], settings["temperature_end"])
        how.append(f"{ends[0]:g} K" if ends[0] == ends[1] else f"{ends[0]:g} to {ends[1]:g} K")
    if settings["ensemble"].startswith("npt"):
        how.append(f"{settings['pressure']:g} GPa")
    drawn = " (drawn)" if result.get("seed_drawn") else ""
    how.append(f"{result['steps']} steps of {settings['timestep']:g} fs, seed {settings['seed']}{drawn}")
    second = f"model {result['model']}"
    if _finite(result["speed"]):
        second += f"; {result['speed']:.3g} ns/day ({result['wall_time']:.1f} s)"
    return [f"{first} ({', '.join(how)})", second]


def _averages(result: Document) -> list[str]:
    """Means, errors and standard deviations; the cell where it moves."""
    means = result["averages"]
    rows = [("", "", "mean", "error", "std. dev.")]
    moving = (means.get("volume", {}).get("standard_deviation") or 0.0) > 1e-9
    for key, name, unit in _ROWS:
        mean = means.get(key)
        if mean is None or (key in ("a", "b", "c", "alpha", "beta", "gamma") and not moving):
            continue
        deviation = mean["standard_deviation"] if (mean["standard_deviation"] or 0.0) > 1e-9 else 0.0
        digits = _digits(mean["error"] if deviation else 0.0)
        error = f"{mean['error']:.{digits}f}" if deviation and _finite(mean["error"]) else "-"
        rows.append(
            (name, unit, _number(mean["mean"], digits), error, _number(deviation, digits) if deviation else "-")
        )
    lines = _aligned(rows)
    if result["equilibration"]:
        lines.append(f"  averages leave out the first {result['equilibration']:.3g} ps")
    return lines


def _dynamics(result: Document) -> list[str]:
    lines = []
    if result["energy_drift"] is not None and _finite(result["energy_drift"]["value"]):
        drift = result["energy_drift"]
        lines.append(
            f"  energy drift      {drift['value']:+.1e} ± {drift['error']:.1e} eV/atom/ns "
            f"(fluctuation {result['energy_fluctuation']:.1e} eV/atom)"
        )
    for item in result["diffusion"]:
        digits = _digits(item["error"])
        value = f"{item['coefficient']:.{digits}f} ± {item['error']:.{digits}f} · 10⁻⁹ m²/s"
        if not item["diffusive"]:
            how = f"displacement grows as time^{item['exponent']:.2f}"
            value = f"none ({how})" if item["bound"] else f"the run is too short to tell ({how}, bending)"
        lines.append(f"  diffusion {item['element']:<7} {value}")
    for pair in result["pair_distributions"]:
        if _finite(pair["first_peak"]):
            around = f", {pair['coordination']:.2f} neighbours" if _finite(pair["coordination"]) else ""
            limit = f" within {pair['first_minimum']:.2f} Å" if _finite(pair["first_minimum"]) else ""
            lines.append(f"  first peak {pair['pair']:<6} {pair['first_peak']:.2f} Å{around}{limit}")
    return lines


def _checks(checks: Sequence[Document]) -> list[str]:
    if not checks:
        return []
    width = max(len(check["name"]) for check in checks)
    return ["  checks", *(f"  {_MARK[c['verdict']]:<6}  {c['name']:<{width}}  {c['detail']}" for c in checks)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return [
        "  "
        + "  ".join(
            [row[0].ljust(max(widths[0], 16)), row[1].ljust(widths[1])]
            + [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        ).rstrip()
        for row in rows
    ]


def _digits(error: float | None) -> int:
    """Decimals that show two digits of an error."""
    if error is None or not _finite(error) or error <= 0:
        return 3
    return int(min(max(1 - math.floor(math.log10(error)), 0), 7))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or not _finite(value) else f"{value:.{digits}f}"


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
