"""Batches of few shapes, in an order that is a pure function of (seed, epoch).

Graphs are built once (of frames that stay in a store: when they are packed). Every epoch draws its structures,
shuffles them, and packs them into bins of one capacity
(atoms, rows of bonds, elements, structures), so that training compiles one program. Bins are filled first-fit, the
largest structure first, within chunks of the shuffled order: padding is a few percent, and the order stays random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gracecli.engine.base import Graph
from gracecli.engine.batch import Batch, BatchShape, pack, required_shape
from gracecli.engine.neighbours import build_graph
from gracecli.fit.data import Frame
from gracecli.fit.frametable import FrameTable, table_of

CHUNK_BINS = 24
"""Bins' worth of structures that are packed together."""

LARGEST = ("elements", "slots")
"""Sizes of a batch shape that do not add up over structures."""


class Labels(NamedTuple):
    """Labels of a batch (arrays or tensors), padded; weights are zero where a label is missing or an atom is padding.

    Attributes
    ----------
    structure : (atoms,) int32
        Structure of every atom; padding carries the number of structures of the capacity.
    size : (structures,)
        Atoms per structure (1 for padding).
    volume : (structures,)
        Å^3 (1 where undefined).
    energy, energy_weight : (structures,)
        eV.
    forces : (atoms, 3)
        eV/Å.
    forces_weight : (atoms,)
    stress : (structures, 6)
        eV/Å^3.
    stress_weight : (structures, 6)
    """

    structure: Any
    size: Any
    volume: Any
    energy: Any
    energy_weight: Any
    forces: Any
    forces_weight: Any
    stress: Any
    stress_weight: Any


@dataclass(frozen=True)
class Capacity:
    """Padded sizes of all batches."""

    shape: BatchShape
    structures: int


@dataclass(frozen=True)
class FitBatch:
    """One packed batch: tensors' content, labels, which frames it holds, in order, and their graphs."""

    batch: Batch
    labels: Labels
    members: tuple[int, ...]
    graphs: Sequence[Graph] = ()


