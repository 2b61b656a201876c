"""Many structures at once: the same results as one at a time, whatever the batch, the failures and the memory."""

from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms, FixBondLength, FixScaled
from ase.io import read
from ase.units import GPa

from grace_toy.emt import create_engine
from gracecli.engine.base import Results
from gracecli.engine.calculator import GraceCalculator
from gracecli.engine.neighbours import build_graph
from gracecli.errors import InputError, MemoryLimitError, PluginError
from gracecli.paths import data_directory
from gracecli.registry.resolve import DEFAULT_MODEL, bundled_models
from gracecli.run.batch_cell import deformations, residual_stresses
from gracecli.run.batch_evaluate import Budget, evaluate_all
from gracecli.run.batch_graphs import JoinedLists
from gracecli.run.batch_relax import relax_many
from gracecli.run.batch_segments import Segments
from gracecli.run.batch_state import Batch, Member
from gracecli.run.cell import CellFilter, residual_stress
from gracecli.run.relax import relax
from gracecli.run.result import RelaxSettings

MODES = ("none", "full", "volume", "shape", "lengths")


@pytest.fixture(scope="module")
def engine():
    return create_engine(None)


def disturbed(atoms, strain=0.02, rattle=0.05, seed=0):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(3, 3))
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + strain * (matrix + matrix.T) / 2), scale_atoms=True)
    atoms.positions += generator.normal(scale=rattle, size=atoms.positions.shape)
    return atoms


def crystals():
    """Different sizes, elements and shapes; one with fixed atoms, one with selective dynamics in a skewed cell."""
    found = [
        disturbed(bulk("Cu", a=3.65), seed=1),
        disturbed(bulk("Cu", cubic=True), 0.04, 0.06, seed=2),
        disturbed(bulk("Al") * (2, 2, 1), seed=3),
        disturbed(bulk("Cu", "hcp", a=2.6, c=4.3) * (2, 1, 1), 0.01, 0.04, seed=4),
        disturbed(bulk("Ni", cubic=True) * (2, 1, 1), 0.03, 0.05, seed=5),
    ]
    found[2].set_constraint(FixAtoms([0, 2]))
    found[3].set_constraint([FixScaled([0, 1], (False, True, False)), FixScaled(2, (True, True, False))])
    del found[4][3]
    return found


def many(structures, engine, settings, **options):
    return dict(relax_many(enumerate(structures), engine, settings, **options))


# --- the same as one at a time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "optimizer"), [*product(MODES, ("lbfgs", "fire"))])
def test_every_cell_mode_ends_where_one_at_a_time_does(engine, mode, optimizer):
    settings = RelaxSettings(cell=mode, optimizer=optimizer, fmax=1e-3, smax=1e-3)
    structures = crystals()
    before = [atoms.copy() for atoms in structures]
    found = many(structures, engine, settings)
    assert sorted(found) == list(range(len(structures)))
    for i, atoms in enumerate(structures):
        alone = relax(atoms, GraceCalculator(engine=engine), settings)
        assert found[i].status == alone.status == "converged"
        assert found[i].final.energy_per_atom == pytest.approx(alone.final.energy_per_atom, abs=1e-5)
        assert found[i].final.max_force <= 1e-3
        assert found[i].final.max_stress is None or found[i].final.max_stress <= 1e-3 * GPa
        assert found[i].to_dict().keys() == alone.to_dict().keys()
        assert found[i].initial.energy == pytest.approx(alone.initial.energy, abs=1e-9)
        np.testing.assert_array_equal(atoms.positions, before[i].positions)  # inputs are left alone
        assert [type(c) for c in found[i].atoms.constraints] == [type(c) for c in atoms.constraints]


def test_one_at_a_time_takes_the_same_steps(engine):
    """Also through regions that are not convex, where ASE's own LBFGS would run in circles."""
    settings = RelaxSettings(cell="full", fmax=0.02)
    given = [disturbed(bulk("Cu", "bcc", a=2.9) * (2, 2, 2), 0.03, 0.1, seed) for seed in range(4)]
    given += [disturbed(bulk("Al", "sc", a=2.7) * (2, 2, 1), 0.03, 0.1, seed) for seed in range(4)]
    many = dict(relax_many(enumerate(given), engine, settings))
    calculator = GraceCalculator(engine=engine)
    for number, atoms in enumerate(given):
        alone = relax(atoms, calculator, settings)
        assert alone.converged
        assert many[number].steps == alone.steps
        np.testing.assert_allclose(many[number].atoms.positions, alone.atoms.positions, atol=1e-5)


