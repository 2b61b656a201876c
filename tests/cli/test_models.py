"""``grace models``: what it prints, and how it ends."""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from gracecli.cli.models import short_elements, short_licence
from gracecli.cli.models_card import card
from gracecli.model.modelfile import Model, save_model
from gracecli.model.presets import initial_weights, preset

SMALL = {"cutoff": 4.0, "lmax": (1, 1, 1), "n_radial": (2, 2, 2), "embedding": 2, "n_basis": 3}
ERRORS = {
    "structures": 12, "atoms": 300, "energy_mae": 3.25, "energy_rmse": 4.5, "forces_mae": 61.25, "forces_rmse": 90.5,
    "stress_mae": 0.125, "stress_rmse": None,
}  # fmt: skip
METADATA = {
    "precision": "float64",
    "licence": "CC-BY-4.0",
    "level_of_theory": "DFT-PBE",
    "citation": "Somebody, Journal 1, 2 (2025)",
    "range_of_validity": "crystals near equilibrium; no molecules",
    "training": {
        "data": {"train": [{"path": "mlearn/Cu.extxyz"}]},
        "structures": {"train": 90, "valid": 10, "test": 0},
        "epochs": 50,
        "seed": 7,
    },
    "metrics": {
        "valid": {"overall": ERRORS},
        "test": {"overall": ERRORS, "by_elements": {"Cu": ERRORS}, "by_config_type": {"mlearn/vacancy": ERRORS}},
    },
    "metrics_units": {"energy": "meV/atom", "forces": "meV/Å", "stress": "GPa"},
}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """An empty library, one bundled model that is the default."""
    monkeypatch.setenv("GRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("gracecli.registry.resolve.data_directory", lambda: tmp_path / "data")
    monkeypatch.setattr("gracecli.registry.resolve.DEFAULT_MODEL", "ours")
    (tmp_path / "data" / "models").mkdir(parents=True)
    store(tmp_path / "data" / "models" / "ours.grace", "Cu", "Ni", **METADATA)


@pytest.fixture
def library(tmp_path):
    return tmp_path / "cache" / "models"


def store(path, *elements, **metadata):
    path.parent.mkdir(parents=True, exist_ok=True)
    blueprint = preset("fs-small", list(elements), **SMALL)
    weights = initial_weights(blueprint, np.random.default_rng(0))
    return save_model(path, Model(blueprint, weights, metadata))


def test_list(grace, library):
    store(library / "mine.grace", "Al")
    result = grace("models", "list")
    assert result.exit_code == 0
    head, units, _, ours, mine = result.stdout.splitlines()
    assert head.split() == [
        "model", "layers", "elements", "cutoff", "parameters", "precision", "size", "licence", "from",
    ]  # fmt: skip
    assert units.split() == ["Å", "MB"]
    assert ours.split()[:6] == ["ours", "(default)", "1", "Cu", "Ni", "4"]
    assert ours.split()[-2:] == ["CC-BY-4.0", "bundled"]
    assert mine.split()[0] == "mine"
    assert mine.split()[-2:] == ["-", "library"]
    assert grace("models").stdout == result.stdout


def test_list_as_json(grace, library):
    result = grace("models", "list", "--json")
    document = json.loads(result.stdout)
    assert (document["schema"], document["schema_version"]) == ("gracecli.models.list", 1)
    assert document["_units"]["cutoff"] == "Å"
    assert document["default"] == "ours"
    (model,) = document["models"]
    assert model["elements"] == ["Cu", "Ni"]
    assert model["bundled"] is True
    assert document["unreadable"] == []


def test_list_goes_on_past_a_damaged_file(grace, library):
    path = store(library / "bad.grace", "Al")
    path.write_bytes(path.read_bytes()[:1000])
    result = grace("models", "list")
    assert result.exit_code == 0
    assert "ours (default)" in result.stdout
    assert "warning: bad: " in result.stderr
    assert "damaged model file" in result.stderr
    assert json.loads(grace("models", "list", "--json").stdout)["unreadable"][0]["name"] == "bad"


def test_long_element_lists_are_shortened():
    assert short_elements(tuple("HBCNOFPSK")) == "H B C N O F P S K"
    assert short_elements(tuple("HBCNOFPSKV")) == "10: H B C N O F ..."


def test_long_licences_are_shortened():
    assert short_licence("MIT") == "MIT"
    assert short_licence("Model: MIT. Training data: BSD-3-Clause") == "Model: MIT"
    assert short_licence("Academic Software License: academic use only") == "Academic Software License..."
    assert short_licence(None) is None


def test_info(grace, tmp_path):
    result = grace("models", "info", "ours")
    assert result.exit_code == 0
    text = result.stdout
    for line in [
        "model              ours (bundled)",
        "elements           2: Cu Ni",
        "cutoff             4 Å",
        "level of theory    DFT-PBE",
        "licence            CC-BY-4.0",
        "range of validity  crystals near equilibrium; no molecules",
        "structures         90 train, 10 valid",
        "data               mlearn/Cu.extxyz",
        "training           50 epochs, seed 7",
    ]:
        assert line in text.splitlines()
    assert f"file               {tmp_path / 'data' / 'models' / 'ours.grace'} (" in text
    table = text.split("Errors on the test set\n")[1].splitlines()
    assert table[1].split() == ["meV/atom", "meV/atom", "meV/Å", "meV/Å", "GPa", "GPa"]
    assert table[3].split() == ["overall", "12", "3.25", "4.50", "61.2", "90.5", "0.125", "-"]
    assert [line.split()[:3] for line in table[4:]] == [["by", "elements", "Cu"], ["by", "kind", "mlearn/vacancy"]]


def test_info_as_json(grace):
    document = json.loads(grace("models", "info", "ours", "--json").stdout)
    assert document["metrics"] == METADATA["metrics"]
    assert document["range_of_validity"] == METADATA["range_of_validity"]
    assert document["_units"]["forces"] == "meV/Å"
    assert document["pair_cutoffs"] is None
    assert len(document["sha256"]) == 64


def test_info_of_a_model_with_foreign_metadata(grace, library):
    """Whatever a third party wrote under the keys we show: no crash, and the facts still stand."""
    for number, metadata in enumerate(
        [
            {"training": "on my laptop", "metrics": [1, 2], "provenance": "unknown"},
            {"training": {"data": [], "structures": 5}, "metrics": {"test": {"overall": 3.0}}},
        ]
    ):
        store(library / f"m{number}.grace", "Al", **metadata)
        result = grace("models", "info", f"m{number}")
        assert result.exit_code == 0
        assert "elements         1: Al" in result.stdout


def test_info_of_pair_cutoffs():
    document = {
        "kind": "model", "name": "x", "elements": ["Al", "Ni"], "cutoff": 5.0, "smallest_cutoff": 4.0, "path": "x",
        "pair_cutoffs": [[4.0, 4.5], [4.5, 5.0]],
    }  # fmt: skip
    text = card(document)
    assert "4 to 5 Å, by pair of elements" in text
    assert [line.split() for line in text.splitlines()[-2:]] == [["Al", "4.00", "4.50"], ["Ni", "4.50", "5.00"]]


def test_info_of_a_published_model_that_is_not_here(grace):
    result = grace("models", "info", "grace-2l-omat-l")
    assert result.exit_code == 0
    assert "GRACE-2L-OMAT-large-ft-E" in result.stdout
    assert "academic, non-commercial use only" in result.stdout
    assert "not on this machine" in result.stdout


def test_info_of_a_program(grace, tmp_path):
    """A SavedModel with metadata is described without loading it."""
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"")
    (folder / "metadata.yaml").write_text("chemical_symbols: [Al, Ni]\ncutoff: 5.0\ncutoff_matrix: [[4, 6], [6, 5]]\n")
    result = grace("models", "info", str(folder))
    assert result.exit_code == 0
    assert "2: Al Ni" in result.stdout
    assert "4 to 6 Å, by pair of elements" in result.stdout
    (folder / "metadata.yaml").write_text("chemical_symbols: [Al, Ni]\n")
    result = grace("models", "info", str(folder))
    assert result.exit_code == 6
    assert "cannot read elements and cutoff: 'cutoff'" in result.stderr


