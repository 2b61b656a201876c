"""Cutoffs of models whose reach depends on the pair of elements.

``rc(A, B)`` is the elementwise maximum over all pair-cutoff matrices of a model; models without one have a single
cutoff.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from gracecli.model.blueprint import ZBL, Blueprint, ChemicalDensity, PairRadialBasis, RadialBasis

if TYPE_CHECKING:
    from gracecli.model.modelfile import Model


def pair_cutoff_matrix(blueprint: Blueprint, weights: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Symmetric matrix (n_elements, n_elements) in Å, or None when one cutoff holds for all pairs."""
    if not blueprint.of_type(PairRadialBasis):
        return None
    n = len(blueprint.elements)
    plain = [node.cutoff for node in blueprint.of_type(RadialBasis, ChemicalDensity)]
    matrices = [np.full((n, n), max(plain))] if plain else []
    for node in blueprint.of_type(PairRadialBasis, ZBL):
        for key in ("bond_cutoff_map", "bond_zbl_cutoff_map"):
            if f"{node.name}/{key}" in weights:
                matrix = np.asarray(weights[f"{node.name}/{key}"], dtype=float).reshape(n, n)
                matrices.append(np.maximum(matrix, matrix.T))
        if f"{node.name}/cutoff" in weights:
            value = np.asarray(weights[f"{node.name}/cutoff"], dtype=float)
            matrices.append(np.full((n, n), float(value.ravel()[0])))
    return np.maximum.reduce(matrices)


def pair_cutoff_function(model: Model) -> Callable[[np.ndarray], np.ndarray | None]:
    """Pair cutoffs (Å) of a model as engines have them: a matrix over the sorted unique atomic numbers, or None."""
    from ase.data import atomic_numbers

    matrix = model.pair_cutoffs()
    place = {atomic_numbers[symbol]: row for row, symbol in enumerate(model.elements)}

    def pair_cutoff(numbers: np.ndarray) -> np.ndarray | None:
        if matrix is None:
            return None
        rows = [place[int(z)] for z in np.unique(numbers)]
        return np.asarray(matrix[np.ix_(rows, rows)])

    return pair_cutoff