def test_pressure_is_an_enthalpy(engine):
    settings = RelaxSettings(cell="full", pressure=20.0, fmax=1e-3, smax=1e-3)
    structures = crystals()[:2]
    for i, result in many(structures, engine, settings).items():
        alone = relax(structures[i], GraceCalculator(engine=engine), settings)
        assert result.converged
        assert result.final.enthalpy == pytest.approx(alone.final.enthalpy, abs=1e-5)
        np.testing.assert_allclose(result.final.stress[:3] / GPa, -20.0, atol=2e-3)


def test_fixed_coordinates_stay_where_they_are(engine):
    structures = crystals()
    found = many(structures, engine, RelaxSettings(cell="full"))
    for i, masks in ((2, {0: (1, 1, 1), 2: (1, 1, 1)}), (3, {0: (0, 1, 0), 1: (0, 1, 0), 2: (1, 1, 0)})):
        moved = found[i].atoms.get_scaled_positions(wrap=False) - structures[i].get_scaled_positions(wrap=False)
        for atom, mask in masks.items():
            assert np.abs(moved[atom][np.array(mask, bool)]).max() < 1e-12
        assert np.abs(moved).max() > 1e-3


def test_the_order_and_size_of_batches_change_nothing(engine):
    structures = [disturbed(bulk("Cu", cubic=True) * (1, 1, 1 + i % 2), 0.04, 0.1, seed=i) for i in range(9)]
    settings = RelaxSettings(cell="full", fmax=1e-3, smax=1e-3)
    reference = many(structures, engine, settings)
    for budget in (Budget(structures=2), Budget(atoms=10), Budget(bonds=1)):
        found = many(structures, engine, settings, budget=budget)
        for i, result in reference.items():
            assert found[i].steps == result.steps
            assert found[i].final.energy == pytest.approx(result.final.energy, abs=1e-9)


def test_no_more_in_work_than_allowed(engine):
    taken = []

    def structures():
        for i in range(8):
            taken.append(i)
            yield i, disturbed(bulk("Cu", cubic=True), seed=i)

    finished = 0
    for _ in relax_many(structures(), engine, RelaxSettings(), budget=Budget(structures=3)):
        finished += 1
        assert len(taken) <= finished + 3 + 1  # one waits for its turn
    assert finished == 8


def test_molecules_slabs_and_what_only_works_alone(engine):
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    slab.set_constraint(FixAtoms(mask=slab.get_tags() == 3))
    pair = Atoms("Cu2", [(0, 0, 0), (2.5, 0, 0)])
    bound = Atoms("Cu3", [(0, 0, 0), (2.4, 0, 0), (0, 2.6, 0)])
    bound.set_constraint(FixBondLength(0, 1))
    structures = [disturbed(slab, 0.0), pair, bound]
    found = many(structures, engine, RelaxSettings(fmax=1e-3))
    for i, atoms in enumerate(structures):
        alone = relax(atoms, GraceCalculator(engine=engine), RelaxSettings(fmax=1e-3))
        assert found[i].converged
        assert found[i].final.energy == pytest.approx(alone.final.energy, abs=1e-4)
        assert found[i].final.volume == alone.final.volume
    assert np.linalg.norm(np.diff(found[2].atoms.positions[:2], axis=0)) == pytest.approx(2.4, abs=1e-6)


def test_a_start_that_is_not_convex_goes_downhill(engine):
    structures = [disturbed(bulk("Cu", cubic=True) * (2, 1, 1), 0.12, 0.25, seed=i) for i in range(4, 8)]
    for result in many(structures, engine, RelaxSettings(cell="full")).values():
        assert result.converged
        assert result.final.energy < result.initial.energy
        assert result.final.energy_per_atom == pytest.approx(-0.00704, abs=2e-4)


@pytest.mark.parametrize("cell", ["none", "full"])
def test_bundled_examples_with_the_bundled_model(cell):
    native = pytest.importorskip("grace_native.engine", reason="the native engine is not installed")
    engine = native.create_engine(bundled_models()[DEFAULT_MODEL], threads=1)
    names = ("Cu.cif", "Ge-shifted.cif", "Mo.poscar", "MoTa-B2.poscar", "Si.poscar", "Li-slab.poscar")
    structures = [read(data_directory() / "structures" / name) for name in names[: 6 if cell == "none" else 5]]
    structures += [disturbed(atoms, 0.02, 0.03, seed=i) for i, atoms in enumerate(structures[:5])]
    for fmax, tolerance in ((1e-2, 1e-4), (1e-3, 1e-5)):
        settings = RelaxSettings(cell=cell, fmax=fmax)
        found = many(structures, engine, settings)
        for i, atoms in enumerate(structures):
            alone = relax(atoms, GraceCalculator(engine=engine), settings)
            assert found[i].converged, found[i].message
            assert alone.converged
            assert found[i].final.energy_per_atom == pytest.approx(alone.final.energy_per_atom, abs=tolerance)


