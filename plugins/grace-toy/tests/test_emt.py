"""Effective medium theory against ASE's own."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT

from grace_toy.emt import create_engine
from gracecli.engine.neighbours import build_graph
from gracecli.errors import InputError
from gracecli.plugin.engine_checks import FAILED, check_engine


def alloy() -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.numbers[::3] = 79
    atoms.rattle(0.1, seed=1)
    return atoms


def slab() -> Atoms:
    atoms = fcc111("Pt", (2, 2, 3), vacuum=8.0)
    atoms.rattle(0.1, seed=2)
    return atoms


@pytest.mark.parametrize(
    "atoms",
    [alloy(), slab(), Atoms("Al2", [[0, 0, 0], [0, 0.3, 2.8]]), Atoms("Ni"), bulk("Ag", a=3.9)],
    ids=["alloy", "slab", "dimer", "atom", "one-atom cell"],
)
def test_agrees_with_ase(atoms):
    engine = create_engine()
    result = engine.evaluate([build_graph(atoms, engine.cutoff)])[0]
    atoms = atoms.copy()
    atoms.calc = EMT()
    assert result.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    assert np.abs(result.energies - atoms.get_potential_energies()).max() < 1e-10
    assert np.abs(result.forces - atoms.get_forces()).max() < 1e-10
    if atoms.cell.rank == 3:
        assert np.abs(result.stress - atoms.get_stress()).max() < 1e-12


def test_keeps_the_engine_contract():
    assert [check for check in check_engine(create_engine()) if check.outcome == FAILED] == []


def test_names_the_elements_it_has():
    engine = create_engine()
    with pytest.raises(InputError, match="it has Al Cu"):
        engine.evaluate([build_graph(bulk("Si"), engine.cutoff)])
