"""Blocks that update the per-atom energy: readouts, shifts, ZBL repulsion (spec section 8).

Equations::

    MLP readout   E += x_0 + MLP(x_1..),   x <- act(x W / sqrt(fan_in))
    FS readout    E += sum_k c_k F_(e_k)(rho_k),  q = 1/e,
                  F_e(x) = sign(x) ((q^(q/(1-q)) exp(-|x|) + |x|)^e - q^(1/(1-q)) exp(-|x|))
    scale, shift  E <- scale E + shift_(mu) + shift
    ZBL           E_a = K/2 sum_b Z_i Z_j (V(d) + S(d)),  V = phi(d/s) / d,  s = 0.46850 / (Z_i^0.23 + Z_j^0.23)

Source: Ziegler, Biersack, Littmark (1985) for phi; S is the switching polynomial used by LAMMPS pair zbl.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf
from ase import units
from ase.data import atomic_numbers

from gracecli.errors import ModelError
from gracecli.model.blocks.base import Block, Context, Equivariant, Variables, activation, block_for
from gracecli.model.blocks.coupled import by_element
from gracecli.model.blueprint import (
    ZBL,
    BranchReadout,
    ElementShift,
    FinnisSinclairReadout,
    InitialEnergy,
    LinearReadout,
    MLPReadout,
    ScaleShift,
)
from gracecli.model.functions import FunctionTable, Group
from gracecli.model.radial import power

COULOMB_CONSTANT = float(units.Hartree * units.Bohr)  # e^2 / (4 pi eps0) in eV Å, the constants of ASE
ZBL_TERMS = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


class OutputBlock(Block):
    """Base: maps the energy so far [atoms] to the updated one."""

    def update(self, context: Context, energy: tf.Tensor) -> tf.Tensor:
        """Energy after this node."""
        raise NotImplementedError

    def scalars(self, context: Context, name: str) -> tf.Tensor:
        """Scalar channels of a source, [atoms, channels]."""
        table = self._inputs[name].table
        if table is None or len(table) != 1:
            raise ModelError(f"model: readout {self.node.name!r} needs a single scalar function from {name!r}")
        (block,) = context.value(name).values()
        return tf.reshape(block, (-1, self.channels_of(name)))


def dense_layers(x: tf.Tensor, weights: list[tf.Tensor], act: Any) -> tf.Tensor:
    """Network without bias, 1/sqrt(fan_in), linear last layer."""
    for i, w in enumerate(weights):
        x = tf.matmul(x, w) / np.sqrt(int(w.shape[-2]))
        x = act(x) if i + 1 < len(weights) else x
    return x


@block_for(InitialEnergy)
class InitialEnergyBlock(OutputBlock):
    """Start value."""

    def update(self, context: Context, energy: tf.Tensor) -> tf.Tensor:
        """Add the start value."""
        value = self.node.value  # type: ignore[attr-defined]
        return energy + value if value else energy


@block_for(MLPReadout)
class MLPReadoutBlock(OutputBlock):
    """Linear channel plus network."""

    def __init__(self, node: MLPReadout, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        n = self.channels_of(node.sources[0]) - int(node.linear_channel)
        sizes = [n, *node.hidden, 1]
        self.layers = [self.variable(f"mlp/layer{i}/w", pair) for i, pair in enumerate(pairwise(sizes))]
        self.scale = self.variable("scale", (1, n)) if node.normalize else None
        self.activation = activation(node.activation)

    def update(self, context: Context, energy: tf.Tensor) -> tf.Tensor:
        """Add the readout."""
        node: Any = self.node
        x = tf.add_n([self.scalars(context, s) for s in node.sources])
        if node.linear_channel:
            linear, x = tf.split(x, [1, int(x.shape[1]) - 1], axis=1)
            energy = energy + linear[:, 0]
        if self.scale is not None:
            x = x * self.scale / tf.sqrt(tf.reduce_mean(x * x, axis=-1, keepdims=True) + 1e-16)
        return energy + dense_layers(x, self.layers, self.activation)[:, 0]


@block_for(BranchReadout)
class BranchReadoutBlock(OutputBlock):
    """One network per source or a shared one, optionally per element."""

    def __init__(self, node: BranchReadout, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        n = self.channels_of(node.sources[0]) - 1
        count = len(node.sources)
        self.alpha = [self.variable(f"alpha/{i}", ()) for i in range(count)]
        self.scales = [self.variable(f"scales/{i}", (1, n)) for i in range(count)]
        sizes = [n, *node.hidden, 1]
        lead: tuple[int | None, ...] = (None,) if node.element_dependent else ()
        self.networks = [
            [self.variable(f"mlp_layers/{i}/{k}/w", (*lead, a, b)) for k, (a, b) in enumerate(pairwise(sizes))]
            for i in range(1 if node.shared else count)
        ]
        self.activation = activation(node.activation)

    def _network(self, context: Context, index: int, x: tf.Tensor) -> tf.Tensor:
        layers = self.networks[index]
        if not self.node.element_dependent:  # type: ignore[attr-defined]
            return dense_layers(x, layers, self.activation)[:, 0]
        for k, w in enumerate(layers):
            y = by_element(context, lambda m, x=x: tf.matmul(x, m), w) / np.sqrt(int(w.shape[-2]))
            x = self.activation(y) if k + 1 < len(layers) else y
        return x[:, 0]

    def update(self, context: Context, energy: tf.Tensor) -> tf.Tensor:
        """Add the readout."""
        node: Any = self.node
        branches = []
        for i, source in enumerate(node.sources):
            x = self.scalars(context, source)
            energy = energy + self.alpha[i] * x[:, 0]
            y = x[:, 1:]
            branches.append(y * self.scales[i] / tf.sqrt(tf.reduce_mean(y * y, axis=-1, keepdims=True) + 1e-16))
        if node.shared:
            return energy + self._network(context, 0, tf.add_n(branches))
        for i, branch in enumerate(branches):
            energy = energy + self._network(context, i, branch)
        return energy


@block_for(LinearReadout)
class LinearReadoutBlock(OutputBlock):
    """Add the sources, optionally through linear maps."""

    def __init__(self, node: LinearReadout, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.maps = []
        if node.trainable:
            paths = ["w"] if len(node.sources) == 1 else [f"w/{i}" for i in range(len(node.sources))]
            self.maps = [self.variable(p, (self.channels_of(s), 1)) for p, s in zip(paths, node.sources, strict=True)]

    def update(self, context: Context, energy: tf.Tensor) -> tf.Tensor:
        """Add the sources."""
        for i, source in enumerate(self.node.sources):  # type: ignore[attr-defined]
            x = self.scalars(context, source)
            energy = energy + (dense_layers(x, [self.maps[i]], None)[:, 0] if self.maps else tf.reduce_sum(x, -1))
        return energy


@block_for(FinnisSinclairReadout)
class FinnisSinclairReadoutBlock(OutputBlock):
    """Sum of Finnis-Sinclair embeddings of the densities."""

    def update(self, context: Context, energy: tf.Tensor) -> tf.Tensor:
        """Add the embeddings."""
        node: Any = self.node
        rho = tf.add_n([self.scalars(context, s) for s in node.sources])
        for k, (coefficient, exponent) in enumerate(node.parameters):
            energy = energy + coefficient * finnis_sinclair(rho[:, k], exponent)
        return energy


def finnis_sinclair(x: tf.Tensor, exponent: float) -> tf.Tensor:
    """F_e(x): |x|^e regularised at 0, odd in x."""
    if exponent == 1.0:
        return x
    q = 1.0 / exponent
    a = tf.abs(x)
    decay = tf.exp(-a)
    return tf.sign(x) * ((q ** (q / (1.0 - q)) * decay + a) ** exponent - q ** (1.0 / (1.0 - q)) * decay)


@block_for(ScaleShift)
class ScaleShiftBlock(OutputBlock):
    """Constant scale and shifts."""

    def __init__(self, node: ScaleShift, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.shift = None
        if node.embedding:
            self.shift = self.variable("embedding_shift", (self._inputs[node.embedding].size, 1))

    def update(self, context: Context, energy: tf.Tensor) -> tf.Tensor:
        """Scale and shift."""
        node: Any = self.node
        energy = energy * tf.constant(node.scale, energy.dtype) + tf.constant(node.shift, energy.dtype)
        if node.element_shifts is not None:
            own = context.of_elements(tf.constant(node.element_shifts, energy.dtype))
            energy = energy + tf.gather(own, context.inputs.species)
        if self.shift is not None:
            energy = energy + element_map(context, node.embedding, self.shift) / np.sqrt(int(self.shift.shape[0]))
        return energy


def element_map(context: Context, embedding: str, weights: tf.Tensor) -> tf.Tensor:
    """E_mu . w of every atom, [atoms]."""
    own = tf.matmul(context.of_elements(context.value(embedding)), weights)[:, 0]
    return tf.gather(own, context.inputs.species)


@block_for(ElementShift)
class ElementShiftBlock(OutputBlock):
    """Trainable shift per element, or a linear map of the embedding."""

    def __init__(self, node: ElementShift, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        if node.embedding:
            self.w = self.variable("proj", (self._inputs[node.embedding].size, 1))
        else:
            self.w = self.variable("at_shifts", (None, 1))

    def update(self, context: Context, energy: tf.Tensor) -> tf.Tensor:
        """Add the shift."""
        embedding = self.node.embedding  # type: ignore[attr-defined]
        if embedding:
            return energy + element_map(context, embedding, self.w)
        return energy + tf.gather(context.of_elements(self.w)[:, 0], context.inputs.species)


def zbl_screening(d: tf.Tensor, s: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """V, V', V'' of phi(d/s)/d (powers of 1/d carry +1e-12 in the denominator)."""
    phi = tf.add_n([a * tf.exp(-b * d / s) for a, b in ZBL_TERMS])
    phi1 = tf.add_n([-a * b * tf.exp(-b * d / s) for a, b in ZBL_TERMS]) / s
    phi2 = tf.add_n([a * b * b * tf.exp(-b * d / s) for a, b in ZBL_TERMS]) / (s * s)
    r1, r2, r3 = 1.0 / (d + 1e-12), 1.0 / (power(d, 2) + 1e-12), 1.0 / (power(d, 3) + 1e-12)
    return phi * r1, phi1 * r1 - phi * r2, phi2 * r1 - 2.0 * phi1 * r2 + 2.0 * phi * r3


