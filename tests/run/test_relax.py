"""Relaxation against analytic minima, finite differences and plain ASE."""

import json
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, FixScaled
from ase.filters import UnitCellFilter
from ase.optimize import BFGS
from ase.units import GPa

from gracecli.errors import InputError, PhysicsError, UsageError
from gracecli.plugin.manager import get_plugin_manager
from gracecli.run.cell import CellFilter
from gracecli.run.checks import cell_warnings
from gracecli.run.relax import RelaxStep, relax
from gracecli.run.result import RelaxSettings
from gracecli.run.symmetry import SpaceGroup, space_group


def disturbed(atoms, strain=0.02, rattle=0.05, seed=0):
    """A copy with a random symmetric strain and Gaussian displacements."""
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(3, 3))
    matrix = (matrix + matrix.T) / 2
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + strain * matrix / np.abs(matrix).max()), scale_atoms=True)
    atoms.positions += generator.normal(scale=rattle, size=atoms.positions.shape)
    return atoms


def skew_copper():
    """Four Cu atoms in a triclinic cell, disturbed."""
    atoms = bulk("Cu", a=3.61) * (2, 2, 1)
    return disturbed(atoms, 0.03, 0.05, seed=3)


# --- minima known from elsewhere -------------------------------------------------------------------------------------


def test_lennard_jones_fcc_lattice_constant_is_the_lattice_sum_minimum():
    sigma, epsilon = 3.0, 0.05
    # sum over the fcc lattice of r^-n in units of the neighbour distance: A_6 = 14.45392, A_12 = 12.13188
    # (Kittel, Introduction to Solid State Physics, chapter 3), hence r_0 = (2 A_12 / A_6)^(1/6) sigma
    expected = np.sqrt(2.0) * (2 * 12.13188 / 14.45392) ** (1 / 6) * sigma
    atoms = bulk("Ar", "fcc", a=1.04 * expected)
    calculator = LennardJones(sigma=sigma, epsilon=epsilon, rc=7 * sigma, smooth=False)
    result = relax(atoms, calculator, RelaxSettings(cell="full", smax=1e-5, fmax=1e-5))
    assert result.converged
    found = result.final.lengths * np.sqrt(2.0)
    np.testing.assert_allclose(found, expected, rtol=3e-4)  # what the cutoff at 7 sigma leaves out
    assert result.final.energy == pytest.approx(-epsilon * 14.45392**2 / (2 * 12.13188), rel=1e-2)  # ASE shifts it
    assert result.final.space_group.number == 225


def test_agrees_with_plain_ase():
    atoms = disturbed(bulk("Cu", cubic=True))
    result = relax(atoms, EMT(), RelaxSettings(cell="full", fmax=1e-5, smax=1e-4))
    reference = atoms.copy()
    reference.calc = EMT()
    assert BFGS(UnitCellFilter(reference), logfile=None).run(fmax=1e-5, steps=200)
    assert result.final.energy == pytest.approx(reference.get_potential_energy(), abs=1e-6)
    assert result.final.volume == pytest.approx(reference.get_volume(), rel=1e-5)
    independent = result.atoms.copy()
    independent.calc = EMT()
    assert independent.get_potential_energy() == pytest.approx(result.final.energy, abs=1e-9)
    assert np.linalg.norm(independent.get_forces(), axis=1).max() == pytest.approx(result.final.max_force, abs=1e-9)
    np.testing.assert_allclose(independent.get_stress(), result.final.stress, atol=1e-10)


@pytest.mark.parametrize("name", sorted(get_plugin_manager().optimizers()))
def test_every_optimizer_finds_the_same_minimum(name):
    cell = "full" if name == "cell-aware-bfgs" else "none"
    atoms = disturbed(bulk("Cu", cubic=True), 0.0, 0.03)
    result = relax(atoms, EMT(), RelaxSettings(optimizer=name, cell=cell))
    assert result.converged, result.message
    assert result.final.max_force <= 0.02
    assert result.final.energy_per_atom < (-0.0068 if cell == "full" else -0.0056)


