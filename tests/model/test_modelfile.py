"""Model files: whole or not there, checked when read, readable by newer versions."""

import json
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from gracecli.errors import InputError, ModelError
from gracecli.model import modelfile
from gracecli.model.modelfile import Model, load_model, save_model
from gracecli.model.presets import preset


@pytest.fixture
def model():
    """Weights of any names and shapes: the file does not interpret them."""
    rng = np.random.default_rng(0)
    weights = {
        "R/layers/0/w": rng.standard_normal((5, 8)),
        "R/layers/1/w": rng.standard_normal((8, 12)).astype(np.float32),
        "RadialBasis/rc": np.float64(5.0),
        "rho/reducing_A": rng.standard_normal((2, 3, 4, 1)),
        "A1/w_right": np.zeros((4, 4, 0)),
    }
    metadata = {"name": "test", "precision": "float64", "metrics": {"energy_mae": 1.5}, "licence": "BSD-3-Clause"}
    return Model(preset("1l-small", ["Al", "Ni"]), weights, metadata)


@pytest.fixture
def path(tmp_path, model):
    return save_model(tmp_path / "test.grace", model)


def test_round_trip(path, model):
    again = load_model(path)
    assert again.blueprint == model.blueprint
    assert again.metadata == model.metadata
    assert again.weights.keys() == model.weights.keys()
    for name, value in model.weights.items():
        assert again.weights[name].dtype == np.asarray(value).dtype
        assert np.array_equal(again.weights[name], value)
    assert again.sha256() == model.sha256()


def test_identity_follows_blueprint_and_weights_only(model):
    other = dict(model.weights)
    assert Model(model.blueprint, other, {"name": "renamed"}).sha256() == model.sha256()
    assert Model(model.blueprint, dict(reversed(other.items()))).sha256() == model.sha256()
    other["R/layers/0/w"] = other["R/layers/0/w"] * (1 + 1e-15)
    assert Model(model.blueprint, other).sha256() != model.sha256()
    assert Model(preset("1l-medium", ["Al", "Ni"]), model.weights).sha256() != model.sha256()


def test_existing_files_are_kept(path, model):
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"test\.grace: exists already"):
        save_model(path, model)
    assert path.read_bytes() == before
    save_model(path, Model(model.blueprint, model.weights, {"name": "second"}), overwrite=True)
    assert load_model(path).metadata == {"name": "second"}
    assert list(path.parent.iterdir()) == [path]


def test_a_changed_weight_is_noticed(path):
    with h5py.File(path, "r+") as file:
        file["weights/R/layers/0/w"][0, 0] += 1.0
    with pytest.raises(ModelError, match=r"test\.grace: blueprint and weights do not match the recorded sha256"):
        load_model(path)


def test_a_changed_blueprint_is_noticed(path):
    with h5py.File(path, "r+") as file:
        file.attrs["blueprint"] = str(file.attrs["blueprint"]).replace('"cutoff": 6.0', '"cutoff": 5.5')
    with pytest.raises(ModelError, match="do not match the recorded sha256"):
        load_model(path)


def test_a_flipped_bit_is_noticed(path, model):
    """The checksum of the dataset tells where."""
    data = bytearray(path.read_bytes())
    place = data.find(np.ascontiguousarray(model.weights["rho/reducing_A"]).tobytes())
    assert place > 0
    data[place + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"test\.grace: damaged model file"):
        load_model(path)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.95])
def test_truncated_files_are_errors(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ModelError, match=r"test\.grace: damaged model file"):
        load_model(path)


def test_other_files_are_errors(tmp_path):
    with pytest.raises(ModelError, match="no such model file"):
        load_model(tmp_path / "absent.grace")
    text = tmp_path / "text.grace"
    text.write_text("not HDF5")
    with pytest.raises(ModelError, match="damaged model file"):
        load_model(text)
    with h5py.File(tmp_path / "other.grace", "w") as file:
        file["data"] = 1.0
    with pytest.raises(ModelError, match="not a gracecli model file"):
        load_model(tmp_path / "other.grace")
    for name in ("text.grace", "other.grace", "absent.grace"):
        with pytest.raises(ModelError) as error:
            load_model(tmp_path / name)
        assert "\n" not in str(error.value)
        assert error.value.hint


def test_newer_versions_are_refused_by_number(path):
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = modelfile.VERSION + 1
    with pytest.raises(ModelError, match=rf"version {modelfile.VERSION + 1}.*reads up to {modelfile.VERSION}"):
        load_model(path)


