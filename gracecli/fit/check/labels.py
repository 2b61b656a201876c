"""Labels one by one: missing ones, forces that a constraint zeroed, net forces, outliers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from gracecli.engine.base import Array
from gracecli.fit.check.finding import Finding, several, short_name
from gracecli.fit.check.records import Record

NET_FORCE = 0.02
"""eV/Å per atom of total force that deserves a warning."""
ZERO = 1e-9
LARGE_FORCE = 25.0
"""eV/Å; beyond it, and 12 times the RMS, a force is an outlier."""
FEW = 8
"""Structures of one composition below which energies are not compared."""


def check_missing(records: Sequence[Record], refused: Sequence[str]) -> list[Finding]:
    """Structures without energies, forces or stresses, and those that could not be read."""
    findings = []
    if refused:
        text = f"{len(refused)} structures have unusable labels: {refused[0]}"
        findings.append(Finding("labels", "all", "error", text, "remove or repair them", {"refused": list(refused)}))
    count = {
        "energies": sum(np.isfinite(r.frame.energy) for r in records),
        "forces": sum(bool(np.isfinite(r.frame.forces).all()) for r in records),
        "stresses": sum(bool(np.isfinite(r.frame.stress).all()) for r in records),
    }
    periodic = sum(bool(r.atoms.pbc.all()) for r in records)
    text = f"{len(records)} structures: " + ", ".join(f"{n} {name}" for name, n in count.items())
    partly = 0 < count["energies"] < len(records) or 0 < count["forces"] < len(records)
    level, remedy = "ok", ""
    if count["energies"] == 0 or count["forces"] == 0:
        level, remedy = "warning", "name the keys with --energy-key, --forces-key"
    elif partly or (0 < count["stresses"] < periodic):
        level, remedy = "warning", "missing labels do not count in training; meant?"
    findings.append(Finding("labels", "all", level, text, remedy, {**count, "periodic": periodic}))
    return findings


def check_zeroed(records: Sequence[Record]) -> list[Finding]:
    """Forces that are exactly zero though nothing in the structure makes them so.

    A structure whose forces are zero by symmetry has a net force of zero. If atoms are held and their forces set to
    zero, the forces on the others do not add up to zero any more.
    """
    zeroed: dict[str, list[str]] = defaultdict(list)
    net: dict[str, list[float]] = defaultdict(list)
    for record in records:
        forces = record.frame.forces
        if not np.isfinite(forces).all():
            continue
        total = float(np.abs(forces.sum(axis=0)).max()) / len(forces)
        net[record.group].append(total)
        if _is_zeroed(forces, record.fixed, total):
            zeroed[record.group].append(record.frame.source)
    findings = []
    for group, names in sorted(zeroed.items()):
        example = several(map(short_name, names), 1)
        text = f"{len(names)} structures have forces of exactly zero, and a net force ({example})"
        remedy = "a constraint zeroed them: take the forces as calculated, or drop these structures"
        findings.append(Finding("zeroed forces", group, "error", text, remedy, {"structures": names}))
    for group, values in sorted(net.items()):
        if group not in zeroed and np.median(values) > NET_FORCE:
            text = f"the forces of a structure do not add up to zero: {np.median(values):.3f} eV/Å per atom (median)"
            remedy = "was a part of the atoms left out, or an external field on?"
            findings.append(Finding("net force", group, "warning", text, remedy, {"median": float(np.median(values))}))
    if not findings and net:
        worst = max(max(values) for values in net.values())
        text = f"none zeroed; net force at most {worst:.2g} eV/Å per atom"
        findings.append(Finding("zeroed forces", "all", "ok", text, "", {"net_force": worst}))
    return findings


def _is_zeroed(forces: Array, fixed: Array, total: float) -> bool:
    zero = np.abs(forces) < ZERO
    if zero.all() or not (~zero).any(axis=0).any():
        return False
    if fixed.any() and zero[fixed].all() and total > 1e-4:
        return True
    rows = zero.all(axis=1)
    return bool(rows.any() and total > max(1e-3, 0.01 * float(np.abs(forces).mean())))


def check_forces(records: Sequence[Record]) -> list[Finding]:
    """Forces far beyond the rest."""
    sizes = {
        record.frame.source: float(np.linalg.norm(record.frame.forces, axis=1).max())
        for record in records
        if np.isfinite(record.frame.forces).all()
    }
    if not sizes:
        return []
    largest = np.array(list(sizes.values()))
    limit = max(LARGE_FORCE, 12.0 * float(np.median(largest)))
    beyond = sorted((name for name, size in sizes.items() if size > limit), key=lambda name: -sizes[name])
    top = max(sizes, key=lambda name: sizes[name])
    text = f"largest force {sizes[top]:.1f} eV/Å ({short_name(top)}), median of largest {np.median(largest):.2f}"
    details = {"largest": sizes[top], "limit": limit, "structures": beyond}
    if beyond:
        text += f"; {len(beyond)} structures beyond {limit:.0f}"
        return [Finding("large forces", "all", "warning", text, "drop them, or give their set less weight", details)]
    return [Finding("large forces", "all", "ok", text, "", details)]


def check_energies(records: Sequence[Record]) -> list[Finding]:
    """Energies per atom far from those of the same composition, above or below."""
    kinds: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if np.isfinite(record.frame.energy):
            kinds[record.formula].append(record)
    high: list[tuple[float, str]] = []
    low: list[tuple[float, str]] = []
    judged = 0
    for members in kinds.values():
        if len(members) < FEW:
            continue
        judged += len(members)
        energies = np.array([record.energy_per_atom for record in members])
        middle = float(np.median(energies))
        width = 1.4826 * float(np.median(np.abs(energies - middle)))
        for record, energy in zip(members, energies, strict=True):
            if energy - middle > max(20.0 * width, 1.5):
                high.append((energy - middle, record.frame.source))
            elif middle - energy > max(12.0 * width, 0.5):  # nothing lies far below the ground state
                low.append((energy - middle, record.frame.source))
    groups = ((low, "error", "below"), (high, "warning", "above"))
    findings = [_outliers(found, level, word) for found, level, word in groups if found]
    if not findings and judged:
        text = f"{judged} structures in compositions with at least {FEW}: none stands out"
        findings.append(Finding("energy outliers", "all", "ok", text))
    return findings


def _outliers(found: list[tuple[float, str]], level: str, word: str) -> Finding:
    energy, name = max(found, key=lambda item: abs(item[0]))
    count = f"{len(found)} structure{'s lie' if len(found) > 1 else ' lies'}"
    text = f"{count} far {word} their composition's median, up to {abs(energy):.2f} eV/atom ({short_name(name)})"
    remedy = "wrong energies? remove them" if word == "below" else 'drop them, or use weighting = "energy"'
    return Finding("energy outliers", "all", level, text, remedy, {"structures": [entry[1] for entry in found]})
