r"""Structures that occur more than once, within a set and across training, validation and test.

Structures are compared by a fingerprint that rotation, translation, order of atoms, choice of cell and multiples of
the cell do not change: for every atom, with f a smooth cutoff at 5 Å, r^ the unit vector to a neighbour of element Z,

    a_k = sum f e^-((r - c_k) / w)^2 (1, Z / 50),   |sum f e^.. r^|,   |sum f e^.. (r^ r^ - 1/3)|

and over the atoms of every element the mean and the standard deviation. Fingerprints within 2e-5 (relative) belong to
one structure up to symmetry; if numbers, cell and positions agree as they are, to identical ones. Mirror images count
as equal, as they have the same energy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from gracecli.engine.base import Array, Graph
from gracecli.fit.check.finding import Finding, several, short_name
from gracecli.fit.check.records import RADIUS, Record

CENTRES = np.linspace(1.0, RADIUS - 0.5, 8)
WIDTH = 0.6
TOLERANCE = 2e-5
CONTRADICTION = 2e-3
"""eV/atom by which energies of equal structures may differ."""


def fingerprint(graph: Graph) -> Array:
    """Invariant of a structure (module docstring); zeros without neighbours."""
    atoms = len(graph)
    distance = np.linalg.norm(graph.bond_vector, axis=1)
    unit = graph.bond_vector / np.maximum(distance, 1e-12)[:, None]
    smooth = 0.5 * (1.0 + np.cos(np.pi * np.minimum(distance / RADIUS, 1.0)))
    basis = smooth[:, None] * np.exp(-(((distance[:, None] - CENTRES) / WIDTH) ** 2))
    element = graph.numbers[graph.neighbour] / 50.0

    def summed(values: Array) -> Array:
        flat = values.reshape(len(values), -1)
        ends = np.searchsorted(graph.centre, np.arange(atoms + 1))
        total = np.vstack([np.zeros(flat.shape[1]), np.cumsum(flat, axis=0)])
        return np.asarray(total[ends[1:]] - total[ends[:-1]])

    quadrupole = unit[:, :, None] * unit[:, None, :] - np.eye(3) / 3.0
    vector = summed(basis[:, :, None] * unit[:, None, :]).reshape(atoms, len(CENTRES), 3)
    tensor = summed(basis[:, :, None] * quadrupole.reshape(-1, 1, 9)).reshape(atoms, len(CENTRES), 9)
    parts = [
        summed(basis),
        summed(basis * element[:, None]),
        np.sum(vector**2, axis=2),  # squares: smooth at zero, where symmetric sites lie
        np.sum(tensor**2, axis=2),
    ]
    features = np.concatenate(parts, axis=1)
    of_elements = [features[graph.numbers == z] for z in np.unique(graph.numbers)]
    return np.concatenate([part for rows in of_elements for part in (rows.mean(axis=0), rows.var(axis=0))])


@dataclass(frozen=True)
class Copies:
    """Two equal structures (numbers of records), and whether they are identical as they stand."""

    first: int
    second: int
    identical: bool
    energy: float  # difference, eV/atom


def find_copies(records: Sequence[Record]) -> list[Copies]:
    """All pairs of equal structures."""
    kinds: dict[tuple[str, bytes], list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        if len(record.graph.centre):
            kinds[record.formula, record.atoms.pbc.tobytes()].append(number)
    found = []
    for members in kinds.values():
        if len(members) < 2:
            continue
        prints = np.array([fingerprint(records[i].graph) for i in members])
        scale = TOLERANCE * float(np.median(np.linalg.norm(prints, axis=1)))
        for a, b in sorted(cKDTree(prints).query_pairs(scale)):
            one, other = records[members[a]], records[members[b]]
            energy = abs(one.energy_per_atom - other.energy_per_atom)
            found.append(Copies(members[a], members[b], _identical(one, other), energy))
    return found


def _identical(one: Record, other: Record) -> bool:
    a, b = one.atoms, other.atoms
    if len(a) != len(b) or (a.numbers != b.numbers).any() or np.abs(a.cell.array - b.cell.array).max() > 1e-4:
        return False
    change = a.positions - b.positions
    if a.pbc.any():
        cell = a.cell.complete().array
        fraction = np.linalg.solve(cell.T, change.T).T
        change = (fraction - np.round(fraction) * a.pbc) @ cell
    return bool(np.abs(change).max(initial=0.0) < 1e-4)


def check_duplicates(records: Sequence[Record]) -> list[Finding]:
    """Copies within each split, leaks between them, and copies with contradicting energies."""
    copies = find_copies(records)
    findings = []
    contradicting = [c for c in copies if c.energy > CONTRADICTION]
    if contradicting:
        largest = max(contradicting, key=lambda c: c.energy)
        text = (
            f"{len(contradicting)} pairs of equal structures differ in energy, by up to {1e3 * largest.energy:.3g} "
            f"meV/atom ({_names(records, largest)})"
        )
        remedy = "keep the labels of one calculation"
        details = {"pairs": _list(records, contradicting)}
        findings.append(Finding("contradictions", "all", "error", text, remedy, details))
    for other in ("valid", "test"):
        for identical in (True, False):
            leaks = [c for c in copies if c.identical is identical and _splits(records, c) == {"train", other}]
            if leaks:
                findings.append(_leak(records, leaks, other, identical))
    for split in ("train", "valid", "test"):
        inside = [c for c in copies if _splits(records, c) == {split}]
        if inside:
            findings.append(_repeated(records, inside, split))
    if not findings:
        findings.append(Finding("duplicates", "all", "ok", f"none among {len(records)} structures"))
    return findings


def _leak(records: Sequence[Record], leaks: Sequence[Copies], other: str, identical: bool) -> Finding:
    held = {i for c in leaks for i in (c.first, c.second) if records[i].split == other}
    total = sum(record.split == other for record in records)
    how = "are identical to" if identical else "equal, up to symmetry,"
    text = f"{len(held)} of {total} {other} structures {how} training structures ({_names(records, leaks[0])})"
    remedy = f"remove them from training, or the {other} error flatters the model"
    details = {"structures": len(held), "of": total, "pairs": _list(records, leaks)}
    return Finding("leak", f"train, {other}", "error" if identical else "warning", text, remedy, details)


def _repeated(records: Sequence[Record], copies: Sequence[Copies], split: str) -> Finding:
    identical = [c for c in copies if c.identical]
    extra = {max(c.first, c.second) for c in copies}
    same = {max(c.first, c.second) for c in identical}
    if same:
        text = f"{len(same)} structures are identical to others of the set ({_names(records, identical[0])})"
        remedy = "`grace store dedup` removes them"
        return Finding("duplicates", split, "warning", text, remedy, {"identical": len(same)})
    text = f"{len(extra)} structures equal others up to symmetry ({_names(records, copies[0])})"
    return Finding("duplicates", split, "ok", text, "", {"equivalent": len(extra)})


def _splits(records: Sequence[Record], copies: Copies) -> set[str]:
    return {records[copies.first].split, records[copies.second].split}


def _names(records: Sequence[Record], copies: Copies) -> str:
    return several(short_name(records[i].frame.source) for i in (copies.first, copies.second))


def _list(records: Sequence[Record], copies: Sequence[Copies]) -> list[list[str]]:
    return [[records[c.first].frame.source, records[c.second].frame.source] for c in copies]
