"""Extrapolation grades of the kernels: against NumPy on invariants, symmetries, threads, precisions."""

from dataclasses import replace

import numpy as np
import pytest
from grace_native.engine import NativeEngine
from native_models import read

from gracecli.engine.neighbours import build_graph
from gracecli.model.grade import ExtrapolationGrade, energy_reductions, invariant_pieces

MODELS = ["1l", "2l", "fs"]


def with_grade(model, seed=0, dimension=5, transform="none"):
    """A grade of random numbers."""
    rng = np.random.default_rng(seed)
    pieces = invariant_pieces(model.blueprint, model.weights)
    plain = transform != "none"
    size = dimension + (0 if plain else 1 + len(energy_reductions(model.blueprint)))
    n = len(model.elements)
    root = rng.normal(size=(n, 2, size, size))
    grade = ExtrapolationGrade(
        rng.normal(size=(pieces[-1].first + pieces[-1].size, dimension)), rng.normal(size=(n, 2, size)),
        root @ np.swapaxes(root, -1, -2), rng.uniform(1.0, 2.0, (n, 2)), np.ones((n, 2), np.int64),
        transform=transform, normalize=not plain, density=not plain,
    )  # fmt: skip
    return replace(model, grade=grade)


def graph_of(engine, atoms):
    return build_graph(atoms, engine.cutoff, engine.pair_cutoff)


def covered(engine, structures):
    return [a for a in structures.values() if set(a.symbols) <= set(engine.elements)]


def evaluate(model, structures, **options):
    engine = NativeEngine(model, **{"threads": 1, **options})
    engine.gamma = True
    graphs = [graph_of(engine, a) for a in covered(engine, structures)]
    return np.concatenate([r.extra["gamma"] for r in engine.evaluate(graphs)])


@pytest.mark.parametrize("name", MODELS)
def test_recomputed_phases_threads_and_precision(name, structures):
    model = with_grade(read(name))
    gamma = evaluate(model, structures)
    assert np.isfinite(gamma).all()
    np.testing.assert_array_equal(evaluate(model, structures, keep_bytes=0), gamma)
    np.testing.assert_allclose(evaluate(model, structures, threads=3), gamma, rtol=1e-12)
    np.testing.assert_allclose(evaluate(model, structures, precision="fp32"), gamma, rtol=2e-3)


@pytest.mark.parametrize("name", MODELS)
def test_energies_and_forces_do_not_change(name, structures):
    """To the bit: a run may look at grades now and then without becoming another run."""
    engine = NativeEngine(with_grade(read(name)), threads=1)
    graphs = [graph_of(engine, a) for a in covered(engine, structures)]
    before = engine.evaluate(graphs)
    engine.gamma = True
    for a, b in zip(before, engine.evaluate(graphs), strict=True):
        assert "gamma" not in a.extra
        assert a.energy == b.energy
        np.testing.assert_array_equal(a.forces, b.forces)
        np.testing.assert_array_equal(a.stress, b.stress)


@pytest.mark.parametrize("name", MODELS)
def test_batches(name, structures):
    model = with_grade(read(name))
    engine = NativeEngine(model, threads=1)
    engine.gamma = True
    single = [engine.evaluate([graph_of(engine, a)])[0].extra["gamma"] for a in covered(engine, structures)]
    np.testing.assert_allclose(evaluate(model, structures), np.concatenate(single), rtol=1e-12)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("transform", ["none", "asinh"])
def test_same_as_tensorflow(name, transform, structures):
    from gracecli.engine.tensorflow import TensorFlowEngine

    model = with_grade(read(name), transform=transform)
    engine = TensorFlowEngine(model, xla=False)
    graphs = [graph_of(engine, a) for a in covered(engine, structures)]
    expected = np.concatenate([r.extra["gamma"] for r in engine.evaluate(graphs)])
    np.testing.assert_allclose(evaluate(model, structures), expected, rtol=1e-6)
    np.testing.assert_allclose(evaluate(model, structures, radial="exact"), expected, rtol=1e-9)
