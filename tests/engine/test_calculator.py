"""GraceCalculator with a Lennard-Jones engine: physics through ASE, caching, checks, choice of engines."""

import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.stress import voigt_6_to_full_3x3_stress

from gracecli.engine import create
from gracecli.engine.base import Engine, Results
from gracecli.engine.calculator import GraceCalculator
from gracecli.errors import InputError, ModelError, PluginError, UsageError
from gracecli.plugin import manager as plugin_manager
from gracecli.plugin.specs import EngineSpec


class LennardJones:
    """E = 1/2 sum_b 4 eps (x^-12 - x^-6) (1 - (r/rc)^2)^3, x = r/sigma; argon, and a smaller neon."""

    name = "lennard-jones"
    elements = ("Ar", "Ne")
    precision = "fp64"

    def __init__(self, cutoff=7.0, pairs=None):
        self.sigma = {18: 3.4, 10: 2.8}  # Å
        self.epsilon = 0.0104  # eV
        self.cutoff = cutoff
        self.pairs = pairs
        self.batches = []

    def evaluate(self, graphs):
        self.batches.append(len(graphs))
        return [self._one(graph) for graph in graphs]

    def _one(self, graph):
        r = np.linalg.norm(graph.bond_vector, axis=1)
        size = np.array([self.sigma[int(z)] for z in graph.numbers])
        s6 = ((size[graph.centre] + size[graph.neighbour]) / 2 / r) ** 6
        limit = self.cutoff if self.pairs is None else self._limits(graph)
        fade = 1 - (r / limit) ** 2
        phi = 4 * self.epsilon * (s6**2 - s6)
        slope = 4 * self.epsilon * (6 * s6 - 12 * s6**2) / r * fade**3 - phi * 6 * fade**2 * r / limit**2
        pull = (0.5 * slope / r)[:, None] * graph.bond_vector  # dE/d(bond vector)
        energies = np.bincount(graph.centre, 0.5 * phi * fade**3, minlength=len(graph))
        forces = np.zeros((len(graph), 3))
        np.add.at(forces, graph.centre, pull)
        np.add.at(forces, graph.neighbour, -pull)
        stress = (graph.bond_vector.T @ pull / graph.volume)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        return Results(energies.sum(), energies, forces, stress, {"gamma": energies * 0 + 0.5})

    def _limits(self, graph):
        species = np.unique(graph.numbers, return_inverse=True)[1]
        return self.pair_cutoff(graph.numbers)[species[graph.centre], species[graph.neighbour]]

    def pair_cutoff(self, numbers):
        if self.pairs is None:
            return None
        unique = np.unique(numbers)
        return np.array([[self.pairs[int(a), int(b)] for b in unique] for a in unique])

    def statistics(self):
        return {"evaluations": len(self.batches)}


def argon(size=(2, 2, 2)):
    atoms = bulk("Ar", "fcc", 5.3, cubic=True).repeat(size)
    atoms.rattle(0.1, seed=0)
    return atoms


def alloy():
    atoms = argon((1, 1, 1))
    atoms.symbols[[1, 2]] = "Ne"
    atoms.set_cell(atoms.cell.array @ [[1, 0.05, 0], [0, 0.98, 0.02], [0.01, 0, 1.03]], scale_atoms=True)
    return atoms


def energy_of(atoms, engine):
    atoms = atoms.copy()
    atoms.calc = GraceCalculator(engine=engine)
    return atoms.get_potential_energy()


ENGINES = {
    "one cutoff": lambda: LennardJones(),
    "pair cutoffs": lambda: LennardJones(pairs={(18, 18): 7.0, (18, 10): 5.5, (10, 18): 5.5, (10, 10): 4.5}),
}


@pytest.mark.parametrize("kind", ENGINES)
def test_forces_are_the_slope_of_the_energy(kind):
    atoms = alloy()
    atoms.calc = GraceCalculator(engine=ENGINES[kind]())
    forces = atoms.get_forces()
    step = 1e-4
    for atom, axis in np.ndindex(forces.shape):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            ends.append(energy_of(moved, ENGINES[kind]()))
        assert forces[atom, axis] == pytest.approx((ends[1] - ends[0]) / (2 * step), abs=1e-8)


