"""Energies, forces, stresses and, where the model has them, extrapolation grades of many structures, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ase import Atoms

from gracecli.engine.base import Engine, Graph, Results
from gracecli.engine.check import check_contents, check_distances
from gracecli.engine.neighbours import build_graph
from gracecli.errors import GraceError
from gracecli.registry.covering import suggest_models
from gracecli.run.batch_evaluate import Budget, evaluate_all
from gracecli.run.extrapolation import grading
from gracecli.run.work import EngineChoice

#: Structures in one batch, however small.
MOST = 500


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


def predict_chunk(
    configuration: PredictWork, chunk: Iterable[tuple[int, Atoms | Results]]
) -> Iterator[tuple[int, Results | GraceError]]:
    """Evaluate structures; the work of :func:`gracecli.run.spread.spread`."""
    with grading(configuration.choice.create()):
        yield from predict_many(chunk, configuration.choice.create(), Budget.of_machine(configuration.batch))