@pytest.mark.parametrize("name", ["lbfgs", "fire", "fire2", "bfgs", "cell-aware-bfgs"])
def test_no_optimizer_diverges_far_from_the_minimum(name):
    atoms = disturbed(bulk("Cu", cubic=True) * (2, 1, 1), 0.12, 0.25, seed=5)
    result = relax(atoms, EMT(), RelaxSettings(optimizer=name, cell="full"))
    assert result.converged, result.message
    assert result.final.energy_per_atom == pytest.approx(-0.00704, abs=1e-4)


# --- cell modes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["none", "full", "volume", "shape", "lengths"])
def test_generalised_forces_are_the_gradient_of_the_enthalpy(mode):
    atoms = skew_copper()
    atoms.calc = EMT()
    target = CellFilter(atoms, mode, 3 * GPa)
    generator = np.random.default_rng(1)
    start = target.get_positions()
    target.set_positions(start + 0.02 * generator.normal(size=start.shape))  # away from zero strain
    here, forces = target.get_positions(), target.get_forces()
    for _ in range(4):
        direction = generator.normal(size=here.shape)
        values = []
        for step in (1e-4, -1e-4):
            target.set_positions(here + step * direction)
            values.append(target.get_potential_energy())
            target.set_positions(here)
        slope = (values[0] - values[1]) / 2e-4
        assert -np.sum(forces * direction) == pytest.approx(slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "optimizer"),
    [("none", "lbfgs"), *product(["full", "volume", "shape", "lengths"], ["lbfgs", "fire", "cell-aware-bfgs"])],
)
def test_cell_modes_keep_what_they_promise(mode, optimizer):
    atoms = skew_copper()
    result = relax(atoms, EMT(), RelaxSettings(cell=mode, optimizer=optimizer))
    assert result.converged, result.message
    before, after = result.initial, result.final
    metric_before, metric_after = before.cell @ before.cell.T, after.cell @ after.cell.T
    if mode == "none":
        np.testing.assert_array_equal(after.cell, before.cell)
    elif mode == "volume":
        np.testing.assert_allclose(after.cell / after.cell[0, 0], before.cell / before.cell[0, 0], atol=1e-10)
        assert abs(after.volume / before.volume - 1) > 1e-3
        assert abs(after.stress[:3].mean()) < 0.02 * GPa
    elif mode == "shape":
        assert after.volume == pytest.approx(before.volume, rel=1e-9)
        assert np.abs(metric_after - metric_before).max() > 0.01
        deviator = after.stress - after.stress[:3].mean() * np.array([1, 1, 1, 0, 0, 0])
        assert np.abs(deviator).max() < 0.02 * GPa
    elif mode == "lengths":
        np.testing.assert_allclose(after.angles, before.angles, atol=1e-8)
        assert np.abs(after.lengths - before.lengths).max() > 0.01
    else:
        assert np.abs(after.stress).max() < 0.02 * GPa
        assert after.energy_per_atom == pytest.approx(-0.00704, abs=1e-4)


def test_lengths_mode_keeps_120_degrees():
    atoms = disturbed(bulk("Cu", "hcp", a=2.6, c=4.4) * (2, 1, 1), 0.0, 0.1)
    result = relax(atoms, EMT(), RelaxSettings(cell="lengths"))
    assert result.converged
    np.testing.assert_allclose(result.final.angles, [90, 90, 120], atol=1e-8)


