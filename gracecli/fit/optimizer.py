"""Adam with decoupled weight decay, clipping by global norm, and a running mean (EMA) of the weights.

::

    g <- g min(1, clip / |g|)                                     |g| over all weights
    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
    w <- w - lr ( m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay w )
    s <- s + (1 - d_t) (w - s),   d_t = min(d, (1 + t) / (10 + t))

Kingma and Ba (arXiv:1412.6980), Loshchilov and Hutter (arXiv:1711.05101). AMSGrad (Reddi, Kale and Kumar,
arXiv:1904.09237) divides by the square root of the largest v so far instead. All state is explicit (``m``, ``v``,
``ema``, the step count t is an argument), so that a checkpoint holds everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class Optimizer:
    """State and update of the trainable variables.

    Parameters
    ----------
    variables : mapping
        Trainable variables by name.
    clip_norm, weight_decay, ema : float
        As in :class:`gracecli.fit.config.TrainingConfig`.
    amsgrad : bool
    """

    def __init__(
        self,
        variables: Mapping[str, tf.Variable],
        clip_norm: float,
        weight_decay: float,
        ema: float,
        amsgrad: bool = False,
    ) -> None:
        self.names = sorted(variables)
        self.variables = [variables[name] for name in self.names]
        self.first = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.variables]
        self.second = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.variables]
        self.ema = [tf.Variable(v, trainable=False) for v in self.variables]
        self.largest = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.variables] if amsgrad else []
        self._clip, self._decay, self._ema_decay = clip_norm, weight_decay, ema
        self._apply = tf.function(self._update, jit_compile=True)

    def apply(self, gradients: Sequence[tf.Tensor], learning_rate: float, step: int) -> float:
        """Move the weights; ``step`` counts from 1. Returns the norm of the gradient before clipping."""
        t = float(step)
        decay = min(self._ema_decay, (1.0 + t) / (10.0 + t)) if self._ema_decay else 0.0
        scalars = np.array([learning_rate, 1.0 - BETA_1**t, 1.0 - BETA_2**t, decay])
        return float(self._apply(list(gradients), tf.constant(scalars)))

    def _update(self, gradients: list[tf.Tensor], scalars: tf.Tensor) -> tf.Tensor:
        squares = [tf.reduce_sum(tf.cast(g, tf.float64) ** 2) for g in gradients]
        norm = tf.sqrt(tf.add_n(squares))
        factor = tf.minimum(tf.constant(1.0, tf.float64), self._clip / tf.maximum(norm, 1e-300))
        # a gradient that is not finite must not poison the state: the trainer sees the norm and stops
        finite = tf.math.is_finite(norm)
        largest = self.largest or [None] * len(self.variables)
        states = (self.variables, gradients, self.first, self.second, self.ema, largest)
        for w, g, m, v, s, top in zip(*states, strict=True):
            rate, bias_1, bias_2, decay = (tf.cast(scalars[k], w.dtype) for k in range(4))
            g = g * tf.cast(factor, w.dtype)
            new_m = BETA_1 * m + (1.0 - BETA_1) * g
            new_v = BETA_2 * v + (1.0 - BETA_2) * g * g
            scale = new_v
            if top is not None:
                scale = tf.maximum(top, new_v)
                top.assign(tf.where(finite, scale, top))
            move = new_m / bias_1 / (tf.sqrt(scale / bias_2) + EPSILON) + self._decay * w
            new_w = w - rate * move
            new_s = s + (1.0 - decay) * (new_w - s)
            for variable, value in ((w, new_w), (m, new_m), (v, new_v), (s, new_s)):
                variable.assign(tf.where(finite, value, variable))
        return norm

    # --- state ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, np.ndarray]:
        """All state by ``group:name``."""
        return {
            f"{group}:{name}": variable.numpy()
            for group, variables in self._groups().items()
            for name, variable in zip(self.names, variables, strict=True)
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Put back what :meth:`state` returned."""
        for group, variables in self._groups().items():
            for name, variable in zip(self.names, variables, strict=True):
                variable.assign(state[f"{group}:{name}"])

    def averaged(self) -> dict[str, np.ndarray]:
        """EMA weights by name (the weights themselves when EMA is off)."""
        source = self.ema if self._ema_decay else self.variables
        return {name: variable.numpy() for name, variable in zip(self.names, source, strict=True)}

    def weights(self) -> dict[str, np.ndarray]:
        """Present weights by name."""
        return {name: variable.numpy() for name, variable in zip(self.names, self.variables, strict=True)}

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        """Set the weights (not the rest of the state)."""
        for name, variable in zip(self.names, self.variables, strict=True):
            variable.assign(values[name])

    def put(self, values: Mapping[str, np.ndarray]) -> None:
        """Set the weights and their running mean alike, for optimizers that keep none."""
        self.load(values)
        for name, variable in zip(self.names, self.ema, strict=True):
            variable.assign(values[name])

    def _groups(self) -> dict[str, Sequence[Any]]:
        groups: dict[str, Sequence[Any]] = {
            "weight": self.variables,
            "first": self.first,
            "second": self.second,
            "ema": self.ema,
        }
        return {**groups, "largest": self.largest} if self.largest else groups
