"""``grace store why``: the lineage of a structure or a result as a tree."""

from __future__ import annotations

import shlex
from typing import Any

from gracecli.store.lineage import Node, Step
from gracecli.store.runs import Run, iso

SHORT = 12
_MOST = 8


def tree(top: Node | Step) -> str:
    """Lineage as indented text, newest first, the file it started from last."""
    lines: list[str] = []
    step = top if isinstance(top, Step) else None
    node = top if isinstance(top, Node) else None
    depth = 0
    while step is not None or node is not None:
        head, details = _step(step) if step is not None else _node(node)
        indent = "   " * depth
        lines.append(f"{'   ' * (depth - 1)}{'└─ ' if depth else ''}{head}")
        rail = "│  " if (step is not None or (node is not None and node.made_by)) else "   "
        width = max((len(name) for name, _ in details), default=0)
        lines += [f"{indent}{rail}{name:<{width}}  {text}" for name, text in details]
        step, node = (None, step.parent) if step is not None else (node.made_by if node else None, None)
        depth += 1
    return "\n".join(line.rstrip() for line in lines)


def _node(node: Node | None) -> tuple[str, list[tuple[str, str]]]:
    assert node is not None
    energy = "" if node.energy is None else f", {node.energy:.6f} eV"
    details = []
    if node.made_by is None:
        details = [("from", node.source or "not said")]
        details += [("labels", node.method)] if node.method else []
        details += _run(node.run)
    return f"structure {node.structure}: {node.formula}, {node.natoms} atoms{energy}", details


def _step(step: Step) -> tuple[str, list[tuple[str, str]]]:
    result = step.result
    calculation = result.calculation
    outcome = "" if result.exit_code == 0 else f" - exit code {result.exit_code}: {result.message}"
    values = [
        f"{name} {_short(value)}{' ' + result.units[name] if name in result.units else ''}"
        for name, value in result.values.items()
        if isinstance(value, bool | int | float | str)
    ]
    engine = ", ".join(part for part in (calculation.engine, calculation.precision) if part)
    details = [
        ("model", f"{calculation.model} (sha256 {calculation.model_sha256[:SHORT]}; {engine})"),
        ("settings", ", ".join(f"{name} {_short(value)}" for name, value in calculation.settings.items()) or "-"),
    ]
    if values:
        details.append(("values", ", ".join(values[:_MOST]) + (", ..." if len(values) > _MOST else "")))
    return f"result r{result.id}: {calculation.kind}{outcome}", details + _run(step.run, calculation.versions)


def _run(run: Run | None, versions: Any = None) -> list[tuple[str, str]]:
    if run is None:
        return []
    ended = "still running, or killed" if run.end is None else f"{run.end - run.start:.1f} s, exit code {run.exit_code}"
    packages = {**run.versions, **(versions or {})}
    found = [
        ("command", shlex.join(run.argv)),
        ("when", f"{iso(run.start)} on {run.host} ({ended})"),
        ("versions", ", ".join(f"{name} {version}" for name, version in packages.items())),
    ]
    found += [("seed", str(run.seed))] if run.seed is not None else []
    found += [("file", f"{name} (sha256 {sha256[:SHORT]})") for name, sha256 in list(run.files.items())[:_MOST]]
    return found


def _short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "-" if value is None else "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
