"""The compiled bond filter gives the bonds of the one in NumPy, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from grace_native.engine import NativeEngine
from native_models import read

from gracecli.engine.neighbours import NeighbourList, build_graph


def random_structure(count: int, length: float, pbc: Any, seed: int) -> Atoms:
    rng = np.random.default_rng(seed)
    cell = length * (np.eye(3) + 0.2 * rng.normal(size=(3, 3)))
    return Atoms(
        numbers=[14, 32] * (count // 2), positions=rng.uniform(-0.5, 1.5, (count, 3)) @ cell, cell=cell, pbc=pbc
    )


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("pairs", [None, np.array([[3.0, 4.5], [4.5, 5.5]])])
@pytest.mark.parametrize(
    ("count", "length", "pbc"), [(40, 9.0, True), (1500, 28.0, (True, False, True)), (2, 3.0, True)]
)
def test_same_bonds_to_the_bit(threads: int, pairs: Any, count: int, length: float, pbc: Any) -> None:
    compiled = NativeEngine(read("1l"), threads=threads).bond_filter
    atoms = random_structure(count, length, pbc, seed=count)
    lists = [NeighbourList(5.5, 0.5, pairs, f) for f in (None, compiled)]
    rng = np.random.default_rng(1)
    for _ in range(4):
        plain, native = (neighbours.graph(atoms) for neighbours in lists)
        assert len(plain.centre) == len(native.centre) > 0
        for name in ("centre", "neighbour", "bond_vector"):
            assert np.array_equal(getattr(plain, name), getattr(native, name)), name
        assert np.array_equal(native.first, np.searchsorted(plain.centre, np.arange(count + 1)))
        assert native.shortest == pytest.approx(np.linalg.norm(plain.bond_vector, axis=1).min(), rel=1e-15)
        atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
        atoms.set_cell(atoms.cell.array * (1 + rng.normal(0, 0.002)), scale_atoms=True)
    assert lists[0].rebuilds == lists[1].rebuilds


def test_no_bonds_at_all() -> None:
    native = NativeEngine(read("1l"), threads=2)
    graph = build_graph(Atoms("Si2", positions=[[0, 0, 0], [30, 0, 0]]), 5.5, None, native.bond_filter)
    assert len(graph.centre) == 0
    assert graph.shortest == np.inf
    assert graph.first is not None
    assert graph.first.tolist() == [0, 0, 0]
