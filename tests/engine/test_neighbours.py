"""Neighbour lists against a brute-force reference; reuse of a list never changes a bond."""

from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule

from gracecli.engine.base import Graph
from gracecli.engine.check import check_structure
from gracecli.engine.neighbours import NeighbourList, build_graph
from gracecli.errors import InputError

CUTOFF = 4.0
MASKS = list(product([False, True], repeat=3))


def brute_force(atoms, cutoff, matrix=None):
    """All bonds by going through every pair and every image that could matter; sorted rows (i, j, x, y, z)."""
    axes = np.flatnonzero(atoms.pbc)
    periodic = atoms.cell.array[axes]
    images = [0, 0, 0]
    if len(axes):
        inverse = np.linalg.pinv(periodic)  # (3, k): fractional coordinates along the periodic vectors
        spread = np.ptp(atoms.positions @ inverse, axis=0)
        reach = np.ceil(cutoff * np.linalg.norm(inverse, axis=0) + spread) + 1
        for axis, n in zip(axes, reach, strict=True):
            images[axis] = int(n)
    species = np.unique(atoms.numbers, return_inverse=True)[1]
    limits = np.full((len(atoms), len(atoms)), cutoff) if matrix is None else matrix[species[:, None], species]
    rows = []
    for shift in product(*(range(-n, n + 1) for n in images)):
        offset = np.array([shift[a] for a in axes]) @ periodic if len(axes) else np.zeros(3)
        vectors = atoms.positions[None, :] - atoms.positions[:, None] + offset
        bonded = np.linalg.norm(vectors, axis=2) < limits
        if shift == (0, 0, 0):
            np.fill_diagonal(bonded, False)
        rows += [(i, j, *vectors[i, j]) for i, j in np.argwhere(bonded)]
    return sort_rows(np.array(rows).reshape(-1, 5))


def rows_of(graph: Graph):
    return sort_rows(np.column_stack([graph.centre, graph.neighbour, graph.bond_vector]))


def sort_rows(rows):
    return rows[np.lexsort(np.round(rows, 6).T[::-1])]


def assert_is_complete(atoms, graph, cutoff=CUTOFF, matrix=None):
    np.testing.assert_allclose(rows_of(graph), brute_force(atoms, cutoff, matrix), atol=1e-10)
    assert np.all(np.diff(graph.centre) >= 0)
    assert graph.centre.dtype == graph.neighbour.dtype == graph.numbers.dtype == np.int32


def assert_same(first: Graph, second: Graph):
    """Equal to the last bit, order included."""
    for name in ("numbers", "centre", "neighbour", "bond_vector", "volume"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def random_cell(rng, kind):
    cell = np.diag(rng.uniform(3.0, 6.0, 3))
    if kind != "orthogonal":
        cell += rng.normal(scale=1.2, size=(3, 3))
    if kind == "left-handed":
        cell = cell if np.linalg.det(cell) < 0 else cell[[1, 0, 2]]
    if kind == "small":
        cell *= 0.4
    return cell


@pytest.mark.parametrize("pbc", MASKS)
@pytest.mark.parametrize("kind", ["orthogonal", "triclinic", "left-handed", "small"])
def test_random_cells_match_brute_force(kind, pbc):
    rng = np.random.default_rng([*map(int, pbc), len(kind)])
    cell = random_cell(rng, kind)
    count = 2 if kind == "small" else 4
    inside = Atoms(numbers=[14] * count, scaled_positions=rng.random((count, 3)), cell=cell, pbc=pbc)
    assert_is_complete(inside, build_graph(inside, CUTOFF))


@pytest.mark.parametrize("pbc", MASKS)
def test_atoms_outside_the_cell_need_no_wrapping(pbc):
    rng = np.random.default_rng(5)
    atoms = Atoms("Si4", positions=rng.normal(scale=6.0, size=(4, 3)), cell=random_cell(rng, "triclinic"), pbc=pbc)
    assert_is_complete(atoms, build_graph(atoms, CUTOFF))


def test_bonds_do_not_depend_on_which_image_an_atom_is_given_as():
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=0)
    moved = atoms.copy()
    moved.positions += np.random.default_rng(0).integers(-30, 31, size=(8, 3)) @ atoms.cell.array
    np.testing.assert_allclose(rows_of(build_graph(moved, CUTOFF)), rows_of(build_graph(atoms, CUTOFF)), atol=1e-11)


