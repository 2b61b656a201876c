"""Which engine ``auto`` means."""

from __future__ import annotations

import logging

import pytest

from gracecli.engine import create
from gracecli.plugin.specs import EngineSpec

FAST = EngineSpec(name="fast", help="x", factory="m:f", priority=20)
ABSENT = EngineSpec(name="absent", help="x", factory="m:f", priority=30, available="gracecli.engine.create:gpu_usable")
LARGE = EngineSpec(name="large", help="x", factory="m:f", priority=10, gpu=True)


@pytest.fixture(autouse=True)
def fresh():
    create.gpu_usable.cache_clear()
    create._say_once.cache_clear()
    yield
    create.gpu_usable.cache_clear()
    create._say_once.cache_clear()


def best(*specs):
    return create._best({spec.name: spec for spec in specs}).name


def test_the_highest_priority_wins_on_processors(monkeypatch):
    monkeypatch.setattr(create, "gpu_usable", lambda: False)
    assert best(FAST, LARGE) == "fast"


def test_an_engine_for_gpus_wins_where_there_is_one(monkeypatch):
    monkeypatch.setattr(create, "gpu_usable", lambda: True)
    assert best(FAST, LARGE) == "large"


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_do_not_count(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert create.gpu_usable() is False


def test_a_better_engine_that_is_missing_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(create, "why_unavailable", lambda spec: "not built" if spec.name == "absent" else None)
    monkeypatch.setattr(create, "gpu_usable", lambda: False)
    with caplog.at_level(logging.WARNING, logger="gracecli"):
        assert [best(FAST, ABSENT, LARGE) for _ in range(3)] == ["fast"] * 3
    (record,) = caplog.records
    assert record.getMessage() == "engine absent: not built; going on with fast (--engine fast silences this)"
