r"""The loss: Huber functions of the errors of energy per atom, force components and stress components.

::

    L = w_E / n_E  sum_s  u_s h_E((E_s - E_s^ref) / N_s)
      + w_F / n_F  sum_i  u_i sum_x h_F(F_ix - F_ix^ref)
      + w_S / n_S  sum_s  u_s sum_v h_S(sigma_sv - sigma_sv^ref)

    h(x) = x^2 / 2  for |x| < delta,   delta (|x| - delta / 2)  beyond

eV/atom, eV/Å and eV/Å^3. n_E, n_F, n_S: labels of one kind per step, averaged over an epoch (with their weights, force
and stress counted by component). They are constants, so every label counts the same whatever batch it falls into, and
gradients of partial batches add up to the gradient of the whole.

=============  ==========================================
symbol         variable
=============  ==========================================
u              ``energy_weight``, ``forces_weight``, ``stress_weight`` (0 for missing labels and padding)
delta          ``LossConfig.energy_delta`` ...
n              ``LabelCounts``
=============  ==========================================

The shape h is a plugin (:class:`gracecli.plugin.specs.LossSpec`): ``factory(delta=...)`` returns
``loss(residual, weight) -> sum of weighted losses``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gracecli.fit.batches import Labels
from gracecli.fit.config import LossConfig
from gracecli.fit.frametable import FrameTable

LossFunction = Callable[[Any, Any], Any]


def huber(delta: float) -> LossFunction:
    """Quadratic below ``delta``, linear beyond."""
    import tensorflow as tf

    def loss(residual: Any, weight: Any) -> Any:
        size = tf.abs(residual)
        inner = tf.minimum(size, tf.constant(delta, residual.dtype))
        return tf.reduce_sum(weight * (inner * (size - 0.5 * inner)))

    return loss


def square(delta: float) -> LossFunction:
    """Half the square; ``delta`` is not used."""
    import tensorflow as tf

    def loss(residual: Any, weight: Any) -> Any:
        return tf.reduce_sum(weight * (0.5 * residual * residual))

    return loss


def absolute(delta: float) -> LossFunction:
    """``delta`` times the absolute value, so that it joins a Huber function smoothly in size."""
    import tensorflow as tf

    def loss(residual: Any, weight: Any) -> Any:
        return tf.reduce_sum(weight * (tf.constant(delta, residual.dtype) * tf.abs(residual)))

    return loss


def find_loss(name: str) -> Callable[..., LossFunction]:
    """Factory of a registered loss by name.

    Raises
    ------
    UsageError
        No such loss.
    """
    from gracecli.plugin.manager import get_plugin_manager
    from gracecli.plugin.specs import LossSpec

    factory: Callable[..., LossFunction] = get_plugin_manager().find(LossSpec, name).load()
    return factory


@dataclass(frozen=True)
class LabelCounts:
    """Weighted number of labels per step, averaged over an epoch."""

    energy: float
    forces: float
    stress: float

    def to_dict(self) -> dict[str, float]:
        """Plain values."""
        return {"energy": self.energy, "forces": self.forces, "stress": self.stress}


def count_labels(table: FrameTable, plan: Sequence[Sequence[Sequence[int]]]) -> LabelCounts:
    """Mean over the steps of a plan of the weighted labels of their frames."""
    visited = [i for step in plan for members in step for i in members]
    totals = table.weight[visited] @ table.labels[visited]
    return LabelCounts(*(max(float(total) / max(len(plan), 1), 1e-12) for total in totals))


class FitLoss:
    """The loss of one batch from predictions; returns its three terms, weights included.

    Parameters
    ----------
    config : LossConfig
    counts : LabelCounts
    """

    def __init__(self, config: LossConfig, counts: LabelCounts) -> None:
        factory = find_loss(config.kind)
        names = ("energy", "forces", "stress")
        self.weights: tuple[float, float, float] = (config.energy, config.forces, config.stress)
        self._terms = [(factory(delta=getattr(config, f"{name}_delta")), 1.0 / getattr(counts, name)) for name in names]

    def __call__(self, energy: Any, forces: Any, stress: Any, labels: Labels, weights: Any) -> tuple[Any, Any, Any]:
        """Terms of energy, forces and stress, with weights w_E, w_F, w_S; their sum is the loss."""
        (loss_e, w_e), (loss_f, w_f), (loss_s, w_s) = (
            (function, factor * weights[k]) for k, (function, factor) in enumerate(self._terms)
        )
        return (
            w_e * loss_e((energy - labels.energy) / labels.size, labels.energy_weight),
            w_f * loss_f(forces - labels.forces, labels.forces_weight[:, None]),
            w_s * loss_s(stress - labels.stress, labels.stress_weight),
        )
