"""The TensorFlow engine: batches, few compiles, memory, errors. Physics is in tests/model/test_symmetries.py."""

import os
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from gracecli.engine.base import Engine
from gracecli.engine.batch import required_shape
from gracecli.engine.neighbours import build_graph
from gracecli.errors import InputError, MemoryLimitError, UsageError
from gracecli.model.modelfile import Model
from gracecli.model.presets import initial_weights, preset

CUTOFF = 4.0
SIZES = {
    "cutoff": CUTOFF, "lmax": 1, "order": 2, "n_radial": 3, "n_product": 3, "n_density": 3, "n_basis": 4,
    "embedding": 3, "hidden": 4, "readout_hidden": 4, "average_neighbours": 10.0, "scale": 10.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tensorflow):
    blueprint = preset("1l-medium", ["Al", "Cu", "Ni"], **SIZES)
    return Model(blueprint, initial_weights(blueprint, np.random.default_rng(3)))


@pytest.fixture
def new_engine(model):
    from gracecli.engine.tensorflow import TensorFlowEngine

    return lambda **options: TensorFlowEngine(model, **{"xla": False, **options})


def graphs(n):
    """Crystals of one to n atoms."""
    found = []
    for k in range(1, n + 1):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms = atoms[:k]
        atoms.numbers[::2] = 13
        atoms.rattle(0.1, seed=k)
        found.append(build_graph(atoms, CUTOFF))
    return found


def assert_equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.energy == pytest.approx(y.energy, abs=1e-12)
        assert np.abs(x.forces - y.forces).max() < 1e-12
        assert np.abs(x.stress - y.stress).max() < 1e-14


def test_it_is_an_engine(new_engine):
    engine = new_engine()
    assert isinstance(engine, Engine)
    assert engine.elements == ("Al", "Cu", "Ni")
    assert engine.cutoff == CUTOFF
    assert engine.precision == "fp64"
    assert engine.pair_cutoff(np.array([13, 29], dtype=np.int32)) is None
    assert engine.evaluate([]) == []
    assert engine.statistics()["compiles"] == 0


def test_large_inputs_are_cut_into_batches(new_engine, monkeypatch):
    from gracecli.engine import tensorflow as module

    engine, structures = new_engine(), graphs(5)
    whole = engine.evaluate(structures)
    assert engine.statistics()["evaluations"] == 5
    assert engine.statistics()["compiles"] == 1
    batches = []
    original = engine._evaluate_batch
    monkeypatch.setattr(engine, "_evaluate_batch", lambda b: batches.append(b.n_structures) or original(b))
    monkeypatch.setattr(module, "MAX_BATCH_COST", required_shape(structures[:3]).cost)
    assert_equal(whole, engine.evaluate(structures))
    assert len(batches) > 1
    assert sum(batches) == 5


def test_a_batch_that_does_not_fit_is_halved(new_engine, tensorflow, monkeypatch):
    engine, structures = new_engine(), graphs(4)
    wanted = engine.evaluate(structures)
    original = engine._evaluate_batch

    def small_memory(batch, limit=2):
        if batch.n_structures > limit:
            raise tensorflow.errors.ResourceExhaustedError(None, None, "out of memory")
        return original(batch)

    monkeypatch.setattr(engine, "_evaluate_batch", small_memory)
    assert_equal(wanted, engine.evaluate(structures))
    monkeypatch.setattr(engine, "_evaluate_batch", lambda batch: small_memory(batch, 0))
    with pytest.raises(MemoryLimitError, match="a structure of 1 atoms does not fit into memory"):
        engine.evaluate(structures)


def test_elements_out_of_reach_are_named(new_engine):
    with pytest.raises(InputError, match="does not cover H, O"):
        new_engine().evaluate([*graphs(1), build_graph(molecule("H2O"), CUTOFF)])


@pytest.mark.parametrize(
    ("options", "words"),
    [({"precision": "fp16"}, ["fp16", "fp64", "fp32"]), ({"radial": "splines"}, ["splines", "exact, spline"])],
)
def test_unknown_options(new_engine, options, words):
    with pytest.raises(UsageError) as error:
        new_engine(**options)
    assert all(w in str(error.value) for w in words)


