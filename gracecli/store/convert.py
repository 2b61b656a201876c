"""Between :class:`ase.Atoms` and :class:`gracecli.store.entry.Entry`, without losing a bit.

Labels are taken raw from the attached results: ``Atoms.get_forces`` would zero the forces of constrained atoms.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian, dict2constraint

from gracecli.errors import InputError
from gracecli.store.entry import Entry

_COLUMNS = ("energy", "free_energy", "forces", "stress", "magmoms", "charges")
CONSTRAINTS = "ase_constraints"


def as_entry(atoms: Atoms, *, method: str = "", source: str = "") -> Entry:
    """Entry of a structure and the results attached to it.

    Raises
    ------
    InputError
        Labels of the wrong shape, or a value that cannot be stored.
    """
    results = dict(getattr(atoms.calc, "results", None) or {})
    size = len(atoms)
    arrays = {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions", "momenta")}
    free = results.get("free_energy")
    plain = results.get("energy")
    others = {key: value for key, value in results.items() if key not in _COLUMNS and value is not None}
    if free is not None and plain is not None:
        others["energy"] = float(plain)
    energy = plain if free is None else free
    mask, rest = _fixed(atoms)
    info = {key: _plain(value) for key, value in atoms.info.items()}
    if rest:
        others[CONSTRAINTS] = rest
    momenta = atoms.arrays.get("momenta")
    if momenta is not None:
        arrays["momenta"] = momenta  # exact; velocities are derived and would not give every bit back
    entry = Entry(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=tuple(bool(flag) for flag in atoms.pbc),  # type: ignore[arg-type]
        energy=None if energy is None else float(energy),
        free_energy=free is not None,
        forces=_shaped(results.get("forces"), (size, 3), "forces", source),
        stress=_shaped(results.get("stress"), (6,), "stress", source),
        magmoms=_shaped(results.get("magmoms"), (size,), "magmoms", source),
        charges=_shaped(results.get("charges"), (size,), "charges", source),
        velocities=None if momenta is None else np.asarray(atoms.get_velocities()),
        mask=mask,
        results=others,
        info=info,
        arrays=arrays,
        method=method,
        source=source,
    )
    try:
        entry.document()
    except TypeError as error:
        raise InputError(
            f"{source or atoms.get_chemical_formula()}: {error}", "remove it from info or arrays"
        ) from error
    return entry


def _plain(value: Any) -> Any:
    """ASE's space groups (from CIF) as their symbols; everything else as it is."""
    module = sys.modules.get("ase.spacegroup")  # importing it costs half a second; who has such a value has done so
    return value.symbol if module is not None and isinstance(value, module.Spacegroup) else value


def _shaped(value: Any, shape: tuple[int, ...], name: str, source: str) -> Any:
    if value is None:
        return None
    array = np.asarray(value, dtype=float)
    if name == "stress" and array.shape == (3, 3):
        array = array[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    if array.shape != shape:
        raise InputError(f"{source or 'structure'}: {name} of shape {array.shape}, expected {shape}")
    return array


def _fixed(atoms: Atoms) -> tuple[Any, list[dict[str, Any]]]:
    """Bit mask of fixed directions, and the other constraints as dictionaries."""
    mask = np.zeros(len(atoms), "u1")
    rest = []
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            mask[constraint.index] = 7
        elif isinstance(constraint, FixCartesian):
            bits = sum(1 << axis for axis in range(3) if constraint.mask[axis])
            mask[constraint.index] |= bits
        else:
            rest.append(constraint.todict())
    return (mask if mask.any() else None), rest


def to_atoms(entry: Entry) -> Atoms:
    """Structure with its labels attached."""
    atoms = Atoms(numbers=entry.numbers, positions=entry.positions, cell=entry.cell, pbc=entry.pbc)
    for name, value in entry.arrays.items():
        atoms.arrays[name] = np.array(value)
    atoms.info = dict(entry.info)
    constraints = []
    if entry.mask is not None:
        whole = np.flatnonzero(entry.mask == 7)
        if len(whole):
            constraints.append(FixAtoms(indices=whole))
        for bits in sorted({int(bits) for bits in entry.mask} - {0, 7}):
            directions = [bool(bits & (1 << axis)) for axis in range(3)]
            constraints.append(FixCartesian(np.flatnonzero(entry.mask == bits), mask=directions))
    others = dict(entry.results)
    constraints += [dict2constraint(document) for document in others.pop(CONSTRAINTS, [])]
    if constraints:
        atoms.set_constraint(constraints)
    results: dict[str, Any] = {}
    if entry.energy is not None:
        if not entry.free_energy or "energy" in others:
            results["energy"] = others.pop("energy", entry.energy)
        if entry.free_energy:
            results["free_energy"] = entry.energy
    for name in ("forces", "stress", "magmoms", "charges"):
        value = getattr(entry, name)
        if value is not None:
            results[name] = value
    results.update(others)
    if results:
        calculator = SinglePointCalculator(atoms)
        calculator.results.update(results)
        atoms.calc = calculator
    return atoms
