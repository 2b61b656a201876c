"""What all TensorFlow blocks share: variables by name, lazily evaluated inputs, the layout of tensors.

An equivariant tensor is a dictionary of blocks, (l, p) -> ``[groups, 2l+1, atoms, channels]``, groups in the order of
its function table: channel mixing is a matrix product over the last axis, products are element-wise over
``atoms x channels``, and no block is ever cut out of a larger tensor.
Bond tensors are ``[rows, W, ...]`` (see :mod:`gracecli.engine.batch`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from gracecli.engine.batch import Batch
from gracecli.errors import ModelError
from gracecli.model.blueprint import Node
from gracecli.model.functions import LP, FunctionTable
from gracecli.model.harmonics import real_harmonics

Equivariant = dict[LP, tf.Tensor]


class BatchTensors(NamedTuple):
    """A batch on the device; shapes as in :class:`gracecli.engine.batch.Batch`.

    Atoms, rows and W may be unknown while a program is traced (exports); the number of elements may not.
    """

    bond_vector: tf.Tensor
    row_centre: tf.Tensor
    neighbour: tf.Tensor
    species: tf.Tensor
    elements: tf.Tensor
    atom_mask: tf.Tensor
    slot: tf.Tensor | None = None
    slot_species: tf.Tensor | None = None


def batch_tensors(batch: Batch) -> BatchTensors:
    """Copy a batch to tensors."""
    return BatchTensors(
        *(None if getattr(batch, name) is None else tf.constant(getattr(batch, name)) for name in BatchTensors._fields)
    )


def size(tensor: tf.Tensor, axis: int) -> Any:
    """Length of an axis: a number where it is known, else a scalar tensor."""
    known = tensor.shape[axis]
    return tf.shape(tensor)[axis] if known is None else int(known)


class Variables:
    """Model variables, created from the weights on first request and checked against the shape a block expects."""

    def __init__(self, weights: Mapping[str, np.ndarray], dtype: tf.DType) -> None:
        self._weights = weights
        self.dtype = dtype
        self.by_name: dict[str, tf.Variable] = {}

    def get(self, node: str, path: str, shape: tuple[int | None, ...], trainable: bool = True) -> tf.Variable:
        """Variable ``node/path``; None in the shape matches any size.

        Raises
        ------
        ModelError
            If it is missing or has another shape.
        """
        name = f"{node}/{path}"
        request = getattr(self._weights, "request", None)
        if request is not None:
            request(name, shape)
        if name not in self._weights:
            raise ModelError(
                f"model: variable {name!r} is missing", "the checkpoint and model.yaml do not belong together"
            )
        value = np.asarray(self._weights[name])
        if len(value.shape) != len(shape) or any(
            s is not None and s != v for s, v in zip(shape, value.shape, strict=True)
        ):
            wanted = "x".join("?" if s is None else str(s) for s in shape) or "scalar"
            found = "x".join(map(str, value.shape)) or "scalar"
            raise ModelError(f"model: variable {name!r} has shape {found}, the blueprint asks for {wanted}")
        if name not in self.by_name:
            dtype = self.dtype if value.dtype.kind == "f" else None
            self.by_name[name] = tf.Variable(value, dtype=dtype, trainable=trainable, name=name.replace("/", "."))
        return self.by_name[name]

    def has(self, node: str, path: str) -> bool:
        """Whether the weights hold ``node/path``."""
        return f"{node}/{path}" in self._weights


class Context:
    """One evaluation: the batch, its geometry, and node values computed on demand.

    Geometry (spec 3.1): ``d = sqrt(|r|^2 + 1e-10)``, ``u = r / d``, always in float64.
    """

    def __init__(self, inputs: BatchTensors, blocks: Mapping[str, Block], dtype: tf.DType, radial: str) -> None:
        self.inputs = inputs
        self.blocks = blocks
        self.dtype = dtype
        self.radial = radial
        self._values: dict[str, Any] = {}
        self._cache: dict[str, Any] = {}
        self.distance = tf.sqrt(tf.reduce_sum(inputs.bond_vector**2, axis=-1) + 1e-10)

    def value(self, name: str) -> Any:
        """Value of a node."""
        if name not in self._values:
            self._values[name] = self.blocks[name](self)
        return self._values[name]

    def cached(self, key: str, make: Callable[[], Any]) -> Any:
        """A shared intermediate, computed once per evaluation."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    @property
    def n_atoms(self) -> Any:
        """Padded number of atoms (a tensor where it is unknown)."""
        return size(self.inputs.species, 0)

    @property
    def n_elements(self) -> int:
        """Padded number of distinct elements."""
        return int(self.inputs.elements.shape[0])

    def harmonics(self, lmax: int) -> tf.Tensor:
        """Y_lm of the bonds, [rows, W, (lmax+1)^2] float64."""

        def make() -> tf.Tensor:
            r = self.inputs.bond_vector
            x, y, z = (r[..., k] / self.distance for k in range(3))
            return tf.stack(real_harmonics(x, y, z, lmax), axis=-1)

        return self.cached(f"harmonics{lmax}", make)

    def neighbour_species(self) -> tf.Tensor:
        """Index into ``elements`` of every neighbour, [rows, W]."""
        return self.cached("species_j", lambda: tf.gather(self.inputs.species, self.inputs.neighbour))

    def centre_species(self) -> tf.Tensor:
        """Index into ``elements`` of the centre of every row, [rows]."""
        return self.cached("species_i", lambda: tf.gather(self.inputs.species, self.inputs.row_centre))

    def one_hot(self) -> tf.Tensor:
        """Element indicator per atom, [elements, atoms, 1] (each atom exactly one 1)."""
        return self.cached(
            "one_hot",
            lambda: tf.transpose(tf.one_hot(self.inputs.species, self.n_elements, dtype=self.dtype))[:, :, None],
        )

    def of_elements(self, table: tf.Tensor) -> tf.Tensor:
        """Rows of a per-element table for the elements of the batch."""
        return tf.gather(table, self.inputs.elements)

    def sum_over_rows(self, per_row: tf.Tensor) -> tf.Tensor:
        """Add the rows of every atom: [rows, ...] -> [atoms, ...]."""
        return tf.math.unsorted_segment_sum(per_row, self.inputs.row_centre, self.n_atoms)


