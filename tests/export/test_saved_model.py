"""SavedModel: the published signature, in our engine for published exports."""

import json

import numpy as np
import pytest
import yaml

from gracecli.engine.create import create_engine
from gracecli.errors import UsageError
from gracecli.export.reference import evaluate_model, graphs_for
from gracecli.export.run import export_model
from gracecli.export.verify import test_structures as structures_of
from gracecli.model.cutoffs import pair_cutoff_function

INPUTS = {"atomic_mu_i", "batch_tot_nat", "batch_tot_nat_real", "bond_vector", "ind_i", "ind_j", "mu_i", "mu_j"}
SHAPES = {
    "atomic_energy": (None, 1), "total_energy": (1, 1), "total_f": (None, 3), "virial": (6,), "z_pair_f": (None, 3)
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(model_file, tmp_path_factory):
    """One export, not compiled by XLA."""
    folder = tmp_path_factory.mktemp("saved-model") / "program"
    return export_model(model_file("pairs"), "saved-model", folder, options={"xla": False})


@pytest.mark.slow
def test_published_signature(exported, tensorflow, model):
    tf = tensorflow
    program = tf.saved_model.load(str(exported.path))
    signature = program.signatures["compute"]
    specs = signature.structured_input_signature[1]
    assert set(specs) == INPUTS
    assert specs["bond_vector"].shape.as_list() == [None, 3]
    assert {name: s.dtype.name for name, s in specs.items()} == {
        name: "float64" if name == "bond_vector" else "int32" for name in INPUTS
    }
    assert {n: tuple(o.shape.as_list()) for n, o in signature.structured_outputs.items()} == SHAPES
    assert all(o.dtype == tf.float64 for o in signature.structured_outputs.values())
    assert set(program.signatures["compute_energy"].structured_outputs) == {"atomic_energy"}

    # one dictionary for the methods; padding changes nothing
    vector = np.array([[2.0, 0.5, 0.3], [-2.0, -0.5, -0.3], [52.0, 52.0, 52.0]])
    ends = np.array([[0, 1], [1, 0], [3, 3]], dtype=np.int32)
    species = np.array([0, 2, 0, 0], dtype=np.int32)
    arrays = {
        "bond_vector": vector, "ind_i": ends[:, 0], "ind_j": ends[:, 1], "mu_i": species[ends[:, 0]],
        "mu_j": species[ends[:, 1]], "atomic_mu_i": species, "batch_tot_nat": 4, "batch_tot_nat_real": 2,
    }  # fmt: skip
    inputs = {name: tf.constant(value, specs[name].dtype) for name, value in arrays.items()}
    padded = program.compute(inputs)
    inputs |= {"bond_vector": tf.constant(vector[:2]), "atomic_mu_i": tf.constant(species[:2])}
    inputs |= {name: inputs[name][:2] for name in ("ind_i", "ind_j", "mu_i", "mu_j")}
    plain = program.compute(inputs)
    np.testing.assert_array_equal(padded["atomic_energy"][2:], 0.0)
    np.testing.assert_allclose(padded["atomic_energy"][:2], plain["atomic_energy"], atol=1e-13)
    np.testing.assert_allclose(padded["total_f"][:2], plain["total_f"], atol=1e-13)
    np.testing.assert_allclose(plain["total_f"][0], -plain["total_f"][1], atol=1e-13)
    np.testing.assert_array_equal(program.compute_energy(inputs)["atomic_energy"], plain["atomic_energy"])

    # the virial follows from pair forces in the published order
    w = np.einsum("bx,by->xy", plain["z_pair_f"], vector[:2])
    np.testing.assert_allclose(plain["virial"], [w[0, 0], w[1, 1], w[2, 2], w[0, 1], w[0, 2], w[1, 2]], atol=1e-13)

    # variables where readers of published exports look for them
    z = program.instructions.Z
    assert [s.decode() for s in z.element_map_symbols.numpy()] == list(model("pairs").elements)
    np.testing.assert_array_equal(z.w.numpy(), model("pairs").weights["Z/w"])


@pytest.mark.slow
def test_metadata_files(exported, model):
    document = yaml.safe_load((exported.path / "metadata.yaml").read_text())
    assert document == json.loads((exported.path / "metadata.json").read_text())
    assert document["chemical_symbols"] == list(model("pairs").elements)
    assert document["cutoff"] == model("pairs").cutoff
    np.testing.assert_array_equal(document["cutoff_matrix"], model("pairs").pair_cutoffs())


@pytest.mark.slow
def test_runs_as_published_exports_do(exported, model):
    engine = create_engine(exported.path)
    assert engine.name == "saved-model"
    assert engine.precision == "fp64"
    structures = structures_of(model("pairs").elements, engine.cutoff, pair_cutoff_function(model("pairs")), seed=5)
    graphs = graphs_for(model("pairs"), structures)
    for a, b in zip(engine.evaluate(graphs), evaluate_model(model("pairs"), graphs), strict=True):
        np.testing.assert_allclose(a.energies, b.energies, atol=1e-11)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-10)
        np.testing.assert_allclose(a.stress, b.stress, atol=1e-11)
    assert exported.verification.passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "rare", "1l", "1l-first", "2l", "2l-first", "3l"])
