"""Finding structures that are there more than once, and writing the store anew without them.

Exact copies have the same geometry (uid), method and constraints. ``match`` also finds re-ordered, shifted and rotated
copies: pairs of one composition, method and (within 1 %) volume per atom are compared by pymatgen's StructureMatcher.
Rounded coordinates would be a faster proposal, but their bins split near-equal copies.

Copies whose energies differ are no duplicates but a contradiction in the data: they are kept, and counted. Of the
others the one with the most labels is kept (then the first); results and sets refer to it from then on.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import InputError
from gracecli.store.compact import Rewritten, rewrite
from gracecli.store.query import counts
from gracecli.store.results import constraints

if TYPE_CHECKING:
    from gracecli.store.store import Store

ENERGY_TOLERANCE = 1e-6  # eV/atom: labels of exact copies
MATCH_ENERGY = 1e-3  # eV/atom: labels of matching structures
VOLUME_TOLERANCE = 0.01


@dataclass(frozen=True)
class Duplicates:
    """Which structures are copies.

    Attributes
    ----------
    same : (N,) int array
        For a copy: the structure that is kept in its place; -1 for all others.
    contradictions : tuple of (int, int)
        Copies with different energies; both are kept.
    """

    same: NDArray[np.int64]
    contradictions: tuple[tuple[int, int], ...]

    @property
    def groups(self) -> dict[int, list[int]]:
        """Structure that is kept -> its copies."""
        found: dict[int, list[int]] = defaultdict(list)
        for copy in np.flatnonzero(self.same >= 0):
            found[int(self.same[copy])].append(int(copy))
        return dict(found)


def find_duplicates(store: Store, match: bool = False, tolerance: float = 0.01) -> Duplicates:
    """Copies in a store.

    Parameters
    ----------
    store : Store
    match : bool
        Also re-ordered, shifted and rotated copies.
    tolerance : float
        Root-mean-square displacement in units of (volume per atom)^(1/3), up to which structures match.
    """
    finder = _Finder(store)
    finder.exact()
    if match:
        finder.matching(tolerance)
    return Duplicates(finder.same, tuple(finder.contradictions))


def dedup(
    path: Path, output: Path | None = None, *, match: bool = False, tolerance: float = 0.01, wait: float = 60.0,
    force: bool = False,
) -> tuple[Duplicates, Rewritten | None]:  # fmt: skip
    """Write a store without its duplicates (in place, or to ``output``); None if there are none and nothing to write.

    Raises
    ------
    InputError
        ``output`` exists.
    StoreError
        The store is being written.
    """
    from gracecli.store.store import Store

    if tolerance <= 0:
        raise InputError(f"the tolerance must be positive, not {tolerance:g}")
    with Store(path) as store:
        duplicates = find_duplicates(store, match, tolerance)
    if output is None and not duplicates.groups:
        return duplicates, None
    keep = duplicates.same < 0
    return duplicates, rewrite(path, output, keep, duplicates.same, wait=wait, force=force)


class _Finder:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.same = np.full(len(store), -1, np.int64)
        self.contradictions: list[tuple[int, int]] = []
        natoms = np.maximum(store.column("structure/natoms"), 1)
        self.energy = store.column("structure/energy") / natoms
        self.labels = np.array([int(bits).bit_count() for bits in store.column("structure/present")], int)
        self._constraints: dict[int, Any] = {}

    def _held(self, row: int) -> Any:
        if row not in self._constraints:
            self._constraints[row] = constraints(self.store.entry(row))
        return self._constraints[row]

    def _fold(self, rows: list[int], limit: float, equal: Any = None) -> None:
        """Fold rows onto the first of them that they are copies of, best labelled first."""
        kept: list[int] = []
        for row in sorted(rows, key=lambda row: (-self.labels[row], row)):
            for other in kept:
                if self._held(row) != self._held(other) or (equal is not None and not equal(row, other)):
                    continue
                if abs(self.energy[row] - self.energy[other]) > limit:  # False where one has none
                    self.contradictions.append((min(row, other), max(row, other)))
                    continue
                self.same[row] = other
                self.same[self.same == row] = other
                break
            else:
                kept.append(row)

    def exact(self) -> None:
        """Equal label hash: geometry and method."""
        together: dict[bytes, list[int]] = defaultdict(list)
        for row, label in enumerate(self.store.column("structure/label")):
            together[label.tobytes()].append(row)
        for rows in together.values():
            if len(rows) > 1:
                self._fold(rows, ENERGY_TOLERANCE)

    def matching(self, tolerance: float) -> None:
        """Structures that StructureMatcher finds equal."""
        from pymatgen.analysis.structure_matcher import StructureMatcher
        from pymatgen.io.ase import AseAtomsAdaptor

        matcher = StructureMatcher(
            ltol=tolerance, stol=tolerance, angle_tol=100 * tolerance, primitive_cell=False, scale=False
        )
        table = counts(self.store)
        volume = np.abs(np.linalg.det(self.store.column("structure/cell"))) / np.maximum(table.sum(axis=1), 1)
        periodic = self.store.column("structure/pbc") == 7
        together: dict[tuple[bytes, str], list[int]] = defaultdict(list)
        for row in np.flatnonzero((self.same < 0) & periodic):
            method = self.store.document(int(row)).get("method", "")
            together[(table[row].tobytes(), method)].append(int(row))
        structures: dict[int, Any] = {}

        def structure(row: int) -> Any:
            if row not in structures:
                atoms = self.store.atoms(row)
                atoms.calc, atoms.constraints = None, []
                structures[row] = AseAtomsAdaptor.get_structure(atoms)
            return structures[row]

        def equal(row: int, other: int) -> bool:
            near = abs(volume[row] - volume[other]) <= VOLUME_TOLERANCE * volume[other]
            return bool(near and matcher.fit(structure(row), structure(other)))

        for rows in together.values():
            if len(rows) > 1:
                self._fold(rows, MATCH_ENERGY, equal)
                structures.clear()
