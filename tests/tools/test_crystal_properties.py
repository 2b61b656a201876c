"""Vacancies, surfaces and elastic constants for model cards: physics, and the DFT values beside them."""

from __future__ import annotations

import pytest
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from crystal_properties import Crystal, crystal, energy_of, reference, slabs, surface, table, vacancy

from gracecli import GraceCalculator


def test_a_surface_energy_does_not_depend_on_thickness_or_width():
    energy = energy_of(bulk("Cu", a=3.59), EMT())  # near EMT's own lattice constant
    found = [
        surface(fcc111("Cu", (size, size, layers), a=3.59, vacuum=8.0, periodic=True), energy, EMT())
        for layers, size in ((6, 1), (9, 1), (6, 2))
    ]
    assert found[0] == pytest.approx(found[1], rel=0.01)
    assert found[0] == pytest.approx(found[2], rel=0.001)
    assert 0.6 < found[0] < 1.6  # J/m²


def test_a_vacancy_costs_energy_and_relaxation_pays_some_back():
    crystal_energy = energy_of(bulk("Cu", a=3.59), EMT())
    perfect = bulk("Cu", a=3.59, cubic=True)
    relaxed = vacancy(perfect, 3, crystal_energy, EMT())
    holed = perfect.repeat(3)
    del holed[0]
    unrelaxed = energy_of(holed, EMT()) - 107 * crystal_energy
    assert 0.5 < relaxed < unrelaxed < 2.0


def test_dft_values(shared_folder):
    assert reference("Nb", shared_folder)["C44"] == 14.8  # by energies; the shear stresses say 5
    assert reference("Si", shared_folder)["vacancy"] == 3.25
    assert reference("Ta", shared_folder)["vacancy"] == pytest.approx(2.8448)
    assert "vacancy" not in reference("W", shared_folder)
    assert reference("Mo", shared_folder)["C11"] == 483.5  # of nbmotaw, like its slabs
    assert reference("Li", shared_folder)["a"] == pytest.approx(3.4386, abs=1e-4)
    assert reference("Ag", shared_folder)["C44"] == 41.94
    assert slabs("Ge", shared_folder) == []
    _, atoms, gamma = next(slab for slab in slabs("W", shared_folder) if slab[0] == "110")
    assert (len(atoms), gamma) == (6, 3.2146)


def test_the_table_shows_both_and_their_mean_deviation():
    one = Crystal("Li", {"a": 3.3, "C44": 5.0, "vacancy": 0.5}, {"a": 3.0, "C44": 10.0}, [("110", 0.6, 0.5)])
    other = Crystal("W", {"a": 3.0, "C44": 150.0}, {"a": 3.0, "C44": 100.0})
    lines = table([one, other]).splitlines()
    assert lines[2].startswith("| Li | 3.300 (3.000) |  |  | 5 (10) |  | 0.50 |  | 0.10 (1) |")
    assert lines[-1].startswith("| mean deviation | 5.00 % |")
    assert "| 50 % |" in lines[-1]
    assert lines[-1].endswith("| 20.0 % |")


@pytest.mark.physics
def test_the_bundled_model_is_near_dft(shared_folder):
    found = crystal("Si", GraceCalculator(), shared_folder)
    assert found.model["a"] == pytest.approx(found.dft["a"], rel=0.005)
    for name in ("C11", "C44", "B", "vacancy", "surface"):
        assert found.model[name] == pytest.approx(found.dft[name], rel=0.25), name
    assert len(found.slabs) == 12
