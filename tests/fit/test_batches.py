from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from gracecli.fit.batches import GraphSet, epoch_order, epoch_plan, fill_fraction
from gracecli.fit.config import DataConfig, SetConfig, TrainingConfig
from gracecli.fit.data import read_sets
from gracecli.fit.schedule import learning_rate, progress_of


@pytest.fixture(scope="module")
def frames(copper, alloy):
    return read_sets([SetConfig(str(copper)), SetConfig(str(alloy))], DataConfig())[0]


@pytest.fixture(scope="module")
def graphs(frames):
    return GraphSet(frames, 3.6, ("Ag", "Cu"))


def test_epoch_order_is_a_pure_function_of_seed_and_epoch(frames):
    assert epoch_order(frames, 1, 5) == epoch_order(frames, 1, 5)
    assert epoch_order(frames, 1, 5) != epoch_order(frames, 1, 6)
    assert epoch_order(frames, 1, 5) != epoch_order(frames, 2, 5)
    assert sorted(epoch_order(frames, 1, 5)) == list(range(len(frames)))


@pytest.mark.parametrize(("share", "epochs"), [(0.25, 4), (0.3, 10), (2.0, 1), (1.5, 2)])
def test_shares_visit_every_structure_equally_often(frames, share, epochs):
    shared = [replace(f, share=share) if f.set_name == "copper" else f for f in frames]
    visits = Counter(i for epoch in range(epochs) for i in epoch_order(shared, 3, epoch))
    copper = [visits[i] for i, f in enumerate(shared) if f.set_name == "copper"]
    assert set(copper) == {round(share * epochs)}


def test_plan_visits_everything_once_within_capacity(graphs):
    capacities = graphs.capacities(24)
    plan = epoch_plan(graphs, capacities, seed=1, epoch=2, per_step=2)
    bins = [members for step in plan for members in step]
    assert sorted(i for members in bins for i in members) == list(range(len(graphs)))
    assert all(len(step) == 2 for step in plan[:-1])
    for members in bins:
        packed = graphs.pack(members, capacities)  # raises when something does not fit
        assert packed.batch.shape == capacities[graphs.classes[members[0]]].shape
        assert len({graphs.classes[i] for i in members}) == 1
    assert len(capacities) == 2
    assert min(fill_fraction(graphs, plan, capacities)) > 0.6


def test_validation_keeps_the_shapes_of_training(graphs, frames):
    capacities = graphs.capacities(24)
    few = GraphSet([f for f in frames if f.kind == "Cu"][:3], 3.6, ("Ag", "Cu"))
    assert few.capacities(24, at_least=capacities)[0].shape == capacities[0].shape


def test_labels_of_missing_kinds_weigh_nothing(graphs, frames):
    bare = replace(frames[0], energy=float("nan"), stress=np.full(6, np.nan), weight=2.0)
    own = GraphSet([bare, frames[1]], 3.6, ("Ag", "Cu"))
    labels = own.pack([0, 1], own.capacities(16)).labels
    assert labels.energy_weight[:2].tolist() == [0.0, 1.0]
    assert labels.stress_weight[:2].tolist() == [[0.0] * 6, [1.0] * 6]
    assert labels.forces_weight.tolist() == [2.0] * 4 + [1.0] * 4 + [0.0] * 8
    assert all(np.isfinite(value).all() for value in labels)


def test_schedule():
    cosine = TrainingConfig(learning_rate=1.0, final_learning_rate=0.1, warmup=0.1)
    rates = [learning_rate(cosine, progress_of(e, p, 10, 20)) for e in range(20) for p in range(10)]
    peak = int(np.argmax(rates))
    assert peak == 20  # a tenth of 200 steps
    assert rates[peak] == pytest.approx(1.0)
    assert rates[0] == pytest.approx(0.01)
    assert (np.diff(rates[peak:]) < 0).all()
    assert learning_rate(cosine, 1.0) == pytest.approx(0.1)
    assert learning_rate(replace(cosine, warmup=0.0), 0.0) == pytest.approx(1.0)
