"""Rows from one store into another, column by column, with every reference between tables carried over.

``merge`` appends to a store in use, ``compact``, ``dedup`` and ``repair`` write a new file; all of them go through
:class:`Transfer`, which maps

    rows of /structure (results, members)      rows of /runs (run)      codes of sets (set, members)

from the old file to the new one. A structure is known by its content hash, a run by its uid, a result by its own hash:
what is there already is not written again, so that a transfer that was killed is simply repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gracecli.store.entry import content_hash
from gracecli.store.results import raw_result
from gracecli.store.schema import COLUMNS, NO_ROW, Present, columns_of
from gracecli.store.writer import PER_ATOM, Batch, hashed_columns

if TYPE_CHECKING:
    from gracecli.store.store import Store

Mask = NDArray[np.bool_]
BLOCK = 1000
CHILDREN = {
    "structure": {"structure/offset": "atom", "structure/meta_ofs": "json", "structure/comp_ofs": "composition"},
    "run": {"runs/offset": "run_json"},
    "result": {"result/json_ofs": "result_json", "result/data_ofs": "result_data"},
}
_BITS = dict(
    zip(PER_ATOM, (Present.FORCES, Present.MAGMOMS, Present.CHARGES, Present.VELOCITIES, Present.MASK), strict=True)
)


class Sink(Protocol):
    """Where rows go: a :class:`gracecli.store.writer.Writer` or a sealed file in the making."""

    def append(self, batch: Batch) -> Any:
        """Append rows of some tables; ends relative to the append."""


def gather(store: Store, axis: str, start: int, stop: int, keep: Mask) -> Batch:
    """Rows ``start`` to ``stop`` of a table where ``keep``, and the rows of other tables that belong to them."""
    batch: Batch = {}
    for column in columns_of(axis):
        if not column.ends:
            batch[column.path] = store.column(column.path, start, stop)[keep]
    for ends_path, child in CHILDREN.get(axis, {}).items():
        ends = store.column(ends_path, start, stop + 1).astype(np.int64)
        lengths = np.diff(ends)
        inside = np.repeat(keep, lengths)
        batch[ends_path] = np.cumsum(lengths[keep], dtype="<u8")
        for column in columns_of(child):
            bit = _BITS.get(column.path)
            if bit is not None and not (batch["structure/present"] & np.uint64(bit)).any():
                continue
            rows = store.column(column.path, int(ends[0]), int(ends[-1]))
            batch[column.path] = rows if keep.all() else rows[inside]
    return batch


class Transfer:
    """Copies one store into another.

    Parameters
    ----------
    source : Store
    target : Store
        Its tables are read to find what is known; may be the (empty) store in the making.
    sink : Sink
        Appends to ``target``.
    """

    def __init__(self, source: Store, target: Store, sink: Sink) -> None:
        self.source, self.target, self.sink = source, target, sink
        self.structures = np.full(len(source), -1, np.int64)  # row there -> row here
        self.added = 0
        self.results_added = 0

    def _append(self, batch: Batch) -> None:
        if batch:
            self.sink.append(batch)
            commit = getattr(self.sink, "commit", None)
            if commit is not None:
                self.target.commit = commit

    def __call__(self, keep: Mask | None = None, same: NDArray[np.int64] | None = None) -> None:
        """Copy everything.

        Parameters
        ----------
        keep : (N,) bool array, optional
            Structures to copy. [default: all]
        same : (N,) int array, optional
            For a structure that is not kept: the kept one that takes its place in results and sets (-1: none).
        """
        runs = self._runs()
        codes = self._sets()
        for start, stop in _blocks(len(self.source)):
            chosen = np.ones(stop - start, bool) if keep is None else keep[start:stop]
            self._structures(start, stop, chosen, runs, codes)
        if same is not None:
            moved = (self.structures < 0) & (same >= 0)
            self.structures[moved] = self.structures[same[moved]]
        self._results(runs)
        self._members(codes)

    # --- runs and sets ------------------------------------------------------------------------------------------------

    def _runs(self) -> NDArray[np.int64]:
        """Copy runs; number there (0: none) -> number here."""
        known = {key: number for number, key in enumerate(_run_keys(self.target))}
        keys = _run_keys(self.source)
        numbers = np.zeros(len(keys) + 1, np.int64)
        fresh = np.array([key not in known for key in keys], bool)
        following = self.target.commit.counts["run"]
        for row, key in enumerate(keys):
            if key not in known:
                known[key] = following
                following += 1
            numbers[row + 1] = known[key] + 1
        if fresh.any():
            self._append(gather(self.source, "run", 0, len(keys), fresh))
        return numbers

    def _sets(self) -> NDArray[np.int64]:
        """Copy the names of sets; code there -> code here."""
        here = self.target.set_names()
        names = self.source.set_names()
        fresh = [name for name in names if name not in here]
        if fresh:
            rows = [np.frombuffer(name.encode().ljust(48, b"\0"), "u1") for name in fresh]
            self._append({"set_names/name": np.array(rows)})
        here = [*here, *fresh]
        return np.array([0, *(here.index(name) + 1 for name in names)], np.int64)

    # --- structures ---------------------------------------------------------------------------------------------------

    def _structures(self, start: int, stop: int, keep: Mask, runs: NDArray[np.int64], codes: NDArray[np.int64]) -> None:
        contents = self._contents(start, stop)
        fresh = np.zeros(stop - start, bool)
        first = len(self.target)
        block: dict[bytes, int] = {}
        for row in np.flatnonzero(keep):
            digest = contents[row].tobytes()
            place = block.get(digest)
            if place is None:
                found = self.target.index("structure/content").find(digest)
                place = found[0] if found else None
            if place is None:
                place = first + len(block)
                block[digest] = place
                fresh[row] = True
            self.structures[start + row] = place
        if not fresh.any():
            return
        batch = gather(self.source, "structure", start, stop, fresh)
        batch["structure/run"] = runs[batch["structure/run"].astype(int)].astype("<u4")
        batch["structure/set"] = codes[batch["structure/set"].astype(int)].astype("<u2")
        self._forces(batch)
        self.added += int(fresh.sum())
        self._append(batch)

    def _contents(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Content hashes of structures as the target would store them."""
        types = [store._handle.dataset("atom/F").dtype.itemsize for store in (self.source, self.target)]
        if types[1] >= types[0]:
            return np.asarray(self.source.column("structure/content", start, stop))
        batch = gather(self.source, "structure", start, stop, np.ones(stop - start, bool))
        self._forces(batch)
        return np.asarray(batch["structure/content"])

    def _forces(self, batch: Batch) -> None:
        """Round forces where the target keeps four bytes of them; what is stored is what its hash is of."""
        dtype = self.target._handle.dataset("atom/F").dtype
        if "atom/F" not in batch or batch["atom/F"].dtype == dtype:
            return
        wide = batch["atom/F"].astype("<f8")
        batch["atom/F"] = batch["atom/F"].astype(dtype)
        if np.array_equal(wide, batch["atom/F"].astype("<f8"), equal_nan=True):
            return
        batch["structure/content"] = batch["structure/content"].copy()
        ends = np.concatenate([[0], batch["structure/offset"]]).astype(int)
        texts = np.concatenate([[0], batch["structure/meta_ofs"]]).astype(int)
        for row in range(len(ends) - 1):
            document = json.loads(batch["blob/json"][texts[row] : texts[row + 1]].tobytes() or b"{}")
            columns = hashed_columns(batch, row, slice(ends[row], ends[row + 1]))
            batch["structure/content"][row] = np.frombuffer(content_hash(columns, document), "u1")

    # --- results and members ------------------------------------------------------------------------------------------

    def _results(self, runs: NDArray[np.int64]) -> None:
        for start, stop in _blocks(self.source.commit.counts["result"]):
            parents = self.source.column("result/structure", start, stop).astype(np.int64)
            finals = self.source.column("result/final", start, stop)
            has_final = finals != NO_ROW
            new_parents = self.structures[parents]
            new_finals = np.where(has_final, self.structures[np.where(has_final, finals, 0).astype(np.int64)], 0)
            keep = (new_parents >= 0) & (new_finals >= 0)
            for row in np.flatnonzero(keep):
                keep[row] = not self._known_result(start + int(row))
            if not keep.any():
                continue
            batch = gather(self.source, "result", start, stop, keep)
            batch["result/structure"] = new_parents[keep].astype("<u8")
            batch["result/final"] = np.where(has_final, new_finals.astype("<u8"), np.uint64(NO_ROW))[keep]
            batch["result/run"] = runs[batch["result/run"].astype(int)].astype("<u4")
            self.results_added += int(keep.sum())
            self._append(batch)

    def _known_result(self, row: int) -> bool:
        identity = self.source.column("result/identity", row, row + 1)[0].tobytes()
        rows = self.target.index("result/identity").find(identity)
        if not rows:
            return False
        own = raw_result(self.source, row)[0].get("sha256")
        return any(raw_result(self.target, other)[0].get("sha256") == own for other in rows)

    def _members(self, codes: NDArray[np.int64]) -> None:
        """Who is in which set now: rows of /members wherever the structures' own column does not say so."""
        names = self.source.set_names()
        parts: list[Batch] = []
        placed = self.structures >= 0
        for name in names:
            inside = np.zeros(len(self.target), bool)
            inside[self.structures[placed & self.source.in_set(name)]] = True
            code = self.target.set_names().index(name) + 1
            mine = np.zeros(len(self.target), bool)
            mine[self.structures[placed]] = True
            now = self.target.in_set(name)
            enter = np.flatnonzero(inside & ~now)
            own = self.target.column("structure/set") == code
            leave = np.flatnonzero(mine & own & now & ~inside & self._fresh(len(self.target)))
            for rows, operation in ((enter, 1), (leave, 0)):
                if len(rows):
                    parts.append(members(rows, code, operation))
        if parts:
            self._append({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})

    def _fresh(self, count: int) -> Mask:
        """Structures that this transfer appended (the last ones)."""
        mask = np.zeros(count, bool)
        mask[count - self.added :] = self.added > 0
        return mask