def test_pressure_compresses_and_the_enthalpy_is_stationary():
    atoms = bulk("Cu", a=3.61)
    volumes = {}
    for pressure in (-5.0, 0.0, 5.0):
        result = relax(atoms, EMT(), RelaxSettings(cell="full", pressure=pressure, smax=1e-4))
        assert result.converged
        volumes[pressure] = result.final.volume
        np.testing.assert_allclose(result.final.stress[:3] / GPa, -pressure, atol=1e-3)

        def enthalpy(strain, relaxed=result.atoms, external=pressure * GPa):
            moved = relaxed.copy()
            moved.set_cell(relaxed.cell[:] * (1 + strain), scale_atoms=True)
            moved.calc = EMT()
            return moved.get_potential_energy() + external * moved.get_volume()

        slope = (enthalpy(1e-4) - enthalpy(-1e-4)) / 2e-4 / result.final.volume / GPa
        assert abs(slope) < 5e-3
        assert enthalpy(0.01) > enthalpy(0.0) < enthalpy(-0.01)
        if pressure:
            assert result.final.enthalpy == pytest.approx(enthalpy(0.0), abs=1e-9)
    assert volumes[5.0] < volumes[0.0] < volumes[-5.0]


# --- symmetry and constraints ----------------------------------------------------------------------------------------


def test_fix_symmetry_holds_what_an_unconstrained_run_breaks():
    # bcc copper is unstable against the Bain strain towards fcc; the seed of it is below the tolerance
    atoms = bulk("Cu", "bcc", a=2.87, cubic=True)
    atoms.set_cell(atoms.cell[:] @ np.diag([1.0, 1.0, 1.0015]), scale_atoms=True)
    # (a quasi-Newton step would walk to the saddle point that bcc is; FIRE goes downhill)
    free = relax(atoms, EMT(), RelaxSettings(cell="full", smax=5e-3, optimizer="fire"))
    held = relax(atoms, EMT(), RelaxSettings(cell="full", smax=5e-3, optimizer="fire", fix_symmetry=True))
    assert free.initial.space_group.number == held.initial.space_group.number == 229
    assert held.converged
    assert held.final.space_group.number == 229
    assert np.ptp(held.final.lengths) < 1e-10
    assert free.final.space_group.number != 229
    assert free.final.energy < held.final.energy
    assert not held.atoms.constraints


def test_lost_symmetry_is_a_warning():
    result = relax(bulk("Cu", a=3.59), EMT())
    high, low = SpaceGroup(229, "Im-3m", 96), SpaceGroup(139, "I4/mmm", 32)
    before, after = replace(result.initial, space_group=high), replace(result.final, space_group=low)
    (text,) = cell_warnings(result.atoms, before, after)
    assert "Im-3m (229) -> I4/mmm (139)" in text
    assert cell_warnings(result.atoms, after, before) == []


def test_supercells_have_the_symmetry_of_their_crystal():
    one, many = (space_group(atoms) for atoms in (bulk("Cu"), bulk("Cu", cubic=True) * (2, 1, 1)))
    assert one.number == many.number == 225
    assert (one.operations, many.operations) == (48, 48 * 8)


def test_symmetry_breaking_constraints_are_refused():
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(InputError, match="break the symmetry"):
        relax(atoms, EMT(), RelaxSettings(fix_symmetry=True))


def test_fixed_atoms_stay_and_do_not_count():
    slab = fcc111("Cu", (2, 2, 4), vacuum=7, periodic=True)
    slab.rattle(0.1, seed=1)
    fixed = [atom.index for atom in slab if atom.tag > 2]
    slab.set_constraint(FixAtoms(fixed))
    result = relax(slab, EMT(), RelaxSettings())
    assert result.converged
    np.testing.assert_array_equal(result.atoms.positions[fixed], slab.positions[fixed])
    assert result.final.max_force_with_fixed > 10 * result.final.max_force
    assert result.atoms.constraints[0].index.tolist() == fixed


def test_fixed_atoms_keep_fractional_coordinates_when_the_cell_relaxes():
    atoms = disturbed(bulk("Cu", cubic=True), 0.03, 0.05)
    atoms.set_constraint(FixAtoms([0]))
    result = relax(atoms, EMT(), RelaxSettings(cell="full"))
    assert result.converged
    np.testing.assert_allclose(result.atoms.get_scaled_positions()[0], atoms.get_scaled_positions()[0], atol=1e-10)


