"""Tile operations, where their tensors live, and how they are written for the C++ side (cpp/program.hpp).

A tile tensor is ``[channel][row][lane]``; a :class:`Tensor` knows its rows per group of functions. Operations are
collected per phase (what lies between two message passes), forward and backward. Afterwards every buffer gets an arena:

* touched in several phases: *carried*, one copy per tile;
* touched in one phase before the last, forward and backward: *kept*, one copy per tile, or recomputed;
* otherwise *scratch* of a thread; scratch is shared by buffers whose lifetimes do not overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SCRATCH, KEPT, CARRIED = 0, 1, 2
VERSION = 1


class Code(IntEnum):
    """Operations; numbers as in cpp/evaluator.hpp."""

    LINEAR = 0
    PRODUCT = 1
    PRODUCT_BACKWARD = 2
    ZERO = 3
    ADD_CONSTANT = 4
    INVARIANT_NORM = 5
    INVARIANT_NORM_BACKWARD = 6
    EQUIVARIANT_NORM = 7
    EQUIVARIANT_NORM_BACKWARD = 8
    NETWORK_READOUT = 9
    FINNIS_SINCLAIR_READOUT = 10
    LINEAR_READOUT = 11
    STORE_MESSAGE = 12
    ADD_MESSAGE_GRADIENT = 13
    GATE = 14
    GATE_BACKWARD = 15
    INVARIANTS = 16
    LINEAR_GRADIENT = 17
    NETWORK_READOUT_TRAINED = 18
    LINEAR_READOUT_TRAINED = 19
    INVARIANT_NORM_BACKWARD_TRAINED = 20
    MESSAGE_CONSTANT_GRADIENT = 21


class BondCode(IntEnum):
    """Operations over bonds."""

    DENSITY = 0
    MESSAGE = 1
    ZBL = 2
    DENSITY_TRAINED = 3
    MESSAGE_TRAINED = 4


@dataclass(eq=False)
class Storage:
    """A buffer of rows (one row = one line of lanes)."""

    name: str
    rows: int
    arena: int = SCRATCH
    offset: int = 0


@dataclass(frozen=True)
class Pointer:
    """First row of channel 0 and the rows between channels."""

    storage: Storage
    row: int
    stride: int


@dataclass(eq=False)
class Tensor:
    """An equivariant tensor of the tile: values, and gradients of the energy.

    ``row_of`` maps groups of the function table to their first row; groups nobody needs are absent.
    """

    name: str
    channels: int
    row_of: dict[int, int]
    rows: int
    value: Storage = field(init=False)
    gradient: Storage = field(init=False)
    stride: int = field(init=False)
    zeroed: bool = False
    finished: bool = False
    pending: dict[int, list[LinearTerm]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # an odd number of lines between channels spreads them over the sets of the cache
        self.stride = self.rows + (1 - self.rows % 2)
        self.value = Storage(self.name, self.channels * self.stride)
        self.gradient = Storage(f"gradient of {self.name}", self.channels * self.stride)

    def at(self, group: int | None = None) -> Pointer:
        """Values, from the first row of a group on."""
        return Pointer(self.value, 0 if group is None else self.row_of[group], self.stride)

    def gradient_at(self, group: int | None = None) -> Pointer:
        """Gradients, from the first row of a group on."""
        return Pointer(self.gradient, 0 if group is None else self.row_of[group], self.stride)


@dataclass(frozen=True)
class LinearTerm:
    """``weights [outputs, channels]`` (or [elements, outputs, channels]) times a source."""

    source: Pointer
    channels: int
    weights: Any


@dataclass(frozen=True)
class LinearBlock:
    """One output group of a linear map."""

    out: Pointer
    outputs: int
    rows: int
    accumulate: bool
    terms: list[LinearTerm]


@dataclass(eq=False)
class Operation:
    """Code and fields: integers, :class:`Pointer` and arrays (numbers)."""

    code: int
    fields: list[Any]

    def storages(self) -> list[Storage]:
        """Buffers read or written."""
        return [f.storage for f in self.fields if isinstance(f, Pointer)]


@dataclass(eq=False)
class Phase:
    """Operations between two message passes."""

    lmax: int = 0
    bonds: list[Operation] = field(default_factory=list)
    forward: list[Operation] = field(default_factory=list)
    backward: list[Operation] = field(default_factory=list)
    bond_values: list[Storage] = field(default_factory=list)  # written before the forward operations
    bond_gradients: list[Storage] = field(default_factory=list)  # read after the backward operations
    scratch_rows: int = 0
    kept_rows: int = 0


def merged(terms: list[LinearTerm]) -> list[LinearTerm]:
    """Add up the weights of terms that read the same source."""
    found: dict[tuple[int, int, int], LinearTerm] = {}
    for term in terms:
        key = (id(term.source.storage), term.source.row, term.channels)
        if key in found:
            old = found[key].weights
            new = term.weights
            if old.ndim != new.ndim:
                old, new = (w[None] if w.ndim == 2 else w for w in (old, new))
            term = LinearTerm(term.source, term.channels, old + new)
        found[key] = term
    return list(found.values())


def linear_operation(blocks: list[LinearBlock], elements: int, algebra: Any) -> Operation:
    """Write a linear map."""
    fields: list[Any] = [len(blocks)]
    for block in blocks:
        terms = merged(block.terms)
        dependent = any(t.weights.ndim == 3 for t in terms)
        fields += [block.out, block.outputs, block.rows, int(block.accumulate), int(dependent), len(terms)]
        for term in terms:
            fields += [term.source, term.channels]
        weights = [
            algebra.broadcast(t.weights, (elements, *t.weights.shape))
            if dependent and t.weights.ndim == 2
            else t.weights
            for t in terms
        ]
        fields.append(algebra.concatenate(weights, -1))
    return Operation(Code.LINEAR, fields)


class Program:
    """All phases, the radial tables and messages of a model, for given elements."""

    def __init__(self, elements: int, phases: int) -> None:
        self.elements = elements
        self.phases = [Phase() for _ in range(phases)]
        self.messages: list[tuple[int, int, int]] = []  # phase, rows, channels
        self.radials: list[list[Any]] = []  # fields of cpp Radial
        self.constant: Any = np.zeros(elements)
        self.carried_rows = 0

    # -- placing ------------------------------------------------------------------------------------------------------
    def place(self) -> None:
        """Give every buffer its arena and offset."""
        touched: dict[Storage, dict[tuple[int, int], list[int]]] = {}
        for p, phase in enumerate(self.phases):
            for stage, operations in ((0, phase.forward), (1, phase.backward)):
                for time, operation in enumerate(operations):
                    for storage in operation.storages():
                        touched.setdefault(storage, {}).setdefault((p, stage), []).append(time)
            for storage in phase.bond_values:
                touched.setdefault(storage, {}).setdefault((p, 0), []).append(-1)
            for storage in phase.bond_gradients:
                touched.setdefault(storage, {}).setdefault((p, 1), []).append(len(phase.backward))
        last = len(self.phases) - 1
        scratch: dict[tuple[int, int], list[tuple[int, int, Storage]]] = {}
        for storage, stages in touched.items():
            own = sorted({p for p, _ in stages})
            if len(own) > 1:
                storage.arena, storage.offset = CARRIED, self.carried_rows
                self.carried_rows += storage.rows
            elif own[0] < last and len(stages) == 2:
                phase = self.phases[own[0]]
                storage.arena, storage.offset = KEPT, phase.kept_rows
                phase.kept_rows += storage.rows
            else:
                p = own[0]
                shift = len(self.phases[p].forward) if p == last else 0
                times = [t + (shift if stage == 1 else 0) for (_, stage), ts in stages.items() for t in ts]
                key = (p, 0) if p == last else (p, min(stage for _, stage in stages))
                scratch.setdefault(key, []).append((min(times), max(times), storage))
        for (p, _), lives in scratch.items():
            self.phases[p].scratch_rows = max(self.phases[p].scratch_rows, _first_fit(lives))

    # -- writing ------------------------------------------------------------------------------------------------------
    def encode(self) -> tuple[NDArray[np.int64], Array]:
        """The stream of integers and the block of numbers."""
        code, numbers = self.encoded_parts()
        parts = [np.ascontiguousarray(x, dtype=np.float64).ravel() for x in numbers]
        return code, np.concatenate([*parts, np.zeros(1)])

    def encoded_parts(self) -> tuple[NDArray[np.int64], list[Any]]:
        """The stream of integers, and the arrays (or tensors) that make up the block of numbers."""
        writer = Writer()
        writer.write([VERSION, self.elements, self.constant, self.carried_rows, len(self.messages)])
        for message in self.messages:
            writer.write(list(message))
        writer.write([len(self.radials)])
        for fields in self.radials:
            writer.write(fields)
        writer.write([len(self.phases)])
        for phase in self.phases:
            writer.write([phase.scratch_rows, phase.kept_rows, phase.lmax])
            for operations in (phase.bonds, phase.forward, phase.backward):
                writer.write([len(operations)])
                for operation in operations:
                    writer.write([int(operation.code), *operation.fields])
        return np.array(writer.code, dtype=np.int64), writer.numbers


class Writer:
    """Writes fields one after the other."""

    def __init__(self) -> None:
        self.code: list[int] = []
        self.numbers: list[Any] = []
        self.size = 0

    def write(self, fields: list[Any]) -> None:
        """Integers, pointers, numbers; everything else is an array (or tensor)."""
        for item in fields:
            if isinstance(item, Pointer):
                storage = item.storage
                self.code += [storage.arena, storage.offset + item.row, item.stride]
            elif isinstance(item, float):
                self.write([np.array([item])])
            elif isinstance(item, int | np.integer):
                self.code.append(int(item))
            else:
                self.code.append(self.size)
                self.numbers.append(item)
                self.size += int(np.prod(item.shape))


def _first_fit(lives: list[tuple[int, int, Storage]]) -> int:
    """Offsets for buffers with lifetimes (first, last operation); returns the rows used."""
    placed: list[tuple[int, int, Storage]] = []
    top = 0
    for first, last, storage in sorted(lives, key=lambda life: (-life[2].rows, life[0])):
        busy = sorted(
            (other.offset, other.offset + other.rows) for a, b, other in placed if not (b < first or last < a)
        )
        offset = 0
        for begin, end in busy:
            if offset + storage.rows <= begin:
                break
            offset = max(offset, end)
        storage.arena, storage.offset = SCRATCH, offset
        placed.append((first, last, storage))
        top = max(top, offset + storage.rows)
    return top
