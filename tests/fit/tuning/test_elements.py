from __future__ import annotations

import numpy as np
import pytest

from gracecli.errors import InputError
from gracecli.fit.config_read import make_config
from gracecli.fit.trainer import Trainer
from gracecli.model.modelfile import load_model


@pytest.fixture(scope="module")
def gold(tmp_path_factory, emt_structures, write):
    """16 structures of Au and Cu-Au."""
    return write(tmp_path_factory.mktemp("data") / "gold.extxyz", emt_structures(16, 51, ("Au", "Au", "Cu")))


@pytest.fixture(scope="module")
def extended(base, gold, tmp_path_factory):
    config = {
        "data": {"train": [str(gold)], "valid_fraction": 0.2},
        "model": {"start": str(base)},
        "tuning": {"strategy": "frozen"},
        "training": {"epochs": 10, "batch_atoms": 16, "learning_rate": 0.03, "validate_every": 5},
        "output": {"directory": str(tmp_path_factory.mktemp("extended"))},
    }
    trainer = Trainer(make_config(config))
    return trainer.run(), trainer


@pytest.mark.parametrize("engine", ["tensorflow", "native"])
def test_a_new_element_works_in_both_engines(extended, base, evaluated, same_bits, emt_structures, engine):
    if engine == "native":
        pytest.importorskip("grace_native")
    result, trainer = extended
    model = load_model(result.model)
    assert set(model.elements) == {"Cu", "Ag", "Au"}
    assert trainer.data.tuning.record["new_elements"] == {"Au": "Ag"}
    structures = emt_structures(4, 52, ("Au",))
    found = evaluated(result.model, structures, engine)
    before = evaluated(trainer.directory / "start.grace", structures, engine)
    labels = np.concatenate([atoms.get_forces() for atoms in structures])
    error = np.abs(np.concatenate([r.forces for r in found]) - labels).mean()
    untrained = np.abs(np.concatenate([r.forces for r in before]) - labels).mean()
    assert error < untrained
    silver = emt_structures(2, 53, ("Ag",))
    assert same_bits(evaluated(result.model, silver, engine), evaluated(base, silver, engine))


def test_both_engines_agree_on_the_new_element(extended, evaluated, emt_structures):
    pytest.importorskip("grace_native")
    structures = emt_structures(3, 54, ("Au", "Ag", "Cu"))
    ours, native = (evaluated(extended[0].model, structures, engine) for engine in ("tensorflow", "native"))
    for a, b in zip(ours, native, strict=True):
        assert a.forces == pytest.approx(b.forces, abs=1e-7)
        assert a.energy == pytest.approx(b.energy, abs=1e-7)


def test_elements_are_dropped_and_donors_may_be_among_them(tune, gold):
    config = tune(gold, "naive")
    config["model"]["elements"] = ["Au", "Cu"]
    config["tuning"]["shift"] = False
    trainer = Trainer(make_config(config))
    assert trainer.data.elements == ("Cu", "Au")
    old = trainer.data.tuning.base
    table = trainer.data.tuning.model.weights["Z/w"]
    assert np.array_equal(table[1], old.weights["Z/w"][old.elements.index("Ag")])
    config["model"]["elements"] = ["Cu"]
    config["output"]["directory"] += "-2"
    with pytest.raises(InputError, match="the data have Au"):
        Trainer(make_config(config))