@block_for(ZBL)
class ZBLBlock(Block):
    """Screened nuclear repulsion per atom, [1, atoms, 1]."""

    def __init__(self, node: ZBL, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__(node, variables, blocks)
        self.table, self.channels = FunctionTable((Group(0, 1, "", 0),)), 1
        self.delta = self.variable("delta_cutoff", (1, 1), trainable=False)
        self.by_pair = variables.has(node.name, "bond_zbl_cutoff_map")
        path, shape = ("bond_zbl_cutoff_map", (None, 1)) if self.by_pair else ("cutoff", (1, 1))
        self.cutoff = self.variable(path, shape, trainable=False)
        self.charge = np.array([float(atomic_numbers[e]) for e in node.elements])

    def __call__(self, context: Context) -> Equivariant:
        """Repulsion energy."""
        i, j = context.centre_species()[:, None], context.neighbour_species()
        charge = context.of_elements(tf.constant(self.charge))
        zi, zj = tf.gather(charge, i), tf.gather(charge, j)
        cutoff = tf.cast(self.cutoff[0, 0], tf.float64) * tf.ones_like(context.distance)
        if self.by_pair:
            n_all = round(self.cutoff.shape[0] ** 0.5)
            matrix = tf.cast(tf.reshape(self.cutoff, (n_all, n_all)), tf.float64)
            pairs = tf.gather(tf.gather(matrix, context.inputs.elements), context.inputs.elements, axis=1)
            cutoff = tf.gather(tf.reshape(pairs, [-1]), i * context.n_elements + j)
        inside = context.distance <= cutoff
        rc = tf.where(cutoff > 0, cutoff, tf.ones_like(cutoff))
        d = tf.minimum(context.distance, rc)
        s = 0.46850 / (zi**0.23 + zj**0.23)
        v, v1, v2 = zbl_screening(rc, s)
        width = tf.cast(self.delta[0, 0], tf.float64)
        a, b = (-3.0 * v1 + width * v2) / width**2, (2.0 * v1 - width * v2) / width**3
        c = -v + width * v1 / 2.0 - width**2 * v2 / 12.0
        t = tf.nn.relu(d - (rc - width))
        switch = a / 3.0 * power(t, 3) + b / 4.0 * power(t, 4) + c
        pair = zi * zj * (zbl_screening(d, s)[0] + switch)
        pair = tf.where(inside, pair, tf.zeros_like(pair)) * (COULOMB_CONSTANT / 2.0)
        energy = context.sum_over_rows(tf.reduce_sum(pair, axis=1))
        return {(0, 1): tf.cast(energy, self.dtype)[None, None, :, None]}
