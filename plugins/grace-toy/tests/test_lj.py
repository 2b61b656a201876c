"""Lennard-Jones against closed forms."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from grace_toy.lj import LennardJones, create_engine
from gracecli.engine.neighbours import build_graph
from gracecli.errors import UsageError
from gracecli.plugin.engine_checks import FAILED, check_engine

# Lattice sums of fcc over all neighbours, distances in nearest-neighbour units: A_12 and A_6
# (Hirschfelder, Curtiss and Bird, Molecular Theory of Gases and Liquids, table 13.9-1)
A12, A6 = 12.13188020, 14.45392104


def evaluate(engine, atoms):
    return engine.evaluate([build_graph(atoms, engine.cutoff)])[0]


def argon(distance: float) -> Atoms:
    return bulk("Ar", "fcc", a=distance * np.sqrt(2))


def test_keeps_the_engine_contract():
    for engine in (LennardJones(), LennardJones(sigma=2.2, cutoff=5.0)):
        assert [check for check in check_engine(engine) if check.outcome == FAILED] == []


def test_dimer_at_its_minimum():
    engine = LennardJones(epsilon=0.5, sigma=3.0)
    result = evaluate(engine, Atoms("Ar2", [[0, 0, 0], [0, 0, 2 ** (1 / 6) * 3.0]]))
    assert result.energy == pytest.approx(-0.5, abs=1e-14)
    assert result.energies == pytest.approx([-0.25, -0.25], abs=1e-14)
    assert np.abs(result.forces).max() < 1e-14


def test_dimer_force_and_sign():
    engine = LennardJones(epsilon=1.0, sigma=1.0, cutoff=10.0)
    result = evaluate(engine, Atoms("Ar2", [[0, 0, 0], [1.0, 0, 0]]))
    assert result.energy == pytest.approx(0.0, abs=1e-14)
    assert result.forces[:, 0] == pytest.approx([-24.0, 24.0])  # they push each other apart


def test_fcc_energy_is_the_lattice_sum():
    """E/N = 2 epsilon [A_12 (sigma/d)^12 - A_6 (sigma/d)^6]; the cutoff leaves a known tail of the r^-6 sum."""
    distance, sigma, epsilon = 3.7, 3.4, 0.0103
    engine = LennardJones(epsilon, sigma, cutoff=40.0, onset=39.9)
    x = (sigma / distance) ** 6
    exact = 2 * epsilon * (A12 * x**2 - A6 * x)
    density = np.sqrt(2) / distance**3
    tail = -2 * epsilon * sigma**6 * 4 * np.pi * density / (3 * 39.95**3)
    energy = evaluate(engine, argon(distance)).energy
    assert energy - exact == pytest.approx(-tail, rel=0.1)
    assert energy == pytest.approx(exact - tail, rel=1e-5)


def test_fcc_has_no_stress_at_the_distance_of_the_lattice_sums():
    """DE/dd = 0 at d = sigma (2 A_12 / A_6)^(1/6); on either side the stress has the sign of tension."""
    sigma = 3.4
    engine = LennardJones(sigma=sigma, cutoff=30.0, onset=29.5)
    minimum = sigma * (2 * A12 / A6) ** (1 / 6)
    stress = [evaluate(engine, argon(factor * minimum)).stress for factor in (0.99, 1.0, 1.01)]
    assert stress[0][0] < 0 < stress[2][0]  # compressed: pushes outwards, tensile-positive convention
    assert abs(stress[1][0]) < 0.02 * abs(stress[2][0])
    assert np.abs(stress[2][3:]).max() < 1e-12
    assert stress[2][0] == pytest.approx(stress[2][1], rel=1e-10)


def test_energy_and_force_vanish_smoothly_at_the_cutoff():
    engine = LennardJones(cutoff=6.0)
    distances = np.array([engine.onset, engine.cutoff - 1e-4, engine.cutoff])
    energy, slope = engine.pair_energy(distances)
    unswitched = 4 * engine.epsilon * ((engine.sigma / engine.onset) ** 12 - (engine.sigma / engine.onset) ** 6)
    assert energy[0] == pytest.approx(unswitched, rel=1e-14)
    assert np.abs(energy[1:]).max() < 1e-13
    assert np.abs(slope[1:]).max() < 1e-9
    assert slope[2] == 0.0


def test_bad_options_say_which_exist():
    with pytest.raises(UsageError, match="epsilon, sigma, cutoff, onset"):
        create_engine(None, None, depth=1.0)
    with pytest.raises(UsageError, match="must be a number"):
        create_engine(None, None, sigma="wide")
    with pytest.raises(UsageError, match="sigma > 0"):
        create_engine(None, None, sigma=-1.0)
    with pytest.raises(UsageError, match="fp64"):
        create_engine(None, "fp32")
