"""Ensembles: the same fit from several seeds, one folder each, and what they say together.

All members share the validation split of the first seed, so that their errors compare and their mean can be judged on
structures that none has seen. The spread of the members (standard deviation) is compared with the error of their mean:
a rank correlation near 1 means that it tells good predictions from bad ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gracecli.files import write_text_atomically
from gracecli.fit.config import FitConfig
from gracecli.fit.data import Frame
from gracecli.fit.metrics import UNITS, Prediction, errors
from gracecli.fit.progress import Progress
from gracecli.fit.result import FitResult
from gracecli.fit.start import create_trainer
from gracecli.fit.table import plain

SUMMARY = "ensemble.json"
Predictions = dict[str, list[Prediction]]


@dataclass(frozen=True)
class EnsembleResult:
    """What an ensemble returns.

    Attributes
    ----------
    directory : Path
    seeds : tuple of int
    members : tuple of FitResult
    mean : dict
        Errors of the mean prediction, ``valid`` and ``test``, as of one model.
    spread : dict
        By split: mean standard deviation of the members (meV/atom, meV/Å) and its rank correlation with the errors.
    """

    directory: Path
    seeds: tuple[int, ...]
    members: tuple[FitResult, ...]
    mean: dict[str, Any]
    spread: dict[str, Any]

    @property
    def completed(self) -> bool:
        """Whether every member did all its epochs."""
        return all(member.completed for member in self.members)


def member_config(config: FitConfig, seed: int, first: int) -> FitConfig:
    """Settings of one member."""
    directory = str(Path(config.output.directory) / f"seed-{seed}")
    split = config.data.split_seed if config.data.split_seed is not None else first
    return replace(
        config,
        data=replace(config.data, split_seed=split),
        training=replace(config.training, seed=seed),
        output=replace(config.output, directory=directory),
    )


def run_ensemble(
    config: FitConfig,
    seeds: Sequence[int],
    progress: Callable[[int], Progress] = lambda seed: Progress(quiet=True),
    resume: bool = False,
    force: bool = False,
) -> EnsembleResult:
    """Fit every member (with ``resume`` those that are not done), then judge them together."""
    members: list[FitResult] = []
    predictions: list[Predictions] = []
    frames: dict[str, Sequence[Frame]] = {}
    for seed in seeds:
        chosen = member_config(config, seed, seeds[0])
        begun = (Path(chosen.output.directory) / "checkpoint.npz").exists()
        trainer = create_trainer(chosen, progress(seed), resume=resume and begun, force=force)
        members.append(trainer.run())
        predictions.append(trainer.predictions)
        frames = {"valid": trainer.data.valid, "test": trainer.data.test}
    mean, spread = {}, {}
    for split in predictions[0]:
        together = [mean_of(each) for each in zip(*(p[split] for p in predictions), strict=True)]
        mean[split] = errors(frames[split], together).to_dict()
        spread[split] = spread_of(frames[split], together, [p[split] for p in predictions])
    result = EnsembleResult(Path(config.output.directory), tuple(seeds), tuple(members), mean, spread)
    write_summary(result)
    return result


def mean_of(predictions: Sequence[Prediction]) -> Prediction:
    """Mean of the members for one structure."""
    return Prediction(
        float(np.mean([p.energy for p in predictions])),
        np.mean([p.forces for p in predictions], axis=0),
        np.mean([p.stress for p in predictions], axis=0),
    )


def spread_of(
    frames: Sequence[Frame], mean: Sequence[Prediction], members: Sequence[Sequence[Prediction]]
) -> dict[str, Any]:
    """Standard deviations of the members against the errors of their mean."""
    from scipy.stats import spearmanr

    size = np.array([len(frame.atoms) for frame in frames])
    energies = np.array([[p.energy for p in each] for each in members]) / size
    forces = np.std([np.concatenate([p.forces for p in each]) for each in members], axis=0)
    pairs = {
        "energy": (
            energies.std(axis=0),
            np.abs([p.energy - f.energy for p, f in zip(mean, frames, strict=True)]) / size,
        ),
        "forces": (
            np.linalg.norm(forces, axis=1),
            np.linalg.norm(np.concatenate([p.forces - f.forces for p, f in zip(mean, frames, strict=True)]), axis=1),
        ),
    }
    found: dict[str, Any] = {}
    for name, (deviation, error) in pairs.items():
        known = np.isfinite(error)
        enough = known.sum() > 2 and np.ptp(deviation[known]) > 0 and np.ptp(error[known]) > 0
        found[f"{name}_spread"] = 1e3 * float(deviation.mean())
        found[f"{name}_rank_correlation"] = float(spearmanr(deviation[known], error[known])[0]) if enough else None
    return found


def write_summary(result: EnsembleResult) -> None:
    """``ensemble.json`` in the folder of the ensemble."""
    document = {
        "schema": "gracecli.fit-ensemble",
        "schema_version": 1,
        "_units": {**UNITS, "energy_spread": "meV/atom", "forces_spread": "meV/Å"},
        "members": [
            {"seed": seed, "model": str(member.model), "completed": member.completed, "metrics": member.metrics}
            for seed, member in zip(result.seeds, result.members, strict=True)
        ],
        "mean": result.mean,
        "spread": result.spread,
    }
    text = json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False)
    write_text_atomically(result.directory / SUMMARY, text + "\n")
