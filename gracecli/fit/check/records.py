"""Labelled structures as checks want them: all energies a file has, the forces as they are, the fixed directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms

from gracecli.engine.base import Array, Graph
from gracecli.errors import GraceError, InputError
from gracecli.fit.config import DataConfig, SetConfig
from gracecli.fit.data import ENERGY_KEYS, Frame, label_of, permissive_frame, set_name_of
from gracecli.fit.sources import read_source

RADIUS = 5.0
"""Reach of the distances that checks look at, Å."""


@dataclass
class Record:
    """One structure.

    Attributes
    ----------
    frame : Frame
        Labels, NaN where there are none.
    split : str
        train, valid or test.
    energies : dict
        eV, by the key in the file.
    fixed : (N, 3) bool
        Directions that a constraint holds.
    """

    frame: Frame
    split: str
    energies: dict[str, float]
    fixed: Array

    @property
    def atoms(self) -> Atoms:
        """The structure."""
        return self.frame.atoms

    @property
    def group(self) -> str:
        """``set/config_type``."""
        return f"{self.frame.set_name}/{self.frame.config_type}"

    @property
    def energy_per_atom(self) -> float:
        """eV/atom."""
        return self.frame.energy / len(self.atoms)

    @cached_property
    def graph(self) -> Graph:
        """Bonds within :data:`RADIUS`."""
        from gracecli.engine.neighbours import build_graph

        return build_graph(self.atoms, RADIUS)

    @cached_property
    def formula(self) -> str:
        """Reduced formula: the same for a cell and its multiples."""
        numbers, counts = np.unique(self.atoms.numbers, return_counts=True)
        from ase.data import chemical_symbols

        divisor = int(np.gcd.reduce(counts))
        parts = [(chemical_symbols[z], int(n) // divisor) for z, n in zip(numbers, counts, strict=True)]
        return "".join(symbol + (str(n) if n > 1 else "") for symbol, n in sorted(parts))


def read_records(split: str, entries: Sequence[SetConfig], data: DataConfig) -> tuple[list[Record], list[str]]:
    """Structures of some sets, and what could not be taken (one line each).

    Raises
    ------
    InputError
        A file that cannot be read at all.
    """
    records: list[Record] = []
    refused: list[str] = []
    for entry in entries:
        source = read_source(entry.path)
        name = entry.name or set_name_of(entry.path)
        for atoms, label in zip(source.images, source.names, strict=True):
            if str(atoms.info.get("config_type", "all")) in entry.drop:
                continue
            try:
                records.append(_record(atoms, label, name, split, data))
            except GraceError as error:
                refused.append(error.message)
    if not records and refused:
        raise InputError(refused[0])
    return records, refused


def _record(atoms: Atoms, label: str, name: str, split: str, data: DataConfig) -> Record:
    if len(atoms) == 0:
        raise InputError(f"{label}: a structure without atoms")
    keys = dict.fromkeys((*((data.energy_key,) if data.energy_key else ()), *ENERGY_KEYS))
    energies = {key: value for key in keys if (value := _number(label_of(atoms, key, key))) is not None}
    return Record(permissive_frame(atoms, label, name, data), split, energies, fixed_directions(atoms))


def _number(value: Any) -> float | None:
    return float(value) if value is not None and np.ndim(value) == 0 else None


def fixed_directions(atoms: Atoms) -> Array:
    """(N, 3) mask of what ``FixAtoms`` and ``FixCartesian`` hold."""
    from ase.constraints import FixAtoms, FixCartesian

    held = np.zeros((len(atoms), 3), bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            held[constraint.index] = True
        elif isinstance(constraint, FixCartesian):
            held[np.atleast_1d(constraint.index)] |= np.asarray(constraint.mask, bool)
    return held
