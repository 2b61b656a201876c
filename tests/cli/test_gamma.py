"""Extrapolation grades on the command line: shown, stopping, collected, calibrated; and the spread of committees."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from click.testing import CliRunner

from gracecli import GraceCalculator, Store
from gracecli.cli.main import main
from gracecli.errors import ModelError
from gracecli.model.modelfile import load_model, save_model
from gracecli.model.reduce import reduce_elements
from gracecli.plugin.manager import reset_plugin_manager
from gracecli.registry.resolve import read_model

pytest.importorskip("grace_native._native")


@pytest.fixture
def grace(tmp_path, monkeypatch):
    """Call ``grace`` with the native engine in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRACE_PLUGINS", "native")
    reset_plugin_manager()
    yield lambda *words: CliRunner().invoke(main, list(map(str, words)))
    reset_plugin_manager()


@pytest.fixture
def structures(tmp_path):
    """Copper as trained on, compressed copper, copper with nickel in it."""
    good = bulk("Cu", cubic=True) * (2, 2, 2)
    good.rattle(0.05, seed=1)
    dense = good.copy()
    dense.set_cell(0.85 * good.cell.array, scale_atoms=True)
    mixed = good.copy()
    mixed.symbols[::3] = "Ni"
    for name, atoms in (("good", good), ("dense", dense), ("mixed", mixed)):
        write(tmp_path / f"{name}.extxyz", atoms)
    write(tmp_path / "all.extxyz", [good, dense, mixed])
    return tmp_path


def without_grades(folder, elements=("Cu", "Ni"), noise=0.0, name="bare.grace"):
    """The bundled model less its grades, perhaps with disturbed weights."""
    model = replace(reduce_elements(read_model(None), list(elements)), grade=None)
    rng = np.random.default_rng(5)
    weights = {
        k: v * (1.0 + noise * rng.normal(size=v.shape)) if "reducing" in k else v for k, v in model.weights.items()
    }
    return save_model(folder / name, replace(model, weights=weights))


def test_bundled_model_has_grades_and_the_identity_of_its_card():
    """All 237,270 atoms of the training data; blueprint and weights are those of its card."""
    model = read_model(None)
    assert model.grade is not None
    assert model.grade.provenance["atoms"] == 237270
    assert model.sha256() == "50beedabc2547a752591b0d58d08bbb0fcabc6363173e901b88f483a78cdaa1b"
    assert model.grade.provenance["model_sha256"] == model.sha256()


