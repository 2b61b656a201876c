"""Reading labelled structures: POSCAR, CIF, extxyz, vasprun.xml, OUTCAR, ASE db and trajectory, formats of plugins.

What is converted is said in ``notes``. VASP prints the stress in kB and with the sign of a pressure (positive under
compression); stored is tensile-positive eV/Å^3: sigma = -p, 1 kB = 0.1 GPa. Its force-consistent energy is the free
energy TOTEN; "energy(sigma->0)" is kept beside it as ``energy``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gracecli.store.convert import as_entry
from gracecli.store.entry import Entry

VASP_NOTE = "stress: kB, positive under compression -> eV/Å^3, tensile-positive; energy: free energy (force-consistent)"
VASP = ("vasp-xml", "vasp-out")


@dataclass(frozen=True)
class Reading:
    """What a file held."""

    format: str
    entries: list[Entry]
    notes: tuple[str, ...]


def read_file(path: Path, method: str = "") -> Reading:
    """All labelled structures of a file, every step of a history.

    Raises
    ------
    InputError
        Missing, empty, of an unknown format, or damaged.
    """
    from gracecli.run.structures import read_frames

    frames = read_frames(path, slice(None))
    method = method or (vasp_method(path) if frames.format == "vasp-xml" else "")
    entries = []
    for number, atoms in enumerate(frames.images):
        source = f"{path}:{number}" if len(frames.images) > 1 else str(path)
        entries.append(as_entry(atoms, method=method, source=source))
    notes = [VASP_NOTE] if frames.format in VASP else []
    fixed = sum(entry.forces is not None and _has_constraints(entry) for entry in entries)
    if fixed:
        notes.append(f"{fixed} structures have fixed atoms; their forces are stored as calculated, not zeroed")
    unsure = sum(entry.energy is not None and not entry.free_energy for entry in entries)
    if unsure:
        notes.append(f"{unsure} structures have an energy that the file does not call free energy; it is taken as such")
    return Reading(frames.format, entries, (*notes, *(text.removeprefix(f"{path}: ") for text in frames.notes)))


def _has_constraints(entry: Entry) -> bool:
    from gracecli.store.convert import CONSTRAINTS

    return entry.mask is not None or CONSTRAINTS in entry.results


def vasp_method(path: Path) -> str:
    """What a vasprun.xml says of the method: version, functional, cutoff."""
    head = path.read_text(encoding="utf-8", errors="replace")[:200_000]
    parts = ["VASP"]
    version = re.search(r'<i name="version"[^>]*>\s*([^<\s]+)', head)
    parts += [version.group(1)] if version else []
    cutoff = "ENMAX" if 'name="ENMAX"' in head else "ENCUT"
    for key in ("GGA", "METAGGA", cutoff, "ISPIN", "IVDW", "LDAU"):
        value = re.search(rf'<i [^>]*name="{key}"[^>]*>\s*([^<]*?)\s*</i>', head)
        if value and value.group(1) not in ("", "--"):
            parts.append(f"{key}={value.group(1)}")
    return " ".join(parts)
