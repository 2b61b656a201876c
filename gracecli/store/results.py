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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import InputError, StoreError
from gracecli.store.entry import Entry, decode, dump, encode, geometry_uid
from gracecli.store.schema import NO_ROW

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.store.store import Store

Array = NDArray[Any]
Value = Any  # bool, int, float, str, None, list of these, numpy array
KIND_BYTES = 24


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
        if not 0 < len(self.kind.encode()) <= KIND_BYTES:
            raise InputError(f"kind of a result: 1 to {KIND_BYTES} bytes, not {self.kind!r}")
        object.__setattr__(self, "settings", canonical(self.settings, "settings"))

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


def result_hash(document: Mapping[str, Any], identity: bytes, data: bytes) -> str:
    """Sha256 of a result, hexadecimal: what ``check`` verifies and ``merge`` compares."""
    content = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(identity + dump(content) + data).hexdigest()


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


def canonical(value: Any, where: str) -> Any:
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
        return {str(key): canonical(item, f"{where}.{key}") for key, item in sorted(value.items())}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence):
        return [canonical(item, where) for item in value]
    raise InputError(f"{where}: {type(value).__name__} cannot be stored", "settings are JSON types")
