"""Integrators: ASE's where both are right, conserved energies, exact states, canonical numbers."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import ase.md.nose_hoover_chain as ase_chains
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian
from ase.md.verlet import VelocityVerlet as AseVerlet
from ase.units import GPa, fs, kB

from gracecli.run.md import Simulation, find_ensemble, run
from gracecli.run.md_barostats import Mtk
from gracecli.run.md_checkpoint import load_checkpoint, save_checkpoint
from gracecli.run.md_integrators import VelocityRescaling
from gracecli.run.md_settings import MdSettings
from gracecli.run.md_start import draw_momenta
from gracecli.run.md_system import System

specification = importlib.util.spec_from_file_location("md_models", Path(__file__).parent / "md_models.py")
md_models = importlib.util.module_from_spec(specification)
sys.modules["md_models"] = md_models
specification.loader.exec_module(md_models)

ENSEMBLES = ("nve", "nvt-langevin", "nvt-csvr", "nvt-nhc", "npt-mtk", "npt-mtk-iso", "npt-berendsen")
HOT = MdSettings(temperature=600.0, temperature_end=600.0, timestep=2.0, thermostat_time=50.0, barostat_time=200.0)


def system_of(atoms, calculator, temperature=600.0, seed=1):
    system = System(atoms, calculator)
    draw_momenta(system, temperature, np.random.default_rng(seed))
    return system


def settings_for(ensemble, **changes):
    return replace(HOT, ensemble=ensemble, **changes)


def advance(system, integrator, steps):
    system.evaluate()
    for _ in range(steps):
        integrator.advance(system)


def ase_twin(system, calculator):
    atoms = system.atoms.copy()
    atoms.positions[:] = system.positions
    atoms.set_momenta(system.momenta)
    atoms.calc = calculator
    return atoms


def test_nve_is_ases_velocity_verlet():
    atoms, calculator = md_models.crystal()
    system = system_of(atoms, calculator)
    twin = ase_twin(system, calculator)
    advance(system, find_ensemble("nve")(system, settings_for("nve"), np.random.default_rng(0)), 100)
    AseVerlet(twin, timestep=2.0 * fs).run(100)
    np.testing.assert_allclose(system.positions, twin.positions, atol=1e-11)
    np.testing.assert_allclose(system.momenta, twin.get_momenta(), atol=1e-11)


def test_nose_hoover_chains_are_ases_for_equal_degrees_of_freedom():
    atoms, calculator = md_models.crystal()
    system = system_of(atoms, calculator, 900.0)
    twin = ase_twin(system, calculator)
    system.freedom = 3 * len(atoms)  # as ASE counts
    advance(system, find_ensemble("nvt-nhc")(system, settings_for("nvt-nhc"), np.random.default_rng(0)), 100)
    ase_chains.NoseHooverChainNVT(twin, 2.0 * fs, temperature_K=600.0, tdamp=50.0 * fs).run(100)
    np.testing.assert_allclose(system.positions, twin.positions, atol=1e-10)
    np.testing.assert_allclose(system.momenta, twin.get_momenta(), atol=1e-10)


@pytest.mark.parametrize("ensemble", ["npt-mtk", "npt-mtk-iso"])
def test_martyna_tobias_klein_is_ases_for_equal_degrees_of_freedom(ensemble, monkeypatch):
    if not hasattr(ase_chains, "MTKNPT"):
        pytest.skip("this ASE has no MTKNPT")
    monkeypatch.setattr(Mtk, "cell_freedom", 9)  # as ASE counts; the isotropic class has its own
    atoms, calculator = md_models.crystal()
    system = system_of(atoms, calculator)
    twin = ase_twin(system, calculator)
    system.freedom = 3 * len(atoms)
    factory = find_ensemble(ensemble)
    integrator = factory(system, settings_for(ensemble, pressure=3.0), np.random.default_rng(0))
    if ensemble == "npt-mtk-iso":
        # ASE gives the first link of the chain on the single volume the mass of nine degrees of freedom
        integrator.cell_chain.masses[0] *= 9.0
    advance(system, integrator, 60)
    kind = ase_chains.MTKNPT if ensemble == "npt-mtk" else ase_chains.IsotropicMTKNPT
    kind(
        twin, 2.0 * fs, temperature_K=600.0, pressure_au=3.0 * GPa, tdamp=50.0 * fs, pdamp=200.0 * fs
    ).run(60)  # fmt: skip
    assert abs(np.linalg.det(system.cell) / atoms.get_volume() - 1.0) > 1e-3  # it moved
    np.testing.assert_allclose(system.cell, twin.cell.array, atol=1e-9)
    np.testing.assert_allclose(system.positions, twin.positions, atol=1e-9)
    np.testing.assert_allclose(system.momenta, twin.get_momenta(), atol=1e-9)


def spread(ensemble, timestep, name="conserved_energy", steps=None, **changes):
    """Standard deviation of an energy along 0.6 ps, eV/atom."""
    atoms, calculator = md_models.crystal()
    steps = round(600 / timestep) if steps is None else steps
    changes = {"temperature_end": 600.0, "ramp_steps": steps, **changes}
    settings = settings_for(
        ensemble, timestep=timestep, steps=steps, thermo_every=max(1, round(8 / timestep)), **changes
    )
    samples = []
    assert run(Simulation.begin(atoms, calculator, settings), observer=samples.append).status == "finished"
    return np.nanstd([getattr(sample, name) for sample in samples]) / len(atoms)


@pytest.mark.parametrize("ensemble", ["nve", "nvt-nhc", "npt-mtk", "npt-mtk-iso"])
def test_conserved_energy_fluctuates_as_the_timestep_squared(ensemble):
    ratio = spread(ensemble, 4.0) / spread(ensemble, 2.0)
    assert 3.2 < ratio < 5.0


@pytest.mark.parametrize("ensemble", ["nvt-langevin", "nvt-csvr", "nvt-nhc", "npt-mtk"])
def test_heat_is_booked_also_while_the_temperature_ramps(ensemble):
    flat = spread(ensemble, 2.0)
    assert spread(ensemble, 2.0, temperature_end=1200.0) < 4.0 * flat  # the kinetic energy grows by 0.08 eV/atom
    assert flat < 1e-4


def test_shadow_energy_is_conserved_to_higher_order():
    plain, shadow = (spread("nve", 2.0, name) for name in ("total_energy", "shadow_energy"))
    assert shadow < 0.02 * plain
    assert 9.0 < spread("nve", 4.0, "shadow_energy") / shadow < 25.0  # the timestep to the fourth power


def test_rescaling_pulls_the_kinetic_energy_as_bussi_says():
    """Mean and variance of one rescaling: <K'> = c K + (1 - c) K0, var = 2 K0 (1 - c) [2 c K + (1 - c) K0] / N_f."""
    atoms, calculator = md_models.crystal()
    system = system_of(atoms, calculator)
    rng = np.random.default_rng(3)
    integrator = VelocityRescaling(system, settings_for("nvt-csvr", thermostat_time=20.0), rng)
    freedom, c = 21, np.exp(-2.0 / 20.0)
    target = 0.5 * freedom * kB * 600.0
    kinetic = 1.7 * target
    after = kinetic * np.array([integrator._scale(kinetic, freedom) ** 2 for _ in range(40000)])
    assert after.mean() == pytest.approx(c * kinetic + (1 - c) * target, abs=4 * after.std() / 200)
    expected = 2 * target * (1 - c) * (2 * c * kinetic + (1 - c) * target) / freedom
    assert after.var() == pytest.approx(expected, rel=0.04)


