"""Elements: how often each occurs, whether the data determine reference energies, isolated atoms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from gracecli.fit.check.finding import Finding, several
from gracecli.fit.check.records import Record
from gracecli.fit.data import elements_of
from gracecli.fit.reference import fit_reference

RARE = 10
ILL = 1e3
"""Condition number of the composition matrix beyond which reference energies are poorly determined."""


def check_elements(records: Sequence[Record]) -> list[Finding]:
    """Counts of the training set, reference energies, isolated atoms."""
    train = [record.frame for record in records if record.split == "train"]
    structures: Counter[str] = Counter(s for frame in train for s in set(frame.atoms.get_chemical_symbols()))
    atoms: Counter[str] = Counter(s for frame in train for s in frame.atoms.get_chemical_symbols())
    details = {symbol: {"structures": structures[symbol], "atoms": atoms[symbol]} for symbol in sorted(structures)}
    rare = sorted(symbol for symbol, count in structures.items() if count < RARE)
    text = f"{len(structures)}: " + several((f"{s} in {structures[s]}" for s in sorted(structures)), 6)
    findings = []
    if rare:
        listed = several((f"{s} {structures[s]}" for s in rare), 8)
        remedy = "their errors are not measured by so few; add data"
        text = f"in fewer than {RARE} structures: {listed}"
        findings.append(Finding("elements", "train", "warning", text, remedy, details))
    else:
        findings.append(Finding("elements", "train", "ok", text, "", details))
    unseen = {s for r in records if r.split != "train" for s in r.atoms.get_chemical_symbols()} - set(structures)
    if unseen:
        text = f"validation or test structures have {several(sorted(unseen))}, which training lacks"
        findings.append(Finding("elements", "valid, test", "error", text, "add training data, or leave them out"))
    labelled = [frame for frame in train if np.isfinite(frame.energy)]
    if labelled:
        findings.append(_reference(labelled))
    findings += _isolated(records)
    return findings


def _reference(frames: Sequence) -> Finding:
    elements = elements_of(frames)
    fit = fit_reference(frames, elements)
    details = {"energies": fit.energies, "rank": fit.rank, "condition": fit.condition, "residual": fit.residual}
    text = f"condition {fit.condition:.3g}, {fit.residual:.3f} eV/atom left"
    if fit.rank < len(elements):
        text = f"compositions determine {fit.rank} of {len(elements)}; {fit.residual:.3f} eV/atom left"
        remedy = "give [model] reference, or add isolated atoms, where absolute energies matter"
        return Finding("reference energies", "train", "warning", text, remedy, details)
    if fit.condition > ILL:
        return Finding("reference energies", "train", "warning", text, "give [model] reference", details)
    return Finding("reference energies", "train", "ok", text, "", details)


def _isolated(records: Sequence[Record]) -> list[Finding]:
    """Structures without any bond; with one atom their energies are references."""
    lonely = [record for record in records if not len(record.graph.centre)]
    if not lonely:
        return []
    atoms = {r.formula: r.frame.energy for r in lonely if len(r.atoms) == 1 and np.isfinite(r.frame.energy)}
    text = f"{len(lonely)} structures without neighbours"
    if atoms:
        text += "; isolated atoms (eV): " + several((f"{s} {e:.3f}" for s, e in sorted(atoms.items())), 6)
    train = [record for record in lonely if record.split == "train"]
    if train and len(train) < len(records):
        remedy = "leave them out of training and give their energies as [model] reference"
        return [Finding("isolated atoms", "all", "warning", text, remedy, {"energies": atoms})]
    return [Finding("isolated atoms", "all", "ok", text, "", {"energies": atoms})]
