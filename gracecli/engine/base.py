"""The contract between runs and engines: graphs in, energies, forces and stresses out.

Units: eV, Å, eV/Å, eV/Å^3. Stress is tensile-positive, ASE's Voigt order xx yy zz yz xz xy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
IntArray = NDArray[np.int32]


@dataclass(frozen=True)
class Graph:
    """One structure and its directed bonds, sorted by centre (CSR).

    Attributes
    ----------
    numbers : (N,) int32
        Atomic numbers.
    centre, neighbour : (B,) int32
        Bond ``b`` goes from atom ``centre[b]`` to ``neighbour[b]``; ``centre`` is non-decreasing.
        Both directions and every periodic image are present.
    bond_vector : (B, 3) float64
        ``r[neighbour] + shift - r[centre]`` in Å.
    volume : float
        Cell volume in Å^3; NaN where no cell is defined (stress is then undefined).
    first : (N + 1,) int64, optional
        First bond of every atom, and the end, where whoever made the graph knew them.
    shortest : float, optional
        Length of the shortest bond in Å, likewise; infinity without bonds.
    """

    numbers: IntArray
    centre: IntArray
    neighbour: IntArray
    bond_vector: Array
    volume: float
    first: NDArray[np.int64] | None = None
    shortest: float | None = None

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Results:
    """What an engine returns for one structure.

    Attributes
    ----------
    energy : float
        Force-consistent energy in eV.
    energies : (N,) float64
        Per-atom energies in eV.
    forces : (N, 3) float64
        Forces in eV/Å.
    stress : (6,) float64
        Stress in eV/Å^3, tensile-positive, xx yy zz yz xz xy; NaN without a cell.
    extra : dict
        Further per-structure arrays (for instance ``gamma``, the extrapolation grade).
    """

    energy: float
    energies: Array
    forces: Array
    stress: Array
    extra: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Engine(Protocol):
    """Evaluates one model. Engines hold no structure state: graphs in, results out."""

    name: str
    elements: tuple[str, ...]
    cutoff: float
    precision: str

    def evaluate(self, graphs: Sequence[Graph]) -> list[Results]:
        """Energies, forces and stresses of several structures (batched where the engine can)."""
        ...

    def pair_cutoff(self, numbers: IntArray) -> Array | None:
        """Pair-cutoff matrix over the sorted unique ``numbers`` (Å), or None when ``cutoff`` holds for all."""
        ...

    def statistics(self) -> dict[str, Any]:
        """Counters worth showing under ``-v``: ``compiles``, ``compile_seconds``, ``evaluations`` ..."""
        ...
