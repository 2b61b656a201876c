"""The page of ``grace models info``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from gracecli.cli.output import Column, format_pairs, format_table

WIDTH = 96
KINDS = {
    "model": None,
    "program": "SavedModel export, runs with --engine saved-model",
    "published": "published, not on this machine: download its checkpoint, then `grace models add FOLDER`",
}
GROUPS = {"overall": "overall", "by_set": "by data set", "by_elements": "by elements", "by_config_type": "by kind"}
ERRORS = [
    (f"{name}_{kind}", Column(f"{title} {kind.upper()}", unit, ".2f" if name == "energy" else digits))
    for name, title, unit, digits in [
        ("energy", "energy", "meV/atom", ".2f"),
        ("forces", "forces", "meV/Å", ".1f"),
        ("stress", "stress", "GPa", ".3f"),
    ]
    for kind in ("mae", "rmse")
]


def card(document: Mapping[str, Any]) -> str:
    """Facts, pair cutoffs and errors of one model."""
    parts = [_facts(document)]
    if document.get("pair_cutoffs"):
        parts.append(_pair_cutoffs(document["elements"], document["pair_cutoffs"]))
    metrics = document.get("metrics")
    if isinstance(metrics, Mapping):
        parts += [_metrics(name, groups) for name, groups in _shown(metrics)]
    return "\n\n".join(part for part in parts if part)


def _grade(provenance: Mapping[str, Any] | None) -> str:
    """Whether there are grades, and by how many atoms."""
    if provenance is None:
        return "no grades (`grace models gamma` makes them from the training data)"
    if "atoms" not in provenance:
        return "grades published with the model"
    return f"grades from {provenance['atoms']:,} atoms of {provenance['structures']:,} training structures"


def _facts(d: Mapping[str, Any]) -> str:
    elements = d.get("elements")
    smallest, largest = d["smallest_cutoff"], d["cutoff"]
    size = d.get("size")
    pairs: list[tuple[str, Any]] = [
        ("model", d["name"] + (" (bundled)" if d.get("bundled") else "")),
        ("what it is", d.get("description") or KINDS[d["kind"]]),
        ("where", None if d["kind"] != "published" else KINDS["published"]),
        ("aliases", d.get("aliases")),
        ("elements", f"{len(elements)}: {' '.join(elements)}" if elements else "not stated by the publishers"),
        ("layers", d.get("layers")),
        ("cutoff", f"{largest:g} Å" if smallest == largest else f"{smallest:g} to {largest:g} Å, by pair of elements"),
        ("parameters", f"{d['parameters']:,}" if d.get("parameters") else None),
        ("precision", d.get("precision")),
        ("heads", ", ".join(d["heads"]) + " (choose with --head)" if d.get("heads") else None),
        ("extrapolation", _grade(d.get("extrapolation_grade")) if d["kind"] == "model" else None),
        ("level of theory", d.get("level_of_theory") or ("not stated" if d["kind"] == "model" else None)),
        ("licence", d.get("licence") or "not stated"),
        ("citation", d.get("citation")),
        ("range of validity", d.get("range_of_validity")),
        ("notes", d.get("notes")),
        ("training data", d.get("training_data")),
        *_training(d.get("training")),
        *_provenance(d),
        ("sha256", d.get("sha256")),
        ("file", f"{d['path']} ({size / 1e6:.2f} MB)" if size else d.get("path")),
    ]
    shown = [(name, value) for name, value in pairs if value not in (None, "", [], (), {})]
    indent = max(len(name) for name, _ in shown) + 2
    return format_pairs([(name, _wrapped(value, indent)) for name, value in shown])


def _wrapped(value: Any, indent: int) -> str:
    """Long text below its beginning, in the column of the values."""
    text = ", ".join(str(v) for v in value) if isinstance(value, list | tuple) else str(value)
    lines = [
        line
        for part in text.splitlines()
        for line in textwrap.wrap(part, WIDTH, break_long_words=False, break_on_hyphens=False)
    ]
    return ("\n" + " " * indent).join(lines)


def _training(training: Any) -> list[tuple[str, Any]]:
    """How it was trained, as far as the file says in the form that ``grace fit`` writes."""
    if not isinstance(training, Mapping):
        return []
    counts, data = training.get("structures"), training.get("data")
    facts: list[tuple[str, Any]] = []
    if isinstance(counts, Mapping):
        facts.append(("structures", ", ".join(f"{count} {name}" for name, count in counts.items() if count)))
    if isinstance(data, Mapping):
        files = [str(r["path"]) for reports in data.values() for r in reports if isinstance(r, Mapping) and "path" in r]
        facts.append(("data", ", ".join(dict.fromkeys(files))))
    if "epochs" in training:
        facts.append(("training", f"{training['epochs']} epochs, seed {training.get('seed', 'not stated')}"))
    return facts


def _provenance(d: Mapping[str, Any]) -> list[tuple[str, Any]]:
    provenance = d.get("provenance")
    facts: list[tuple[str, Any]] = []
    if isinstance(provenance, Mapping):
        source, time = provenance.get("converted_from"), provenance.get("converted_at")
        facts.append(("converted from", f"{source} ({time})" if time else source))
    if d.get("saved_at"):
        facts.append(("published file of", d["saved_at"]))
    return facts


def _pair_cutoffs(elements: Sequence[str], matrix: Sequence[Sequence[float]]) -> str:
    if len(elements) > 12:
        return f"Pair cutoffs of {len(elements)} elements: see --json."
    rows = [(element, *row) for element, row in zip(elements, matrix, strict=True)]
    return "Pair cutoffs / Å\n" + format_table(["", *(Column(e, format=".2f") for e in elements)], rows)


def _shown(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The test set where there is one, else what there is."""
    names = ["test"] if isinstance(metrics.get("test"), Mapping) else sorted(metrics)
    return [(name, metrics[name]) for name in names if isinstance(metrics[name], Mapping)]


def _metrics(name: str, groups: Mapping[str, Any]) -> str:
    rows: list[tuple[Any, ...]] = []
    for key, title in GROUPS.items():
        found = groups.get(key)
        if not isinstance(found, Mapping):
            continue
        members = {"": found} if key == "overall" else found
        for member, values in members.items():
            if isinstance(values, Mapping):
                heading = "" if rows and title in (row[0] for row in rows) else title
                rows.append((heading, member, values.get("structures"), *(values.get(error) for error, _ in ERRORS)))
    if not rows:
        return ""
    columns: list[Column | str] = ["", "", "structures", *(column for _, column in ERRORS)]
    return f"Errors on the {'validation' if name == 'valid' else name} set\n" + format_table(columns, rows)