def test_langevin_gives_the_exact_mean_square_of_a_spring_at_large_timesteps():
    """BAOAB samples a harmonic potential without error of the timestep (Leimkuhler and Matthews)."""
    sites = bulk("Cu", cubic=True) * (6, 6, 6)
    stiffness = 63.5 * (0.5 / (10.0 * fs)) ** 2  # omega times the timestep of 10 fs is 0.5
    calculator = md_models.Springs(sites.positions, stiffness)
    settings = settings_for("nvt-langevin", timestep=10.0, thermostat_time=30.0)
    system = system_of(sites, calculator)
    integrator = find_ensemble("nvt-langevin")(system, settings, np.random.default_rng(5))
    advance(system, integrator, 40)
    squares = []
    for _ in range(60):
        for _ in range(8):
            integrator.advance(system)
        squares.append(((system.positions - sites.positions) ** 2).mean())
    exact = kB * 600.0 / stiffness
    assert np.mean(squares) == pytest.approx(exact, rel=0.01)
    assert system.freedom == 3 * len(sites)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_state_saved_and_loaded_goes_on_bit_for_bit(ensemble, tmp_path):
    atoms, calculator = md_models.crystal()
    settings = settings_for(ensemble, steps=60, temperature_end=900.0 if ensemble != "nve" else 600.0, ramp_steps=50)
    whole = Simulation.begin(atoms, calculator, settings)
    first = Simulation.begin(atoms, calculator, settings)
    run(whole)
    for _ in range(23):
        first.advance()
    save_checkpoint(tmp_path / "c.npz", first.state())
    second = Simulation.resume(load_checkpoint(tmp_path / "c.npz"), md_models.MorseCrystal(atoms))
    run(second)
    for name, value in whole.state().system.items():
        assert value.tobytes() == second.state().system[name].tobytes(), name
    for name, value in whole.state().integrator.items():
        assert value.tobytes() == second.state().integrator[name].tobytes(), name
    assert whole.rng.bit_generator.state == second.rng.bit_generator.state
    assert whole.sample() == second.sample() or whole.sample().line() == second.sample().line()


