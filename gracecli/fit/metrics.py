"""Errors of a model on labelled structures: MAE and RMSE, overall and by set, elements and kind of structure.

Energies in meV/atom, forces in meV/Å (per component), stresses in GPa (per component).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from gracecli.engine.base import Array
from gracecli.fit.config import LossConfig
from gracecli.fit.data import Frame
from gracecli.fit.loss import find_loss

GPA = 160.21766208  # GPa per eV/Å^3
UNITS = {"energy": "meV/atom", "forces": "meV/Å", "stress": "GPa"}


@dataclass(frozen=True)
class Prediction:
    """What a model says about one frame."""

    energy: float
    forces: Array
    stress: Array


@dataclass(frozen=True)
class Errors:
    """Errors over a group of structures; NaN where there is no label.

    Attributes
    ----------
    structures, atoms : int
    energy_mae, energy_rmse : float
        meV/atom.
    forces_mae, forces_rmse : float
        meV/Å.
    stress_mae, stress_rmse : float
        GPa.
    """

    structures: int
    atoms: int
    energy_mae: float
    energy_rmse: float
    forces_mae: float
    forces_rmse: float
    stress_mae: float
    stress_rmse: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Residuals:
    """Errors of every label of one kind: eV/atom, eV/Å, eV/Å^3."""

    energy: Array
    forces: Array
    stress: Array


def residuals(frames: Sequence[Frame], predictions: Sequence[Prediction]) -> Residuals:
    """Prediction minus label, for the labels that exist."""
    pairs = list(zip(frames, predictions, strict=True))
    energy = np.array([(p.energy - f.energy) / len(f.atoms) for f, p in pairs])
    forces = [(p.forces - f.forces).ravel() for f, p in pairs]
    stress = [p.stress - f.stress for f, p in pairs]
    return Residuals(*(_present(values) for values in (energy, forces, stress)))


def errors(frames: Sequence[Frame], predictions: Sequence[Prediction]) -> Errors:
    """MAE and RMSE over a group of frames."""
    rest = residuals(frames, predictions)
    values: list[float] = []
    for array, factor in ((rest.energy, 1e3), (rest.forces, 1e3), (rest.stress, GPA)):
        values += [_mean(np.abs(array)) * factor, float(np.sqrt(_mean(array**2))) * factor]
    return Errors(len(frames), sum(len(f.atoms) for f in frames), *values)


def grouped_errors(
    frames: Sequence[Frame], predictions: Sequence[Prediction], key: Callable[[Frame], str]
) -> dict[str, Errors]:
    """Errors by group, sorted by name."""
    groups: dict[str, list[int]] = {}
    for index, frame in enumerate(frames):
        groups.setdefault(key(frame), []).append(index)
    return {
        name: errors([frames[i] for i in members], [predictions[i] for i in members])
        for name, members in sorted(groups.items())
    }


def full_report(frames: Sequence[Frame], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Errors overall, by set, by elements, and by set and ``config_type``, as plain values."""
    keys: dict[str, Callable[[Frame], str]] = {
        "by_set": lambda frame: frame.set_name,
        "by_elements": lambda frame: frame.kind,
        "by_config_type": lambda frame: f"{frame.set_name}/{frame.config_type}",
    }
    report: dict[str, Any] = {"overall": errors(frames, predictions).to_dict()}
    for name, key in keys.items():
        report[name] = {group: e.to_dict() for group, e in grouped_errors(frames, predictions, key).items()}
    report["forces_by_element"] = forces_by_element(frames, predictions)
    return report


def forces_by_element(frames: Sequence[Frame], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Errors of the forces on the atoms of every element: atoms, MAE and RMSE in meV/Å."""
    found: dict[str, list[Array]] = {}
    for frame, prediction in zip(frames, predictions, strict=True):
        rest = prediction.forces - frame.forces
        for z in np.unique(frame.atoms.numbers):
            found.setdefault(chemical_symbols[z], []).append(rest[frame.atoms.numbers == z])
    report = {}
    for symbol, parts in sorted(found.items()):
        values = np.concatenate(parts)
        values = values[np.isfinite(values).all(axis=1)]
        mae, rmse = _mean(np.abs(values)) * 1e3, float(np.sqrt(_mean(values**2))) * 1e3
        report[symbol] = {"atoms": len(values), "mae": mae, "rmse": rmse}
    return report


def mean_loss(frames: Sequence[Frame], predictions: Sequence[Prediction], config: LossConfig) -> float:
    """The training loss per label (see :mod:`gracecli.fit.loss`), weights of the sets included."""
    import tensorflow as tf

    factory = find_loss(config.kind)
    weight = np.array([frame.weight for frame in frames])
    total = 0.0
    for name in ("energy", "forces", "stress"):
        parts, weights = [], []
        for frame, prediction, u in zip(frames, predictions, weight, strict=True):
            size = len(frame.atoms) if name == "energy" else 1
            rest = np.ravel(np.asarray(getattr(prediction, name)) - np.asarray(getattr(frame, name))) / size
            rest = rest[np.isfinite(rest)]
            parts.append(rest)
            weights.append(np.full(len(rest), u))
        residual, u = np.concatenate(parts), np.concatenate(weights)
        if u.sum() > 0:
            value = factory(delta=getattr(config, f"{name}_delta"))(tf.constant(residual), tf.constant(u))
            total += getattr(config, name) * float(value) / float(u.sum())
    return total


def _present(values: Any) -> Array:
    flat = np.concatenate([np.atleast_1d(v) for v in values]) if len(values) else np.zeros(0)
    return flat[np.isfinite(flat)]


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")