def test_path(grace, tmp_path, library):
    assert grace("models", "path", "ours").stdout.strip() == str(tmp_path / "data" / "models" / "ours.grace")
    result = grace("models", "path", "orus")
    assert result.exit_code == 6
    assert result.stderr == "grace: error: no model is called 'orus', and no such file\n  try: did you mean ours?\n"


def test_add_verify_remove(grace, tmp_path, library, tensorflow):
    source = store(tmp_path / "copper.grace", "Cu", licence="MIT")
    result = grace("models", "add", str(source))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:4] == [
        "added       copper", "elements    Cu", "layers      1", "cutoff      4 Å",
    ]  # fmt: skip
    assert grace("models", "add", str(source)).exit_code == 4
    assert json.loads(grace("models", "add", str(source), "--force", "--json").stdout)["replaced"] is True

    result = grace("models", "verify")
    assert result.exit_code == 0
    assert [line.split()[:2] for line in result.stdout.splitlines()[2:]] == [["ours", "ok"], ["copper", "ok"]]
    with h5py.File(library / "copper.grace", "a") as file:
        file["weights/Z/w"][0, 0] += 1e-9
    result = grace("models", "verify", "copper")
    assert result.exit_code == 6
    assert "copper  FAILED" in result.stdout
    assert grace("models", "rm", "copper").exit_code == 0
    assert grace("models", "rm", "copper").exit_code == 6
    assert grace("models", "rm", "ours").exit_code == 2


