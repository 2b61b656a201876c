"""Structures that put a model to the test, and the comparison of two evaluations of them.

The structures hold every pair of elements within its cutoff: rattled, sheared close-packed cells with elements dealt
at random, until no pair is missing; a cluster without cell and with short contacts (repulsion); a primitive cell that
meets its own images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gracecli.engine.base import Array, Graph, IntArray, Results
from gracecli.export.base import Limits

if TYPE_CHECKING:
    from ase import Atoms

PairCutoff = Callable[[IntArray], Array | None]
SPACING = 2.6
"""Å between neighbours of the packed cells, less where the cutoff is short."""
MOST_CELLS = 40
MOST_ATOMS = 48
MOST_PER_CELL = 48


@dataclass(frozen=True)
class Deviation:
    """Largest deviation of one quantity over all structures.

    Attributes
    ----------
    quantity, unit : str
    largest : float
        NaN when no structure has the quantity.
    limit : float
        What was allowed, in the same unit.
    scale : float
        Largest reference value.
    """

    quantity: str
    unit: str
    largest: float
    limit: float
    scale: float

    @property
    def within(self) -> bool:
        """Whether it is allowed."""
        return not np.isfinite(self.scale) or bool(self.largest <= self.limit)


@dataclass(frozen=True)
class Verification:
    """Outcome of a comparison.

    Attributes
    ----------
    structures, atoms : int
        Compared.
    pairs, all_pairs : int
        Pairs of elements that met within their cutoff, and those there are.
    deviations : tuple of Deviation
        Energy, forces, stress.
    """

    structures: int
    atoms: int
    pairs: int
    all_pairs: int
    deviations: tuple[Deviation, ...]

    @property
    def passed(self) -> bool:
        """Whether all deviations are allowed."""
        return all(deviation.within for deviation in self.deviations)


def test_structures(
    elements: Sequence[str],
    cutoff: float,
    pair_cutoff: PairCutoff,
    seed: int = 0,  # noqa: PT028 - no test of pytest
) -> list[Atoms]:
    """Structures of the elements, all pairs of them within cutoff (of those whose cutoff is not 0).

    Parameters
    ----------
    elements : sequence of str
    cutoff : float
        Largest, Å.
    pair_cutoff : callable
        Pair-cutoff matrix over sorted atomic numbers, or None (as engines have it).
    seed : int
    """
    rng = np.random.default_rng(seed)
    spacing = min(SPACING, 0.6 * cutoff)
    cells = [_packed_cell(elements, spacing, rng)]
    missing = possible_pairs(elements, cutoff, pair_cutoff) - _pairs(cells, cutoff, pair_cutoff)
    while missing and len(cells) < MOST_CELLS:
        # deal again: pairs that have not met, both partners (of one element: two atoms)
        pairs = rng.permutation(sorted(missing))
        cells.append(_packed_cell([str(symbol) for pair in pairs for symbol in pair][:MOST_ATOMS], spacing, rng))
        missing -= _pairs(cells[-1:], cutoff, pair_cutoff)
    return [*cells, _cluster(elements, spacing, rng), _primitive_cell(elements, spacing, rng)]


test_structures.__test__ = False  # type: ignore[attr-defined]  # no test of pytest


def _packed_cell(elements: Sequence[str], spacing: float, rng: np.random.Generator) -> Atoms:
    """A rattled and sheared fcc cell with every entry of a list (or 48 of them) at random places."""
    from ase.build import bulk

    repeats = next(
        (r for r in ((1, 1, 2), (1, 2, 2), (2, 2, 2)) if 4 * int(np.prod(r)) >= 2 * len(elements)), (2, 2, 3)
    )
    atoms = bulk("X", "fcc", a=spacing * np.sqrt(2.0), cubic=True).repeat(repeats)
    dealt = rng.permutation(np.resize(rng.permutation(list(elements)), len(atoms)))
    atoms.set_chemical_symbols([str(symbol) for symbol in dealt])
    strain = 0.04 * rng.standard_normal((3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.positions += 0.05 * spacing * rng.standard_normal((len(atoms), 3))
    return atoms


def _cluster(elements: Sequence[str], spacing: float, rng: np.random.Generator) -> Atoms:
    """A chain that winds at random without a cell; every third bond is half as long."""
    from ase import Atoms

    symbols = [str(s) for s in rng.permutation(np.resize(rng.permutation(list(elements)), 9))]
    steps = rng.standard_normal((len(symbols), 3)) + np.array([1.5, 0.0, 0.0])
    steps *= (spacing * np.where(np.arange(len(symbols)) % 3 == 1, 0.5, 0.9) / np.linalg.norm(steps, axis=1))[:, None]
    return Atoms(symbols, positions=np.cumsum(steps, axis=0))


def _primitive_cell(elements: Sequence[str], spacing: float, rng: np.random.Generator) -> Atoms:
    """One atom that meets its own images."""
    from ase import Atoms

    cell = spacing * np.array([[0.72, 0.71, 0.02], [-0.01, 0.73, 0.7], [0.74, 0.03, 0.71]])
    return Atoms([str(rng.choice(list(elements)))], positions=[[0.1, 0.2, 0.3]], cell=cell, pbc=True)


def possible_pairs(elements: Sequence[str], cutoff: float, pair_cutoff: PairCutoff) -> set[tuple[str, str]]:
    """Unordered pairs of elements with a cutoff above 0."""
    from ase.data import atomic_numbers

    ordered = sorted(elements, key=lambda symbol: atomic_numbers[symbol])
    matrix = pair_cutoff(np.array([atomic_numbers[s] for s in ordered], dtype=np.int32))
    return {
        _pair(a, b)
        for i, a in enumerate(ordered)
        for j, b in enumerate(ordered[: i + 1])
        if matrix is None or matrix[i, j] > 0
    }


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a <= b else (b, a)


def _pairs(structures: Sequence[Atoms], cutoff: float, pair_cutoff: PairCutoff) -> set[tuple[str, str]]:
    """Unordered pairs of elements that meet within their cutoff."""
    found = set()
    for atoms, graph in zip(structures, graphs_of(structures, cutoff, pair_cutoff), strict=True):
        symbols = np.array(atoms.get_chemical_symbols())
        for a, b in {*zip(symbols[graph.centre], symbols[graph.neighbour], strict=True)}:
            found.add(_pair(str(a), str(b)))
    return found


def graphs_of(structures: Sequence[Atoms], cutoff: float, pair_cutoff: PairCutoff) -> list[Graph]:
    """Bonds of several structures."""
    from gracecli.engine.neighbours import build_graph

    return [build_graph(atoms, cutoff, pair_cutoff) for atoms in structures]


def compare(
    structures: Sequence[Atoms],
    reference: Sequence[Results],
    found: Sequence[Results | None],
    limits: Limits,
    cutoff: float,
    pair_cutoff: PairCutoff,
) -> Verification:
    """Largest deviations of energies per atom, forces and stresses; structures without result are left out."""
    kept = [(a, r, f) for a, r, f in zip(structures, reference, found, strict=True) if f is not None]
    values: dict[str, list[tuple[float, float]]] = {"energy": [], "forces": [], "stress": []}
    for atoms, wanted, got in kept:
        n = len(atoms)
        values["energy"].append(_largest(np.array([got.energy / n]), np.array([wanted.energy / n])))
        values["forces"].append(_largest(got.forces, wanted.forces))
        if np.isfinite(wanted.stress).all():
            values["stress"].append(_largest(got.stress, wanted.stress))
    elements = sorted({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()})
    pairs = _pairs([atoms for atoms, _, _ in kept], cutoff, pair_cutoff)
    units = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³"}
    deviations = []
    for quantity, found_values in values.items():
        scale = max((s for _, s in found_values), default=float("nan"))
        largest = max((d for d, _ in found_values), default=float("nan"))
        limit = getattr(limits, quantity) * max(1.0, scale if np.isfinite(scale) else 1.0)
        deviations.append(Deviation(quantity, units[quantity], largest, limit, scale))
    n_atoms = sum(len(atoms) for atoms, _, _ in kept)
    possible = possible_pairs(elements, cutoff, pair_cutoff)
    return Verification(len(kept), n_atoms, len(pairs & possible), len(possible), tuple(deviations))


def _largest(found: Array, wanted: Array) -> tuple[float, float]:
    """Largest absolute deviation, infinite where ours is no number; largest absolute reference value."""
    difference = np.abs(np.asarray(found, dtype=float) - wanted)
    return float(np.where(np.isfinite(difference), difference, np.inf).max()), float(np.abs(wanted).max())
