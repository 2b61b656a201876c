"""Fine-tuning of a two-layer model: new task against old task for every strategy (Figs. 9, 10 of arXiv:2508.17936).

The base knows Li, Mg, O, Si (crystals, PBE); the new task is acetylacetone, a molecule of C, H, O at another level of
theory. O occurs in both, C and H are new, Li, Mg and Si are absent from the new data. That tells the strategies apart:

* frozen: absent atoms keep their energies bit for bit in every structure, Mg beside O too;
* frozen-messages: structures without C, H, O keep energies, forces and stresses bit for bit, atoms beside O do not.

Energies of the old task are judged with the reference energies of the base: those of the new data are another zero.

    DATA=../shared/datasets grace fit benchmarks/fine_tuning_2l.toml -o base
    python benchmarks/fine_tuning_2l.py --base base/model.grace --data ../shared/datasets -o fine-tuning-2l

Writes fine-tuning-2l.json and fine-tuning-2l.png there; strategies already in the JSON are not repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fine_tuning import score, subset, write_subset

from gracecli.engine.base import Results
from gracecli.fit.config import DataConfig, SetConfig
from gracecli.fit.config_read import make_config
from gracecli.fit.data import Frame, read_set, read_sets
from gracecli.fit.progress import Progress
from gracecli.fit.trainer import Trainer
from gracecli.fit.tuning.label import evaluate
from gracecli.fit.tuning.listing import make_listing
from gracecli.fit.tuning.shift import apply_shift
from gracecli.model.heads import select_head
from gracecli.model.modelfile import Model, load_model

NEW = "acetylacetone"
OLD = {"mgo": {"train": ("train2",), "test": ("test2",)}, "mlearn-Li": {}, "mlearn-Si": {}}  # set: what is left out
SHARED, ABSENT = "MgO (shares O)", "Li, Si (absent elements)"
VARIANTS = {  # label: (strategy, learning rate)
    "naive": ("naive", 5e-3),
    "frozen": ("frozen", 1e-2),
    "frozen-messages": ("frozen-messages", 1e-2),
    "readout": ("readout", 1e-2),
    "lora (rank 8)": ("lora", 5e-3),
    "replay, pseudo-labels": ("replay", 5e-3),
}


def old_frames(data: Path, part: str) -> list[Frame]:
    """Structures of the base's own sets."""
    entries = [SetConfig(str(data / name / f"{part}.extxyz.gz"), drop=drop.get(part, ())) for name, drop in OLD.items()]
    return read_sets(entries, DataConfig())[0]


def same_bits(one: Results, other: Results) -> bool:
    """Energy, atomic energies, forces and stress agree in every bit."""
    names = ("energy", "energies", "forces", "stress")
    return all(np.asarray(getattr(one, n)).tobytes() == np.asarray(getattr(other, n)).tobytes() for n in names)


def unshifted(model: Model, trainer: Trainer) -> Model:
    """The model of the old task with the reference energies that the base has."""
    tuning = trainer.data.tuning
    assert tuning is not None
    if trainer.data.heads:  # the base head has kept them
        return model
    return apply_shift(model, {element: -value for element, value in tuning.record["shift"]["shifts"].items()})


