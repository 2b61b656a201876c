"""Fits of the presets ``linear-*``: one pass over the data, one eigenvalue problem, and a model file like any other.

``learning_rate``, ``epochs`` and the other settings of an optimizer have no meaning here. Weights of the loss do: they
weigh the rows. The strength of the ridge is that of the smallest loss (square errors) in a five-fold cross-validation
of the training structures; of large models that of the validation structures, or of the largest evidence where there
are none. Structures are spread over ``training.threads`` threads (0: all cores);
TensorFlow is not needed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import reduce
from operator import add
from threading import Lock
from typing import Any

import numpy as np

from gracecli.engine.base import Array, Graph
from gracecli.engine.batch import BatchShape
from gracecli.fit.batches import GraphSet
from gracecli.fit.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gracecli.fit.data import Frame
from gracecli.fit.linear.design import Design
from gracecli.fit.linear.solve import (
    NormalEquations,
    Ridge,
    RowBlock,
    Solution,
    accumulate,
    ordered,
    single_threaded_blas,
)
from gracecli.fit.metrics import Prediction
from gracecli.fit.reference import adapt_blueprint
from gracecli.fit.result import CHECKPOINT, MODEL, FitResult
from gracecli.fit.schedule import loss_weights
from gracecli.fit.setup import model_metadata
from gracecli.fit.trainer import Trainer
from gracecli.model.blueprint import Blueprint, Density, LinearRadial, RadialBasis, ScaleShift
from gracecli.model.initial import drawn
from gracecli.model.modelfile import Model, save_model

ATOMS = BatchShape._fields.index("atoms")
FOLDS = 5
CROSS_VALIDATED = 4000
"""Most coefficients for which the eigenvalue problems of a cross-validation take a minute or so."""
MEMORY_SHARE = 0.25
"""Of the memory of the machine that the threads' matrices may take together."""


