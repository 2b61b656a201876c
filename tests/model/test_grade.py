"""Extrapolation grades: published numbers, symmetries, derivatives, files."""

import shutil

import numpy as np
import pytest
from ase import Atoms

from gracecli.engine.neighbours import build_graph
from gracecli.errors import ModelError
from gracecli.model.gradefile import read_published as read_artifacts
from gracecli.model.gradefile import write_published
from gracecli.model.modelfile import load_model, save_model
from gracecli.model.reduce import cast, reduce_elements
from gracecli.registry.resolve import read_published


@pytest.fixture(scope="module")
def folder(shared_folder):
    return shared_folder / "fixtures" / "grace" / "grace_2l_tiny_uq"


@pytest.fixture(scope="module")
def model(folder, tensorflow):
    return read_published(folder)


@pytest.fixture(scope="module")
def engine(model):
    from gracecli.engine.tensorflow import TensorFlowEngine

    made = TensorFlowEngine(model, xla=False)
    made.gamma = True
    return made


@pytest.fixture(scope="module")
def reference(folder):
    with np.load(folder / "reference_uq.npz") as file:
        data = dict(file)
    return [{k[3:]: v for k, v in data.items() if k.startswith(f"{n:02d}_")} for n in range(len(data["names"]))]


def structure(entry):
    return Atoms(numbers=entry["numbers"], positions=entry["positions"], cell=entry["cell"], pbc=entry["pbc"])


def graph_of(engine, atoms):
    return build_graph(atoms, engine.cutoff, engine.pair_cutoff)


def features(engine, graph):
    from gracecli.engine.batch import pack, required_shape

    batch = pack([graph], engine._index, engine.ladder.choose(required_shape([graph])))
    _, _, projected, squares = engine._run(batch, "graded")
    return engine.grade.feature(projected[: len(graph)], squares[: len(graph)])


