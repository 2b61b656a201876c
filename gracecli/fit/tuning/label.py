"""Energies, forces and stresses of many structures by a model in memory, through the engines."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gracecli.engine.base import Results

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.model.modelfile import Model

BATCH_ATOMS = 4000
"""Atoms handed to the engine at a time: it batches within, and progress moves between."""


def evaluate(
    model: Model, structures: Sequence[Atoms], engine: str = "auto", progress: Callable[[int], object] | None = None
) -> list[Results]:
    """Evaluate structures in double precision; ``progress`` is called with the number done.

    Raises
    ------
    InputError
        A structure that cannot be evaluated (an element the model lacks).
    """
    from gracecli.engine.calculator import GraceCalculator
    from gracecli.model.modelfile import save_model

    results: list[Results] = []
    if not structures:
        return results
    with tempfile.TemporaryDirectory(prefix="gracecli-") as folder:
        path = save_model(Path(folder) / "model.grace", model)
        calculator = GraceCalculator(path, engine, "fp64", min_distance=0.0)
        for chunk in _chunks(structures):
            results += calculator.evaluate(chunk)
            if progress is not None:
                progress(len(results))
    return results


def _chunks(structures: Sequence[Atoms]) -> Iterator[list[Atoms]]:
    chunk: list[Atoms] = []
    atoms = 0
    for structure in structures:
        if chunk and atoms + len(structure) > BATCH_ATOMS:
            yield chunk
            chunk, atoms = [], 0
        chunk.append(structure)
        atoms += len(structure)
    if chunk:
        yield chunk
