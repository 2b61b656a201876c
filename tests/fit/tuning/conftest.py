"""A tiny base model of Cu and Ag, and fits that start from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gracecli.fit.config_read import make_config
from gracecli.fit.trainer import Trainer


@pytest.fixture(scope="session")
def write():
    """``write(path, structures)``: an extended XYZ file."""

    def writer(path: Path, structures: list) -> Path:
        import ase.io

        ase.io.write(path, structures, format="extxyz")
        return path

    return writer


@pytest.fixture(scope="session")
def base(alloy, settings, tmp_path_factory) -> Path:
    """Model file of Cu and Ag, trained for a few epochs."""
    directory = tmp_path_factory.mktemp("base")
    return Trainer(make_config(settings(alloy, directory, epochs=4))).run().model


@pytest.fixture(scope="session")
def silver(tmp_path_factory, emt_structures, write) -> Path:
    """12 structures of Ag, at energies 0.3 eV/atom above those of the base's data."""
    structures = emt_structures(12, 21, ("Ag",))
    for atoms in structures:
        atoms.calc.results["energy"] += 0.3 * len(atoms)
    return write(tmp_path_factory.mktemp("data") / "silver.extxyz", structures)


@pytest.fixture
def tune(base, tmp_path):
    """``tune(path, strategy, directory=None, **training)``: settings of a short fine-tuning."""

    def settings(path, strategy: str, directory: Path | None = None, tuning: dict | None = None, **training) -> dict:
        return {
            "data": {"train": [str(path)], "valid_fraction": 0.2},
            "model": {"start": str(base)},
            "tuning": {"strategy": strategy, "rank": 2, **(tuning or {})},
            "training": {"epochs": 3, "batch_atoms": 16, "learning_rate": 0.01, **training},
            "output": {"directory": str(directory or tmp_path / strategy), "gamma": False},
        }

    return settings


@pytest.fixture(scope="session")
def evaluated():
    """``evaluated(model file, structures, engine)``: results in double precision."""
    from gracecli.engine.calculator import GraceCalculator

    def evaluate(path, structures, engine: str = "tensorflow") -> list:
        bare = [atoms.copy() for atoms in structures]
        return GraceCalculator(path, engine).evaluate(bare)

    return evaluate


@pytest.fixture(scope="session")
def same_bits():
    """``same_bits(results, others)``: energies, forces and stresses agree in every bit."""

    def compare(some: list, others: list) -> bool:
        return all(
            np.float64(a.energy).tobytes() == np.float64(b.energy).tobytes()
            and a.energies.tobytes() == b.energies.tobytes()
            and a.forces.tobytes() == b.forces.tobytes()
            and a.stress.tobytes() == b.stress.tobytes()
            for a, b in zip(some, others, strict=True)
        )

    return compare