def test_published_numbers(engine, reference):
    """Features, sigma, cluster and gamma of all eleven structures to 1e-12."""
    for entry in reference:
        graph = graph_of(engine, structure(entry))
        feature = features(engine, graph)
        graded = engine.grade.grade(feature, engine._element_of[graph.numbers])
        np.testing.assert_allclose(feature, entry["features"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(graded.sigma, entry["atomic_sigma"], rtol=1e-12)
        np.testing.assert_array_equal(graded.cluster, entry["gmm_cluster"])
        np.testing.assert_allclose(graded.gamma, entry["gamma"], rtol=1e-12)


def test_published_derivatives(engine, reference):
    """The gradient of the grades in positions and strain; the reference is NaN for the isolated atom, ours is zero."""
    for entry in reference:
        slopes, virial = engine.gamma_slopes(graph_of(engine, structure(entry)))
        if np.isnan(entry["dsigma_dr"]).any():
            assert len(slopes) == 1
            assert np.abs(slopes).max() == 0.0
            continue
        np.testing.assert_allclose(slopes, entry["dsigma_dr"], atol=1e-11)
        np.testing.assert_allclose(virial, entry["virial_sigma"], atol=1e-11)


def test_batches_are_graded_like_single_structures(engine, reference):
    graphs = [graph_of(engine, structure(entry)) for entry in reference]
    for entry, result in zip(reference, engine.evaluate(graphs), strict=True):
        np.testing.assert_allclose(result.extra["gamma"], entry["gamma"], rtol=1e-11)
        assert result.energy == pytest.approx(float(entry["energy"]), abs=1e-9)


def test_symmetries(engine, reference):
    """Rotation, reflection, translation and permutation leave grades alone."""
    rng = np.random.default_rng(3)
    atoms = structure(reference[1])
    before = engine.evaluate([graph_of(engine, atoms)])[0].extra["gamma"]
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation[0] *= -np.sign(np.linalg.det(rotation))  # improper
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ rotation, scale_atoms=False)
    moved.positions = atoms.positions @ rotation + rng.normal(size=3)
    order = rng.permutation(len(atoms))
    after = engine.evaluate([graph_of(engine, moved[order])])[0].extra["gamma"]
    np.testing.assert_allclose(after, before[order], rtol=1e-9)


def test_file_keeps_grades(tmp_path, engine, model, reference):
    """Saved, loaded, cast and reduced models grade like the original."""
    again = load_model(save_model(tmp_path / "m.grace", model))
    assert again.sha256() == model.sha256()
    for name in ("projection", "centroids", "inverse_covariances", "thresholds", "counts"):
        np.testing.assert_array_equal(getattr(again.grade, name), getattr(model.grade, name))
    assert again.grade.density
    assert again.grade.normalize
    assert cast(model, "fp32").grade is model.grade
    kept = reduce_elements(model, ["Ni", "Al"])
    from gracecli.engine.tensorflow import TensorFlowEngine

    small = TensorFlowEngine(kept, xla=False)
    small.gamma = True
    atoms = structure(reference[0])
    atoms.symbols = ["Al", "Ni"] * (len(atoms) // 2)
    pair = [e.evaluate([graph_of(e, atoms)])[0].extra["gamma"] for e in (engine, small)]
    np.testing.assert_allclose(*pair, rtol=1e-10)


@pytest.mark.slow
def test_exported_folder_grades_like_the_model(tmp_path, model, engine, reference):
    """model.yaml, checkpoint and gmm_artifacts.npz are read back with the same grades."""
    from gracecli.engine.tensorflow import TensorFlowEngine
    from gracecli.export.run import export_model

    save_model(tmp_path / "m.grace", model)
    export_model(tmp_path / "m.grace", "upstream", tmp_path / "out", verify=False)
    again = TensorFlowEngine(read_published(tmp_path / "out"), xla=False)
    graph = graph_of(engine, structure(reference[1]))
    pair = [e.evaluate([graph])[0].extra["gamma"] for e in (engine, again)]
    np.testing.assert_allclose(*pair, rtol=1e-12)


def test_published_file_round_trip(tmp_path, model):
    write_published(tmp_path / "gmm_artifacts.npz", model.grade, model.elements)
    again = read_artifacts(tmp_path / "gmm_artifacts.npz", model.elements)
    for name in ("projection", "centroids", "inverse_covariances", "thresholds", "counts"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model.grade, name))


@pytest.mark.parametrize(("schema", "transform"), [(3, "none"), (4, "asinh")])
def test_older_schemas(tmp_path, folder, model, engine, reference, schema, transform):
    """B R and asinh(B) R, from the same invariants."""
    with np.load(folder / "gmm_artifacts.npz") as file:
        data = {k: v for k, v in dict(file).items() if k not in ("uq_rp_normalize", "uq_rp_add_density_channel")}
    for e in range(3):
        data[f"centroids_{e}"] = data[f"centroids_{e}"][:, :6]
        data[f"inv_cov_{e}"] = data[f"inv_cov_{e}"][:, :6, :6]
    np.savez(tmp_path / "old.npz", **{**data, "__schema_version__": schema})
    grade = read_artifacts(tmp_path / "old.npz", model.elements)
    assert (grade.transform, grade.normalize, grade.density, grade.channels) == (transform, False, False, 0)
    from dataclasses import replace

    from gracecli.engine.tensorflow import TensorFlowEngine

    graph = graph_of(engine, structure(reference[1]))
    invariants = engine.invariants([graph])
    bent = np.arcsinh(invariants) if transform == "asinh" else invariants
    other = TensorFlowEngine(replace(model, grade=grade), xla=False)
    np.testing.assert_allclose(features(other, graph), bent @ grade.projection.astype(float), atol=1e-12)


def test_wrong_files_are_refused(tmp_path, folder, model):
    with np.load(folder / "gmm_artifacts.npz") as file:
        data = dict(file)
    np.savez(tmp_path / "gmm_artifacts.npz", **{**data, "__schema_version__": 7})
    with pytest.raises(ModelError, match="schema 7"):
        read_artifacts(tmp_path / "gmm_artifacts.npz", model.elements)
    with pytest.raises(ModelError, match="made for Al Li Ni"):
        read_artifacts(folder / "gmm_artifacts.npz", ("Al", "Li", "Cu"))
    shutil.copytree(folder, tmp_path / "model")
    np.savez(tmp_path / "model" / "gmm_artifacts.npz", **{**data, "uq_rp_matrix": data["uq_rp_matrix"][:-1]})
    with pytest.raises(ModelError, match="made for 289 invariants, the model has 290"):
        read_published(tmp_path / "model")


def test_damage_is_noticed(tmp_path, model):
    import h5py

    path = save_model(tmp_path / "m.grace", model)
    with h5py.File(path, "r+") as file:
        values = file["grade/centroids"][()]
        values[0, 0, 0] += 1.0
        file["grade/centroids"][...] = values
    with pytest.raises(ModelError, match="extrapolation grade does not match"):
        load_model(path)
