"""Distances between atoms: overlapping atoms, unusually short bonds, lengths in Bohr."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from gracecli.fit.check.finding import Finding, short_name
from gracecli.fit.check.records import Record

OVERLAP, SHORT = 0.4, 0.6
"""Fractions of the sum of covalent radii: below the first nothing is physical, below the second little."""
BOHR = (1.55, 2.3)
"""Median ratio of the nearest distances to the sum of covalent radii when positions are in Bohr (about 1.89)."""


def check_distances(records: Sequence[Record]) -> list[Finding]:
    """Shortest distances by pair of elements, against covalent radii."""
    shortest: dict[tuple[str, str], tuple[float, float, str]] = {}
    below: dict[float, list[str]] = defaultdict(list)
    nearest = []
    for record in records:
        ratios, distances, pairs = _ratios(record)
        if not len(ratios):
            continue
        nearest += _nearest(record, ratios)
        for pair in np.unique(pairs):
            mine = np.flatnonzero(pairs == pair)
            best = mine[np.argmin(ratios[mine])]
            key = (chemical_symbols[pair // 200], chemical_symbols[pair % 200])
            if key not in shortest or ratios[best] < shortest[key][0]:
                shortest[key] = (float(ratios[best]), float(distances[best]), record.frame.source)
        for limit in (OVERLAP, SHORT):
            if ratios.min() < limit:
                below[limit].append(record.frame.source)
    if not shortest:
        return []
    return [_units(nearest), _shortest(shortest, below)] if nearest else [_shortest(shortest, below)]


def _ratios(record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bond length by sum of covalent radii, length (Å), and a code of the pair of elements, every pair once."""
    graph = record.graph
    left, right = graph.numbers[graph.centre], graph.numbers[graph.neighbour]
    once = left <= right
    distances = np.linalg.norm(graph.bond_vector[once], axis=1)
    radii = covalent_radii[left[once]] + covalent_radii[right[once]]
    return distances / radii, distances, left[once].astype(int) * 200 + right[once]


def _nearest(record: Record, ratios: np.ndarray) -> list[float]:
    return [float(ratios.min())] if len(record.atoms) > 1 or record.atoms.pbc.any() else []


def _units(nearest: Sequence[float]) -> Finding:
    middle = float(np.median(nearest))
    text = f"nearest neighbours at {middle:.2f} of the sum of covalent radii (median)"
    details = {"ratio": middle}
    if BOHR[0] < middle < BOHR[1]:
        remedy = "multiply positions and cells by 0.529177 if they are in Bohr"
        return Finding("length units", "all", "error", f"{text}, as if in Bohr", remedy, details)
    if not 0.6 < middle < 1.5:
        return Finding("length units", "all", "warning", text, "are lengths in Å?", details)
    return Finding("length units", "all", "ok", text, "", details)


def _shortest(shortest: dict[tuple[str, str], tuple[float, float, str]], below: dict[float, list[str]]) -> Finding:
    (a, b), (ratio, distance, source) = min(shortest.items(), key=lambda item: item[1][0])
    text = f"shortest: {a}-{b} {distance:.2f} Å, {ratio:.2f} of the covalent radii ({short_name(source)})"
    details = {
        "pairs": {f"{x}-{y}": {"distance": d, "ratio": r, "structure": s} for (x, y), (r, d, s) in shortest.items()}
    }
    if below[OVERLAP]:
        text += f"; {len(below[OVERLAP])} structures below {OVERLAP}"
        return Finding("distances", "all", "error", text, "remove structures with overlapping atoms", details)
    if below[SHORT]:
        text += f"; {len(below[SHORT])} structures below {SHORT}"
        return Finding("distances", "all", "warning", text, "meant? weigh them down, or drop them", details)
    return Finding("distances", "all", "ok", text, "", details)
