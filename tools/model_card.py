"""Finish a trained model for shipping: evaluate it exactly, record the errors in the file, write its card.

    python tools/model_card.py FIT_FOLDER RECIPE.toml data/models/NAME.grace [--grades GRADES.md]

NAME.md, NAME.parity.png and NAME.curves.png lie beside the model. Training evaluates radial functions on a grid of
distances; the errors recorded here are those of the exact model, in double precision, as users run it. ``--grades``
adds a section on extrapolation grades, measured for this very model.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crystal_properties import LATTICES, SOURCES, crystal, table, to_dict

from gracecli.engine.base import Engine
from gracecli.engine.calculator import GraceCalculator
from gracecli.engine.create import create_engine
from gracecli.engine.neighbours import build_graph
from gracecli.fit.config import FitConfig
from gracecli.fit.config_read import load_config
from gracecli.fit.data import Frame
from gracecli.fit.metrics import Prediction, full_report
from gracecli.fit.plots import plot_parity
from gracecli.fit.setup import prepare_data
from gracecli.model.modelfile import Model, load_model, save_model

BATCH = 64
"""Structures evaluated at a time."""


def predictions(engine: Engine, frames: Sequence[Frame]) -> list[Prediction]:
    """Exact energies, forces and stresses."""
    found: list[Prediction] = []
    for start in range(0, len(frames), BATCH):
        graphs = [build_graph(frame.atoms, engine.cutoff) for frame in frames[start : start + BATCH]]
        found += [Prediction(result.energy, result.forces, result.stress) for result in engine.evaluate(graphs)]
    return found


def error_table(title: str, report: dict[str, Any]) -> str:
    """Markdown table of errors by group."""
    lines = [
        f"| {title} | structures | energy MAE, RMSE (meV/atom) | forces MAE, RMSE (meV/Å) | stress MAE, RMSE (GPa) |",
        "|---|---|---|---|---|",
    ]
    for name, e in report.items():
        stress = f"{e['stress_mae']:.2f} / {e['stress_rmse']:.2f}" if e["stress_mae"] == e["stress_mae"] else ""
        lines.append(
            f"| {name} | {e['structures']} | {e['energy_mae']:.1f} / {e['energy_rmse']:.1f} "
            f"| {e['forces_mae']:.0f} / {e['forces_rmse']:.0f} | {stress} |"
        )
    return "\n".join(lines)


def card(model: Model, recipe: Path, reports: dict[str, Any], crystals: str, grades: str) -> str:
    """The model card in Markdown."""
    meta, training = model.metadata, model.metadata["training"]
    sources = "\n".join(
        f"| {s['name']} | {s['frames']} | {s['atoms']} | {s['dropped']} | `{s['sha256'][:16]}` |"
        for s in training["data"]["train"]
    )
    return f"""# {meta["name"]}

{meta["name"]} is the model that `grace` uses when none is named: a one-layer GRACE potential for
{", ".join(model.elements)} with a cutoff of {model.cutoff:g} Å and {model.n_parameters:,} parameters, trained from
scratch with `grace fit` ({training["epochs"]} epochs, {training["seconds"] / 60:.0f} minutes).

* Level of theory: {meta["level_of_theory"]}.
* Licence: {meta["licence"]}. The notices are in `data/LICENSES`.
* Cite: {meta["citation"]}; for the method Bochkarev, Lysogorskiy, Drautz, PRX 14, 021036 (2024).
* Retrain: `grace fit data/recipes/{recipe.name} -o default-model`, then this card with `tools/model_card.py`.
* sha256 of blueprint and weights: `{model.sha256()}`.

## Range of validity

{RANGE}

## Errors on structures that were not trained on

Official test sets (without the slabs of mlearn-Mo, two of which are among the training data), and a stratified 5 % of
the training files held out for validation. Evaluated exactly, in double precision.

{error_table("test set", reports["test"]["by_set"])}

{error_table("test: set/kind of structure", reports["test"]["by_config_type"])}

{error_table("validation: elements", reports["valid"]["by_elements"])}

![Predictions against labels]({meta["name"]}.parity.png)
![Training]({meta["name"]}.curves.png)

## Crystals: the model and, in brackets, DFT

{crystals}

{SOURCES}
{grades}
## Training data

Perfect supercells count as the primitive cells they were reduced to.

| set | structures | atoms | left out | sha256 |
|---|---|---|---|---|
{sources}

{meta["citation"]}; all BSD-3-Clause. What was compared to call the sources one level of theory stands in the recipe.
"""


RANGE = """The elements near their bulk phases: crystals and liquids around the melting point, vacancies, low-index
surfaces, strains of a few per cent, and binary alloys of Nb-Mo-Ta-W and Ag-Au. Not trained, so not to be trusted:
other mixtures (Li-Si, Cu-Ni, Cu-Ag, silicides ...), molecules, clusters, high pressure, and atoms closer than in the
data; the model has no short-range repulsion of its own. Ternary and quaternary Nb-Mo-Ta-W are extrapolation, and so are
vacancies of Nb, Ta and W. Magnetism is implicit in the data for Ni. Surfaces of Ge were left out (their energies have
another zero), and stresses that contradict the energies (see the recipe)."""


def evaluate(path: Path, config: FitConfig) -> dict[str, tuple[list[Frame], list[Prediction]]]:
    """Validation and test structures, and what the model says about them."""
    engine = create_engine(path, precision="fp64")
    data = prepare_data(config, say=lambda text: None)
    return {
        name: (list(frames), predictions(engine, frames))
        for name, frames in (("valid", data.valid), ("test", data.test))
    }


def main() -> None:
    """Evaluate, record, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the finished fit")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("target", type=Path, help="the model file to write; its card lies beside it")
    parser.add_argument("--grades", type=Path, help="Markdown section about extrapolation grades")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    options = parser.parse_args()
    source = options.folder / "model.grace"
    model = load_model(source)
    groups = evaluate(source, load_config(options.recipe))
    reports = {name: full_report(*pair) for name, pair in groups.items()}
    calculator = GraceCalculator(model=source)
    crystals = [crystal(e, calculator, options.data) for e in LATTICES if e in model.elements]
    metadata = {**model.metadata, "metrics": reports, "crystals": to_dict(crystals)}
    finished = replace(model, metadata=metadata)
    save_model(options.target, finished, overwrite=True)
    grades = f"\n{options.grades.read_text(encoding='utf-8').strip()}\n" if options.grades else ""
    text = card(finished, options.recipe, reports, table(crystals), grades)
    options.target.with_suffix(".md").write_text(text, encoding="utf-8")
    plot_parity({"validation": groups["valid"], "test": groups["test"]}, options.target.with_suffix(".parity.png"))
    shutil.copyfile(options.folder / "curves.png", options.target.with_suffix(".curves.png"))
    print(text)


if __name__ == "__main__":
    main()
