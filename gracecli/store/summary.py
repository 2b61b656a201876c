"""Tables about a store, from columns alone: no atoms are read, neither ASE nor TensorFlow imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from math import gcd
from typing import Any

import numpy as np

from gracecli.store.query import KBAR, SYMBOLS, counts
from gracecli.store.schema import PRESENT_NAMES
from gracecli.store.store import Store


def summary(store: Store) -> dict[str, Any]:
    """What a store holds, in a few numbers."""
    table = counts(store)
    present = store.column("structure/present")
    per_atom = store.column("structure/energy") / np.maximum(store.column("structure/natoms"), 1)
    known = per_atom[~np.isnan(per_atom)]
    attributes = store.attributes
    kinds, how_many = np.unique(table, axis=0, return_counts=True) if len(store) else (table, np.zeros(0, int))
    formulas: Counter[str] = Counter()
    for row, number in zip(kinds, how_many, strict=True):
        formulas[formula(row, reduced=True)] += int(number)
    commit = store.commit
    when = (
        datetime.fromtimestamp(commit.time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if commit.number else None
    )
    return {
        "store": store.path,
        "size": store.path.stat().st_size,
        "state": str(attributes["state"]),
        "schema": int(attributes["schema_version"]),
        "structures": len(store),
        "commits": commit.number,
        "atoms": commit.counts["atom"],
        "elements": [SYMBOLS[z] for z in np.flatnonzero(table.any(axis=0))],
        "labels": {name: int(np.count_nonzero(present & np.uint64(bit))) for name, bit in PRESENT_NAMES.items()},
        "energy_per_atom": [float(known.min()), float(known.max())] if len(known) else [None, None],
        "sets": {name: int(store.in_set(name).sum()) for name in store.set_names()},
        "formulas": dict(formulas.most_common()),
        "last_commit": when,
    }


def formula(amounts: Any, reduced: bool = False) -> str:
    """Formula from the number of atoms of every element: carbon and hydrogen first, then by symbol (Hill)."""
    found = {SYMBOLS[z]: int(amounts[z]) for z in np.flatnonzero(amounts)}
    divisor = gcd(*found.values()) if reduced and found else 1
    first = [s for s in ("C", "H") if s in found] if "C" in found else []
    order = first + sorted(s for s in found if s not in first)
    return "".join(f"{s}{found[s] // divisor if found[s] != divisor else ''}" for s in order)


def formula_of(store: Store, number: int) -> str:
    """Formula of one structure."""
    first, last = (int(end) for end in store.column("structure/comp_ofs", number, number + 2))
    amounts = np.zeros(len(SYMBOLS), np.uint32)
    amounts[store.column("composition/Z", first, last)] = store.column("composition/n", first, last)
    return formula(amounts)


def rows(store: Store, indices: Sequence[int] | Any) -> list[tuple[Any, ...]]:
    """Rows (id, formula, atoms, energy, per atom, fmax, pressure, volume, sets) of some structures."""
    table = counts(store)
    natoms, energy = store.column("structure/natoms"), store.column("structure/energy")
    fmax, stress = store.column("index/fmax"), store.column("structure/stress")
    cell, pbc = store.column("structure/cell"), store.column("structure/pbc")
    sets = {name: store.in_set(name) for name in store.set_names()}
    found = []
    for number in (int(index) for index in indices):
        n = int(natoms[number])
        volume = abs(float(np.linalg.det(cell[number]))) if pbc[number] == 7 else float("nan")
        pressure = -float(stress[number][:3].mean()) * KBAR / 10
        inside = [name for name, mask in sets.items() if mask[number]]
        e = float(energy[number])
        found.append(
            (
                number,
                formula(table[number]),
                n,
                e,
                e / n,
                float(fmax[number]),
                pressure,
                volume,
                ", ".join(inside) or None,
            )
        )
    return found
