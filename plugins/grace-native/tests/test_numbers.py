"""Energies, forces and stresses against the TensorFlow engine, stored and live, and against the shared fixtures."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from grace_native.engine import NativeEngine
from native_models import MODELS, read

from gracecli.engine.neighbours import build_graph

FIXTURES = Path(__file__).parents[4] / "shared" / "fixtures" / "grace"
# energy eV/atom, forces eV/Å, stress eV/Å^3
LIMITS = {"exact": (1e-10, 1e-10, 1e-10), "spline": (1e-8, 1e-7, 1e-8)}


def graphs(engine: Any, structures: dict[str, Atoms]) -> list[Any]:
    return [build_graph(a, engine.cutoff, engine.pair_cutoff) for a in structures.values()]


@pytest.mark.parametrize("radial", ["exact", "spline"])
@pytest.mark.parametrize("name", MODELS)
def test_equals_tensorflow_numbers(
    name: str, radial: str, engine: Any, structures: dict[str, Atoms], numbers: Any
) -> None:
    native = engine(name, radial=radial)
    for key, result in zip(structures, native.evaluate(graphs(native, structures)), strict=True):
        energy, force, stress = LIMITS[radial]
        assert np.abs(result.energies - numbers[f"{name}/{key}/energies"]).max() < energy
        assert np.abs(result.forces - numbers[f"{name}/{key}/forces"]).max() < force
        expected = numbers[f"{name}/{key}/stress"]
        assert np.array_equal(np.isnan(result.stress), np.isnan(expected))
        assert np.abs(np.nan_to_num(result.stress - expected)).max() < stress


@pytest.mark.parametrize("name", MODELS)
def test_single_precision(name: str, engine: Any, structures: dict[str, Atoms], numbers: Any) -> None:
    native = engine(name, precision="fp32")
    limit = 2e-4 if name == "3l" else 2e-5  # equivariant norms divide by small numbers
    for key, result in zip(structures, native.evaluate(graphs(native, structures)), strict=True):
        forces = numbers[f"{name}/{key}/forces"]
        assert np.abs(result.energies - numbers[f"{name}/{key}/energies"]).max() < limit
        assert np.abs(result.forces - forces).max() < limit * max(1.0, np.abs(forces).max())


@pytest.mark.parametrize("name", ["1l", "2l"])
def test_equals_the_tensorflow_engine_run_now(name: str, engine: Any, structures: dict[str, Atoms]) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed")
    from gracecli.engine.tensorflow import TensorFlowEngine

    native, other = engine(name), TensorFlowEngine(read(name), xla=False)
    crystal = {"alloy": structures["alloy"]}
    (one,), (two,) = native.evaluate(graphs(native, crystal)), other.evaluate(graphs(native, crystal))
    assert np.abs(one.forces - two.forces).max() < 1e-7


@pytest.mark.parametrize("directory", sorted(p.parent for p in FIXTURES.glob("*/reference.npz")), ids=lambda p: p.name)
def test_published_fixtures(directory: Path) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("reading a published checkpoint needs TensorFlow")
    from gracecli.registry.resolve import read_model

    model = read_model(directory)
    for radial, (energy, force, _) in LIMITS.items():
        if model.precision == "float32":
            energy = force = 1e-5  # the reference itself is in single precision
        native = NativeEngine(model, radial=radial, threads=1)
        with np.load(directory / "reference.npz") as file:
            reference = dict(file)
        for k in range(len(reference["names"])):
            part = {n: reference[f"{k:02d}_{n}"] for n in ("numbers", "positions", "cell", "pbc", "energy", "forces")}
            atoms = Atoms(numbers=part["numbers"], positions=part["positions"], cell=part["cell"], pbc=part["pbc"])
            (result,) = native.evaluate([build_graph(atoms, native.cutoff, native.pair_cutoff)])
            assert abs(result.energy - part["energy"]) / len(atoms) < energy
            assert np.abs(result.forces - part["forces"]).max() < force
