"""Results in a store: what was computed of which structure, with which model and settings, and what came out.

A result is one row of /result, committed together with its structures and its run: a kill leaves all of it or nothing.
Its identity is

    sha256(geometry, constraints, momenta, kind, model sha256, precision, canonical JSON of the settings)

so the same calculation has the same identity on every machine, with every engine and version, and is answered from the
store (:meth:`Store.find`). The document of a row::

    {"calculation": {kind, model, model_sha256, settings, precision, engine, versions},
     "values": {name: number, text, bool, list, or {"$data": [first byte in /blob/data of the row, dtype, shape]}},
     "units": {name: unit}, "exit_code": 0, "message": "", "time": seconds since 1970-01-01 UTC,
     "run": uid (hexadecimal), "sha256": of everything in this table before it, and of the arrays}

``result/converged`` is 1 for exit code 0.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import InputError, StoreError
from gracecli.store.entry import Entry, decode, dump, encode, geometry_uid, label_hash
from gracecli.store.runs import END, START, Run, event_batch
from gracecli.store.schema import NO_ROW
from gracecli.store.writer import Batch, structure_batch

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.store.store import Store

Array = NDArray[Any]
Value = Any  # bool, int, float, str, None, list of these, numpy array
_KIND_BYTES = 24
PENDING = 200
PENDING_SECONDS = 10.0


@dataclass(frozen=True)
class Calculation:
    """What is computed, apart from the structure.

    Attributes
    ----------
    kind : str
        ``"relax"``, ``"predict"``, ``"md"``, ``"phonons"``, ``"elastic"``, ... (at most 24 bytes).
    model : str
        Name, for people.
    model_sha256 : str
        Hash of the model file, hexadecimal: what the model is.
    settings : mapping
        Everything that changes the numbers, in JSON types; mappings, sequences, numpy numbers and arrays are converted.
    precision : str
        ``"fp64"`` or ``"fp32"``.
    engine : str
        For the record; no part of the identity, nor are the versions.
    versions : mapping
    """

    kind: str
    model: str
    model_sha256: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "fp64"
    engine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < len(self.kind.encode()) <= _KIND_BYTES:
            raise InputError(f"kind of a result: 1 to {_KIND_BYTES} bytes, not {self.kind!r}")
        object.__setattr__(self, "settings", _canonical(self.settings, "settings"))

    @property
    def method(self) -> str:
        """Method of the labels that this calculation gives."""
        return f"{self.model} sha256:{self.model_sha256[:12]} {self.precision}"

    def key(self, atoms: Atoms | Entry) -> bytes:
        """Sha256 that is the same for an identical calculation, and for no other.

        Constraints and momenta count as part of the geometry, atomic labels and other information do not.
        """
        entry = atoms if isinstance(atoms, Entry) else geometry(atoms)
        document = {
            "kind": self.kind,
            "model": self.model_sha256,
            "precision": self.precision,
            "settings": self.settings,
            "constraints": constraints(entry),
        }
        digest = hashlib.sha256(geometry_uid(entry.numbers, entry.positions, entry.cell, entry.pbc))
        digest.update(json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
        momenta = entry.arrays.get("momenta")
        if momenta is not None and np.any(momenta):
            digest.update(b"momenta" + np.ascontiguousarray(momenta, "<f8").tobytes())
        return digest.digest()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "kind": self.kind,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "settings": dict(self.settings),
            "precision": self.precision,
            "engine": self.engine,
            "versions": dict(self.versions),
        }


@dataclass(frozen=True)
class Outcome:
    """A finished calculation on its way into a store.

    Attributes
    ----------
    calculation : Calculation
    parent : Atoms or int
        Structure it started from: itself, or its number in the store. One that the store does not hold yet is added.
    values : mapping
        Name -> bool, int, float, str, None, list or numpy array.
    output : Atoms, optional
        Structure that came out, with the labels of the model attached.
    exit_code : int
        0: succeeded, only then it answers later calculations; else the command's exit code for this structure.
    message : str
        Why it failed.
    units : mapping
        Name of a value -> unit.
    source : str
        File that ``parent`` came from.
    """

    calculation: Calculation
    parent: Atoms | int
    values: Mapping[str, Value] = field(default_factory=dict)
    output: Atoms | None = None
    exit_code: int = 0
    message: str = ""
    units: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Recorded:
    """A result as the store has it.

    Attributes
    ----------
    id : int
        Row of /result.
    structure : int
        Number of the structure it was computed of.
    output_id : int or None
        Number of the structure that came out.
    output : Atoms or None
        That structure with its labels; None too where it was not asked for.
    run : int
        Number of its run (:func:`gracecli.store.runs.read_run`).
    time : float
        When it was recorded, seconds since 1970-01-01 UTC.
    """

    id: int
    calculation: Calculation
    structure: int
    output_id: int | None
    output: Atoms | None
    values: Mapping[str, Value]
    units: Mapping[str, str]
    exit_code: int
    message: str
    run: int
    time: float


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
        batch |= structure_batch(structures.new, run_number, 0)
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


def geometry(atoms: Atoms, source: str = "") -> Entry:
    """Entry of a structure that a calculation starts from: labels that were read from a file stay, others go."""
    from ase.calculators.singlepoint import SinglePointCalculator

    from gracecli.store.convert import as_entry

    if atoms.calc is not None and not isinstance(atoms.calc, SinglePointCalculator):
        atoms = atoms.copy()
    return as_entry(atoms, source=source)


def constraints(entry: Entry) -> list[Any]:
    """Constraints of a structure in JSON types; empty for none."""
    from gracecli.store.convert import CONSTRAINTS

    mask = entry.mask if entry.mask is not None and np.any(entry.mask) else None
    others = entry.results.get(CONSTRAINTS)
    if mask is None and not others:
        return []
    return [None if mask is None else np.asarray(mask, int).tolist(), encode(others) if others else None]


def result_batch(rows: Sequence[tuple[Outcome, int, int, bytes]], run: Run, run_number: int) -> Batch:
    """Columns of new results (ends relative to the append)."""
    kinds, texts, blobs = [], [], []
    for outcome, _, _, identity in rows:
        text, blob = _document(outcome, run, identity)
        kinds.append(outcome.calculation.kind.encode().ljust(_KIND_BYTES, b"\0"))
        texts.append(text)
        blobs.append(blob)
    return {
        "result/kind": np.frombuffer(b"".join(kinds), "u1").reshape(-1, _KIND_BYTES),
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


def result_hash(document: Mapping[str, Any], identity: bytes, data: bytes) -> str:
    """Sha256 of a result, hexadecimal: what ``check`` verifies and ``merge`` compares."""
    content = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(identity + dump(content) + data).hexdigest()


def _digest(text: str) -> bytes:
    try:
        return bytes.fromhex(text)[:32]
    except ValueError:
        return b""


def find(store: Store, calculation: Calculation, atoms: Atoms | Entry, *, failed: bool = False) -> Recorded | None:
    """Newest stored result of an identical calculation; ``failed`` also takes those with an exit code."""
    for row in reversed(store.index("result/identity").find(calculation.key(atoms))):
        if failed or store.column("result/converged", row, row + 1)[0]:
            return read_result(store, row)
    return None


def read_result(store: Store, row: int, *, output: bool = True) -> Recorded:
    """One result.

    Raises
    ------
    InputError
        There is no such row.
    StoreError
        Its content is not what was committed.
    """
    count = store.commit.counts["result"]
    if not 0 <= row < count:
        raise InputError(f"{store.path} has no result {row}", f"it holds {count}")
    document, data = raw_result(store, row)
    identity = store.column("result/identity", row, row + 1)[0].tobytes()
    if result_hash(document, identity, data) != document.get("sha256"):
        raise StoreError(f"{store.path}: result {row} is damaged", "`grace store repair` keeps the rest")
    final = int(store.column("result/final", row, row + 1)[0])
    return Recorded(
        id=row,
        calculation=Calculation(**document["calculation"]),
        structure=int(store.column("result/structure", row, row + 1)[0]),
        output_id=None if final == NO_ROW else final,
        output=None if final == NO_ROW or not output else store.atoms(final),
        values={name: _value(value, data) for name, value in document["values"].items()},
        units=document["units"],
        exit_code=document["exit_code"],
        message=document["message"],
        run=int(store.column("result/run", row, row + 1)[0]),
        time=document["time"],
    )


def raw_result(store: Store, row: int) -> tuple[dict[str, Any], bytes]:
    """Document and arrays of a result as stored."""
    first, last = (int(end) for end in store.column("result/json_ofs", row, row + 2))
    begin, end = (int(end) for end in store.column("result/data_ofs", row, row + 2))
    document = json.loads(store.column("blob/results", first, last).tobytes() or b"{}")
    return document, store.column("blob/data", begin, end).tobytes()


def _value(value: Any, data: bytes) -> Any:
    if isinstance(value, dict) and "$data" in value:
        offset, dtype, shape = value["$data"]
        count = int(np.prod(shape, dtype=int))
        return np.frombuffer(data, dtype, count, offset).reshape(shape).copy()
    return decode(value)


def _canonical(value: Any, where: str) -> Any:
    """JSON types in one form: 1 and 1.0, tuple and list, numpy and plain numbers are the same."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not np.isfinite(value):
            raise InputError(f"{where}: {value} is not a number")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return {str(key): _canonical(item, f"{where}.{key}") for key, item in sorted(value.items())}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence):
        return [_canonical(item, where) for item in value]
    raise InputError(f"{where}: {type(value).__name__} cannot be stored", "settings are JSON types")
