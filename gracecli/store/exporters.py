"""Writing structures of a store to extxyz (every bit), POSCAR, ASE db."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from gracecli.errors import InputError, UsageError
from gracecli.files import write_atomically

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.store.store import Store

FORMATS = ("extxyz", "poscar", "db")


def export(
    store: Store, indices: Sequence[int], path: Path, format_name: str | None = None, force: bool = False
) -> str:
    """Write structures; the format that was used.

    Raises
    ------
    InputError
        Nothing to write, or the file exists or cannot be written.
    UsageError
        The format is not known.
    """
    name = format_name or format_for(path)
    if not len(indices):
        raise InputError(f"{store.path}: no structure to export", "the query selects none")
    if name == "poscar" and len(indices) > 1:
        raise InputError(f"a POSCAR holds one structure, not {len(indices)}", "write extxyz, or select one")
    writers = {"extxyz": _write_extxyz, "poscar": _write_poscar, "db": _write_db}
    write_atomically(path, lambda temporary: writers[name](store, indices, temporary), force=force)
    return name


def format_for(path: Path) -> str:
    """Format by the name of a file."""
    if path.suffix in (".extxyz", ".xyz"):
        return "extxyz"
    if path.suffix == ".db":
        return "db"
    if path.suffix in (".poscar", ".vasp") or path.name.startswith(("POSCAR", "CONTCAR")):
        return "poscar"
    raise UsageError(f"no export format is known for {path}", f"--format {'|'.join(FORMATS)}")


def _write_extxyz(store: Store, indices: Sequence[int], path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for index in indices:
            write_extxyz(store.atoms(int(index)), stream)


def write_extxyz(atoms: Atoms, stream: TextIO) -> None:
    """One frame, every number with as many digits as it takes to read the same bits back (ASE writes eight)."""
    from ase.calculators.calculator import all_properties
    from ase.constraints import FixAtoms, FixCartesian
    from ase.io.extxyz import key_val_dict_to_str

    results = dict(getattr(atoms.calc, "results", None) or {})
    columns: dict[str, Any] = {"species": np.array(atoms.get_chemical_symbols()), "pos": atoms.positions}
    columns |= {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")}
    information: dict[str, Any] = dict(atoms.info)
    free = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            free[np.asarray(constraint.index)] &= ~np.asarray(constraint.mask, dtype=bool)
    if not free.all():
        columns["move_mask"] = free.all(axis=1) if (free == free[:, :1]).all() else free
    for name, value in results.items():
        if name not in all_properties or value is None:
            continue
        if np.ndim(value) >= 1 and len(value) == len(atoms) and name not in ("stress", "dipole"):
            columns[name] = np.asarray(value)
        elif name == "stress":
            s = np.asarray(value)
            information[name] = s[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
        else:
            information[name] = value
    properties = ":".join(f"{name}:{_kind(value)}:{_width(value)}" for name, value in columns.items())
    heads = [f"Properties={properties}"]
    if atoms.cell.array.any():
        heads.insert(0, 'Lattice="' + " ".join(repr(float(x)) for x in atoms.cell.array.reshape(-1)) + '"')
    if information:
        heads.append(key_val_dict_to_str(information))
    heads.append('pbc="' + " ".join("T" if flag else "F" for flag in atoms.pbc) + '"')
    stream.write(f"{len(atoms)}\n{' '.join(heads)}\n")
    table = [_text(value) for value in columns.values()]
    stream.writelines(" ".join(row) + "\n" for row in zip(*table, strict=True))


def _kind(value: Any) -> str:
    return {"f": "R", "i": "I", "u": "I", "b": "L"}.get(value.dtype.kind, "S")


def _width(value: Any) -> int:
    return 1 if value.ndim == 1 else int(np.prod(value.shape[1:]))


def _text(value: Any) -> list[str]:
    rows = value.reshape(len(value), -1).tolist()
    if value.dtype.kind == "b":
        return [" ".join("T" if item else "F" for item in row) for row in rows]
    return [" ".join(map(repr if value.dtype.kind == "f" else str, row)) for row in rows]


def _write_poscar(store: Store, indices: Sequence[int], path: Path) -> None:
    import ase.io

    ase.io.write(path, store.atoms(int(indices[0])), format="vasp", direct=True)


def _write_db(store: Store, indices: Sequence[int], path: Path) -> None:
    import ase.db

    with ase.db.connect(path, type="db") as database:
        for index in indices:
            atoms = store.atoms(int(index))
            pairs = {
                k: v for k, v in atoms.info.items() if isinstance(v, str | int | float | bool) and k.isidentifier()
            }
            database.write(atoms, key_value_pairs=_allowed(pairs), data={"store_id": int(index)})


def _allowed(pairs: dict[str, Any]) -> dict[str, Any]:
    """Key-value pairs that ASE's database accepts: no reserved names, no strings that look like numbers."""
    from ase.db.core import check

    good = {}
    for key, value in pairs.items():
        try:
            check({key: value})
        except ValueError:
            continue
        good[key] = value
    return good
