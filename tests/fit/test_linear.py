"""Linear models: the design matrix against the network, and what a solved model is worth."""

from __future__ import annotations

import subprocess
import sys
from functools import reduce
from operator import add

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from gracecli.engine.neighbours import build_graph
from gracecli.fit.config_read import make_config
from gracecli.fit.linear.design import Design
from gracecli.fit.linear.solve import STRENGTHS, NormalEquations, Ridge, accumulate
from gracecli.fit.linear.trainer import fixed_weights
from gracecli.model.modelfile import Model
from gracecli.model.presets import preset

SIZES = {"lmax": [2, 2, 2, 1], "n_radial": [6, 6, 5, 3], "n_basis": 4, "embedding": 3}


CELLS = {
    "Cu": bulk("Cu", "fcc", 3.7),
    "AgCu": Atoms("AgCu", scaled_positions=[[0, 0, 0], [0.45, 0.5, 0.52]], cell=[3.0, 3.1, 2.9], pbc=True),
    "slab": Atoms("Cu2Ag", positions=[[0, 0, 4], [1.3, 1.4, 5.5], [0.1, 0.2, 7.8]], cell=[2.6, 2.7, 14.0], pbc=True),
    "molecule": Atoms("AgCu2", positions=[[0, 0, 0], [2.3, 0.1, 0], [0.3, 2.2, 0.9]]),
    "atom": Atoms("Ag"),
}
"""Cells so small that atoms see their own images and several images of one neighbour; and no cell at all."""


@pytest.fixture(scope="module")
def blueprint():
    return preset("linear-small", ("Ag", "Cu"), cutoff=4.0, average_neighbours=12.0, scale=1.7, **SIZES)


@pytest.fixture(scope="module")
def alloy_design(blueprint):
    return Design(blueprint, fixed_weights(blueprint, seed=1), [47, 29])


def test_rows_are_the_derivatives_of_the_network(blueprint, alloy_design, emt_structures, tensorflow):
    """Energy, forces and stress of random coefficients, against the TensorFlow engine with the weights they mean."""
    from gracecli.engine.tensorflow import TensorFlowEngine

    design = alloy_design
    coefficients = np.random.default_rng(2).normal(size=design.size)
    weights = fixed_weights(blueprint, seed=1) | design.weights(coefficients, scale=1.7)
    engine = TensorFlowEngine(Model(blueprint, weights, {"elements": ["Ag", "Cu"]}))
    for atoms in [*emt_structures(3, seed=5, symbols=("Cu", "Ag")), *CELLS.values()]:
        graph = build_graph(atoms, 4.0)
        rows, result = design.rows(graph), engine.evaluate([graph])[0]
        size = max(np.abs(result.forces).max(), 1e-3)
        assert rows.energy @ coefficients == pytest.approx(result.energy, rel=1e-9, abs=1e-12)
        assert np.abs(np.einsum("pic,p->ic", rows.forces, coefficients) - result.forces).max() < 1e-8 * size
        if atoms.cell.rank == 3:
            assert np.abs(coefficients @ rows.stress - result.stress).max() < 1e-8 * np.abs(result.stress).max()
        energy, forces, stress = design.predict(graph, coefficients)
        assert energy == pytest.approx(result.energy, rel=1e-9, abs=1e-12)
        assert np.abs(forces - result.forces).max() < 1e-8 * size
        assert np.isfinite(stress).all() == (atoms.cell.rank == 3)


@pytest.mark.parametrize("name", ["AgCu", "slab", "molecule"])
def test_forces_and_stress_of_every_function_are_finite_differences(alloy_design, name):
    """Every row, not only a sum of them: against differences of the energy row."""
    atoms, step = CELLS[name], 1e-4

    def energy(moved: Atoms) -> np.ndarray:
        return alloy_design.rows(build_graph(moved, 4.0)).energy

    rows = alloy_design.rows(build_graph(atoms, 4.0))
    for direction in range(3):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[1, direction] += sign * step
            ends.append(energy(moved))
        assert rows.forces[:, 1, direction] == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-6, abs=1e-8)
    if atoms.cell.rank < 3:
        return
    for voigt, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        ends = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += 0.5 * sign * step
            strain[b, a] += 0.5 * sign * step
            moved = atoms.copy()
            moved.set_cell(atoms.cell @ strain, scale_atoms=True)
            ends.append(energy(moved))
        wanted = (ends[0] - ends[1]) / (2 * step) / atoms.get_volume()
        assert rows.stress[:, voigt] == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_fixed_weights_are_those_of_a_network(blueprint, tensorflow):
    """Without TensorFlow the same numbers are drawn as with it."""
    from gracecli.model.presets import initial_weights

    mine, network = fixed_weights(blueprint, seed=3), initial_weights(blueprint, np.random.default_rng([3, 0]))
    for name, value in mine.items():
        assert value.shape == network[name].shape
        assert name.endswith("/crad") or np.array_equal(value, network[name])
    assert {name for name in network if name not in mine} == {f"E/reducing_{x}" for x in ("A", "AA", "AAA", "AAAA")}