# --- failures -------------------------------------------------------------------------------------------------------


class Faulty:
    """EMT that fails on structures of certain sizes."""

    def __init__(self, inner, nan=(), raising=(), falling=()):
        self.inner, self.nan, self.raising, self.falling = inner, nan, raising, falling
        self.name, self.elements, self.cutoff, self.precision = "faulty", inner.elements, inner.cutoff, "fp64"
        self.calls = {}

    def pair_cutoff(self, numbers):
        return None

    def statistics(self):
        return {}

    def evaluate(self, graphs):
        if any(len(g) in self.raising for g in graphs):
            raise RuntimeError("kernel panic")
        return [self.spoilt(g, r) for g, r in zip(graphs, self.inner.evaluate(graphs), strict=True)]

    def spoilt(self, graph, result):
        size = len(graph)
        self.calls[size] = self.calls.get(size, 0) + 1
        if size in self.nan and self.calls[size] > self.nan[size]:
            return Results(np.nan, result.energies, result.forces, result.stress)
        if size in self.falling and self.calls[size] > 2:
            return Results(result.energy - 100.0 * size, result.energies, result.forces, result.stress)
        return result


def test_one_bad_structure_never_stops_the_others(engine):
    faulty = Faulty(engine, nan={4: 2, 6: 0}, raising=(8,), falling=(12,))
    sizes = {2: (1, 1, 2), 4: (2, 2, 1), 6: (3, 2, 1), 8: (2, 2, 2), 12: (3, 2, 2)}
    structures = [disturbed(bulk("Cu") * repeat, seed=size) for size, repeat in sizes.items()]
    structures += [Atoms("Cu2", [(0, 0, 0), (0, 0, 0.1)]), bulk("Fe"), Atoms("CuC", [(0, 0, 0), (0, 0, 2.0)])]
    found = many(structures, faulty, RelaxSettings(fmax=1e-3))
    assert found[0].converged
    assert found[1].status == "exploded"
    assert "not-a-number energy" in found[1].message
    assert found[1].steps == 2
    assert np.isfinite(found[1].final.energy)  # the last good geometry
    assert "not-a-number" in found[2].message  # from the first evaluation on: no result
    assert isinstance(found[3], PluginError)
    assert "kernel panic" in found[3].message
    assert found[4].status == "exploded"
    assert "-100 eV/atom" in found[4].message
    assert isinstance(found[5], InputError)
    assert "apart" in found[5].message
    assert isinstance(found[6], InputError)
    assert "Fe" in found[6].message


def test_cell_mode_without_a_cell_is_an_error_of_that_structure(engine):
    found = many([molecule("CO"), bulk("Cu")], engine, RelaxSettings(cell="full"))
    assert isinstance(found[0], InputError)
    assert found[1].converged


def test_not_converged_says_what_is_left(engine):
    found = many(crystals(), engine, RelaxSettings(cell="full", steps=2))
    assert {result.status for result in found.values()} == {"not-converged"}
    assert all("not converged in 2 steps: residual force" in result.message for result in found.values())
    assert all(result.steps == 2 and result.force_calls == 3 for result in found.values())


def test_an_interrupt_gives_what_was_reached(engine):
    class Stops(Faulty):
        def evaluate(self, graphs):
            self.calls["all"] = self.calls.get("all", 0) + 1
            if self.calls["all"] == 4:
                raise KeyboardInterrupt
            return super().evaluate(graphs)

    found = {}

    def collect():
        for key, result in relax_many(enumerate(crystals()[1:]), Stops(engine), RelaxSettings(fmax=1e-6)):
            found[key] = result

    with pytest.raises(KeyboardInterrupt):
        collect()
    assert {result.status for result in found.values()} == {"interrupted"}
    assert all(result.steps == 3 and result.final.energy < result.initial.energy for result in found.values())


# --- memory ---------------------------------------------------------------------------------------------------------


class Small(Faulty):
    """Runs out of memory above a number of atoms."""

    def __init__(self, inner, limit, error):
        super().__init__(inner)
        self.limit, self.error, self.largest = limit, error, 0

    def evaluate(self, graphs):
        size = sum(map(len, graphs))
        if size > self.limit:
            raise self.error
        self.largest = max(self.largest, size)
        return self.inner.evaluate(graphs)


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's."""


@pytest.mark.parametrize("error", [MemoryError(), ResourceExhaustedError("OOM when allocating tensor")])
def test_out_of_memory_is_tried_again_in_halves(engine, error):
    structures = [disturbed(bulk("Cu", cubic=True), seed=i) for i in range(8)]
    structures.append(disturbed(bulk("Cu", cubic=True) * (3, 1, 1)))
    small = Small(engine, 10, error)
    budget = Budget()
    found = many(structures, small, RelaxSettings(), budget=budget)
    assert all(found[i].converged for i in range(8))
    assert isinstance(found[8], MemoryLimitError)
    assert small.largest <= 10
    assert budget.atoms <= 12


