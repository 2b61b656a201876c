"""Extrapolation grade of atoms: how far an atomic environment lies outside the data of a model.

Equations (format specification, section 6), for an atom of element e::

    B           = (invariants that enter the energy), B_i those of reduction i
    v           = B R        or asinh(B) R
    f           = [v / (|B| + 1e-12), s ln(|B| + 1e-12), s ln(|B_1| + 1e-12), ...]      or f = v
    k           = argmin_k |f - c_(e,k)|
    sigma       = sqrt( (f - c_(e,k))^T P_(e,k) (f - c_(e,k)) + 1e-8 )
    gamma       = sigma / t_(e,k)

``gamma <= 1``: within what the model was fitted to; the larger, the further outside.

==========  ======================================================
symbol      variable
==========  ======================================================
R           ``projection`` (D_b, p)
v, |B_i|^2  ``projected`` (N, p), ``squares`` (N, reductions)
s           ``density_scale``
f           ``feature`` (N, D)
c, P, t     ``centroids``, ``inverse_covariances``, ``thresholds``
k           ``cluster``
==========  ======================================================

Engines make ``projected`` and ``squares``; all that follows is here, in NumPy. The invariants are products of the
density, as polynomial as the energy, so the grade is invariant under rotation, reflection, translation, permutation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import ModelError
from gracecli.model.blueprint import Blueprint, EquivariantNorm, Gate, InvariantNorm, OutputNode, Reduce

Array = NDArray[np.float64]
NORM_FLOOR = 1e-12
SIGMA_FLOOR = 1e-8
THRESHOLD_FLOOR = 1e-10
TRANSFORMS = ("none", "asinh")


@dataclass(frozen=True)
class Piece:
    """Invariants of one source of one reduction.

    Attributes
    ----------
    reduction, source : str
        Names of nodes.
    channels, functions : int
        The invariant of channel n and function c has place ``first + n * functions + c`` in B.
    first : int
    """

    reduction: str
    source: str
    channels: int
    functions: int
    first: int

    @property
    def size(self) -> int:
        """Number of invariants."""
        return self.channels * self.functions


def energy_reductions(blueprint: Blueprint) -> tuple[str, ...]:
    """Sorted names of the reductions that the outputs read, directly or through a normalisation."""
    found: set[str] = set()
    for output in blueprint.of_type(OutputNode):
        for name in output.inputs():
            node: Any = blueprint.by_name[name]
            while isinstance(node, InvariantNorm | EquivariantNorm | Gate):
                node = blueprint.by_name[node.source]
            if isinstance(node, Reduce):
                found.add(node.name)
    return tuple(sorted(found))


def invariant_pieces(blueprint: Blueprint, weights: Mapping[str, np.ndarray]) -> tuple[Piece, ...]:
    """What B consists of, in order.

    Raises
    ------
    ModelError
        The energy is no function of reductions to invariants.
    """
    pieces: list[Piece] = []
    first = 0
    for name in energy_reductions(blueprint):
        node: Any = blueprint.by_name[name]
        for source in node.sources:
            channels, functions = np.shape(weights[f"{name}/reducing_{source}"])[-2:]
            if functions:
                pieces.append(Piece(name, source, int(channels), int(functions), first))
                first += int(channels * functions)
    if not pieces:
        raise ModelError(
            "the model has no reductions to invariants, so no extrapolation grade can be made for it",
            "an ensemble tells about its uncertainty: grace predict -m A -m B",
        )
    return tuple(pieces)


@dataclass(frozen=True)
class Graded:
    """Grades of some atoms: ``gamma``, ``sigma`` (N,) float64, ``cluster`` (N,) int64."""

    gamma: Array
    sigma: Array
    cluster: NDArray[np.int64]


@dataclass(frozen=True)
class ExtrapolationGrade:
    """What grades are computed from; belongs to one model.

    Attributes
    ----------
    projection : (D_b, p) float
    transform : str
        ``none`` or ``asinh``, applied to invariants before the projection.
    normalize, density : bool
        Divide by the norm of B; append logarithms of norms.
    density_scale : float
    centroids : (elements, K, D) float
    inverse_covariances : (elements, K, D, D) float
    thresholds : (elements, K) float
        Edge of the data, in sigma.
    counts : (elements, K) int
        Atoms behind a cluster; 0 for the rows that fill up.
    provenance : dict
        JSON values: who made it, from what.
    """

    projection: np.ndarray
    centroids: np.ndarray
    inverse_covariances: np.ndarray
    thresholds: np.ndarray
    counts: np.ndarray
    transform: str = "none"
    normalize: bool = True
    density: bool = True
    density_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_elements, n_clusters, size = self.centroids.shape
        right = (
            self.inverse_covariances.shape == (n_elements, n_clusters, size, size)
            and self.thresholds.shape == (n_elements, n_clusters)
            and self.counts.shape == (n_elements, n_clusters)
            and self.projection.ndim == 2
            and self.channels >= 0
        )
        if not right:
            raise ModelError("extrapolation grade: the shapes of its arrays do not belong together")
        if self.transform not in TRANSFORMS:
            raise ModelError(f"extrapolation grade: unknown feature transform {self.transform!r}")
        arrays = (self.projection, self.centroids, self.inverse_covariances, self.thresholds)
        if not all(np.isfinite(array).all() for array in arrays):
            raise ModelError("extrapolation grade: it holds numbers that are not finite")
        object.__setattr__(self, "_double", tuple(np.asarray(a, dtype=np.float64) for a in arrays[1:]))

    @property
    def channels(self) -> int:
        """Density channels of the feature."""
        return int(self.centroids.shape[2] - self.projection.shape[1])

    def check(self, blueprint: Blueprint, weights: Mapping[str, np.ndarray]) -> None:
        """Raise ModelError unless it was made for a model of this shape."""
        size = sum(piece.size for piece in invariant_pieces(blueprint, weights))
        n_reductions = len(energy_reductions(blueprint))
        if self.projection.shape[0] != size:
            raise ModelError(
                f"extrapolation grade: made for {self.projection.shape[0]} invariants, the model has {size}",
                "it belongs to another model",
            )
        if len(self.centroids) != len(blueprint.elements):
            raise ModelError(
                f"extrapolation grade: made for {len(self.centroids)} elements, the model has {len(blueprint.elements)}"
            )
        allowed = {1, 1 + n_reductions} if self.density else {0}
        if self.channels not in allowed:
            raise ModelError(f"extrapolation grade: {self.channels} density channels for {n_reductions} reductions")

    def feature(self, projected: Array, squares: Array) -> Array:
        """Features f.

        Parameters
        ----------
        projected : (N, p) float64
        squares : (N, reductions) float64
            |B_i|^2 of every reduction.

        Returns
        -------
        (N, D) float64
        """
        total = np.sqrt(squares.sum(axis=1)) + NORM_FLOOR
        parts = [projected / total[:, None] if self.normalize else projected]
        if self.density:
            parts.append(self.density_scale * np.log(total)[:, None])
            if self.channels > 1:
                parts.append(self.density_scale * np.log(np.sqrt(squares) + NORM_FLOOR))
        return np.concatenate(parts, axis=1)

    def grade(self, feature: Array, species: NDArray[np.integer[Any]]) -> Graded:
        """Grades of atoms of elements ``species`` (numbers of the model)."""
        size = len(species)
        gamma, sigma, cluster = np.empty(size), np.empty(size), np.empty(size, dtype=np.int64)
        for element, atoms in _by_element(species):
            nearest, offset, weighted = self._nearest(feature[atoms], element)
            own = np.sqrt(np.einsum("ai,ai->a", offset, weighted) + SIGMA_FLOOR)
            cluster[atoms], sigma[atoms] = nearest, own
            gamma[atoms] = own / self._thresholds(element)[nearest]
        return Graded(gamma, sigma, cluster)

    def gradient(self, feature: Array, species: NDArray[np.integer[Any]]) -> Array:
        """d(sum of gamma)/d(feature), (N, D); the choice of the cluster has no gradient."""
        result = np.empty_like(feature)
        for element, atoms in _by_element(species):
            nearest, offset, weighted = self._nearest(feature[atoms], element)
            sigma = np.sqrt(np.einsum("ai,ai->a", offset, weighted) + SIGMA_FLOOR)
            result[atoms] = weighted / (sigma * self._thresholds(element)[nearest])[:, None]
        return result

    def _nearest(self, feature: Array, element: int) -> tuple[NDArray[np.int64], Array, Array]:
        """Nearest centroids, offsets from them, and these times P."""
        all_centroids, all_inverse, _ = self._double  # type: ignore[attr-defined]
        centroids, inverse = all_centroids[element], all_inverse[element]
        offsets = feature[:, None, :] - centroids[None]
        nearest = np.argmin(np.einsum("aki,aki->ak", offsets, offsets), axis=1)
        offset = offsets[np.arange(len(feature)), nearest]
        weighted = np.empty_like(offset)
        for k in np.unique(nearest):
            own = nearest == k
            weighted[own] = offset[own] @ inverse[k]
        return nearest, offset, weighted

    def _thresholds(self, element: int) -> Array:
        found: Array = np.maximum(self._double[2][element], THRESHOLD_FLOOR)  # type: ignore[attr-defined]
        return found

    def pull_back(self, projected: Array, squares: Array, by_feature: Array) -> tuple[Array, Array]:
        """From d/d(feature) to d/d(projected) and d/d(squares), for derivatives in positions."""
        n_projected = projected.shape[1]
        norm = np.sqrt(squares.sum(axis=1))
        total = norm + NORM_FLOOR
        head, tail = by_feature[:, :n_projected], by_feature[:, n_projected:]
        by_total = np.zeros(len(projected))
        if self.normalize:
            by_total -= np.einsum("ai,ai->a", head, projected) / total**2
            head = head / total[:, None]
        if self.density:
            by_total += self.density_scale * tail[:, 0] / total
        with np.errstate(divide="ignore", invalid="ignore"):
            by_squares = np.repeat((by_total * 0.5 / norm)[:, None], squares.shape[1], axis=1)
            if self.channels > 1:
                own = np.sqrt(squares)
                by_squares += self.density_scale * tail[:, 1:] / (own + NORM_FLOOR) * 0.5 / own
        return head, np.where(squares > 0.0, by_squares, 0.0)

    def of_elements(self, places: Sequence[int]) -> ExtrapolationGrade:
        """The grade of a model reduced to some of its elements."""
        keep = list(places)
        return replace(
            self,
            centroids=self.centroids[keep],
            inverse_covariances=self.inverse_covariances[keep],
            thresholds=self.thresholds[keep],
            counts=self.counts[keep],
        )

    def covers(self, element: int) -> bool:
        """Whether there were data of an element (by its number in the model)."""
        return bool(self.counts[element].sum() > 0)


def _by_element(species: NDArray[np.integer[Any]]) -> list[tuple[int, NDArray[np.int64]]]:
    return [(int(e), np.flatnonzero(species == e)) for e in np.unique(species)]
