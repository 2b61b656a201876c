r"""Weights of structures in the loss: uniform, or larger for lower energies.

``energy``: what matters at the temperatures of use lies close to the ground state, so a structure with energy e
(per atom) above the convex hull of all training structures gets the weight

    u = c / (e - e_hull + delta)^2                c: mean of u over the training structures is 1

It multiplies the weight of the set; energy, forces and stress of a structure share it.

The idea is that of the energy-based weighting of pacemaker (A. Bochkarev, Y. Lysogorskiy, S. Menon, M. Qamar,
M. Mrovec, R. Drautz, "Efficient parametrization of the atomic cluster expansion", Phys. Rev. Materials 6, 013804
(2022)), not its whole: delta plays the part of its setting DE ("delta_E shift for weights"). Not here are weights of
single forces with a shift DF of their own, the limits DEup and DFup beyond which structures are left out, and the share
wlow of all weights that goes to the range up to DElow. The square was not checked against the printed formula.

e_hull is the lowest energy per atom that any mixture of training structures reaches at the composition x of the
structure, a small linear program:

    e_hull(x) = min sum_k a_k e_k,    sum_k a_k x_k = x,    a_k >= 0

For one element, or molecules of one composition, it is the lowest energy there (cohesive energy).

===========  =====================================
symbol       variable
===========  =====================================
x_k, e_k     ``corners``, ``lowest``
delta        ``width``
===========  =====================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gracecli.engine.base import Array
from gracecli.fit.data import Frame

if TYPE_CHECKING:
    from gracecli.fit.config import DataConfig

Composition = tuple[tuple[int, float], ...]


def composition_of(frame: Frame) -> Composition:
    """Fractions by atomic number, rounded so that a cell and its multiples agree."""
    numbers, counts = np.unique(frame.atoms.numbers, return_counts=True)
    size = counts.sum()
    return tuple((int(z), round(float(n / size), 9)) for z, n in zip(numbers, counts, strict=True))


@dataclass(frozen=True)
class Hull:
    """Lowest energy per atom of mixtures of known structures.

    Attributes
    ----------
    lowest : dict
        Lowest energy (eV/atom) among structures of a composition.
    """

    lowest: Mapping[Composition, float]

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Hull:
        """Hull of all structures with an energy."""
        lowest: dict[Composition, float] = {}
        for frame in frames:
            if np.isfinite(frame.energy):
                key = composition_of(frame)
                lowest[key] = min(lowest.get(key, np.inf), frame.energy / len(frame.atoms))
        return cls(lowest)

    def energies(self, compositions: Sequence[Composition]) -> dict[Composition, float]:
        """e_hull (eV/atom) at some compositions; NaN where no mixture has that composition."""
        from scipy.optimize import linprog

        known = list(self.lowest)
        elements = sorted({z for key in (*known, *compositions) for z, _ in key})
        column = {z: i for i, z in enumerate(elements)}

        def fractions(key: Composition) -> Array:
            row = np.zeros(len(elements))
            for z, value in key:
                row[column[z]] = value
            return row

        corners = np.array([fractions(key) for key in known])
        energy = np.array([self.lowest[key] for key in known])
        found = {}
        for key in compositions:
            inside = [k for k, other in enumerate(known) if {z for z, _ in other} <= {z for z, _ in key}]
            if not inside:
                found[key] = float("nan")
                continue
            result = linprog(energy[inside], A_eq=corners[inside].T, b_eq=fractions(key), bounds=(0, None))
            found[key] = float(result.fun) if result.success else float("nan")
        return found


@dataclass(frozen=True)
class EnergyWeights:
    """Weights by energy above the hull of the training structures."""

    hull: Hull
    width: float
    factor: float = 1.0

    @classmethod
    def of(cls, frames: Sequence[Frame], width: float) -> EnergyWeights:
        """Weights whose mean over the frames is 1."""
        weights = cls(Hull.of(frames), width)
        return replace(weights, factor=1.0 / float(np.mean(weights(frames))))

    def __call__(self, frames: Sequence[Frame]) -> Array:
        """Weights (frames,); structures without energy, or off the hull's compositions, count as on the hull."""
        keys, energies = [], []
        for frame in frames:
            keys.append(composition_of(frame))
            energies.append(frame.energy / len(frame.atoms))
        hull = self.hull.energies(sorted(set(keys)))
        above = np.array(energies) - np.array([hull[key] for key in keys])
        above = np.maximum(np.nan_to_num(above, nan=0.0), 0.0)
        return np.asarray(self.factor / (above + self.width) ** 2)


def apply_weighting(
    train: Sequence[Frame], others: Sequence[list[Frame]], data: DataConfig
) -> tuple[Sequence[Frame], list[list[Frame]]]:
    """Training frames and other lists of frames with the weights that the settings ask for."""
    if data.weighting == "uniform":
        return train, list(others)
    weights = EnergyWeights.of(train, data.weighting_width)
    found = weights(train)
    weighted: Sequence[Frame]
    if hasattr(train, "with_weights"):  # in a store
        weighted = train.with_weights(train.table.weight * found)  # type: ignore[attr-defined]
    else:
        weighted = _times(train, found)
    return weighted, [_times(frames, weights(frames)) if frames else frames for frames in others]


def _times(frames: Sequence[Frame], factors: Array) -> list[Frame]:
    return [replace(frame, weight=frame.weight * float(f)) for frame, f in zip(frames, factors, strict=True)]
