"""Gaussian mixtures of atomic features, and the edge of the data, for the grades of :mod:`gracecli.model.grade`.

Per element, with features f_a of n atoms in n_s structures, cut into K clusters by k-means::

    c_k  = mean of cluster k                       C_k = covariance of cluster k + lambda tr(C) / D
    P_k  = C_k^-1                                  t_k = max over the cluster of sigma
    K    = argmin  -2 (n_s / n) ln L + q ln n_s    ln L = sum_a [ln w_k - (D ln 2 pi + ln|C_k| + sigma_a^2) / 2]

with C the covariance of the whole element, w_k = n_k / n and q = K (1 + D + D (D + 1) / 2) - 1 parameters. Clusters are
those of the nearest centroid, because grades are evaluated so. Atoms of one structure repeat each other, so the sample
that the information criterion counts is that of structures. ``t_k`` makes every atom of the data have gamma <= 1.

==========  ======================
symbol      variable
==========  ======================
c, C, P, t  ``centroids``, ``covariance``, ``inverse_covariances``, ``thresholds``
lambda      ``RIDGE``
n_s         ``n_structures``
==========  ======================

Source: Lysogorskiy et al., "Graph atomic cluster expansion for foundational machine learning interatomic potentials",
and Schwarz, Ann. Stat. 6, 461 (1978) for the criterion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gracecli.errors import InputError
from gracecli.model.grade import SIGMA_FLOOR, Array, ExtrapolationGrade
from gracecli.model.gradefile import NO_DATA

RIDGE = 1e-4
"""Share of the mean variance of an element added to all variances of its clusters: directions in which the data do not
vary count as outside beyond a hundredth of the ordinary spread."""
LEAST_PER_DIMENSION = 5
"""Atoms per feature that a cluster needs at least."""
SLACK = 1e-5
"""Thresholds are this much (relative) beyond the outermost atom: engines and precisions differ in the last digits."""


@dataclass(frozen=True)
class Mixture:
    """Clusters of one element: centroids (K, D), inverse covariances (K, D, D), atoms (K,), criterion."""

    centroids: Array
    inverses: Array
    counts: np.ndarray
    criterion: float


def random_signs(rows: int, columns: int, seed: int) -> np.ndarray:
    """Random projection of entries +-1/sqrt(columns), (rows, columns) float32.

    It keeps distances like a Gaussian one (Achlioptas, J. Comput. Syst. Sci. 66, 671 (2003)) and packs to a bit each.
    """
    signs = np.random.default_rng(seed).integers(0, 2, (rows, columns)) * 2 - 1
    return (signs / np.sqrt(columns)).astype(np.float32)


def fit_mixture(feature: Array, n_structures: int, clusters: int, seed: int) -> Mixture | None:
    """A mixture of at most ``clusters`` clusters, or None if the data are too few for more than one."""
    from scipy.cluster.vq import kmeans2

    n_atoms, size = feature.shape
    whole = np.cov(feature.T, bias=True).reshape(size, size)
    ridge = RIDGE * max(float(np.trace(whole)) / size, 1e-12) * np.eye(size)
    if clusters == 1:
        centroids, label = feature.mean(axis=0)[None], np.zeros(n_atoms, dtype=int)
    else:
        if n_atoms < clusters * LEAST_PER_DIMENSION * size:
            return None
        centroids, _ = kmeans2(feature, clusters, iter=50, minit="++", rng=np.random.default_rng(seed))
        label = _nearest(feature, centroids)
        counts = np.bincount(label, minlength=clusters)
        if counts.min() < LEAST_PER_DIMENSION * size:
            return None
    inverses, counts = np.empty((clusters, size, size)), np.bincount(label, minlength=clusters)
    likelihood = 0.0
    for k in range(clusters):
        offset = feature[label == k] - centroids[k]
        covariance = offset.T @ offset / len(offset) + ridge
        inverses[k] = np.linalg.inv(covariance)
        squares = np.einsum("ai,ij,aj->a", offset, inverses[k], offset, optimize=True)
        spread = size * np.log(2.0 * np.pi) + np.linalg.slogdet(covariance)[1]
        likelihood += float(np.sum(np.log(counts[k] / n_atoms) - 0.5 * (spread + squares)))
    parameters = clusters * (1 + size + size * (size + 1) / 2) - 1
    criterion = -2.0 * likelihood * n_structures / n_atoms + parameters * np.log(max(n_structures, 2))
    return Mixture(centroids, inverses, counts, criterion)


def _nearest(feature: Array, centroids: Array) -> np.ndarray:
    squares = np.stack([((feature - c) ** 2).sum(axis=1) for c in centroids], axis=1)
    nearest: np.ndarray = np.argmin(squares, axis=1)
    return nearest


def best_mixture(feature: Array, n_structures: int, most: int, seed: int, exactly: bool) -> Mixture:
    """The mixture of 1 to ``most`` clusters with the lowest criterion, or of as many as wanted and possible."""
    found = [fit_mixture(feature, n_structures, k, seed) for k in range(1, most + 1)]
    possible = [mixture for mixture in found if mixture is not None]
    return possible[-1] if exactly else min(possible, key=lambda mixture: mixture.criterion)


def assemble(
    template: ExtrapolationGrade,
    features: Mapping[int, Array],
    n_structures: Mapping[int, int],
    elements: Sequence[str],
    *,
    most: int = 4,
    exactly: bool = False,
    seed: int = 0,
) -> ExtrapolationGrade:
    """Clusters and thresholds of all elements.

    Parameters
    ----------
    template : ExtrapolationGrade
        Brings the projection and options; its clusters do not matter.
    features : mapping
        Element number -> (atoms, D) features of the data; elements without data may be missing.
    n_structures : mapping
        Element number -> structures that hold the element.
    elements : sequence of str
    most : int
        Largest number of clusters of an element.
    exactly : bool
        Take that many wherever the data allow it, instead of asking the information criterion.
    seed : int

    Raises
    ------
    InputError
        No atoms at all, or features that are not numbers.
    """
    if not features:
        raise InputError("no structure holds an element of the model", "give the data the model was trained on")
    size = next(iter(features.values())).shape[1]
    for e, own in features.items():
        if not np.isfinite(own).all():
            raise InputError(f"the model gives numbers that are not finite for {elements[e]}", "check the structures")
    mixtures = {e: best_mixture(own, n_structures[e], most, seed, exactly) for e, own in features.items()}
    width = max(len(m.counts) for m in mixtures.values())
    shape = (len(elements), width)
    centroids, counts = np.zeros((*shape, size), np.float32), np.zeros(shape, np.int64)
    inverses = np.broadcast_to(NO_DATA * np.eye(size, dtype=np.float32), (*shape, size, size)).copy()
    for e, mixture in mixtures.items():
        found = len(mixture.counts)
        fill = [*range(found), *[0] * (width - found)]  # rows that fill up repeat the first, which is found before them
        centroids[e] = mixture.centroids[fill]
        inverses[e] = 0.5 * (mixture.inverses[fill] + np.swapaxes(mixture.inverses[fill], -1, -2))
        counts[e, :found] = mixture.counts
    grade = replace(
        template, centroids=centroids, inverse_covariances=inverses, thresholds=np.ones(shape), counts=counts
    )
    return replace(grade, thresholds=_edges(grade, features))


def _edges(grade: ExtrapolationGrade, features: Mapping[int, Array]) -> np.ndarray:
    """Largest sigma of every cluster, with the arrays as they are stored."""
    n_elements, n_clusters = grade.centroids.shape[:2]
    thresholds = np.full((n_elements, n_clusters), np.sqrt(SIGMA_FLOOR), np.float32)
    for e, own in features.items():
        graded = grade.grade(own, np.full(len(own), e))
        for k in range(n_clusters):
            inside = graded.sigma[graded.cluster == k]
            # a filling row is a copy of the first
            edge = inside.max() if len(inside) else graded.sigma[graded.cluster == 0].max(initial=0.0)
            thresholds[e, k] = np.float32(max(edge, np.sqrt(SIGMA_FLOOR)) * (1.0 + SLACK))
    return thresholds
