r"""Learning rate and loss weights as pure functions of the progress of the run (and, for plateaus, of its log).

With progress p in [0, 1] (completed part of the planned epochs), warm-up fraction w, peak a and end b, and
q = (p - w) / (1 - w)::

    p < w          lr = a (0.01 + 0.99 p / w)
    cosine         lr = b + (a - b) (1 + cos(pi q)) / 2
    linear         lr = a + (b - a) q
    exponential    lr = a (b / a)^q
    constant       lr = a
    plateau        lr = max(b, a f^k)          k: times the loss has not improved for ``patience`` validations

A stage (``[[training.stages]]``) begins at its ``start``, changes weights of the loss, and may begin the schedule anew
from a learning rate of its own, q then running from its start to the end of the run. This is the two-step training of
the GRACE paper: first mostly forces, then energies.

A time limit, a resume or a change of machine moves nothing: p depends on epoch and position alone, and the log is part
of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import cos, pi
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gracecli.fit.config import FitConfig, LossConfig, StageConfig, TrainingConfig

SCHEDULES = ("cosine", "linear", "exponential", "constant", "plateau")
IMPROVEMENT = 1e-4
"""Relative decrease of the loss that counts as an improvement."""


def learning_rate(training: TrainingConfig, progress: float, log: Sequence[Mapping[str, Any]] = ()) -> float:
    """Learning rate at ``progress`` in [0, 1].

    Parameters
    ----------
    training : TrainingConfig
    progress : float
        Completed fraction of the run.
    log : sequence of mapping
        Rows of the epochs done, for the schedule ``plateau``.
    """
    progress = min(max(progress, 0.0), 1.0)
    peak, begin = training.learning_rate, training.warmup
    if progress < begin:
        return peak * (0.01 + 0.99 * progress / begin)
    for stage in training.stages:
        if stage.learning_rate is not None and progress >= stage.start:
            peak, begin = stage.learning_rate, stage.start
    done = (progress - begin) / (1.0 - begin) if begin < 1.0 else 1.0
    end = min(training.final_learning_rate, peak)
    if training.schedule == "constant":
        return peak
    if training.schedule == "linear":
        return peak + (end - peak) * done
    if training.schedule == "exponential":
        return float(peak * (end / peak) ** done)
    if training.schedule == "plateau":
        rows = [row for row in log if row["epoch"] / training.epochs > begin]
        times = stalls(_losses(rows), training.plateau_patience)[0]
        return max(end, peak * training.plateau_factor**times)
    return end + (peak - end) * 0.5 * (1.0 + cos(pi * done))


def stage_at(training: TrainingConfig, progress: float) -> StageConfig | None:
    """The stage that ``progress`` lies in; None before the first."""
    begun = [stage for stage in training.stages if progress >= stage.start]
    return begun[-1] if begun else None


def loss_weights(config: FitConfig, progress: float) -> tuple[float, float, float]:
    """Weights of energy, forces and stress at ``progress``; a stage keeps what it does not name."""
    weights = {name: getattr(config.loss, name) for name in ("energy", "forces", "stress")}
    for stage in config.training.stages:
        if progress >= stage.start:
            weights |= {name: getattr(stage, name) for name in weights if getattr(stage, name) is not None}
    return weights["energy"], weights["forces"], weights["stress"]


def final_loss(config: FitConfig) -> LossConfig:
    """The loss of the last stage: what validation is measured by throughout, so that its values compare."""
    from dataclasses import replace

    energy, forces, stress = loss_weights(config, 1.0)
    return replace(config.loss, energy=energy, forces=forces, stress=stress)


def ends_early(training: TrainingConfig, log: Sequence[Mapping[str, Any]]) -> bool:
    """Whether ``early_stop`` validations in a row, in the last stage, brought nothing."""
    if not training.early_stop:
        return False
    begin = training.stages[-1].start if training.stages else 0.0
    rows = [row for row in log if row["epoch"] / training.epochs > begin]
    return stalls(_losses(rows), training.early_stop)[0] > 0


def stalls(losses: Sequence[float], patience: int) -> tuple[int, int]:
    """How often ``patience`` losses in a row did not improve on the best, and how many did not since then."""
    best, waiting, times = float("inf"), 0, 0
    for loss in losses:
        if loss < best * (1.0 - IMPROVEMENT):
            best, waiting = loss, 0
        else:
            waiting += 1
        if waiting >= patience:
            times, waiting = times + 1, 0
    return times, waiting


def _losses(log: Sequence[Mapping[str, Any]]) -> list[float]:
    """Validation losses; training losses where nothing is validated."""
    found = [row["valid_loss"] for row in log if row.get("valid_loss") is not None]
    return found if found else [row["loss"] for row in log]


def progress_of(epoch: int, position: int, steps: int, epochs: int) -> float:
    """Completed fraction of the run before step ``position`` of ``steps`` in ``epoch`` (from 0) of ``epochs``."""
    return (epoch + position / max(steps, 1)) / epochs
