"""What a fit returns, and the names of its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKPOINT, MODEL, LOG = "checkpoint.npz", "model.grace", "log.csv"
REPORT, PAGE = "report.json", "report.html"


@dataclass(frozen=True)
class FitResult:
    """What a fit returns.

    Attributes
    ----------
    completed : bool
        All epochs were done; otherwise the time limit was reached and a checkpoint was saved.
    directory, model : Path
        Folder of all files; the model file (best validation loss so far).
    epochs, steps : int
        Done so far.
    best_epoch : int
        Epoch (from 1) of the model; 0 without validation.
    seconds : float
        Training time over all runs.
    metrics : dict
        ``valid`` and ``test`` reports of :func:`gracecli.fit.metrics.full_report`.
    reference : dict
        Reference energies, eV/atom.
    parameters : int
    gamma : dict, optional
        What the extrapolation grade was made from (:func:`gracecli.fit.training_grade.grade_file`).
    """

    completed: bool
    directory: Path
    model: Path
    epochs: int
    steps: int
    best_epoch: int
    seconds: float
    metrics: dict[str, Any]
    reference: dict[str, float]
    parameters: int
    gamma: dict[str, Any] | None = None
