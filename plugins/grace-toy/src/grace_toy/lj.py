"""Lennard-Jones.

::

    phi(r) = 4 epsilon [ (sigma/r)^12 - (sigma/r)^6 ] s(x),        x = (r - r_on) / (r_c - r_on)
    s(x)   = 1 for x <= 0;   1 - x^3 (10 - 15 x + 6 x^2) for 0 < x < 1;   0 for x >= 1
    E      = 1/2 sum_(i != j) phi(r_ij)

``s`` has two continuous derivatives, so forces and their derivatives vanish smoothly at the cutoff.

=========  ==============  =========
symbol     variable        unit
=========  ==============  =========
epsilon    ``epsilon``     eV
sigma      ``sigma``       Å
r_c        ``cutoff``      Å
r_on       ``onset``       Å
=========  ==============  =========

Defaults: argon, epsilon/k_B = 120 K, sigma = 3.40 Å (Rahman, Phys. Rev. 136, A405 (1964)).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from grace_toy.pairwise import results, sum_over
from gracecli.engine.base import Array, Graph, IntArray, Results
from gracecli.errors import UsageError

ARGON_EPSILON = 0.010341  # eV, 120 K
ARGON_SIGMA = 3.40  # Å
OPTIONS = ("epsilon", "sigma", "cutoff", "onset")


class LennardJones:
    """Lennard-Jones between all atoms, whatever their element.

    Parameters
    ----------
    epsilon : float
        Depth of the well, eV.
    sigma : float
        Distance of zero energy, Å.
    cutoff : float, optional
        Å; 2.5 sigma by default.
    onset : float, optional
        Where the switch begins, Å; 0.8 of the cutoff by default.
    """

    name = "lj"
    precision = "fp64"
    elements = tuple(chemical_symbols[1:])

    def __init__(
        self,
        epsilon: float = ARGON_EPSILON,
        sigma: float = ARGON_SIGMA,
        cutoff: float | None = None,
        onset: float | None = None,
    ) -> None:
        self.epsilon, self.sigma = float(epsilon), float(sigma)
        self.cutoff = float(2.5 * sigma if cutoff is None else cutoff)
        self.onset = float(0.8 * self.cutoff if onset is None else onset)
        if not (self.epsilon > 0 and self.sigma > 0 and 0 < self.onset < self.cutoff):
            raise UsageError("lj needs epsilon > 0, sigma > 0 and 0 < onset < cutoff")
        self._evaluations = 0

    def evaluate(self, graphs: Sequence[Graph]) -> list[Results]:
        """Energies, forces and stresses."""
        self._evaluations += len(graphs)
        return [self._evaluate(graph) for graph in graphs]

    def pair_cutoff(self, numbers: IntArray) -> Array | None:
        """None: one cutoff for all."""
        return None

    def statistics(self) -> dict[str, Any]:
        """Number of structures evaluated; nothing is ever compiled."""
        return {"compiles": 0, "compile_seconds": 0.0, "evaluations": self._evaluations}

    def pair_energy(self, distance: Array) -> tuple[Array, Array]:
        """Energy phi (eV) and slope d phi/dr (eV/Å) at distances in Å, same shape."""
        attraction = (self.sigma / distance) ** 6
        phi = 4 * self.epsilon * attraction * (attraction - 1)
        slope = -24 * self.epsilon * attraction * (2 * attraction - 1) / distance
        x = np.clip((distance - self.onset) / (self.cutoff - self.onset), 0, 1)
        switch = 1 - x**3 * (10 - 15 * x + 6 * x**2)
        switch_slope = -30 * x**2 * (1 - x) ** 2 / (self.cutoff - self.onset)
        return phi * switch, slope * switch + phi * switch_slope

    def _evaluate(self, graph: Graph) -> Results:
        distance = np.linalg.norm(graph.bond_vector, axis=1)
        phi, slope = self.pair_energy(distance)
        energies = sum_over(graph.centre, 0.5 * phi, len(graph))
        gradient = (0.5 * slope / distance)[:, None] * graph.bond_vector
        return results(graph, energies, gradient)


def create_engine(model_path: Path | None = None, precision: str | None = None, **options: Any) -> LennardJones:
    """Make the engine; options are those of :class:`LennardJones`.

    Raises
    ------
    UsageError
        Unknown or unusable option, or an arithmetic other than fp64.
    """
    if precision not in (None, "fp64"):
        raise UsageError(f"lj computes in fp64, not {precision}", "leave --precision out")
    for name, value in options.items():
        if name not in OPTIONS:
            raise UsageError(f"lj has no option {name!r}", f"its options are {', '.join(OPTIONS)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"option {name} of lj must be a number, not {value!r}")
    return LennardJones(**options)
