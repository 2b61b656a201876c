"""Errors of trained recipes beside the published ones, as Markdown.

What is compared is measured alike: mean absolute errors, root mean squares, or means over structures of vector norms,
whichever was published (``data/published.toml``). Test structures that equal training structures up to symmetry
are part of the published comparison; errors without them stand in the second table.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gracecli.engine.create import create_engine
from gracecli.engine.neighbours import build_graph
from gracecli.files import write_text_atomically
from gracecli.fit.check.duplicates import find_copies
from gracecli.fit.check.records import Record
from gracecli.fit.config import FitConfig
from gracecli.fit.data import Frame
from gracecli.fit.metrics import GPA, Prediction, full_report
from gracecli.fit.setup import prepare_data

PUBLISHED = Path(__file__).resolve().parents[1] / "data" / "published.toml"


@dataclass(frozen=True)
class Row:
    """Errors of one model on one group of test structures: meV/atom, meV/Å, GPa."""

    group: str
    structures: int
    energy_mae: float
    energy_rmse: float
    forces_mae: float
    forces_rmse: float
    stress_mae: float
    stress_rmse: float
    forces_vector: float
    stress_vector: float


def evaluate(config: FitConfig, model: Path) -> dict[str, Any]:
    """Exact errors (double precision) of a trained model on the test structures of its recipe, by group.

    Without test data the validation structures, which training looked at to choose its best epoch, take their place.
    """
    data = prepare_data(config, say=lambda text: None)
    frames, split = (data.test, "test") if data.test else (data.valid, "validation")
    if not frames:
        raise SystemExit(f"{model}: the recipe names neither test nor validation data")
    predictions = _predictions(model, frames)
    copies = _equal_to_training(data.train, frames) if split == "test" and len(data.train) < 6000 else set()
    groups: dict[str, list[int]] = {}
    for index, frame in enumerate(frames):
        groups.setdefault(frame.set_name, []).append(index)
        groups.setdefault(f"{frame.set_name}/{frame.config_type}", []).append(index)
        if index not in copies:
            groups.setdefault(f"{frame.set_name} (not in training)", []).append(index)
    rows = []
    for name, members in groups.items():
        if name.endswith("(not in training)") and not copies:
            continue
        rows.append(errors_of(name, [frames[i] for i in members], [predictions[i] for i in members]))
    return {"split": split, "copies": len(copies), "rows": [asdict(row) for row in rows]}


def _predictions(model: Path, frames: Sequence[Frame]) -> list[Prediction]:
    engine = create_engine(model, precision="fp64")
    found: list[Prediction] = []
    for start in range(0, len(frames), 32):
        graphs = [build_graph(frame.atoms, engine.cutoff) for frame in frames[start : start + 32]]
        found += [Prediction(r.energy, r.forces, r.stress) for r in engine.evaluate(graphs)]
    return found


def _equal_to_training(train: Sequence[Frame], test: Sequence[Frame]) -> set[int]:
    """Indices of test frames that equal training frames up to symmetry."""
    records = [Record(f, "train", {}, np.zeros((len(f.atoms), 3), bool)) for f in train]
    records += [Record(f, "test", {}, np.zeros((len(f.atoms), 3), bool)) for f in test]
    pairs = [sorted((c.first, c.second)) for c in find_copies(records)]
    return {b - len(train) for a, b in pairs if a < len(train) <= b}


def errors_of(name: str, frames: Sequence[Frame], predictions: Sequence[Prediction]) -> Row:
    """All measures over a group of structures."""
    e = full_report(frames, predictions)["overall"]
    pairs = list(zip(frames, predictions, strict=True))
    vector = [np.linalg.norm(p.forces - f.forces, axis=1).mean() for f, p in pairs]
    norm = [np.linalg.norm(_matrix(p.stress - f.stress)) for f, p in pairs]
    finite = [value for value in norm if np.isfinite(value)]
    return Row(
        name, e["structures"], e["energy_mae"], e["energy_rmse"], e["forces_mae"], e["forces_rmse"],
        e["stress_mae"], e["stress_rmse"], 1e3 * float(np.mean(vector)),
        GPA * float(np.mean(finite)) if finite else float("nan"),
    )  # fmt: skip


def _matrix(voigt: np.ndarray) -> np.ndarray:
    xx, yy, zz, yz, xz, xy = voigt
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


# --- tables ---------------------------------------------------------------------------------------------------------


def read_published(path: Path = PUBLISHED) -> dict[str, Any]:
    """The published errors."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def read_results(folder: Path) -> list[dict[str, Any]]:
    """``accuracy.json`` of every run in a folder, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/accuracy.json"))]


def comparison(results: Sequence[dict[str, Any]], published: dict[str, Any]) -> str:
    """Published errors and ours in the same measure; ours in bold where no published (and verified) one is lower."""
    lines = [
        "| test | measure | model | energy (meV/atom) | forces (meV/Å) | stress (GPa) | weights | training (min) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for title, entry in published.items():
        if title == "sources":
            continue
        measure, wanted = entry["measure"], entry.get("set", title)
        group = f"{wanted}/{entry['kind']}" if "kind" in entry else wanted
        ours = [(result, row) for result in results for row in result["rows"] if row["group"] == group]
        if results and not ours:  # nothing to compare with
            continue
        sizes = {row["structures"] for _, row in ours}
        atoms = 15 if title == "acetylacetone" else 1
        values = [(m["energy"] / (atoms if m.get("per") == "structure" else 1), m["forces"]) for m in entry["models"]]
        for model, (energy, forces) in zip(entry["models"], values, strict=True):
            mark = "" if model.get("verified", True) else " (unverified)"
            stress = f"{model['stress']:.3f}" if "stress" in model else ""
            lines.append(
                f"| {title} | {measure} | {model['name']}{mark} | {_e(energy)} | {_f(forces)} | {stress} | | |"
            )
        for result, row in ours:
            names = _columns(measure)
            energy, forces, stress = (row[name] for name in names)
            best = _best(entry["models"], values)
            cells = _bold(_e(energy), energy <= best[0] + 5e-3), _bold(_f(forces), round(forces) <= round(best[1]))
            split = "" if result["split"] == "test" else ", validation"
            count = f" ({row['structures']}{split})" if len(sizes) else ""
            lines.append(
                f"| {title}{count} | {measure} | **{result['preset']}** | {cells[0]} | {cells[1]} | {_s(stress)} "
                f"| {result['weights']:,} | {result['seconds'] / 60:.1f} |"
            )
    return "\n".join(lines)


def _best(models: Sequence[dict[str, Any]], values: Sequence[tuple[float, float]]) -> list[float]:
    """Lowest published energy and force error; of the verified ones where there are any."""
    verified = [value for model, value in zip(models, values, strict=True) if model.get("verified", True)]
    return [min(column) for column in zip(*(verified or values), strict=True)]


def details(results: Sequence[dict[str, Any]]) -> str:
    """All groups of test structures with mean absolute errors and root mean squares."""
    lines = [
        "| recipe | preset | test structures | number | energy MAE, RMSE (meV/atom) | forces MAE, RMSE (meV/Å) "
        "| stress MAE, RMSE (GPa) |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for row in result["rows"]:
            stress = f"{row['stress_mae']:.3f} / {row['stress_rmse']:.3f}" if np.isfinite(row["stress_mae"]) else ""
            lines.append(
                f"| {result['recipe']} | {result['preset']} | {row['group']} | {row['structures']} "
                f"| {_e(row['energy_mae'])} / {_e(row['energy_rmse'])} "
                f"| {_f(row['forces_mae'])} / {_f(row['forces_rmse'])} | {stress} |"
            )
    return "\n".join(lines)


def _columns(measure: str) -> tuple[str, str, str]:
    """Energy, forces and stress in a measure; energies of ``vector`` are mean absolute errors."""
    if measure == "vector":
        return "energy_mae", "forces_vector", "stress_vector"
    return f"energy_{measure}", f"forces_{measure}", f"stress_{measure}"


def _e(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _f(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _s(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else ""


def _bold(text: str, wins: bool) -> str:
    return f"**{text}**" if wins else text


def write_result(path: Path, content: dict[str, Any]) -> None:
    """Write ``accuracy.json``; measures without labels are NaN, which Python reads back."""
    write_text_atomically(path, json.dumps(content, indent=1) + "\n", force=True)
