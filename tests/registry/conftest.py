"""A library in a temporary folder, and small models to put into it."""

import importlib.util
import os
import time
from pathlib import Path

import numpy as np
import pytest

from gracecli.model.modelfile import Model, save_model
from gracecli.model.presets import initial_weights, preset

SMALL = {"cutoff": 4.0, "lmax": (1, 1, 1), "n_radial": (2, 2, 2), "embedding": 2, "n_basis": 3}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Folder of an empty library; no bundled models, whatever this installation ships."""
    monkeypatch.setenv("GRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("gracecli.registry.resolve.data_directory", lambda: tmp_path / "data")
    (tmp_path / "data" / "models").mkdir(parents=True)
    return tmp_path / "cache" / "models"


@pytest.fixture
def bundled(tmp_path, library):
    """Folder of bundled models."""
    return tmp_path / "data" / "models"


@pytest.fixture(scope="session")
def small_model():
    """Model of given elements with random weights."""
    made = {}

    def make(*elements, **metadata):
        if elements not in made:
            blueprint = preset("fs-small", list(elements), **SMALL)
            made[elements] = Model(blueprint, initial_weights(blueprint, np.random.default_rng(len(elements))))
        model = made[elements]
        return Model(model.blueprint, model.weights, {"precision": "float64", **metadata})

    return make


@pytest.fixture
def stored(small_model):
    """Write a model file."""

    def store(path, *elements, **metadata):
        path.parent.mkdir(parents=True, exist_ok=True)
        return save_model(path, small_model(*elements, **metadata), overwrite=True)

    return store


@pytest.fixture
def settled(monkeypatch):
    """Let the clock be later: files are old enough to be remembered."""
    real = time.time
    monkeypatch.setattr("gracecli.registry.summary.time.time", lambda: real() + 60)
    return os.utime


@pytest.fixture
def new_server():
    """Make web servers that misbehave on demand; they end with the test."""
    spec = importlib.util.spec_from_file_location("misbehaving_server", Path(__file__).with_name("server.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = []

    def make():
        made.append(module.Server())
        return made[-1]

    yield make
    for server in made:
        server.close()
