r"""Energy zeros that differ between groups, seen from slabs, and isolated atoms.

The energy of a slab of N atoms with surface area A (both sides together) of an element is

    E = N e_bulk + gamma A

so slabs of several sizes give the bulk energy e_bulk their calculations have: it must be that of the bulk structures.
Their surface energies gamma differ with the orientation, which enters the standard error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from gracecli.fit.check.finding import Finding
from gracecli.fit.check.records import Record

VACUUM = 6.0
"""Å of empty space along a cell vector that make a slab."""
FEWEST = 5
CONFIDENCE = 4.0
LEAST = 0.03
"""eV/atom."""


def vacuum_axis(atoms: Atoms) -> int | None:
    """The one cell vector along which a periodic structure has an empty slice, if there is exactly one."""
    if not atoms.pbc.all() or len(atoms) < 2:
        return None
    empty = []
    heights = abs(np.linalg.det(atoms.cell.array)) / np.linalg.norm(
        np.cross(np.roll(atoms.cell.array, -1, axis=0), np.roll(atoms.cell.array, -2, axis=0)), axis=1
    )
    fractions = atoms.get_scaled_positions(wrap=True)
    for axis in range(3):
        ordered = np.sort(fractions[:, axis])
        gaps = np.diff(np.append(ordered, ordered[0] + 1.0))
        if gaps.max() * heights[axis] > VACUUM:
            empty.append(axis)
    return empty[0] if len(empty) == 1 else None


def check_zeros(records: Sequence[Record]) -> list[Finding]:
    """Bulk energy of slabs against that of bulk structures, by group of elemental slabs."""
    slabs: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    bulk: dict[str, float] = {}
    for record in records:
        if not np.isfinite(record.frame.energy) or len(set(record.atoms.numbers)) != 1:
            continue
        axis = vacuum_axis(record.atoms)
        if axis is not None:
            others = [record.atoms.cell.array[k] for k in range(3) if k != axis]
            area = 2.0 * float(np.linalg.norm(np.cross(*others)))
            slabs[record.group, record.formula].append((len(record.atoms), area, record.frame.energy))
        elif record.atoms.pbc.all():
            bulk[record.formula] = min(bulk.get(record.formula, np.inf), record.energy_per_atom)
    findings = []
    for (group, formula), rows in sorted(slabs.items()):
        finding = _zero(group, np.array(rows), bulk.get(formula))
        if finding is not None:
            findings.append(finding)
    return findings


def _zero(group: str, rows: np.ndarray, bulk: float | None) -> Finding | None:
    if bulk is None or len(rows) < FEWEST:
        return None
    size, area, energy = rows.T
    ratio = area / size
    if np.std(ratio) < 0.1 * np.mean(ratio):  # all of one thickness: surface and bulk cannot be told apart
        return None
    matrix = np.stack([np.ones_like(ratio), ratio], axis=1)
    solution = np.linalg.lstsq(matrix, energy / size, rcond=None)[0]
    rest = energy / size - matrix @ solution
    variance = float(rest @ rest) / max(len(rest) - 2, 1)
    error = float(np.sqrt(variance * np.linalg.inv(matrix.T @ matrix)[0, 0]))
    difference = float(solution[0]) - bulk
    text = (
        f"{len(rows)} slabs mean a bulk energy of {solution[0]:.3f} ± {error:.3f} eV/atom, the bulk structures have "
        f"{bulk:.3f}"
    )
    details = {"slabs": float(solution[0]), "error": error, "bulk": bulk}
    # several orientations scatter, so a difference below 30 meV/atom is no proof
    if abs(difference) > max(LEAST, CONFIDENCE * error):
        remedy = f'another energy zero (pseudopotential, settings)? drop = ["{group.rpartition("/")[2]}"]'
        return Finding("energy zero", group, "error", f"{1e3 * difference:+.0f} meV/atom: {text}", remedy, details)
    return Finding("energy zero", group, "ok", text, "", details)