@pytest.mark.parametrize("kind", ENGINES)
def test_stress_is_the_slope_of_the_energy_with_strain_in_voigt_order(kind):
    atoms = alloy()
    atoms.calc = GraceCalculator(engine=ENGINES[kind]())
    stress = voigt_6_to_full_3x3_stress(atoms.get_stress())
    step = 1e-5
    for i, j in np.ndindex(3, 3):
        ends = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            ends.append(energy_of(strained, ENGINES[kind]()))
        assert stress[i, j] == pytest.approx((ends[0] - ends[1]) / (2 * step) / atoms.get_volume(), abs=1e-8)


def trajectory(skin):
    """Positions along a constant-energy run of warm argon."""
    atoms = argon()
    rng = np.random.default_rng(1)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * 160)[:, None])
    atoms.calc = GraceCalculator(engine=LennardJones(), skin=skin)
    frames, energies = [], []
    run = VelocityVerlet(atoms, 10 * units.fs)
    run.attach(lambda: (frames.append(atoms.get_positions()), energies.append(atoms.get_total_energy())))
    run.run(150)
    return np.array(frames), np.array(energies), atoms.calc.statistics()


def test_dynamics_with_a_skin_is_the_dynamics_without():
    fresh, _, fresh_statistics = trajectory(0.0)
    reused, energies, statistics = trajectory(0.6)
    np.testing.assert_allclose(reused, fresh, rtol=0, atol=1e-12)
    assert np.ptp(energies) < 2e-4 * 32  # eV; 0.2 meV/atom
    assert fresh_statistics["neighbour_list_rebuilds"] == 151
    assert 2 <= statistics["neighbour_list_rebuilds"] < 40
    assert statistics["neighbour_list_calls"] == 151


def test_relaxation_of_cell_and_atoms_ends_at_rest():
    atoms = argon((1, 1, 1))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.diag([0.04, -0.02, 0.01])), scale_atoms=True)
    atoms.calc = GraceCalculator(engine=LennardJones())
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=200)
    assert np.abs(atoms.get_forces()).max() < 1e-4
    assert np.abs(atoms.get_stress()).max() < 1e-5
    lengths = atoms.cell.lengths()
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-3)  # fcc again
    assert atoms.calc.statistics()["neighbour_list_rebuilds"] < 10


def test_one_evaluation_serves_all_properties_until_the_structure_changes():
    engine = LennardJones()
    atoms = argon((1, 1, 1))
    atoms.calc = GraceCalculator(engine=engine)
    assert atoms.calc.calculation_required(atoms, ["energy"])
    assert atoms.get_potential_energy() == pytest.approx(atoms.get_potential_energies().sum())
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    atoms.get_forces(), atoms.get_stress()
    atoms.set_initial_charges([1.0] * 4)
    atoms.get_forces()
    assert not atoms.calc.calculation_required(atoms, ["energy", "forces", "stress"])
    assert len(engine.batches) == 1
    atoms.positions[0, 0] += 0.01
    assert atoms.calc.calculation_required(atoms, ["energy"])
    atoms.get_forces()
    assert len(engine.batches) == 2


def test_results_handed_out_are_copies():
    atoms = argon((1, 1, 1))
    atoms.calc = GraceCalculator(engine=LennardJones())
    atoms.get_forces()[:] = 0.0
    assert np.abs(atoms.get_forces()).max() > 1e-3


def test_structure_without_a_volume_has_no_stress():
    atoms = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 3.8]])
    atoms.calc = GraceCalculator(engine=LennardJones())
    with pytest.raises(PropertyNotImplementedError, match="three independent cell vectors"):
        atoms.get_stress()
    assert atoms.get_potential_energy() < 0
    assert "stress" not in atoms.calc.results
    atoms.center(vacuum=8.0)
    assert np.isfinite(atoms.get_stress()).all()


