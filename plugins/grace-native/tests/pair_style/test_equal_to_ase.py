"""LAMMPS on any number of ranks finds what GraceCalculator finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from lammps_runs import evaluate, in_lammps_frame, reference
from native_models import DATA

TOLERANCE = 1e-9  # of the largest value


def potential(program: Path, elements: str = "Al Cu", options: str = "") -> str:
    return f"pair_style grace {options}\npair_coeff * * {program} {elements}"


def assert_equal(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    assert found.energy == pytest.approx(expected.energy, rel=tolerance)
    assert np.abs(found.energies - expected.energies).max() < tolerance * np.abs(expected.energies).max()
    # forces in relation to what a bond carries, where they cancel
    assert np.abs(found.forces - expected.forces).max() < tolerance * max(np.abs(expected.forces).max(), 1.0)
    if not np.isnan(expected.stress).any():
        assert np.abs(found.stress - expected.stress).max() < tolerance * np.abs(expected.stress).max()


def rattled(kind: str) -> Atoms:
    """Mixed species, far from any symmetry."""
    cell = bulk("Al", cubic=True, a=3.9).repeat((3, 3, 4))
    random = np.random.default_rng(5)
    cell.symbols[random.random(len(cell)) < 0.5] = "Cu"
    cell.positions += random.normal(scale=0.15, size=cell.positions.shape)
    if kind == "triclinic":
        strain = np.array([[0.02, 0, 0], [0.18, -0.03, 0], [-0.11, 0.23, 0.01]])
        cell.set_cell(cell.cell @ (np.eye(3) + strain), scale_atoms=True)
    return cell


GRIDS = [(1, "1 1 1"), (2, "2 1 1"), (2, "1 2 1"), (2, "1 1 2"), (4, "2 2 1"), (4, "1 2 2"), (4, "2 1 2"), (4, "1 1 4")]


@pytest.mark.parametrize(("name", "ranks", "grid"), [("1l", 1, "1 1 1"), ("2l", 2, "1 2 1"), ("3l", 4, "1 2 2")])
def test_ranks(name: str, ranks: int, grid: str, plugin: Path, programs: Any, tmp_path: Path) -> None:
    atoms = rattled("triclinic")
    assert_equal(
        evaluate(tmp_path, atoms, potential(programs(name)), plugin, ranks, grid),
        reference(DATA / f"{name}.grace", atoms),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["orthogonal", "triclinic"])
@pytest.mark.parametrize("name", ["fs", "1l", "1l-pairs", "2l", "2l-first", "3l"])
@pytest.mark.parametrize(("ranks", "grid"), [(1, "1 1 1"), (2, "1 1 2"), (4, "1 2 2")])
def test_models_on_ranks(
    name: str, ranks: int, grid: str, kind: str, plugin: Path, programs: Any, tmp_path: Path
) -> None:
    atoms = rattled(kind)
    found = evaluate(tmp_path, atoms, potential(programs(name)), plugin, ranks, grid)
    assert_equal(found, reference(DATA / f"{name}.grace", atoms))
    assert f"{grid.replace(' ', ' by ')} MPI processor grid" in found.log


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fs", "1l", "2l", "3l"])
@pytest.mark.parametrize(("ranks", "grid"), GRIDS)
def test_every_direction_of_the_grid(
    name: str, ranks: int, grid: str, plugin: Path, programs: Any, tmp_path: Path
) -> None:
    atoms = rattled("triclinic")
    assert_equal(
        evaluate(tmp_path, atoms, potential(programs(name)), plugin, ranks, grid),
        reference(DATA / f"{name}.grace", atoms),
    )


@pytest.mark.parametrize("name", ["1l", "2l", "3l"])
def test_domains_smaller_than_the_cutoff(
    name: str, plugin: Path, programs: Any, structures: dict[str, Atoms], tmp_path: Path
) -> None:
    """The box is shorter than the cutoff: an atom meets its own images, messages travel over several ranks."""
    atoms = in_lammps_frame(structures["alloy"])
    assert np.diag(atoms.cell).min() / 2 < 2.0
    found = evaluate(tmp_path, atoms, potential(programs(name)), plugin, 4, "1 2 2")
    assert_equal(found, reference(DATA / f"{name}.grace", atoms))


def test_balanced_domains(plugin: Path, programs: Any, tmp_path: Path) -> None:
    """Domains of unequal size that do not line up (recursive bisection) have a communication of their own in LAMMPS."""
    atoms = rattled("orthogonal")
    balanced = "comm_style tiled\nbalance 1.0 rcb\n" + potential(programs("3l"))
    assert_equal(evaluate(tmp_path, atoms, balanced, plugin, 4), reference(DATA / "3l.grace", atoms))


@pytest.mark.parametrize("name", ["1l", "2l"])
def test_ranks_without_atoms(name: str, plugin: Path, programs: Any, tmp_path: Path) -> None:
    """A cluster in a corner of the box; one rank owns nothing."""
    atoms = Atoms("AlCuCu", positions=[[2, 2, 2], [4.4, 2.1, 2.3], [2.2, 4.5, 3.1]], cell=[40, 40, 40], pbc=True)
    found = evaluate(tmp_path, atoms, potential(programs(name)), plugin, 4, "2 2 1")
    assert_equal(found, reference(DATA / f"{name}.grace", atoms))


@pytest.mark.parametrize("name", ["fs", "1l", "2l", "3l"])
def test_isolated_atoms(name: str, plugin: Path, programs: Any, tmp_path: Path) -> None:
    atoms = Atoms("AlCu", positions=[[5, 5, 5], [20, 21, 22]], cell=[30, 30, 30], pbc=True)
    found = evaluate(tmp_path, atoms, potential(programs(name)), plugin, 2)
    expected = reference(DATA / f"{name}.grace", atoms)
    assert np.abs(found.forces).max() < 1e-12
    assert np.abs(found.energies - expected.energies).max() < 1e-12 * max(1.0, np.abs(expected.energies).max())


@pytest.mark.parametrize("name", ["1l", "2l"])
def test_open_boundaries(name: str, plugin: Path, programs: Any, structures: dict[str, Atoms], tmp_path: Path) -> None:
    atoms = structures["slab"].copy()
    atoms.center(axis=2)
    found = evaluate(tmp_path, atoms, potential(programs(name)), plugin, 2)
    assert_equal(found, reference(DATA / f"{name}.grace", atoms))


@pytest.mark.parametrize("name", ["1l", "2l"])
def test_single_precision(name: str, plugin: Path, programs: Any, tmp_path: Path) -> None:
    """Equal to the single-precision engine to rounding, not to the double one."""
    atoms = rattled("orthogonal")
    program = programs(name, "fp32")
    found = evaluate(tmp_path, atoms, potential(program, options="fp32"), plugin, 2)
    expected = reference(DATA / f"{name}.grace", atoms, "fp32")
    assert_equal(found, expected, 2e-5)
    double = reference(DATA / f"{name}.grace", atoms)
    assert np.abs(found.forces - double.forces).max() > 1e-12


def test_types_in_another_order(plugin: Path, programs: Any, tmp_path: Path) -> None:
    """Atom types are mapped by pair_coeff, in any order."""
    atoms = rattled("orthogonal")
    swapped = atoms.copy()
    swapped.symbols[:] = ["Cu" if s == "Al" else "Al" for s in atoms.symbols]
    found = evaluate(tmp_path, atoms, potential(programs("2l"), "Cu Al"), plugin, 2)
    assert_equal(found, reference(DATA / "2l.grace", swapped))


@pytest.mark.parametrize("name", ["1l", "2l"])
def test_threads(name: str, plugin: Path, programs: Any, tmp_path: Path) -> None:
    atoms = rattled("orthogonal")
    found = evaluate(tmp_path, atoms, potential(programs(name), options="threads 2"), plugin, 2)
    assert_equal(found, reference(DATA / f"{name}.grace", atoms))
