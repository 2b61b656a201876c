"""Training with the kernels: gradients against TensorFlow's and against differences of the loss, and the contract."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from native_models import read

from gracecli.errors import ModelError, UsageError
from gracecli.fit.batches import FitBatch, GraphSet
from gracecli.fit.config import LossConfig, TrainingConfig
from gracecli.fit.data import Frame
from gracecli.fit.engines import EvaluationMaker
from gracecli.fit.loss import FitLoss, LabelCounts
from gracecli.model.modelfile import Model
from gracecli.model.presets import initial_weights, preset

pytest.importorskip("tensorflow")

SIZES = {"cutoff": 4.5, "n_basis": 4, "hidden": (8,), "embedding": 4, "average_neighbours": 12.0}
NAMES = ("kind", "set", "file:0")
TRAINABLE = ("fs", "1l", "1l-first", "2l", "2l-first", "1l-zbl")


def some(*fast: str) -> list[Any]:
    """All trainable models; those not named are slow (TensorFlow compiles each of them for ten seconds)."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in TRAINABLE]


@cache
def model(name: str) -> Model:
    """A test model; ``1l-zbl`` has a repulsion."""
    if name != "1l-zbl":
        return read(name)
    sizes = SIZES | {"lmax": (2,), "n_radial": (3,), "n_product": (3,), "n_density": 3}
    blueprint = preset("1l-medium", ("Al", "Cu"), **sizes, zbl_cutoffs={"AlAl": 1.8, "AlCu": 2.4, "CuCu": 2.4})
    return Model(blueprint, initial_weights(blueprint, np.random.default_rng(4)), {})


def frames() -> list[Frame]:
    """Two crystals and a molecule without stress, with made-up labels of the usual sizes."""
    rng = np.random.default_rng(8)
    alloy = bulk("Cu", cubic=True, a=3.8) * (2, 1, 1)
    alloy.numbers[::3] = 13
    alloy.rattle(0.15, seed=1)
    aluminium = bulk("Al", cubic=True, a=3.9)
    aluminium.rattle(0.1, seed=2)
    trimer = Atoms("CuAlCu", [[0, 0, 0], [0, 0, 2.3], [0, 2.1, 0.6]])
    found = []
    for atoms in (alloy, aluminium, trimer):
        stress = rng.normal(scale=0.02, size=6) if atoms.pbc.all() else np.full(6, np.nan)
        found.append(Frame(atoms, float(rng.normal()) * len(atoms), rng.normal(size=(len(atoms), 3)), stress, *NAMES))
    return found


def batch_of(cutoff: float) -> FitBatch:
    graphs = GraphSet(frames(), cutoff, ("Al", "Cu"))
    graphs.classes[:] = 1  # all of them in one batch
    graphs._elements = {1: {13, 29}}
    return graphs.pack(range(len(graphs)), graphs.capacities(32))


def made(name: str, engine: str, threads: int = 1, precision: str = "fp64", say: Any = lambda text: None) -> Any:
    """Network, its variables by name, and what evaluates it."""
    from gracecli.model.network import Network

    network = Network(model(name).blueprint, model(name).weights, "float64" if precision == "fp64" else "float32")
    names = sorted(network.trainable_by_name)
    loss = FitLoss(LossConfig(energy=3.0, stress=200.0), LabelCounts(2.0, 40.0, 12.0))
    training = TrainingConfig(engine=engine, threads=threads, precision=precision, radial="exact")
    maker = EvaluationMaker(training, say)
    return network, names, maker(network, loss, [network.trainable_by_name[n] for n in names]), maker


def flat(gradients: Sequence[Any]) -> np.ndarray:
    return np.concatenate([np.asarray(g).ravel() for g in gradients])


@pytest.mark.parametrize("name", some("1l-first"))
def test_gradients_by_every_weight_equal_those_of_tensorflow(name: str) -> None:
    batch = batch_of(4.5)
    _, names, native, _ = made(name, "native")
    _, _, reference, _ = made(name, "tensorflow")
    found, terms = native.gradients([batch])
    expected, expected_terms = reference.gradients([batch])
    assert terms == pytest.approx(expected_terms, rel=1e-7)
    assert np.all(expected_terms > 0)
    largest = np.abs(flat(expected)).max()
    for variable, one, other in zip(names, found, expected, strict=True):
        size = np.abs(other).max()
        assert np.abs(one - other).max() < 2e-6 * size + 1e-9 * largest, variable
    for one, other in zip(native.predict(batch), reference.predict(batch), strict=True):
        assert np.abs(one - other).max() < 1e-6


@pytest.mark.parametrize("name", some("fs", "1l", "2l-first"))
def test_gradient_is_the_slope_of_the_loss(name: str) -> None:
    """Along random directions of all weights; energies, forces and stresses count alike."""
    batch = batch_of(4.5)
    network, names, native, _ = made(name, "native")
    gradient = native.gradients([batch])[0]
    rng = np.random.default_rng(5)
    variables = [network.trainable_by_name[n] for n in names]
    start = [v.numpy() for v in variables]
    move = [rng.normal(size=v.shape) for v in start]
    losses, h = [], 1e-5
    for step in (-1.0, 1.0):
        for variable, value, direction in zip(variables, start, move, strict=True):
            variable.assign(value + step * h * direction)
        losses.append(native.gradients([batch])[1].sum())
    slope = (losses[1] - losses[0]) / (2 * h)
    assert slope == pytest.approx(flat(gradient) @ flat(move), rel=1e-5)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    atoms = bulk("Cu", cubic=True, a=3.8) * (3, 3, 4)
    atoms.rattle(0.1, seed=3)
    frame = Frame(atoms, -3.0 * len(atoms), np.zeros((len(atoms), 3)), np.zeros(6), *NAMES)
    graphs = GraphSet([frame], 4.5, ("Al", "Cu"))
    batch = graphs.pack([0], graphs.capacities(256))
    one, three = (made("1l-first", "native", threads=n)[2].gradients([batch]) for n in (1, 3))
    assert flat(one[0]).tobytes() == flat(three[0]).tobytes()
    assert one[1].tobytes() == three[1].tobytes()


@pytest.mark.parametrize("name", ["3l", "1l-pairs"])
def test_models_it_cannot_train_go_to_tensorflow_with_a_reason(name: str) -> None:
    said: list[str] = []
    maker = made(name, "auto", say=said.append)[3]
    assert maker.name == "tensorflow"
    assert len(said) == 1
    assert said[0].startswith("training with TensorFlow: native training: ")
    with pytest.raises(ModelError, match="native training"):
        made(name, "native")


def test_single_precision_is_for_tensorflow() -> None:
    assert made("1l", "auto", precision="fp32")[3].name == "tensorflow"
    with pytest.raises(UsageError, match="double precision"):
        made("1l", "native", precision="fp32")


def test_engines_that_do_not_train_are_named() -> None:
    with pytest.raises(UsageError, match="does not train"):
        made("1l", "saved-model")