class GraphSet:
    """Frames with their graphs, and what is needed to pack them.

    Structures of one element and of several form two classes that never share a batch: work on bonds grows with the
    number of elements around an atom.

    Parameters
    ----------
    frames : sequence of Frame
    cutoff : float
        Å.
    elements : sequence of str
        Elements of the model, in its order.
    """

    def __init__(self, frames: Sequence[Frame], cutoff: float, elements: Sequence[str]) -> None:
        from ase.data import atomic_numbers

        streamed = hasattr(frames, "table")
        self.frames: Sequence[Frame] = frames if streamed else list(frames)
        self.table: FrameTable = table_of(frames)
        self.cutoff = cutoff
        self.element_index: Mapping[int, int] = {atomic_numbers[s]: i for i, s in enumerate(elements)}
        self._graphs: list[Graph] | None = None if streamed else []
        self._elements: dict[int, set[int]] = {}  # elements that occur, by class
        self.bonds = self.atoms = 0
        sizes: list[BatchShape] = []
        classes: list[int] = []
        for frame in self.frames:
            graph = build_graph(frame.atoms, cutoff)
            present = np.unique(graph.numbers).tolist()
            sizes.append(required_shape([graph], slots=True))
            classes.append(self._class_of(frame, len(present)))
            self._elements.setdefault(classes[-1], set()).update(present)
            self.bonds += len(graph.centre)
            self.atoms += len(graph)
            if self._graphs is not None:
                self._graphs.append(graph)
        self.sizes = np.array(sizes, dtype=np.int32).reshape(-1, len(BatchShape._fields))
        self.classes = np.array(classes, dtype=np.int8)

    def _class_of(self, frame: Frame, elements: int) -> int:
        """Class of a structure with so many elements; those of two classes never share a batch."""
        return int(elements > 1)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def streamed(self) -> bool:
        """Whether structures are read, and their bonds found, when they are packed."""
        return self._graphs is None

    def shape(self, index: int) -> BatchShape:
        """What one structure needs."""
        return BatchShape(*self.sizes[index].tolist())

    def load(self, members: Sequence[int]) -> tuple[list[Frame], list[Graph]]:
        """Frames and their graphs."""
        frames = [self.frames[i] for i in members]
        if self._graphs is not None:
            return frames, [self._graphs[i] for i in members]
        return frames, [build_graph(frame.atoms, self.cutoff) for frame in frames]

    @property
    def average_neighbours(self) -> float:
        """Bonds per atom."""
        return self.bonds / max(self.atoms, 1)

    def capacities(self, batch_atoms: int, at_least: Mapping[int, Capacity] | None = None) -> dict[int, Capacity]:
        """One capacity per class: room for the largest structure, else ``batch_atoms`` with the mean density.

        Rows get the mean ratio of rows to atoms, weighted by how often structures are visited, so that bins fill up
        in both at once.

        Parameters
        ----------
        batch_atoms : int
        at_least : mapping, optional
            Known capacities (of training), kept where the structures fit into them.
        """
        found = {int(number): self._capacity(int(number), batch_atoms) for number in np.unique(self.classes)}
        for number, known in (at_least or {}).items():
            own = found.get(number)
            if own is not None:
                shape = BatchShape(*map(max, known.shape, own.shape))
                largest = BatchShape(*self.sizes[self.classes == number].max(axis=0).tolist())
                if known.shape.holds(largest._replace(elements=own.shape.elements)):
                    shape = known.shape
                found[number] = Capacity(shape, max(known.structures, own.structures))
        return found

    def _capacity(self, number: int, batch_atoms: int) -> Capacity:
        chosen = self.classes == number
        columns = dict(zip(BatchShape._fields, self.sizes[chosen].T.astype(float), strict=True))
        atoms = max(batch_atoms, int(columns["atoms"].max()))
        atoms = 8 * -(-atoms // 8)
        visits = self.table.share[chosen]
        sizes = float(columns["atoms"] @ visits)
        fields: dict[str, int] = {"atoms": atoms}
        for name in BatchShape._fields:
            values = columns[name]
            if name == "elements":  # any mixture of structures may meet in one batch
                fields[name] = len(self._elements[number])
            elif name in LARGEST:
                fields[name] = int(values.max())
            elif name != "atoms":
                size = max(atoms * float(values @ visits) / sizes, values.max())
                fields[name] = 8 * -(-int(np.ceil(size)) // 8)
        return Capacity(BatchShape(**fields), max(1, atoms // int(columns["atoms"].min())))

    def pack(self, members: Sequence[int], capacities: Mapping[int, Capacity]) -> FitBatch:
        """Pack frames of one class into one batch."""
        capacity = capacities[int(self.classes[members[0]])]
        frames, graphs = self.load(members)
        batch = pack(graphs, self.element_index, capacity.shape)
        return FitBatch(batch, _labels(batch, graphs, frames, capacity), tuple(members), graphs)

    def plan(self, order: Sequence[int], capacities: Mapping[int, Capacity]) -> list[tuple[int, ...]]:
        """Distribute frames, given in a shuffled order, over bins; bins come out in the order of their chunks."""
        bins: list[tuple[int, ...]] = []
        for number, capacity in capacities.items():
            bins += self._plan_class([i for i in order if self.classes[i] == number], capacity)
        return bins

    def _plan_class(self, order: Sequence[int], capacity: Capacity) -> list[tuple[int, ...]]:
        additive = [BatchShape._fields.index(name) for name in BatchShape._fields if name not in LARGEST]
        sizes = np.append(self.sizes[:, additive].astype(np.int64), np.ones((len(self), 1), np.int64), axis=1)
        limit = np.array([*_additive(capacity.shape), capacity.structures], dtype=np.int64)
        fill = (sizes / limit).max(axis=1)
        bins: list[tuple[int, ...]] = []
        waiting: list[int] = []
        load = 0.0
        for position, index in enumerate(order):
            waiting.append(index)
            load += float(fill[index])
            last = position == len(order) - 1
            if load >= CHUNK_BINS or last:
                full, waiting = _first_fit(waiting, sizes, limit, keep_open=not last)
                bins += full
                load = float(sum(fill[i] for i in waiting))
        return bins


def _additive(shape: BatchShape) -> tuple[int, ...]:
    """Sizes that add up over the structures of a batch."""
    return tuple(int(getattr(shape, name)) for name in BatchShape._fields if name not in LARGEST)


def _first_fit(
    indices: Sequence[int], sizes: NDArray[np.int64], limit: NDArray[np.int64], keep_open: bool
) -> tuple[list[tuple[int, ...]], list[int]]:
    """First-fit decreasing; with ``keep_open`` the members of bins that are less than 92 % full come back."""
    order = sorted(indices, key=lambda i: -float((sizes[i] / limit).max()))  # stable: ties keep the random order
    members: list[list[int]] = []
    free: list[NDArray[np.int64]] = []
    for i in order:
        for number, room in enumerate(free):
            if (sizes[i] <= room).all():
                members[number].append(i)
                free[number] = room - sizes[i]
                break
        else:
            members.append([i])
            free.append(limit - sizes[i])
    full: list[tuple[int, ...]] = []
    rest: list[int] = []
    for group, room in zip(members, free, strict=True):
        if keep_open and float((1.0 - room[:-1] / limit[:-1]).max()) < 0.92:
            rest += group
        else:
            full.append(tuple(group))
    if not full:  # nothing fills a bin well: take them as they are
        return [tuple(group) for group in members], []
    return full, rest


class Packer(Protocol):
    """What packs structures: all of :class:`GraphSet` that training steps ask for."""

    @property
    def streamed(self) -> bool:
        """Whether structures are read when they are packed."""

    def pack(self, members: Sequence[int], capacities: Mapping[int, Capacity]) -> FitBatch:
        """Pack structures of one class into one batch."""


def packed_steps(
    graphs: Packer, plan: Sequence[Sequence[tuple[int, ...]]], capacities: Mapping[int, Capacity]
) -> Iterator[list[FitBatch]]:
    """Batches of the steps of a plan; frames in stores are read one step ahead, beside the arithmetic."""
    if not graphs.streamed:
        for step in plan:
            yield [graphs.pack(members, capacities) for members in step]
        return
    with ThreadPoolExecutor(1) as reader:
        waiting = None
        for step in plan:
            coming = reader.submit(_pack_step, graphs, step, capacities)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def _pack_step(graphs: Packer, step: Sequence[tuple[int, ...]], capacities: Mapping[int, Capacity]) -> list[FitBatch]:
    return [graphs.pack(members, capacities) for members in step]


def epoch_order(frames: Sequence[Frame] | FrameTable, seed: int, epoch: int) -> list[int]:
    """Indices that one epoch visits, shuffled: a pure function of the frames' sets and shares, seed and epoch.

    Each set is an endless sequence of permutations of its structures; an epoch takes the next ``share`` of it, so
    that a share of 0.25 visits every structure once in four epochs.
    """
    table = frames if isinstance(frames, FrameTable) else table_of(frames)
    groups = table.groups()
    chosen: list[int] = []
    for number, ((_, share), members) in enumerate(sorted(groups.items())):
        start, end = (int(np.floor(share * len(members) * e + 1e-9)) for e in (epoch, epoch + 1))
        for cycle in range(start // len(members), -(-end // len(members))):
            order = np.random.default_rng([seed, 1, number, cycle]).permutation(len(members))
            first = max(start - cycle * len(members), 0)
            last = min(end - cycle * len(members), len(members))
            chosen += [members[i] for i in order[first:last]]
    shuffle = np.random.default_rng([seed, 2, epoch]).permutation(len(chosen))
    return [chosen[i] for i in shuffle]


def epoch_plan(
    graphs: GraphSet, capacities: Mapping[int, Capacity], seed: int, epoch: int, per_step: int
) -> list[list[tuple[int, ...]]]:
    """Steps of one epoch, each a list of up to ``per_step`` bins; a pure function of its arguments."""
    bins = graphs.plan(epoch_order(graphs.table, seed, epoch), capacities)
    order = np.random.default_rng([seed, 3, epoch]).permutation(len(bins))
    shuffled = [bins[i] for i in order]
    return [shuffled[i : i + per_step] for i in range(0, len(shuffled), per_step)]


def sequential_plan(graphs: GraphSet, capacities: Mapping[int, Capacity]) -> Iterator[tuple[int, ...]]:
    """Bins that visit every frame once, for validation."""
    yield from graphs.plan(range(len(graphs)), capacities)


def fill_fraction(
    graphs: GraphSet, plan: Sequence[Sequence[tuple[int, ...]]], capacities: Mapping[int, Capacity]
) -> tuple[float, float]:
    """Mean filling of atoms and rows over the bins of a plan."""
    bins = [members for step in plan for members in step]
    used = graphs.sizes[[i for members in bins for i in members]].astype(np.int64)[:, :2].sum(axis=0)  # atoms, rows
    shapes = [capacities[int(graphs.classes[members[0]])].shape for members in bins]
    room = np.sum([[shape.atoms, shape.rows] for shape in shapes], axis=0)
    return float(used[0] / room[0]), float(used[1] / room[1])


def _labels(batch: Batch, graphs: Sequence[Graph], frames: Sequence[Frame], capacity: Capacity) -> Labels:
    atoms, structures = capacity.shape.atoms, capacity.structures
    count = len(frames)
    structure = np.where(batch.structure == batch.n_structures, structures, batch.structure).astype(np.int32)

    def per_structure(values: Sequence[float], fill: float) -> NDArray[np.float64]:
        result = np.full(structures, fill)
        result[:count] = values
        return result

    weight = np.array([frame.weight for frame in frames])
    energy = np.array([frame.energy for frame in frames])
    stress = np.array([frame.stress for frame in frames])
    volume = np.array([graph.volume for graph in graphs])
    has_energy = np.isfinite(energy)
    has_stress = np.isfinite(stress) & np.isfinite(volume)[:, None]
    forces = np.concatenate([frame.forces for frame in frames])
    has_forces = np.isfinite(forces).all(axis=1)
    forces_weight = np.repeat(weight, [len(graph) for graph in graphs]) * has_forces
    padded_forces = np.zeros((atoms, 3))
    padded_forces[: len(forces)] = np.where(has_forces[:, None], forces, 0.0)
    padded_weight = np.zeros(atoms)
    padded_weight[: len(forces)] = forces_weight
    padded_stress = np.zeros((structures, 6))
    padded_stress[:count] = np.where(has_stress, stress, 0.0)
    stress_weight = np.zeros((structures, 6))
    stress_weight[:count] = weight[:, None] * has_stress
    return Labels(
        structure=structure,
        size=per_structure([float(len(graph)) for graph in graphs], 1.0),
        volume=per_structure(np.where(np.isfinite(volume), volume, 1.0).tolist(), 1.0),
        energy=per_structure(np.where(has_energy, energy, 0.0).tolist(), 0.0),
        energy_weight=per_structure((weight * has_energy).tolist(), 0.0),
        forces=padded_forces,
        forces_weight=padded_weight,
        stress=padded_stress,
        stress_weight=stress_weight,
    )
