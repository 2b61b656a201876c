"""The library: nothing broken enters, nothing whole is lost."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from gracecli.errors import InputError, ModelError, UsageError
from gracecli.model.modelfile import Model, load_model, save_model
from gracecli.registry.library import add_model, remove_model, verify_models
from gracecli.registry.resolve import library_models, read_published, resolve_model

pytestmark = pytest.mark.usefixtures("tensorflow")


@pytest.fixture
def fixtures(shared_folder):
    return shared_folder / "fixtures" / "grace"


def same_weights(one, other):
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        np.testing.assert_array_equal(value, other.weights[name])


# --- published folders ----------------------------------------------------------------------------------------------


def test_published_folder_is_converted(library, fixtures):
    added = add_model(fixtures / "grace_2l_tiny")
    s = added.summary
    assert (s.name, s.elements, s.layers, s.cutoff) == ("grace_2l_tiny", ("Al", "Li", "Ni"), 2, 5.0)
    assert (s.precision, added.replaced, added.notes) == ("fp64", False, ())
    path = resolve_model("grace_2l_tiny")
    assert path == library / "grace_2l_tiny.grace"
    model = load_model(path)
    same_weights(model, read_published(fixtures / "grace_2l_tiny"))
    assert set(model.metadata["provenance"]["files"]) == {
        "model.yaml", "checkpoint.index", "checkpoint.data-00000-of-00001",
    }  # fmt: skip
    assert model.metadata["saved_at"].startswith("20")


def test_single_precision(library, fixtures):
    assert add_model(fixtures / "grace_2l_tiny_fp32").summary.precision == "fp32"


def test_both_key_layouts_and_all_yaml_layouts(library, fixtures, tmp_path):
    """Same weights: keys as never trained and as trained; mapping with metadata, flat mapping, list."""
    import yaml

    folder = tmp_path / "copy"
    shutil.copytree(fixtures / "grace_2l_v1_tiny", folder)
    instructions = yaml.safe_load((folder / "model.yaml").read_text())["instructions"]
    (folder / "list.yaml").write_text(yaml.safe_dump(list(instructions.values()), sort_keys=False))
    expected = load_model(resolve_model(add_model(folder).summary.name))
    for description in ("model.yaml", "model_legacy_flat.yaml", "list.yaml"):
        for checkpoint in ("checkpoint", "checkpoint_training_layout.index"):
            added = add_model(folder / description, "again", checkpoint=checkpoint, force=True)
            same_weights(load_model(library / "again.grace"), expected)
            assert added.summary.elements == expected.elements


def test_licence_follows_the_published_name(library, fixtures):
    added = add_model(fixtures / "grace_1l_tiny", "GRACE-1L-OAM_2Feb25")
    assert added.summary.licence.startswith("Academic Software License")
    assert "GRACE-1L-OAM is licensed under" in added.notes[0]


def test_grades_come_along(library, fixtures, tmp_path):
    added = add_model(fixtures / "grace_2l_tiny_uq")
    assert "gmm_artifacts.npz" in added.notes[0]
    grade = load_model(Path(added.summary.path)).grade
    assert grade.projection.shape == (290, 6)
    folder = tmp_path / "uq"
    shutil.copytree(fixtures / "grace_1l_tiny", folder)
    (folder / "gmm_artifacts.npz").write_bytes(b"")
    with pytest.raises(ModelError, match=r"gmm_artifacts.npz: cannot be read"):
        add_model(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "checkpoint.index").unlink(), "no checkpoint"),
        (lambda folder: (folder / "model.yaml").write_text("{"), "cannot read the model description"),
        (lambda folder: (folder / "model.yaml").unlink(), "not a model: no model.yaml"),
        (lambda folder: (folder / "checkpoint.data-00000-of-00001").write_bytes(b""), "Read less bytes"),
    ],
)
def test_broken_folder_does_not_enter(library, fixtures, tmp_path, damage, message):
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in ("model.yaml", "checkpoint.index", "checkpoint.data-00000-of-00001"):
        shutil.copyfile(fixtures / "grace_1l_tiny" / name, folder / name)
    damage(folder)
    with pytest.raises(ModelError, match=message):
        add_model(folder)
    assert library_models() == {}


def test_unknown_checkpoint_names_those_there_are(library, fixtures):
    with pytest.raises(ModelError, match=r"no checkpoint 'best' \(there are: checkpoint, checkpoint_training_layout"):
        add_model(fixtures / "grace_1l_tiny", checkpoint="best")


def test_program_cannot_be_converted(library, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ModelError, match="a SavedModel is a compiled program"):
        add_model(tmp_path)


# --- model files ----------------------------------------------------------------------------------------------------


def test_model_file_is_copied(library, stored, tmp_path):
    path = stored(tmp_path / "copper.grace", "Cu", licence="MIT")
    added = add_model(path)
    assert added.summary.licence == "MIT"
    assert (library / "copper.grace").read_bytes() == path.read_bytes()
    assert [p.name for p in library.iterdir()] == ["copper.grace"]  # no temporary files left


def test_name_is_taken_unless_forced(library, stored, tmp_path):
    add_model(stored(tmp_path / "a.grace", "Cu"))
    other = stored(tmp_path / "other.grace", "Ni")
    with pytest.raises(InputError, match="the library has a model called 'a'"):
        add_model(other, "a")
    assert load_model(library / "a.grace").elements == ("Cu",)
    assert add_model(other, "a", force=True).replaced
    assert load_model(library / "a.grace").elements == ("Ni",)


@pytest.mark.parametrize("name", ["", "../evil", "a/b", ".hidden", "-m", "a b", "ü"])
def test_names_that_are_no_names(library, stored, tmp_path, name):
    path = stored(tmp_path / "a.grace", "Cu")
    if not name:
        path = path.rename(tmp_path / "a b.grace")
    with pytest.raises(UsageError, match="cannot be the name of a model"):
        add_model(path, name or None)
    assert library_models() == {}


def test_bundled_names_are_reserved(bundled, stored, tmp_path):
    stored(bundled / "ours.grace", "Cu")
    with pytest.raises(UsageError, match="'ours' is the name of a bundled model"):
        add_model(stored(tmp_path / "ours.grace", "Ni"))
    with pytest.raises(UsageError, match="'ours' is bundled"):
        remove_model("ours")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("Z/w"), "variable 'Z/w' is missing"),
        (lambda weights: weights.update({"Z/w": np.ones((1, 5))}), "'Z/w' has shape 1x5, the blueprint asks for 1x2"),
        (lambda weights: weights["Z/w"].fill(np.nan), "'Z/w' holds numbers that are not finite"),
    ],
)
def test_unusable_model_file_does_not_enter(library, small_model, tmp_path, change, message):
    model = small_model("Cu")
    weights = {name: np.array(value) for name, value in model.weights.items()}
    change(weights)
    path = save_model(tmp_path / "bad.grace", Model(model.blueprint, weights))
    with pytest.raises(ModelError, match=message):
        add_model(path)
    assert library_models() == {}


def test_things_that_are_no_models(library, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    for path, message in [
        (text, "not a model file"),
        (tmp_path / "nothing", "no such file or folder"),
        (tmp_path, "not a model: no model.yaml"),
        (tmp_path / "nowhere" / "model.yaml", "no such folder"),
        (tmp_path / "model.yaml", "not a model: no model.yaml"),
    ]:
        with pytest.raises(ModelError, match=message):
            add_model(path)


def test_other_hdf5_file(library, tmp_path):
    with h5py.File(tmp_path / "data.grace", "w") as file:
        file["x"] = [1, 2]
    with pytest.raises(ModelError, match="not a gracecli model file"):
        add_model(tmp_path / "data.grace")


def test_a_write_that_goes_wrong_leaves_the_old_model(library, stored, tmp_path, monkeypatch):
    add_model(stored(tmp_path / "a.grace", "Cu"))
    before = (library / "a.grace").read_bytes()

    def half(source, target):
        target.write_bytes(source.read_bytes()[:1000])

    monkeypatch.setattr("gracecli.registry.library.shutil.copyfile", half)
    with pytest.raises(ModelError, match="damaged model file"):
        add_model(stored(tmp_path / "b.grace", "Ni"), "a", force=True)
    assert (library / "a.grace").read_bytes() == before
    assert len(list(library.iterdir())) == 1


def test_library_in_an_impossible_place(stored, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRACE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="GRACE_CACHE"):
        add_model(stored(tmp_path / "a.grace", "Cu"))


# --- removal and verification ---------------------------------------------------------------------------------------


def test_remove(library, stored, tmp_path):
    add_model(stored(tmp_path / "copper.grace", "Cu"))
    with pytest.raises(ModelError, match=r"no model called 'coper' \(did you mean copper\?"):
        remove_model("coper")
    assert remove_model("copper") == library / "copper.grace"
    assert library_models() == {}


def test_verify_finds_a_changed_weight(library, stored, tmp_path):
    for name in ("good", "bad"):
        add_model(stored(tmp_path / f"{name}.grace", "Cu"))
    assert [v.ok for v in verify_models()] == [True, True]
    with h5py.File(library / "bad.grace", "a") as file:
        file["weights/Z/w"][0, 0] += 1e-12
    found = {v.name: v for v in verify_models()}
    assert found["good"].ok
    assert found["good"].sha256 == load_model(library / "good.grace").sha256()
    assert not found["bad"].ok
    assert "do not match the recorded sha256" in found["bad"].problem
    assert [v.ok for v in verify_models("good")] == [True]


def test_verify_asks_for_a_recorded_sum(library, stored):
    path = stored(library / "a.grace", "Cu")
    with h5py.File(path, "a") as file:
        metadata = json.loads(file.attrs["metadata"])
        del metadata["sha256"]
        file.attrs["metadata"] = json.dumps(metadata)
    (found,) = verify_models("a")
    assert (found.ok, found.problem) == (False, "the file records no sha256")
