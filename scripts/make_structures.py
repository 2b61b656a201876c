"""Write the example structures of data/structures: ``python scripts/make_structures.py [FOLDER]``.

Deterministic (fixed seeds): the same files to the last digit. Lattice constants are PBE values of the training data
of the bundled model. Every structure is away from its minimum, so that a relaxation has something to do.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bcc110, bulk
from ase.constraints import FixAtoms
from ase.spacegroup import crystal
from numpy.typing import NDArray

from gracecli.run.outputs import Target, write_structures

#: Cubic lattice constants in Å, PBE, from the elastic frames of the mlearn and NbMoTaW data sets.
LATTICE = {"Si": 5.469, "Cu": 3.616, "Mo": 3.168, "Ni": 3.508, "Li": 3.427, "Ge": 5.754, "Ta": 3.322}


def strained(atoms: Atoms, strain: float, seed: int) -> Atoms:
    """Apply a random symmetric strain whose largest component is ``strain``."""
    matrix = np.random.default_rng(seed).normal(size=(3, 3))
    matrix = (matrix + matrix.T) / 2.0
    matrix *= strain / np.abs(matrix).max()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + matrix), scale_atoms=True)
    return atoms


def rattled(atoms: Atoms, sigma: float, seed: int) -> Atoms:
    """Displace every free atom by a Gaussian of width ``sigma`` (Å) in each direction."""
    displacement: NDArray[np.float64] = np.random.default_rng(seed).normal(scale=sigma, size=(len(atoms), 3))
    fixed = [index for constraint in atoms.constraints for index in constraint.index]
    displacement[fixed] = 0.0
    atoms.positions += displacement
    return atoms


def silicon() -> Atoms:
    """Diamond Si, conventional cell, strained by 2 % and rattled by 0.05 Å."""
    return rattled(strained(bulk("Si", "diamond", a=LATTICE["Si"], cubic=True), 0.02, seed=1), 0.05, seed=2)


def copper() -> Atoms:
    """Fcc Cu, conventional cell, 3 % too large in every direction."""
    return bulk("Cu", "fcc", a=1.03 * LATTICE["Cu"], cubic=True)


def molybdenum() -> Atoms:
    """Bcc Mo, 2x2x2 conventional cells, strained by 2 % and rattled by 0.08 Å."""
    cell = bulk("Mo", "bcc", a=LATTICE["Mo"], cubic=True) * (2, 2, 2)
    return rattled(strained(cell, 0.02, seed=3), 0.08, seed=4)


def nickel_vacancy() -> Atoms:
    """Fcc Ni, 3x3x3 conventional cells with one atom removed: 107 atoms."""
    cell = bulk("Ni", "fcc", a=LATTICE["Ni"], cubic=True) * (3, 3, 3)
    cell.set_initial_magnetic_moments(None)  # ASE's guess; no model here knows magnetism
    del cell[0]
    return rattled(cell, 0.03, seed=5)


def lithium_slab() -> Atoms:
    """Bcc Li (110), 2x2x6 layers, 12 Å of vacuum, the two bottom layers fixed, the others rattled by 0.05 Å."""
    slab = bcc110("Li", (2, 2, 6), a=LATTICE["Li"], orthogonal=True, vacuum=6.0, periodic=True)
    slab.positions[:, 2] -= slab.positions[:, 2].min()
    heights = np.unique(slab.positions[:, 2].round(6))
    slab.set_constraint(FixAtoms(mask=slab.positions[:, 2] < heights[1] + 0.1))
    return rattled(slab, 0.05, seed=6)


def germanium() -> Atoms:
    """Diamond Ge, conventional cell, one atom displaced by 0.3 Å along [123]."""
    cell = bulk("Ge", "diamond", a=LATTICE["Ge"], cubic=True)
    direction = np.array([1.0, 2.0, 3.0])
    cell.positions[0] += 0.3 * direction / np.linalg.norm(direction)
    return cell


def molybdenum_tantalum() -> Atoms:
    """Ordered MoTa in the B2 (CsCl) structure, mean lattice constant, elongated by 2 % along c."""
    a = (LATTICE["Mo"] + LATTICE["Ta"]) / 2.0
    cell = crystal(["Mo", "Ta"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=221, cellpar=[a, a, 1.02 * a, 90, 90, 90])
    return Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.get_scaled_positions(), pbc=True)


FILES = {
    "Si.poscar": (silicon, "vasp"),
    "Cu.cif": (copper, "cif"),
    "Mo.poscar": (molybdenum, "vasp"),
    "Ni-vacancy.extxyz": (nickel_vacancy, "extxyz"),
    "Li-slab.poscar": (lithium_slab, "vasp"),
    "Ge-shifted.cif": (germanium, "cif"),
    "MoTa-B2.poscar": (molybdenum_tantalum, "vasp"),
}


def main(folder: Path) -> None:
    """Write all files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (make, format_name) in FILES.items():
        summary = (make.__doc__ or "").splitlines()[0]
        direct = name != "Li-slab.poscar"
        write_structures(Target(folder / name, format_name, direct), [make()], summary)


if __name__ == "__main__":
    default = Path(__file__).resolve().parent.parent / "data" / "structures"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
