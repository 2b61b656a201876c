"""Gradients of one batch: against finite differences, and independent of how structures are batched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gracecli.fit.batches import Capacity, GraphSet
from gracecli.fit.config import LossConfig
from gracecli.fit.config_read import make_config
from gracecli.fit.loss import FitLoss, LabelCounts, huber
from gracecli.fit.reference import adapt_blueprint
from gracecli.fit.setup import build_network, prepare_data


class Setup:
    """Network and compiled functions over the alloy set."""

    def __init__(self, settings) -> None:
        from gracecli.fit.compute import Compute
        from gracecli.fit.optimizer import Optimizer

        self.config = make_config(settings)
        self.data = prepare_data(self.config, lambda text: None)
        self.graphs = self.graph_set(self.data.train)
        self.network, self.blueprint = build_network(self.config, self.data, self.graphs.average_neighbours)
        self.optimizer = Optimizer(self.network.trainable_by_name, 10.0, 0.0, 0.9)
        loss = FitLoss(LossConfig(energy=3.0, forces=1.0, stress=20.0, forces_delta=0.3), LabelCounts(4.0, 40.0, 20.0))
        self.compute = Compute(self.network, loss, "projected", self.optimizer.variables)
        capacity = self.graphs.capacities(24)[1]
        self.capacities = {0: capacity, 1: capacity}  # one shape for all, so that one program is compiled

    def graph_set(self, frames) -> GraphSet:
        return GraphSet(frames, self.data.cutoff, self.data.elements)

    def loss(self, members) -> float:
        return float(self.compute.gradients([self.graphs.pack(members, self.capacities)])[1].sum())

    def gradient(self, members, capacities=None) -> np.ndarray:
        gradients, _ = self.compute.gradients([self.graphs.pack(members, capacities or self.capacities)])
        return np.concatenate([np.ravel(g) for g in gradients])


@pytest.fixture(scope="module")
def setup(alloy, tmp_path_factory, settings):
    return Setup(settings(alloy, tmp_path_factory.mktemp("fit")))


def test_weight_gradient_is_the_derivative_of_the_loss(setup):
    members = [0, 1, 2, 3]
    gradients, _ = setup.compute.gradients([setup.graphs.pack(members, setup.capacities)])
    weights = setup.optimizer.weights()
    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = {name: rng.standard_normal(value.shape) for name, value in weights.items()}
        slope = sum(float(np.sum(np.asarray(g) * direction[n])) for n, g in zip(weights, gradients, strict=True))
        h = 1e-5
        values = []
        for sign in (1, -1):
            setup.optimizer.load({n: w + sign * h * direction[n] for n, w in weights.items()})
            values.append(setup.loss(members))
        setup.optimizer.load(weights)
        assert (values[0] - values[1]) / (2 * h) == pytest.approx(slope, rel=1e-5)


def test_gradient_does_not_depend_on_padding_or_partition(setup):
    members = [0, 1, 2, 3]
    whole = setup.gradient(members)
    scale = np.abs(whole).max()
    parts = setup.gradient(members[:1]) + setup.gradient(members[1:])
    assert np.abs(parts - whole).max() < 1e-12 * scale
    assert np.abs(setup.gradient(members[::-1]) - whole).max() < 1e-12 * scale
    capacity = setup.capacities[1]
    shape = capacity.shape._replace(atoms=capacity.shape.atoms + 8, rows=capacity.shape.rows + 16)
    larger = {0: Capacity(shape, capacity.structures + 3), 1: Capacity(shape, capacity.structures + 3)}
    assert np.abs(setup.gradient(members, larger) - whole).max() < 1e-12 * scale


def test_forces_and_stress_are_derivatives_of_the_energy(setup):
    frame = setup.data.train[0]
    rng = np.random.default_rng(1)
    shift, strain = rng.standard_normal(frame.atoms.positions.shape), rng.standard_normal((3, 3))
    strain = strain + strain.T
    h = 1e-5

    def moved(x: float, y: float):
        atoms = frame.atoms.copy()
        atoms.positions += x * shift
        atoms.set_cell(atoms.cell @ (np.eye(3) + y * strain), scale_atoms=True)
        return replace(frame, atoms=atoms)

    graphs = setup.graph_set([frame, moved(h, 0), moved(-h, 0), moved(0, h), moved(0, -h)])
    energy, forces, stress = setup.compute.predict(graphs.pack(range(5), setup.capacities))
    assert (energy[1] - energy[2]) / (2 * h) == pytest.approx(-float(np.sum(forces[:4] * shift)), rel=1e-6)
    full = stress[0][[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    work = frame.atoms.get_volume() * float(np.sum(full * strain))
    assert (energy[3] - energy[4]) / (2 * h) == pytest.approx(work, rel=1e-6)
    assert np.abs(forces[:4].sum(axis=0)).max() < 1e-12


def test_reference_energies_are_the_zero_of_the_network(setup):
    """With a scale of zero the model is the reference energies alone, element by element."""
    from gracecli.fit.compute import Compute
    from gracecli.model.network import Network

    reference = setup.data.reference.energies
    blueprint = adapt_blueprint(setup.blueprint, reference, 0.0, 12.0)
    network = Network(blueprint, setup.network.weights())
    loss = FitLoss(LossConfig(), LabelCounts(1, 1, 1))
    compute = Compute(network, loss, "projected", list(network.trainable_by_name.values()))
    energy, _, _ = compute.predict(setup.graphs.pack([0, 1, 2], setup.capacities))
    for number in range(3):
        symbols = setup.data.train[number].atoms.get_chemical_symbols()
        assert energy[number] == pytest.approx(sum(reference[s] for s in symbols), abs=1e-9)


def test_huber_is_quadratic_then_linear_and_smooth():
    import tensorflow as tf

    delta = 0.5
    one = tf.constant([1.0], tf.float64)
    values = [float(huber(delta)(tf.constant([x], tf.float64), one)) for x in (0.2, -0.2, 0.5, 2.0)]
    assert values == pytest.approx([0.02, 0.02, 0.125, 0.5 * (2.0 - 0.25)])