def test_partially_fixed_atoms_in_a_skew_cell_reach_the_constrained_minimum():
    atoms = bulk("Cu", "hcp", a=2.56, c=4.18) * (2, 2, 1)
    atoms.rattle(0.1, seed=4)
    atoms.set_constraint([FixScaled(1, (True, False, True)), FixAtoms([0])])
    result = relax(atoms, EMT(), RelaxSettings(fmax=1e-3))
    assert result.converged, result.message
    move = result.atoms.get_scaled_positions(wrap=False)[1] - atoms.get_scaled_positions(wrap=False)[1]
    np.testing.assert_allclose(move[[0, 2]], 0.0, atol=1e-10)
    assert abs(move[1]) > 1e-3
    forces = result.atoms.get_forces(apply_constraint=False)
    along = result.atoms.cell[1] / np.linalg.norm(result.atoms.cell[1])
    assert abs(forces[1] @ along) < 1e-3  # no force along the free lattice vector
    assert np.linalg.norm(forces[1]) > 0.01  # but one across it


# --- endings ---------------------------------------------------------------------------------------------------------


class Failing(Calculator):
    """EMT that returns NaN, or a hole in the potential, after some evaluations."""

    implemented_properties = EMT.implemented_properties

    def __init__(self, after, energy=np.nan):
        super().__init__()
        self.after, self.energy, self.count, self.inner = after, energy, 0, EMT()

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        super().calculate(atoms, properties, system_changes)
        self.inner.calculate(atoms, properties, system_changes)
        self.results = dict(self.inner.results)
        self.count += 1
        if self.count > self.after:
            self.results["energy"] = self.energy


def test_a_broken_model_stops_at_once():
    with pytest.raises(PhysicsError, match="not-a-number energy"):
        relax(disturbed(bulk("Cu")), Failing(0))


@pytest.mark.parametrize("energy", [np.nan, -1e4, 1e4])
def test_an_explosion_keeps_the_last_good_geometry(energy):
    atoms = disturbed(bulk("Cu", cubic=True))
    seen: list[RelaxStep] = []
    result = relax(atoms, Failing(4, energy), RelaxSettings(), seen.append)
    assert result.status == "exploded"
    assert result.force_calls == 5
    assert np.isfinite(result.final.energy)
    np.testing.assert_array_equal(result.atoms.positions, seen[-1].atoms.positions)
    with pytest.raises(PhysicsError):
        result.raise_for_status()


def test_an_interrupt_keeps_the_last_geometry():
    seen: list[RelaxStep] = []

    def observer(step):
        seen.append(step)
        if step.number == 3:
            raise KeyboardInterrupt

    result = relax(disturbed(bulk("Cu", cubic=True)), EMT(), RelaxSettings(cell="full"), observer)
    assert result.status == "interrupted"
    assert result.steps == 3
    np.testing.assert_array_equal(result.atoms.positions, seen[3].atoms.positions)
    np.testing.assert_array_equal(result.atoms.cell[:], seen[3].atoms.cell[:])


def test_too_few_steps_is_not_converged():
    result = relax(disturbed(bulk("Cu", cubic=True)), EMT(), RelaxSettings(steps=2))
    assert result.status == "not-converged"
    assert result.steps == 2
    assert "residual force" in result.message


def test_both_criteria_count():
    atoms = bulk("Cu", a=3.7)  # no forces by symmetry, but stress
    assert relax(atoms, EMT(), RelaxSettings()).steps == 0
    result = relax(atoms, EMT(), RelaxSettings(cell="full"))
    assert result.steps > 0
    assert result.final.max_stress <= 0.02 * GPa < result.initial.max_stress


