"""Reference energies per element, and the scale of what is left for the network to learn.

E_i / N_i  =  sum_e  x_ie  epsilon_e  +  (rest)        x_ie: fraction of element e in structure i

solved by least squares. Where the compositions do not determine all of them (one stoichiometry only, say), the
solution of smallest norm is taken and a warning says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gracecli.errors import InputError
from gracecli.fit.data import Frame
from gracecli.model.blueprint import Blueprint, ChemicalDensity, Density, MessageDensity, Node, ScaleShift


@dataclass(frozen=True)
class ReferenceEnergies:
    """Reference energies and how well the data determine them.

    Attributes
    ----------
    energies : dict
        eV/atom by element symbol.
    fitted : bool
    rank : int
        Rank of the composition matrix (equal to the number of elements when all are determined).
    condition : float
        Ratio of its largest singular value to its smallest; infinite when the rank is too small.
    residual : float
        RMS of what the reference energies leave, eV/atom.
    warning : str, optional
    """

    energies: dict[str, float]
    fitted: bool
    rank: int
    condition: float
    residual: float
    warning: str | None = None


LISTED = 12
"""Most elements whose reference energies are printed one by one."""


def energies_text(energies: Mapping[str, float]) -> str:
    """Reference energies for the screen: all of a few elements, the range of many."""
    if len(energies) <= LISTED:
        return ", ".join(f"{symbol} {energy:.4f}" for symbol, energy in energies.items())
    low, high = min(energies, key=energies.__getitem__), max(energies, key=energies.__getitem__)
    return f"{len(energies)} elements, from {low} {energies[low]:.4f} to {high} {energies[high]:.4f}"


def fit_reference(
    frames: Sequence[Frame], elements: Sequence[str], given: Mapping[str, float] | None = None
) -> ReferenceEnergies:
    """Reference energies by least squares over energies per atom, or the given ones.

    Parameters
    ----------
    frames : sequence of Frame
    elements : sequence of str
        Elements of the model.
    given : mapping, optional
        eV/atom of *all* elements.

    Raises
    ------
    InputError
        Given values miss an element, or no structure has an energy.
    """
    labelled = [frame for frame in frames if np.isfinite(frame.energy)]
    if not labelled and not given:
        raise InputError("no training structure has an energy, so reference energies cannot be fitted")
    column = {symbol: index for index, symbol in enumerate(elements)}
    fractions = np.zeros((len(labelled), len(elements)))
    for row, frame in enumerate(labelled):
        symbols = frame.atoms.get_chemical_symbols()
        for symbol in symbols:
            fractions[row, column[symbol]] += 1.0 / len(symbols)
    target = np.array([frame.energy / len(frame.atoms) for frame in labelled])
    singular = np.linalg.svd(fractions, compute_uv=False) if labelled else np.zeros(len(elements))
    rank = int((singular > 1e-8 * max(singular.max(initial=0.0), 1e-300)).sum())
    condition = float(singular[0] / singular[len(elements) - 1]) if rank == len(elements) else float("inf")
    if given:
        missing = [symbol for symbol in elements if symbol not in given]
        if missing:
            raise InputError(f"[model] reference lacks {', '.join(missing)}", "give all elements, or none")
        solution = np.array([given[symbol] for symbol in elements])
    else:
        solution = np.linalg.lstsq(fractions, target, rcond=1e-8)[0]
    rest = target - fractions @ solution
    return ReferenceEnergies(
        energies={symbol: float(value) for symbol, value in zip(elements, solution, strict=True)},
        fitted=not given,
        rank=rank,
        condition=condition,
        residual=float(np.sqrt(np.mean(rest**2))) if len(rest) else float("nan"),
        warning=None if given else _warning(fractions, elements, rank),
    )


def _warning(fractions: np.ndarray, elements: Sequence[str], rank: int) -> str | None:
    absent = [symbol for symbol, total in zip(elements, fractions.sum(axis=0), strict=True) if total == 0]
    if rank == len(elements):
        return None
    text = f"compositions determine only {rank} of {len(elements)} reference energies; the smallest ones were taken"
    if absent:
        text += f" (no structure has {', '.join(absent)})"
    return text + "; give them in [model] reference where absolute energies matter"


def force_rms(frames: Sequence[Frame]) -> float:
    """RMS over all force components in eV/Å: the natural scale of the network's energies; 1 without forces."""
    squares = [np.square(frame.forces[np.isfinite(frame.forces)]) for frame in frames]
    total = sum(float(s.sum()) for s in squares)
    count = sum(s.size for s in squares)
    return max(float(np.sqrt(total / count)), 1e-3) if total > 0 else 1.0


def adapt_blueprint(
    blueprint: Blueprint,
    reference: Mapping[str, float],
    scale: float,
    average_neighbours: float,
) -> Blueprint:
    """Put reference energies, scale and the mean number of neighbours of the data into a blueprint.

    The reference energies become the constants of the :class:`ScaleShift` node (in the order of the blueprint's
    elements), so that the network learns the rest, in units of ``scale``.

    Raises
    ------
    InputError
        The blueprint has no ScaleShift node.
    """
    shifts = tuple(float(reference[symbol]) for symbol in blueprint.elements)
    nodes: list[Node] = []
    for node in blueprint:
        if isinstance(node, ScaleShift):
            node = dataclasses.replace(node, scale=float(scale), shift=0.0, element_shifts=shifts)
        elif isinstance(node, Density | MessageDensity | ChemicalDensity):
            node = dataclasses.replace(node, average_neighbours=float(average_neighbours))
        nodes.append(node)
    if not any(isinstance(node, ScaleShift) for node in nodes):
        raise InputError("the model has no ScaleShift node to hold reference energies", "choose another preset")
    return Blueprint(tuple(nodes))
