"""Constraints of the input during a relaxation: what is fixed, and the force that is left.

A constrained structure has converged when the forces along its *allowed* displacements vanish.

======================  ==========================================================================
symbol                  variable
======================  ==========================================================================
a_i (rows of the cell)  ``cell[i]``
free directions         span of the a_i whose fractional coordinate may change
P                       ``projector``: orthogonal projector onto the free directions
F_free = P F            residual force of a partially fixed atom
======================  ==========================================================================

POSCAR selective dynamics fixes *fractional* coordinates. ASE represents that by ``FixScaled``, whose force projection
is exact for orthogonal cells only: in a hexagonal cell it leaves a force on an atom that has none along its free
lattice vector (ASE 3.29). :class:`FixLatticeDirections` projects orthogonally instead and is used in its place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixScaled
from numpy.typing import NDArray

from gracecli.errors import InputError

Array = NDArray[np.float64]


class FixLatticeDirections(FixScaled):
    """Fix fractional coordinates of atoms; the residual force is the orthogonal projection on the free directions.

    A subclass of ``FixScaled``, so that ASE writes it to POSCAR as selective dynamics.
    """

    def adjust_forces(self, atoms: Atoms, forces: Array) -> None:
        """Project ``forces`` (N, 3; eV/Å) of the constrained atoms in place."""
        forces[self.index] = forces[self.index] @ self.projector(atoms.cell[:])

    def projector(self, cell: Array) -> Array:
        """Orthogonal projector (3, 3) onto the span of the free lattice vectors of ``cell`` (3, 3; Å)."""
        free = cell[~self.mask]
        if len(free) == 0:
            return np.zeros((3, 3))
        orthonormal = np.linalg.qr(free.T)[0]
        return orthonormal @ orthonormal.T


def exact_constraints(constraints: list[Any]) -> list[Any]:
    """The same constraints with every ``FixScaled`` replaced by :class:`FixLatticeDirections`."""
    return [FixLatticeDirections(item.index, item.mask) if type(item) is FixScaled else item for item in constraints]


def fixed_atoms(atoms: Atoms) -> NDArray[np.bool_]:
    """Mask (N,) of the atoms that cannot move at all."""
    fixed = np.zeros(len(atoms), dtype=bool)
    for item in atoms.constraints:
        if isinstance(item, FixAtoms) or (isinstance(item, FixScaled) and item.mask.all()):
            fixed[item.index] = True
    return fixed


def hold_symmetry(atoms: Atoms, tolerance: float) -> None:
    """Symmetrise ``atoms`` in place and add ASE's ``FixSymmetry``.

    Parameters
    ----------
    atoms : Atoms
        Periodic structure; its own constraints are kept.
    tolerance : float
        spglib's ``symprec`` in Å.

    Raises
    ------
    InputError
        The fixed atoms of the input are not mapped onto each other by the space group, so that both cannot hold.
    """
    from ase.constraints import FixSymmetry

    kept = list(atoms.constraints)
    atoms.set_constraint()  # fixed atoms would block the initial symmetrisation
    symmetry = FixSymmetry(atoms, symprec=tolerance)
    for item in kept:
        if not isinstance(item, FixAtoms):
            raise InputError(
                f"--fix-symmetry cannot be combined with {type(item).__name__} constraints of the input",
                "fix whole atoms only, or drop --fix-symmetry",
            )
        fixed = np.zeros(len(atoms), dtype=bool)
        fixed[item.index] = True
        if any((fixed[np.asarray(images)] != fixed).any() for images in symmetry.symm_map):
            raise InputError(
                "the fixed atoms of the input break the symmetry that --fix-symmetry is to hold",
                "fix all symmetry-equivalent atoms, or drop --fix-symmetry",
            )
    atoms.set_constraint([symmetry, *kept])