def test_pair_cutoffs_follow_the_sorted_numbers(tensorflow):
    from gracecli.engine.tensorflow import TensorFlowEngine

    table = {"Al": 3.0, "AlNi": 3.5, "Ni": 4.0, "Cu": 2.5, "AlCu": 2.7, "CuNi": 2.9}
    blueprint = preset("1l-medium", ["Al", "Cu", "Ni"], cutoffs=table, **SIZES)
    engine = TensorFlowEngine(Model(blueprint, initial_weights(blueprint, np.random.default_rng(0))), xla=False)
    assert engine.cutoff == 4.0
    # sorted by atomic number: Al 13, Ni 28, Cu 29
    wanted = [[3.0, 3.5, 2.7], [3.5, 4.0, 2.9], [2.7, 2.9, 2.5]]
    assert np.array_equal(engine.pair_cutoff(np.array([29, 13, 28, 13])), wanted)
    # beyond its own cutoff a pair does not interact, although another pair would
    apart = Atoms("AlCu", [[0, 0, 0], [0, 0, 2.71]])
    far, alone = engine.evaluate([build_graph(apart, 4.0), build_graph(apart[:1], 4.0)])
    assert far.energies[0] == pytest.approx(alone.energy, abs=1e-13)
    assert np.abs(far.forces).max() == 0.0


@pytest.mark.slow
def test_programs_from_the_cache_of_xla_come_without_a_word(tmp_path):
    code = """
from gracecli.quiet import import_tensorflow
tf = import_tensorflow()
for k in range(3):
    tf.function(lambda x: tf.sin(x) + float(k), jit_compile=True)(tf.zeros(3))
"""
    environment = os.environ | {"GRACE_CACHE": str(tmp_path), "GRACE_COMPILE_CACHE": "1", "GRACE_TF_VERBOSE": "0"}
    environment.pop("TF_XLA_FLAGS", None)  # names another cache once TensorFlow is imported here
    for cached in (False, True):
        assert bool(list(tmp_path.glob("xla/*/*"))) == cached
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stderr) == (0, "")


def test_reading_and_initialising_models_is_quiet():
    """TensorFlow's messages at import go nowhere, whichever room imports it first."""
    code = (
        "import numpy as np; from gracecli.model.presets import preset, initial_weights;"
        "initial_weights(preset('fs-small', ['Al']), np.random.default_rng(0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout == ""


@pytest.mark.slow
def test_twenty_structures_cost_at_most_six_compiles(new_engine):
    """Really compiled, by XLA; the same numbers as without."""
    engine, plain = new_engine(xla=True), new_engine()
    rng = np.random.default_rng(1)
    for size in rng.permutation(np.unique(np.geomspace(2, 200, 26).astype(int)))[:20]:
        cell = np.diag(rng.uniform(0.8, 1.3, 3)) * (rng.uniform(10, 20) * size) ** (1 / 3)
        numbers = rng.choice([13, 28, 29], size)
        atoms = Atoms(numbers, scaled_positions=rng.random((size, 3)), cell=cell, pbc=True)
        for _ in range(2):
            atoms.rattle(0.05, rng=rng)
            graph = build_graph(atoms, CUTOFF)
            (a,), (b,) = engine.evaluate([graph]), plain.evaluate([graph])
            assert a.energy == pytest.approx(b.energy, rel=1e-11)
            assert np.abs(a.forces - b.forces).max() < 1e-9 * max(1.0, np.abs(b.forces).max())
    statistics = engine.statistics()
    print(statistics)
    assert statistics["evaluations"] == 40
    assert statistics["compiles"] <= 6
    assert statistics["compile_seconds"] > 0.0


@pytest.mark.slow
def test_frozen_splines_in_the_compiled_program(new_engine):
    exact, spline = new_engine(xla=True), new_engine(xla=True, radial="spline")
    (a,), (b,) = exact.evaluate(graphs(8)[-1:]), spline.evaluate(graphs(8)[-1:])
    assert 0.0 < np.abs(a.forces - b.forces).max() < 1e-8
    assert a.energy == pytest.approx(b.energy, abs=1e-8)
