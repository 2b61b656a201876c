"""Packing loses and invents nothing; few padded shapes serve many structures."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from gracecli.engine.base import Graph
from gracecli.engine.batch import PADDED_BOND, ROW_WIDTH, BatchShape, ShapeLadder, pack, required_shape
from gracecli.engine.neighbours import build_graph

INDEX = {z: (7 * z) % 97 for z in range(1, 97)}  # a model whose elements are in no particular order
CUTOFF = 6.0


def graphs_of_all_kinds():
    """A crystal, a molecule, an isolated atom, a slab, two atoms in a small cell."""
    alloy = bulk("Cu") * (2, 2, 2)
    alloy.numbers[::3] = 79
    slab = fcc111("Al", (2, 2, 3), vacuum=8.0)
    slab.pbc = (True, True, False)
    return [build_graph(a, CUTOFF) for a in (alloy, molecule("H2O"), Atoms("W"), slab, bulk("NaCl", "rocksalt", a=5.6))]


def bonds_of(batch, structure):
    """Bonds of one structure out of a batch, sorted: centre, neighbour, vector."""
    start, end = batch.atom_offset[structure : structure + 2]
    real = np.linalg.norm(batch.bond_vector, axis=2) < CUTOFF
    rows, columns = np.nonzero(real)
    centre = batch.row_centre[rows]
    mine = (centre >= start) & (centre < end)
    rows, columns = rows[mine], columns[mine]
    table = np.column_stack(
        [batch.row_centre[rows] - start, batch.neighbour[rows, columns] - start, batch.bond_vector[rows, columns]]
    )
    return table[np.lexsort(np.round(table, 9).T[::-1])]


@pytest.mark.parametrize("extra", [None, (0, 0, 0, 0), (13, 9, 3, 4)], ids=["smallest", "exact", "padded"])
def test_every_bond_is_packed_once(extra):
    graphs = graphs_of_all_kinds()
    needed = required_shape(graphs, slots=extra is not None)
    shape = None if extra is None else BatchShape(*(a + b for a, b in zip(needed, extra, strict=True)))
    batch = pack(graphs, INDEX, shape)
    assert batch.shape == (needed if shape is None else shape)
    total = 0
    for k, graph in enumerate(graphs):
        wanted = np.column_stack([graph.centre, graph.neighbour, graph.bond_vector])
        wanted = wanted[np.lexsort(np.round(wanted, 9).T[::-1])]
        assert np.array_equal(bonds_of(batch, k), wanted)
        total += len(wanted)
    padded = batch.bond_vector.reshape(-1, 3)[np.linalg.norm(batch.bond_vector, axis=2).ravel() >= CUTOFF]
    assert total + len(padded) == batch.shape.rows * ROW_WIDTH
    assert np.array_equal(padded, np.tile([PADDED_BOND, 0.0, 0.0], (len(padded), 1)))
    assert np.all(np.diff(batch.row_centre) >= 0)


def test_species_structures_and_slots():
    graphs = graphs_of_all_kinds()
    needed = required_shape(graphs, slots=True)
    assert needed.slots == 2
    assert needed.elements == 8  # Cu Au H O W Al Na Cl
    batch = pack(graphs, INDEX, BatchShape(needed.atoms + 5, needed.rows + 5, needed.elements + 2, 4))
    numbers = np.concatenate([g.numbers for g in graphs])
    n = len(numbers)
    wanted = [INDEX[int(z)] for z in numbers]
    assert batch.elements[batch.species[:n]].tolist() == wanted
    assert np.array_equal(batch.atom_mask, np.arange(n + 5) < n)
    assert np.array_equal(batch.structure[:n], np.repeat(np.arange(len(graphs)), [len(g) for g in graphs]))
    assert set(batch.structure[n:]) == {len(graphs)}
    assert batch.atom_offset.tolist() == np.cumsum([0, *(len(g) for g in graphs)]).tolist()
    assert np.array_equal(batch.volumes, [g.volume for g in graphs], equal_nan=True)
    # the slot of an atom leads back to its species, and all atoms of a structure share one list of slots
    assert np.array_equal(batch.slot_species[np.arange(n), batch.slot[:n]], batch.species[:n])
    for k in range(len(graphs)):
        own = batch.slot_species[batch.structure == k]
        assert (own == own[0]).all()
        assert set(own[0]) == set(batch.species[batch.structure == k])


def test_atoms_without_neighbours():
    graphs = [build_graph(Atoms("He"), CUTOFF), build_graph(Atoms("Ne"), CUTOFF)]
    batch = pack(graphs, INDEX)
    assert batch.shape == BatchShape(2, 1, 2)
    assert np.linalg.norm(batch.bond_vector, axis=2).min() == PADDED_BOND


def test_too_small_a_shape_is_refused():
    graphs = graphs_of_all_kinds()
    needed = required_shape(graphs)
    for k in range(3):
        small = BatchShape(*(v - (i == k) for i, v in enumerate(needed)))
        with pytest.raises(ValueError, match="cannot hold"):
            pack(graphs, INDEX, small)


def test_split_results_are_slopes_of_a_pair_energy():
    """Forces and stress of two structures in one batch from E = sum over bonds of exp(-r), against differences."""
    from gracecli.engine.tensorflow import split_results

    def evaluate(structures):
        graphs = [build_graph(a, CUTOFF) for a in structures]
        needed = required_shape(graphs)
        batch = pack(graphs, INDEX, needed._replace(atoms=needed.atoms + 2, rows=needed.rows + 3))
        r = np.linalg.norm(batch.bond_vector, axis=2)
        fade = np.where(r < CUTOFF, 1 - (r / CUTOFF) ** 2, 0.0)
        value = np.exp(-r) * fade**3
        slope = -np.exp(-r) * (fade**3 + fade**2 * 6 * r / CUTOFF**2)
        energies = np.bincount(batch.row_centre, value.sum(axis=1), minlength=len(batch.species))
        return split_results(batch, energies, (slope / r)[..., None] * batch.bond_vector)

    first = bulk("Cu") * (2, 1, 1)
    first.rattle(0.2, seed=1)
    second = Atoms("OH", [[0, 0, 0], [0.3, 0.1, 0.9]], cell=[4.0, 4.2, 4.4], pbc=True)
    h = 1e-4
    for k, atoms in enumerate((first, second)):

        def energy(displaced, k=k):
            pair = [first, second]
            pair[k] = displaced
            return evaluate(pair)[k].energy

        result = evaluate([first, second])[k]
        assert result.energies.sum() == pytest.approx(result.energy, rel=1e-14)
        assert len(result.forces) == len(atoms)
        for i in range(3):
            values = []
            for step in (h, -h):
                moved = atoms.copy()
                moved.positions[1, i] += step
                values.append(energy(moved))
            assert result.forces[1, i] == pytest.approx(-(values[0] - values[1]) / (2 * h), abs=1e-7)
        for voigt, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
            values = []
            for step in (h, -h):
                strain = np.eye(3)
                strain[i, j] += step / 2
                strain[j, i] += step / 2
                strained = atoms.copy()
                strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
                values.append(energy(strained))
            slope = (values[0] - values[1]) / (2 * h) / atoms.get_volume()
            assert result.stress[voigt] == pytest.approx(slope, abs=1e-8), (i, j)


def test_no_cell_no_stress():
    from gracecli.engine.tensorflow import split_results

    batch = pack([build_graph(molecule("H2O"), CUTOFF)], INDEX)
    (result,) = split_results(batch, np.zeros(3), np.zeros_like(batch.bond_vector))
    assert np.isnan(result.stress).all()
    assert not np.isnan(result.forces).any()


def test_shapes_compare_and_cost():
    shape = BatchShape(10, 20, 2)
    assert shape.holds(shape)
    assert not shape.holds(BatchShape(10, 21, 2))
    assert not shape.holds(BatchShape(10, 20, 2, 1))
    for k in range(3):
        larger = BatchShape(*(v + (i == k) for i, v in enumerate(shape)))
        assert larger.cost > shape.cost


def family(rng):
    """Twenty structures of 2 to 200 atoms: several elements, densities and lattices."""
    structures = []
    for size in rng.permutation(np.unique(np.geomspace(2, 200, 40).astype(int)))[:20]:
        symbols = rng.choice(["Li", "Si", "Ni", "Cu", "Ge", "Nb", "Mo", "Ta", "W"], rng.integers(1, 5), replace=False)
        volume = rng.uniform(10.0, 24.0) * size  # Å^3: from Ni to Ge
        shape = np.diag(rng.uniform(0.7, 1.4, 3))
        cell = shape * (volume / np.linalg.det(shape)) ** (1 / 3)
        atoms = Atoms(rng.choice(symbols, size), scaled_positions=rng.random((size, 3)), cell=cell, pbc=True)
        structures.append(atoms)
    return structures


@pytest.mark.parametrize(
    ("order", "planned"),
    [
        ("random", False),
        ("shrinking", False),
        pytest.param("growing", False, marks=pytest.mark.xfail(strict=True, reason="late rungs grow too little: 9")),
        ("growing", True),
    ],
)
def test_at_most_six_shapes_for_twenty_structures(order, planned):
    """Relaxations of 20 different structures in one process: atoms move and cells change on the way."""
    counts = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        structures = family(rng)
        if order != "random":
            structures.sort(key=len, reverse=order == "shrinking")
        ladder = ShapeLadder()
        if planned:
            ladder.plan([required_shape([build_graph(a, CUTOFF)]) for a in structures])
        for atoms in structures:
            for strain in (1.0, 0.985):
                moved = atoms.copy()
                moved.set_cell(atoms.cell * strain, scale_atoms=True)
                moved.rattle(0.1, rng=rng)
                needed = required_shape([build_graph(moved, CUTOFF)])
                assert ladder.choose(needed).holds(needed)
        counts.append(len(ladder))
    print(counts)
    assert max(counts) <= 6


def test_a_relaxation_stays_on_its_rung():
    """Neighbour counts that fluctuate by a few per cent find the same shape."""
    ladder = ShapeLadder()
    for rows in (100, 104, 97, 110, 100):
        ladder.choose(BatchShape(60, rows, 2))
    assert len(ladder) == 1


def test_small_structures_do_not_pay_for_large_ones():
    """After one structure of 2000 atoms, eight atoms get a shape of their own."""
    ladder = ShapeLadder()
    ladder.choose(BatchShape(2000, 8000, 2))
    assert ladder.choose(BatchShape(8, 40, 1)).cost < 100


def test_packing_keeps_the_graph_untouched():
    graph = Graph(
        numbers=np.array([6, 8], dtype=np.int32),
        centre=np.array([0, 1], dtype=np.int32),
        neighbour=np.array([1, 0], dtype=np.int32),
        bond_vector=np.array([[0.0, 0.0, 1.1], [0.0, 0.0, -1.1]]),
        volume=float("nan"),
    )
    copy = graph.bond_vector.copy()
    batch = pack([graph, graph], INDEX)
    assert np.array_equal(graph.bond_vector, copy)
    assert batch.neighbour[batch.row_centre == 2][0, 0] == 3
