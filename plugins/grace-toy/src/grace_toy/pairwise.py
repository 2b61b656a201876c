"""Sums over the bonds of a graph.

With a directed force ``f_b = dE/d r_b`` on the bond vector ``r_b = r_neighbour - r_centre`` of every directed bond::

    F_i      = sum_(b: centre = i) f_b - sum_(b: neighbour = i) f_b
    sigma_ab = 1/V sum_b (f_b)_a (r_b)_b       (symmetric for potentials that depend on distances)
"""

from __future__ import annotations

import numpy as np

from gracecli.engine.base import Array, Graph, IntArray, Results


def sum_over(index: IntArray, values: Array, size: int) -> Array:
    """Sum ``values`` (B,) into ``size`` bins given by ``index`` (B,)."""
    return np.bincount(index, weights=values, minlength=size).astype(np.float64, copy=False)


def results(graph: Graph, energies: Array, bond_gradient: Array) -> Results:
    """Collect per-atom energies (N,) and gradients by bond vector (B, 3) into a result.

    Parameters
    ----------
    graph : Graph
        Structure and bonds.
    energies : (N,) float64
        eV.
    bond_gradient : (B, 3) float64
        Derivative of the total energy by each directed bond vector, eV/Å.
    """
    size = len(graph)
    forces = np.stack(
        [
            sum_over(graph.centre, bond_gradient[:, axis], size)
            - sum_over(graph.neighbour, bond_gradient[:, axis], size)
            for axis in range(3)
        ],
        axis=1,
    )
    virial = bond_gradient.T @ graph.bond_vector
    virial = 0.5 * (virial + virial.T)
    stress = virial.flat[[0, 4, 8, 5, 2, 1]] / graph.volume  # NaN volume: no cell, no stress
    return Results(energy=float(energies.sum()), energies=energies, forces=forces, stress=stress)
