"""Cheap potentials for dynamics: an fcc crystal of Morse bonds with fixed neighbours, and independent springs."""

import numpy as np
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list


class MorseCrystal(Calculator):
    """phi(d) = D (1 - exp(-a (d - d0)))^2 - D over the twelve nearest neighbours of a crystal that does not melt."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, atoms, depth=0.35, width=1.4, distance=2.55):
        super().__init__()
        centre, self.other, shift = neighbor_list("ijS", atoms, 3.0)
        order = np.argsort(centre, kind="stable")
        self.other, self.shift = self.other[order].reshape(len(atoms), 12), shift[order].reshape(len(atoms), 12, 3)
        self.depth, self.width, self.distance = depth, width, distance

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        cell = atoms.cell.array
        bonds = atoms.positions[self.other] - atoms.positions[:, None] + self.shift @ cell
        d = np.sqrt(np.einsum("inx,inx->in", bonds, bonds))
        decay = np.exp(-self.width * (d - self.distance))
        slope = 2.0 * self.depth * self.width * decay * (1.0 - decay)
        pull = (slope / d)[..., None] * bonds
        virial = 0.5 * np.einsum("inx,iny->xy", pull, bonds) / abs(np.linalg.det(cell))
        energy = 0.5 * float((self.depth * (1.0 - decay) ** 2 - self.depth).sum())
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": pull.sum(axis=1),
            "stress": virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }


class Springs(Calculator):
    """Every atom on its own spring: 1/2 k |r - r0|^2."""

    implemented_properties = ("energy", "free_energy", "forces")

    def __init__(self, sites, stiffness):
        super().__init__()
        self.sites, self.stiffness = sites.copy(), stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        moved = atoms.positions - self.sites
        energy = 0.5 * self.stiffness * float((moved**2).sum())
        self.results = {"energy": energy, "free_energy": energy, "forces": -self.stiffness * moved}


def crystal(repeat=2, a=3.62):
    """Cubic supercell of copper with its potential."""
    atoms = bulk("Cu", a=a, cubic=True) * (repeat, repeat, repeat)
    return atoms, MorseCrystal(atoms)
