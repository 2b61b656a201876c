"""Equations of state against closed forms, elastic constants, and each other."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.units import GPa

from gracecli.errors import InputError, PhysicsError, UsageError
from gracecli.run.elastic import elastic
from gracecli.run.eos import EQUATIONS, Curve, EosSettings, equation_of_state, fit_curve


@pytest.fixture(scope="module")
def calculator():
    from gracecli import GraceCalculator

    return GraceCalculator()


def test_nearest_neighbour_lennard_jones():
    """Mie's 12-6 crystal: V0 = r0^3/sqrt(2) per atom, B0 = 4/3 phi''(r0)/a, B0' = (12 + 6)/3 + 2 = 8."""
    r0 = 2 ** (1 / 6) * 3.4
    calculator = LennardJones(sigma=3.4, epsilon=0.0104, rc=4.6, smooth=False)
    stiffness = 72 * 0.0104 / (2 ** (1 / 3) * 3.4**2)
    found = equation_of_state(bulk("Ar", "fcc", a=5.3), calculator, EosSettings(strain=0.03))
    assert found.curve.volume == pytest.approx(r0**3 / np.sqrt(2), rel=1e-5)
    assert found.curve.bulk_modulus == pytest.approx(4 / 3 * stiffness / (np.sqrt(2) * r0) / GPa, rel=2e-3)
    assert found.curve.bulk_derivative == pytest.approx(8, rel=0.01)
    assert found.lattice[0] == pytest.approx(r0, rel=1e-5)  # edge of the primitive cell
    assert found.pressure_difference < 0.003


@pytest.mark.parametrize("equation", EQUATIONS)
def test_own_energies_give_the_parameters_back(equation):
    truth = Curve(equation, -3.2, 11.8, 140.0, 5.1, (0, 0, 0, 0), 0)
    volumes = np.linspace(11, 12.6, 9)
    found = fit_curve(equation, volumes, truth.energies(volumes))
    got = [found.energy, found.volume, found.bulk_modulus, found.bulk_derivative]
    assert got == pytest.approx([-3.2, 11.8, 140.0, 5.1], rel=1e-6)
    assert found.residual < 1e-10
    # Birch's and Vinet's pressures, written out
    y = (12.5 / 11.8) ** (1 / 3)
    if equation == "vinet":
        expected = 3 * 140 * (1 - y) / y**2 * np.exp(1.5 * 4.1 * (1 - y))
    else:
        expected = 1.5 * 140 * (y**-7 - y**-5) * (1 + 0.75 * 1.1 * (y**-2 - 1))
    assert found.pressures(np.array([12.5]))[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("symbol", ["Cu", "Si", "Mo", "Ta"])
def test_bulk_modulus_is_that_of_the_elastic_constants(calculator, symbol):
    atoms = bulk(symbol)
    by_strain = elastic(atoms, calculator).moduli.bulk_reuss
    found = equation_of_state(atoms, calculator, EosSettings(strain=0.02))
    assert found.curve.bulk_modulus == pytest.approx(by_strain, rel=0.01)
    assert found.bulk_from_stress == pytest.approx(by_strain, rel=0.01)


def test_bulk_modulus_of_a_tetragonal_crystal_needs_the_relaxed_shape():
    """CuAu (L1_0) with EMT: at fixed shape the cell is stiffer; relaxed, B0 is Reuss's average."""
    atoms = Atoms("CuAu", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[2.75, 2.75, 3.7], pbc=True)
    by_strain = elastic(atoms, EMT()).moduli
    relaxed = equation_of_state(atoms, EMT(), EosSettings(strain=0.02))
    scaled = equation_of_state(atoms, EMT(), EosSettings(strain=0.02, clamped=True))
    assert relaxed.curve.bulk_modulus == pytest.approx(by_strain.bulk_reuss, rel=0.01)
    assert scaled.curve.bulk_modulus == pytest.approx(by_strain.bulk_voigt, rel=0.01)


def test_refusals(calculator):
    with pytest.raises(UsageError, match="at least 7"):
        EosSettings(points=5)
    with pytest.raises(InputError, match="periodic"):
        equation_of_state(Atoms("Cu"), calculator)
    with pytest.raises(PhysicsError, match="no minimum"):
        equation_of_state(bulk("Cu", a=3.9), calculator, EosSettings(relax="none", strain=0.03))
