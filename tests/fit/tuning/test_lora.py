from __future__ import annotations

import numpy as np
import pytest

from gracecli.fit.checkpoint import load_checkpoint
from gracecli.fit.config_read import make_config
from gracecli.fit.trainer import Trainer
from gracecli.model.modelfile import load_model


@pytest.fixture
def tuned(tune, silver):
    """A fit by low-rank corrections whose factors have become as large as the maps."""
    config = tune(silver, "lora", epochs=4, learning_rate=0.1, tuning={"alpha": 3.0}, ema=0.0)
    config["data"]["valid_fraction"] = 0.0
    trainer = Trainer(make_config(config))
    return trainer, trainer.run(), config


def test_the_merged_model_equals_the_unmerged_network(tuned, base, evaluated, emt_structures, monkeypatch, tensorflow):
    """The readout, evaluated as x W0 + (alpha / r) (x A) B beside the merged rest of the network."""
    tf = tensorflow
    _trainer, result, _ = tuned
    arrays = load_checkpoint(result.directory / "checkpoint.npz").arrays
    start, merged = load_model(base), load_model(result.model)
    assert merged.blueprint.nodes[:-1] == start.blueprint.nodes[:-1]  # only the reference energies differ
    factors = {
        name.removeprefix("weight:").removesuffix("#left"): (value, arrays[name.removesuffix("left") + "right"])
        for name, value in arrays.items()
        if name.startswith("weight:") and name.endswith("#left")
    }
    assert any("mlp/layer0" in name for name in factors)
    assert all(np.abs(right).max() > 0.01 for _, right in factors.values())
    from gracecli.model.blocks import outputs

    node = next(n for n in merged.blueprint if n.kind == "MLPReadout")
    first = f"{node.name}/mlp/layer0/w"
    left, right = factors[first]
    strength = 3.0 / left.shape[-1]
    seen = []
    original = outputs.dense_layers

    def unmerged(x, weights, act):
        seen.append(x)
        w0 = tf.constant(start.weights[first], x.dtype)
        h = tf.matmul(x, w0) + strength * tf.matmul(tf.matmul(x, left[0]), right[0])
        return original(act(h / np.sqrt(int(w0.shape[0]))), weights[1:], act)

    structures = emt_structures(3, 41, ("Cu", "Ag"))
    from gracecli.export.reference import evaluate_model, graphs_for

    plain = evaluate_model(merged, graphs_for(merged, structures))
    monkeypatch.setattr(outputs, "dense_layers", unmerged)
    apart = evaluate_model(merged, graphs_for(merged, structures))
    assert seen
    for a, b in zip(plain, apart, strict=True):
        assert np.abs(a.energies - b.energies).max() < 1e-12
        assert np.abs(a.forces - b.forces).max() < 1e-12


def test_the_saved_model_is_base_plus_corrections(tuned, base):
    _trainer, result, _ = tuned
    arrays = load_checkpoint(result.directory / "checkpoint.npz").arrays
    start, merged = load_model(base), load_model(result.model)
    assert start.weights.keys() == merged.weights.keys()
    silver, copper = merged.elements.index("Ag"), merged.elements.index("Cu")
    checked = 0
    for name, value in start.weights.items():
        left = arrays.get(f"weight:{name}#left")
        if left is None:
            continue
        correction = left @ arrays[f"weight:{name}#right"] * (3.0 / left.shape[-1])
        if name.startswith("rho/"):
            assert np.array_equal(merged.weights[name][copper], value[copper])
            expected = value[silver] + correction[0].reshape(value.shape[1:])
            assert np.abs(merged.weights[name][silver] - expected).max() < 1e-12
        else:
            assert np.abs(merged.weights[name] - value - correction.reshape(value.shape)).max() < 1e-12
        assert np.linalg.matrix_rank(correction[0], tol=1e-9) <= 2
        checked += 1
    assert checked >= 4


def test_the_gradient_of_the_factors_is_that_of_the_loss(tune, silver, tensorflow):
    """Finite difference of the loss by one number of A and one of B."""
    config = tune(silver, "lora", radial="exact")
    trainer = Trainer(make_config(config))
    adapter = trainer.adapter
    rng = np.random.default_rng(5)
    for name, variable in adapter.variables.items():
        if name.endswith("#right"):
            variable.assign(0.3 * rng.standard_normal(variable.shape))
    adapter.push()
    (members, *_), *_ = trainer._plan(0)
    batch = trainer.graphs.pack(members, trainer.capacities)
    gradients, _ = trainer.compute.gradients([batch])
    projected = dict(zip(sorted(adapter.variables), adapter.project(gradients), strict=True))
    name = next(n for n in adapter.variables if n.startswith("A1/") and n.endswith("#left"))
    for key in (name, name.replace("#left", "#right")):
        variable = adapter.variables[key]
        where = (0, 1, 1)
        step, losses, value = 1e-5, [], variable.numpy()
        for sign in (1, -1):
            moved = value.copy()
            moved[where] += sign * step
            variable.assign(moved)
            adapter.push()
            losses.append(trainer.compute.gradients([batch])[1].sum())
        variable.assign(value)
        adapter.push()
        slope = (losses[0] - losses[1]) / (2 * step)
        assert projected[key].numpy()[where] == pytest.approx(slope, rel=1e-5, abs=1e-9)