@pytest.mark.parametrize("pbc", MASKS[:-1])
def test_zero_cell_vectors_along_open_directions(pbc):
    rng = np.random.default_rng(6)
    cell = random_cell(rng, "triclinic")
    cell[~np.array(pbc)] = 0.0
    atoms = Atoms("Si4", positions=rng.normal(scale=3.0, size=(4, 3)), cell=cell, pbc=pbc)
    graph = build_graph(atoms, CUTOFF)
    assert_is_complete(atoms, graph)
    assert np.isnan(graph.volume)


def test_open_direction_may_have_a_cell_vector_in_the_plane_of_the_others():
    atoms = Atoms("Si2", positions=[[0, 0, 0], [1, 1, 1]], cell=[[3, 0, 0], [0, 3.5, 0], [2, 2, 0]], pbc=[1, 1, 0])
    graph = build_graph(atoms, CUTOFF)
    assert_is_complete(atoms, graph)
    assert np.isnan(graph.volume)


@pytest.mark.parametrize("pbc", MASKS)
def test_one_atom_bonds_to_its_own_images(pbc):
    atoms = Atoms("Si", positions=[[0.3, -7.0, 2.0]], cell=np.diag([2.0, 2.5, 3.0]), pbc=pbc)
    graph = build_graph(atoms, CUTOFF)
    assert_is_complete(atoms, graph)
    assert len(graph.centre) > 0 or not any(pbc)


def test_isolated_atoms_have_no_bonds():
    pair = Atoms("Si2", positions=[[0, 0, 0], [CUTOFF, 0, 0]])
    for atoms in (Atoms("Si"), pair, Atoms("Si", cell=[50] * 3, pbc=True)):
        graph = build_graph(atoms, CUTOFF)
        assert graph.bond_vector.shape == (0, 3)
        assert len(graph.centre) == 0
        assert len(graph) == len(atoms)


@pytest.mark.parametrize(
    "atoms",
    [molecule("C6H6"), fcc111("Cu", (2, 2, 3), vacuum=8.0), graphene(vacuum=None)],
    ids=["benzene", "slab", "sheet"],
)
def test_everyday_partly_periodic_structures(atoms):
    assert_is_complete(atoms, build_graph(atoms, CUTOFF))


def test_the_cutoff_itself_is_no_bond():
    # |n| < 2: 6 + 12 + 8 lattice vectors; |n| = 2 adds 6
    primitive = Atoms("Po", positions=[[0.1, 0.7, 0.3]], cell=np.eye(3) * 3.0, pbc=True)
    assert len(build_graph(primitive, 6.0).centre) == 26
    assert len(build_graph(primitive, np.nextafter(6.0, 7.0)).centre) == 32


def test_both_directions_of_a_bond_are_exact_opposites():
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.positions += 1234.5678
    graph = build_graph(atoms, CUTOFF)
    forward = {(i, j, *v) for i, j, v in zip(graph.centre, graph.neighbour, graph.bond_vector.tolist(), strict=True)}
    assert forward == {(j, i, -x, -y, -z) for i, j, x, y, z in forward}


def test_order_of_bonds_is_fixed_by_the_structure_alone():
    atoms = bulk("Si").repeat(3)
    atoms.rattle(0.05, seed=3)
    graph = build_graph(atoms, CUTOFF)
    pairs = graph.centre.astype(int) * len(atoms) + graph.neighbour
    assert np.all(np.diff(pairs) >= 0)
    assert_same(graph, build_graph(atoms, CUTOFF))


def test_no_atoms_no_bonds():
    neighbours = NeighbourList(CUTOFF, 0.5)
    for pbc in (True, True, False):
        graph = neighbours.graph(Atoms(cell=[5, 5, 5], pbc=pbc))
        assert len(graph) == len(graph.centre) == 0