def test_extra_results_are_kept_and_files_can_be_written(tmp_path):
    atoms = argon((1, 1, 1))
    atoms.calc = GraceCalculator(engine=LennardJones())
    forces = atoms.get_forces()
    atoms.get_stress()
    assert atoms.calc.results["gamma"].tolist() == [0.5] * 4
    for name in ("a.extxyz", "a.traj"):
        write(tmp_path / name, atoms)
        np.testing.assert_allclose(read(tmp_path / name).get_forces(), forces, atol=1e-7)


def test_moving_on_to_another_structure():
    calculator = GraceCalculator(engine=LennardJones())
    for atoms in (argon(), alloy(), Atoms("Ne"), argon()):
        atoms.calc = calculator
        assert atoms.get_potential_energy() == energy_of(atoms, LennardJones())
        assert len(atoms.get_forces()) == len(atoms)


def test_many_structures_in_one_batch():
    engine = LennardJones()
    structures = [argon(), alloy(), Atoms("Ne")]
    calculator = GraceCalculator(engine=engine)
    results = calculator.evaluate(structures)
    assert engine.batches == [3]
    assert calculator.evaluate([]) == []
    for atoms, result in zip(structures, results, strict=True):
        assert result.energy == energy_of(atoms, LennardJones())
    assert np.isnan(results[2].stress).all()
    assert calculator.statistics()["structures_evaluated"] == 3


def test_errors_name_the_place_in_a_batch_and_the_atoms():
    calculator = GraceCalculator(engine=LennardJones())
    close = Atoms("ArNe", positions=[[0, 0, 0], [0, 0, 0.2]])
    with pytest.raises(InputError, match=r"structure 2 of 2: atoms 1 \(Ar\) and 2 \(Ne\) are 0\.2 Å apart"):
        calculator.evaluate([argon(), close])
    with pytest.raises(InputError, match=r"^atoms 1 \(Ar\) and 2 \(Ne\)"):
        calculator.evaluate([close])


def test_a_bad_structure_leaves_no_results_behind():
    atoms = argon((1, 1, 1))
    atoms.calc = GraceCalculator(engine=LennardJones())
    good = atoms.get_potential_energy()
    for bad in (np.nan, atoms.positions[1]):
        broken = atoms.copy()
        broken.calc = atoms.calc
        broken.positions[0] = bad
        for _ in range(2):
            with pytest.raises(InputError):
                broken.get_potential_energy()
    assert atoms.get_potential_energy() == good


def test_elements_the_engine_lacks():
    atoms = Atoms("ArFe", positions=[[0, 0, 0], [0, 0, 3]])
    atoms.calc = GraceCalculator(engine=LennardJones(), models_covering=lambda symbols: ["big-model"])
    with pytest.raises(InputError, match=r"does not cover Fe; it covers Ar, Ne \(models that cover Ar, Fe: big-model"):
        atoms.get_forces()


def test_settings_are_fixed_at_construction():
    calculator = GraceCalculator(engine=LennardJones(), skin=0.3)
    assert calculator.parameters == {"model": None, "engine": "lennard-jones", "precision": "fp64", "skin": 0.3}
    with pytest.raises(UsageError, match="cannot change skin"):
        calculator.set(skin=1.0)
    with pytest.raises(UsageError, match="model, precision"):
        GraceCalculator("m.grace", engine=LennardJones(), precision="fp32")


def test_statistics_tell_where_time_went():
    calculator = GraceCalculator(engine=LennardJones())
    atoms = argon()
    atoms.calc = calculator
    atoms.get_forces()
    statistics = calculator.statistics()
    assert statistics["evaluations"] == 1
    for part in ("check", "neighbours", "engine"):
        assert 0 < statistics[f"{part}_seconds"] < 10


# --- engines by name -------------------------------------------------------------------------------------


def make_lennard_jones(path, precision, **options):
    engine = LennardJones(**options)
    engine.path, engine.precision = path, precision or "fp64"
    return engine


