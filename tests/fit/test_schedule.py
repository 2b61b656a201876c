"""Learning rates, stages and stops as functions of progress and log."""

from __future__ import annotations

import itertools

import pytest

from gracecli.errors import UsageError
from gracecli.fit.config import LossConfig, StageConfig, TrainingConfig
from gracecli.fit.config_read import make_config
from gracecli.fit.schedule import SCHEDULES, ends_early, final_loss, learning_rate, loss_weights, stalls


def rates(**options):
    training = TrainingConfig(epochs=10, learning_rate=1.0, final_learning_rate=0.01, warmup=0.0, **options)
    return [learning_rate(training, k / 10, [{"epoch": e + 1, "loss": 1.0} for e in range(k)]) for k in range(11)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "exponential"])
def test_schedules_fall_from_peak_to_end(schedule):
    found = rates(schedule=schedule)
    assert found[0] == pytest.approx(1.0)
    assert found[-1] == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(found))


def test_their_middles():
    assert rates(schedule="linear")[5] == pytest.approx(0.505)
    assert rates(schedule="exponential")[5] == pytest.approx(0.1)
    assert rates(schedule="cosine")[5] == pytest.approx(0.505)
    assert rates(schedule="constant") == [1.0] * 11
    assert set(SCHEDULES) == {"cosine", "linear", "exponential", "constant", "plateau"}


def test_plateau_falls_when_nothing_improves():
    assert rates(schedule="plateau", plateau_patience=3)[:9] == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25])
    training = TrainingConfig(epochs=10, learning_rate=1.0, schedule="plateau", plateau_patience=2, warmup=0.0)
    falling = [{"epoch": e + 1, "loss": 0.5**e, "valid_loss": 0.9**e} for e in range(9)]
    assert learning_rate(training, 0.9, falling) == 1.0


def test_stalls_count_relative_improvement():
    assert stalls([1.0, 0.9, 0.95, 0.91], 5) == (0, 2)
    assert stalls([1.0, 1.0, 1.0, 0.99999], 3) == (1, 0)


def test_a_stage_changes_weights_and_begins_the_schedule_anew():
    config = make_config(
        {
            "data": {"train": ["x.extxyz"]},
            "loss": {"energy": 1.0, "forces": 5.0, "stress": 7.0},
            "training": {
                "learning_rate": 1.0, "final_learning_rate": 0.01, "warmup": 0.0,
                "stages": [{"start": 0.5, "energy": 100.0, "learning_rate": 0.2}, {"start": 0.75, "forces": 2.0}],
            },
        }
    )  # fmt: skip
    assert loss_weights(config, 0.49) == (1.0, 5.0, 7.0)
    assert loss_weights(config, 0.5) == (100.0, 5.0, 7.0)
    assert loss_weights(config, 0.9) == (100.0, 2.0, 7.0)
    assert final_loss(config) == LossConfig(energy=100.0, forces=2.0, stress=7.0)
    training = config.training
    assert learning_rate(training, 0.499999) == pytest.approx(0.505, abs=1e-3)
    assert learning_rate(training, 0.5) == pytest.approx(0.2)
    assert learning_rate(training, 0.75) == pytest.approx(0.105)
    assert learning_rate(training, 1.0) == pytest.approx(0.01)


def test_early_stop_waits_for_the_last_stage():
    log = [{"epoch": e + 1, "loss": 1.0, "valid_loss": 1.0} for e in range(6)]
    assert ends_early(TrainingConfig(epochs=10, early_stop=3), log)
    assert not ends_early(TrainingConfig(epochs=10, early_stop=6), log)
    assert not ends_early(TrainingConfig(epochs=10), log)
    stages = (StageConfig(start=0.5),)
    assert not ends_early(TrainingConfig(epochs=10, early_stop=3, stages=stages), log)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"stages": [{"start": 0.5}, {"start": 0.4}]}, "number 2"),
        ({"stages": [{"start": 1.5}]}, "fraction"),
        ({"stages": [{"start": 0.5, "energy": -1.0}]}, "negative"),
        ({"stages": [{"begin": 0.5}]}, "unknown key 'begin'"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"optimizer": "sgd"}, "not one of adam"),
        ({"plateau_factor": 1.5}, "plateau_factor"),
    ],
)
def test_bad_settings_are_named(training, message):
    with pytest.raises(UsageError) as caught:
        make_config({"training": training})
    assert message in str(caught.value)
