r"""Gradients of the loss by the weights with the compiled kernels, without derivatives of derivatives.

The loss depends on energies E_s and, through forces and stresses, on the gradients g_b = dE/dr_b of the bonds::

    dL/dw = sum_s L_E,s dE_s/dw + sum_b v_b . d g_b/dw,     L_E = dL/dE,  v_b = dL/dg_b
    sum_b v_b . d g_b/dw = d/dt  dE(r + t v)/dw  at t = 0

so the second term is the derivative of the plain weight gradient dE/dw along one displacement of all bonds. It is taken
as a central difference, structure by structure, with t_s max|v| = h; energies are smooth (splines with four
continuous derivatives), so that its error, (h / 0.3 Å)^2 / 6 + 1e-16 x 0.3 Å / h, is about 1e-9 of the gradient.
Three passes of the kernels (E and g; dE/dw at r + t v and at r - t v) replace the double backward pass::

    dL/dw = sum_s (L_E,s / 2 + 1 / 2t_s) dE_s/dw(r + t_s v) + (L_E,s / 2 - 1 / 2t_s) dE_s/dw(r - t_s v)

    v_b = F'_i - F'_j + (M_s r_b) / V_s       F' = dL/dF,  M_s = dL/dsigma_s as a symmetric matrix

===========  =====================
symbol       variable
===========  =====================
L_E, F', M   ``by_energy``, ``by_forces``, ``by_stress``
v_b          ``direction``
t_s, h       ``step``, ``DISPLACEMENT``
===========  =====================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from grace_native.graphs import JoinedGraphs, voigt
from grace_native.library import default_threads, load
from grace_native.program import Array
from grace_native.training_program import TrainingProgram
from gracecli.errors import UsageError
from gracecli.fit.batches import FitBatch, Labels

TOLERANCE = {"projected": 1e-4, "exact": 1e-7}
"""Of tabulated values and slopes at the first weights, relative to the largest (values: two to three digits better)."""
DISPLACEMENT = 3e-5
"""Largest displacement of a bond in Å."""
KEEP_BYTES = 2**30
PART_ATOMS, MOST_PARTS = 64, 32
"""Atoms of the parts that a batch is cut into; every part has a gradient of its own to add up."""
VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
HALF = np.array([1.0, 1.0, 1.0, 0.5, 0.5, 0.5])


class NativeCompute:
    """Evaluates and differentiates a network in training (interface of :class:`gracecli.fit.compute.Compute`).

    Parameters
    ----------
    network : gracecli.model.network.Network
        In double precision.
    loss : gracecli.fit.loss.FitLoss
    trainable : sequence of tf.Variable
        Variables to differentiate by, in the order of the optimizer.
    threads : int
        0: all processors. Results do not depend on it: a batch is cut into as many parts as its size gives.
    radial : str
        How closely radial functions are tabulated: ``projected`` or ``exact`` (see :data:`TOLERANCE`).

    Raises
    ------
    ModelError
        The network holds something that the kernels cannot train; the message names it.
    UsageError
        Single precision.
    """

    def __init__(
        self, network: Any, loss: Any, trainable: Sequence[tf.Variable], threads: int = 0, radial: str = "projected"
    ) -> None:
        if network.dtype != tf.float64:
            raise UsageError("native training works in double precision", 'set training.precision = "fp64"')
        self._loss = loss
        self._threads = threads or default_threads()
        self._program = TrainingProgram(network, trainable, TOLERANCE[radial])
        numbers = self._program.numbers()
        self._engine = load().engine(self._program.code, numbers, False)
        self._loss_gradients = tf.function(self._differentiate_loss, jit_compile=True)

    def gradients(
        self, batches: Sequence[FitBatch], weights: tuple[float, float, float] | None = None
    ) -> tuple[list[tf.Tensor], np.ndarray]:
        """Gradient of the loss of one step, and its terms (energy, forces, stress); batches are added in order."""
        (total, terms), *others = self.each(batches, weights)
        for gradients, more in others:
            total, terms = [a + b for a, b in zip(total, gradients, strict=True)], terms + more
        return total, terms

    def each(
        self, batches: Sequence[FitBatch], weights: tuple[float, float, float] | None = None
    ) -> list[tuple[list[tf.Tensor], np.ndarray]]:
        """Gradient and terms of every batch."""
        self._engine.update(self._program.code, self._program.numbers())
        factors = tf.constant(weights or self._loss.weights, tf.float64)
        results = []
        for batch in batches:
            total = np.zeros(self._program.size)
            bonds = _Bonds(batch)
            labels = Labels(*map(tf.constant, batch.labels))
            found = self._loss_gradients(*self._evaluate(batch, bonds), labels, factors)
            terms, by_energy, by_forces, by_stress = (x.numpy() for x in found)
            self._add_gradient(bonds, by_energy, by_forces, by_stress, total)
            results.append((self._program.pull_back(total), terms))
        return results

    def predict(self, batch: FitBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energies (structures,) in eV, forces (atoms, 3) in eV/Å, stresses (structures, 6) in eV/Å^3, padded."""
        self._engine.update(self._program.code, self._program.numbers())
        return self._evaluate(batch, _Bonds(batch))

    def close(self) -> None:
        """Nothing is held open."""

    def _evaluate(self, batch: FitBatch, bonds: _Bonds) -> tuple[Array, Array, Array]:
        n = len(bonds.species)
        self._engine.set_parts(max(1, min(MOST_PARTS, len(batch.labels.structure) // PART_ATOMS)))
        energies, forces, virials = np.empty(n), np.empty((n, 3)), np.empty((n, 9))
        self._engine.evaluate(
            bonds.species, bonds.first, bonds.neighbour, bonds.vectors, energies, forces, virials, np.empty((n, 0)),
            self._threads, KEEP_BYTES,
        )  # fmt: skip
        structures = len(batch.labels.size)
        energy, virial = np.zeros(structures), np.zeros((structures, 9))
        energy[: bonds.count] = np.add.reduceat(energies, bonds.offsets[:-1])
        virial[: bonds.count] = np.add.reduceat(virials, bonds.offsets[:-1])
        padded = np.zeros((len(batch.labels.structure), 3))
        padded[:n] = forces
        return energy, padded, voigt(virial) / np.asarray(batch.labels.volume)[:, None]

    def _differentiate_loss(
        self, energy: tf.Tensor, forces: tf.Tensor, stress: tf.Tensor, labels: Labels, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            inputs = [energy, forces, stress]
            tape.watch(inputs)
            terms = self._loss(energy, forces, stress, labels, weights)
            total = tf.add_n(list(terms))
        found = tape.gradient(total, inputs, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tf.stack(terms), *found

    def _add_gradient(self, bonds: _Bonds, by_energy: Array, by_forces: Array, by_stress: Array, total: Array) -> None:
        n, count = len(bonds.species), bonds.count
        matrix = (by_stress[:count] * HALF)[:, VOIGT] / bonds.volumes[:, None, None]
        direction = by_forces[bonds.centre] - by_forces[bonds.neighbour]
        direction += np.einsum("bxy,by->bx", matrix[bonds.structure_of_bond], bonds.vectors)
        largest = np.zeros(count)
        np.maximum.at(largest, bonds.structure_of_bond, np.sqrt((direction * direction).sum(axis=1)))
        moving = largest > 0.0
        step = np.where(moving, DISPLACEMENT / np.where(moving, largest, 1.0), 0.0)
        slope = np.where(moving, 0.5 / np.where(moving, step, 1.0), 0.0)
        displacement = direction * step[bonds.structure_of_bond, None]
        energies = np.empty(n)
        for sign in (1.0, -1.0):
            seeds = (0.5 * by_energy[:count] + sign * slope)[bonds.structure]
            moved = bonds.vectors + sign * displacement
            self._engine.gradient(
                bonds.species, bonds.first, bonds.neighbour, moved, seeds, energies, total, self._threads, KEEP_BYTES
            )
            first = self._program.constant_slot
            total[first:] += np.bincount(bonds.species, seeds, minlength=len(total) - first)


class _Bonds(JoinedGraphs):
    """The structures of a batch in a row, without padding."""

    def __init__(self, batch: FitBatch) -> None:
        super().__init__(batch.graphs)
        self.count = len(batch.graphs)
        self.structure = np.repeat(np.arange(self.count), np.diff(self.offsets))
        self.structure_of_bond = self.structure[self.centre]
        self.species = batch.batch.elements[batch.batch.species[: self.offsets[-1]]].astype(np.int32)
        volumes = np.array([g.volume for g in batch.graphs])
        self.volumes = np.where(np.isfinite(volumes), volumes, 1.0)
