"""Make the extrapolation grade of a model from the structures it was trained on.

One pass of the engine over the structures gives features (:mod:`gracecli.model.grade`) of every atom, 34 numbers each
by default; :mod:`gracecli.fit.mixtures` does the rest. Labels are not needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms

from gracecli.engine.base import Engine, Graph
from gracecli.engine.check import check_contents
from gracecli.engine.neighbours import build_graph
from gracecli.errors import GraceError, InputError
from gracecli.fit.mixtures import assemble, random_signs
from gracecli.model.grade import Array, ExtrapolationGrade, energy_reductions, invariant_pieces
from gracecli.model.modelfile import Model

DIMENSION = 32
CLUSTERS = 4
BATCH_ATOMS = 1000
MakeEngine = Callable[[Model], Engine]


@dataclass(frozen=True)
class GradeSettings:
    """How grades are made.

    Attributes
    ----------
    dimension : int
        Columns of the projection.
    clusters : int
        Most clusters of an element.
    exactly : bool
        As many as that wherever the data allow.
    seed : int
    """

    dimension: int = DIMENSION
    clusters: int = CLUSTERS
    exactly: bool = False
    seed: int = 0


@dataclass(frozen=True)
class GradeReport:
    """What came of it.

    Attributes
    ----------
    structures, atoms : int
        Used.
    skipped : int
        Structures with elements the model does not have.
    by_element : dict
        Symbol -> atoms, structures, clusters.
    without_data : tuple of str
        Elements of the model that no structure holds.
    seconds : float
    """

    structures: int
    atoms: int
    skipped: int
    by_element: dict[str, dict[str, int]]
    without_data: tuple[str, ...]
    seconds: float


def blank_grade(model: Model, settings: GradeSettings) -> ExtrapolationGrade:
    """A grade that makes features and knows no data."""
    pieces = invariant_pieces(model.blueprint, model.weights)
    rows = pieces[-1].first + pieces[-1].size
    size = settings.dimension + 1 + len(energy_reductions(model.blueprint))
    n = len(model.elements)
    return ExtrapolationGrade(
        projection=random_signs(rows, settings.dimension, settings.seed),
        centroids=np.zeros((n, 1, size), np.float32),
        inverse_covariances=np.zeros((n, 1, size, size), np.float32),
        thresholds=np.ones((n, 1), np.float32),
        counts=np.zeros((n, 1), np.int64),
    )


def make_grade(
    model: Model,
    structures: Iterable[Atoms],
    make_engine: MakeEngine,
    settings: GradeSettings | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> tuple[Model, GradeReport]:
    """The model with grades.

    Parameters
    ----------
    model : Model
        Blueprint, weights and metadata are taken over as they are.
    structures : iterable of Atoms
        What the model was trained on.
    make_engine : callable
        Makes the engine that evaluates a model; it must make features
        (:meth:`gracecli.engine.tensorflow.TensorFlowEngine.features`).
    settings : GradeSettings, optional
    progress : callable
        Called with the number of structures of a batch when it is done.

    Raises
    ------
    InputError
        No usable structure.
    ModelError
        The model has no invariants to grade by.
    """
    settings = settings or GradeSettings()
    started = time.monotonic()
    template = blank_grade(model, settings)
    engine: Any = make_engine(replace(model, grade=template))
    features: dict[int, list[Array]] = {}
    held: dict[int, int] = {}
    used = atoms = skipped = 0
    for graphs, left_out in _batches(structures, engine):
        skipped += left_out
        if not graphs:
            continue
        found, species = engine.features(graphs)
        for e in np.unique(species):
            features.setdefault(int(e), []).append(found[species == e])
        for graph, part in zip(graphs, np.split(species, np.cumsum([len(g) for g in graphs])[:-1]), strict=True):
            used, atoms = used + 1, atoms + len(graph)
            for e in np.unique(part):
                held[int(e)] = held.get(int(e), 0) + 1
        progress(len(graphs) + left_out)
    joined = {e: np.concatenate(parts) for e, parts in features.items()}
    grade = assemble(
        template,
        joined,
        held,
        model.elements,
        most=settings.clusters,
        exactly=settings.exactly,
        seed=settings.seed,
    )
    clusters = (grade.counts > 0).sum(axis=1)
    by_element = {
        model.elements[e]: {"atoms": len(own), "structures": held[e], "clusters": int(clusters[e])}
        for e, own in sorted(joined.items())
    }
    absent = tuple(symbol for e, symbol in enumerate(model.elements) if e not in joined)
    report = GradeReport(used, atoms, skipped, by_element, absent, time.monotonic() - started)
    provenance = {
        "made_by": "gracecli",
        "model_sha256": model.sha256(),
        "structures": used,
        "atoms": atoms,
        "seed": settings.seed,
        "by_element": by_element,
    }
    return replace(model, grade=replace(grade, provenance=provenance)), report


def _batches(structures: Iterable[Atoms], engine: Engine) -> Iterator[tuple[list[Graph], int]]:
    """Graphs of about a thousand atoms together, and how many structures were left out."""
    graphs: list[Graph] = []
    left_out = 0
    for number, atoms in enumerate(structures):
        if not set(atoms.get_chemical_symbols()) <= set(engine.elements):
            left_out += 1
            continue
        try:
            check_contents(atoms, engine.elements)
            graph = build_graph(atoms, engine.cutoff, engine.pair_cutoff, getattr(engine, "bond_filter", None))
        except GraceError as error:
            raise InputError(f"structure {number + 1}: {error.message}", error.hint) from error
        graphs.append(graph)
        if sum(map(len, graphs)) >= BATCH_ATOMS:
            yield graphs, left_out
            graphs, left_out = [], 0
    yield graphs, left_out
