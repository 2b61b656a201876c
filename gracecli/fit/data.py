"""Labelled structures: reading, filters, and the split into training and validation data.

Labels are taken as the file has them; ASE's constraints never zero a force. Energies are force-consistent where the
file says so (``free_energy``), and the key that was used is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from gracecli.engine.base import Array
from gracecli.errors import InputError
from gracecli.fit.config import DataConfig, SetConfig
from gracecli.fit.frametable import table_of
from gracecli.fit.sources import read_source
from gracecli.names import suggestion

ENERGY_KEYS = ("free_energy", "energy")
FILTERS = ("drop", "drop_stress", "drop_shear", "kind_weights", "kind_shares")
"""What names values of ``config_type``: each must occur."""


@dataclass(frozen=True)
class Frame:
    """One labelled structure; NaN marks missing labels.

    Attributes
    ----------
    atoms : Atoms
        Without calculator and constraints.
    energy : float
        eV.
    forces : (N, 3) float64
        eV/Å.
    stress : (6,) float64
        eV/Å^3, tensile-positive, xx yy zz yz xz xy.
    config_type, set_name : str
        Kind of structure; set it came from.
    source : str
        ``file:index``.
    weight : float
        Factor on its loss.
    share : float
        Visits per epoch.
    """

    atoms: Atoms
    energy: float
    forces: Array
    stress: Array
    config_type: str
    set_name: str
    source: str
    weight: float = 1.0
    share: float = 1.0

    @property
    def kind(self) -> str:
        """Elements of the structure, such as ``Mo-Ta``."""
        return "-".join(sorted(set(self.atoms.get_chemical_symbols())))


@dataclass(frozen=True)
class SetReport:
    """What was read from one file."""

    name: str
    path: str
    sha256: str
    frames: int
    dropped: int
    atoms: int
    energy_key: str
    stresses: int


def read_set(entry: SetConfig, data: DataConfig) -> tuple[list[Frame], SetReport]:
    """Read one file.

    Raises
    ------
    InputError
        Unreadable file, missing or unusable labels, a filter that matches nothing.
    """
    path = entry.path
    source = read_source(path)
    images = source.images
    keys = {_energy(atoms, data.energy_key)[1] for atoms in images}
    if len(keys) > 1 and keys != {"energy", "free_energy"}:
        named = ", ".join(sorted(str(key) for key in keys if key))
        raise InputError(f"{path}: only some structures have an energy ({named})", "remove the others, or label them")
    # one key for the whole file: mixing free energies and energies would bend the energy zero
    energy_key = data.energy_key or ("free_energy" if keys == {"free_energy"} else "energy")
    name = entry.name or set_name_of(path)
    frames = [
        _frame(atoms, label, name, energy_key, data, entry)
        for label, atoms in zip(source.names, images, strict=True)
        if _config_type(atoms) not in entry.drop
    ]
    _check_filters(entry, images)
    if not frames:
        raise InputError(f"{path}: no structure is left", "drop fewer config_type values")
    if entry.primitive:
        from gracecli.fit.primitive import primitive_frame

        frames = [primitive_frame(frame) for frame in frames]
    report = SetReport(
        name=name,
        path=path,
        sha256=source.sha256,
        frames=len(frames),
        dropped=len(images) - len(frames),
        atoms=sum(len(frame.atoms) for frame in frames),
        energy_key=energy_key,
        stresses=sum(bool(np.isfinite(frame.stress).all()) for frame in frames),
    )
    return frames, report


def read_sets(entries: Sequence[SetConfig], data: DataConfig) -> tuple[list[Frame], list[SetReport]]:
    """Read several files; sets of equal names get numbers."""
    frames: list[Frame] = []
    reports: list[SetReport] = []
    for entry in numbered(entries):
        found, report = read_set(entry, data)
        frames += found
        reports.append(report)
    return frames, reports


def numbered(entries: Sequence[SetConfig]) -> list[SetConfig]:
    """Sets with their names; of equal names the second becomes ``name-2``, and so on."""
    used: Counter[str] = Counter()
    named = []
    for entry in entries:
        name = entry.name or set_name_of(entry.path)
        used[name] += 1
        named.append(replace(entry, name=name if used[name] == 1 else f"{name}-{used[name]}"))
    return named


def split_validation(frames: Sequence[Frame], fraction: float, seed: int) -> tuple[Sequence[Frame], list[Frame]]:
    """Seeded split, stratified by set and ``config_type``: (training, validation).

    Every stratum gives ``fraction`` of its structures, rounded so that the running total is right; strata of fewer
    than two structures give none.
    """
    strata = table_of(frames).strata()
    rng = np.random.default_rng([seed, 0x5011])
    chosen: set[int] = set()
    owed = 0.0
    for key in sorted(strata):
        members = strata[key]
        order = rng.permutation(len(members))
        owed += fraction * len(members)
        count = min(round(owed), len(members) - 1)
        owed -= count
        chosen.update(members[i] for i in order[:count])
    rest = [index for index in range(len(frames)) if index not in chosen]
    valid = [frames[index] for index in sorted(chosen)]
    if hasattr(frames, "subset"):  # in a store: training stays there
        return frames.subset(rest), valid
    return [frames[index] for index in rest], valid


def elements_of(frames: Sequence[Frame]) -> tuple[str, ...]:
    """Element symbols that occur, in alphabetical order."""
    return tuple(sorted({symbol for frame in frames for symbol in frame.atoms.get_chemical_symbols()}))


def require_elements(frames: Sequence[Frame], elements: Sequence[str]) -> None:
    """Raise :class:`InputError` when a structure has an element that the model lacks."""
    known = set(elements)
    for frame in frames:
        missing = set(frame.atoms.get_chemical_symbols()) - known
        if missing:
            raise InputError(
                f"{frame.source}: {', '.join(sorted(missing))} is not among the elements of the model "
                f"({', '.join(elements)})",
                "add it to [model] elements, or leave the structure out",
            )


# --- one file -------------------------------------------------------------------------------------------------------


def _frame(atoms: Atoms, source: str, name: str, energy_key: str, data: DataConfig, entry: SetConfig) -> Frame:
    energy, found = _energy(atoms, energy_key)
    forces = label_of(atoms, data.forces_key, "forces")
    if found is None and forces is None:
        wanted = data.energy_key or "energy"
        raise InputError(
            f"{source}: no label {wanted!r}; the structure has {', '.join(_available(atoms)) or 'no labels'}",
            "name the right ones with [data] energy_key, forces_key, stress_key",
        )
    stress = label_of(atoms, data.stress_key, "stress")
    kind = _config_type(atoms)
    if kind in entry.drop_stress or not atoms.pbc.all():
        stress = None
    plain = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    size = len(atoms)
    if size == 0:
        raise InputError(f"{source}: a structure without atoms")
    if forces is not None and np.shape(forces) != (size, 3):
        raise InputError(f"{source}: forces of shape {np.shape(forces)} for {size} atoms")
    frame = Frame(
        plain,
        energy,
        np.full((size, 3), np.nan) if forces is None else np.array(forces, dtype=float),
        np.full(6, np.nan) if stress is None else _voigt(np.asarray(stress, dtype=float), source),
        kind,
        name,
        source,
        entry.weight_of(kind),
        entry.share_of(kind),
    )
    _check_finite(frame, found is not None, forces is not None, stress is not None)
    if kind in entry.drop_shear:
        frame.stress[3:] = np.nan
    return frame


def permissive_frame(atoms: Atoms, source: str, set_name: str, data: DataConfig) -> Frame:
    """A structure of which any label may be missing (NaN).

    Raises
    ------
    InputError
        A label that cannot be one (wrong size, not a number).
    """
    energy, key = _energy(atoms, data.energy_key)
    forces, stress = label_of(atoms, data.forces_key, "forces"), label_of(atoms, data.stress_key, "stress")
    size = len(atoms)
    if forces is not None and np.shape(forces) != (size, 3):
        raise InputError(f"{source}: forces of shape {np.shape(forces)} for {size} atoms")
    if not atoms.pbc.all():
        stress = None
    frame = Frame(
        Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc),
        energy,
        np.full((size, 3), np.nan) if forces is None else np.array(forces, dtype=float),
        np.full(6, np.nan) if stress is None else _voigt(np.asarray(stress, dtype=float), source),
        _config_type(atoms),
        set_name,
        source,
    )
    _check_finite(frame, key is not None, forces is not None, stress is not None)
    return frame


def _check_finite(frame: Frame, energy: bool, forces: bool, stress: bool) -> None:
    values = {"positions": frame.atoms.positions, "cell": frame.atoms.cell.array}
    values |= {"energy": np.array(frame.energy)} if energy else {}
    values |= {"forces": frame.forces} if forces else {}
    values |= {"stress": frame.stress} if stress else {}
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise InputError(f"{frame.source}: {name} not finite", "remove the structure")


def _energy(atoms: Atoms, key: str | None) -> tuple[float, str | None]:
    """Energy in eV and the key it was found under."""
    for name in (key,) if key else ENERGY_KEYS:
        value = label_of(atoms, name, name)
        if value is not None:
            if np.ndim(value) != 0:
                raise InputError(f"label {name!r} is not one number but {np.shape(value)}")
            return float(value), name
    return float("nan"), None


def label_of(atoms: Atoms, key: str | None, default: str) -> Any:
    """A label from the attached results (read raw: ``get_forces`` would apply constraints), info or arrays."""
    name = key or default
    results = atoms.calc.results if atoms.calc is not None else {}
    for place in (results, atoms.info, atoms.arrays):
        if name in place:
            return place[name]
    return None


def _available(atoms: Atoms) -> list[str]:
    results = atoms.calc.results if atoms.calc is not None else {}
    arrays = [name for name in atoms.arrays if name not in ("numbers", "positions")]
    return sorted({*results, *atoms.info, *arrays})


def _voigt(stress: Array, source: str) -> Array:
    if stress.size == 6:
        return stress.reshape(6).copy()
    if stress.size == 9:
        full = stress.reshape(3, 3)
        full = 0.5 * (full + full.T)
        return np.array([full[0, 0], full[1, 1], full[2, 2], full[1, 2], full[0, 2], full[0, 1]])
    raise InputError(f"{source}: stress of {stress.size} numbers", "6 (Voigt) or 9 are expected")


def _config_type(atoms: Atoms) -> str:
    return str(atoms.info.get("config_type", "all"))


def _check_filters(entry: SetConfig, images: Sequence[Atoms]) -> None:
    present = {_config_type(atoms) for atoms in images}
    for option in FILTERS:
        for kind in getattr(entry, option):
            if kind not in present:
                raise InputError(
                    f"{entry.path}: {option} = {kind!r}, but no structure has that config_type",
                    suggestion(kind, present),
                )


def set_name_of(argument: str) -> str:
    """``mlearn-Cu/train.extxyz.gz`` -> ``mlearn-Cu``: names such as train say less than their folder.

    A query of a store keeps its text: ``runs.h5:set=train`` -> ``runs:set=train``.
    """
    from gracecli.run.structures import split_store

    stored = split_store(argument)
    if stored is not None:
        path, query = stored
        return f"{Path(path).stem}:{query}" if query else Path(path).stem
    path_of_file = Path(argument)
    stem = path_of_file.name.split(".")[0]
    return path_of_file.resolve().parent.name if stem in ("train", "test", "valid", "validation", "data") else stem
