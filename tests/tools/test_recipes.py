"""Recipes can be read, name data that exist, and train; their errors are those a user would compute."""

from __future__ import annotations

import csv
import gzip
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from recipe_table import comparison, details, errors_of, evaluate, read_published, read_results
from run_recipes import configuration, recipe_names

from gracecli import GraceCalculator
from gracecli.fit.config_read import load_config
from gracecli.fit.data import FILTERS
from gracecli.registry.resolve import DEFAULT_MODEL, bundled_models

ROOT = Path(__file__).resolve().parents[2]
TINY = "overrides = { n_radial = 4, lmax = 1, order = 2, n_density = 3, hidden = [8], readout_hidden = [8] }"
RECIPES = sorted((ROOT / "data" / "recipes").glob("*.toml"))


@pytest.fixture(scope="module")
def data(shared_folder):
    """The data sets, where recipes look for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRACE_DATA", str(shared_folder / "datasets"))
        yield shared_folder / "datasets"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_and_its_filters_match_its_data(recipe, data):
    config = load_config(recipe)
    assert config.data.train
    assert config.training.precision == "fp64"
    assert len(config.training.stages) >= 2
    for name in ("level_of_theory", "licence", "citation"):
        assert getattr(config.output, name)
    for entry in (*config.data.train, *config.data.test):
        named = {kind for option in FILTERS for kind in getattr(entry, option)}
        assert named <= kinds_in(entry.path)


@cache
def kinds_in(path):
    """``config_type`` values; reading whole files would take half a minute."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return {found[1] for line in file if (found := re.search(r'config_type="?([^"\s]+)', line))}


def test_every_recipe_but_the_default_has_published_errors():
    published = read_published()
    sets = {entry.get("set", title) for title, entry in published.items() if title != "sources"}
    for name in recipe_names():
        assert set(name.replace("mptrj-mpf", "mpf-tp").split()) <= sets
    for title, entry in published.items():
        if title != "sources":
            assert entry["measure"] in ("mae", "rmse", "vector")
            assert all(model["source"] in published["sources"] for model in entry["models"])


def test_published_errors_are_those_of_the_reference(shared_folder):
    published = read_published()
    with (shared_folder / "reference" / "mlearn_published_gap_mtp_mae.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for row in rows:
        (model,) = (m for m in published[f"mlearn-{row['element']}"]["models"] if m["name"] == row["model"])
        assert model["energy"] == float(row["energy_mae_meV_per_atom"])
        assert model["forces"] == 1e3 * float(row["force_mae_eV_per_A"])


@pytest.fixture(scope="module")
def silicon(data):
    """The bundled model on the official test set of silicon, as a finished run."""
    model = bundled_models()[DEFAULT_MODEL]
    found = evaluate(configuration("mlearn-Si", None), model)
    return {"recipe": "mlearn-Si", "preset": "bundled", "weights": 192595, "seconds": 3480.0, "epochs": 90, **found}


def test_errors_are_those_of_ase(silicon, data):
    frames = read(data / "mlearn-Si" / "test.extxyz.gz", ":")
    calculator = GraceCalculator()
    energy, forces, lengths, norms = [], [], [], []
    for atoms in frames:
        labels = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
        atoms.calc = calculator
        energy.append((atoms.get_potential_energy() - labels[0]) / len(atoms))
        forces.append((atoms.get_forces() - labels[1]).ravel())
        lengths.append(np.linalg.norm(atoms.get_forces() - labels[1], axis=1).mean())
        norms.append(np.linalg.norm(atoms.get_stress(voigt=False) - labels[2]))
    (row,) = (row for row in silicon["rows"] if row["group"] == "mlearn-Si")
    assert row["structures"] == 25
    assert row["energy_mae"] == pytest.approx(1e3 * np.mean(np.abs(energy)), rel=1e-6)
    assert row["energy_mae"] == pytest.approx(3.1, abs=0.05)  # meV/atom, the model's card
    assert row["forces_rmse"] == pytest.approx(1e3 * np.sqrt(np.mean(np.concatenate(forces) ** 2)), rel=1e-6)
    assert row["forces_vector"] == pytest.approx(1e3 * np.mean(lengths), rel=1e-6)
    assert row["stress_vector"] == pytest.approx(160.21766208 * np.mean(norms), rel=1e-6)
    assert silicon["copies"] == 0  # no test structure of silicon is a training structure


def test_the_table_compares_in_the_published_measure(silicon):
    text = comparison([silicon], read_published())
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| mlearn-Si")]
    assert [(line[2], line[3], line[4]) for line in lines[:2]] == [("GAP", "2.91", "70"), ("MTP", "2.21", "60")]
    (row,) = (row for row in silicon["rows"] if row["group"] == "mlearn-Si")
    assert lines[-1][:3] == ["| mlearn-Si (25)", "mae", "**bundled**"]
    assert lines[-1][3] == f"{row['energy_mae']:.2f}"
    assert "58.0 |" in lines[-1][-1]
    assert "**" not in lines[-1][3]
    better = {**silicon, "rows": [{**row, "energy_mae": 2.21, "forces_mae": 60.4}]}
    assert "**2.21** | **60**" in comparison([better], read_published())
    assert f"| mlearn-Si/Elastic | 6 | {_of(silicon, 'Elastic')['energy_mae']:.2f} /" in details([silicon])


def _of(result, kind):
    return next(row for row in result["rows"] if row["group"] == f"mlearn-Si/{kind}")


def test_copies_of_training_structures_are_known(data):
    """12 of 31 of copper (`grace check`); here also those that went to validation are not training."""
    found = evaluate(configuration("mlearn-Cu", None), bundled_models()[DEFAULT_MODEL])
    sizes = {row["group"]: row["structures"] for row in found["rows"]}
    assert sizes["mlearn-Cu"] == 31
    assert sizes["mlearn-Cu (not in training)"] == 31 - found["copies"]
    assert 10 <= found["copies"] <= 12


def test_errors_of_structures_without_stress():
    from ase.build import molecule

    from gracecli.fit.data import Frame
    from gracecli.fit.metrics import Prediction

    atoms = molecule("H2O")
    frame = Frame(atoms, -3.0, np.zeros((3, 3)), np.full(6, np.nan), "all", "water", "water:0")
    row = errors_of("water", [frame], [Prediction(-2.97, np.full((3, 3), 0.01), np.full(6, np.nan))])
    assert row.energy_mae == pytest.approx(10.0)
    assert row.forces_vector == pytest.approx(10.0 * np.sqrt(3))
    assert np.isnan(row.stress_vector)


@pytest.mark.slow
def test_two_steps_of_a_recipe_then_its_table(data, tmp_path, monkeypatch, capsys):
    """The script trains, evaluates, and repeats nothing."""
    import run_recipes

    small = (ROOT / "data" / "recipes" / "mlearn-Mo.toml").read_text(encoding="utf-8")
    for old, new in {
        "primitive = true": 'drop = ["AIMD-NVT", "Elastic"]',
        "overrides = { n_radial = 16 }": TINY,
        "epochs = 110": "epochs = 1",
        "batch_atoms = 216": "batch_atoms = 800",
    }.items():
        assert old in small
        small = small.replace(old, new)
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "mlearn-Mo.toml").write_text(small, encoding="utf-8")
    monkeypatch.setattr(run_recipes, "RECIPES", folder)
    monkeypatch.setattr(sys, "argv", ["run_recipes.py", "mlearn-Mo", "-o", str(tmp_path / "out")])
    assert run_recipes.main() == 0
    (result,) = read_results(tmp_path / "out")
    assert (result["epochs"], result["split"]) == (1, "test")
    log = (tmp_path / "out" / "mlearn-Mo" / "log.csv").read_text(encoding="utf-8").splitlines()
    assert int(log[1].split(",")[1]) >= 2
    assert "| mlearn-Mo (23) | mae | **1l-small** |" in capsys.readouterr().out
    assert run_recipes.main() == 0
    assert "mlearn-Mo: done" in capsys.readouterr().err