def rows_of(value: Equivariant, table: FunctionTable) -> tf.Tensor:
    """All rows of an equivariant tensor in table order, [functions, atoms, channels]."""
    blocks = [value[lp] for lp in table.blocks()]
    return tf.concat([tf.reshape(b, (int(b.shape[0]) * int(b.shape[1]), -1, int(b.shape[3]))) for b in blocks], axis=0)


class Block(tf.Module):
    """Base of all blocks.

    Attributes
    ----------
    table : FunctionTable or None
        Function table of the output, for equivariant outputs.
    channels : int
        Number of output channels.
    """

    table: FunctionTable | None = None
    channels: int = 0

    def __init__(self, node: Node, variables: Variables, blocks: Mapping[str, Block]) -> None:
        super().__init__()
        self.node = node
        self._variables = variables
        self._inputs = {name: blocks[name] for name in node.inputs()}
        self.dtype = variables.dtype

    def variable(self, path: str, shape: tuple[int | None, ...], trainable: bool = True) -> tf.Variable:
        """Variable of this node."""
        return self._variables.get(self.node.name, path, shape, trainable)

    def table_of(self, name: str) -> FunctionTable:
        """Function table of an input."""
        table = self._inputs[name].table
        if table is None:
            raise ModelError(f"blueprint: node {self.node.name!r} needs an equivariant input, {name!r} is none")
        return table

    def channels_of(self, name: str) -> int:
        """Channels of an input."""
        return self._inputs[name].channels

    def __call__(self, context: Context) -> Any:
        """Value of the node."""
        raise NotImplementedError(f"{type(self).__name__} has no value of its own")


BLOCKS: dict[str, type[Block]] = {}


def block_for(node: type[Node]) -> Callable[[type[Block]], type[Block]]:
    """Class decorator: register the block of a node type."""

    def register(cls: type[Block]) -> type[Block]:
        BLOCKS[node.__name__] = cls
        return cls

    return register


ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "tanh": tf.tanh,
    "silu": tf.nn.silu,
    "sigmoid": tf.sigmoid,
    "scaled-silu": lambda x: 1.6759 * x * tf.sigmoid(x),
    "linear": tf.identity,
}


def activation(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Activation function by name; unknown names are model errors."""
    if name not in ACTIVATIONS:
        raise ModelError(f"model: unknown activation {name!r}", f"known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
