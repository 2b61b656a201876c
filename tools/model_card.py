"""Finish a trained model for shipping: evaluate it exactly, record the errors in the file, write its card.

    python tools/model_card.py FIT_FOLDER RECIPE.toml data/models/NAME.grace

Training evaluates radial functions on a grid of distances; the errors recorded here are those of the exact model, as
users run it. The card NAME.md lies beside the model.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import bulk
from ase.units import GPa

from gracecli.engine.calculator import GraceCalculator
from gracecli.engine.neighbours import build_graph
from gracecli.engine.tensorflow import TensorFlowEngine
from gracecli.fit.config import load_config
from gracecli.fit.data import Frame, read_sets
from gracecli.fit.metrics import Prediction, full_report
from gracecli.model.modelfile import Model, load_model, save_model
from gracecli.run.relax import RelaxSettings, relax

# a (Å) of the reference cell, its residual pressure (GPa) and bulk modulus (GPa), from the strained cells of the
# training data (DFT-PBE); the lattice constant at zero pressure follows to first order.
GROUND_STATES = {
    "Li": ("bcc", 3.4268, 0.153, 14.8),
    "Si": ("diamond", 5.4687, -0.004, 88.7),
    "Ni": ("fcc", 3.508, -0.499, 206.4),
    "Cu": ("fcc", 3.6164, -0.266, 150.2),
    "Ge": ("diamond", 5.7542, 0.964, 63.5),
    "Nb": ("bcc", 3.3226, -0.048, 174.4),
    "Mo": ("bcc", 3.1690, 0.081, 265.0),
    "Ta": ("bcc", 3.3223, -0.041, 195.3),
    "W": ("bcc", 3.1900, -0.087, 305.6),
}


GRADES = """
## Extrapolation grades

`gamma` of an atom: the distance of its invariants (984 numbers, projected onto 32 and two densities) from the nearest
cluster of training atoms, in units of the farthest training atom of that cluster. Made by
`grace models gamma grace-1l-9el --recipe data/recipes/default.toml` from 180,242 atoms of 5,666 structures;
it adds 0.10 MB to the file and leaves blueprint, weights and their sha256 alone.

Test sets (`grace predict --calibration`, 228 structures): rank correlation of gamma with the true force error 0.62 by
atoms, 0.72 by structures (largest of each), within single sets 0.78 (mlearn-Mo) to 0.89 (mlearn-Cu); median force
error 0.09 eV/Å for gamma below 0.25, 0.29 up to 0.5, 0.39 up to 0.75, 0.40 up to 1, 0.74 beyond; 223 structures
inside, 5 between 1 and 1.5, the largest 1.17.

| what the model never saw | structures | gamma > 1 | gamma > 1.5 | median of the largest |
|---|---|---|---|---|
| test structures, all lengths -5 % | 38 | 24 % | 13 % | 0.76 |
| -10 % | 38 | 66 % | 29 % | 1.26 |
| -15 % | 38 | 100 % | 82 % | 1.84 |
| +10 % | 38 | 42 % | 11 % | 0.89 |
| half of the Cu replaced by Ni | 5 | 100 % | 100 % | 11.0 |
| half of the Si replaced by Ge | 4 | 100 % | 100 % | 5.4 |
| a tenth of the Mo replaced by Cu | 9 | 100 % | 100 % | 5.8 |
| a tenth of the Li replaced by Si | 5 | 100 % | 100 % | 3.3 |
| half of the Mo replaced by Nb, at random | 9 | 100 % | 100 % | 2.3 |
| NiSi2 (MPtrj): forces wrong by 0.36 eV/Å (MAE) | 3 | 100 % | 100 % | 2.8 |

