"""Linear models: the design matrix against the network, and what a solved model is worth."""

from __future__ import annotations

import numpy as np
import pytest

from gracecli.fit.config import make_config
from gracecli.fit.linear.solve import NormalEquations, Ridge

SIZES = {"lmax": [2, 2, 2, 1], "n_radial": [6, 6, 5, 3], "n_basis": 4, "embedding": 3}


@pytest.fixture(scope="module")
def alloy_design(tensorflow):
    from gracecli.fit.linear.design import Design
    from gracecli.model.network import Network
    from gracecli.model.presets import initial_weights, preset

    blueprint = preset("linear-small", ("Ag", "Cu"), cutoff=4.0, average_neighbours=12.0, scale=1.7, **SIZES)
    network = Network(blueprint, initial_weights(blueprint, np.random.default_rng(1)))
    return Design(network, [47, 29])


def test_rows_are_the_derivatives_of_the_network(alloy_design, emt_structures):
    """Energy, forces and stress of random coefficients, against the TensorFlow engine with the weights they mean."""
    from gracecli.engine.neighbours import build_graph
    from gracecli.engine.tensorflow import TensorFlowEngine
    from gracecli.model.modelfile import Model

    design = alloy_design
    coefficients = np.random.default_rng(2).normal(size=design.size)
    weights = design.network.weights() | design.weights(coefficients, scale=1.7)
    engine = TensorFlowEngine(Model(design.network.blueprint, weights, {"elements": ["Ag", "Cu"]}))
    for atoms in emt_structures(3, seed=5, symbols=("Cu", "Ag")):
        graph = build_graph(atoms, 4.0)
        rows, result = design.rows(graph), engine.evaluate([graph])[0]
        size = np.abs(result.forces).max()
        assert rows.energy @ coefficients == pytest.approx(result.energy, rel=1e-9)
        assert np.abs(rows.forces @ coefficients - result.forces).max() < 1e-8 * size
        assert np.abs(rows.stress @ coefficients - result.stress).max() < 1e-8 * np.abs(result.stress).max()


def test_ridge_solves_and_knows_what_is_determined():
    """A noisy linear law: evidence finds the noise-free coefficients; a column of zeros stays at zero."""
    rng = np.random.default_rng(3)
    truth = np.concatenate([rng.normal(size=8), np.zeros(1)])
    design = rng.normal(size=(400, 9)) * 10.0 ** np.arange(-4, 5)
    design[:, 8] = 0.0
    target = design @ truth + rng.normal(scale=1e-6, size=400)
    equations = NormalEquations(9)
    for part in np.split(np.arange(400), 4):
        equations.add(design[part], target[part], np.ones(100))
    ridge = Ridge(equations)
    solution = ridge.by_evidence()
    assert solution.coefficients == pytest.approx(truth, rel=1e-2, abs=1e-12)
    assert solution.effective == pytest.approx(8.0, abs=0.1)
    chosen = ridge.by_validation(lambda c: float(np.sum((c - truth)[:8] ** 2)))
    assert chosen.coefficients == pytest.approx(truth, rel=1e-2, abs=1e-12)


@pytest.mark.slow
def test_a_linear_fit_is_a_model_like_any_other(emt_structures, tmp_path, settings):
    """Seconds, errors small beside the labels, and the native engine gives the same numbers."""
    import ase.io

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
