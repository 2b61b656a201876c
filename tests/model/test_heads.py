"""Heads: several levels of theory in one file, any of them an ordinary model."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.build import bulk
from click.testing import CliRunner

from gracecli.cli.main import main
from gracecli.engine.calculator import GraceCalculator
from gracecli.errors import ModelError
from gracecli.model.heads import head_names, join_heads, select_head
from gracecli.model.modelfile import Model, load_model, save_model
from gracecli.model.presets import initial_weights, preset
from gracecli.model.reduce import cast, reduce_elements
from gracecli.registry.information import model_information
from gracecli.registry.resolve import resolve_model

SIZES = {
    "lmax": 1, "order": 2, "n_radial": 4, "n_product": 4, "n_density": 3, "n_basis": 5, "hidden": [8],
    "readout_hidden": [8], "embedding": 4, "cutoff": 3.6, "scale": 0.5,
}  # fmt: skip


def one_level(shifts, seed: int) -> Model:
    """A body that is always the same, with a readout of its own."""
    blueprint = preset("1l-small", ["Cu", "Ni"], element_shifts=shifts, **SIZES)
    weights = initial_weights(blueprint, np.random.default_rng(1))
    own = initial_weights(blueprint, np.random.default_rng(seed))
    weights |= {name: value for name, value in own.items() if name.startswith(("rho/", "Lin"))}
    return Model(blueprint, weights, {"name": "x", "level_of_theory": f"level {seed}", "licence": "MIT"})


@pytest.fixture(scope="module")
def levels():
    return {"pbe": one_level((-1.0, -2.0), 2), "r2scan": one_level((-3.0, -4.5), 3)}


@pytest.fixture(scope="module")
def joined(levels):
    return join_heads(levels, "r2scan", {"name": "both", "licence": "MIT"})


@pytest.fixture(scope="module")
def path(joined, tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("heads") / "both.grace", joined)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRACE_CACHE", str(tmp_path / "cache"))


def test_a_head_is_the_model_it_was_made_from(joined, levels):
    assert head_names(joined) == ("r2scan", "pbe")
    for name, level in levels.items():
        chosen = select_head(joined, name)
        assert chosen.sha256() == level.sha256()
        assert chosen.metadata["name"] == f"both#{name}"
        assert not chosen.heads
    assert select_head(joined, "pbe").metadata["level_of_theory"] == "level 2"


def test_what_heads_share_is_stored_once(joined, path, levels):
    body = [name for name in joined.weights if name not in joined.heads["pbe"].weights]
    assert {name.split("/")[0] for name in joined.heads["pbe"].weights} == {"rho", "LinMLPOut2ScalarTarget"}
    assert body
    with h5py.File(path) as file:
        assert file.attrs["version"] == 2
        assert set(file["heads/pbe"]) == {"rho", "LinMLPOut2ScalarTarget"}


def test_files_with_heads_round_trip(joined, path):
    again = load_model(path)
    assert again.sha256() == joined.sha256()
    assert again.sha256() != replace(joined, heads={}).sha256()
    assert head_names(again) == head_names(joined)
    with h5py.File(path, "r+") as file:
        data = file["heads/pbe/rho/reducing_A"]
        kept = data[()]
        data[...] = kept + 1e-12
    with pytest.raises(ModelError, match="do not match"):
        load_model(path)
    with h5py.File(path, "r+") as file:
        file["heads/pbe/rho/reducing_A"][...] = kept
    assert load_model(path).sha256() == joined.sha256()


def test_models_without_heads_are_written_for_older_readers(levels, tmp_path):
    path = save_model(tmp_path / "plain.grace", levels["pbe"])
    with h5py.File(path) as file:
        assert file.attrs["version"] == 1


@pytest.mark.parametrize("engine", ["tensorflow", "native"])
def test_engines_run_any_head(levels, path, tmp_path, engine):
    if engine == "native":
        pytest.importorskip("grace_native")
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[1] = "Ni"
    atoms.rattle(0.1, seed=1)
    for name, level in levels.items():
        plain = save_model(tmp_path / f"{name}.grace", level)
        expected = GraceCalculator(plain, engine).evaluate([atoms])[0]
        for calculator in (GraceCalculator(path, engine, head=name), GraceCalculator(f"{path}#{name}", engine)):
            found = calculator.evaluate([atoms])[0]
            assert found.energies.tobytes() == expected.energies.tobytes()
            assert found.forces.tobytes() == expected.forces.tobytes()
    default = GraceCalculator(path, engine).evaluate([atoms])[0]
    assert default.energy == pytest.approx(GraceCalculator(path, engine, head="r2scan").evaluate([atoms])[0].energy)


@pytest.mark.parametrize("command", ["predict", "relax"])
def test_commands_use_the_head_that_is_named(command, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Cu", a=3.7, cubic=True)
    atoms.write("Cu.cif")
    energies = {}
    for head in ("r2scan", "pbe"):
        words = [command, "Cu.cif", "-m", str(path), "--head", head, "--json"]
        words += ["--steps", "0", "-o", f"{head}.extxyz"] if command == "relax" else []
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        energies[head] = re.search(r'"energy": (-?[\d.]+)', result.stdout)[1]
        atoms.calc = GraceCalculator(path, head=head)
        assert float(energies[head]) == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    assert energies["pbe"] != energies["r2scan"]


def test_elements_and_precision_of_all_heads_change_together(joined, levels):
    reduced = reduce_elements(joined, ["Ni"])
    for name, level in levels.items():
        assert select_head(reduced, name).sha256() == reduce_elements(level, ["Ni"]).sha256()
    single = cast(joined, "fp32")
    assert select_head(single, "pbe").sha256() == cast(levels["pbe"], "fp32").sha256()
    assert single.heads["pbe"].metadata["level_of_theory"] == "level 2"


def test_information_names_the_heads(path, levels, tmp_path):
    assert model_information(str(path))["heads"] == ["r2scan", "pbe"]
    chosen = model_information(f"{path}#pbe")
    assert (chosen["level_of_theory"], "heads" in chosen) == ("level 2", False)


def test_heads_that_are_not_there(path, levels, tmp_path):
    with pytest.raises(ModelError, match=r"no head 'pbee'.*pbe"):
        resolve_model(f"{path}#pbee")
    plain = save_model(tmp_path / "plain.grace", levels["pbe"])
    with pytest.raises(ModelError, match="has no heads"):
        resolve_model(f"{plain}#pbe")
    odd = tmp_path / "odd#name.grace"
    odd.write_bytes(plain.read_bytes())
    assert resolve_model(odd) == odd  # a path that exists is itself


def test_different_graphs_cannot_be_joined(levels):
    other = Model(preset("1l-small", ["Cu", "Ni"], **{**SIZES, "order": 1}), {}, {})
    with pytest.raises(ModelError, match="another graph"):
        join_heads({"a": levels["pbe"], "b": other}, "a", {})


def test_a_head_covers_the_elements_it_was_trained_for(levels):
    narrow = replace(levels["pbe"], metadata={**levels["pbe"].metadata, "covers": ["Ni"]})
    model = join_heads({"pbe": narrow, "r2scan": levels["r2scan"]}, "r2scan", {"name": "both"})
    assert select_head(model, "pbe").elements == ("Ni",)
    assert select_head(model, "pbe").sha256() == reduce_elements(levels["pbe"], ["Ni"]).sha256()
    assert select_head(model, "r2scan").elements == ("Cu", "Ni")
    assert select_head(reduce_elements(model, ["Ni"]), "pbe").sha256() == select_head(model, "pbe").sha256()
