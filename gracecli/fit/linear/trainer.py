"""Fits of the presets ``linear-*``: one pass over the data, one eigenvalue problem, and a model file like any other.

``learning_rate``, ``epochs`` and the other settings of an optimizer have no meaning here. Weights of the loss do: they
weigh the rows. The strength of the ridge is that of the smallest loss (square errors) of the validation structures, or
of the largest evidence where there are none.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from gracecli.engine.base import Array, Graph
from gracecli.errors import UsageError
from gracecli.fit.data import Frame
from gracecli.fit.linear.design import Design
from gracecli.fit.linear.solve import NormalEquations, Ridge, Solution
from gracecli.fit.schedule import loss_weights
from gracecli.fit.trainer import FitResult, Trainer
from gracecli.model.blueprint import ScaleShift


class LinearTrainer(Trainer):
    """A fit of a linear model; parameters as of :class:`Trainer`."""

    def run(self) -> FitResult:
        """Solve.

        Raises
        ------
        UsageError
            The model is not linear in its weights.
        """
        self._clock = time.monotonic()
        self._set_radial()
        from ase.data import atomic_numbers

        design = Design(self.network, [atomic_numbers[symbol] for symbol in self.data.elements])
        self._say.message(f"{design.size} basis functions; building the normal equations")
        equations = NormalEquations(design.size)
        weights = self._row_weights(self.data.train)
        for index, frame in enumerate(self.data.train):
            equations.add(*self._rows(design, frame, self._graph(index), weights))
            self._say.step((index + 1) / len(self.data.train), 0, 0.0)
        ridge = Ridge(equations)
        solution = self._choose(design, ridge)
        how = "validation structures" if self.data.valid else "evidence"
        self._say.message(
            f"ridge {solution.strength:.1e} by {how}; the data determine {solution.effective:.0f} of {design.size}"
        )
        self._put(design, solution)
        self.state.epoch = self.config.training.epochs
        self.state.step = 1
        self._best = self.optimizer.averaged()
        self.save()
        return self._finish()

    def _set_radial(self) -> None:
        """Channels: first the basis functions themselves, then random mixtures of them."""
        name = next((n for n in self.network.variables_by_name if n.endswith("/crad")), None)
        if name is None:
            raise UsageError(f"preset {self.config.model.preset!r} is not linear")
        variable = self.network.variables_by_name[name]
        channels, degrees, basis = variable.shape
        rng = np.random.default_rng([self.config.training.seed, 0x11])
        values = rng.standard_normal((channels, degrees, basis)) / np.sqrt(basis)
        for n in range(min(channels, basis)):
            values[n] = np.eye(basis)[n]
        variable.assign(values)

    def _graph(self, index: int) -> Graph:
        return self.graphs.load([index])[1][0]

    def _row_weights(self, frames: Sequence[Frame]) -> tuple[float, float, float]:
        """Weight of one label of each kind, so that a kind counts as in the loss."""
        labels = self.graphs.table.labels
        counts = np.maximum(self.graphs.table.weight @ labels, 1.0)
        factors = np.array(loss_weights(self.config, 1.0)) / counts
        energy, forces, stress = (factors / max(factors.max(), 1e-300)).tolist()
        return energy, forces, stress

    def _rows(
        self, design: Design, frame: Frame, graph: Graph, weights: tuple[float, float, float]
    ) -> tuple[Array, Array, Array]:
        """Rows, labels and weights of one structure; labels that are missing are left out."""
        rows = design.rows(graph)
        size = len(graph)
        shift = sum(self.data.reference.energies[symbol] for symbol in frame.atoms.get_chemical_symbols())
        parts = [
            (rows.energy[None] / size, np.array([(frame.energy - shift) / size]), weights[0]),
            (rows.forces.reshape(3 * size, -1), frame.forces.ravel(), weights[1]),
            (rows.stress, frame.stress, weights[2]),
        ]
        kept: list[list[Array]] = [[], [], []]
        for matrix, target, weight in parts:
            known = np.isfinite(target) & np.isfinite(matrix[:, 0]) & (weight > 0)
            kept[0].append(matrix[known])
            kept[1].append(target[known])
            kept[2].append(np.full(int(known.sum()), weight * frame.weight))
        return np.concatenate(kept[0]), np.concatenate(kept[1]), np.concatenate(kept[2])

    def _choose(self, design: Design, ridge: Ridge) -> Solution:
        if not self.data.valid:
            return ridge.by_evidence()
        weights = self._row_weights(self.data.train)
        graphs = self.data.graphs_of(self.data.valid)
        rows = [self._rows(design, f, graphs.load([i])[1][0], weights) for i, f in enumerate(self.data.valid)]
        matrix, target, weight = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        return ridge.by_validation(lambda c: float(np.sum(weight * (matrix @ c - target) ** 2)))

    def _put(self, design: Design, solution: Solution) -> None:
        scale = next((node.scale for node in self.blueprint.of_type(ScaleShift)), 1.0)
        held: dict[str, Any] = self.optimizer.weights()
        self.optimizer.put(held | design.weights(solution.coefficients, scale))
