"""Energies, forces, stresses and weight gradients of one batch, compiled once per shape.

::

    E_s = sum_(i in s) E_i                     g_b = dE / dr_b,   r_b = r_j - r_i
    F_k = sum_(b: i=k) g_b - sum_(b: j=k) g_b
    sigma_s = 1 / (2 V_s) sum_(b in s) (r_b g_b^T + g_b r_b^T)          tensile-positive
    dL/dw by reverse mode through all of this

===========  ==========================
symbol       variable
===========  ==========================
r_b, g_b     ``vectors``, ``pair_gradient``
i, j         ``row_centre``, ``neighbour``
V_s          ``labels.volume``
===========  ==========================
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from gracecli.fit.batches import FitBatch, Labels
from gracecli.fit.loss import FitLoss
from gracecli.model.blocks.base import BatchTensors, batch_tensors

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class Compute:
    """Compiled evaluation of a network.

    Parameters
    ----------
    network : gracecli.model.network.Network
    loss : FitLoss
    radial : str
        ``projected`` or ``exact``; how radial functions are evaluated in training.
    trainable : sequence of tf.Variable
        Variables to differentiate by, in the order of the optimizer.
    threads : int
        Batches of one step evaluated at a time.
    """

    def __init__(
        self, network: Any, loss: FitLoss, radial: str, trainable: Sequence[tf.Variable], threads: int = 1
    ) -> None:
        self._network = network
        self._loss = loss
        self._radial = radial
        self._trainable = list(trainable)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._gradient = tf.function(self._gradient_of_batch, jit_compile=True)
        self._predict = tf.function(self._predict_batch, jit_compile=True)
        self._add = tf.function(lambda a, b: [x + y for x, y in zip(a, b, strict=True)], jit_compile=True)

    def gradients(
        self, batches: Sequence[FitBatch], weights: tuple[float, float, float] | None = None
    ) -> tuple[list[tf.Tensor], np.ndarray]:
        """Gradient of the loss of one step, and its terms (energy, forces, stress).

        ``weights`` are those of the loss in the present stage (default: of the settings); changing them compiles
        nothing.

        Batches may be evaluated at the same time; their gradients are added in order, so the result does not depend
        on the number of threads.
        """
        (total, terms), *others = self.each(batches, weights)
        for gradients, more in others:
            total = self._add(total, gradients)
            terms = terms + more
        return list(total), terms

    def each(
        self, batches: Sequence[FitBatch], weights: tuple[float, float, float] | None = None
    ) -> list[tuple[list[tf.Tensor], np.ndarray]]:
        """As :meth:`gradients`, batch by batch."""
        factors = tf.constant(weights or self._loss.weights, tf.float64)
        inputs = [(*_tensors(batch), factors) for batch in batches]
        if self._pool is None or len(inputs) == 1:
            results = [self._gradient(*entry) for entry in inputs]
        else:
            results = list(self._pool.map(lambda entry: self._gradient(*entry), inputs))
        return [(gradients, terms.numpy()) for gradients, terms in results]

    def predict(self, batch: FitBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energies (structures,) in eV, forces (atoms, 3) in eV/Å, stresses (structures, 6) in eV/Å^3, padded."""
        energy, forces, stress = self._predict(*_tensors(batch))
        return energy.numpy(), forces.numpy(), stress.numpy()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _gradient_of_batch(
        self, inputs: BatchTensors, labels: Labels, weights: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._trainable)
            terms = self._loss(*self._predict_batch(inputs, labels), labels, weights)
            total = tf.add_n(list(terms))
        gradients = tape.gradient(total, self._trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(g) for g in gradients], tf.stack(terms)  # dense: gathers give slices

    def _predict_batch(self, inputs: BatchTensors, labels: Labels) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        vectors = inputs.bond_vector
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(vectors)
            atomic = self._network.atomic_energies(inputs._replace(bond_vector=vectors), radial=self._radial)
            total = tf.reduce_sum(atomic)
        pair_gradient = tf.cast(tape.gradient(total, vectors), tf.float64)
        atoms, structures = inputs.species.shape[0], labels.size.shape[0]
        energy = tf.math.unsorted_segment_sum(tf.cast(atomic, tf.float64), labels.structure, structures + 1)[:-1]

        of_rows = tf.reduce_sum(pair_gradient, axis=1)
        forces = tf.math.unsorted_segment_sum(of_rows, inputs.row_centre, atoms)
        forces -= tf.math.unsorted_segment_sum(
            tf.reshape(pair_gradient, [-1, 3]), tf.reshape(inputs.neighbour, [-1]), atoms
        )
        outer = tf.einsum("rwx,rwy->rxy", pair_gradient, tf.cast(vectors, tf.float64))
        of_structure = tf.math.unsorted_segment_sum(
            outer, tf.gather(labels.structure, inputs.row_centre), structures + 1
        )[:-1]
        voigt = tf.stack([0.5 * (of_structure[:, x, y] + of_structure[:, y, x]) for x, y in VOIGT], axis=1)
        return energy, forces, voigt / labels.volume[:, None]


def _tensors(batch: FitBatch) -> tuple[BatchTensors, Labels]:
    return batch_tensors(batch.batch), Labels(*(tf.constant(value) for value in batch.labels))
