"""Model files of every format version there has been are read, and evaluate to what they did then."""

import importlib.util
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from gracecli.errors import ModelError
from gracecli.model.modelfile import UPGRADES, VERSION, load_model

FOLDER = Path(__file__).parent / "old_versions"
FILES = sorted(FOLDER.glob("v*.grace"), key=lambda path: int(path.stem[1:]))


def evaluate(model):
    specification = importlib.util.spec_from_file_location("make", FOLDER / "make.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.evaluate(model)


def test_every_version_is_stored_and_upgraded():
    assert [path.stem for path in FILES] == [f"v{version}" for version in range(1, VERSION + 1)]
    assert sorted(UPGRADES) == list(range(1, VERSION))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_old_file(path):
    with h5py.File(path) as file:
        assert f"v{file.attrs['version']}" == path.stem
    model = load_model(path)
    assert model.elements == ("Cu", "Ni")
    assert model.cutoff == 4.0
    assert model.metadata["licence"] == "MIT"
    expected = json.loads(path.with_suffix(".json").read_text())
    if path.stem == f"v{VERSION}":
        assert model.sha256() == expected["sha256"]
    result = evaluate(model)
    assert abs(result.energy - expected["energy"]) < 1e-9
    np.testing.assert_allclose(result.forces, expected["forces"], atol=1e-9)


def test_file_of_a_later_version_is_refused(tmp_path):
    path = tmp_path / "later.grace"
    shutil.copyfile(FILES[-1], path)
    with h5py.File(path, "a") as file:
        file.attrs["version"] = VERSION + 1
    with pytest.raises(ModelError, match=rf"version {VERSION + 1}, this gracecli reads up to {VERSION} \(update"):
        load_model(path)
