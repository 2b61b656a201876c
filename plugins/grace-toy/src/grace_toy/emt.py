"""Effective medium theory, with the parameters and cutoff of ``ase.calculators.emt``.

For atom i with neighbours j, and chi_ij = n0_j / n0_i, all parameters by element::

    theta(r)  = 1 / (1 + exp[a (r - r_c)])
    sigma1_i  = sum_j chi_ij exp[-eta2_j (r_ij - beta s0_j)] theta(r_ij)
    sigma2_ij = chi_ij exp[-kappa_j (r_ij / beta - s0_j)] theta(r_ij)
    s_i       = -ln[ sigma1_i / (12 gamma1_i) ] / (beta eta2_i)              (neutral sphere, from s0)
    E_i       = E0_i { [1 + lambda_i s_i] exp(-lambda_i s_i) - 1 }           (cohesive function)
              + 6 V0_i exp(-kappa_i s_i)                                     (atomic sphere)
              - 1/4 sum_j [V0_i sigma2_ij / gamma2_i + V0_j sigma2_ji / gamma2_j]
    gamma1, gamma2: theta-weighted sums over the first three fcc shells

The paper gives the whole pair term of a bond direction to atom i; here, as in ASE, its two ends share it. Atoms
without neighbours have E_i = -E0_i.

=========================  ==============================
symbol                     variable
=========================  ==============================
E0, s0, V0, eta2, kappa,   fields of ``_Table``, by element
lambda, n0, gamma1, gamma2
s_i                        ``sphere``
r_c, a                     ``MIDPOINT``, ``SLOPE``
=========================  ==============================

Source: Jacobsen, Stoltze, Nørskov, Surf. Sci. 366, 394 (1996).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.emt import beta, parameters
from ase.data import atomic_numbers
from ase.units import Bohr

from grace_toy.pairwise import results, sum_over
from gracecli.engine.base import Array, Graph, IntArray, Results
from gracecli.errors import InputError, UsageError

_NEAREST = beta * Bohr * max(row[1] for row in parameters.values())  # nearest distance of the largest element in fcc
MIDPOINT = 0.5 * _NEAREST * (sqrt(3.0) + 2.0)
SLOPE = log(1e4 - 1.0) / (2.0 * _NEAREST - MIDPOINT)  # theta is 1e-4 at the fourth shell


@dataclass(frozen=True)
class _Table:
    """Parameters, (119,) by atomic number, eV and Å; NaN for elements without any."""

    e0: Array
    s0: Array
    v0: Array
    eta2: Array
    kappa: Array
    lam: Array
    n0: Array
    gamma1: Array
    gamma2: Array


def _table() -> _Table:
    columns = np.full((9, 119), np.nan)
    units = np.array([1, Bohr, 1, 1 / Bohr, 1 / Bohr, 1 / Bohr, 1 / Bohr**3])
    for symbol, row in parameters.items():
        values = np.array(row) * units
        s0, eta2, kappa = values[1], values[3], values[4]
        shells = beta * s0 * np.sqrt([1.0, 2.0, 3.0])
        weights = np.array([12, 6, 24]) / 12.0 * _theta(shells)
        gamma1 = weights @ np.exp(-eta2 * (shells - beta * s0))
        gamma2 = weights @ np.exp(-kappa / beta * (shells - beta * s0))
        columns[:, atomic_numbers[symbol]] = [*values, gamma1, gamma2]
    return _Table(*columns)


def _theta(distance: Array) -> Array:
    return 1.0 / (1.0 + np.exp(SLOPE * (distance - MIDPOINT)))


class EffectiveMedium:
    """Effective medium theory; see the module docstring."""

    name = "emt"
    precision = "fp64"
    elements = tuple(parameters)
    cutoff = MIDPOINT + 0.5  # as ASE has it: a small step in the energy (theta = 1e-4) remains here

    def __init__(self) -> None:
        self._parameters = _table()
        self._evaluations = 0

    def evaluate(self, graphs: Sequence[Graph]) -> list[Results]:
        """Energies, forces and stresses.

        Raises
        ------
        InputError
            An element has no parameters.
        """
        self._evaluations += len(graphs)
        return [self._evaluate(graph) for graph in graphs]

    def pair_cutoff(self, numbers: IntArray) -> Array | None:
        """None: one cutoff for all."""
        return None

    def statistics(self) -> dict[str, Any]:
        """Number of structures evaluated; nothing is ever compiled."""
        return {"compiles": 0, "compile_seconds": 0.0, "evaluations": self._evaluations}

    def _evaluate(self, graph: Graph) -> Results:
        p, size = self._parameters, len(graph)
        if np.isnan(p.e0[graph.numbers]).any():
            raise InputError("emt has no parameters for an element of the structure", f"it has {' '.join(parameters)}")
        i, j = graph.numbers[graph.centre], graph.numbers[graph.neighbour]
        distance = np.linalg.norm(graph.bond_vector, axis=1)
        theta = _theta(distance)
        theta_slope = SLOPE * (theta - 1.0)  # d theta/dr / theta
        chi = p.n0[j] / p.n0[i]
        density = chi * np.exp(-p.eta2[j] * (distance - beta * p.s0[j])) * theta
        overlap = chi * np.exp(-p.kappa[j] * (distance / beta - p.s0[j])) * theta
        pair = -0.5 * p.v0[i] / p.gamma2[i] * overlap

        embedding, embedding_slope = self._embedding(graph.numbers, sum_over(graph.centre, density, size))
        both_ends = sum_over(graph.centre, pair, size) + sum_over(graph.neighbour, pair, size)
        energies = embedding + 0.5 * both_ends
        slope = embedding_slope[graph.centre] * density * (theta_slope - p.eta2[j])
        slope += pair * (theta_slope - p.kappa[j] / beta)
        return results(graph, energies, (slope / distance)[:, None] * graph.bond_vector)

    def _embedding(self, numbers: IntArray, sigma1: Array) -> tuple[Array, Array]:
        """Cohesive and atomic-sphere energies (N,) and their derivatives by sigma1."""
        p = self._parameters
        alone = sigma1 == 0.0
        sigma1 = np.where(alone, 1.0, sigma1)
        e0, lam, kappa = p.e0[numbers], p.lam[numbers], p.kappa[numbers]
        sphere = -np.log(sigma1 / (12 * p.gamma1[numbers])) / (beta * p.eta2[numbers])
        decay = np.exp(-lam * sphere)
        repulsion = 6 * p.v0[numbers] * np.exp(-kappa * sphere)
        energy = e0 * ((1 + lam * sphere) * decay - 1) + repulsion
        slope_by_sphere = -e0 * lam**2 * sphere * decay - kappa * repulsion
        slope = -slope_by_sphere / (beta * p.eta2[numbers] * sigma1)
        return np.where(alone, -e0, energy), np.where(alone, 0.0, slope)


def create_engine(model_path: Path | None = None, precision: str | None = None, **options: Any) -> EffectiveMedium:
    """Make the engine; it has no options.

    Raises
    ------
    UsageError
        An option was given, or an arithmetic other than fp64.
    """
    if precision not in (None, "fp64"):
        raise UsageError(f"emt computes in fp64, not {precision}", "leave --precision out")
    if options:
        raise UsageError(f"emt has no option {next(iter(options))!r}")
    return EffectiveMedium()
