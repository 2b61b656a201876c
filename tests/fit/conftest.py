"""Small labelled sets from ASE's EMT, and a model small enough to compile in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

TINY = {
    "lmax": 1, "order": 2, "n_radial": 4, "n_product": 4, "n_density": 3, "n_basis": 5,
    "hidden": [8], "readout_hidden": [8], "embedding": 4,
}  # fmt: skip
CUTOFF = 3.6


def make_structures(count: int, seed: int, symbols: tuple[str, ...] = ("Cu",)) -> list:
    """Rattled, strained fcc cells of 4 atoms, labelled by EMT; some are alloys when two symbols are given."""
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator

    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols = rng.choice(symbols, size=4)
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.1, size=(4, 3))
        atoms.calc = EMT()
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
        atoms.info["config_type"] = "even" if number % 2 == 0 else "odd"
        found.append(atoms)
    return found


@pytest.fixture(scope="session")
def copper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 structures of Cu."""
    return write(tmp_path_factory.mktemp("data") / "copper.extxyz", make_structures(24, seed=3))


@pytest.fixture(scope="session")
def alloy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 structures of Cu, Ag and both."""
    return write(tmp_path_factory.mktemp("data") / "alloy.extxyz", make_structures(16, seed=4, symbols=("Cu", "Ag")))


@pytest.fixture(scope="session")
def emt_structures():
    """``emt_structures(count, seed, symbols)``."""
    return make_structures


def write(path: Path, structures: list) -> Path:
    import ase.io

    ase.io.write(path, structures, format="extxyz")
    return path


@pytest.fixture(scope="session")
def settings():
    """Settings of a tiny fit, as plain values: ``settings(path, directory, **training)``."""
    return tiny_settings


def tiny_settings(path: Path, directory: Path, **training) -> dict:
    """Settings of a tiny fit, as plain values."""
    return {
        "data": {"train": [str(path)], "valid_fraction": 0.2},
        "model": {"preset": "1l-small", "cutoff": CUTOFF, "overrides": dict(TINY)},
        "training": {"epochs": 3, "batch_atoms": 16, "learning_rate": 0.01, **training},
        "output": {"directory": str(directory), "gamma": False},  # see test_training_grade.py
    }
