"""Training of several heads on one body: every batch belongs to one head, and gradients add up.

Heads are networks of one graph that share the variables of all nodes but readout and reference energies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from gracecli.fit.batches import Capacity, FitBatch, GraphSet
from gracecli.fit.data import Frame
from gracecli.fit.engines import Evaluation, Make
from gracecli.fit.tuning.adapter import Adapter
from gracecli.fit.tuning.replay import PREFIX
from gracecli.model.blueprint import Blueprint
from gracecli.model.heads import COVERS, OWN_METADATA, join_heads
from gracecli.model.modelfile import Model
from gracecli.model.network import Network
from gracecli.model.roles import node_roles

HEAD_ROLES = frozenset({"readout", "reference", "repulsion"})


def head_of(frame: Frame) -> int:
    """Number of the head that a frame belongs to: 0 new, 1 base."""
    return int(frame.set_name.startswith(PREFIX))


@dataclass(frozen=True)
class HeadBatch(FitBatch):
    """A batch of one head."""

    head: int = 0


class HeadGraphSet(GraphSet):
    """Frames of several heads; those of two heads never share a batch."""

    def _class_of(self, frame: Frame, elements: int) -> int:
        return super()._class_of(frame, elements) + 2 * head_of(frame)

    def pack(self, members: Sequence[int], capacities: Mapping[int, Capacity]) -> HeadBatch:
        """Pack frames of one class into one batch."""
        packed = super().pack(members, capacities)
        return HeadBatch(packed.batch, packed.labels, packed.members, packed.graphs, head_of(self.frames[members[0]]))


class HeadsCompute:
    """As :class:`gracecli.fit.compute.Compute`, for batches that name their head."""

    def __init__(self, computes: Sequence[Evaluation]) -> None:
        self._computes = list(computes)

    def gradients(self, batches: Sequence[FitBatch], *options: Any) -> tuple[list[tf.Tensor], np.ndarray]:
        """Gradient of the loss of one step, and its terms; heads in their order."""
        total: list[tf.Tensor] | None = None
        terms: Any = 0.0
        for head, compute in enumerate(self._computes):
            own = [batch for batch in batches if getattr(batch, "head", 0) == head]
            if own:
                found, more = compute.gradients(own, *options)
                total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
                terms = terms + more
        assert total is not None
        return total, terms

    def predict(self, batch: FitBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energies, forces, stresses of a batch by its head."""
        return self._computes[getattr(batch, "head", 0)].predict(batch)

    def close(self) -> None:
        """End the threads."""
        for compute in self._computes:
            compute.close()


class HeadsAdapter(Adapter):
    """All weights of two heads and their body.

    Parameters
    ----------
    network : Network
        Of the new head.
    base : Model
        What the base head starts as: the same graph, other readout and reference energies.
    names : (str, str)
        New head, base head.
    new : sequence of str
        Elements that the base head was not made for.
    """

    def __init__(self, network: Any, base: Model, names: tuple[str, str], new: Sequence[str] = ()) -> None:
        super().__init__(network)
        self._base, self._names = base, names
        self._covers = [e for e in base.elements if e not in new] if new else None
        roles = node_roles(base.blueprint)
        body = {
            name: variable
            for name, variable in network.variables_by_name.items()
            if roles.get(name.partition("/")[0], "readout") not in HEAD_ROLES
        }
        self.old = Network(base.blueprint, base.weights, network.dtype.name, shared=body)
        self._own = [name for name in self.old.trainable_by_name if name not in body]
        for name in self._own:
            self.variables[self._key(name)] = self.old.trainable_by_name[name]
        self.targets = [self.variables[name] for name in sorted(self.variables)]

    def _key(self, name: str) -> str:
        return f"{self._names[1]}:{name}"

    def compute(self, loss: Any, make: Make) -> HeadsCompute:
        """One compiled evaluation per head."""
        return HeadsCompute([make(network, loss, self.targets) for network in (self.network, self.old)])

    def model(self, blueprint: Blueprint, moved: Mapping[str, np.ndarray], metadata: dict[str, Any]) -> Model:
        """Both heads in one model, the new one by default."""
        values = self.network.weights() | {k: v for k, v in moved.items() if k in self.network.variables_by_name}
        own = {name: moved[self._key(name)] for name in self._own}
        old = self.old.weights() | {k: v for k, v in values.items() if k not in self._own} | own
        kept = {key: self._base.metadata[key] for key in OWN_METADATA if self._base.metadata.get(key)}
        kept |= {COVERS: self._covers} if self._covers else {}
        blueprints = dict(zip(self._names, (blueprint, self._base.blueprint), strict=True))
        heads = {
            self._names[0]: Model(blueprints[self._names[0]], values, metadata),
            self._names[1]: Model(blueprints[self._names[1]], {k: old[k] for k in self._base.weights}, kept),
        }
        return join_heads(heads, self._names[0], metadata)