def test_sums_do_not_depend_on_threads():
    """Bit for bit, though blocks end in any order."""
    rng = np.random.default_rng(5)
    parts = [(rng.normal(size=(30, n)), rng.normal(size=n), rng.random(n)) for n in rng.integers(100, 900, 25)]
    found = []
    for threads in (1, 3):
        equations = NormalEquations.empty(30)
        accumulate(equations, lambda i: parts[i], [len(p[1]) for p in parts], threads)
        found.append(equations)
    assert np.array_equal(found[0].matrix, found[1].matrix)
    assert np.array_equal(found[0].right, found[1].right)
    design, target, weight = (np.concatenate([p[k] for p in parts], axis=-1) for k in range(3))
    assert found[0].matrix == pytest.approx(design * weight @ design.T, rel=1e-10)
    coefficients = rng.normal(size=30)
    assert found[0].loss(coefficients) == pytest.approx(np.sum(weight * (coefficients @ design - target) ** 2))
    assert found[0].rows == len(target)


def test_ridge_solves_and_knows_what_is_determined():
    """A noisy linear law: evidence finds the noise-free coefficients; a column of zeros stays at zero."""
    rng = np.random.default_rng(3)
    truth = np.concatenate([rng.normal(size=8), np.zeros(1)])
    design = rng.normal(size=(400, 9)) * 10.0 ** np.arange(-4, 5)
    design[:, 8] = 0.0
    target = design @ truth + rng.normal(scale=1e-6, size=400)
    equations = NormalEquations.empty(9)
    for part in np.split(np.arange(400), 4):
        equations += NormalEquations.of(design[part].T, target[part], np.ones(100))
    ridge = Ridge(equations)
    solution = ridge.by_evidence()
    assert solution.coefficients == pytest.approx(truth, rel=1e-2, abs=1e-12)
    assert solution.effective == pytest.approx(8.0, abs=0.1)
    chosen = ridge.by_validation(lambda c: float(np.sum((c - truth)[:8] ** 2)))
    assert chosen.coefficients == pytest.approx(truth, rel=1e-2, abs=1e-12)


def test_cross_validation_is_that_of_fits_that_leave_rows_out():
    """Strength and loss as from explicit fits to four of five parts; many columns, few rows, much noise."""
    rng = np.random.default_rng(11)
    truth, design = rng.normal(size=40) / np.arange(1, 41), rng.normal(size=(120, 40))
    target, weight = design @ truth + rng.normal(scale=0.5, size=120), rng.uniform(0.5, 2.0, 120)
    parts = [NormalEquations.of(design[k::5].T, target[k::5], weight[k::5]) for k in range(5)]
    whole = reduce(add, parts)
    chosen = Ridge(whole).by_cross_validation(whole, parts)

    def left_out(strength):
        total = 0.0
        for k in range(5):
            kept = np.arange(120) % 5 != k
            x, y, w = design[kept], target[kept], weight[kept]
            matrix = x.T @ (x * w[:, None])
            penalty = strength * np.diag(np.diag(matrix))
            c = np.linalg.solve(matrix + penalty, x.T @ (w * y))
            total += np.sum(weight[k::5] * (design[k::5] @ c - target[k::5]) ** 2)
        return total

    best = min(STRENGTHS, key=left_out)
    assert chosen.strength == best
    assert 1e-3 < best < 1.0
    assert left_out(best) < 0.97 * left_out(STRENGTHS[0])


@pytest.mark.slow
def test_a_linear_fit_is_a_model_like_any_other(emt_structures, tmp_path, settings):
    """Seconds, errors small beside the labels, and the native engine gives the same numbers."""
    from gracecli.engine.calculator import GraceCalculator
    from gracecli.fit.start import create_trainer

    path = tmp_path / "copper.extxyz"
    ase.io.write(path, emt_structures(40, seed=6), format="extxyz")
    content = settings(path, tmp_path / "fit")
    content["model"] = {"preset": "linear-small", "cutoff": 5.0, "overrides": {**SIZES, "lmax": [3, 3, 3, 2]}}
    content["loss"] = {"energy": 500.0}
    result = create_trainer(make_config(content)).run()
    errors = result.metrics["valid"]["overall"]
    assert errors["energy_mae"] < 5.0  # meV/atom; they scatter by 50
    assert errors["forces_mae"] < 60.0  # meV/Å; they are 950
    atoms = emt_structures(1, seed=9)[0]
    atoms.calc = None
    energies = []
    for engine in ("tensorflow", "native"):
        if engine == "native":
            pytest.importorskip("grace_native")
        atoms.calc = GraceCalculator(str(result.model), engine=engine)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[-1], abs=1e-7)


def test_a_linear_fit_needs_no_tensorflow_and_its_errors_are_those_of_the_file(copper, tmp_path, settings):
    """Seconds, because nothing is compiled; the test errors are what the file gives in another engine."""
    import json

    content = settings(copper, tmp_path / "fit")
    content["data"]["test"] = [{"path": str(copper)}]
    content["model"] = {"preset": "linear-small", "cutoff": 4.0, "overrides": SIZES}
    (tmp_path / "settings.json").write_text(json.dumps(content))
    code = f"""
import json, sys
from pathlib import Path
from gracecli.fit.config_read import make_config
from gracecli.fit.start import create_trainer
create_trainer(make_config(json.loads(Path({str(tmp_path / "settings.json")!r}).read_text()))).run()
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
    errors = json.loads((tmp_path / "fit" / "report.json").read_text())["result"]["metrics"]["test"]["overall"]
    pytest.importorskip("grace_native")
    from gracecli.engine.calculator import GraceCalculator

    calculator = GraceCalculator(str(tmp_path / "fit" / "model.grace"), engine="native")
    rest = []
    for atoms in ase.io.read(copper, ":"):
        rest.append(calculator.get_forces(atoms) - atoms.get_forces())
    assert np.abs(np.concatenate(rest)).mean() * 1e3 == pytest.approx(errors["forces_mae"], rel=1e-6)