A grade below 1 is no proof: crystals compressed by 5 % in length (14 % in volume) mostly count as inside, because the
liquids in the data hold such distances.
"""
"""Measured with the grades of the bundled model; another model needs this section measured again."""


def predictions(engine: TensorFlowEngine, frames: list[Frame]) -> list[Prediction]:
    """Exact energies, forces and stresses; batches of similar size keep the number of programs small."""
    graphs = [build_graph(frame.atoms, engine.cutoff) for frame in frames]
    order = sorted(range(len(graphs)), key=lambda i: -len(graphs[i].centre))
    results = engine.evaluate([graphs[i] for i in order])
    found: list[Prediction | None] = [None] * len(frames)
    for index, result in zip(order, results, strict=True):
        found[index] = Prediction(result.energy, result.forces, result.stress)
    return [p for p in found if p is not None]


def ground_states(calculator: GraceCalculator) -> dict[str, dict[str, float]]:
    """Lattice constant (Å) and bulk modulus (GPa) of the model and of DFT."""
    table = {}
    for element, (structure, a, pressure, bulk_modulus) in GROUND_STATES.items():
        result = relax(bulk(element, structure, a=a, cubic=True), calculator, RelaxSettings(cell="full", fmax=0.002))
        atoms = result.atoms.copy()
        atoms.calc = calculator
        cell, stress = atoms.cell.copy(), []
        for strain in (-0.003, 0.003):
            atoms.set_cell(cell * (1 + strain), scale_atoms=True)
            stress.append(atoms.get_stress()[:3].mean() / GPa)
        table[element] = {
            "a": float(np.linalg.norm(cell[0])),
            "a_dft": a * (1 + pressure / (3 * bulk_modulus)),
            "B": (stress[1] - stress[0]) / 0.018,
            "B_dft": bulk_modulus,
        }
    return table


def error_table(title: str, report: dict[str, Any]) -> str:
    """Markdown table of errors by group."""
    lines = [
        f"| {title} | structures | energy MAE, RMSE (meV/atom) | forces MAE, RMSE (meV/Å) | stress MAE, RMSE (GPa) |",
        "|---|---|---|---|---|",
    ]
    for name, e in report.items():
        lines.append(
            f"| {name} | {e['structures']} | {e['energy_mae']:.1f} / {e['energy_rmse']:.1f} "
            f"| {e['forces_mae']:.0f} / {e['forces_rmse']:.0f} | {e['stress_mae']:.2f} / {e['stress_rmse']:.2f} |"
        )
    return "\n".join(lines)


def card(model: Model, reports: dict[str, Any], lattice: dict[str, dict[str, float]]) -> str:
    """The model card in Markdown."""
    meta, training = model.metadata, model.metadata["training"]
    sources = "\n".join(
        f"| {s['name']} | {s['frames']} | {s['atoms']} | {s['dropped']} | `{s['sha256'][:16]}` |"
        for s in training["data"]["train"]
    )
    states = "\n".join(
        f"| {e} | {v['a']:.4f} | {v['a_dft']:.4f} | {100 * (v['a'] / v['a_dft'] - 1):+.2f} % "
        f"| {v['B']:.0f} | {v['B_dft']:.0f} |"
        for e, v in lattice.items()
    )
    return f"""# {meta["name"]}

{meta["name"]} is the model that `grace` uses when none is named: a one-layer GRACE potential for
{", ".join(model.elements)} with a cutoff of {model.cutoff:g} Å and {model.n_parameters:,} parameters, trained from
scratch with `grace fit` in two stages (45 and 7 epochs, 58 minutes in all on two processor cores).

* Level of theory: {meta["level_of_theory"]}.
* Licence: {meta["licence"]}. The notices are in `data/LICENSES`.
* Cite: {meta["citation"]}; for the method Bochkarev, Lysogorskiy, Drautz, PRX 14, 021036 (2024).
* Retrain: `grace fit data/recipes/default.toml -o default-model`, then `default-stage-2.toml` as it says, then this
  card with `tools/model_card.py`.
* sha256 of blueprint and weights: `{model.sha256()}`.

## Range of validity

The elements near their bulk phases: crystals and liquids around the melting point, vacancies, low-index surfaces,
strains of a few per cent, and binary solid solutions of Nb-Mo-Ta-W. Not trained, so not to be trusted: mixtures other
than Nb-Mo-Ta-W binaries (Li-Si, Cu-Ni, silicides ...), molecules, clusters, high pressure, and atoms closer than in
the data; the model has no short-range repulsion of its own. Ternary and quaternary Nb-Mo-Ta-W are extrapolation.
Magnetism is implicit in the data for Ni. Surfaces of Ge were left out (their energies have another zero), shear
stresses of strained Li too.

## Errors on structures that were not trained on

Official test sets (without the slabs of mlearn-Mo, two of which are among the training data), and a stratified 5 % of
the training files held out for validation. Evaluated exactly, in double precision.

{error_table("test set", reports["test"]["by_set"])}

{error_table("test: set/kind of structure", reports["test"]["by_config_type"])}

{error_table("validation: elements", reports["valid"]["by_elements"])}
{GRADES}
## Ground states

| element | a (Å) | a DFT (Å) | difference | B (GPa) | B DFT (GPa) |
|---|---|---|---|---|---|
{states}

DFT: from the strained cells of the training data; lattice constants corrected for the residual pressure of the cell.

## Training data

| set | structures | atoms | left out | sha256 |
|---|---|---|---|---|
{sources}

Zuo et al., J. Phys. Chem. A 124, 731 (2020) (mlearn) and Li et al., npj Comput. Mater. 6, 70 (2020) (nbmotaw); both
BSD-3-Clause. The two sources of Mo are one level of theory to about 2 meV/atom: the comparison is in the recipe.
"""


def main(folder: Path, recipe: Path, target: Path) -> None:
    """Evaluate, record, write."""
    from gracecli.fit.reference import fit_reference  # noqa: F401 - the same reading as the trainer
    from gracecli.fit.setup import prepare_data

    config = load_config(recipe)
    model = load_model(folder / "model.grace")
    engine = TensorFlowEngine(model)
    data = prepare_data(config, say=lambda text: None)
    test, _ = read_sets(config.data.test, config.data)
    reports = {
        name: full_report(frames, predictions(engine, list(frames)))
        for name, frames in (("valid", data.valid), ("test", test))
    }
    lattice = ground_states(GraceCalculator(engine=engine))
    metadata = {**model.metadata, "metrics": reports, "precision": "float32", "ground_states": lattice}
    finished = Model(model.blueprint, model.weights, metadata)
    save_model(target, finished, overwrite=True)
    target.with_suffix(".md").write_text(card(finished, reports, lattice), encoding="utf-8")
    print(card(finished, reports, lattice))


if __name__ == "__main__":
    main(*(Path(a) for a in sys.argv[1:4]))
