"""Frames that stay in a store and are read when they are needed: training data larger than memory.

Kept in memory are the numbers of the structures and a :class:`FrameTable` (some 50 bytes per structure); everything
else is read per batch. What a frame contains is what :func:`gracecli.fit.data.read_set` would have made of it, bit for
bit, so that the weights after training are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from ase import Atoms

from gracecli.errors import InputError, UsageError
from gracecli.fit.config import DataConfig, SetConfig
from gracecli.fit.data import FILTERS, Frame, SetReport, numbered, read_set, set_name_of
from gracecli.fit.frametable import FrameTable, join_tables, make_table, table_of
from gracecli.fit.sources import selected_rows, store_hash
from gracecli.store.schema import Present
from gracecli.store.store import Store

BLOCK = 512
PER_ATOM = ("atom/Z", "atom/R", "atom/F")
BYTES_PER_ATOM = 6000
"""Memory that an atom in memory takes: some 100 bonds of 40 bytes, labels, Python objects."""


@dataclass
class StoredSet:
    """Structures of one query.

    Attributes
    ----------
    store : Store
        Open for reading.
    rows : (n,) int64
        Their numbers.
    kinds : tuple of str
        ``config_type`` of each.
    entry : SetConfig
    name : str
    """

    store: Store
    rows: np.ndarray
    kinds: tuple[str, ...]
    entry: SetConfig
    name: str

    def __len__(self) -> int:
        return len(self.rows)

    def frame(self, index: int) -> Frame:
        """One frame, from the file."""
        row = int(self.rows[index])
        first, last = self.store.span(row)
        numbers, positions, forces = (self.store.column(path, first, last) for path in PER_ATOM)
        single = {
            name: self.store.column(f"structure/{name}", row, row + 1)[0]
            for name in ("cell", "pbc", "energy", "stress", "present")
        }
        return self._make(index, row, numbers, positions, forces, single)

    def frames(self) -> Iterator[Frame]:
        """All frames in order, read in blocks."""
        index = 0
        while index < len(self.rows):
            start = int(self.rows[index])
            stop = min(start + BLOCK, len(self.store))
            ends = self.store.column("structure/offset", start, stop + 1).astype(int)
            numbers, positions, forces = (self.store.column(path, ends[0], ends[-1]) for path in PER_ATOM)
            columns = {
                name: self.store.column(f"structure/{name}", start, stop)
                for name in ("cell", "pbc", "energy", "stress", "present")
            }
            while index < len(self.rows) and self.rows[index] < stop:
                place = int(self.rows[index]) - start
                part = slice(ends[place] - ends[0], ends[place + 1] - ends[0])
                single = {name: column[place] for name, column in columns.items()}
                yield self._make(index, start + place, numbers[part], positions[part], forces[part], single)
                index += 1

    def _make(self, index: int, row: int, numbers: Any, positions: Any, forces: Any, single: dict[str, Any]) -> Frame:
        present, bits = int(single["present"]), int(single["pbc"])
        kind, size = self.kinds[index], len(numbers)
        pbc = [bool(bits & flag) for flag in (1, 2, 4)]
        stress = np.full(6, np.nan)
        if present & Present.STRESS and all(pbc) and kind not in self.entry.drop_stress:
            stress = np.array(single["stress"], dtype=float)
            if kind in self.entry.drop_shear:
                stress[3:] = np.nan
        atoms = Atoms(numbers.astype(int), positions=positions, cell=single["cell"], pbc=pbc)
        return Frame(
            atoms,
            float(single["energy"]) if present & Present.ENERGY else float("nan"),
            np.array(forces, dtype=float) if present & Present.FORCES else np.full((size, 3), np.nan),
            stress,
            kind,
            self.name,
            f"{self.store.path}:{row}",
            self.entry.weight_of(kind),
            self.entry.share_of(kind),
        )

    def table(self) -> FrameTable:
        """Sets, kinds, weights, numbers of labels."""
        sizes, present, periodic = [], [], []
        for start in range(0, len(self.store), 100_000):
            stop = min(start + 100_000, len(self.store))
            inside = self.rows[(self.rows >= start) & (self.rows < stop)] - start
            sizes.append(np.diff(self.store.column("structure/offset", start, stop + 1).astype(int))[inside])
            present.append(self.store.column("structure/present", start, stop)[inside])
            periodic.append(self.store.column("structure/pbc", start, stop)[inside])
        size, bits, pbc = (np.concatenate(parts).astype(int) for parts in (sizes, present, periodic))
        rows = []
        for kind, n, flags, box in zip(self.kinds, size.tolist(), bits.tolist(), pbc.tolist(), strict=True):
            stress = 6 * bool(flags & Present.STRESS and box == 7 and kind not in self.entry.drop_stress)
            labels = (
                int(bool(flags & Present.ENERGY)),
                3 * n * bool(flags & Present.FORCES),
                min(stress, 3) if kind in self.entry.drop_shear else stress,
            )
            rows.append((self.name, kind, self.entry.share_of(kind), self.entry.weight_of(kind), labels))
        return make_table(rows)


class StreamedFrames(Sequence[Frame]):
    """Frames of several sets, some in stores, some in memory.

    Parameters
    ----------
    parts : sequence
        :class:`StoredSet` or list of Frame.
    places : (n, 2) int, optional
        Part and index in it of every frame. [default: all]
    table : FrameTable, optional
    """

    def __init__(
        self,
        parts: Sequence[StoredSet | list[Frame]],
        places: np.ndarray | None = None,
        table: FrameTable | None = None,
    ) -> None:
        self.parts = parts
        if places is None:
            indices = [np.stack([np.full(len(p), k), np.arange(len(p))], axis=1) for k, p in enumerate(parts)]
            places = np.concatenate(indices).astype(np.int32)
        self.places = places
        self.table = table or join_tables([p.table() if isinstance(p, StoredSet) else table_of(p) for p in parts])

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, place = self.places[index].tolist()
        source = self.parts[part]
        found = source.frame(place) if isinstance(source, StoredSet) else source[place]
        return self._weighted(found, index)

    def __iter__(self) -> Iterator[Frame]:
        """All frames; quick where they are in the order of their stores."""
        position = 0
        for number, part in enumerate(self.parts):
            wanted = self.places[self.places[:, 0] == number, 1]
            if len(wanted) and not (np.diff(wanted) > 0).all():
                raise ValueError("frames of a part must be in the order of the part")
            if isinstance(part, StoredSet):
                some = replace(part, rows=part.rows[wanted], kinds=tuple(part.kinds[i] for i in wanted.tolist()))
                source = some.frames()
            else:
                source = iter([part[i] for i in wanted.tolist()])
            for frame in source:
                yield self._weighted(frame, position)
                position += 1

    def _weighted(self, frame: Frame, index: int) -> Frame:
        weight = float(self.table.weight[index])
        return frame if frame.weight == weight else replace(frame, weight=weight)

    def subset(self, chosen: Sequence[int]) -> StreamedFrames:
        """Some of the frames (ascending), still in their stores."""
        rows = np.asarray(chosen, dtype=np.int64)
        return StreamedFrames(self.parts, self.places[rows], self.table.subset(rows))

    def with_weights(self, weight: np.ndarray) -> StreamedFrames:
        """The same frames with other weights."""
        return StreamedFrames(self.parts, self.places, replace(self.table, weight=np.asarray(weight, float)))


def open_set(entry: SetConfig, data: DataConfig) -> tuple[StoredSet, SetReport]:
    """A query of a store as a set that is read when needed.

    Raises
    ------
    UsageError
        Not a store, or labels under other keys.
    InputError
        Structures without labels, or energies of two kinds.
    """
    from gracecli.run.structures import split_store

    if entry.primitive:
        raise UsageError("streamed structures stay as they are, so primitive cannot apply", "stream = never")
    stored = split_store(entry.path)
    if stored is None:
        raise UsageError(f"{entry.path} cannot be streamed", "`grace store add` puts it into a store")
    if data.forces_key or data.stress_key or data.energy_key not in (None, "energy", "free_energy"):
        raise UsageError("streamed labels have the store's own keys", "leave energy_key, forces_key, stress_key out")
    path, query = stored
    store = Store(path)
    rows = selected_rows(store, entry.path, query)
    kinds = [str(store.document(int(row)).get("info", {}).get("config_type", "all")) for row in rows]
    kept = np.array([kind not in entry.drop for kind in kinds], bool)
    for option in FILTERS:
        for kind in getattr(entry, option):
            if kind not in set(kinds):
                raise InputError(f"{entry.path}: {option} = {kind!r}, but no structure has that config_type")
    if not kept.any():
        raise InputError(f"{entry.path}: no structure is left", "drop fewer config_type values")
    chosen = tuple(kind for kind, keep in zip(kinds, kept, strict=True) if keep)
    found = StoredSet(store, rows[kept], chosen, entry, entry.name or set_name_of(entry.path))
    present = store.column("structure/present")[found.rows]
    free = (present & Present.FREE_ENERGY) > 0
    key = "free_energy" if free.all() else "energy"
    if (free.any() and not free.all()) or (data.energy_key or key) != key:
        text = f"{entry.path}: {int(free.sum())} of {len(free)} energies are free energies"
        raise InputError(text, "streaming takes one kind: narrow the query (has=free_energy), or stream = never")
    if ((present & (Present.ENERGY | Present.FORCES)) == 0).any():
        raise InputError(f"{entry.path}: structures without energy and forces", "add `has=forces` to the query")
    table = found.table()
    atoms = int(np.diff(store.column("structure/offset").astype(int))[found.rows].sum())
    report = SetReport(
        name=found.name,
        path=entry.path,
        sha256=store_hash(store, rows),
        frames=len(found),
        dropped=len(rows) - len(found),
        atoms=atoms,
        energy_key=key,
        stresses=int((table.labels[:, 2] == 6).sum()),
    )
    return found, report


def stream_sets(entries: Sequence[SetConfig], data: DataConfig) -> tuple[StreamedFrames, list[SetReport]]:
    """Sets that are read when needed; files that are no stores are read now."""
    parts: list[StoredSet | list[Frame]] = []
    reports = []
    for entry in numbered(entries):
        part, report = open_set(entry, data) if is_stored(entry) else read_set(entry, data)
        parts.append(part)
        reports.append(report)
    if not any(isinstance(part, StoredSet) for part in parts):
        raise UsageError("none of the training sets is a store, so none can be streamed", "`grace store add` makes one")
    return StreamedFrames(parts), reports


def is_stored(entry: SetConfig) -> bool:
    """Whether a set is a query of a store."""
    from gracecli.run.structures import split_store

    return split_store(entry.path) is not None


def worth_streaming(entries: Sequence[SetConfig]) -> bool:
    """Whether sets in stores would take more than a quarter of the memory that is free."""
    from gracecli.run.structures import split_store

    atoms = 0
    for entry in entries:
        stored = split_store(entry.path)
        if stored is not None:
            with Store(stored[0]) as store:
                rows = selected_rows(store, entry.path, stored[1])
                atoms += int(np.diff(store.column("structure/offset").astype(int))[rows].sum())
    return atoms * BYTES_PER_ATOM > 0.25 * _free_memory()


def _free_memory() -> float:
    """Bytes; infinite where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return 1024.0 * int(next(line for line in text.splitlines() if line.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration, ValueError):
        return float("inf")