def test_fixed_atoms_stay_and_survive_a_checkpoint(tmp_path):
    atoms, calculator = md_models.crystal()
    atoms.set_constraint([FixAtoms([0, 5]), FixCartesian(7, mask=(True, False, True))])
    simulation = Simulation.begin(atoms, calculator, settings_for("nvt-langevin", steps=20))
    run(simulation)
    save_checkpoint(tmp_path / "c.npz", simulation.state())
    simulation = Simulation.resume(load_checkpoint(tmp_path / "c.npz"), calculator)
    run(Simulation.resume(simulation.state(), calculator, simulation.settings.continued(40)))
    moved = simulation.system.positions - atoms.positions
    assert (moved[[0, 5]] == 0).all()
    assert (moved[7, [0, 2]] == 0).all()
    assert moved[7, 1] != 0
    assert simulation.system.freedom == 3 * 32 - 8


@pytest.mark.parametrize(
    ("atoms", "freedom"),
    [
        (bulk("Cu", cubic=True), 9),
        (molecule("H2O"), 3),
        (molecule("CO2"), 4),  # linear
        (Atoms("Cu"), 0),
    ],
)
def test_degrees_of_freedom(atoms, freedom):
    assert System(atoms, EMT()).freedom == freedom


def test_drawn_velocities_are_at_rest_and_at_temperature():
    water = molecule("H2O")
    system = System(water, EMT())
    draw_momenta(system, 300.0, np.random.default_rng(2))
    arm = system.positions - water.get_center_of_mass()
    assert np.abs(system.momenta.sum(axis=0)).max() < 1e-12
    assert np.abs(np.cross(arm, system.momenta).sum(axis=0)).max() < 1e-10
    assert system.temperature() == pytest.approx(300.0, abs=1e-9)


def test_momentum_stays_zero_and_temperature_is_that_of_the_moving_atoms():
    atoms, calculator = md_models.crystal()
    for ensemble in ("nve", "nvt-csvr", "nvt-nhc", "npt-mtk", "npt-mtk-iso"):
        simulation = Simulation.begin(atoms, calculator, settings_for(ensemble, steps=100))
        run(simulation)
        assert np.abs(simulation.system.momenta.sum(axis=0)).max() < 1e-9, ensemble
        assert simulation.system.freedom == 3 * len(atoms) - 3
