"""Cells of phonon calculations: conversions to and from phonopy, and a supercell that is long in every direction.

Phonopy's supercell matrix M acts on lattice vectors as columns: ``(A B C) = (a b c) M``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gracecli.errors import UsageError

if TYPE_CHECKING:
    from phonopy.structure.atoms import PhonopyAtoms

IntArray = NDArray[np.int64]


def to_phonopy(atoms: Atoms) -> PhonopyAtoms:
    """ASE to phonopy, masses included."""
    from phonopy.structure.atoms import PhonopyAtoms

    return PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
        masses=atoms.get_masses(),
    )


def from_phonopy(cell: PhonopyAtoms) -> Atoms:
    """Phonopy to ASE."""
    return Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, masses=cell.masses, pbc=True)


def supercell_matrix(atoms: Atoms, given: Sequence[int] | None, min_length: float, symprec: float = 1e-3) -> IntArray:
    """The matrix asked for, or the smallest multiple of the conventional cell with vectors of ``min_length``.

    Parameters
    ----------
    atoms : Atoms
    given : sequence of int, optional
        3 integers (multiples of the lattice vectors) or 9 (rows of M).
    min_length : float
        Å.
    symprec : float
        Å, to find the conventional cell.

    Returns
    -------
    (3, 3) int64

    Raises
    ------
    UsageError
        The matrix has no positive determinant.
    """
    if given is not None:
        matrix = np.diag(given) if len(given) == 3 else np.reshape(given, (3, 3))
        if round(float(np.linalg.det(matrix))) < 1:
            raise UsageError(f"the supercell {' '.join(map(str, given))} has no positive volume")
        return np.asarray(matrix, dtype=np.int64)
    conventional = _conventional(atoms, symprec)
    lengths = np.linalg.norm(conventional.T @ atoms.cell.array, axis=1)
    multiples = np.maximum(np.ceil(min_length / lengths - 1e-3), 1).astype(np.int64)
    return np.asarray(conventional @ np.diag(multiples), dtype=np.int64)


def _conventional(atoms: Atoms, symprec: float) -> IntArray:
    """M of the standardised conventional cell where it is a multiple of the given one, else the identity."""
    import spglib
    from ase.utils import spglib_new_errorhandling

    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    dataset = spglib_new_errorhandling(spglib.get_symmetry_dataset)(cell, symprec=symprec)
    identity = np.eye(3, dtype=np.int64)
    if dataset is None:
        return identity
    # (a b c) = (a_s b_s c_s) P, so that M = P^-1
    matrix = np.linalg.inv(dataset.transformation_matrix)
    whole = np.rint(matrix).astype(np.int64)
    if np.abs(matrix - whole).max() > 1e-3 or round(float(np.linalg.det(whole))) < 1:
        return identity
    return whole
