"""New-task error against old-task error for every fine-tuning strategy, epoch by epoch (Fig. 9 of arXiv:2508.17936).

A model of Li Si Ni Cu Ge Nb Mo Ta W is tuned to a subset of ag-au (two elements it does not know, other calculations);
the old task is the model's own test sets. Errors are force MAEs per component (meV/Å) and energy MAEs (meV/atom).

    python benchmarks/fine_tuning.py --base MODEL --data ../shared/datasets -o fine-tuning

Writes fine-tuning.json and fine-tuning.png there; strategies already in the JSON are not repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gracecli.fit.config import DataConfig, SetConfig
from gracecli.fit.config_read import make_config
from gracecli.fit.data import Frame, read_set, read_sets
from gracecli.fit.metrics import Prediction, errors
from gracecli.fit.progress import Progress
from gracecli.fit.trainer import Trainer
from gracecli.fit.tuning.label import evaluate
from gracecli.fit.tuning.listing import make_listing
from gracecli.fit.tuning.replay import labelled_copy, write_structures
from gracecli.model.heads import select_head
from gracecli.model.modelfile import Model

NEW = "ag-au"
OLD = ("mlearn-Li", "mlearn-Si", "mlearn-Cu", "mlearn-Mo", "nbmotaw")
OLD_TRAIN = (*OLD, "mlearn-Ni", "mlearn-Ge")
VARIANTS = {  # label: (strategy, replay, learning rate)
    "naive": ("naive", None, 2e-3),
    "lora (rank 8)": ("lora", None, 2e-3),
    "readout": ("readout", None, 1e-2),
    "frozen": ("frozen", None, 1e-2),
    "replay, labelled": ("replay", "labelled", 2e-3),
    "replay, pseudo-labels": ("replay", "pseudo", 2e-3),
    "replay, pseudo-labelled crystals": ("replay", "unaries", 2e-3),
}
"""frozen-messages is frozen here: no element of the new data is old. Few weights stand a larger learning rate."""


def subset(frames: list[Frame], count: int, seed: int) -> list[Frame]:
    """Some frames, drawn at random."""
    order = np.random.default_rng(seed).permutation(len(frames))[:count]
    return [frames[i] for i in sorted(order)]


def write_subset(path: Path, frames: list[Frame]) -> None:
    """Frames as extended XYZ."""

    class Labels:
        def __init__(self, frame: Frame) -> None:
            self.energy, self.forces, self.stress = frame.energy, frame.forces, frame.stress

    write_structures(path, [labelled_copy(frame.atoms, Labels(frame)) for frame in frames])


def score(model: Model, frames: list[Frame]) -> dict[str, float]:
    """Energy (meV/atom) and force (meV/Å) MAE, through the engine."""
    results = evaluate(model, [frame.atoms for frame in frames])
    found = errors(frames, [Prediction(r.energy, r.forces, r.stress) for r in results])
    return {"energy": found.energy_mae, "forces": found.forces_mae}


def old_test(data: Path) -> list[Frame]:
    """The test sets of the old task."""
    drop = {"mlearn-Mo": ("Surface",)}
    entries = [SetConfig(str(data / name / "test.extxyz.gz"), drop=drop.get(name, ())) for name in OLD]
    return read_sets(entries, DataConfig())[0]


class Study:
    """One new task, and the errors of every strategy on it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder = Path(arguments.output)
        self.folder.mkdir(parents=True, exist_ok=True)
        data = Path(arguments.data)
        self.new_test, _ = read_set(SetConfig(str(data / NEW / "test.extxyz.gz")), DataConfig())
        self.old_test = old_test(data)
        train, _ = read_set(SetConfig(str(data / NEW / "train.extxyz.gz")), DataConfig())
        self.train = subset(train, arguments.structures, 1)
        write_subset(self.folder / "new.extxyz", self.train)
        entries = [SetConfig(str(data / name / "train.extxyz.gz")) for name in OLD_TRAIN]
        old = subset(read_sets(entries, DataConfig())[0], arguments.structures, 2)
        write_subset(self.folder / "old.extxyz", old)

    def settings(self, strategy: str, replay: str | None, rate: float, directory: str) -> dict[str, Any]:
        """Settings of one fit."""
        tuning: dict[str, Any] = {"strategy": strategy}
        if replay == "labelled":
            tuning["replay"] = [str((self.folder / "old.extxyz").resolve())]
        elif replay == "pseudo":
            tuning["replay_structures"] = [str((self.folder / "old.extxyz").resolve())]
        elif replay == "unaries":
            tuning["augment"] = ["unaries"]
        return {
            "data": {"train": [str((self.folder / "new.extxyz").resolve())], "valid_fraction": 0.0},
            "model": {"start": self.arguments.base},
            "tuning": tuning,
            "training": {
                "epochs": self.arguments.epochs, "learning_rate": rate, "precision": "fp32",
                "final_learning_rate": 2e-5,
            },
            "output": {"directory": directory},
        }  # fmt: skip

    def run(self, strategy: str, replay: str | None, rate: float) -> dict[str, Any]:
        """Errors after every epoch, beginning with the shifted start."""
        points: list[dict[str, Any]] = []
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            config = make_config(self.settings(strategy, replay, rate, directory))
            trainer = Trainer(config, Progress(), force=True)
            steps = len(trainer._plan(0))

            def look(step: int) -> None:
                if step % steps:
                    return
                model = trainer.adapter.model(trainer.blueprint, trainer.optimizer.averaged(), {})
                heads = {"new": model, "old": model}
                if model.heads:
                    heads = {"new": select_head(model, "new"), "old": select_head(model, "base")}
                new, old = score(replace(heads["new"], heads={}), self.new_test), score(heads["old"], self.old_test)
                points.append({"epoch": step // steps, "new": new, "old": old})
                print(json.dumps(points[-1]), flush=True)

            look(0)
            trainer._after_step = look
            result = trainer.run()
            assert trainer.data.tuning is not None
            counts = make_listing(config, trainer.data.tuning, trainer.network).moving
        return {
            "points": points, "training_seconds": result.seconds, "seconds": time.monotonic() - start,
            "steps": result.steps, "moving": counts,
        }  # fmt: skip


def plot(document: dict[str, Any], path: Path) -> None:
    """One panel for forces, one for energies; a curve per strategy from the start to the last epoch."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(12.6, 4.8), layout="constrained")
    units = {"forces": "force MAE (meV/Å)", "energy": "energy MAE (meV/atom)"}
    for axis, (kind, unit) in zip(figure.subplots(1, 2), units.items(), strict=True):
        for number, (label, entry) in enumerate(document["strategies"].items()):
            x = [point["new"][kind] for point in entry["points"]]
            y = [point["old"][kind] for point in entry["points"]]
            axis.plot(x, y, "-", color=f"C{number}", lw=1, alpha=0.6)
            axis.plot(x[1:-1], y[1:-1], ".", color=f"C{number}", ms=4, alpha=0.6)
            axis.plot(x[-1], y[-1], "os^Dv<>"[number % 7], color=f"C{number}", ms=8, label=label)
        first = next(iter(document["strategies"].values()))["points"][0]
        axis.plot(first["new"][kind], first["old"][kind], "k*", ms=13, label="start (shifted)", zorder=5)
        axis.axhline(document["base_old"][kind], color="0.5", lw=0.8, ls=":")
        axis.set(xscale="log", yscale="log", xlabel=f"new task: {unit}", ylabel=f"old task: {unit}")
        axis.grid(alpha=0.25)
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(LogLocator(subs=(1, 2, 5)))
            side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            side.set_minor_formatter(NullFormatter())
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.suptitle(document["title"], fontsize=10)
    figure.savefig(path, dpi=140)


def main() -> None:
    """Run what is missing, write, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/datasets")
    parser.add_argument("-o", "--output", default="fine-tuning")
    parser.add_argument("--base", required=True, help="model to start from; it must not know Ag and Au")
    parser.add_argument("--structures", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", nargs="*", help="labels of strategies")
    arguments = parser.parse_args()
    study = Study(arguments)
    path = study.folder / "fine-tuning.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"strategies": {}}
    from gracecli import load_model

    atoms = sum(len(frame.atoms) for frame in study.train)
    document["base_old"] = score(load_model(arguments.base), study.old_test)
    document["title"] = (
        f"{Path(arguments.base).stem} tuned to {len(study.train)} structures ({atoms} atoms) of {NEW}, "
        f"{arguments.epochs} epochs; "
        f"tests: {len(study.new_test)} new, {len(study.old_test)} old structures"
    )
    for label, (strategy, replay, rate) in VARIANTS.items():
        if label in document["strategies"] or (arguments.only and label not in arguments.only):
            continue
        print(label, flush=True)
        document["strategies"][label] = study.run(strategy, replay, rate)
        path.write_text(json.dumps(document, indent=1) + "\n")
        plot(document, study.folder / "fine-tuning.png")
    path.write_text(json.dumps(document, indent=1) + "\n")
    plot(document, study.folder / "fine-tuning.png")


if __name__ == "__main__":
    main()