def make_nothing(path, precision):
    return object()


def yes():
    return True


def no():
    return "needs a GPU"


def fails():
    raise OSError("driver is gone")


def spec(name, available="", factory="make_lennard_jones", **facts):
    module = "test_engines_by_name"
    check = f"{module}:{available}" if available else ""
    return EngineSpec(name=name, help="For tests.", factory=f"{module}:{factory}", available=check, **facts)


@pytest.fixture
def engines(monkeypatch, tmp_path):
    """The real plugin manager, with engines of our own in its table."""
    module = types.ModuleType("test_engines_by_name")
    for function in (make_lennard_jones, make_nothing, yes, no, fails):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    manager = plugin_manager.PluginManager()
    table = {}
    monkeypatch.setattr(manager, "engines", lambda: table)
    monkeypatch.setattr(plugin_manager, "get_plugin_manager", lambda: manager)
    return table


def add(table, *specs):
    table.update({s.name: s for s in specs})


def test_named_engine_with_options(engines):
    add(engines, spec("toy", needs_model=False))
    engine = create.create_engine(None, "toy", "fp32", cutoff=5.0)
    assert isinstance(engine, Engine)
    assert (engine.cutoff, engine.precision, engine.path) == (5.0, "fp32", None)
    assert create.create_engine("parameters.toml", "toy").path == Path("parameters.toml")
    calculator = GraceCalculator(engine="toy", cutoff=5.0)
    assert calculator.engine.cutoff == 5.0


def test_model_is_resolved_for_engines_that_need_one(engines, monkeypatch):
    def resolve_model(model):
        if model == "nosuch":
            raise ModelError("no model is called 'nosuch'")
        return Path("/models") / (model or "default.grace")

    module = types.ModuleType("gracecli.registry.resolve")
    module.resolve_model = resolve_model
    monkeypatch.setitem(sys.modules, module.__name__, module)
    add(engines, spec("native", priority=1))
    assert create.create_engine(None, "native").path == Path("/models/default.grace")
    assert create.create_engine("w.grace").path == Path("/models/w.grace")
    with pytest.raises(ModelError, match="nosuch"):
        create.create_engine("nosuch")


def test_auto_takes_the_usable_engine_of_highest_priority(engines):
    add(engines, spec("low", priority=1), spec("high", priority=5, available="yes"))
    add(engines, spec("gpu", priority=9, available="no"), spec("broken", priority=8, available="fails"))
    add(engines, spec("toy", priority=99, needs_model=False))
    assert create.choose_engine().name == "high"
    del engines["high"]
    assert create.choose_engine().name == "low"
    del engines["low"]
    with pytest.raises(UsageError, match=r"gpu: needs a GPU; broken: OSError: driver is gone"):
        create.choose_engine()


def test_unknown_or_unusable_engine_says_what_to_do(engines):
    add(engines, spec("tensorflow"), spec("gpu", available="no"))
    with pytest.raises(UsageError, match=r"no engine is called 'tensorflo' \(did you mean tensorflow"):
        create.choose_engine("tensorflo")
    with pytest.raises(UsageError, match="'gpu' cannot be used here: needs a GPU"):
        create.choose_engine("gpu")


def test_factory_that_returns_no_engine(engines):
    add(engines, replace(spec("odd", factory="make_nothing", needs_model=False), distribution="grace-odd 1.0"))
    with pytest.raises(PluginError, match=r"'odd' of grace-odd 1\.0 returned object"):
        create.create_engine(None, "odd")


def test_conflicting_plugins_are_reported_as_such(engines):
    plugin_manager.get_plugin_manager().conflicts[EngineSpec, "twice"] = ("grace-a 1", "grace-b 2")
    with pytest.raises(PluginError, match="twice"):
        create.choose_engine("twice")


def test_built_in_engine_is_found_by_the_real_manager(monkeypatch):
    monkeypatch.setattr(plugin_manager, "get_plugin_manager", plugin_manager.PluginManager)  # built-ins only
    assert create.choose_engine().name == "tensorflow"
