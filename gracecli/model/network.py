"""A blueprint with weights as a TensorFlow function: bonds in, atomic energies out.

The energy is differentiable in the bond vectors (forces, virial) and in the weights (training).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gracecli.errors import ModelError
from gracecli.model.blocks import density as _density  # noqa: F401 - importing a module registers its blocks
from gracecli.model.blocks import norms as _norms  # noqa: F401
from gracecli.model.blocks import outputs as _outputs  # noqa: F401
from gracecli.model.blocks.base import BLOCKS, BatchTensors, Block, Context, Variables, batch_tensors, size
from gracecli.model.blocks.invariants import of_piece, projected_and_squares
from gracecli.model.blueprint import Blueprint, OutputNode
from gracecli.model.grade import ExtrapolationGrade, invariant_pieces

__all__ = ["BatchTensors", "Network", "batch_tensors"]


class GradedTensors(NamedTuple):
    """Atomic energies (atoms,), dE/dr (rows, W, 3), and what grades are made of: (atoms, p), (atoms, reductions)."""

    energies: tf.Tensor
    gradient: tf.Tensor
    projected: tf.Tensor
    squares: tf.Tensor


class Network(tf.Module):
    """All blocks of a blueprint.

    Parameters
    ----------
    blueprint : Blueprint
    weights : mapping
        ``node/path`` -> array, as read by the model readers.
    dtype : str
        ``float64`` or ``float32``: precision of the weights and of everything after the geometry (spec section 10).
    shared : mapping, optional
        Variables of another network to use instead of new ones, by name.

    Raises
    ------
    ModelError
        If a node type has no block, a variable is missing or has another shape, or weights are left over.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        weights: Mapping[str, np.ndarray],
        dtype: str = "float64",
        shared: Mapping[str, tf.Variable] | None = None,
    ) -> None:
        super().__init__()
        self.blueprint = blueprint
        self.dtype = tf.as_dtype(dtype)
        variables = Variables(weights, self.dtype)
        variables.by_name.update(shared or {})
        self.blocks: dict[str, Block] = {}
        for node in blueprint:
            if node.kind not in BLOCKS:
                raise ModelError(f"model: no TensorFlow block for node type {node.kind!r} (node {node.name!r})")
            self.blocks[node.name] = BLOCKS[node.kind](node, variables, self.blocks)
        unused = sorted(set(weights) - set(variables.by_name))
        if unused:
            raise ModelError(f"model: the blueprint has no place for the variable {unused[0]!r} ({len(unused)} in all)")
        self.variables_by_name = variables.by_name
        self.trainable_by_name = {n: v for n, v in variables.by_name.items() if v.trainable}

    def atomic_energies(self, inputs: BatchTensors, radial: str = "exact") -> tf.Tensor:
        """Per-atom energies in eV, zero for padding.

        Parameters
        ----------
        inputs : BatchTensors
            Static shapes.
        radial : str
            ``exact``, ``spline`` or ``projected`` (see :mod:`gracecli.model.blocks.radial`).

        Returns
        -------
        (atoms,) float64
        """
        return self._energies(self._context(inputs, radial))

    def _context(self, inputs: BatchTensors, radial: str) -> Context:
        if radial not in ("exact", "spline", "projected"):
            raise ValueError(f"unknown radial mode {radial!r}")
        return Context(inputs, self.blocks, self.dtype, radial)

    def _energies(self, context: Context) -> tf.Tensor:
        energy = tf.zeros([size(context.inputs.species, 0)], self.dtype)
        for node in self.blueprint:
            if isinstance(node, OutputNode):
                energy = self.blocks[node.name].update(context, energy)
        return tf.cast(energy, tf.float64) * context.inputs.atom_mask

    def energies_and_pair_gradients(self, inputs: BatchTensors, radial: str = "exact") -> tuple[tf.Tensor, tf.Tensor]:
        """Per-atom energies (atoms,) in eV and dE/dr of every bond (rows, W, 3) in eV/Å."""
        with tf.GradientTape() as tape:
            tape.watch(inputs.bond_vector)
            energies = self.atomic_energies(inputs, radial)
        gradient = tape.gradient(energies, inputs.bond_vector, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return energies, gradient

    def graded(self, inputs: BatchTensors, grade: ExtrapolationGrade, radial: str = "exact") -> GradedTensors:
        """Energies, their gradients, and what extrapolation grades are made of, in one pass."""
        pieces = invariant_pieces(self.blueprint, self.weights_by_name)
        with tf.GradientTape() as tape:
            tape.watch(inputs.bond_vector)
            context = self._context(inputs, radial)
            energies = self._energies(context)
        gradient = tape.gradient(energies, inputs.bond_vector, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return GradedTensors(
            energies, gradient, *projected_and_squares(context, pieces, grade.projection, grade.transform)
        )

    def features_pulled_back(
        self,
        inputs: BatchTensors,
        grade: ExtrapolationGrade,
        by_projected: tf.Tensor,
        by_squares: tf.Tensor,
        radial: str = "exact",
    ) -> tf.Tensor:
        """d(by_projected . projected + by_squares . squares)/dr of every bond, (rows, W, 3)."""
        pieces = invariant_pieces(self.blueprint, self.weights_by_name)
        with tf.GradientTape() as tape:
            tape.watch(inputs.bond_vector)
            context = self._context(inputs, radial)
            made = projected_and_squares(context, pieces, grade.projection, grade.transform)
        return tape.gradient(
            made,
            inputs.bond_vector,
            output_gradients=(by_projected, by_squares),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    def invariants(self, inputs: BatchTensors, radial: str = "exact") -> tf.Tensor:
        """All invariants B of every atom, (atoms, D_b)."""
        context = self._context(inputs, radial)
        pieces = invariant_pieces(self.blueprint, self.weights_by_name)
        return tf.concat([of_piece(context, piece) for piece in pieces], axis=1)

    @property
    def weights_by_name(self) -> dict[str, np.ndarray]:
        """Stand-ins with the shapes of the variables."""
        return {n: np.broadcast_to(np.float64(0), tuple(v.shape)) for n, v in self.variables_by_name.items()}

    def freeze_tables(self) -> None:
        """Tabulate all radial functions that can be, for ``radial="spline"`` with fixed weights."""
        for block in self.blocks.values():
            table = getattr(block, "spline", None)
            if table is not None:
                table.freeze()

    def weights(self) -> dict[str, np.ndarray]:
        """Current values of all variables."""
        return {name: variable.numpy() for name, variable in self.variables_by_name.items()}
