"""Structures that a model can label itself: perturbed copies of given ones, and simple crystals of its elements.

======== ==================================================================================================
kind     structures
======== ==================================================================================================
rattle   copies with Gaussian displacements, 0.02 to 0.2 Å (standard deviation, drawn anew for every copy)
strain   copies with all six strains drawn within +- 6 % and atoms displaced by 0.03 Å
unaries  bcc, fcc, hcp, simple cubic and diamond crystals of every element, at 9 volumes
binaries rocksalt, CsCl and zincblende crystals of every pair, at 5 volumes
======== ==================================================================================================

Volumes of crystals span 0.8 to 1.3 of the one at which the model's energy is lowest, which a scan of the
nearest-neighbour distance finds. Everything is drawn from one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii

from gracecli.errors import UsageError
from gracecli.fit.config_check import AUGMENT
from gracecli.names import suggestion

if TYPE_CHECKING:
    from gracecli.engine.base import Results

Evaluate = Callable[[Sequence[Atoms]], "list[Results]"]
SCAN = np.linspace(0.75, 1.45, 15)
"""Nearest-neighbour distances tried, in sums of covalent radii."""
# nearest-neighbour distance over a, by prototype
UNARIES = {"bcc": 3**0.5 / 2, "fcc": 0.5**0.5, "hcp": 1.0, "sc": 1.0, "diamond": 3**0.5 / 4}
BINARIES = {"rocksalt": 0.5, "cesiumchloride": 3**0.5 / 2, "zincblende": 3**0.5 / 4}
UNARY_VOLUMES = np.linspace(0.8, 1.3, 9)
BINARY_VOLUMES = np.linspace(0.85, 1.2, 5)


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise :class:`UsageError` for a kind that does not exist."""
    for kind in kinds:
        if kind not in AUGMENT:
            raise UsageError(f"no augmentation is called {kind!r}", suggestion(kind, AUGMENT) or ", ".join(AUGMENT))


def augmented(
    structures: Sequence[Atoms],
    kinds: Sequence[str],
    elements: Sequence[str],
    evaluate: Evaluate,
    seed: int,
    copies: int = 3,
) -> list[Atoms]:
    """Further structures of the given kinds; ``config_type`` says which is which.

    Parameters
    ----------
    structures : sequence of Atoms
        What ``rattle`` and ``strain`` copy.
    kinds : sequence of str
        Of :data:`gracecli.fit.config_check.AUGMENT`.
    elements : sequence of str
        For crystals.
    evaluate : callable
        Structures -> results of the model that will label them.
    seed : int
    copies : int
        Of every structure and kind of perturbation.
    """
    check_kinds(kinds)
    rng = np.random.default_rng([seed, 0xA061])
    found: list[Atoms] = []
    for kind in ("rattle", "strain"):
        if kind in kinds:
            change = _rattled if kind == "rattle" else _strained
            found += [_named(change(atoms, rng), kind) for atoms in structures for _ in range(copies)]
    if "unaries" in kinds:
        prototypes: list[tuple[str, tuple[str, ...]]] = [(name, (e,)) for e in elements for name in UNARIES]
        found += _crystals(prototypes, UNARY_VOLUMES, evaluate, rng, "unary")
    if "binaries" in kinds:
        prototypes = [(name, pair) for pair in combinations(elements, 2) for name in BINARIES]
        found += _crystals(prototypes, BINARY_VOLUMES, evaluate, rng, "binary")
    return found


def _named(atoms: Atoms, kind: str) -> Atoms:
    atoms.info["config_type"] = kind
    return atoms


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def _rattled(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    copy = _bare(atoms)
    copy.positions += rng.normal(scale=rng.uniform(0.02, 0.2), size=(len(copy), 3))
    return copy


def _strained(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    copy = _bare(atoms)
    if copy.cell.rank == 3:
        strain = rng.uniform(-0.06, 0.06, size=(3, 3))
        copy.set_cell(copy.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
    copy.positions += rng.normal(scale=0.03, size=(len(copy), 3))
    return copy


def crystal(name: str, elements: Sequence[str], distance: float) -> Atoms:
    """A prototype with a given nearest-neighbour distance (Å)."""
    if len(elements) == 1:
        a = distance / UNARIES[name]
        return bulk(elements[0], name, a=a, c=a * (8 / 3) ** 0.5 if name == "hcp" else None)
    return bulk("".join(elements), name, a=distance / BINARIES[name])


def _crystals(
    prototypes: Sequence[tuple[str, tuple[str, ...]]],
    volumes: np.ndarray,
    evaluate: Evaluate,
    rng: np.random.Generator,
    kind: str,
) -> list[Atoms]:
    """Crystals around the volume of lowest energy, slightly displaced so that forces are not all zero."""
    radii = [sum(covalent_radii[atomic_numbers[e]] for e in pair) * (2 / len(pair)) for _, pair in prototypes]
    trials = [
        crystal(name, pair, factor * radius)
        for (name, pair), radius in zip(prototypes, radii, strict=True)
        for factor in SCAN
    ]
    energies = np.array([result.energy for result in evaluate(trials)]).reshape(len(prototypes), len(SCAN))
    found = []
    for (name, pair), radius, row in zip(prototypes, radii, energies, strict=True):
        best = SCAN[_first_minimum(row)] * radius
        for volume in volumes:
            atoms = crystal(name, pair, float(best * volume ** (1 / 3)))
            atoms.positions += rng.normal(scale=0.02, size=(len(atoms), 3)) if len(atoms) > 1 else 0.0
            found.append(_named(atoms, f"{kind}-{name}"))
    return found


def _first_minimum(energies: np.ndarray) -> int:
    """The minimum at the largest distance: at short ones an untrained repulsion may be missing."""
    for i in range(len(energies) - 2, 0, -1):
        if energies[i] <= energies[i - 1] and energies[i] < energies[i + 1]:
            return i
    return int(np.argmin(energies))
