"""Reading labelled structures: POSCAR, CIF, extxyz, vasprun.xml, OUTCAR, ASE db and trajectory, formats of plugins.

What is converted is said in ``notes``. VASP prints the stress in kB and with the sign of a pressure (positive under
compression); stored is tensile-positive eV/Å^3: sigma = -p, 1 kB = 0.1 GPa. Its force-consistent energy is the free
energy TOTEN; "energy(sigma->0)" is kept beside it as ``energy``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gracecli.errors import InputError
from gracecli.store.convert import as_entry
from gracecli.store.entry import Entry

VASP_NOTE = "stress: kB, positive under compression -> eV/Å^3, tensile-positive; energy: free energy (force-consistent)"
_HISTORIES = {"vasp-xml": VASP_NOTE, "vasp-out": VASP_NOTE, "extxyz": "", "traj": "", "db": "", "cif": ""}


@dataclass(frozen=True)
class Reading:
    """What a file held."""

    format: str
    entries: list[Entry]
    notes: tuple[str, ...]


def read_file(path: Path, method: str = "") -> Reading:
    """All labelled structures of a file.

    Raises
    ------
    InputError
        Missing, empty, of an unknown format, or damaged.
    """
    import warnings

    if not path.is_file():
        raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            name, frames = _frames(path)
            found = list(frames)
    except InputError:
        raise
    except Exception as error:  # readers of dozens of formats raise whatever they like
        text = str(error).strip().splitlines()
        raise InputError(f"{path}: cannot be read: {text[0][:200] if text else type(error).__name__}") from error
    if not found:
        raise InputError(f"{path}: no structure in the file")
    method = method or (vasp_method(path) if name == "vasp-xml" else "")
    entries = []
    for number, atoms in enumerate(found):
        source = f"{path}:{number}" if len(found) > 1 else str(path)
        atoms.info.update(_row_information(atoms))
        entries.append(as_entry(atoms, method=method, source=source))
    notes = [_HISTORIES[name]] if _HISTORIES.get(name) else []
    fixed = sum(entry.mask is not None and entry.forces is not None for entry in entries)
    if fixed:
        notes.append(f"{fixed} structures have fixed atoms; their forces are stored as calculated, not zeroed")
    return Reading(name, entries, (*notes, *dict.fromkeys(str(item.message).splitlines()[0] for item in caught)))


def _row_information(atoms: Any) -> dict[str, Any]:
    """Key-value pairs and data of an ASE database row, which ASE files under two keys of info."""
    pairs = atoms.info.pop("key_value_pairs", None) or {}
    data = atoms.info.pop("data", None) or {}
    atoms.info.pop("unique_id", None)
    return {**pairs, **({"data": data} if data else {})}


def _frames(path: Path) -> tuple[str, Iterator[Any]]:
    import ase.io

    from gracecli.plugin.manager import get_plugin_manager
    from gracecli.run.structures import _read_poscar, format_of

    for spec in get_plugin_manager().readers().values():
        if path.suffix.lower() in spec.suffixes:
            return spec.name, iter(spec.load()(path))
    name = format_of(path)
    if name == "vasp":
        source, _ = _read_poscar(path)
        return name, iter([ase.io.read(source, format="vasp")])
    if name == "db":
        import ase.db

        with ase.db.connect(path) as database:
            rows = list(database.select())
        return name, (row.toatoms(add_additional_information=True) for row in rows)
    index = ":" if name in _HISTORIES else "-1"
    return name, iter(ase.io.read(path, index=index, format=name) if index == ":" else [ase.io.read(path)])


def vasp_method(path: Path) -> str:
    """What a vasprun.xml says of the method: version, functional, cutoff."""
    head = path.read_text(encoding="utf-8", errors="replace")[:200_000]
    parts = ["VASP"]
    version = re.search(r'<i name="version"[^>]*>\s*([^<\s]+)', head)
    parts += [version.group(1)] if version else []
    for key in ("GGA", "METAGGA", "ENMAX", "ENCUT", "ISPIN", "IVDW", "LDAU"):
        value = re.search(rf'<i [^>]*name="{key}"[^>]*>\s*([^<]*?)\s*</i>', head)
        if value and value.group(1) not in ("", "--"):
            parts.append(f"{key}={value.group(1)}")
    return " ".join(parts)
