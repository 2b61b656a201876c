"""Packing graphs into padded arrays of few shapes.

Bonds are laid out in *rows* of fixed width W: every row belongs to one centre, an atom with K neighbours fills
ceil(K/W) rows. Sums over neighbours become small dense matrix products per row, followed by a short segment sum over
rows, whatever the coordination; the padding costs on average W/2 bonds per atom.

Padding never changes numbers: padded bonds are longer than every cutoff and belong to the last atom, padded atoms
follow the real ones and their energies are masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gracecli.engine.base import Array, Graph, IntArray

ROW_WIDTH = 16
PADDED_BOND = 1.0e3
"""Length of a padded bond in Å, beyond every cutoff."""


class BatchShape(NamedTuple):
    """Padded sizes: atoms, bond rows, distinct elements, and element slots per structure (0: not wanted).

    Slots number the elements *within a structure*; batches of many chemistries (training) have many elements but few
    slots.
    """

    atoms: int
    rows: int
    elements: int
    slots: int = 0

    def holds(self, other: BatchShape) -> bool:
        """Whether a batch of the other shape fits."""
        return all(mine >= theirs for mine, theirs in zip(self, other, strict=True))

    @property
    def cost(self) -> float:
        """Relative cost of one evaluation (atom work, bond work, element-dependent work)."""
        return self.atoms * (1.0 + 0.03 * self.elements) + 0.12 * self.rows


@dataclass(frozen=True)
class Batch:
    """Several structures as padded arrays.

    Attributes
    ----------
    bond_vector : (rows, W, 3) float64
        Å, from the centre to the neighbour.
    row_centre : (rows,) int32
        Atom a row belongs to, non-decreasing.
    neighbour : (rows, W) int32
        Atom at the other end.
    species : (atoms,) int32
        Index into ``elements``.
    elements : (elements,) int32
        Element numbers *of the model* that occur, padded by repeating the first.
    atom_mask : (atoms,) float64
        1 for real atoms, 0 for padding.
    structure : (atoms,) int32
        Structure an atom belongs to; padded atoms carry ``n_structures``.
    n_structures : int
    atom_offset : (n_structures + 1,) int
        First atom of every structure.
    volumes : (n_structures,) float64
        Å^3, NaN without a cell.
    slot : (atoms,) int32, optional
        Which element of its structure an atom is.
    slot_species : (atoms, slots) int32, optional
        ``species`` of every slot of the structure an atom belongs to, padded by repeating the first.
    """

    bond_vector: Array
    row_centre: IntArray
    neighbour: IntArray
    species: IntArray
    elements: IntArray
    atom_mask: Array
    structure: IntArray
    n_structures: int
    atom_offset: IntArray
    volumes: Array
    slot: IntArray | None = None
    slot_species: IntArray | None = None

    @property
    def shape(self) -> BatchShape:
        """Padded shape."""
        slots = 0 if self.slot_species is None else self.slot_species.shape[1]
        return BatchShape(len(self.species), len(self.row_centre), len(self.elements), slots)


def rows_needed(graph: Graph, width: int = ROW_WIDTH) -> int:
    """Number of bond rows of one structure."""
    counts = np.bincount(graph.centre, minlength=len(graph))
    return int(((counts + width - 1) // width).sum())


def required_shape(graphs: Sequence[Graph], width: int = ROW_WIDTH, slots: bool = False) -> BatchShape:
    """Smallest shape that holds the structures, with element slots on request."""
    return BatchShape(
        sum(len(g) for g in graphs),
        max(1, sum(rows_needed(g, width) for g in graphs)),
        len(np.unique(np.concatenate([g.numbers for g in graphs]))),
        max(len(np.unique(g.numbers)) for g in graphs) if slots else 0,
    )


def pack(
    graphs: Sequence[Graph],
    element_index: Mapping[int, int],
    shape: BatchShape | None = None,
    width: int = ROW_WIDTH,
) -> Batch:
    """Pack structures into one batch.

    Parameters
    ----------
    graphs : sequence of Graph
    element_index : mapping
        Atomic number -> element number of the model.
    shape : BatchShape, optional
        Padded shape; default is the smallest one.
    width : int
        Bonds per row.

    Raises
    ------
    ValueError
        If the shape is too small.
    """
    needed = required_shape(graphs, width, slots=shape is not None and shape.slots > 0)
    shape = needed if shape is None else shape
    if not shape.holds(needed):
        raise ValueError(f"batch shape {tuple(shape)} cannot hold {tuple(needed)}")
    offsets = np.concatenate([[0], np.cumsum([len(g) for g in graphs])]).astype(np.int32)
    numbers = np.concatenate([g.numbers for g in graphs])
    unique, inverse = np.unique(numbers, return_inverse=True)
    species = inverse.astype(np.int32)
    elements = np.array([element_index[int(z)] for z in unique], dtype=np.int32)

    centre = np.concatenate([g.centre + o for g, o in zip(graphs, offsets, strict=False)])
    counts = np.bincount(centre, minlength=len(numbers))
    rows_per_atom = (counts + width - 1) // width
    first_row = np.concatenate([[0], np.cumsum(rows_per_atom)])
    first_bond = np.concatenate([[0], np.cumsum(counts)])[:-1]
    within = np.arange(len(centre)) - first_bond[centre]
    slot = first_row[centre] * width + within

    bond_vector = np.zeros((shape.rows * width, 3))
    bond_vector[:, 0] = PADDED_BOND
    bond_vector[slot] = np.concatenate([g.bond_vector for g in graphs])
    neighbour = np.full(shape.rows * width, shape.atoms - 1, dtype=np.int32)
    neighbour[slot] = np.concatenate([g.neighbour + o for g, o in zip(graphs, offsets, strict=False)])
    row_centre = np.full(shape.rows, shape.atoms - 1, dtype=np.int32)
    row_centre[: first_row[-1]] = np.repeat(np.arange(len(numbers)), rows_per_atom)

    def pad(values: IntArray, size: int, fill: int) -> IntArray:
        result = np.full(size, fill, dtype=np.int32)
        result[: len(values)] = values
        return result

    structure = np.repeat(np.arange(len(graphs)), np.diff(offsets)).astype(np.int32)
    slot, slot_species = _slots(graphs, species, shape) if shape.slots else (None, None)
    return Batch(
        bond_vector=bond_vector.reshape(shape.rows, width, 3),
        row_centre=row_centre,
        neighbour=neighbour.reshape(shape.rows, width),
        species=pad(species, shape.atoms, int(species[0])),
        elements=pad(elements, shape.elements, int(elements[0])),
        atom_mask=(np.arange(shape.atoms) < len(numbers)).astype(float),
        structure=pad(structure, shape.atoms, len(graphs)),
        n_structures=len(graphs),
        atom_offset=offsets,
        volumes=np.array([g.volume for g in graphs]),
        slot=slot,
        slot_species=slot_species,
    )


def _slots(graphs: Sequence[Graph], species: IntArray, shape: BatchShape) -> tuple[IntArray, IntArray]:
    """Element slots of every structure (see :class:`Batch`)."""
    slot = np.zeros(shape.atoms, dtype=np.int32)
    slot_species = np.zeros((shape.atoms, shape.slots), dtype=np.int32)
    start = 0
    for graph in graphs:
        own, inverse = np.unique(species[start : start + len(graph)], return_inverse=True)
        slot[start : start + len(graph)] = inverse
        slot_species[start : start + len(graph)] = own[0]
        slot_species[start : start + len(graph), : len(own)] = own
        start += len(graph)
    slot_species[start:] = species[0]
    return slot, slot_species


class ShapeLadder:
    """Chooses padded shapes so that few programs are compiled.

    A known shape is reused while it costs at most ``waste`` times the exact one (plus a constant below which cost is
    overhead anyway); the more shapes exist, the more waste is accepted. New shapes carry headroom, so that a
    structure whose neighbour count fluctuates stays on its rung.
    """

    OVERHEAD_COST = 48.0

    def __init__(self) -> None:
        self.shapes: list[BatchShape] = []

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def waste(self) -> float:
        """Accepted cost ratio of a known shape to the exact one."""
        return (1.6, 1.8, 2.5, 4.0, 8.0)[len(self.shapes)] if len(self.shapes) < 5 else float("inf")

    def plan(self, shapes: Sequence[BatchShape]) -> None:
        """Announce structures in advance: their shapes enter the ladder largest first, so small ones reuse them."""
        for shape in sorted(shapes, key=lambda s: -s.cost):
            self.choose(shape)

    def choose(self, needed: BatchShape) -> BatchShape:
        """Known or new shape that holds the needed one."""
        limit = self.waste * needed.cost + self.OVERHEAD_COST
        fitting = [s for s in self.shapes if s.holds(needed) and s.cost <= limit]
        if fitting:
            return min(fitting, key=lambda s: s.cost)
        shape = self._new_rung(needed)
        self.shapes.append(shape)
        return shape

    def _new_rung(self, needed: BatchShape) -> BatchShape:
        """Padded shape with headroom in rows; later rungs are roomier in atoms and elements too."""
        growth = 1.0 if len(self.shapes) < 2 else 1.3
        atoms = max(8, int(np.ceil(needed.atoms * growth / 8)) * 8)
        rows = max(32, int(np.ceil(needed.rows * growth * 1.12 / 32)) * 32)
        ladder = (1, 2, 4, 8, 16, 32, 64, 128)
        elements = next(e for e in ladder if e >= needed.elements)
        if len(self.shapes) >= 2:
            elements = max(elements, 4)
        return BatchShape(atoms, rows, elements)
