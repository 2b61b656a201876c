"""One evaluation of a few structures, without tracing or compiling: what exports are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gracecli.engine.base import Graph, Results
from gracecli.errors import ModelError
from gracecli.export.base import Job
from gracecli.model.cutoffs import pair_cutoff_function
from gracecli.model.modelfile import Model

if TYPE_CHECKING:
    from ase import Atoms

MOST_ATOMS = 200
"""Atoms evaluated together."""


def evaluate_model(model: Model, graphs: Sequence[Graph]) -> list[Results]:
    """Energies, forces and stresses of a model in fp64, by its TensorFlow blocks run eagerly."""
    from gracecli.quiet import import_tensorflow

    import_tensorflow()
    from ase.data import atomic_numbers

    from gracecli.engine.batch import pack
    from gracecli.engine.tensorflow import split_results
    from gracecli.model.network import Network, batch_tensors

    network = Network(model.blueprint, model.weights, "float64")
    index = {atomic_numbers[element]: i for i, element in enumerate(model.elements)}
    results: list[Results] = []
    for group in _groups(graphs):
        batch = pack(group, index)
        energies, gradient = network.energies_and_pair_gradients(batch_tensors(batch))
        results += split_results(batch, energies.numpy(), gradient.numpy())
    return results


def _groups(graphs: Sequence[Graph]) -> list[list[Graph]]:
    groups: list[list[Graph]] = []
    for graph in graphs:
        if groups and sum(len(g) for g in groups[-1]) + len(graph) <= MOST_ATOMS:
            groups[-1].append(graph)
        else:
            groups.append([graph])
    return groups


def graphs_for(model: Model, structures: Sequence[Atoms]) -> list[Graph]:
    """Bonds of structures under the cutoffs of a model."""
    from gracecli.export.verify import graphs_of

    return graphs_of(structures, model.cutoff, pair_cutoff_function(model))


def evaluate_read_back(job: Job, model: Model, target: Path, structures: Sequence[Atoms]) -> list[Results]:
    """Evaluate a model that was read back from what was written.

    Raises
    ------
    ModelError
        It is not the model that was to be written, bit by bit.
    """
    if model.sha256() != job.model.sha256():
        raise ModelError(
            f"{target.name}: what was read back is not what was written: {_first_difference(job.model, model)}",
            "is the disk full or failing?",
        )
    return evaluate_model(model, graphs_for(model, structures))


def _first_difference(written: Model, read: Model) -> str:
    for node, back in zip(written.blueprint, read.blueprint, strict=False):
        if node != back:
            return f"node {node.name!r}"
    for name, value in written.weights.items():
        if name not in read.weights:
            return f"variable {name!r} is missing"
        other = np.asarray(read.weights[name])
        if other.dtype != np.asarray(value).dtype or not np.array_equal(other, value):
            return f"variable {name!r}"
    return f"{len(read.weights)} variables instead of {len(written.weights)}"