def test_predict_shows_grades(grace, structures):
    result = grace("predict", "all.extxyz", "-o", "out.extxyz", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    good, dense, mixed = (entry["extrapolation"] for entry in document["results"])
    assert good["verdict"] == "inside"
    assert good["outside"] == 0
    assert dense["verdict"] == mixed["verdict"] == "extrapolating"
    assert document["extrapolation"]["verdicts"] == {"inside": 1, "extrapolating": 2}
    assert document["extrapolation"]["largest"]["gamma"] == max(dense["gamma"], mixed["gamma"])
    written = read("out.extxyz", ":")
    assert written[2].arrays["gamma"].max() == pytest.approx(mixed["gamma"], abs=1e-6)
    assert written[2][mixed["atom"] - 1].symbol == mixed["element"]
    table = grace("predict", "all.extxyz")
    assert "1 inside, 2 extrapolating" in table.stdout


def test_predict_flags_and_collects(grace, structures):
    result = grace("predict", "all.extxyz", "--max-gamma", 1, "--collect-gamma", "off.h5", "--json")
    assert result.exit_code == 9
    assert "2 of 3 structures have gamma beyond 1" in result.stderr
    assert [entry["extrapolation"]["flagged"] for entry in json.loads(result.stdout)["results"]] == [False, True, True]
    with Store("off.h5") as store:
        kept = [store.atoms(i) for i in store.query("set=extrapolating")]
    assert [len(atoms) for atoms in kept] == [32, 32]
    np.testing.assert_allclose(kept[0].positions, read("dense.extxyz").positions, atol=1e-7)
    again = grace("predict", "off.h5:set=extrapolating", "--json")
    assert [e["extrapolation"]["verdict"] for e in json.loads(again.stdout)["results"]] == ["extrapolating"] * 2


def test_collection_in_a_file_grows(grace, structures):
    for _ in range(2):
        assert grace("predict", "all.extxyz", "--collect-gamma", "off.extxyz").exit_code == 0
    kept = read("off.extxyz", ":")
    assert len(kept) == 4
    assert kept[0].info["gamma"] > 1.5


def test_results_from_the_store_keep_grades(grace, structures):
    first = json.loads(grace("predict", "all.extxyz", "--store", "s.h5", "--json").stdout)
    second = json.loads(grace("predict", "all.extxyz", "--store", "s.h5", "--json").stdout)
    assert second["from_store"] == 3
    assert second["extrapolation"] == first["extrapolation"]


def test_relax(grace, structures):
    result = grace("relax", "good.extxyz", "mixed.extxyz", "--max-gamma", 1, "--json")
    assert result.exit_code == 9
    good, mixed = json.loads(result.stdout)["results"]
    assert good["extrapolation"]["verdict"] == "inside"
    assert mixed["extrapolation"]["flagged"]
    assert read("mixed.relaxed.extxyz").info["converged"]  # results are written all the same
    assert "inside the training data" in grace("relax", "good.extxyz", "--force").stdout


def test_elastic_says_where_it_stands(grace, structures):
    write("Cu.cif", bulk("Cu", a=3.63, cubic=True))
    result = grace("elastic", "Cu.cif", "--clamped", "--no-plots")
    assert result.exit_code == 0, result.stderr
    assert "inside the training data" in result.stdout
    written = json.loads((structures / "Cu.elastic" / "elastic.json").read_text(encoding="utf-8"))
    assert written["extrapolation"]["gamma"] < 1.0


def test_md_stops_and_leaves_a_usable_state(grace, structures):
    """Copper is heated until it leaves the training data; the last good state runs on, the bad one is kept apart."""
    result = grace(
        "md", "good.extxyz", "--temperature", "300:30000", "--steps", 1500, "--thermostat-time", 10,
        "--max-temperature", 99999, "--seed", 1, "--no-plots", "--max-gamma", 1.0, "--collect-gamma", "off.h5",
        "--checkpoint-every", 50, "-o", "hot", "--json",
    )  # fmt: skip
    assert result.exit_code == 9
    document = json.loads(result.stdout)
    assert document["status"] == "extrapolated"
    graded = document["extrapolation"]
    assert graded["gamma"] > 1.0
    assert graded["step"] == document["steps"]
    calculator = GraceCalculator(gamma=True, engine="native")
    good = read("hot/last-good.extxyz")
    assert calculator.evaluate([good])[0].extra["gamma"].max() <= 1.0
    with Store("off.h5") as store:
        (bad,) = (store.atoms(i) for i in store.query("set=extrapolating"))
    assert calculator.evaluate([bad])[0].extra["gamma"].max() == pytest.approx(graded["gamma"], rel=1e-9)
    # what is left can be used: the good structure as a start, the checkpoint with another limit
    start = grace("md", "hot/last-good.extxyz", "--keep-velocities", "--steps", 5, "--no-plots", "-o", "on", "-q")
    assert start.exit_code == 0, start.stderr
    steps = graded["step"] + 20
    resumed = grace("md", "--resume", "hot", "--steps", steps, "--max-gamma", 1000, "--no-plots", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert json.loads(resumed.stdout)["extrapolation"]["gamma"] >= graded["gamma"]


def test_md_refuses_a_start_beyond_the_limit(grace, structures):
    result = grace("md", "mixed.extxyz", "--steps", 5, "--max-gamma", 1.5, "-o", "run")
    assert result.exit_code == 9
    assert "extrapolates in step 0" in result.stderr


@pytest.mark.parametrize(
    "command", [("elastic", "--method", "stress"), ("eos", "--points", 7), ("phonons", "--supercell", "2 2 2")]
)
def test_crystals_beyond_the_limit_are_written_and_end_with_9(grace, tmp_path, command):
    bulk("Cu", cubic=True).write(tmp_path / "Cu.cif")
    words = [*command[:1], "Cu.cif", "--no-plots", *" ".join(map(str, command[1:])).split()]
    far = grace(*words, "--max-gamma", 0.01, "--json")
    assert far.exit_code == 9
    assert re.search(r"Cu.cif: gamma is 0\.\d\d, beyond 0.01; results were written", far.stderr)
    (found,) = json.loads(far.stdout)["results"]
    folder = tmp_path / f"Cu.{command[0]}"
    kept = json.loads((folder / f"{command[0]}.json").read_text())
    assert 0.01 < kept["extrapolation"]["gamma"] == found["extrapolation"]["gamma"] < 1.0
    assert grace(*words, "--max-gamma", 1, "--force").exit_code == 0
    assert grace(*words, "--max-gamma", -1, "--force").exit_code == 4


def test_models_without_grades_say_so(grace, structures):
    bare = without_grades(structures)
    shown = grace("predict", "good.extxyz", "-m", bare, "--json")
    assert shown.exit_code == 0, shown.stderr
    assert json.loads(shown.stdout)["extrapolation"] is None
    refused = grace("predict", "good.extxyz", "-m", bare, "--max-gamma", 2)
    assert refused.exit_code == ModelError.exit_code
    assert "grace models gamma" in refused.stderr


def test_models_gamma(grace, structures):
    bare = without_grades(structures)
    made = grace("models", "gamma", bare, "--structures", "good.extxyz", "-o", "new.grace", "--dimension", 4, "--json")
    assert made.exit_code == 0, made.stderr
    document = json.loads(made.stdout)
    assert document["without_data"] == ["Ni"]
    assert document["elements"]["Cu"] == {"atoms": 32, "structures": 1, "clusters": 1}
    assert load_model("new.grace").sha256() == load_model(bare).sha256() == document["sha256"]
    graded = json.loads(grace("predict", "good.extxyz", "-m", "new.grace", "--json").stdout)
    assert graded["results"][0]["extrapolation"]["gamma"] == pytest.approx(1.0, abs=2e-5)
    assert grace("models", "gamma", bare, "--structures", "good.extxyz", "-o", "new.grace").exit_code == 4
    assert grace("models", "gamma", bare).exit_code == 2


def test_committee(grace, structures):
    """The spread is the standard deviation of what the members predict alone."""
    folder = structures / "members"
    folder.mkdir()
    paths = [without_grades(folder, noise=1e-2 * k, name=f"m{k}.grace") for k in range(3)]
    alone = []
    for number, path in enumerate(paths):
        assert grace("predict", "mixed.extxyz", "-m", path, "-o", f"{number}.extxyz").exit_code == 0
        alone.append(read(f"{number}.extxyz"))
    for given in (["-m", folder], [word for path in paths for word in ("-m", path)]):
        result = grace("predict", "mixed.extxyz", *given, "--json")
        assert result.exit_code == 0, result.stderr
        (entry,) = json.loads(result.stdout)["results"]
        energies = np.array([a.get_potential_energy() for a in alone])
        forces = np.std([a.get_forces() for a in alone], axis=0, ddof=1)
        assert entry["spread"]["energy_per_atom"] == pytest.approx(1e3 * energies.std(ddof=1) / 32, rel=1e-4)
        assert entry["spread"]["forces_max"] == pytest.approx(np.linalg.norm(forces, axis=1).max(), abs=1e-6)
        assert entry["energy"] == pytest.approx(energies[0], abs=1e-6)
        assert entry["spread"]["forces_max"] > 1e-3


def test_calibration(grace, structures):
    """Errors made to grow with gamma are found to do so."""
    calculator = GraceCalculator(gamma=True, engine="native")
    rng = np.random.default_rng(2)
    frames = []
    for stdev in np.linspace(0.01, 0.3, 12):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.positions += rng.normal(scale=stdev, size=atoms.positions.shape)
        (result,) = calculator.evaluate([atoms])
        errors = rng.normal(size=(32, 3))
        errors *= (result.extra["gamma"] / np.linalg.norm(errors, axis=1))[:, None]
        atoms.calc = SinglePointCalculator(atoms, energy=result.energy, forces=result.forces + errors)
        frames.append(atoms)
    write("labelled.extxyz", frames)
    result = grace("predict", "labelled.extxyz", "--calibration", "c.png", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["calibration"]
    assert found["rank_correlation_atoms"] > 0.999
    assert found["atoms"] == 12 * 32
    medians = [row["median"] for row in found["force_error"]]
    assert medians == sorted(medians)
    assert (structures / "c.png").stat().st_size > 10000
    assert "rank correlation" in grace("predict", "labelled.extxyz", "--calibration", "c.png", "--force").stdout
