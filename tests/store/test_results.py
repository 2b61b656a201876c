"""Results: identical calculations are answered from the store, nothing else is, and lineage leads to the file."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from gracecli import Store
from gracecli.errors import InputError, StoreError
from gracecli.store.results import Calculation, Outcome

SHA = "ab" * 32


def relax(**changes):
    content = {
        "kind": "relax",
        "model": "toy",
        "model_sha256": SHA,
        "settings": {"fmax": 0.01, "cell": "none", "steps": 500},
        "precision": "fp64",
        "engine": "native",
        "versions": {"gracecli": "0.1.0"},
    }
    return Calculation(**{**content, **changes})


def relaxed(atoms, energy=-1.25):
    found = atoms.copy()
    found.positions += 0.01
    forces = np.random.default_rng(1).normal(size=(len(atoms), 3))
    found.calc = SinglePointCalculator(found, energy=energy, free_energy=energy, forces=forces, stress=np.arange(6.0))
    return found


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "s.h5", "a") as opened:
        yield opened


VALUES = {"steps": 12, "converged": True, "note": "ok", "C": np.arange(36.0).reshape(6, 6), "x": 0.1, "none": None}


def test_an_identical_calculation_is_answered(store):
    atoms = bulk("Cu", a=3.625, cubic=True)  # exact in binary
    number = store.record(relax(), atoms, VALUES, relaxed(atoms), units={"x": "Å"})
    assert number == 0
    assert len(store) == 2  # what went in, what came out
    same = relax(engine="tensorflow", versions={}, settings={"steps": 500.0, "cell": "none", "fmax": np.float64(0.01)})
    moved = atoms.copy()
    moved.positions += moved.cell[0]  # another periodic image of the same geometry
    for found in (store.find(relax(), atoms), store.find(same, atoms), store.find(relax(), moved)):
        assert found.id == 0
        assert found.structure == 0
        assert found.output_id == 1
        assert found.calculation == relax()
        assert found.units == {"x": "Å"}
        assert {k: v for k, v in found.values.items() if k != "C"} == {k: v for k, v in VALUES.items() if k != "C"}
        assert np.array_equal(found.values["C"], VALUES["C"])
        assert found.output.get_potential_energy() == -1.25
        assert np.array_equal(found.output.get_forces(), relaxed(atoms).get_forces())
        assert np.array_equal(found.output.get_stress(), np.arange(6.0))
    assert store.entry(1).method == relax().method


def other_geometry(atoms):
    atoms.positions[0, 0] += 1e-12


def other_cell(atoms):
    atoms.cell[0, 0] += 1e-12


def constrained(atoms):
    atoms.set_constraint(FixAtoms([0]))


def moving(atoms):
    atoms.set_momenta(np.ones((len(atoms), 3)))


@pytest.mark.parametrize("change", [other_geometry, other_cell, constrained, moving])
def test_another_structure_is_another_calculation(store, change):
    atoms = bulk("Cu", cubic=True)
    store.record(relax(), atoms, {}, relaxed(atoms))
    other = atoms.copy()
    change(other)
    assert store.find(relax(), other) is None
    store.record(relax(), other, {"mine": 1}, relaxed(other))
    assert store.find(relax(), other).values == {"mine": 1}
    assert store.find(relax(), atoms).values == {}


@pytest.mark.parametrize(
    "change",
    [{"kind": "elastic"}, {"model_sha256": "cd" * 32}, {"precision": "fp32"}, {"settings": {"fmax": 0.02}}],
    ids=lambda change: next(iter(change)),
)
def test_another_calculation_is_not_answered(store, change):
    atoms = bulk("Cu", cubic=True)
    store.record(relax(), atoms, {})
    assert store.find(relax(), atoms)
    assert store.find(relax(**change), atoms) is None


def test_failures_are_kept_but_answer_nothing(store):
    atoms = bulk("Cu", cubic=True)
    store.record(relax(), atoms, {"steps": 500}, relaxed(atoms), exit_code=3, message="not converged")
    assert store.find(relax(), atoms) is None
    assert store.find(relax(), atoms, failed=True).message == "not converged"
    store.record(relax(), atoms, {"steps": 700}, relaxed(atoms, -1.5))
    store.record(relax(), atoms, {"steps": 1}, exit_code=3)
    assert store.find(relax(), atoms).values == {"steps": 700}
    assert store.find(relax(), atoms, failed=True).values == {"steps": 1}


def test_structures_are_stored_once(store):
    atoms = bulk("Cu", cubic=True)
    store.append([atoms])
    for kind in ("relax", "elastic", "phonons"):
        store.record(relax(kind=kind), atoms, {}, relaxed(atoms))
    store.record(relax(kind="md"), 0, {}, relaxed(atoms))
    assert len(store) == 2
    assert store.result_count == 4
    assert store.find(relax(kind="md"), atoms).structure == 0


def test_labels_of_a_live_calculator_do_not_pass_for_data(store):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    atoms.get_potential_energy()
    store.record(relax(), atoms, {})
    assert store.entry(0).energy is None


def test_recording_commits_in_groups_and_ends_the_run(store):
    before = store.commit.number
    with store.recording(argv=["grace", "relax", "*.cif"], seed=7) as recorder:
        for number in range(450):
            atoms = bulk("Cu", a=3 + number / 1000)
            output = relaxed(atoms)
            recorder.record(relax(), atoms, {"number": number}, output)
            output.positions += 1  # the caller goes on with it
    assert recorder.ids == list(range(450))
    assert store.commit.number == before + 3
    assert store.find(relax(), bulk("Cu", a=3.3)).values == {"number": 300}
    assert np.allclose(store.result(300).output.positions, 0.01)
    run = store.why("r449").run
    assert run.argv == ("grace", "relax", "*.cif")
    assert run.seed == 7
    assert run.exit_code == 0
    assert run.end >= run.start


def test_a_run_that_fails_says_so_and_keeps_what_was_done(store):
    atoms = bulk("Cu")

    def fail():
        with store.recording() as recorder:
            recorder.record(relax(), atoms, {})
            raise StoreError("out of luck")

    with pytest.raises(StoreError, match="out of luck"):
        fail()
    assert store.result_count == 1
    assert store.why("r0").run.exit_code == 7
    with store.recording():
        pass
    assert store.commit.counts["run"] == 2  # nothing recorded, nothing written


def test_lineage_leads_to_the_file(store):
    atoms = bulk("Cu", cubic=True)
    first = relaxed(atoms)
    store.record(relax(), atoms, {}, first, source="Cu.cif", argv=["grace", "relax", "Cu.cif"])
    first.calc = None
    store.record(relax(kind="elastic"), first, {"K": 140.0}, units={"K": "GPa"}, argv=["grace", "elastic"])
    step = store.why("r1")
    assert step.result.calculation.kind == "elastic"
    assert step.parent.structure == 1
    assert step.parent.made_by.result.calculation.kind == "relax"
    assert step.parent.made_by.run.argv == ("grace", "relax", "Cu.cif")
    root = step.parent.made_by.parent
    assert (root.structure, root.source, root.made_by) == (0, "Cu.cif", None)
    document = store.why(1).to_dict()
    assert document["made_by"]["model_sha256"] == SHA
    assert document["made_by"]["parent"]["source"] == "Cu.cif"


def test_a_structure_that_relaxes_to_itself_has_a_finite_lineage(store):
    atoms = relaxed(bulk("Cu", cubic=True))
    again = atoms.copy()
    again.calc = atoms.calc
    store.record(relax(), bulk("Cu", cubic=True), {}, atoms)
    store.record(relax(), atoms, {}, again)
    assert store.why(1).made_by.parent.structure == 0


def test_what_cannot_be_stored_is_refused_in_one_line(store):
    with pytest.raises(InputError, match=r"settings\.f"):
        relax(settings={"f": object()})
    with pytest.raises(InputError, match="value 'x'"):
        store.record(relax(), bulk("Cu"), {"x": object()})
    with pytest.raises(InputError, match="no result 5"):
        store.result(5)
    with pytest.raises(InputError, match="neither"):
        store.why("x")
    assert store.result_count == 0
    with Store(store.path) as reader, pytest.raises(StoreError, match="opened for reading"):
        reader.record(relax(), bulk("Cu"), {})


def test_many_results_are_found_by_hash(store):
    rng = np.random.default_rng(0)
    outcomes = [Outcome(relax(), bulk("Cu", a=3 + x), {"x": float(x)}) for x in rng.random(3000)]
    store.record_many(outcomes[:100])
    for outcome in outcomes[:100]:
        assert store.find(relax(), outcome.parent).values == outcome.values
    store.record_many(outcomes[100:])
    for number in rng.integers(0, 3000, 50):
        assert store.find(relax(), outcomes[number].parent).values == outcomes[number].values
    with Store(store.path) as fresh:
        assert fresh.find(relax(), outcomes[2999].parent).id == 2999