def members(rows: Any, code: int, operation: int, run: int = 0) -> Batch:
    """Rows of /members: structures that enter (1) or leave (0) a set."""
    count = len(rows)
    return {
        "members/structure": np.asarray(rows, "<u8"),
        "members/set": np.full(count, code, "<u2"),
        "members/op": np.full(count, operation, "u1"),
        "members/run": np.full(count, run, "<u4"),
    }


def _run_keys(store: Store) -> list[bytes]:
    uids, events = store.column("runs/uid"), store.column("runs/event")
    return [uid.tobytes() + bytes([event]) for uid, event in zip(uids, events.tolist(), strict=True)]


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, BLOCK):
        yield start, min(start + BLOCK, count)


def copy_foreign(source: Any, target: Any, mark: str) -> list[str]:
    """Copy groups of plugins, which nobody else knows, from one open HDF5 file to another; their names.

    One whose name is taken by different content is kept beside it, as ``NAME@mark``.
    """
    copied = []
    for name in foreign(source):
        group, _, leaf = name.rpartition("/")
        holder = target.require_group(group) if group else target
        wanted = leaf
        if leaf in holder:
            if _same(source[name], holder[leaf]):
                continue
            wanted = f"{leaf}@{mark}"
            if wanted in holder:
                continue
        source.copy(source[name], holder, name=wanted)
        copied.append(f"{group}/{wanted}".lstrip("/"))
    return copied


def foreign(file: Any) -> list[str]:
    """Names of the objects in a store's file that its schema does not know: top level and one below its groups."""
    from gracecli.store.schema import COMMITS, SEAL

    known = {*COLUMNS, COMMITS}
    groups = {path.partition("/")[0] for path in known} | {SEAL}
    found = [name for name in file if name not in groups]
    for group in sorted(groups - {SEAL}):
        if group in file:
            found += [f"{group}/{name}" for name in file[group] if f"{group}/{name}" not in known]
    return found


def _same(one: Any, two: Any) -> bool:
    """Whether two HDF5 objects hold the same."""
    import h5py

    if type(one) is not type(two):
        return False
    if dict(one.attrs).keys() != dict(two.attrs).keys() or any(
        not np.array_equal(value, two.attrs[key]) for key, value in one.attrs.items()
    ):
        return False
    if isinstance(one, h5py.Dataset):
        return one.shape == two.shape and one.dtype == two.dtype and one[()].tobytes() == two[()].tobytes()
    return set(one) == set(two) and all(_same(one[name], two[name]) for name in one)