class LinearTrainer(Trainer):
    """A fit of a linear model; parameters as of :class:`Trainer`."""

    def _build(self) -> None:
        from ase.data import atomic_numbers

        config, data = self.config, self.data
        blueprint = adapt_blueprint(data.blueprint, data.reference.energies, data.scale, self.graphs.average_neighbours)
        self.blueprint = blueprint
        self._weights = fixed_weights(blueprint, config.training.seed)
        self.design = Design(blueprint, self._weights, [atomic_numbers[symbol] for symbol in data.elements])
        self.parameters = self.design.size
        self.threads = usable_threads(config.training.threads, self.design.size)
        self._coefficients = np.zeros(self.design.size)
        self._reading = Lock()  # structures that stay in a store are read by one thread at a time
        self._say.message(
            f"{len(data.train)} training, {len(data.valid)} validation, {len(data.test)} test structures; "
            f"{self.graphs.average_neighbours:.1f} neighbours per atom within {data.cutoff:g} Å"
        )

    def save(self) -> None:
        """Write the checkpoint: a solved fit has nothing to continue, but its settings can be compared."""
        self.state.seconds += time.monotonic() - self._clock
        self._clock = time.monotonic()
        save_checkpoint(self.directory / CHECKPOINT, Checkpoint(self.state, dict(self._best), self.identity))

    def _resume(self) -> None:
        load_checkpoint(self.directory / CHECKPOINT, self.identity)

    @property
    def finished_early(self) -> bool:
        """One linear system is always solved to the end."""
        return True

    def run(self) -> FitResult:
        """Solve."""
        self._clock = time.monotonic()
        design = self.design
        self._say.message(f"{design.size} basis functions; normal equations on {self.threads} threads")
        data, folds = self.data, 1
        if design.size <= CROSS_VALIDATED:
            folds = min(FOLDS, len(data.train))
        try:
            parts = self._equations(data.train, self.graphs, folds, report=True)
        finally:
            self._say.close()
        whole = reduce(add, parts)
        ridge = Ridge(whole)
        if folds > 1:
            solution, how = ridge.by_cross_validation(whole, parts), f"{folds}-fold cross-validation"
        elif data.valid:
            (valid,) = self._equations(data.valid, data.graphs_of(data.valid))
            solution, how = ridge.by_validation(valid.loss), "validation structures"
        else:
            solution, how = ridge.by_evidence(), "evidence"
        self._say.message(
            f"ridge {solution.strength:.1e} by {how}; the data determine {solution.effective:.0f} of {design.size}"
        )
        self._take(solution)
        self.state.step = 1
        self.save()
        return self._finish()

    def _take(self, solution: Solution) -> None:
        """Weights of the solution, in the precision of the model file."""
        scale = next((node.scale for node in self.blueprint.of_type(ScaleShift)), 1.0)
        dtype = np.float64 if self.config.training.precision == "fp64" else np.float32
        solved = self._weights | self.design.weights(solution.coefficients, scale)
        self._best = {name: np.asarray(value, dtype=dtype) for name, value in solved.items()}
        self._coefficients = solution.coefficients

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _equations(
        self, frames: Sequence[Frame], graphs: GraphSet, parts: int = 1, report: bool = False
    ) -> list[NormalEquations]:
        """Normal equations of every n-th structure, n the number of parts, in the weights of the training data."""
        weights = self._row_weights()
        counts = 3 * graphs.sizes[:, ATOMS] + 7
        found: list[NormalEquations] = []
        before = 0
        for first in range(parts):
            members = range(first, len(frames), parts)

            def rows_of(index: int, members: range = members) -> RowBlock:
                with self._reading:
                    (frame,), (graph,) = graphs.load([members[index]])
                return self._rows(frame, graph, weights)

            def done(count: int, before: int = before) -> None:
                if report:
                    self._say.count(before + count, len(frames), "structure")

            found.append(NormalEquations.empty(self.design.size))
            accumulate(found[-1], rows_of, counts[list(members)].tolist(), self.threads, done)
            before += len(members)
        return found

    def _row_weights(self) -> tuple[float, float, float]:
        """Weight of one label of each kind, so that a kind counts as in the loss."""
        labels = self.graphs.table.labels
        counts = np.maximum(self.graphs.table.weight @ labels, 1.0)
        factors = np.array(loss_weights(self.config, 1.0)) / counts
        energy, forces, stress = (factors / max(factors.max(), 1e-300)).tolist()
        return energy, forces, stress

    def _rows(self, frame: Frame, graph: Graph, weights: tuple[float, float, float]) -> RowBlock:
        """Rows (as columns), labels and weights of one structure; labels that are missing are left out."""
        rows = self.design.rows(graph)
        size = len(graph)
        shift = sum(self.data.reference.energies[symbol] for symbol in frame.atoms.get_chemical_symbols())
        parts = (
            (rows.energy[:, None] / size, np.array([(frame.energy - shift) / size]), weights[0]),
            (rows.forces.reshape(self.design.size, -1), frame.forces.ravel(), weights[1]),
            (rows.stress, frame.stress, weights[2]),
        )
        kept: list[list[Array]] = [[], [], []]
        for matrix, target, weight in parts:
            known = np.isfinite(target) & np.isfinite(matrix[0]) & (weight > 0)
            kept[0].append(matrix if known.all() else matrix[:, known])
            kept[1].append(target[known])
            kept[2].append(np.full(int(known.sum()), weight * frame.weight))
        return np.concatenate(kept[0], axis=1), np.concatenate(kept[1]), np.concatenate(kept[2])

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def predict(self, frames: Sequence[Frame], weights: dict[str, np.ndarray] | None = None) -> list[Prediction]:
        """Energies, forces and stresses of frames with the solution, from the basis functions themselves."""
        graphs = self.data.graphs_of(frames)

        def work(index: int) -> Prediction:
            with self._reading:
                (frame,), (graph,) = graphs.load([index])
            energy, forces, stress = self.design.predict(graph, self._coefficients)
            shift = sum(self.data.reference.energies[symbol] for symbol in frame.atoms.get_chemical_symbols())
            return Prediction(energy + shift, forces, stress)

        with single_threaded_blas():
            return [prediction for _, prediction in ordered(work, range(len(graphs)), self.threads)]

    def _write_model(self, weights: dict[str, np.ndarray], metrics: dict[str, Any]) -> None:
        metadata = model_metadata(self.config, self.data, self.blueprint, self.state, metrics)
        save_model(self.directory / MODEL, Model(self.blueprint, weights, metadata), overwrite=True)


def fixed_weights(blueprint: Blueprint, seed: int) -> dict[str, np.ndarray]:
    """Everything but the coefficients: chemical factors at random; channels are first the basis functions, then random.

    Drawn in the order of the blueprint, as for a model that is trained.
    """
    radial: LinearRadial = blueprint.of_type(LinearRadial)[0]
    density: Density = blueprint.of_type(Density)[0]
    basis: Any = blueprint.by_name[radial.basis]
    embedding: Any = blueprint.by_name[density.embedding or ""]
    shape = (radial.n_radial, radial.lmax + 1, basis.n_functions)
    shapes: dict[str, tuple[int | None, ...]] = {f"{radial.name}/crad": shape}
    if isinstance(basis, RadialBasis):
        shapes = {f"{basis.name}/rc": (), **shapes}
    shapes |= {
        f"{embedding.name}/w": (len(blueprint.elements), embedding.size),
        f"{density.name}/lin_transform/w": (embedding.size, radial.n_radial),
    }
    weights = drawn(blueprint, shapes, np.random.default_rng([seed, 0]))
    values = np.random.default_rng([seed, 0x11]).standard_normal(shape) / np.sqrt(shape[2])
    for n in range(min(shape[0], shape[2])):
        values[n] = np.eye(shape[2])[n]
    weights[f"{radial.name}/crad"] = values
    return weights


def usable_threads(wanted: int, size: int) -> int:
    """``training.threads``, or as many as there are cores (``OMP_NUM_THREADS`` where set) and memory for."""
    if wanted:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    cores = min(cores, int(limit)) if limit.isdecimal() and int(limit) else cores
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return cores
    per_thread = 8.0 * (2.0 * size**2 + 4096.0 * size)
    return max(1, min(cores, int(MEMORY_SHARE * memory / per_thread)))
