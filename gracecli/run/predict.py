"""Energies, forces, stresses and, where the model has them, extrapolation grades of many structures, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from gracecli.engine.base import Engine, Graph, Results
from gracecli.engine.check import check_contents, check_distances
from gracecli.engine.neighbours import build_graph
from gracecli.errors import GraceError
from gracecli.registry.covering import suggest_models
from gracecli.run.batch_evaluate import Budget, evaluate_all
from gracecli.run.extrapolation import grading
from gracecli.run.work import EngineChoice, chunks_of

#: Structures in one batch, however small.
MOST = 500
#: Size of the parts that several models evaluate in turn.
CHUNK_ATOMS, CHUNK_STRUCTURES = 2000, 200


def predict_many(
    structures: Iterable[tuple[int, Atoms | Results]], engine: Engine, budget: Budget | None = None
) -> Iterator[tuple[int, Results | GraceError]]:
    """Evaluate structures, one batch in memory at a time.

    Parameters
    ----------
    structures : iterable of (key, Atoms or Results)
        What is known already passes through, so that the order stays.
    engine : Engine
    budget : Budget, optional
        Size of a batch; default by the memory of the machine.

    Yields
    ------
    (key, Results or GraceError)
        In the order given.
    """
    budget = budget or Budget.of_machine()
    keys: list[int] = []
    graphs: list[Graph | Results | GraceError] = []
    atoms = bonds = 0
    for key, structure in structures:
        graph = structure if isinstance(structure, Results) else _graph(structure, engine)
        size, more = (len(graph), len(graph.centre)) if isinstance(graph, Graph) else (0, 0)
        full = not budget.allows(len(graphs) + 1, atoms + size, bonds + more)
        if graphs and (full or len(graphs) >= MOST):
            yield from _evaluated(keys, graphs, engine, budget)
            keys, graphs, atoms, bonds = [], [], 0, 0
        keys.append(key)
        graphs.append(graph)
        atoms, bonds = atoms + size, bonds + more
    yield from _evaluated(keys, graphs, engine, budget)


def _graph(atoms: Atoms, engine: Engine) -> Graph | GraceError:
    try:
        check_contents(atoms, engine.elements, models_covering=suggest_models)
        graph = build_graph(atoms, engine.cutoff, engine.pair_cutoff, getattr(engine, "bond_filter", None))
        check_distances(atoms, graph)
    except GraceError as error:
        return error
    return graph


def _evaluated(
    keys: Sequence[int], graphs: Sequence[Graph | Results | GraceError], engine: Engine, budget: Budget
) -> Iterator[tuple[int, Results | GraceError]]:
    results = iter(evaluate_all(engine, [graph for graph in graphs if isinstance(graph, Graph)], budget))
    for key, graph in zip(keys, graphs, strict=True):
        yield key, next(results) if isinstance(graph, Graph) else graph


@dataclass(frozen=True)
class PredictWork:
    """How to evaluate, for a worker."""

    choice: EngineChoice
    batch: int | None = None
    others: tuple[EngineChoice, ...] = ()


def predict_chunk(
    configuration: PredictWork, chunk: Iterable[tuple[int, Atoms | Results]]
) -> Iterator[tuple[int, Results | GraceError]]:
    """Evaluate structures; the work of :func:`gracecli.run.spread.spread`."""
    with grading(configuration.choice.create()):
        if not configuration.others:
            yield from predict_many(chunk, configuration.choice.create(), Budget.of_machine(configuration.batch))
            return
        for part in chunks_of(chunk, CHUNK_ATOMS, CHUNK_STRUCTURES):
            yield from _committee(part, configuration)


def _committee(
    chunk: Sequence[tuple[int, Atoms | Results]], configuration: PredictWork
) -> Iterator[tuple[int, Results | GraceError]]:
    """Results of the first model with the spread of all: ``energy_std`` (eV/atom), ``forces_std`` (N,) in eV/Å.

    Standard deviations with n - 1; that of a force is the length of the vector of its components' deviations.
    """
    budget = Budget.of_machine(configuration.batch)
    choices = (configuration.choice, *configuration.others)
    made = [dict(predict_many(chunk, choice.create(), budget)) for choice in choices]
    for key, _ in chunk:
        results = [by_key[key] for by_key in made]
        failed = next(((c, r) for c, r in zip(choices, results, strict=True) if isinstance(r, GraceError)), None)
        if failed is not None:
            choice, error = failed
            yield key, type(error)(f"{choice.model or 'the bundled model'}: {error.message}", error.hint)
            continue
        good = [result for result in results if isinstance(result, Results)]
        first, size = good[0], len(good[0].forces)
        spread = np.std([r.forces for r in good], axis=0, ddof=1)
        energy = float(np.std([r.energy for r in good], ddof=1)) / size
        extra = {**first.extra, "energy_std": energy, "forces_std": np.linalg.norm(spread, axis=1)}
        yield key, Results(first.energy, first.energies, first.forces, first.stress, extra)
