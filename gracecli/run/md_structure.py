r"""Structure from a trajectory: pair distributions.

With ``<>`` over frames, for elements a and b in the volume V::

    g_ab(r) = V / (N_a N_b) <sum_{i in a, j in b} delta(r - r_ij)> / 4 pi r^2

=================  ===================================================
symbol             variable
=================  ===================================================
g_ab               ``PairDistribution.g``
=================  ===================================================

Error bars: the frames are cut into blocks, each gives an estimate, and the standard error of their mean is shown.

Source: M. P. Allen, D. J. Tildesley, Computer Simulation of Liquids, 2nd ed. (Oxford, 2017), chapter 2.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gracecli.run.md_statistics import block_average
from gracecli.run.md_trajectory import Trajectory

Array = NDArray[np.float64]
BLOCKS = 5
RDF_FRAMES = 200
RDF_BINS = 300
LARGEST_RADIUS = 10.0


@dataclass(frozen=True)
class PairDistribution:
    """g(r) of one pair of elements.

    Attributes
    ----------
    pair : str
        Such as ``"Si-O"``.
    r : (B,) float64
        Middle of the bins, Å.
    g, error : (B,) float64
    coordination : float
        Neighbours of the first element within the first minimum; NaN if there is no peak.
    first_peak, first_minimum : float
        Å.
    """

    pair: str
    r: Array
    g: Array
    error: Array
    coordination: float
    first_peak: float
    first_minimum: float


def pair_distributions(trajectory: Trajectory, frames: slice) -> list[PairDistribution]:
    """g(r) of every pair of elements; empty where the structure is not periodic in three directions."""
    chosen = range(trajectory.frames)[frames]
    if not trajectory.pbc.all() or len(chosen) < 1:
        return []
    chosen = chosen[:: max(1, len(chosen) // RDF_FRAMES)]
    cell = trajectory.cells(slice(chosen[0], chosen[0] + 1))[0]
    reach = float(np.clip(0.5 / np.linalg.norm(np.linalg.inv(cell), axis=0).max(), 6.0, LARGEST_RADIUS))
    edges = np.linspace(0.0, reach, RDF_BINS + 1)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    elements = sorted(set(trajectory.numbers.tolist()))
    pairs = list(combinations_with_replacement(elements, 2))
    counts = {z: int((trajectory.numbers == z).sum()) for z in elements}
    histograms = np.array([_histograms(trajectory, frame, pairs, edges) for frame in chosen])  # (frames, pairs, bins)
    blocks = np.array_split(histograms, min(BLOCKS, len(histograms)))
    found = []
    for place, (a, b) in enumerate(pairs):
        per_block = np.array([block[:, place].mean(axis=0) for block in blocks]) / (counts[a] * counts[b] * shells)
        g, error = block_average(per_block)
        name = f"{chemical_symbols[a]}-{chemical_symbols[b]}"
        number_density = counts[b] * histograms[:, place].mean(axis=0) / (counts[a] * counts[b])
        mean_volume = float(np.mean([abs(np.linalg.det(trajectory.cells(slice(f, f + 1))[0])) for f in chosen]))
        r = 0.5 * (edges[1:] + edges[:-1])
        peak, minimum = _first_shell(r, g)
        around = float(number_density[r < minimum].sum() / mean_volume) if np.isfinite(minimum) else float("nan")
        found.append(PairDistribution(name, r, g, error, around, peak, minimum))
    return found


def _histograms(trajectory: Trajectory, frame: int, pairs: list[tuple[int, int]], edges: Array) -> Array:
    """Counts of distances times the volume, per pair (a, b): both orders of unlike pairs are one."""
    from gracecli.engine.neighbours import build_graph

    one = slice(frame, frame + 1)
    atoms = Atoms(trajectory.numbers, trajectory.positions(one)[0], cell=trajectory.cells(one)[0], pbc=True)
    graph = build_graph(atoms, edges[-1])
    distance = np.linalg.norm(graph.bond_vector, axis=1)
    first, second = trajectory.numbers[graph.centre], trajectory.numbers[graph.neighbour]
    return np.array(
        [np.histogram(distance[(first == a) & (second == b)], edges)[0] * graph.volume for a, b in pairs], dtype=float
    )


def _first_shell(r: Array, g: Array) -> tuple[float, float]:
    """Position of the first peak above 1 and of the minimum behind it (of g smoothed over 0.2 Å); NaN without."""
    width = max(1, round(0.2 / (r[1] - r[0])))
    smooth = np.convolve(g, np.ones(width) / width, mode="same")
    high = np.flatnonzero(smooth > 1.0)
    if len(high) == 0:
        return float("nan"), float("nan")
    low = np.flatnonzero(smooth[high[0] :] < 1.0)
    end = high[0] + (low[0] if len(low) else len(smooth) - high[0])
    peak = high[0] + int(np.argmax(smooth[high[0] : end]))
    again = np.flatnonzero(smooth[end:] > 1.0)
    last = end + (again[0] if len(again) else len(smooth) - end)
    if last <= end:
        return float(r[peak]), float("nan")
    valley = smooth[end:last]
    lowest = np.flatnonzero(valley <= valley.min() + 1e-9)
    return float(r[peak]), float(r[end + int(lowest[len(lowest) // 2])])
