"""Between optimizer and network: which numbers are optimized, and how they make the weights.

::

    rows      g <- g o mask,   w <- w0 + (w - w0) o mask              o: element-wise; the mask is 1 for rows that move
    low rank  W = W0 + (alpha / r) A B;   dL/dA = (alpha / r) dL/dW B^T,   dL/dB = (alpha / r) A^T dL/dW

The network always holds W itself, so that training, validation and the saved model run one set of weights: a low-rank
correction is merged at every step, and the gradient of its factors is the chain rule above, exactly.

======  ===========================
symbol  variable
======  ===========================
W0      ``base``
A, B    ``left``, ``right``
======  ===========================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gracecli.fit.engines import Make
from gracecli.fit.tuning.strategy import Movement
from gracecli.model.blueprint import Blueprint
from gracecli.model.modelfile import Model


class Adapter:
    """Everything moves: the ordinary fit.

    Attributes
    ----------
    variables : dict
        What the optimizer moves, by name.
    targets : list of tf.Variable
        What the loss is differentiated by.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.variables: dict[str, tf.Variable] = dict(network.trainable_by_name)
        self.targets: list[tf.Variable] = [self.variables[name] for name in sorted(self.variables)]

    def project(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Gradients by ``targets`` -> gradients by ``variables`` in the order of their names."""
        return list(gradients)

    def push(self) -> None:
        """Make the network's weights from the variables."""

    def compute(self, loss: Any, make: Make) -> Any:
        """Compiled evaluation of losses and gradients by ``targets``."""
        return make(self.network, loss, self.targets)

    def model(self, blueprint: Blueprint, moved: Mapping[str, np.ndarray], metadata: dict[str, Any]) -> Model:
        """The model that values of ``variables`` stand for."""
        return Model(blueprint, self.network.weights() | dict(moved), metadata)


class StrategyAdapter(Adapter):
    """Rows, whole arrays and low-rank corrections of a model that was there before.

    Parameters
    ----------
    network : gracecli.model.network.Network
        With the weights of ``base``.
    base : Model
    moves : mapping
        Movement of every trainable variable.
    alpha : float
        Strength of low-rank corrections; their product is multiplied by ``alpha / rank``.
    seed : int
    """

    def __init__(self, network: Any, base: Model, moves: Mapping[str, Movement], alpha: float, seed: int) -> None:
        super().__init__(network)
        self._base = base
        self._moves = {name: move for name, move in moves.items() if not move.held}
        self._names = sorted(self._moves)
        self._held = {name: tf.constant(network.trainable_by_name[name].numpy()) for name in self._names}
        self.targets = [network.trainable_by_name[name] for name in self._names]
        self._alpha = alpha
        self.variables = {}
        rng = np.random.default_rng([seed, 0x10BA])
        for name in self._names:
            variable, factors = network.trainable_by_name[name], self._moves[name].factors
            if factors is None:
                self.variables[name] = variable
                continue
            batch, m, n, rank = factors
            left = rng.standard_normal((batch, m, rank))
            self.variables[f"{name}#left"] = tf.Variable(left, dtype=variable.dtype)
            self.variables[f"{name}#right"] = tf.Variable(np.zeros((batch, rank, n)), dtype=variable.dtype)
        self._masks = {name: self._mask(name) for name in self._names}
        self._rows = {name: np.array(m.rows or [])[:, None] for name, m in self._moves.items()}
        self._project = tf.function(self._projected)
        self._assign = tf.function(self._assigned)

    def _mask(self, name: str) -> np.ndarray | None:
        """Rows that move, shaped to broadcast; None where all do."""
        rows = self._moves[name].rows
        if rows is None or self._moves[name].factors is not None:
            return None
        shape = self._held[name].shape
        mask = np.zeros((shape[0], *(1,) * (len(shape) - 1)), dtype=bool)
        mask[list(rows)] = True
        return mask

    def project(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Mask rows that are held, and apply the chain rule to factors."""
        return list(self._project(list(gradients)))

    def _projected(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        found: dict[str, tf.Tensor] = {}
        for name, gradient in zip(self._names, gradients, strict=True):
            factors, mask = self._moves[name].factors, self._masks[name]
            if factors is not None:
                batch, m, n, rank = factors
                if self._moves[name].rows is not None:
                    gradient = tf.gather(gradient, self._rows[name][:, 0])
                flat = tf.reshape(gradient, (batch, m, n)) * (self._alpha / rank)
                found[f"{name}#left"] = tf.matmul(flat, self.variables[f"{name}#right"], transpose_b=True)
                found[f"{name}#right"] = tf.matmul(self.variables[f"{name}#left"], flat, transpose_a=True)
            else:
                found[name] = gradient if mask is None else gradient * tf.constant(mask.astype(float), gradient.dtype)
        return [found[name] for name in sorted(found)]

    def push(self) -> None:
        """Put back rows that are held (weight decay moves them), and merge factors."""
        self._assign()

    def _assigned(self) -> None:
        for name, target in zip(self._names, self.targets, strict=True):
            factors, mask = self._moves[name].factors, self._masks[name]
            if factors is not None:
                left, right = self.variables[f"{name}#left"], self.variables[f"{name}#right"]
                correction = tf.matmul(left, right) * (self._alpha / factors[3])
                if self._moves[name].rows is None:
                    target.assign(self._held[name] + tf.reshape(correction, target.shape))
                else:
                    correction = tf.reshape(correction, (factors[0], *target.shape[1:]))
                    target.assign(tf.tensor_scatter_nd_add(self._held[name], self._rows[name], correction))
            elif mask is not None:
                target.assign(tf.where(tf.constant(mask), target, self._held[name]))

    def model(self, blueprint: Blueprint, moved: Mapping[str, np.ndarray], metadata: dict[str, Any]) -> Model:
        """Base weights, bit for bit, but for what moves; in the wider of the two precisions."""
        weights = {name: np.asarray(value) for name, value in self._base.weights.items()}
        for name in self._names:
            base, mask, factors = weights[name], self._masks[name], self._moves[name].factors
            if factors is not None:
                correction = np.matmul(moved[f"{name}#left"], moved[f"{name}#right"]) * (self._alpha / factors[3])
                weights[name] = _added(base, correction, self._moves[name].rows)
            else:
                weights[name] = moved[name] if mask is None else np.where(mask, moved[name], base)
        wide = np.result_type(*(weights[name].dtype for name in self.network.trainable_by_name))
        weights = {n: v.astype(np.result_type(v, wide)) if v.dtype.kind == "f" else v for n, v in weights.items()}
        return Model(blueprint, weights, metadata)


def _added(base: np.ndarray, correction: np.ndarray, rows: Sequence[int] | None) -> np.ndarray:
    """Base and correction; rows that are not corrected keep every bit."""
    if rows is None:
        return base + correction.reshape(base.shape)
    found = base.astype(np.result_type(base, correction))
    found[list(rows)] += correction.reshape((len(rows), *base.shape[1:]))
    return found
