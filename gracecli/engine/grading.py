"""Extrapolation grades at engines: which can make them, and how they get into results.

An engine that can has two attributes: ``grade``, the :class:`~gracecli.model.grade.ExtrapolationGrade` of its model or
None, and ``gamma``, whether evaluations return grades (``Results.extra["gamma"]``, one number per atom). ``gamma`` may
be set at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gracecli.engine.base import Array, Engine, IntArray, Results
from gracecli.errors import ModelError
from gracecli.model.grade import ExtrapolationGrade

GAMMA = "gamma"


def can_grade(engine: Engine) -> bool:
    """Whether the engine, with its model, can make grades."""
    return getattr(engine, "grade", None) is not None


def want_gamma(engine: Engine, wanted: bool = True) -> None:
    """Switch grades on or off.

    Raises
    ------
    ModelError
        They are wanted and cannot be made.
    """
    if can_grade(engine):
        engine.gamma = wanted  # type: ignore[attr-defined]
    elif wanted:
        raise no_grade(engine)


def no_grade(engine: Engine) -> ModelError:
    """The error of a model, or an engine, without grades."""
    if not hasattr(engine, "grade"):
        return ModelError(
            f"the engine {engine.name} makes no extrapolation grades", "use --engine native or tensorflow"
        )
    return ModelError(
        "the model has no extrapolation grades",
        "`grace models gamma MODEL --structures TRAINING-DATA` makes them from the data it was trained on",
    )


def with_gamma(
    results: Sequence[Results], grade: ExtrapolationGrade, species: IntArray, projected: Array, squares: Array
) -> list[Results]:
    """Add grades to the results of a batch.

    Parameters
    ----------
    results : sequence of Results
    grade : ExtrapolationGrade
    species : (N,) int
        Elements (numbers of the model) of all atoms of the batch.
    projected : (N, p) float64
    squares : (N, reductions) float64
    """
    gamma = grade.grade(grade.feature(projected, squares), species).gamma
    graded = []
    sizes = [len(result.energies) for result in results]
    for result, part in zip(results, np.split(gamma, np.cumsum(sizes)[:-1]), strict=True):
        extra: dict[str, Any] = {**result.extra, GAMMA: part}
        graded.append(Results(result.energy, result.energies, result.forces, result.stress, extra))
    return graded


def element_index(numbers: Sequence[int]) -> IntArray:
    """Table from atomic number to element number of a model, -1 where it has none."""
    table = np.full(119, -1, dtype=np.int32)
    table[list(numbers)] = np.arange(len(numbers))
    return table
