"""A settings file with every key, its default, and what it means: ``grace fit --init``."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

from gracecli.files import write_text_atomically
from gracecli.fit.config import FitConfig

_EXAMPLES = {
    "data.train": '["train.extxyz"]',
    "data.valid": '["valid.extxyz"]',
    "data.test": '["test.extxyz"]',
    "data.root": '"${DATA:-.}"',
    "data.energy_key": '"energy"',
    "data.forces_key": '"forces"',
    "data.stress_key": '"stress"',
    "data.split_seed": "1",
    "model.start": '"grace-1l-11el"',
    "model.elements": '["Cu", "Ni"]',
    "model.cutoff": "6.0",
    "model.overrides": "{ lmax = 3 }",
    "model.reference": "{ Cu = -0.2 }",
    "training.max_time": '"50min"',
    "tuning.strategy": '"replay"',
    "tuning.like": '{ Ag = "Cu" }',
    "tuning.replay": '["old.extxyz"]',
    "tuning.replay_structures": '["old.extxyz"]',
    "tuning.augment": '["rattle", "strain"]',
    "output.name": '"my-model"',
    "output.level_of_theory": '"PBE"',
    "output.licence": '"MIT"',
    "output.citation": '"..."',
    "output.notes": '"..."',
}
"""What stands behind the comment sign where the default is nothing."""

_COMMENTS = {
    "data": "Structures with energies, forces and stresses: extended XYZ, runs of VASP, store.h5:QUERY.",
    "data.train": "files, or tables { path, name, weight, share, drop, ... }: see data/README.md",
    "data.valid": "as train; without it a part of train is split off",
    "data.test": "looked at once, at the end",
    "data.valid_fraction": "of train, by set and config_type",
    "data.root": "folder that paths are relative to",
    "data.energy_key": "name of the label, where it is not energy or free_energy",
    "data.forces_key": "likewise",
    "data.stress_key": "likewise",
    "data.stream": "auto | always | never: leave structures in their store, read batch by batch",
    "data.weighting": "uniform | energy: structures near the convex hull count more",
    "data.weighting_width": "eV/atom above the hull at which the weight is a quarter",
    "data.split_seed": "of the validation split; default: training.seed",
    "model": "What is trained.",
    "model.preset": "fs, 1l, 2l, linear with -small, -medium, -large",
    "model.start": "model to go on from; preset, cutoff, reference and scale then come from it",
    "model.elements": "default: those of the training data",
    "model.cutoff": "Å; default: the preset's",
    "model.overrides": "options of the preset",
    "model.reference": "energies of atoms, eV; default: fitted",
    "model.scale": "eV; 0: the root mean square of the forces",
    "loss": "Weights and widths: energy (eV/atom), force (eV/Å) and stress (eV/Å^3).",
    "loss.kind": "huber | square | absolute",
    "training": "How it is trained.",
    "training.epochs": "passes over the training data",
    "training.batch_atoms": "atoms per batch",
    "training.batches_per_step": "batches whose gradients are summed per step",
    "training.threads": "processors; 0: all (TensorFlow: one)",
    "training.engine": "auto | tensorflow | native",
    "training.workers": "processes that share every step",
    "training.optimizer": "adam | amsgrad | lbfgs (small models)",
    "training.lbfgs_iterations": "per epoch",
    "training.schedule": "cosine | linear | exponential | constant | plateau",
    "training.plateau_patience": "validations without improvement before the rate falls",
    "training.plateau_factor": "by this",
    "training.early_stop": "end after so many validations without improvement; 0: never",
    "training.learning_rate": "peak",
    "training.final_learning_rate": "at the end",
    "training.warmup": "fraction of the run with rising rate",
    "training.weight_decay": "decoupled (AdamW)",
    "training.clip_norm": "largest norm of the gradient",
    "training.ema": "decay of the running mean of the weights; 0: off",
    "training.precision": "fp64 | fp32",
    "training.radial": "projected | exact: radial functions on a grid (fast) or on every bond",
    "training.validate_every": "epochs",
    "training.checkpoint_minutes": "between checkpoints",
    "training.checkpoint_steps": "0: by time alone",
    "training.max_time": "stop with a checkpoint; the schedule stays",
    "training.stages": "later parts of the run with other weights of the loss, as often as wanted",
    "tuning": "Fine-tuning of model.start; without a strategy the fit just continues from it.",
    "tuning.strategy": "naive | frozen | frozen-messages | readout | lora | replay",
    "tuning.rank": "of the low-rank corrections of lora",
    "tuning.alpha": "their strength: the correction is multiplied by alpha / rank",
    "tuning.shift": "fit a shift of the reference energies to the new data first",
    "tuning.shift_regularisation": "weight of the squared shifts",
    "tuning.like": "new element = the element that it starts as a copy of; default: the chemically nearest",
    "tuning.replay": "old data with labels, for replay; as data.train",
    "tuning.replay_structures": "structures that the original model labels itself",
    "tuning.augment": "further such structures: rattle, strain, unaries, binaries",
    "tuning.replay_weight": "factor on the loss of old structures",
    "tuning.head": "name of the new head",
    "tuning.base_head": "name of the head that old data keep in place",
    "output": "Where it goes, and what the model file says of its origin.",
    "output.directory": "folder",
    "output.gamma": "extrapolation grades for the model, from (a sample of) its training data",
    "output.tensorboard": "events for TensorBoard beside log.csv",
}
_STAGE = """
# [[training.stages]]        # {comment}
# start = 0.75               # fraction of the run
# energy = 128.0             # weights from then on; default: as before
# forces = 1.0
# stress = 200.0
# learning_rate = 1e-3       # the schedule begins anew from here; default: it goes on
"""


def template() -> str:
    """The text: keys without a default stand behind a comment sign."""
    lines = ["# Settings of `grace fit`. Every key is optional but [data] train; the values are the defaults.", ""]
    sections = FitConfig()
    for section in dataclasses.fields(sections):
        content = getattr(sections, section.name)
        if _COMMENTS.get(section.name):
            lines.append(f"# {_COMMENTS[section.name]}")
        lines.append(f"[{section.name}]")
        for entry in dataclasses.fields(content):
            key = f"{section.name}.{entry.name}"
            if key != "training.stages":
                lines.append(_line(key, entry.name, getattr(content, entry.name)))
        lines.append("")
    stage = _STAGE.format(comment=_COMMENTS["training.stages"]).strip().splitlines()
    return "\n".join([*lines, *stage]) + "\n"


def _line(key: str, name: str, value: Any) -> str:
    empty = value is None or value in ((), {}) or key == "data.train"
    text = _EXAMPLES.get(key, '"..."') if empty else _toml(value)
    line = f"{name} = {text}" if not empty or key == "data.train" else f"# {name} = {text}"
    comment = _COMMENTS.get(key)
    return f"{line:<34}  # {comment}" if comment else line


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)


def write_template(path: Path, force: bool) -> Path:
    """Write the settings file.

    Raises
    ------
    InputError
        It exists, and ``force`` is off.
    """
    return write_text_atomically(path, template(), force=force)


def keys() -> list[str]:
    """All keys, ``section.name``."""
    return [
        f"{section.name}.{entry.name}"
        for section in dataclasses.fields(FitConfig)
        for entry in dataclasses.fields(_type(section.name))
    ]


def _type(section: str) -> Any:
    annotation = typing.get_type_hints(FitConfig)[section]
    return (
        next(t for t in typing.get_args(annotation) if dataclasses.is_dataclass(t))
        if isinstance(annotation, types.UnionType)
        else annotation
    )
