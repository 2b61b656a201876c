"""Reference energies of a model for new data: one shift per element, fitted before training.

    min_d  1/S sum_s ( r_s - sum_e x_se d_e )^2 + lambda |d|^2      r_s = (E_label - E_model) / N
                                                                    x_se: fraction of element e in structure s

The regularisation picks the smallest shifts where compositions do not determine them. Elements that do not occur keep
their reference energies exactly.

=======  ====================
symbol   variable
=======  ====================
r_s      ``difference``
x_se     ``fractions``
d_e      ``shifts``
lambda   ``regularisation``
=======  ====================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gracecli.fit.data import Frame
from gracecli.fit.tuning.label import evaluate
from gracecli.model import blueprint as bp
from gracecli.model.modelfile import Model

SAMPLE = 1000
"""Structures that are enough to fit one number per element."""


@dataclass(frozen=True)
class Shift:
    """Shifts of reference energies, and what they do.

    Attributes
    ----------
    shifts : dict
        eV/atom by element in the data.
    rank : int
        How many of them the compositions determine.
    before, after : float
        Mean absolute difference between labels and model, meV/atom.
    structures : int
        Structures it was fitted to.
    """

    shifts: dict[str, float]
    rank: int
    before: float
    after: float
    structures: int


def fit_shift(model: Model, frames: Sequence[Frame], regularisation: float, seed: int) -> Shift:
    """Shifts that bring the energies of a model closest to labels."""
    chosen = [frame for frame in frames if np.isfinite(frame.energy)]
    if len(chosen) > SAMPLE:
        order = np.random.default_rng([seed, 0x5417]).permutation(len(chosen))[:SAMPLE]
        chosen = [chosen[i] for i in sorted(order)]
    energies = np.array([result.energy for result in evaluate(model, [frame.atoms for frame in chosen])])
    sizes = np.array([len(frame.atoms) for frame in chosen])
    difference = (np.array([frame.energy for frame in chosen]) - energies) / sizes
    present = [e for e in model.elements if any(e in frame.atoms.symbols for frame in chosen)]
    fractions = np.array([[np.mean(frame.atoms.symbols == e) for e in present] for frame in chosen])
    shifts, rank = solve_shifts(fractions, difference, regularisation)
    rest = difference - fractions @ shifts
    mae = [1e3 * float(np.abs(values).mean()) if len(values) else 0.0 for values in (difference, rest)]
    return Shift(dict(zip(present, shifts.tolist(), strict=True)), rank, mae[0], mae[1], len(chosen))


def solve_shifts(fractions: np.ndarray, difference: np.ndarray, regularisation: float) -> tuple[np.ndarray, int]:
    """Regularised least squares, and the rank of the compositions."""
    structures, elements = fractions.shape if fractions.ndim == 2 else (0, 0)
    if not structures or not elements:
        return np.zeros(elements), 0
    rank = int(np.linalg.matrix_rank(fractions, tol=1e-6 * np.sqrt(structures)))
    rows = np.vstack([fractions / np.sqrt(structures), np.sqrt(regularisation) * np.eye(elements)])
    target = np.concatenate([difference / np.sqrt(structures), np.zeros(elements)])
    return np.linalg.lstsq(rows, target, rcond=None)[0], rank


def apply_shift(model: Model, shifts: Mapping[str, float]) -> Model:
    """The model with shifted reference energies: constants of its last :class:`ScaleShift` (one is added if need be).

    Nothing is recomputed for elements without a shift, so their energies keep every bit.
    """
    if not any(shifts.values()):
        return model
    own = [shifts.get(symbol, 0.0) for symbol in model.elements]
    nodes = list(model.blueprint.nodes)
    holders = [i for i, node in enumerate(nodes) if isinstance(node, bp.ScaleShift)]
    if holders:
        node = nodes[holders[-1]]
        assert isinstance(node, bp.ScaleShift)
        old = node.element_shifts or (0.0,) * len(own)
        nodes[holders[-1]] = replace(node, element_shifts=tuple(a + b for a, b in zip(old, own, strict=True)))
    else:
        name = "ReferenceShift"
        while any(node.name == name for node in nodes):
            name += "_"
        nodes.append(bp.ScaleShift(name=name, element_shifts=tuple(own)))
    return replace(model, blueprint=bp.Blueprint(tuple(nodes)))
