"""``grace store show``: one structure at length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.cli.output import Column, format_pairs, format_table

if TYPE_CHECKING:
    from gracecli.store.store import Store

MOST_ATOMS = 20


def document(store: Store, number: int) -> dict[str, Any]:
    """Everything about a structure, for JSON and for :func:`card`."""
    from gracecli.store.query import SYMBOLS
    from gracecli.store.summary import rows

    entry = store.entry(number)
    number = number % len(store)
    names = ("id", "formula", "natoms", "energy", "energy_per_atom", "fmax", "pressure", "volume", "sets")
    head = dict(zip(names, rows(store, [number])[0], strict=True))
    uid = store.column("structure/uid", number, number + 1)[0].tobytes().hex()
    return {
        "store": store.path,
        **head,
        "uid": uid,
        "method": entry.method or None,
        "source": entry.source or None,
        "pbc": list(entry.pbc),
        "cell": entry.cell,
        "symbols": [SYMBOLS[z] for z in entry.numbers],
        "positions": entry.positions,
        "forces": entry.forces,
        "stress": entry.stress,
        "force_consistent": entry.free_energy,
        "info": entry.info,
        "arrays": sorted(entry.arrays),
        "other_results": sorted(entry.results),
    }


def card(content: dict[str, Any]) -> str:
    """The document as text."""
    vectors = ["  ".join(f"{x:11.6f}" for x in row) for row in content["cell"]]
    periodic = "".join("T" if flag else "F" for flag in content["pbc"])
    energy = content["energy"]
    pairs: list[tuple[str, Any]] = [
        ("structure", f"{content['store']} id {content['id']}: {content['formula']}, {content['natoms']} atoms"),
        ("energy", "-" if np.isnan(energy) else f"{energy:.6f} eV ({content['energy_per_atom']:.6f} eV/atom)"),
        ("max force", "-" if np.isnan(content["fmax"]) else f"{content['fmax']:.4f} eV/Å"),
        ("pressure", "-" if np.isnan(content["pressure"]) else f"{content['pressure']:.3f} GPa (positive compresses)"),
        ("volume", "-" if np.isnan(content["volume"]) else f"{content['volume']:.4f} Å³"),
        ("cell", f"{vectors[0]}  Å"),
        ("", vectors[1]),
        ("", vectors[2]),
        ("periodic", periodic),
        ("sets", content["sets"]),
        ("method", content["method"]),
        ("source", content["source"]),
        ("uid", content["uid"]),
    ]
    pairs += [(f"info.{key}", str(value)[:80]) for key, value in content["info"].items()]
    forces = content["forces"]
    columns: list[Column | str] = ["atom", *(Column(axis, "Å", ".6f") for axis in "xyz")]
    columns += [Column(f"f{axis}", "eV/Å", ".4f") for axis in "xyz"] if forces is not None else []
    table = []
    for index, (symbol, position) in enumerate(zip(content["symbols"], content["positions"], strict=True)):
        table.append((symbol, *map(float, position), *(map(float, forces[index]) if forces is not None else ())))
    text = f"{format_pairs(pairs)}\n\n{format_table(columns, table[:MOST_ATOMS])}"
    return text + (f"\n... and {len(table) - MOST_ATOMS} more atoms" if len(table) > MOST_ATOMS else "")
