"""Store a small model file of the present format version, with what it evaluates to. Never overwrites."""

import json
from pathlib import Path

import numpy as np
from ase import Atoms

from gracecli.engine.neighbours import build_graph
from gracecli.engine.tensorflow import TensorFlowEngine
from gracecli.model.heads import join_heads
from gracecli.model.modelfile import VERSION, Model, load_model, save_model
from gracecli.model.presets import initial_weights, preset

POSITIONS = [[0.0, 0.0, 0.0], [2.3, 0.2, 0.0], [0.4, 2.1, 1.0]]


def evaluate(model):
    """Energy (eV) and forces (eV/Å) of three atoms."""
    engine = TensorFlowEngine(model, xla=False)
    (result,) = engine.evaluate([build_graph(Atoms("CuNiCu", positions=POSITIONS), engine.cutoff)])
    return result


def main():
    """Write vN.grace and vN.json."""
    blueprint = preset(
        "fs-small", ["Cu", "Ni"], cutoff=4.0, lmax=(2, 1, 1), n_radial=(3, 2, 2), embedding=2, n_basis=4,
        element_shifts=(-1.5, 0.25),
    )  # fmt: skip
    metadata = {"name": f"v{VERSION}", "precision": "float64", "licence": "MIT", "level_of_theory": "none: random"}
    weights = initial_weights(blueprint, np.random.default_rng(0))
    other = {name: value + 0.1 for name, value in weights.items() if name.startswith("E/")}
    heads = {"other": Model(blueprint, {**weights, **other}), "first": Model(blueprint, weights)}
    model = join_heads(heads, "first", metadata)
    path = save_model(Path(__file__).with_name(f"v{VERSION}.grace"), model)
    result = evaluate(load_model(path))
    expected = {"sha256": model.sha256(), "energy": result.energy, "forces": result.forces.tolist()}
    path.with_suffix(".json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