class Study:
    """The new task, the old one in two parts, and every strategy's errors on them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder = Path(arguments.output)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.base = load_model(arguments.base)
        data = Path(arguments.data)
        test, _ = read_set(SetConfig(str(data / NEW / "test.extxyz.gz")), DataConfig())
        self.new_test = subset(test, arguments.test_structures, 3)
        train, _ = read_set(SetConfig(str(data / NEW / "train.extxyz.gz")), DataConfig())
        self.train = subset(train, arguments.structures, 1)
        write_subset(self.folder / "new.extxyz", self.train)
        self.old_train = subset(old_frames(data, "train"), arguments.replay_structures, 2)
        write_subset(self.folder / "old.extxyz", self.old_train)
        old = old_frames(data, "test")
        present = {z for frame in self.train for z in frame.atoms.numbers.tolist()}
        self.old = {
            SHARED: [f for f in old if present & set(f.atoms.numbers.tolist())],
            ABSENT: [f for f in old if not present & set(f.atoms.numbers.tolist())],
        }
        self.present = present
        self.before = {name: self.results(self.base, frames) for name, frames in self.old.items()}

    def results(self, model: Model, frames: Sequence[Frame]) -> list[Results]:
        """Through the engine."""
        return evaluate(model, [frame.atoms for frame in frames])

    def settings(self, strategy: str, rate: float, directory: str) -> dict[str, Any]:
        """Settings of one fit."""
        old = [str((self.folder / "old.extxyz").resolve())] if strategy == "replay" else []
        return {
            "data": {"train": [str((self.folder / "new.extxyz").resolve())], "valid_fraction": 0.0},
            "model": {"start": str(Path(self.arguments.base).resolve())},
            "tuning": {"strategy": strategy, "replay_structures": old},
            "training": {
                "epochs": self.arguments.epochs, "learning_rate": rate, "final_learning_rate": 2e-5,
                "batch_atoms": 60, "precision": "fp64",
            },
            "output": {"directory": directory, "tensorboard": False},
        }  # fmt: skip

    def run(self, strategy: str, rate: float) -> dict[str, Any]:
        """Errors every few epochs, beginning with the shifted start; and what kept its bits at the end."""
        points: list[dict[str, Any]] = []
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            trainer = Trainer(make_config(self.settings(strategy, rate, directory)), Progress(), force=True)
            steps = len(trainer._plan(0))

            def look(step: int) -> None:
                if step % (steps * self.arguments.every):
                    return
                new, old = self.heads(trainer)
                old = unshifted(old, trainer)
                scores = {name: score(old, frames) for name, frames in self.old.items()}
                points.append({"epoch": step // steps, "new": score(new, self.new_test), "old": scores})
                print(json.dumps(points[-1]), flush=True)

            look(0)
            trainer._after_step = look
            result = trainer.run()
            assert trainer.data.tuning is not None
            moving = make_listing(trainer.config, trainer.data.tuning, trainer.network).moving
            kept = self.kept(self.heads(trainer)[1])
        return {
            "points": points, "kept": kept, "training_seconds": result.seconds, "seconds": time.monotonic() - start,
            "steps": result.steps, "moving": moving,
        }  # fmt: skip

    @staticmethod
    def heads(trainer: Trainer) -> tuple[Model, Model]:
        """Model of the new task, and of the old one."""
        model = trainer.adapter.model(trainer.blueprint, trainer.optimizer.averaged(), {})
        if not model.heads:
            return model, model
        return replace(select_head(model, "new"), heads={}), select_head(model, "base")

    def kept(self, model: Model) -> dict[str, Any]:
        """What is the same in every bit: structures of absent elements; absent atoms beside present ones."""
        after = {name: self.results(model, frames) for name, frames in self.old.items()}
        structures = [same_bits(a, b) for a, b in zip(self.before[ABSENT], after[ABSENT], strict=True)]
        atoms: list[bool] = []
        for frame, a, b in zip(self.old[SHARED], self.before[SHARED], after[SHARED], strict=True):
            absent = ~np.isin(frame.atoms.numbers, list(self.present))
            atoms += (a.energies[absent] == b.energies[absent]).tolist()
        return {
            "structures": [sum(structures), len(structures)], "atoms_beside": [int(np.sum(atoms)), len(atoms)],
        }  # fmt: skip


def plot(document: dict[str, Any], path: Path) -> None:
    """New task against both parts of the old one, forces above, energies below; a curve per strategy."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(12.6, 8.6), layout="constrained")
    units = {"forces": "force MAE (meV/Å)", "energy": "energy MAE (meV/atom)"}
    axes = figure.subplots(2, 2, sharex="row")
    for row, (kind, unit) in zip(axes, units.items(), strict=True):
        for axis, part in zip(row, (SHARED, ABSENT), strict=True):
            for number, (label, entry) in enumerate(document["strategies"].items()):
                x = [point["new"][kind] for point in entry["points"]]
                y = [point["old"][part][kind] for point in entry["points"]]
                axis.plot(x, y, "-", color=f"C{number}", lw=1, alpha=0.6)
                axis.plot(x[1:-1], y[1:-1], ".", color=f"C{number}", ms=4, alpha=0.6)
                axis.plot(x[-1], y[-1], "os^Dv<>"[number % 7], color=f"C{number}", ms=8, label=label)
            first = next(iter(document["strategies"].values()))["points"][0]
            axis.plot(first["new"][kind], first["old"][part][kind], "k*", ms=13, label="start (shifted)", zorder=5)
            axis.axhline(document["base_old"][part][kind], color="0.5", lw=0.8, ls=":")
            axis.set(xscale="log", yscale="log", xlabel=f"{NEW}: {unit}", ylabel=f"{part}: {unit}")
            axis.grid(alpha=0.25)
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_locator(LogLocator(subs=(1, 2, 5)))
                side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                side.set_minor_formatter(NullFormatter())
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.suptitle(document["title"], fontsize=10)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run what is missing, write, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="base/model.grace")
    parser.add_argument("--data", default="../shared/datasets")
    parser.add_argument("-o", "--output", default="fine-tuning-2l")
    parser.add_argument("--structures", type=int, default=200)
    parser.add_argument("--replay-structures", type=int, default=40)
    parser.add_argument("--test-structures", type=int, default=150)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--every", type=int, default=4, help="epochs between looks")
    parser.add_argument("--only", nargs="*", help="labels of strategies")
    arguments = parser.parse_args()
    study = Study(arguments)
    path = study.folder / "fine-tuning-2l.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"strategies": {}}
    document["base_old"] = {name: score(study.base, frames) for name, frames in study.old.items()}
    weights = sum(int(np.prod(value.shape)) for value in study.base.weights.values())
    document["title"] = (
        f"two-layer model of {', '.join(study.base.elements)} ({weights:,} numbers) tuned to {len(study.train)} "
        f"structures of {NEW}, {arguments.epochs} epochs\ntests: {len(study.new_test)} new, "
        f"{' + '.join(str(len(frames)) for frames in study.old.values())} old structures"
    )
    for label, (strategy, rate) in VARIANTS.items():
        if label in document["strategies"] or (arguments.only and label not in arguments.only):
            continue
        print(label, flush=True)
        document["strategies"][label] = study.run(strategy, rate)
        path.write_text(json.dumps(document, indent=1) + "\n")
        plot(document, study.folder / "fine-tuning-2l.png")
    path.write_text(json.dumps(document, indent=1) + "\n")
    plot(document, study.folder / "fine-tuning-2l.png")


if __name__ == "__main__":
    main()
