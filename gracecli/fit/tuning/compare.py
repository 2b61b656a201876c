"""A student against its teacher, and both against labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gracecli.fit.config import DataConfig, SetConfig
from gracecli.fit.data import Frame, permissive_frame, read_set
from gracecli.fit.metrics import Errors, Prediction, errors
from gracecli.fit.tuning.label import evaluate

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.model.modelfile import Model


def against_teacher(student: Model, labelled: Path) -> Errors:
    """Student minus teacher on structures that the teacher labelled (file)."""
    frames, _ = read_set(SetConfig(str(labelled)), DataConfig())
    return _errors(student, frames)


def against_labels(models: Mapping[str, Model], structures: Sequence[Atoms]) -> dict[str, Errors]:
    """Errors of several models on labelled structures; nothing where there are none."""
    if not structures:
        return {}
    data = DataConfig()
    frames = [permissive_frame(atoms, f"structure {i}", "held out", data) for i, atoms in enumerate(structures)]
    return {name: _errors(model, frames) for name, model in models.items()}


def _errors(model: Model, frames: Sequence[Frame]) -> Errors:
    results = evaluate(model, [frame.atoms for frame in frames])
    return errors(frames, [Prediction(r.energy, r.forces, r.stress) for r in results])