def test_volume_of_a_left_handed_cell_is_positive():
    cell = np.array([[0, 3.0, 0], [3.0, 0, 0], [0, 0, 3.0]])
    assert build_graph(Atoms("Si", cell=cell, pbc=True), CUTOFF).volume == pytest.approx(27.0)
    assert build_graph(Atoms("Si", cell=cell), CUTOFF).volume == pytest.approx(27.0)


@pytest.mark.parametrize("shape", [(4000.0, 4000.0, 4.0), (4.0, 2e4, 2e4), (1e5, 1e5, 1e5), (1e6, 4.0, 4.0)])
@pytest.mark.parametrize("pbc", [False, True])
def test_vast_and_nearly_empty_boxes(shape, pbc):
    """Shapes with which vesin alone ends the process (SIGFPE)."""
    rng = np.random.default_rng(7)
    cluster = rng.random((3, 3)) * 3.0
    far = np.where(np.array(shape) > 10.0, 0.5, 0.0) * shape * 0.9
    atoms = Atoms("Si6", positions=np.concatenate([cluster, cluster + far]), cell=np.diag(shape), pbc=pbc)
    first = {tuple(row) for row in rows_of(build_graph(atoms, CUTOFF))[:, :2]}
    assert {(0, 1), (1, 2), (3, 4), (5, 3)} <= first
    assert not any((i < 3) != (j < 3) for i, j in first)


# --- pair cutoffs ----------------------------------------------------------------------------------------


def test_pair_cutoffs_by_sorted_element():
    rng = np.random.default_rng(8)
    matrix = np.array([[2.0, 2.5, 0.0], [3.0, 3.5, 3.9], [1.0, 2.2, 4.0]])
    numbers = [74, 3, 28, 28, 3, 74]
    atoms = Atoms(numbers=numbers, positions=rng.random((6, 3)) * 4, cell=random_cell(rng, "triclinic"), pbc=True)
    graph = build_graph(atoms, CUTOFF, matrix)
    assert_is_complete(atoms, graph, matrix=matrix)
    assert_same(graph, build_graph(atoms, CUTOFF, lambda z: matrix))
    assert_same(build_graph(atoms, CUTOFF), build_graph(atoms, CUTOFF, lambda z: None))
    assert_same(build_graph(atoms, CUTOFF), build_graph(atoms, CUTOFF, np.full((3, 3), 99.0)))


def test_pair_cutoff_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match="2 x 2"):
        build_graph(Atoms("SiGe", positions=[[0, 0, 0], [0, 0, 2]]), CUTOFF, np.eye(3))


# --- reuse -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair_cutoff", [None, np.array([[2.7, 3.9], [3.9, 3.1]])], ids=["one cutoff", "pair cutoffs"])
@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 0)])
def test_reused_list_equals_a_fresh_one(pbc, pair_cutoff):
    """Random walk of atoms and cell."""
    rng = np.random.default_rng(sum(pbc))
    atoms = bulk("NaCl", "rocksalt", 4.2, cubic=True).repeat((2, 1, 1))
    atoms.pbc = pbc
    neighbours = NeighbourList(CUTOFF, 0.6, pair_cutoff)
    for step in range(100):
        assert_same(neighbours.graph(atoms), build_graph(atoms, CUTOFF, pair_cutoff))
        atoms.positions += rng.normal(scale=0.02, size=(len(atoms), 3)) + 0.05
        if step % 3 == 0:
            strain = np.eye(3) + rng.normal(scale=0.004, size=(3, 3))
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=step % 2 == 0)
    assert 2 <= neighbours.rebuilds < 0.5 * neighbours.calls


# mean deformation, cutoff of the pair, cutoff of the atoms with their own images
EDGES = {
    "fixed cell": (None, CUTOFF, None),
    "strained": (1.0, CUTOFF, None),
    "longest of the pair cutoffs, contracted": (0.97, CUTOFF, 1.0),
    "shortest of the pair cutoffs, expanded": (1.1, 2.0, CUTOFF),
}


