"""Does the extrapolation grade tell where the model is wrong? Grades against force errors on labelled structures.

Per atom: gamma and the length of the force error; per structure: the largest of each. Rank correlations are Spearman's.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.files import write_atomically
from gracecli.fit.scores import Sample

if TYPE_CHECKING:
    from gracecli.engine.base import Array

EDGES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, float("inf"))
UNITS = {"force_error": "eV/Å"}


class Calibration:
    """Grades and errors so far."""

    def __init__(self, seed: int = 0) -> None:
        self.atoms = Sample(seed)
        self.gamma: list[float] = []
        self.error: list[float] = []
        self.sets: list[str] = []

    def add(self, gamma: Array, errors: Array, set_name: str) -> None:
        """Take a structure in: grades (N,) and force errors (N, 3) in eV/Å, NaN without labels."""
        length = np.linalg.norm(errors, axis=1)
        if not np.isfinite(length).any():
            return
        self.atoms.add(gamma, length)
        self.gamma.append(float(gamma.max()))
        self.error.append(float(np.nanmax(length)))
        self.sets.append(set_name)

    def report(self) -> dict[str, Any] | None:
        """Rank correlations and errors by grade; None without labelled atoms."""
        if not self.gamma:
            return None
        gamma, error = self.atoms.pairs.T
        rows = []
        for low, high in pairwise(EDGES):
            inside = (gamma > low) & (gamma <= high)
            if inside.any():
                own = error[inside]
                rows.append(
                    {
                        "from": low,
                        "to": high,
                        "atoms": int(inside.sum()),
                        "mean": float(own.mean()),
                        "median": float(np.median(own)),
                        "percentile_95": float(np.percentile(own, 95)),
                    }
                )
        by_set = {
            name: _rank(np.array(self.gamma)[mine], np.array(self.error)[mine])
            for name in dict.fromkeys(self.sets)
            if (mine := np.array([s == name for s in self.sets])).sum() > 4
        }
        return {
            "atoms": self.atoms.seen,
            "structures": len(self.gamma),
            "rank_correlation_atoms": _rank(gamma, error),
            "rank_correlation_structures": _rank(np.array(self.gamma), np.array(self.error)),
            "rank_correlation_by_set": by_set,
            "structures_beyond_1": int(np.sum(np.array(self.gamma) > 1.0)),
            "force_error": rows,
        }


def _rank(x: Array, y: Array) -> float:
    """Spearman's coefficient; NaN where one does not vary."""
    from scipy.stats import spearmanr

    if len(x) < 3 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def plot_calibration(calibration: Calibration, path: Path) -> None:
    """Atoms as a density with median and 95 % line, structures as points by set."""
    from matplotlib.figure import Figure

    report = calibration.report()
    assert report is not None
    gamma, error = calibration.atoms.pairs.T
    seen = (gamma > 0) & (error > 1e-4)
    figure = Figure(figsize=(10.5, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    if seen.any():
        made = left.hexbin(
            gamma[seen], error[seen], gridsize=45, xscale="log", yscale="log", bins="log", cmap="Blues", mincnt=1
        )
        figure.colorbar(made, ax=left, label="atoms")
        middle, centre, top = _binned(gamma[seen], error[seen])
        left.plot(middle, centre, "o-", color="C1", markersize=4, label="median")
        left.plot(middle, top, "s--", color="C3", markersize=4, label="95 % below")
        left.legend(frameon=False, loc="upper left")
    left.set_title(f"{report['atoms']:,} atoms, rank correlation {report['rank_correlation_atoms']:.2f}", fontsize=10)
    structures = np.array(calibration.gamma), np.maximum(np.array(calibration.error), 1e-4)
    for number, name in enumerate(dict.fromkeys(calibration.sets)):
        mine = np.array([s == name for s in calibration.sets])
        right.plot(*(values[mine] for values in structures), "o", color=f"C{number % 10}", markersize=4, label=name)
    right.set(xscale="log", yscale="log")
    right.legend(frameon=False, fontsize=8)
    title = f"{report['structures']:,} structures, rank correlation {report['rank_correlation_structures']:.2f}"
    right.set_title(f"{title}, largest of each", fontsize=10)
    for axis in (left, right):
        axis.axvline(1.0, color="0.5", linewidth=0.8, zorder=0)
        axis.set(xlabel="extrapolation grade gamma (1: edge of the training data)", ylabel="force error (eV/Å)")
    right.set(ylabel="force error (eV/Å; less than 0.0001 drawn there)")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=140))


def _binned(gamma: Array, error: Array) -> tuple[list[float], list[float], list[float]]:
    """Medians and 95 % lines of equally wide bins (in the logarithm) of at least ten atoms."""
    edges = np.geomspace(gamma.min(), gamma.max() * 1.001, 16)
    place = np.digitize(gamma, edges)
    kept = [mine for k in range(1, len(edges)) if (mine := place == k).sum() >= 10]
    return (
        [float(np.exp(np.log(gamma[mine]).mean())) for mine in kept],
        [float(np.median(error[mine])) for mine in kept],
        [float(np.percentile(error[mine], 95)) for mine in kept],
    )
