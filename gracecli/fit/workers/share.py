"""How workers share a step: batches are dealt out, gradients come together in the order of the batches.

A step's batches b_0 ... b_(k-1) go to worker r = i mod n; worker r packs and evaluates its own and nothing else. The
gradient is added up by every worker in the order of the batches, exactly as one process does::

    g = (...((g_0 + g_1) + g_2) ...)

so that weights are the same to the bit whatever the number of workers. With fewer batches than workers every batch is
split into parts of near equal size: the gradient of a batch is the sum over its parts (labels are weighed by constants
of the whole fit, see :mod:`gracecli.fit.loss`), which agrees to round-off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gracecli.engine.base import Array
from gracecli.engine.batch import BatchShape
from gracecli.fit.batches import LARGEST, Capacity, FitBatch, GraphSet
from gracecli.fit.metrics import Prediction
from gracecli.fit.workers.team import Bytes, Team

Step = Sequence[tuple[int, ...]]
SLACK = 1.1
"""Room of a part above its share of a batch."""
_CONTROL = 5  # numbers before a gradient: evaluated or not, head, three terms of the loss


class Dealer:
    """Which batches of a step are this worker's, and their padded sizes.

    Parameters
    ----------
    graphs : GraphSet
    capacities : mapping
        Of whole batches.
    batch_atoms, per_step : int
        As in :class:`gracecli.fit.config.TrainingConfig`.
    team : Team
    """

    def __init__(
        self, graphs: GraphSet, capacities: Mapping[int, Capacity], batch_atoms: int, per_step: int, team: Team
    ) -> None:
        self._graphs, self._team = graphs, team
        self.parts = -(-team.size // per_step)
        self.rows = -(-per_step * self.parts // team.size)
        self._small = graphs.capacities(int(SLACK * batch_atoms / self.parts)) if self.parts > 1 else {}
        self._whole = capacities
        self._per_step = per_step

    @property
    def streamed(self) -> bool:
        """Whether structures are read when they are packed."""
        return self._graphs.streamed

    def describe(self) -> str:
        """One line for the user."""
        size, more = self._team.size, self._per_step * self.parts % self._team.size
        text = f"{size} workers, {_count(self._per_step, 'batch', 'batches')} per step"
        if self.parts > 1:
            text += f", each split into {self.parts} parts (training.batches_per_step = {size} keeps them whole)"
        if more:
            text += f"; {_count(more, 'worker evaluates', 'workers evaluate')} one more than the others"
        return text

    def own(self, plan: Sequence[Step]) -> list[list[tuple[int, ...]]]:
        """Part of every step that is this worker's."""
        return [self._dealt(step) for step in plan]

    def pack(self, members: Sequence[int], capacities: Mapping[int, Capacity]) -> FitBatch:
        """As :meth:`GraphSet.pack`; a part takes the smaller shape where it fits."""
        number = int(self._graphs.classes[members[0]])
        if number in self._small and self._fits(members, self._small[number]):
            capacities = self._small
        return self._graphs.pack(members, capacities)

    def _dealt(self, step: Step) -> list[tuple[int, ...]]:
        bins = [part for members in step for part in self._split(members)] if self.parts > 1 else list(step)
        return bins[self._team.rank :: self._team.size]

    def _split(self, members: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Parts of near equal size: the largest structure first, each to the emptiest part."""
        capacity = self._whole[int(self._graphs.classes[members[0]])]
        columns = _additive_columns()
        limit = np.array(capacity.shape, dtype=float)[columns]
        fill = (self._graphs.sizes[list(members)][:, columns] / np.maximum(limit, 1)).max(axis=1)
        parts: list[list[int]] = [[] for _ in range(self.parts)]
        load = np.zeros(self.parts)
        for i in np.argsort(-fill, kind="stable").tolist():
            emptiest = int(load.argmin())
            parts[emptiest].append(members[i])
            load[emptiest] += fill[i]
        return [tuple(part) for part in parts if part]

    def _fits(self, members: Sequence[int], capacity: Capacity) -> bool:
        sizes, columns = self._graphs.sizes[list(members)], _additive_columns()
        room = np.array(capacity.shape)[columns]
        return len(members) <= capacity.structures and bool((sizes[:, columns].sum(axis=0) <= room).all())


def _additive_columns() -> list[int]:
    return [number for number, name in enumerate(BatchShape._fields) if name not in LARGEST]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


class SharedCompute:
    """Gradients of a whole step from every worker's part of it; interface of :class:`gracecli.fit.compute.Compute`.

    Parameters
    ----------
    compute : Compute or alike
        Evaluates this worker's batches.
    team : Team
    variables : sequence
        What gradients are by: shapes and types.
    rows : int
        Most batches that a worker has in one step.
    wish : callable
        What this worker wants: 0 go on, 1 or 2 stop after this step; ``team.stop`` is the largest of all.
    """

    def __init__(
        self, compute: Any, team: Team, variables: Sequence[Any], rows: int, wish: Callable[[], int] = lambda: 0
    ) -> None:
        import tensorflow as tf

        self._compute, self._team, self._rows, self._wish = compute, team, rows, wish
        self._shapes = [tuple(v.shape) for v in variables]
        self._types = [np.dtype(v.dtype.as_numpy_dtype) for v in variables]
        self._sizes = [int(np.prod(s)) * t.itemsize for s, t in zip(self._shapes, self._types, strict=True)]
        self._add = tf.function(lambda a, b: [x + y for x, y in zip(a, b, strict=True)], jit_compile=True)
        self._constant = tf.constant

    def gradients(
        self, batches: Sequence[FitBatch], weights: tuple[float, float, float] | None = None
    ) -> tuple[list[Any], Array]:
        """Gradient of the loss of one step by all workers, and its terms; ``batches`` are this worker's."""
        rows = np.zeros((self._rows, 8 * _CONTROL + sum(self._sizes)), np.uint8)
        for row, batch, (found, terms) in zip(rows, batches, self._evaluated(batches, weights), strict=False):
            row[: 8 * _CONTROL] = np.array([1.0, getattr(batch, "head", 0), *terms]).view(np.uint8)
            row[8 * _CONTROL :] = np.concatenate([np.ravel(np.asarray(g)).view(np.uint8) for g in found])
        block = np.append(np.array([self._wish()], np.int64).view(np.uint8), rows)
        gathered = self._team.gather(block)
        self._team.stop = int(np.ascontiguousarray(gathered[:, :8]).view(np.int64).max())
        parts = gathered[:, 8:].reshape(self._team.size, self._rows, -1).transpose(1, 0, 2)
        return self._sum([part for row in parts for part in row])

    def _evaluated(self, batches: Sequence[FitBatch], weights: Any) -> list[tuple[Sequence[Any], Array]]:
        if hasattr(self._compute, "each"):  # several at a time
            found: list[tuple[Sequence[Any], Array]] = self._compute.each(batches, weights)
            return found
        return [self._compute.gradients([batch], weights) for batch in batches]

    def _sum(self, rows: Sequence[Bytes]) -> tuple[list[Any], Array]:
        """Sum in the order of the batches; heads apart, as one process does it."""
        totals: dict[int, tuple[list[Any], Array]] = {}
        for row in rows:
            present, head, *terms = row[: 8 * _CONTROL].copy().view(np.float64).tolist()
            if not present:
                continue
            gradients = self._unpacked(row[8 * _CONTROL :])
            if head in totals:
                gradients = list(self._add(totals[head][0], gradients))
                terms = totals[head][1] + terms
            totals[int(head)] = gradients, np.array(terms)
        (total, sums), *others = (totals[head] for head in sorted(totals))
        for gradients, terms in others:
            total, sums = list(self._add(total, gradients)), sums + terms
        return total, sums

    def _unpacked(self, content: Bytes) -> list[Any]:
        cuts = np.cumsum(self._sizes)[:-1]
        parts = zip(np.split(content, cuts), self._types, self._shapes, strict=True)
        return [self._constant(np.frombuffer(part.tobytes(), kind).reshape(shape)) for part, kind, shape in parts]

    def predict(self, batch: FitBatch) -> tuple[Array, Array, Array]:
        """Of this worker alone."""
        energy, forces, stress = self._compute.predict(batch)
        return energy, forces, stress

    def close(self) -> None:
        """End the threads."""
        self._compute.close()


def shared_predictions(found: Mapping[int, Prediction], team: Team) -> dict[int, Prediction]:
    """Predictions by number of the structure, of all workers."""
    if team.size == 1:
        return dict(found)
    flat = [
        np.concatenate([[index, len(p.forces), p.energy], p.stress, p.forces.ravel()]) for index, p in found.items()
    ]
    content = np.concatenate(flat).astype(np.float64).tobytes() if flat else b""
    everything: dict[int, Prediction] = {}
    for part in team.exchange(content):
        values = np.frombuffer(part, np.float64)
        while len(values):
            index, size = int(values[0]), int(values[1])
            forces = values[9 : 9 + 3 * size].reshape(size, 3)
            everything[index] = Prediction(float(values[2]), forces, values[3:9])
            values = values[9 + 3 * size :]
    return everything