def test_evaluate_all_keeps_the_order(engine):
    graphs = [build_graph(bulk("Cu") * (1, 1, n), engine.cutoff) for n in range(1, 7)]
    found = evaluate_all(Small(engine, 8, MemoryError()), graphs, Budget())
    assert [len(r.forces) for r in found] == [1, 2, 3, 4, 5, 6]


def test_budget_always_allows_one():
    assert Budget(atoms=1, bonds=1).allows(1, 10**6, 10**9)
    assert not Budget(atoms=10).allows(2, 11, 0)
    assert Budget.of_machine(3).structures == 3


# --- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_generalised_forces_are_the_gradient_of_the_enthalpy_of_each_structure(engine, mode):
    settings = RelaxSettings(cell=mode, pressure=3.0 if mode in ("full", "volume", "lengths") else 0.0)
    structures = crystals()[:3]
    for atoms in structures:
        atoms.set_constraint()
    batch = Batch(settings)
    batch.add([Member(i, atoms, atoms, "", []) for i, atoms in enumerate(structures)])

    def evaluated():
        positions, cells, volumes = batch.geometry()
        graphs = []
        for i, part in enumerate(batch.atoms.slices()):
            moved = Atoms(structures[i].numbers, positions[part], cell=cells[i], pbc=True)
            graphs.append(build_graph(moved, engine.cutoff))
        results = engine.evaluate(graphs)
        values = batch.enthalpies(np.array([r.energy for r in results]), volumes)
        forces, stress = np.concatenate([r.forces for r in results]), np.stack([r.stress for r in results])
        return values, batch.generalised(forces, stress, cells, volumes)

    generator = np.random.default_rng(1)
    batch.move(0.02 * generator.normal(size=batch.coordinates.shape))
    here, forces = batch.coordinates.copy(), evaluated()[1]
    direction = generator.normal(size=here.shape)
    values = []
    for step in (1e-4, -1e-4):
        batch.coordinates = here.copy()
        batch.move(step * direction)  # projects the cell part on what is free
        values.append(evaluated()[0])
        actual = batch.coordinates - here
    slope = (values[0] - values[1]) / 2e-4
    np.testing.assert_allclose(-batch.rows.dot(forces, actual / -1e-4), slope, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES[1:])
def test_cells_and_residual_stresses_are_those_of_the_filter(engine, mode):
    generator = np.random.default_rng(2)
    strain = generator.normal(scale=0.05, size=(4, 3, 3))
    start, stress = generator.normal(size=(4, 3, 3)) + 4 * np.eye(3), generator.normal(size=(4, 6))
    for i in range(4):
        atoms = Atoms("Cu", cell=start[i], pbc=True)
        target = CellFilter(atoms, mode)
        target.strain = target._allowed(strain[i])
        expected = target._strained_cell()
        found = start[i] @ deformations(mode, start[i : i + 1], target.strain[None])[0]
        np.testing.assert_allclose(found, expected, atol=1e-12)
        left = np.abs(residual_stress(mode, start[i], stress[i], 0.3)).max()
        assert residual_stresses(mode, start[i : i + 1], stress[i : i + 1], 0.3)[0] == pytest.approx(left, rel=1e-12)


def test_joined_lists_are_the_graphs_of_each_structure(engine):
    generator = np.random.default_rng(3)
    structures = [*crystals(), molecule("CO"), Atoms("Cu", cell=(2.5, 9, 9), pbc=(True, False, False))]
    lists = JoinedLists(engine, 0.5)
    lists.add(len(structures))
    atoms = Segments(np.array([len(s) for s in structures]))
    for _ in range(12):
        positions = np.concatenate([s.positions for s in structures])
        cells = np.stack([s.cell.array for s in structures])
        volumes = np.array([1.0] * len(structures))
        assert lists.refresh(structures, positions, cells, atoms) == {}
        for graph, structure in zip(lists.graphs(positions, cells, volumes, atoms), structures, strict=True):
            expected = build_graph(structure, engine.cutoff)
            np.testing.assert_array_equal(graph.centre, expected.centre)
            np.testing.assert_array_equal(graph.neighbour, expected.neighbour)
            np.testing.assert_array_equal(graph.bond_vector, expected.bond_vector)
        for structure in structures:
            if structure.pbc.all():
                strain = generator.normal(scale=0.005, size=(3, 3))
                structure.set_cell(structure.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            structure.set_constraint()
            structure.positions += generator.normal(scale=0.03, size=structure.positions.shape)
    assert len(structures) < lists.rebuilds < 12 * len(structures)  # reused, and renewed
