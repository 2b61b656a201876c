"""A published model that is broken, incomplete or unknown is refused by name: what, where (exit code 6)."""

import re
import shutil

import numpy as np
import pytest

from gracecli.engine.tensorflow import TensorFlowEngine
from gracecli.errors import ModelError
from gracecli.model.blueprint import Blueprint
from gracecli.model.modelfile import Model
from gracecli.model.presets import initial_weights, preset
from gracecli.model.upstream.checkpoint import read_yaml
from gracecli.registry.resolve import read_model

FILES = ("model.yaml", "checkpoint.index", "checkpoint.data-00000-of-00001")
SMALL = {"cutoff": 4.0, "lmax": (1, 1, 1), "n_radial": (2, 2, 2), "embedding": 2, "n_basis": 3}

DESCRIPTION = """
Y:
  __cls__: tensorpotential.instructions.compute.SphericalHarmonic
  name: Y
  lmax: 1
"""


@pytest.fixture
def published(shared_folder, tmp_path):
    """A writable copy of a small published model."""
    for name in FILES:
        shutil.copyfile(shared_folder / "fixtures" / "grace" / "grace_1l_tiny" / name, tmp_path / name)
    return tmp_path


def build(folder):
    model = read_model(folder)
    return TensorFlowEngine(model, xla=False)


def test_the_unbroken_copy_is_read(published):
    assert build(published).elements == ("Al", "Li", "Ni")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("SphericalHarmonic", "SphericalTensor", "instruction 'Y' has the unknown class 'SphericalTensor'"),
        ("embedding_size: 8", "embedding_size: 9", "variable 'Z/w' has shape 3x8, the blueprint asks for 3x9"),
        ("      Ni: 2\n", "", "variable 'Z/w' has shape 3x8, the blueprint asks for 2x8"),
        ("Al: 0", "Al: 7", "element_map of 'Z' is not numbered 0, 1, 2"),
        ("TrainableShiftTarget:", "Moved:", "variable 'Moved/at_shifts' is missing"),
        ("lmax: 3", "lmax: three", "invalid literal for int.*'three'"),
        ("name: RadialBasis", "name: RadialBases", "'R' reads 'RadialBases', which is not defined before it"),
    ],
)
def test_description_that_does_not_fit(published, old, new, message):
    file = published / "model.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(ModelError, match=message):
        build(published)


@pytest.mark.parametrize(
    ("file", "keep", "message"),
    [
        ("checkpoint.data-00000-of-00001", 0.5, "checkpoint.*Read less bytes"),
        ("checkpoint.data-00000-of-00001", 0.0, "checkpoint.*Read less bytes"),
        ("checkpoint.index", 0.5, r"checkpoint.index: not a readable TensorFlow checkpoint"),
        ("checkpoint.index", 0.0, r"checkpoint.index: not a readable TensorFlow checkpoint"),
    ],
)
def test_truncated_checkpoint(published, file, keep, message):
    content = (published / file).read_bytes()
    (published / file).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ModelError, match=message):
        build(published)


def test_altered_checkpoint(published):
    """TensorFlow notices on reading, not on opening; still one line and the folder."""
    file = published / "checkpoint.data-00000-of-00001"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(
        ModelError, match=f"{re.escape(str(published))}: cannot read the published model: .*Checksum does not match"
    ):
        build(published)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("checkpoint.index", "no checkpoint"),
        ("checkpoint.data-00000-of-00001", "checkpoint.data-00000-of-00001; No such file"),
    ],
)
def test_missing_file(published, file, message):
    (published / file).unlink()
    with pytest.raises(ModelError, match=message):
        build(published)


def test_checkpoint_of_another_model(published, shared_folder):
    for name in FILES[1:]:
        shutil.copyfile(shared_folder / "fixtures" / "grace" / "fs_tiny" / name, published / name)
    with pytest.raises(ModelError, match=r"has cutoff 5 Å, but its variable 'rc' says 5.5 Å.*do not belong together"):
        build(published)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\nb: }", r"cannot read the model description: .*line 1, column 4"),
        (b"\xff\xfe\x00\x81", "cannot read the model description: 'utf-8' codec"),
        (b"", "not a GRACE model description"),
        (b"hello", "not a GRACE model description"),
        (b"metadata: {}\ninstructions: {}\n", "not a GRACE model description"),
        (b"Y: {lmax: 1}\n", r"entry 'Y' is not an instruction \(no __cls__\)"),
        (DESCRIPTION.replace("lmax: 1", "").encode(), r"instruction 'Y' \(SphericalHarmonic\): KeyError\('lmax'\)"),
        (DESCRIPTION.replace("Harmonic", "Cow").encode(), "instruction 'Y' has the unknown class 'SphericalCow'"),
    ],
)
def test_unreadable_description(tmp_path, content, message):
    file = tmp_path / "model.yaml"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        read_yaml(file)
    assert caught.value.exit_code == 6
    assert "\n" not in caught.value.message


def test_missing_description(tmp_path):
    with pytest.raises(ModelError, match=r"model\.yaml: cannot read .*No such file"):
        read_yaml(tmp_path / "model.yaml")


# --- the same for blueprints and weights of our own -------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    blueprint = preset("fs-small", ["Cu", "Ni"], **SMALL)
    return Model(blueprint, initial_weights(blueprint, np.random.default_rng(1)))


def test_missing_variable(small):
    weights = {name: value for name, value in small.weights.items() if name != "Z/w"}
    with pytest.raises(ModelError, match="variable 'Z/w' is missing"):
        TensorFlowEngine(Model(small.blueprint, weights))


def test_variable_of_wrong_shape(small):
    weights = {**small.weights, "Z/w": np.zeros((2, 3))}
    with pytest.raises(ModelError, match="variable 'Z/w' has shape 2x3, the blueprint asks for 2x2"):
        TensorFlowEngine(Model(small.blueprint, weights))


def test_variable_without_a_place(small):
    with pytest.raises(ModelError, match=r"no place for the variable 'Z/extra'"):
        TensorFlowEngine(Model(small.blueprint, {**small.weights, "Z/extra": np.zeros(1)}))


def test_unknown_node(small):
    text = small.blueprint.to_json().replace('"Harmonics"', '"Harmonicas"')
    with pytest.raises(ModelError, match=r"unknown node type 'Harmonicas' .*'Y'.*nearest known: Harmonics"):
        Blueprint.from_json(text)
