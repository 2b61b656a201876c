"""``report.html``: a fit on one page that needs no other file: curves, parity, errors by set, element and kind."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gracecli.files import write_text_atomically
from gracecli.fit.measures import MEASURES
from gracecli.fit.progress import time_text
from gracecli.fit.table import plain
from gracecli.fit.training_grade import summary

if TYPE_CHECKING:
    from gracecli.fit.config import FitConfig
    from gracecli.fit.result import FitResult

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;max-width:1080px;margin:2em auto;padding:0 1em}
h1{font-size:1.6em;margin-bottom:.2em}h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.6em 0}th,td{padding:.15em .8em;text-align:right;white-space:nowrap}
th{font-weight:600;border-bottom:1px solid #999;vertical-align:bottom}td:first-child,th:first-child{text-align:left}
tr:nth-child(even) td{background:#f6f6f6}small{color:#666;font-weight:400}img{max-width:100%}
.bar{position:relative}.bar::before{content:"";position:absolute;left:.5em;bottom:1px;height:3px;
width:calc(var(--w)*(100% - 1em));background:#4878a8}.all td{border-top:1px solid #999;font-weight:600}
td.text,th.text{text-align:left}pre{background:#f6f6f6;padding:1em;overflow:auto;font-size:12px}
"""
GROUPS = (("by_set", "set"), ("by_elements", "elements"), ("by_config_type", "kind of structure"))
NAMES = {"valid": "Validation", "test": "Test"}


def write_page(path: Path, result: FitResult, config: FitConfig, title: str, sources: Mapping[str, Any]) -> None:
    """Write the page; pictures are taken from the folder of the fit where they are.

    Parameters
    ----------
    path : Path
    result : FitResult
    config : FitConfig
    title : str
        Name of the model.
    sources : mapping
        Reports of the sets that were read, by split.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", _summary(result, config)]
    for name, label in (("curves.png", "Training"), ("parity.png", "Predictions against labels")):
        parts += _picture(result.directory / name, label)
    for split, report in result.metrics.items():
        parts.append(f"<h2>{NAMES.get(split, split)} errors</h2>")
        shown = [(label, report[key]) for key, label in GROUPS if len(report[key]) > 1]
        # the last line of the first table is the whole
        parts += [_errors(label, groups, None if number else report["overall"]) for number, (label, groups) in
                  enumerate(shown or [("", {})])]  # fmt: skip
        if len(report["forces_by_element"]) > 1:
            parts.append(_elements(report["forces_by_element"]))
    parts.append("<h2>Data</h2>")
    parts.append(_sources(sources))
    settings = json.dumps(plain(config.to_dict()), indent=2, ensure_ascii=False)
    parts.append(
        f"<h2>Settings</h2><details><summary>all of them</summary><pre>{html.escape(settings)}</pre></details>"
    )
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    write_text_atomically(
        path, f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'
    )


def _summary(result: FitResult, config: FitConfig) -> str:
    reference = ", ".join(f"{symbol} {energy:.4f}" for symbol, energy in result.reference.items())
    rows = [
        ("model", result.model.name),
        ("weights", f"{result.parameters:,}"),
        ("epochs", f"{result.epochs} of {config.training.epochs}, best {result.best_epoch or '-'}"),
        ("steps", f"{result.steps:,}"),
        ("training time", time_text(result.seconds)),
        ("optimizer", f"{config.training.optimizer}, {config.training.schedule} schedule, {config.training.precision}"),
        ("reference energies", f"{reference} eV/atom"),
    ]
    if config.model.start is None and config.model.preset.startswith("linear"):
        rows = [row for row in rows if row[0] not in ("epochs", "steps", "optimizer")]
        rows.append(("weights from", "one linear system, ridge"))
    if result.gamma:
        rows.append(("extrapolation grade", summary(result.gamma)))
    if not result.completed:
        rows.append(("state", "not completed: the time limit was reached"))
    cells = "".join(f"<tr><td>{name}</td><td class=text>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def _picture(path: Path, label: str) -> list[str]:
    if not path.is_file():
        return []
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return [f"<h2>{label}</h2>", f'<img alt="{label}" src="data:image/png;base64,{data}">']


def _table(heads: Sequence[tuple[str, str]], rows: Sequence[str]) -> str:
    cells = []
    for name, unit in heads:
        below = f"<br><small>{unit}</small>" if unit else ""
        cells.append(f"<th{' class=text' if name == 'set' else ''}>{html.escape(name)}{below}</th>")
    head = "".join(cells)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _errors(label: str, groups: Mapping[str, Mapping[str, Any]], whole: Mapping[str, Any] | None) -> str:
    """Errors by group, a bar under every number in proportion to the largest of its column, and of the whole."""
    everything = [*groups.values(), *([whole] if whole else [])]
    shown = [m for m in MEASURES if any(_finite(errors[m[0]]) for errors in everything)]
    largest = {m[0]: max((e[m[0]] for e in groups.values() if _finite(e[m[0]])), default=0.0) for m in shown}
    rows = []
    for number, (name, errors) in enumerate([*groups.items(), *([("all", whole)] if whole else [])]):
        own = number < len(groups)
        cells = [f"<td>{html.escape(name)}</td><td>{errors['structures']:,}</td>"]
        for key, _, _, form in shown:
            value = errors[key]
            if not _finite(value):
                cells.append("<td>-</td>")
                continue
            width = value / largest[key] if own and largest[key] and len(groups) > 1 else 0.0
            cells.append(f'<td class="bar" style="--w:{width:.2f}">{format(value, form)}</td>')
        rows.append(f"<tr{'' if own or not groups else ' class=all'}>{''.join(cells)}</tr>")
    return _table([(label, ""), ("structures", ""), *((title, unit) for _, title, unit, _ in shown)], rows)


def _elements(groups: Mapping[str, Mapping[str, Any]]) -> str:
    largest = max(entry["rmse"] for entry in groups.values()) or 1.0
    rows = [
        f"<tr><td>{symbol}</td><td>{entry['atoms']:,}</td><td>{entry['mae']:.1f}</td>"
        f'<td class="bar" style="--w:{entry["rmse"] / largest:.2f}">{entry["rmse"]:.1f}</td></tr>'
        for symbol, entry in groups.items()
    ]
    return _table([("forces on", ""), ("atoms", ""), ("force MAE", "meV/Å"), ("RMSE", "meV/Å")], rows)


def _sources(sources: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td>{split}</td><td class=text>{html.escape(report.name)}</td><td>{report.frames:,}</td>"
        f"<td>{report.atoms:,}</td><td>{report.stresses:,}</td><td>{report.sha256[:12]}</td></tr>"
        for split, reports in sources.items()
        for report in reports
    ]
    heads = [("split", ""), ("set", ""), ("structures", ""), ("atoms", ""), ("stresses", ""), ("sha256", "")]
    return _table(heads, rows)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and value == value