def test_older_versions_go_through_every_upgrade(path, model, monkeypatch):
    """A file of two versions ago (models without heads are written as version 1), read by one that knows both steps."""
    steps = []

    def step(content):
        steps.append(content["version"])
        return {**content, "version": content["version"] + 1}

    oldest = 1
    monkeypatch.setattr(modelfile, "UPGRADES", {oldest: step, oldest + 1: step})
    monkeypatch.setattr(modelfile, "VERSION", oldest + 2)
    assert load_model(path).weights.keys() == model.weights.keys()
    assert steps == [oldest, oldest + 1]


def test_a_node_option_added_later_does_not_spoil_old_files(path, model):
    """The recorded identity belongs to the stored text: options of nodes that came later take their defaults."""
    with h5py.File(path, "r+") as file:
        nodes = json.loads(str(file.attrs["blueprint"]))
        for node in nodes:  # as if written before this option existed
            if node["kind"] == "Reduce":
                assert node.pop("initial_value") == 0.0
        text = json.dumps(nodes)
        file.attrs["blueprint"] = text
        metadata = json.loads(str(file.attrs["metadata"]))
        metadata["sha256"] = modelfile.content_sha256(text, model.weights)
        file.attrs["metadata"] = json.dumps(metadata)
    assert load_model(path).blueprint == model.blueprint


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"kind": "Density"', '"kind": "Densty"', ["unknown node type 'Densty'", "node 'A'", "Density"]),
        ('"envelope_p": 5', '"envelop_p": 5', ["RadialBasis", "unknown option 'envelop_p'"]),
    ],
)
def test_unknown_nodes_are_named(path, old, new, words):
    with h5py.File(path, "r+") as file:
        text = str(file.attrs["blueprint"])
        assert old in text
        file.attrs["blueprint"] = text.replace(old, new)
    with pytest.raises(ModelError) as error:
        load_model(path)
    assert all(w in str(error.value) for w in words), str(error.value)


WRITER = """
import sys, time
import h5py, numpy as np
from gracecli.model.modelfile import Model, save_model
from gracecli.model.presets import preset

original, made = h5py.Group.create_dataset, []

def slowly(self, *arguments, **options):
    made.append(original(self, *arguments, **options))
    if len(made) == 3:
        self.file.flush()
        print("half way", flush=True)
        time.sleep(60)
    return made[-1]

h5py.Group.create_dataset = slowly
weights = {f"node/{k}": np.full((50, 50), float(k)) for k in range(6)}
save_model(sys.argv[1], Model(preset("1l-small", ["Al"]), weights, {"name": "new"}), overwrite=True)
"""


@pytest.mark.parametrize("exists", [False, True], ids=["new file", "overwriting"])
def test_a_killed_writer_leaves_no_half_file(tmp_path, model, exists):
    """kill -9 in mid-write: the wanted name holds the old model, or nothing."""
    path = tmp_path / "model.grace"
    if exists:
        save_model(path, model)
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=os.environ)
    with process:
        assert process.stdout.readline() == b"half way\n"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    if exists:
        assert load_model(path).metadata == model.metadata
    else:
        assert not path.exists()
    leftovers = [p for p in tmp_path.iterdir() if p != path]
    assert len(leftovers) == 1
    assert leftovers[0].name.startswith(".")  # never taken for a model by 'grace models list'


def test_parameters_are_counted_without_constants(model):
    counted = sum(np.size(v) for k, v in model.weights.items() if k != "RadialBasis/rc")
    assert model.n_parameters == counted


def test_weights_are_checked_against_the_blueprint(tensorflow, new_model):
    """A variable that is missing, too many, or of another shape is named."""
    from gracecli.model.network import Network

    whole = new_model("1l")
    for change, words in (
        ({"R/layers/0/w": None}, ["'R/layers/0/w' is missing"]),
        ({"R/layers/0/w": np.zeros((5, 7))}, ["'R/layers/0/w' has shape 5x7", "5x8"]),
        ({"spare/w": np.zeros(3)}, ["no place for the variable 'spare/w'"]),
    ):
        weights = {k: v for k, v in {**whole.weights, **change}.items() if v is not None}
        with pytest.raises(ModelError) as error:
            Network(whole.blueprint, weights)
        assert all(w in str(error.value) for w in words), str(error.value)
