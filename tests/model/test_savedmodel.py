"""Published SavedModel exports as an engine, against the values that the published package gave for the same weights.

The exports are made here by the published package, which needs an environment of its own: GRACE_PEER_ENV names it (or
its ``grace_utils``).
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from gracecli import GraceCalculator
from gracecli.engine.create import create_engine
from gracecli.engine.neighbours import build_graph
from gracecli.errors import InputError, ModelError, UsageError

SHARED = Path(os.environ.get("GRACE_SHARED", Path(__file__).parents[3] / "shared"))
FIXTURES = SHARED / "fixtures" / "grace"
MODELS = ["grace_1l_tiny", "grace_2l_tiny", "fs_tiny"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """Name of a fixture -> folder of its export."""
    given = os.environ.get("GRACE_PEER_ENV")
    if not given:
        pytest.skip("GRACE_PEER_ENV does not name an environment with the published package")
    if not FIXTURES.is_dir():
        pytest.skip(f"no fixtures at {FIXTURES}")
    tool = Path(given) if Path(given).is_file() else Path(given) / "bin" / "grace_utils"
    assert tool.is_file(), f"GRACE_PEER_ENV={given}: no grace_utils there"
    made = {}

    def export(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            for file in ("model.yaml", "checkpoint.index", "checkpoint.data-00000-of-00001"):
                shutil.copyfile(FIXTURES / name / file, folder / file)
            command = [str(tool), "-p", "model.yaml", "-c", "checkpoint.index", "export", "-n", "saved_model"]
            environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "PYTHONWARNINGS": "ignore"}
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
            assert (folder / "saved_model" / "saved_model.pb").is_file(), done.stderr[-2000:]
            made[name] = folder / "saved_model"
        return made[name]

    return export


@pytest.fixture(scope="session")
def engine(exports):
    made = {}

    def make(name):
        if name not in made:
            made[name] = create_engine(exports(name))
        return made[name]

    return make


def structures(name):
    """Structures of a fixture with their reference values."""
    with np.load(FIXTURES / name / "reference.npz") as data:
        for k in range(len(data["names"])):
            atoms = Atoms(
                data[f"{k:02d}_numbers"],
                positions=data[f"{k:02d}_positions"],
                cell=data[f"{k:02d}_cell"],
                pbc=data[f"{k:02d}_pbc"],
            )
            values = {key: data[f"{k:02d}_{key}"] for key in ("energy", "atomic_energy", "forces", "stress_voigt")}
            yield str(data["names"][k]), atoms, values


@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_the_published_values(engine, name):
    program = engine(name)
    assert program.name == "saved-model"
    assert program.precision == "fp64"
    found = list(structures(name))
    graphs = [build_graph(atoms, program.cutoff, program.pair_cutoff) for _, atoms, _ in found]
    before = program.statistics()["compiles"]
    together = program.evaluate(graphs)
    assert program.statistics()["compiles"] == before + 1  # all in one batch
    for (label, atoms, values), graph, result in zip(found, graphs, together, strict=True):
        assert abs(result.energy - values["energy"]) < 1e-9, label
        np.testing.assert_allclose(result.energies, values["atomic_energy"].ravel(), atol=1e-9, err_msg=label)
        np.testing.assert_allclose(result.forces, values["forces"], atol=1e-9, err_msg=label)
        if atoms.pbc.all():
            np.testing.assert_allclose(result.stress, values["stress_voigt"], atol=1e-10, err_msg=label)
        (alone,) = program.evaluate([graph])
        assert abs(alone.energy - result.energy) < 1e-9
        np.testing.assert_allclose(alone.forces, result.forces, atol=1e-9)
    assert program.statistics()["compiles"] <= before + 6


def test_without_pair_forces_the_program_sums_itself(engine):
    """Old exports give forces and virial only; both ways must agree."""
    program = engine("grace_2l_tiny")
    cases = [(atoms, build_graph(atoms, program.cutoff)) for _, atoms, _ in structures("grace_2l_tiny")]
    expected = program.evaluate([graph for _, graph in cases])
    program._batches = False
    try:
        found = program.evaluate([graph for _, graph in cases])
    finally:
        program._batches = True
    for (atoms, _), ours, theirs in zip(cases, expected, found, strict=True):
        np.testing.assert_allclose(ours.forces, theirs.forces, atol=1e-10)
        if atoms.pbc.all():
            np.testing.assert_allclose(ours.stress, theirs.stress, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_elements_and_cutoff_without_metadata(exports, engine, name, tmp_path):
    """Older exports have no metadata files: the program itself says what it covers."""
    folder = tmp_path / "old"
    shutil.copytree(exports(name), folder)
    for file in ("metadata.yaml", "metadata.json"):
        (folder / file).unlink()
    old = create_engine(folder, "saved-model")
    assert old.elements == engine(name).elements
    assert old.cutoff == engine(name).cutoff


def test_auto_takes_the_program_only_where_there_is_nothing_else(exports, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(exports("grace_1l_tiny"), folder)
    calculator = GraceCalculator(folder)
    assert calculator.engine.name == "saved-model"
    for file in ("model.yaml", "checkpoint.index", "checkpoint.data-00000-of-00001"):
        shutil.copyfile(FIXTURES / "grace_1l_tiny" / file, folder / file)
    assert GraceCalculator(folder).engine.name == "tensorflow"
    assert GraceCalculator(folder, engine="saved-model").engine.name == "saved-model"


def test_errors_say_what_is_wrong(exports, engine, tmp_path):
    with pytest.raises(UsageError, match="exported in fp64 and cannot run in fp32"):
        create_engine(exports("grace_1l_tiny"), "saved-model", "fp32")
    with pytest.raises(UsageError, match="no option 'radial'"):
        create_engine(exports("grace_1l_tiny"), "saved-model", radial="spline")
    with pytest.raises(ModelError, match="not a SavedModel"):
        create_engine(FIXTURES / "grace_1l_tiny", "saved-model")
    broken = tmp_path / "broken"
    shutil.copytree(exports("grace_1l_tiny"), broken)
    (broken / "saved_model.pb").write_bytes(b"not a program")
    with pytest.raises(ModelError, match="cannot load the SavedModel"):
        create_engine(broken, "saved-model")
    graph = build_graph(Atoms("Au"), 5.0)
    with pytest.raises(InputError, match="does not cover Au"):
        engine("grace_1l_tiny").evaluate([graph])
