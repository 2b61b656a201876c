"""Perfect supercells as primitive cells.

A strained crystal computed in a cell of 108 atoms says nothing that its primitive cell of one atom does not say: energy
per atom and stress are the same, and so are the forces on equivalent atoms. Training on the primitive cell is the same
to the rounding of the file, at a fraction of the work. Labels decide too: where forces on translated copies differ,
nothing is equivalent.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ase import Atoms
from ase.utils import spglib_new_errorhandling

from gracecli.fit.data import Frame

POSITION_TOLERANCE = 1e-4
"""Å within which translated copies coincide."""
FORCE_TOLERANCE = 5e-3
"""eV/Å within which forces on translated copies agree."""


def primitive_frame(frame: Frame) -> Frame:
    """The frame in its primitive cell where it is a perfect supercell, else the frame itself.

    Orientation, and with it stress and forces, stays; forces on equivalent atoms are averaged.
    """
    import spglib

    atoms = frame.atoms
    if not atoms.pbc.all() or len(atoms) == 1:
        return frame
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    found = spglib_new_errorhandling(spglib.get_symmetry_dataset)(cell, symprec=POSITION_TOLERANCE)
    if found is None:
        return frame
    groups = np.asarray(found.mapping_to_primitive)
    kept, size = np.unique(groups, return_index=True)[1], len(np.unique(groups))
    copies = len(atoms) // size
    if copies == 1 or size * copies != len(atoms):
        return frame
    forces = np.stack([frame.forces[groups == g].mean(axis=0) for g in groups[kept]])
    if np.abs(frame.forces - forces[np.searchsorted(groups[kept], groups)]).max() > FORCE_TOLERANCE:
        return frame
    small = Atoms(atoms.numbers[kept], positions=atoms.positions[kept], cell=found.primitive_lattice, pbc=True)
    return replace(frame, atoms=small, energy=frame.energy / copies, forces=forces)
