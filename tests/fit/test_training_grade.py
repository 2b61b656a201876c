"""Grades that fits give their models: the data of the fit are inside, other data are not, a parent's never stay."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest

from gracecli.engine.create import create_engine
from gracecli.engine.grading import want_gamma
from gracecli.engine.neighbours import build_graph
from gracecli.fit.batches import GraphSet
from gracecli.fit.config_read import make_config
from gracecli.fit.start import create_trainer
from gracecli.fit.training_grade import sampled
from gracecli.model.heads import map_heads
from gracecli.model.modelfile import load_model

LINEAR = {
    "preset": "linear-small",
    "cutoff": 4.0,
    "overrides": {"lmax": [2, 2, 2, 1], "n_radial": [6, 6, 5, 3], "n_basis": 4, "embedding": 3},
}


def fit(content: dict, **options):
    content["output"].pop("gamma", None)  # the default
    return create_trainer(make_config(content), **options).run()


def gammas(model, path) -> np.ndarray:
    engine = create_engine(model)
    want_gamma(engine)
    structures = ase.io.read(path, ":")
    results = engine.evaluate([build_graph(atoms, engine.cutoff) for atoms in structures])
    return np.concatenate([result.extra["gamma"] for result in results])


@pytest.fixture(scope="module")
def linear(copper, settings, tmp_path_factory):
    """A linear fit of copper with validation and test structures."""
    content = settings(copper, tmp_path_factory.mktemp("linear"))
    content["model"] = LINEAR
    content["data"]["test"] = [str(copper)]
    return fit(content)


def test_training_atoms_are_inside_and_the_report_says_so(linear, copper, emt_structures, tmp_path):
    atoms = 4 * 24
    found = linear.gamma
    assert found["structures"] == found["of_structures"] < 24
    assert found["atoms"] == 4 * found["structures"]
    gamma = gammas(linear.model, copper)
    assert len(gamma) == atoms
    assert (gamma <= 1.0).sum() >= found["atoms"]
    held_out = found["held_out"]
    assert held_out["test"]["beyond_1"] == pytest.approx((gamma > 1.0).mean())
    assert held_out["valid"]["beyond_1"] * held_out["valid"]["atoms"] == pytest.approx((gamma > 1.0).sum())
    squeezed = ase.io.read(copper, "0")
    squeezed.set_cell(0.8 * squeezed.cell, scale_atoms=True)
    ase.io.write(tmp_path / "squeezed.extxyz", squeezed)
    assert gammas(linear.model, tmp_path / "squeezed.extxyz").min() > 1.5
    report = json.loads((linear.directory / "report.json").read_text())["result"]["gamma"]
    assert report["by_element"]["Cu"]["atoms"] == found["atoms"]
    assert "extrapolation grade" in (linear.directory / "report.html").read_text()
    assert load_model(linear.model).grade.provenance["model_sha256"] == load_model(linear.model).sha256()


def test_the_setting_switches_it_off(copper, settings, tmp_path):
    content = settings(copper, tmp_path)
    content["model"] = LINEAR
    assert not content["output"]["gamma"]
    result = create_trainer(make_config(content)).run()
    assert result.gamma is None
    assert load_model(result.model).grade is None


def test_a_large_set_is_sampled_from_every_kind(emt_structures):
    from dataclasses import replace

    from gracecli.fit.config import DataConfig
    from gracecli.fit.data import permissive_frame

    frames = [permissive_frame(a, str(i), "set", DataConfig()) for i, a in enumerate(emt_structures(60, seed=8))]
    rare = {17}
    frames = [replace(f, config_type="rare" if i in rare else f.config_type) for i, f in enumerate(frames)]
    frames[5] = replace(frames[5], weight=0.0)
    graphs = GraphSet(frames, 4.0, ["Cu"])
    chosen = sampled(graphs, 80, seed=1)
    assert len(chosen) == 20  # of 4 atoms each
    assert rare <= set(chosen)
    assert chosen == sampled(graphs, 80, seed=1)
    assert chosen != sampled(graphs, 80, seed=2)
    odd = sum(frames[i].config_type == "odd" for i in chosen)
    assert abs(odd - 10) <= 1
    assert sorted(set(range(60)) - set(sampled(graphs, 10_000, seed=1))) == [5]


@pytest.fixture(scope="module")
def parent(alloy, settings, tmp_path_factory):
    """A trained model of copper and silver with its grade."""
    return fit(settings(alloy, tmp_path_factory.mktemp("parent"), epochs=1))


@pytest.mark.slow
def test_a_fine_tuned_model_has_the_grade_of_its_own_data(parent, copper, tmp_path):
    """Not that of the model it came from, resumed or not; and none at all where none is made."""
    assert load_model(parent.model).grade is not None
    config = make_config(
        {
            "data": {"train": [str(copper)], "valid_fraction": 0.2},
            "model": {"start": str(parent.model)},
            "tuning": {"strategy": "readout"},
            "training": {"epochs": 1, "batch_atoms": 16, "learning_rate": 0.01},
            "output": {"directory": str(tmp_path)},
        }
    )
    trainer = create_trainer(config)
    assert trainer.adapter.model(trainer.blueprint, trainer.optimizer.averaged(), {}).grade is None
    tuned = trainer.run()
    new = load_model(tuned.model).grade
    assert new.provenance["model_sha256"] == load_model(tuned.model).sha256()
    assert tuned.gamma["without_data"] == ("Ag",)
    assert not new.covers(load_model(tuned.model).elements.index("Ag"))
    assert (gammas(tuned.model, copper) <= 1.0).sum() >= tuned.gamma["atoms"]
    again = create_trainer(config, resume=True).run()
    assert np.array_equal(load_model(again.model).grade.thresholds, new.thresholds)


@pytest.mark.slow
def test_heads_are_graded_by_the_data_of_the_default_one(parent, copper, tmp_path, emt_structures):
    """Old data that another head learns from do not count as known to the new one."""
    silver = tmp_path / "silver.extxyz"
    ase.io.write(silver, emt_structures(12, 21, ("Ag",)))
    result = fit(
        {
            "data": {"train": [str(silver)], "valid_fraction": 0.2},
            "model": {"start": str(parent.model)},
            "tuning": {"strategy": "replay", "replay": [str(copper)]},
            "training": {"epochs": 1, "batch_atoms": 16, "learning_rate": 0.01},
            "output": {"directory": str(tmp_path / "heads")},
        }
    )
    model = load_model(result.model)
    assert set(result.gamma["by_element"]) == {"Ag"}
    assert (gammas(result.model, silver) <= 1.0).sum() >= result.gamma["atoms"]
    assert gammas(result.model, copper).min() > 1.5
    assert np.array_equal(map_heads(model, lambda head: head).grade.thresholds, model.grade.thresholds)
