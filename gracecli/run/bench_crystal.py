"""Structures to time: supercells of an element's crystal, or of a structure from a file, atoms displaced a little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gracecli.errors import InputError, UsageError

if TYPE_CHECKING:
    from ase import Atoms

CUBIC = ("sc", "bcc", "fcc", "diamond")
RATTLE = 0.05
"""Standard deviation of the displacements, Å."""


@dataclass(frozen=True)
class Sample:
    """A structure to time.

    Attributes
    ----------
    name : str
        Such as ``"W bcc, a = 3.16 Å, 4x4x4"``.
    structure : Atoms
        Displaced already.
    """

    name: str
    structure: Atoms

    @property
    def atoms(self) -> int:
        """Number of atoms."""
        return len(self.structure)

    @property
    def label(self) -> str:
        """Short name for progress."""
        return f"{self.atoms} atoms"


def crystal(element: str, lattice_constant: float | None = None) -> tuple[str, Atoms]:
    """Cubic cell of the ground-state crystal of an element (structure and lattice constant: ASE's reference states).

    Raises
    ------
    InputError
        No such element, or its crystal is not cubic.
    """
    from ase.build import bulk
    from ase.data import atomic_numbers, reference_states

    if element not in atomic_numbers or element == "X":
        raise InputError(f"no element is called {element!r}")
    state = reference_states[atomic_numbers[element]]
    if state is None or state["symmetry"] not in CUBIC:
        kind = "unknown" if state is None else state["symmetry"]
        raise InputError(f"the crystal of {element} is {kind}, not cubic", "give a --structure FILE")
    a = float(state["a"]) if lattice_constant is None else lattice_constant
    if not a > 0:
        raise UsageError(f"the lattice constant must be positive, not {lattice_constant}")
    return f"{element} {state['symmetry']}, a = {a:g} Å", bulk(element, state["symmetry"], a=a, cubic=True)


def default_element(covered: Sequence[str]) -> str:
    """Tungsten, as in the paper, where the models cover it; else the first element with a cubic crystal.

    Raises
    ------
    InputError
        There is none.
    """
    for element in ("W", *covered):
        if element in covered:
            try:
                crystal(element)
            except InputError:
                continue
            return element
    raise InputError("no element of the models has a cubic crystal", "give a --structure FILE")


def supercells(name: str, cell: Atoms, sizes: Sequence[int], seed: int = 0) -> list[Sample]:
    """Repeats n x n x n of a cell, the n whose number of atoms is nearest to each size.

    Parameters
    ----------
    name : str
        Of the cell.
    cell : Atoms
    sizes : sequence of int
        Wanted numbers of atoms; sizes that lead to the same supercell give one sample. Empty: the cell as it is.
    seed : int

    Raises
    ------
    UsageError
        A size below 1, or repeats of something that is not periodic.
    """
    if any(size < 1 for size in sizes):
        raise UsageError(f"sizes are numbers of atoms, not {min(sizes)}")
    if sizes and not all(cell.pbc):
        raise UsageError("--sizes repeats a periodic structure, and this one is not", "leave --sizes away")
    samples: dict[int, Sample] = {}
    for size in sizes or [len(cell)]:
        n = max(1, round((size / len(cell)) ** (1 / 3)))
        n = min((n - 1, n, n + 1), key=lambda k: (k < 1, abs(k**3 * len(cell) - size)))
        if n not in samples:
            structure = cell.repeat(n)
            structure.rattle(RATTLE, rng=np.random.default_rng(seed))
            samples[n] = Sample(f"{name}, {n}x{n}x{n}", structure)
    return [samples[n] for n in sorted(samples)]