def test_add_published_folder_and_relax_with_it(grace, shared_folder, tensorflow, tmp_path, monkeypatch):
    assert (
        grace("models", "add", str(shared_folder / "fixtures" / "grace" / "fs_tiny"), "--name", "mine").exit_code == 0
    )
    monkeypatch.chdir(tmp_path)
    cell = "AlNi\n3.0\n1 0 0\n0 1 0\n0 0 1\nAl Ni\n1 1\nDirect\n0.02 0 0\n0.5 0.5 0.5\n"
    (tmp_path / "POSCAR").write_text(cell)
    result = grace("relax", "POSCAR", "-m", "mine", "--steps", "0", "--json")
    assert result.exit_code in (0, 3)
    assert np.isfinite(json.loads(result.stdout)["results"][0]["final"]["energy"])
    (tmp_path / "POSCAR").write_text(cell.replace("Ni", "Cu"))
    result = grace("relax", "POSCAR", "-m", "mine", "--force")
    assert result.exit_code == 4
    assert "does not cover Cu; it covers Al, Li, Ni" in result.stderr
    assert "models that cover Al, Cu: GRACE-FS-OMAT, " in result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read the model description"),
        ("Y: {__cls__: x.Unheard, name: Y}", "instruction 'Y' has the unknown class 'Unheard'"),
        (None, "not a model: no model.yaml in it"),
    ],
)
def test_add_what_is_no_model(grace, tmp_path, content, message, tensorflow):
    if content is not None:
        (tmp_path / "model.yaml").write_text(content)
        (tmp_path / "checkpoint.index").write_bytes(b"")
    result = grace("models", "add", str(tmp_path))
    assert result.exit_code == 6
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert result.stdout == ""


def test_list_is_quick(tmp_path):
    """0.3 s on an idle machine; measured here in units of the libraries no command can do without (about 0.12 s)."""

    def processor_seconds(*arguments):
        before = os.times()
        subprocess.run(
            [sys.executable, *arguments], stdout=subprocess.DEVNULL, env={**os.environ, "GRACE_PLUGINS": ""}, check=True
        )
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    path = store(tmp_path / "cache" / "models" / "mine.grace", "Cu")
    os.utime(path, (1e9, 1e9))
    remember = "import gracecli.registry.summary as s; s.SETTLED_SECONDS = -1e9; s.summaries()"
    subprocess.run([sys.executable, "-c", remember], check=True)
    command = ["-m", "gracecli.cli.main", "models", "list"]
    libraries = ["-c", "import click, pluggy, importlib.metadata"]
    runs = [(processor_seconds(*command), processor_seconds(*libraries)) for _ in range(4)]
    assert min(ours for ours, _ in runs) < 2.2 * min(theirs for _, theirs in runs) + 0.05