def test_every_architecture(model_file, tmp_path, name):
    done = export_model(model_file(name), "saved-model", tmp_path / "program", options={"xla": False})
    assert done.verification.passed


@pytest.mark.slow
def test_dense_layout_of_models_with_messages(model_file, model, tmp_path, tensorflow):
    """Rows a * width to (a + 1) * width belong to atom a; empty rows have indices 0 and lie beyond every cutoff."""
    tf = tensorflow
    done = export_model(model_file("2l"), "saved-model", tmp_path / "program", options={"xla": False})
    program = tf.saved_model.load(str(done.path))
    (atoms,) = structures_of(model("2l").elements, model("2l").cutoff, None, seed=2)[:1]
    graph = graphs_for(model("2l"), [atoms])[0]
    count = np.bincount(graph.centre, minlength=len(graph))
    width = count.max() + 2
    row = graph.centre * width + np.concatenate([np.arange(n) for n in count])
    species = np.array([model("2l").elements.index(s) for s in atoms.symbols], dtype=np.int32)

    def arguments(rows, total):
        vector, ends = np.full((total, 3), 52.0), np.zeros((2, total), dtype=np.int32)
        vector[rows], ends[0, rows], ends[1, rows] = graph.bond_vector, graph.centre, graph.neighbour
        values = {
            "bond_vector": vector, "ind_i": ends[0], "ind_j": ends[1], "mu_i": species[ends[0]],
            "mu_j": species[ends[1]], "atomic_mu_i": species, "batch_tot_nat": len(atoms),
            "batch_tot_nat_real": len(atoms),
        }  # fmt: skip
        return {k: tf.constant(v, tf.float64 if k == "bond_vector" else tf.int32) for k, v in values.items()}

    flat = program.compute(arguments(np.arange(len(row)), len(row)))
    dense = program.compute_dense(arguments(row, len(atoms) * width))
    for name in ("atomic_energy", "total_f", "virial"):
        np.testing.assert_allclose(dense[name], flat[name], atol=1e-11)
    assert "compute_dense" in program.signatures


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rare", "2l"])
def test_compiled(model_file, tmp_path, name):
    done = export_model(model_file(name), "saved-model", tmp_path / "program", options={"xla": True})
    assert done.verification.passed


@pytest.mark.slow
def test_single_precision(model_file, tmp_path):
    done = export_model(model_file("1l"), "saved-model", tmp_path / "program", precision="fp32", options={"xla": False})
    assert create_engine(tmp_path / "program").precision == "fp32"
    assert 1e-12 < {d.quantity: d.largest for d in done.verification.deviations}["forces"] < 1e-3


def test_xla_is_yes_or_no(model_file, tmp_path):
    with pytest.raises(UsageError, match="yes or no"):
        export_model(model_file("tiny"), "saved-model", tmp_path / "program", options={"xla": "fast"})
    assert list(tmp_path.iterdir()) == []
