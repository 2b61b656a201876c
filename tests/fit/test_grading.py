"""Grades made from training structures: the edge of the data, what lies beyond it, and that clusters are found."""

import numpy as np
import pytest
from ase.build import bulk

from gracecli.engine.grading import can_grade, want_gamma
from gracecli.engine.neighbours import build_graph
from gracecli.errors import InputError, ModelError
from gracecli.fit.grading import GradeSettings, make_grade
from gracecli.fit.mixtures import best_mixture, random_signs
from gracecli.model.modelfile import load_model, save_model
from gracecli.model.reduce import reduce_elements
from gracecli.registry.resolve import read_model


def make_engine(model):
    native = pytest.importorskip("grace_native.engine")
    pytest.importorskip("grace_native._native")
    return native.NativeEngine(model, threads=1)


def gammas(engine, structures):
    want_gamma(engine)
    return [r.extra["gamma"] for r in engine.evaluate([graph_of(engine, a) for a in structures])]


def graph_of(engine, atoms):
    return build_graph(atoms, engine.cutoff, engine.pair_cutoff)


def rattled(symbol, number, stdev, seed, strain=0.03):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        atoms = bulk(symbol, cubic=True) * (2, 2, 2)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-strain, strain, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(scale=stdev, size=atoms.positions.shape)
        found.append(atoms)
    return found


@pytest.fixture(scope="module")
def model():
    """The bundled model for copper and nickel, as it was before it had grades."""
    from dataclasses import replace

    return replace(reduce_elements(read_model(None), ["Cu", "Ni"]), grade=None)


@pytest.fixture(scope="module")
def training():
    return rattled("Cu", 20, 0.08, 1) + rattled("Ni", 20, 0.08, 2)


@pytest.fixture(scope="module")
def graded(model, training):
    return make_grade(model, training, make_engine)


@pytest.fixture(scope="module")
def engine(graded):
    return make_engine(graded[0])


def test_training_structures_are_inside(engine, training):
    """gamma <= 1 for every training atom, and the edge is reached in both elements."""
    found = gammas(engine, training)
    assert max(g.max() for g in found) <= 1.0
    for part in (found[:20], found[20:]):
        assert max(g.max() for g in part) > 0.999


def test_model_stays_as_it_was(model, graded, tmp_path):
    made, report = graded
    assert made.sha256() == model.sha256()
    assert (report.structures, report.atoms) == (40, 40 * 32)
    again = load_model(save_model(tmp_path / "m.grace", made))
    assert again.sha256() == model.sha256()
    np.testing.assert_array_equal(again.grade.thresholds, made.grade.thresholds)
    assert again.grade.provenance["model_sha256"] == model.sha256()


def test_new_structures_of_the_same_kind_are_mostly_inside(engine):
    found = np.concatenate(gammas(engine, rattled("Cu", 10, 0.08, 7)))
    assert np.mean(found > 1.0) < 0.05
    assert found.max() < 1.5


@pytest.mark.parametrize("kind", ["compressed", "mixed", "hot", "surface"])
def test_what_was_not_trained_is_outside(engine, kind):
    """Cells compressed by 8 %, nickel in copper, threefold displacements, a surface: gamma > 1."""
    (atoms,) = rattled("Cu", 1, 0.24 if kind == "hot" else 0.08, 11)
    if kind == "compressed":
        atoms.set_cell(0.92 * atoms.cell.array, scale_atoms=True)
    if kind == "mixed":
        atoms.symbols[::2] = "Ni"
    if kind == "surface":
        atoms.center(vacuum=6.0, axis=2)
    (gamma,) = gammas(engine, [atoms])
    assert gamma.max() > 1.5


def test_grades_grow_with_compression(engine):
    (atoms,) = rattled("Ni", 1, 0.05, 3, strain=0.0)
    cells = [1.0, 0.95, 0.9, 0.85]
    structures = []
    for scale in cells:
        copy = atoms.copy()
        copy.set_cell(scale * atoms.cell.array, scale_atoms=True)
        structures.append(copy)
    largest = [g.max() for g in gammas(engine, structures)]
    assert largest == sorted(largest)


def test_elements_without_data_are_always_outside(model):
    made, report = make_grade(model, rattled("Cu", 4, 0.05, 1), make_engine, GradeSettings(dimension=8))
    assert report.without_data == ("Ni",)
    assert gammas(make_engine(made), rattled("Ni", 1, 0.01, 1))[0].min() > 100.0


def test_structures_of_other_elements_are_left_out(model, training):
    made, report = make_grade(model, [bulk("Ag"), *training[:2], training[-1]], make_engine, GradeSettings(4, 1))
    assert report.skipped == 1
    assert made.grade.centroids.shape == (2, 1, 6)
    with pytest.raises(InputError, match="no structure holds an element"):
        make_grade(model, [bulk("Ag")], make_engine)


def test_criterion_finds_two_kinds_of_atoms():
    """Two well separated Gaussians are two clusters, one is one."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=(2000, 4))
    two = np.concatenate([one[:1000], rng.normal(size=(1000, 4)) + 12.0])
    assert len(best_mixture(one, 500, 4, 0, False).counts) == 1
    found = best_mixture(two, 500, 4, 0, False)
    assert sorted(found.counts) == [1000, 1000]
    np.testing.assert_allclose(np.sort(found.centroids[:, 0]), [0.0, 12.0], atol=0.2)


def test_projection_keeps_distances():
    """Achlioptas: lengths of projected vectors are those of the vectors, on average."""
    points = np.random.default_rng(1).normal(size=(200, 984))
    ratio = ((points @ random_signs(984, 64, 0)) ** 2).sum(axis=1) / (points**2).sum(axis=1)
    assert ratio.mean() == pytest.approx(1.0, abs=0.05)


def test_a_model_without_grades_says_how_to_get_them(model):
    engine = make_engine(model)
    assert not can_grade(engine)
    with pytest.raises(ModelError, match="no extrapolation grades"):
        want_gamma(engine)


@pytest.mark.slow
def test_engines_agree(graded, training, tensorflow):
    """Both engines to 1e-7, where splines differ in the ninth digit."""
    from gracecli.engine.tensorflow import TensorFlowEngine

    structures = [training[0], training[-1], rattled("Cu", 1, 0.3, 5)[0]]
    pair = [gammas(e, structures) for e in (make_engine(graded[0]), TensorFlowEngine(graded[0], xla=False))]
    np.testing.assert_allclose(np.concatenate(pair[0]), np.concatenate(pair[1]), rtol=1e-7)
