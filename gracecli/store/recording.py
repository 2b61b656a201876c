"""Recording results: rows in groups, each group committed as a whole (what a row is: :mod:`gracecli.store.results`)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import InputError
from gracecli.store.entry import Entry, dump, encode, geometry_uid, label_hash
from gracecli.store.results import (
    KIND_BYTES,
    Calculation,
    Outcome,
    Value,
    constraints,
    geometry,
    result_hash,
)
from gracecli.store.runs import END, START, Run, event_batch
from gracecli.store.schema import NO_ROW
from gracecli.store.writer import Batch, forces_type, structure_batch

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.store.store import Store

Array = NDArray[Any]
PENDING = 200
PENDING_SECONDS = 10.0


class Recorder:
    """Collects outcomes and commits them together: every 200, every ten seconds, and at the end.

    ::

        with store.recording(seed=1) as recorder:
            for atoms in structures:
                recorder.record(calculation, atoms, {"energy": e}, relaxed)

    Each commit holds whole results. The run's first row is committed with the first results, its last one at the end.

    Attributes
    ----------
    ids : list of int
        Rows of /result committed so far, in the order of :meth:`record`.
    """

    def __init__(self, store: Store, run: Run) -> None:
        self.store, self.run = store, run
        self.ids: list[int] = []
        self._pending: list[Outcome] = []
        self._run_number = 0
        self._since = time.monotonic()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit what is left, and how the run ended (unless nothing was recorded)."""
        code = int(getattr(error, "exit_code", 130 if kind is KeyboardInterrupt else 1)) if kind else 0
        if self._pending or self._run_number:
            code = code if self.run.exit_code is None else self.run.exit_code
            self._commit(replace(self.run, end=time.time(), exit_code=code))

    def end_with(self, exit_code: int) -> None:
        """Exit code to write when the run ends."""
        self.run = replace(self.run, exit_code=exit_code)

    def record(
        self,
        calculation: Calculation,
        parent: Atoms | int,
        values: Mapping[str, Value],
        output: Atoms | None = None,
        *,
        exit_code: int = 0,
        message: str = "",
        units: Mapping[str, str] | None = None,
        source: str = "",
    ) -> None:
        """Take one result; see :class:`Outcome`."""
        self.add(Outcome(calculation, parent, values, output, exit_code, message, units or {}, source))

    def add(self, outcome: Outcome) -> None:
        """Take one result."""
        if outcome.output is not None:
            outcome = replace(outcome, output=_frozen(outcome.output))
        self._pending.append(outcome)
        if len(self._pending) >= PENDING or time.monotonic() - self._since > PENDING_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Commit what was taken so far."""
        if self._pending:
            self._commit(None)

    def _commit(self, ended: Run | None) -> None:
        pending, self._pending = self._pending, []
        self._since = time.monotonic()
        with self.store.writer() as writer:
            self.store.commit = writer.commit
            batch, rows, number = _batch(self.store, pending, self.run, self._run_number, ended)
            writer.append(batch)
        self._run_number = number
        self.ids += rows
        self.store.refresh()


def _frozen(atoms: Atoms) -> Atoms:
    """Copy of a structure with the results that are attached to it now: its owner may go on with it."""
    from ase.calculators.singlepoint import SinglePointCalculator

    copy = atoms.copy()
    if atoms.calc is not None:
        calculator = SinglePointCalculator(copy)
        calculator.results.update({k: np.copy(v) if np.ndim(v) else v for k, v in atoms.calc.results.items()})
        copy.calc = calculator
    return copy


def record_many(store: Store, outcomes: Iterable[Outcome], run: Run) -> list[int]:
    """Commit results of one finished run; their rows of /result."""
    with Recorder(store, run) as recorder:
        for outcome in outcomes:
            recorder.add(outcome)
    return recorder.ids


def _batch(
    store: Store, outcomes: Sequence[Outcome], run: Run, run_number: int, ended: Run | None
) -> tuple[Batch, list[int], int]:
    """Rows of all tables for some results, in one append; rows of /result; number of the run."""
    events = []
    if not run_number:
        run_number = store.commit.counts["run"] + 1
        model = outcomes[0].calculation.model_sha256 if outcomes else ""
        events.append(event_batch(run, START, _digest(model)))
    if ended is not None:
        events.append(event_batch(ended, END))
    batch = _joined(events)
    structures = _Structures(store)
    rows: list[tuple[Outcome, int, int, bytes]] = []
    for outcome in outcomes:
        parent, entry = structures.parent(outcome)
        final = NO_ROW if outcome.output is None else structures.output(outcome)
        rows.append((outcome, parent, final, outcome.calculation.key(entry)))
    if structures.new:
        batch |= structure_batch(structures.new, run_number, 0, forces_type(store._handle))
    if rows:
        batch |= result_batch(rows, run, run_number)
    first = store.commit.counts["result"]
    return batch, list(range(first, first + len(rows))), run_number


def _joined(parts: Sequence[Batch]) -> Batch:
    """Several appends of the same table as one; ends (offsets) add up."""
    if not parts:
        return {}
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    joined["runs/offset"] = np.cumsum(joined["runs/offset"], dtype="<u8")
    return joined


class _Structures:
    """Rows of the structures of one append, those of the store by their hash, new ones behind them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.new: list[Entry] = []
        self._first = len(store)
        self._parents: dict[bytes, int] = {}
        self._labels: dict[bytes, int] = {}

    def parent(self, outcome: Outcome) -> tuple[int, Entry]:
        """Row of the structure that a calculation started from."""
        if isinstance(outcome.parent, int | np.integer):
            number = self.store._index(int(outcome.parent))
            return number, self.store.entry(number)
        entry = geometry(outcome.parent, outcome.source)
        uid = geometry_uid(entry.numbers, entry.positions, entry.cell, entry.pbc)
        held = constraints(entry)
        key = uid + json.dumps(held).encode()
        for row in self.store.index("structure/uid").find(uid) if key not in self._parents else ():
            if constraints(self.store.entry(row)) == held:
                self._parents[key] = row
                break
        if key not in self._parents:
            self._parents[key] = self._add(entry)
        return self._parents[key], entry

    def output(self, outcome: Outcome) -> int:
        """Row of the structure that came out, with its labels."""
        from gracecli.store.convert import as_entry

        assert outcome.output is not None
        entry = as_entry(outcome.output, method=outcome.calculation.method)
        uid = geometry_uid(entry.numbers, entry.positions, entry.cell, entry.pbc)
        label = label_hash(uid, entry.method)
        if label not in self._labels:
            rows = [
                row
                for row in self.store.index("structure/label").find(label)
                if constraints(self.store.entry(row)) == constraints(entry)
            ]
            self._labels[label] = rows[0] if rows else self._add(entry)
        return self._labels[label]

    def _add(self, entry: Entry) -> int:
        self.new.append(entry)
        return self._first + len(self.new) - 1