def test_no_step_exceeds_the_limits():
    atoms = disturbed(bulk("Cu", cubic=True), 0.1, 0.3, seed=2)
    seen: list[RelaxStep] = []
    relax(atoms, EMT(), RelaxSettings(cell="full", optimizer="fire"), seen.append)
    for one, two in pairwise(seen):
        strain = np.linalg.solve(one.atoms.cell[:], two.atoms.cell[:]) - np.eye(3)
        assert np.linalg.norm(strain) < 0.06
        moved = two.atoms.get_scaled_positions(wrap=False) - one.atoms.get_scaled_positions(wrap=False)
        assert np.linalg.norm(moved @ two.atoms.cell[:], axis=1).max() < 0.25


def test_a_climbing_quasi_newton_run_returns_and_goes_on_downhill():
    class Ripples(Calculator):
        """A particle on a steep parabola with ripples: concave in between, so that quasi-Newton steps go astray."""

        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
            super().calculate(atoms, properties, system_changes)
            x = self.atoms.positions
            self.results = {
                "energy": float(np.sum(0.05 * x**2 + 2.0 * np.cos(12.0 * x))),
                "forces": -(0.1 * x - 24.0 * np.sin(12.0 * x)),
            }

    climbed = 0
    for seed in range(6):
        atoms = Atoms("Cu2", np.random.default_rng(seed).uniform(-2, 2, size=(2, 3)))
        seen: list[RelaxStep] = []
        result = relax(atoms, Ripples(), RelaxSettings(fmax=1e-3), seen.append)
        assert result.converged
        assert result.final.energy <= min(step.energy for step in seen) + 1e-9
        climbed += any("climbed" in text for text in result.warnings)
    assert climbed


# --- input, warnings, document ---------------------------------------------------------------------------------------


def test_molecules_relax_and_have_no_space_group():
    result = relax(molecule("N2"), EMT(), RelaxSettings())
    assert result.converged
    assert str(result.final.space_group) == "none (not periodic)"
    assert result.final.stress is None
    with pytest.raises(InputError, match="periodic in three directions"):
        relax(molecule("N2"), EMT(), RelaxSettings(cell="full"))


def test_input_is_left_alone():
    atoms = disturbed(bulk("Cu", cubic=True))
    before = atoms.copy()
    relax(atoms, EMT(), RelaxSettings(cell="full", fix_symmetry=True))
    assert atoms == before
    assert atoms.calc is None


def test_warnings_about_vacuum_left_handed_cells_and_stress():
    slab = fcc111("Cu", (1, 1, 3), vacuum=7, periodic=True)
    result = relax(slab, EMT(), RelaxSettings(cell="full", steps=1))
    assert any("Å of vacuum along c" in text for text in result.warnings)
    left = bulk("Cu", cubic=True)
    left.set_cell(left.cell[[1, 0, 2]])
    assert any("left-handed" in text for text in relax(left, EMT()).warnings)
    assert any("--cell full" in text for text in relax(bulk("Cu", a=3.7), EMT()).warnings)
    assert relax(bulk("Cu", a=3.5901), EMT()).warnings == ()


def test_left_handed_cells_relax_to_the_same_minimum():
    atoms = disturbed(bulk("Cu", cubic=True))
    mirrored = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell[[1, 0, 2]], pbc=True)
    energies = [relax(item, EMT(), RelaxSettings(cell="full")).final.energy for item in (atoms, mirrored)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-5)


@pytest.mark.parametrize(
    "options", [{"fmax": 0.0}, {"smax": -1.0}, {"steps": -1}, {"cell": "all"}, {"pressure": 1.0}, {"fmax": np.nan}]
)
def test_bad_settings_are_usage_errors(options):
    with pytest.raises(UsageError):
        RelaxSettings(**options)


def test_document_is_json_with_units_and_gigapascal():
    result = relax(bulk("Cu", a=3.61), EMT(), RelaxSettings(cell="full", pressure=2.0))
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["converged"] is True
    assert document["final"]["pressure"] == pytest.approx(2.0, abs=0.02)
    assert document["final"]["stress"] == pytest.approx((result.final.stress / GPa).tolist())
    assert document["_units"]["energy"] == "eV"
    assert document["settings"]["smax"] == 0.02