def pair_at_the_edge(rng, case, beyond):
    """Two atoms just outside the stored list, and the worst later structure: closer by the whole slack plus ``beyond``.

    The pair lies along the most contracted direction of a random deformation, and both atoms approach along it.
    """
    stretch, cutoff, own_cutoff = EDGES[case]
    skin, outside = 0.5, 1e-6
    matrix = None if own_cutoff is None else np.array([[own_cutoff, cutoff], [cutoff, own_cutoff]])
    deformation = np.eye(3) if stretch is None else np.eye(3) * stretch + rng.normal(scale=0.01, size=(3, 3))
    left, stretches, _ = np.linalg.svd(deformation)  # x -> x F: left singular vectors are the reference directions
    direction, smallest = left[:, -1], stretches[-1]
    ends = [[0, 0, 0], direction * (cutoff + skin + outside)]
    reference = Atoms("SiGe", positions=ends, cell=np.eye(3) * 20, pbc=True)
    reference.positions += rng.random(3) * 20
    slack = smallest * (cutoff + skin) - cutoff
    later = reference.copy()
    later.set_cell(reference.cell.array @ deformation, scale_atoms=True)
    closer = direction @ deformation / np.linalg.norm(direction @ deformation) * (slack + beyond)
    share = rng.random()  # who moves how much does not matter: a common translation is no approach
    later.positions += np.array([closer * share, -closer * (1 - share)]) + rng.normal(size=3)
    return NeighbourList(CUTOFF, skin, matrix), reference, later, build_graph(later, CUTOFF, matrix)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("case", EDGES)
def test_list_is_kept_up_to_the_edge_of_the_criterion_and_not_beyond(case, seed):
    rng = np.random.default_rng(seed)
    neighbours, reference, later, fresh = pair_at_the_edge(rng, case, beyond=-1e-6)
    neighbours.graph(reference)
    assert_same(neighbours.graph(later), fresh)
    assert neighbours.rebuilds == 1

    neighbours, reference, later, fresh = pair_at_the_edge(rng, case, beyond=+3e-6)
    assert len(neighbours.graph(reference).centre) == 0
    assert len(fresh.centre) == 2, "the case must be one where the old list misses a bond"
    assert_same(neighbours.graph(later), fresh)
    assert neighbours.rebuilds == 2


def test_rotation_translation_and_expansion_keep_the_list():
    atoms = bulk("Si", cubic=True)
    neighbours = NeighbourList(CUTOFF, 0.5)
    neighbours.graph(atoms)
    atoms.rotate(70, (1, 2, 3), rotate_cell=True)
    atoms.positions += 17.0
    atoms.set_cell(atoms.cell.array * 1.05, scale_atoms=True)
    neighbours.graph(atoms)
    assert neighbours.rebuilds == 1
    atoms.set_cell(atoms.cell.array * 0.8, scale_atoms=True)
    assert_same(neighbours.graph(atoms), build_graph(atoms, CUTOFF))
    assert neighbours.rebuilds == 2


def test_wrapped_atoms_are_noticed():
    atoms = bulk("Si", cubic=True)
    atoms.positions -= 0.01
    neighbours = NeighbourList(CUTOFF, 0.5)
    neighbours.graph(atoms)
    atoms.wrap()
    assert_same(neighbours.graph(atoms), build_graph(atoms, CUTOFF))
    assert neighbours.rebuilds == 2


def test_other_elements_periodicity_or_number_of_atoms_make_a_new_list():
    atoms = bulk("Si", cubic=True)
    matrix = {14: np.array([[3.0]]), 32: np.array([[4.0]])}
    neighbours = NeighbourList(CUTOFF, 0.5, lambda z: matrix[int(z[0])])
    changes = [
        lambda: atoms.set_atomic_numbers([32] * 8),
        lambda: atoms.set_pbc([True, True, False]),
        lambda: atoms.pop(),
    ]
    for done, change in enumerate([lambda: None, *changes], start=1):
        change()
        expected = build_graph(atoms, CUTOFF, matrix[int(atoms.numbers[0])])
        assert_same(neighbours.graph(atoms), expected)
        assert neighbours.rebuilds == done


def test_graph_does_not_change_when_the_structure_moves_on():
    atoms = bulk("Si", cubic=True)
    neighbours = NeighbourList(CUTOFF, 0.5)
    graph = neighbours.graph(atoms)
    before = graph.bond_vector.copy()
    atoms.rattle(0.01, seed=0)
    neighbours.graph(atoms)
    np.testing.assert_array_equal(graph.bond_vector, before)


