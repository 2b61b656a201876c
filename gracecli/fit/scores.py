"""Errors of predictions against labels, structure by structure, in constant memory.

The numbers are those of :mod:`gracecli.fit.metrics` (prediction minus label; meV/atom, meV/Å and GPa per component);
sums are kept instead of structures. Energies are compared as they are: a constant between two codes or
pseudopotentials is reported as the median difference per atom, never fitted away. Of the labels themselves a random
sample is kept for pictures.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from gracecli.engine.base import Array
from gracecli.fit.config import DataConfig
from gracecli.fit.data import Frame, permissive_frame
from gracecli.fit.metrics import GPA, Errors, Prediction, residuals

#: A median energy difference beyond this (meV/atom) and three times the scatter around it is called an offset.
OFFSET = 20.0
SAMPLE = 20_000


def frame_of(atoms: Atoms, source: str, set_name: str, data: DataConfig) -> Frame:
    """Labels of a structure; NaN where there is none."""
    return permissive_frame(atoms, source, set_name, data)


@dataclass
class _Sums:
    """Running sums of one group."""

    structures: int = 0
    atoms: int = 0
    count: Array = field(default_factory=lambda: np.zeros(3))
    absolute: Array = field(default_factory=lambda: np.zeros(3))
    squared: Array = field(default_factory=lambda: np.zeros(3))

    def add(self, size: int, rest: tuple[Array, Array, Array]) -> None:
        self.structures += 1
        self.atoms += size
        for k, values in enumerate(rest):
            self.count[k] += len(values)
            self.absolute[k] += float(np.abs(values).sum())
            self.squared[k] += float((values**2).sum())

    def errors(self) -> Errors:
        values: list[float] = []
        for k, factor in enumerate((1e3, 1e3, GPA)):
            n = self.count[k]
            mae, mse = (self.absolute[k] / n, self.squared[k] / n) if n else (float("nan"), float("nan"))
            values += [float(mae) * factor, float(np.sqrt(mse)) * factor]
        return Errors(self.structures, self.atoms, *values)


class Sample:
    """At most :data:`SAMPLE` pairs (label, prediction), each pair equally likely to be among them (reservoir)."""

    def __init__(self, seed: int) -> None:
        self.seen = 0
        self.pairs: Array = np.zeros((0, 2))
        self._random = np.random.default_rng(seed)

    def add(self, label: Array, prediction: Array) -> None:
        """Offer pairs; those without a label are left out."""
        pairs = np.stack([np.ravel(label), np.ravel(prediction)], axis=1)
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        room = SAMPLE - len(self.pairs)
        self.pairs = np.concatenate([self.pairs, pairs[:room]]) if room > 0 else self.pairs
        late = pairs[max(room, 0) :]
        if len(late):
            ordinals = self.seen + max(room, 0) + np.arange(1, len(late) + 1)
            places = (self._random.random(len(late)) * ordinals).astype(np.int64)
            chosen = places < SAMPLE
            self.pairs[places[chosen]] = late[chosen]
        self.seen += len(pairs)


class Scores:
    """Errors so far."""

    def __init__(self, seed: int = 0) -> None:
        self.overall = _Sums()
        self.groups: dict[str, dict[str, _Sums]] = {name: defaultdict(_Sums) for name in ("set", "elements", "config")}
        self.by_element: dict[str, _Sums] = defaultdict(_Sums)
        self.energy_differences = array("d")
        self.samples = {name: Sample(seed + k) for k, name in enumerate(("energy", "forces", "stress"))}

    @property
    def labelled(self) -> bool:
        """Whether there was any label."""
        return bool(self.overall.count.any())

    def add(self, frame: Frame, prediction: Prediction) -> None:
        """Take one structure in."""
        found = residuals([frame], [prediction])
        rest = (found.energy, found.forces, found.stress)
        if not any(len(values) for values in rest):
            return
        size = len(frame.atoms)
        self.overall.add(size, rest)
        keys = {"set": frame.set_name, "elements": frame.kind, "config": f"{frame.set_name}/{frame.config_type}"}
        for name, key in keys.items():
            self.groups[name][key].add(size, rest)
        self.energy_differences.extend(found.energy.tolist())
        if len(found.forces):
            none = np.zeros(0)
            for z in np.unique(frame.atoms.numbers):
                mine = frame.atoms.numbers == z
                values = (prediction.forces - frame.forces)[mine].ravel()
                self.by_element[chemical_symbols[z]].add(int(mine.sum()), (none, values[np.isfinite(values)], none))
        per_atom = np.array([frame.energy, prediction.energy]) / size
        self.samples["energy"].add(per_atom[:1], per_atom[1:])
        self.samples["forces"].add(frame.forces, prediction.forces)
        self.samples["stress"].add(frame.stress * GPA, prediction.stress * GPA)

    def offset(self) -> dict[str, Any]:
        """Median energy difference, what is left around it (meV/atom), and whether it looks like a constant."""
        differences = np.frombuffer(self.energy_differences) * 1e3
        if not len(differences):
            return {"median": None, "mae_around_median": None, "constant": False}
        median = float(np.median(differences))
        scatter = float(np.abs(differences - median).mean())
        constant = len(differences) > 2 and abs(median) > max(OFFSET, 3.0 * scatter)
        return {"median": median, "mae_around_median": scatter, "constant": constant}

    def report(self) -> dict[str, Any]:
        """As :func:`gracecli.fit.metrics.full_report`, with forces by element and the energy offset."""
        names = {"by_set": "set", "by_elements": "elements", "by_config_type": "config"}
        report: dict[str, Any] = {"overall": self.overall.errors().to_dict()}
        for name, key in names.items():
            report[name] = {group: s.errors().to_dict() for group, s in sorted(self.groups[key].items())}
        report["forces_by_element"] = {
            element: {"atoms": s.atoms, "mae": s.errors().forces_mae, "rmse": s.errors().forces_rmse}
            for element, s in sorted(self.by_element.items())
        }
        report["energy_difference"] = self.offset()
        return report


def plot_parity(scores: Scores, path: Any) -> None:
    """Predictions against labels, and the error of the energy; a PNG or whatever the name says."""
    from matplotlib.figure import Figure

    from gracecli.files import write_atomically

    errors = scores.overall.errors()
    kinds = [name for name in scores.samples if scores.samples[name].seen]
    units = {"energy": ("eV/atom", "meV/atom"), "forces": ("eV/Å", "meV/Å"), "stress": ("GPa", "GPa")}
    figure = Figure(figsize=(4.4 * len(kinds), 4.9), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        sample = scores.samples[name]
        x, y = sample.pairs.T
        axis.plot(x, y, ".", ms=3, alpha=0.4, rasterized=len(x) > 4000)
        low, high = float(sample.pairs.min()), float(sample.pairs.max())
        margin = 0.04 * (high - low) or 0.1
        ends = [low - margin, high + margin]
        axis.plot(ends, ends, color="0.4", linewidth=0.8, zorder=0)
        unit, small = units[name]
        axis.set(xlim=ends, ylim=ends, xlabel=f"{name}, label ({unit})", ylabel=f"{name}, model ({unit})")
        axis.set_box_aspect(1)
        mae, rmse = getattr(errors, f"{name}_mae"), getattr(errors, f"{name}_rmse")
        shown = f"{len(x):,} of {sample.seen:,} labels" if len(x) < sample.seen else f"{sample.seen:,} labels"
        axis.set_title(f"MAE {mae:.3g}, RMSE {rmse:.3g} {small}\n{shown}", fontsize=10)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130))
