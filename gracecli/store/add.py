"""Adding what a store does not hold yet: the same file twice adds nothing the second time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gracecli.store.entry import Entry, geometry_uid, label_hash
from gracecli.store.runs import END, START, Run, event_batch
from gracecli.store.schema import Present
from gracecli.store.transfer import members
from gracecli.store.writer import Batch, Writer, forces_type, present_bits, structure_batch

if TYPE_CHECKING:
    from gracecli.store.store import Store

BATCH = 1000
ENERGY_TOLERANCE = 1e-6  # eV/atom


@dataclass(frozen=True)
class Added:
    """What became of some structures.

    Attributes
    ----------
    new : tuple of int
        Numbers of those that were appended.
    known : tuple of int
        Numbers of those that were there (or came twice), with the same geometry and method.
    contradictions : tuple of int
        Those among ``known`` whose energy is another one: it was not stored.
    """

    new: tuple[int, ...]
    known: tuple[int, ...]
    contradictions: tuple[int, ...]


def add_groups(store: Store, groups: Sequence[Sequence[Entry]], run: Run, set_name: str = "") -> list[Added]:
    """Append the structures of some files that the store lacks, by label = sha256(geometry + method).

    Parameters
    ----------
    store : Store
        Open for appending.
    groups : sequence of sequence of Entry
    run : Run
        Written with the first new structure, its end with the last.
    set_name : str
        Set that all of them enter, known ones too.

    Returns
    -------
    list of Added
        One per group.
    """
    with store.writer() as writer:
        adder = _Adder(store, writer, run, set_name)
        found = [adder.add(entries) for entries in groups]
        adder.finish()
    store.refresh()
    return found


class _Adder:
    def __init__(self, store: Store, writer: Writer, run: Run, set_name: str) -> None:
        self.store, self.writer, self.run, self.set_name = store, writer, run, set_name
        store.commit = writer.commit
        self.run_number = 0
        self.code, self.names = store._set_code(writer, set_name)
        self.seen: dict[bytes, list[tuple[int, int, float | None]]] = {}

    def add(self, entries: Sequence[Entry]) -> Added:
        new: list[int] = []
        known: list[int] = []
        contradictions: list[int] = []
        waiting: list[Entry] = []
        for entry in entries:
            uid = geometry_uid(entry.numbers, entry.positions, entry.cell, entry.pbc)
            label = label_hash(uid, entry.method)
            match = self._known(label, entry)
            if match is not None:
                known.append(match)
                if self._differs(label, match, entry):
                    contradictions.append(match)
                continue
            row = len(self.store) + len(waiting)
            self.seen[label].append((row, present_bits(entry), entry.energy))
            new.append(row)
            waiting.append(entry)
            if len(waiting) == BATCH:
                self._append(waiting)
                waiting = []
        if waiting:
            self._append(waiting)
        self._enter(known)
        return Added(tuple(new), tuple(known), tuple(contradictions))

    def _known(self, label: bytes, entry: Entry) -> int | None:
        """Structure with the geometry, the method and at least the labels of ``entry``; None if there is none."""
        if label not in self.seen:
            self.seen[label] = []
            for row in self.store.index("structure/label").find(label):
                bits = int(self.store.column("structure/present", row, row + 1)[0])
                energy = float(self.store.column("structure/energy", row, row + 1)[0])
                self.seen[label].append((row, bits, None if np.isnan(energy) else energy))
        wanted = present_bits(entry)
        for row, bits, _ in self.seen[label]:
            if wanted & ~bits & ~Present.FREE_ENERGY == 0 and (wanted ^ bits) & Present.MASK == 0:
                return row
        return None

    def _differs(self, label: bytes, row: int, entry: Entry) -> bool:
        energy = next(energy for number, _, energy in self.seen[label] if number == row)
        if entry.energy is None or energy is None:
            return False
        return abs(energy - entry.energy) > ENERGY_TOLERANCE * max(len(entry.numbers), 1)

    def _append(self, entries: list[Entry]) -> None:
        batch: Batch = {}
        if not self.run_number:
            self.run_number = self.store.commit.counts["run"] + 1
            batch |= event_batch(self.run, START)
        batch |= structure_batch(entries, self.run_number, self.code, forces_type(self.store._handle))
        self._commit(batch)

    def _enter(self, rows: list[int]) -> None:
        """Put structures that were there into the set."""
        if not self.set_name:
            return
        inside = np.zeros(0, bool) if self.names else self.store.in_set(self.set_name)
        outside = [row for row in dict.fromkeys(rows) if row >= len(inside) or not inside[row]]
        if outside:
            self._commit(members(outside, self.code, 1, self.run_number))

    def _commit(self, batch: Batch) -> None:
        batch.update(self.names)
        self.writer.append(batch)
        self.store.commit = self.writer.commit
        self.names = {}

    def finish(self) -> None:
        """Say that the run ended."""
        if self.run_number:
            self._commit(event_batch(replace(self.run, end=time.time(), exit_code=0), END))