# --- structures that cannot be used ----------------------------------------------------------------------


def test_periodic_along_a_missing_cell_vector():
    for cell in (np.diag([3.0, 3.0, 0.0]), [[3, 0, 0], [0, 3, 0], [3, 3, 0]], np.zeros((3, 3))):
        with pytest.raises(InputError, match="periodic along a b c"):
            build_graph(Atoms("Si", cell=cell, pbc=True), CUTOFF)
    with pytest.raises(InputError, match="periodic along a b,"):
        build_graph(Atoms("Si", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]], pbc=[1, 1, 0]), CUTOFF)


@pytest.mark.parametrize("pbc", [True, False])
def test_cell_that_is_not_finite(pbc):
    atoms = Atoms("Si2", positions=[[0, 0, 0], [0, 0, 2]], cell=[[np.nan, 0, 0], [0, 9, 0], [0, 0, 9]], pbc=pbc)
    for use in (lambda: build_graph(atoms, CUTOFF), lambda: check_structure(atoms)):
        with pytest.raises(InputError, match="cell is not finite"):
            use()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9])
def test_positions_out_of_this_world_name_the_atom(bad):
    atoms = Atoms("SiGe", positions=[[0, 0, 0], [0, bad, 0]])
    for use in (lambda: build_graph(atoms, CUTOFF), lambda: check_structure(atoms)):
        with pytest.raises(InputError, match=r"atom 2 \(Ge\)"):
            use()


def test_positions_that_become_nan_in_a_run_are_noticed():
    atoms = bulk("Si", cubic=True)
    neighbours = NeighbourList(CUTOFF, 0.5)
    neighbours.graph(atoms)
    atoms.positions[3, 1] = np.nan
    with pytest.raises(InputError, match=r"atom 4 \(Si\)"):
        neighbours.graph(atoms)


def test_check_names_the_closest_two_atoms():
    atoms = Atoms("SiGeSi", positions=[[0, 0, 0], [2, 0, 0], [2, 0, 0.12]])
    with pytest.raises(InputError, match=r"atoms 2 \(Ge\) and 3 \(Si\) are 0\.12 Å apart"):
        check_structure(atoms)
    check_structure(atoms, min_distance=0.1)


def test_check_finds_overlaps_across_the_boundary_and_with_images():
    wrapped = Atoms("CO", positions=[[0.05, 1, 1], [4.95, 1, 1]], cell=[5, 5, 5], pbc=True)
    with pytest.raises(InputError, match=r"atoms 1 \(C\) and 2 \(O\) are 0\.1 Å apart"):
        check_structure(wrapped)
    wrapped.pbc = False
    check_structure(wrapped)
    with pytest.raises(InputError, match=r"atom 1 \(C\) and its periodic image are 0\.2 Å apart"):
        check_structure(Atoms("C", cell=[0.2, 9, 9], pbc=True))


def test_check_of_a_collapsed_cell_is_immediate():
    with pytest.raises(InputError, match=r"Å\^3 per atom"):
        check_structure(Atoms("C", cell=[[5, 0, 0], [5, 1e-4, 0], [0, 0, 5]], pbc=True))


def test_check_of_an_empty_structure():
    with pytest.raises(InputError, match="no atoms"):
        check_structure(Atoms(cell=[1, 1, 1], pbc=True))


def test_check_names_elements_not_covered_and_who_covers_them():
    atoms = Atoms("SiFeO", positions=np.eye(3) * 2)
    with pytest.raises(InputError, match="does not cover Fe, O; it covers Si, Ge"):
        check_structure(atoms, ["Si", "Ge"])
    asked = []
    with pytest.raises(InputError, match="models that cover Fe, O, Si: GRACE-1L, GRACE-2L"):
        check_structure(atoms, ["Si"], models_covering=lambda e: asked.append(list(e)) or ["GRACE-1L", "GRACE-2L"])
    assert asked == [["Fe", "O", "Si"]]
    check_structure(atoms, ["O", "Fe", "Si"])
