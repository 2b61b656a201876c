"""What every interatomic potential must obey, for each architecture with random weights."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from scipy.spatial.transform import Rotation

from gracecli.engine.batch import BatchShape, pack, required_shape
from gracecli.engine.neighbours import build_graph

CUTOFF = 4.0  # of the small models, Å
ELEMENTS = np.array([13, 29, 28])  # Al Cu Ni
FAST = ["fs", "1l", "2l", "3l"]
ALL = [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in ("1l-first", "2l-first"))]


@pytest.fixture(params=ALL, scope="module")
def model(request, small_models):
    return small_models(request.param)


def crystal(seed=0, n=8, pbc=True):
    """Disordered triclinic crystal of three elements, no two atoms closer than 1.9 Å, some outside the cell."""
    rng = np.random.default_rng(seed)
    cell = np.array([[5.2, 0.3, -0.2], [0.5, 5.0, 0.4], [-0.3, 0.2, 5.4]])
    positions = []
    while len(positions) < n:
        trial = rng.random(3) @ cell
        others = positions and Atoms(f"H{len(positions)}", positions=positions, cell=cell, pbc=True)
        if not positions or (others + Atoms("H", positions=[trial])).get_all_distances(mic=True)[-1][:-1].min() > 1.9:
            positions.append(trial)
    atoms = Atoms(numbers=rng.choice(ELEMENTS, n), positions=positions, cell=cell, pbc=pbc)
    atoms.numbers[:3] = ELEMENTS
    return atoms


def assert_same(a, b, tolerance=1e-11):
    assert a.energy == pytest.approx(b.energy, abs=tolerance)
    assert np.abs(a.energies - b.energies).max() < tolerance
    assert np.abs(a.forces - b.forces).max() < tolerance


def full(stress):
    """Voigt order xx yy zz yz xz xy to a matrix."""
    xx, yy, zz, yz, xz, xy = stress
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def test_the_models_are_not_trivial(model):
    """Forces of the order of 1 eV/Å and a stress: everything below could fail."""
    result = model(crystal())
    assert 0.1 < np.abs(result.forces).max() < 100
    assert np.abs(result.stress).max() > 1e-3
    assert np.ptp(result.energies) > 0.1


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "rotation and inversion"])
def test_rotation(model, improper):
    atoms = crystal(1)
    turn = Rotation.random(rng=np.random.default_rng(3)).as_matrix() * (-1.0 if improper else 1.0)
    turned = atoms.copy()
    turned.cell = atoms.cell.array @ turn.T
    turned.positions = atoms.positions @ turn.T
    a, b = model(atoms), model(turned)
    # the published bond length sqrt(r^2 + 1e-10 Å^2) makes directions unit vectors up to 1e-11 only
    assert np.abs(a.energies - b.energies).max() < 1e-10
    assert np.abs(a.forces @ turn.T - b.forces).max() < 1e-9
    assert np.abs(turn @ full(a.stress) @ turn.T - full(b.stress)).max() < 1e-10


def test_translation_and_atoms_outside_the_cell(model):
    atoms = crystal(2)
    a = model(atoms)
    moved = atoms.copy()
    moved.positions += [17.3, -4.1, 0.77]
    assert_same(a, model(moved))
    images = np.random.default_rng(1).integers(-3, 4, (len(atoms), 3))
    moved.positions = atoms.positions + images @ atoms.cell.array
    assert_same(a, model(moved))
    assert np.abs(a.forces.sum(axis=0)).max() < 1e-11


def test_permutation(model):
    atoms = crystal(3)
    order = np.random.default_rng(2).permutation(len(atoms))
    a, b = model(atoms), model(atoms[order])
    assert np.abs(a.energies[order] - b.energies).max() < 1e-11
    assert np.abs(a.forces[order] - b.forces).max() < 1e-11


def slope(function, step=2e-3):
    """Central differences of order six (Richardson twice)."""
    d = [(function(h) - function(-h)) / (2 * h) for h in (step, step / 2, step / 4)]
    e = [(4 * d[1] - d[0]) / 3, (4 * d[2] - d[1]) / 3]
    return (16 * e[1] - e[0]) / 15


def test_forces_are_the_slope_of_the_energy(model):
    atoms = crystal(4)
    forces = model(atoms).forces
    rng = np.random.default_rng(4)
    for _ in range(4):
        direction = rng.standard_normal((len(atoms), 3))
        direction /= np.linalg.norm(direction)

        def moved(h, direction=direction):
            shifted = atoms.copy()
            shifted.positions += h * direction
            return model.energy(shifted)

        assert slope(moved) == pytest.approx(-np.sum(forces * direction), rel=1e-7, abs=1e-8)


def test_stress_is_the_slope_of_the_energy(model):
    atoms = crystal(5)
    stress = full(model(atoms).stress)
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):

        def strained(h, i=i, j=j):
            strain = np.eye(3)
            strain[i, j] += h / 2
            strain[j, i] += h / 2
            deformed = atoms.copy()
            deformed.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            return model.energy(deformed)

        wanted = slope(strained, 1e-3) / atoms.get_volume()
        assert stress[i, j] == pytest.approx(wanted, rel=1e-6, abs=1e-9), (i, j)


def test_energy_and_forces_are_continuous_at_the_cutoff(model):
    """An atom of a cluster leaves the reach of another one."""

    def cluster(x):
        return Atoms("AlCuNiAl", [[0, 0, 0], [0.4, 2.2, 0.1], [1.9, -1.1, 0.8], [x, 0, 0]])

    inside, outside = model(cluster(CUTOFF - 0.8)), model(cluster(CUTOFF + 0.01))
    assert abs(inside.energy - outside.energy) > 1e-3  # the bond matters
    jumps = []
    for delta in (1e-3, 1e-4, 1e-5):
        near, far = model(cluster(CUTOFF - delta)), model(cluster(CUTOFF + delta))
        slope_far = -far.forces[3, 0]
        jumps.append((abs(far.energy - near.energy - 2 * delta * slope_far), np.abs(far.forces - near.forces).max()))
    (e3, f3), (e4, f4), (e5, f5) = jumps
    # a step in the value or in the slope would not shrink with delta; a finite slope of the force does, linearly
    assert f4 < 0.11 * f3 + 1e-12
    assert f5 < 0.11 * f4 + 1e-12
    assert e4 < 0.02 * e3 + 1e-13
    assert e5 < 1e-9
    assert f5 < 1e-4 * max(1.0, np.abs(far.forces).max())


def test_atoms_out_of_reach_are_isolated(model):
    alone = [model(Atoms(symbol)) for symbol in ("Al", "Ni")]
    for result in alone:
        assert np.abs(result.forces).max() == 0.0
        assert np.isnan(result.stress).all()  # no cell
        assert np.isfinite(result.energy)
    pair = model(Atoms("AlNi", [[0, 0, 0], [0, 0, CUTOFF + 1e-9]]))
    assert pair.energy == pytest.approx(alone[0].energy + alone[1].energy, abs=1e-12)
    # coming together, the pair starts from there
    close = model(Atoms("AlNi", [[0, 0, 0], [0, 0, CUTOFF - 1e-4]]))
    assert close.energy == pytest.approx(pair.energy, abs=1e-5)
    crystal_of_one = model(Atoms("Al", cell=[9, 9, 9], pbc=True))
    assert crystal_of_one.energy == pytest.approx(alone[0].energy, abs=1e-12)
    assert np.abs(crystal_of_one.stress).max() == 0.0


def test_energy_of_an_isolated_atom_is_its_shift(small_models):
    """Where nothing but the shifts is left: the values of the blueprint."""
    for symbol, shift in (("Al", -1.5), ("Cu", 0.5), ("Ni", -3.0)):
        assert small_models("1l")(Atoms(symbol)).energy == pytest.approx(shift, abs=1e-12)
        assert small_models("fs")(Atoms(symbol)).energy == pytest.approx(shift, abs=1e-12)


@pytest.mark.parametrize("pbc", [(True, True, False), (False, True, False), (False, False, False)])
def test_mixed_periodicity_equals_a_cell_with_vacuum(model, pbc):
    """Open directions behave as if the images were out of reach."""
    atoms = crystal(6)
    atoms.pbc = pbc
    vacuum = atoms.copy()
    for axis in np.flatnonzero(~np.array(pbc)):
        vacuum.cell[axis] *= 4.0
    vacuum.pbc = True
    assert_same(model(atoms), model(vacuum))


def test_cell_smaller_than_the_cutoff_equals_its_supercell(model):
    """One atom sees dozens of its own images."""
    cell = bulk("Al", "bcc", a=2.9)
    cell = cell + Atoms("Ni", [[1.3, 1.5, 0.1]])
    assert np.linalg.norm(cell.cell.array, axis=1).max() < CUTOFF
    supercell = cell * (2, 2, 2)
    a, b = model(cell), model(supercell)
    assert b.energy == pytest.approx(8 * a.energy, abs=1e-10)
    assert np.abs(np.tile(a.forces, (8, 1)) - b.forces).max() < 1e-10
    assert np.abs(a.stress - b.stress).max() < 1e-12


def test_a_batch_equals_one_at_a_time(model):
    structures = [crystal(7), Atoms("Ni"), crystal(8, 6), Atoms("CuAl", [[0, 0, 0], [0, 1.2, 2.0]])]
    together = model.together(structures)
    for atoms, result in zip(structures, together, strict=True):
        alone = model(atoms)
        assert_same(alone, result)
        assert np.allclose(alone.stress, result.stress, rtol=0, atol=1e-13, equal_nan=True)


@pytest.mark.parametrize("name", ["fs", "1l", "2l", pytest.param("3l", marks=pytest.mark.slow)])
def test_padding_changes_nothing(small_models, name, tensorflow):
    """Any shape that holds the batch gives the same numbers."""
    from gracecli.engine.tensorflow import split_results
    from gracecli.model.network import batch_tensors

    model = small_models(name)
    graphs = [build_graph(a, CUTOFF) for a in (crystal(9, 5), Atoms("Ni"), bulk("Cu"))]
    index = {13: 0, 29: 1, 28: 2}
    smallest = required_shape(graphs)
    shapes = [smallest, BatchShape(smallest.atoms + 1, smallest.rows + 30, 8), smallest._replace(slots=4)]
    outcomes = []
    for shape in shapes:
        batch = pack(graphs, index, shape)
        energies, gradient = model.engine.network.energies_and_pair_gradients(batch_tensors(batch))
        assert np.all(energies.numpy()[smallest.atoms :] == 0.0)
        assert np.isfinite(gradient).all()
        outcomes.append(split_results(batch, energies.numpy(), gradient.numpy()))
    for other in outcomes[1:]:
        for a, b in zip(outcomes[0], other, strict=True):
            assert_same(a, b, 1e-12)


@pytest.mark.parametrize("name", ["1l", "2l"])
def test_single_precision_is_close(small_models, tensorflow, name):
    from gracecli.engine.tensorflow import split_results
    from gracecli.model.network import Network, batch_tensors

    model = small_models(name)
    atoms = crystal(10)
    wanted = model(atoms)
    batch = pack([build_graph(atoms, CUTOFF)], {13: 0, 29: 1, 28: 2})
    network = Network(model.model.blueprint, model.model.weights, "float32")
    energies, gradient = network.energies_and_pair_gradients(batch_tensors(batch))
    assert energies.dtype == gradient.dtype == tensorflow.float64
    (got,) = split_results(batch, energies.numpy(), gradient.numpy())
    assert 0.0 < np.abs(got.energies - wanted.energies).max() < 1e-4
    assert np.abs(got.forces - wanted.forces).max() < 1e-4


def test_two_elements_far_apart_in_the_table(new_model, tensorflow):
    """H and Ac in a model of 89 elements: the same numbers as the model of these two alone."""
    from ase.data import atomic_numbers, chemical_symbols

    from gracecli.model.network import Network, batch_tensors

    big = new_model("1l", elements=chemical_symbols[1:90], element_shifts=tuple(0.1 * k for k in range(89)))
    assert big.elements == tuple(sorted(chemical_symbols[1:90]))
    rows = [big.elements.index(e) for e in ("Ac", "H")]
    # shifts are in the order in which elements are given: by number above, alphabetical here
    shifts = tuple(0.1 * (atomic_numbers[e] - 1) for e in ("Ac", "H"))
    small = new_model("1l", elements=("Ac", "H"), element_shifts=shifts)
    weights = {k: v[rows] if v.shape[:1] == (89,) else v for k, v in big.weights.items()}
    assert {k: v.shape for k, v in weights.items()} == {k: np.shape(v) for k, v in small.weights.items()}
    atoms = bulk("H", "bcc", a=3.1) * (2, 2, 1)
    atoms.numbers[1] = atomic_numbers["Ac"]
    atoms.rattle(0.1, seed=1)
    graph = build_graph(atoms, CUTOFF)
    found = []
    for blueprint, values in ((big.blueprint, big.weights), (small.blueprint, weights)):
        network = Network(blueprint, values)
        index = {atomic_numbers[e]: i for i, e in enumerate(blueprint.elements)}
        shape = required_shape([graph])._replace(elements=4)
        found.append(network.energies_and_pair_gradients(batch_tensors(pack([graph], index, shape))))
    assert np.abs(found[0][0] - found[1][0]).max() < 1e-13
    assert np.abs(found[0][1] - found[1][1]).max() < 1e-13
    energies = found[0][0].numpy()
    assert abs(energies[0] - energies[1]) > 1e-3
