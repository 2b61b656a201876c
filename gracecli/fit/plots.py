"""Pictures of a fit: training curves, and predictions against labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gracecli.files import write_atomically
from gracecli.fit.data import Frame
from gracecli.fit.metrics import GPA, Prediction, errors

FEW_POINTS = 300
MANY_POINTS = 4000
"""Above this many labels a cloud is drawn as pixels, not as vector shapes."""


def plot_curves(log: Sequence[Mapping[str, Any]], path: Path, best_epoch: int = -1) -> None:
    """Loss, errors and learning rate against the epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    epochs = [row["epoch"] for row in log]
    _curves(axes[0, 0], epochs, {"training": _column(log, "loss"), "validation": _column(log, "valid_loss")}, "loss")
    names = {"energy": "meV/atom", "forces": "meV/Å", "stress": "GPa"}
    for axis, (name, unit) in zip((axes[0, 1], axes[0, 2], axes[1, 0]), names.items(), strict=True):
        series = {kind.upper(): _column(log, f"valid_{name}_{kind}") for kind in ("mae", "rmse")}
        title = f"validation {name} ({unit})"
        if all(np.isnan(column).all() for column in series.values()):  # no validation: what the loss is made of
            series, title = {"": _column(log, f"loss_{name}")}, f"{name} in the loss"
        _curves(axis, epochs, series, title)
    _curves(axes[1, 1], epochs, {"": _column(log, "learning_rate")}, "learning rate")
    _curves(axes[1, 2], epochs, {"": _column(log, "gradient_norm")}, "mean gradient norm")
    for axis in axes.flat:
        if best_epoch >= 0:
            axis.axvline(best_epoch + 1, color="0.7", linewidth=0.8, zorder=0)
    _save(figure, path)


def plot_parity(groups: Mapping[str, tuple[Sequence[Frame], Sequence[Prediction]]], path: Path) -> None:
    """Errors of energies, and predictions of forces and stresses, against the labels; one row per group.

    Energies span many eV between elements while errors are meV, so their error is drawn, not their parity.
    """
    from matplotlib.figure import Figure

    shown = {name: pair for name, pair in groups.items() if pair[0]}
    if not shown:
        return
    names = sorted({frame.set_name for frames, _ in shown.values() for frame in frames})
    colors = {name: f"C{number}" for number, name in enumerate(names)} if len(names) <= 10 else {}
    figure = Figure(figsize=(12, 3.9 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 3, squeeze=False)
    for axes, (name, (frames, predictions)) in zip(grid, shown.items(), strict=True):
        summary = errors(frames, predictions)
        kinds = sorted({frame.set_name for frame in frames})
        for kind in kinds:
            chosen = [(f, p) for f, p in zip(frames, predictions, strict=True) if f.set_name == kind]
            sizes = np.array([len(f.atoms) for f, _ in chosen])
            energy = np.array([f.energy for f, _ in chosen]) / sizes
            error = (np.array([p.energy for _, p in chosen]) / sizes - energy) * 1e3
            forces = [np.concatenate([x.ravel() for x in xs]) for xs in _columns(chosen, "forces")]
            stress = [np.concatenate(xs) * GPA for xs in _columns(chosen, "stress")]
            color = colors.get(kind)
            for axis, x, y in zip(axes, (energy, forces[0], stress[0]), (error, forces[1], stress[1]), strict=True):
                size = 7 if len(x) < FEW_POINTS else 3
                axis.plot(x, y, ".", ms=size, alpha=0.5, color=color, label=kind, rasterized=len(x) > MANY_POINTS)
        axes[0].axhline(0.0, color="0.4", linewidth=0.8, zorder=0)
        for axis in axes[1:]:
            _square(axis)
        labels = (
            ("energy, label (eV/atom)", "error (meV/atom)", f"MAE {summary.energy_mae:.2f} meV/atom"),
            ("force, label (eV/Å)", "force, model (eV/Å)", f"MAE {summary.forces_mae:.1f} meV/Å"),
            ("stress, label (GPa)", "stress, model (GPa)", f"MAE {summary.stress_mae:.3f} GPa"),
        )
        for axis, (x_label, y_label, title) in zip(axes, labels, strict=True):
            axis.set(xlabel=x_label, ylabel=y_label, title=f"{name}: {title}")
        if len(kinds) > 1:
            axes[0].legend(fontsize=7, markerscale=2)
    _save(figure, path)


def _square(axis: Any) -> None:
    """Equal limits and ticks on both axes, and the diagonal."""
    from matplotlib.ticker import MaxNLocator

    limits = np.array([axis.get_xlim(), axis.get_ylim()])
    ends = [limits.min(), limits.max()]
    axis.plot(ends, ends, color="0.4", linewidth=0.8, zorder=0)
    axis.set(xlim=ends, ylim=ends)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MaxNLocator(6))
    axis.set_box_aspect(1)


def _columns(chosen: Sequence[tuple[Frame, Prediction]], name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [getattr(f, name) for f, _ in chosen], [getattr(p, name) for _, p in chosen]


def _column(log: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([np.nan if row.get(name) is None else row[name] for row in log], dtype=float)


def _plain_ticks(axis: Any, ratio: float) -> None:
    """Numbers such as 0.2 and 50 on a logarithmic axis: as many ticks as the range needs, and no powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    subs = (1.0,) if ratio > 300 else (1.0, 2.0, 5.0) if ratio > 4 else None
    axis.set_major_locator(MaxNLocator(5) if subs is None else LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _curves(axis: Any, epochs: Sequence[int], series: Mapping[str, np.ndarray], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for label, values in series.items():
        present = np.isfinite(values)
        if present.any():
            marker = "o" if present.sum() < 30 else None
            axis.plot(np.asarray(epochs)[present], values[present], label=label or None, marker=marker, ms=3)
    axis.set(xlabel="epoch", title=title)
    positive = [v for values in series.values() for v in values[np.isfinite(values)]]
    if positive and min(positive) > 0:
        axis.set_yscale("log")
        _plain_ticks(axis.yaxis, max(positive) / min(positive))
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(axis.lines) and any(series):
        axis.legend(fontsize=8)


def _save(figure: Any, path: Path) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130))