def result_batch(rows: Sequence[tuple[Outcome, int, int, bytes]], run: Run, run_number: int) -> Batch:
    """Columns of new results (ends relative to the append)."""
    kinds, texts, blobs = [], [], []
    for outcome, _, _, identity in rows:
        text, blob = _document(outcome, run, identity)
        kinds.append(outcome.calculation.kind.encode().ljust(KIND_BYTES, b"\0"))
        texts.append(text)
        blobs.append(blob)
    return {
        "result/kind": np.frombuffer(b"".join(kinds), "u1").reshape(-1, KIND_BYTES),
        "result/structure": np.array([parent for _, parent, _, _ in rows], "<u8"),
        "result/final": np.array([final for _, _, final, _ in rows], "<u8"),
        "result/run": np.full(len(rows), run_number, "<u4"),
        "result/converged": np.array([outcome.exit_code == 0 for outcome, *_ in rows], "u1"),
        "result/identity": np.frombuffer(b"".join(row[3] for row in rows), "u1").reshape(-1, 32),
        "result/json_ofs": np.cumsum([len(text) for text in texts], dtype="<u8"),
        "result/data_ofs": np.cumsum([len(blob) for blob in blobs], dtype="<u8"),
        "blob/results": np.frombuffer(b"".join(texts), "u1"),
        "blob/data": np.frombuffer(b"".join(blobs), "u1"),
    }


def _document(outcome: Outcome, run: Run, identity: bytes) -> tuple[bytes, bytes]:
    """JSON and arrays of a result."""
    values: dict[str, Any] = {}
    data = b""
    for name, value in outcome.values.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            array = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
            values[name] = {"$data": [len(data), array.dtype.str, list(array.shape)]}
            data += array.tobytes()
            continue
        try:
            values[name] = encode(value.item() if isinstance(value, np.generic) else value)
        except TypeError as error:
            raise InputError(f"value {name!r} of a {outcome.calculation.kind} result: {error}") from error
    document = {
        "calculation": outcome.calculation.to_dict(),
        "values": values,
        "units": dict(outcome.units),
        "exit_code": int(outcome.exit_code),
        "message": outcome.message,
        "time": time.time(),
        "run": run.uid.hex(),
    }
    return dump({**document, "sha256": result_hash(document, identity, data)}), data


def _digest(text: str) -> bytes:
    try:
        return bytes.fromhex(text)[:32]
    except ValueError:
        return b""
