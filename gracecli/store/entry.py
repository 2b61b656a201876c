"""One structure on its way into or out of a store: plain arrays, exact JSON, and the three hashes.

=========== =====================================================================================================
hash        of
=========== =====================================================================================================
uid         atomic numbers, cell, periodicity, positions (wrapped into the cell, -0 as 0), little-endian doubles
label       uid and the name of the method: one geometry may carry labels of several
content     everything the row holds except where it came from; what ``check`` verifies and ``merge`` compares
=========== =====================================================================================================
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass
class Entry:
    """A structure and its labels (units as in :mod:`gracecli.store.schema`; None: not there).

    ``energy`` is force-consistent where ``free_energy`` is set; ``results`` holds other results by ASE's names,
    ``info`` and ``arrays`` whatever else the file had, ``source`` where it came from.
    """

    numbers: Array
    positions: Array
    cell: Array
    pbc: tuple[bool, bool, bool]
    energy: float | None = None
    free_energy: bool = False
    forces: Array | None = None
    stress: Array | None = None
    magmoms: Array | None = None
    charges: Array | None = None
    velocities: Array | None = None
    mask: Array | None = None
    results: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    method: str = ""
    source: str = ""

    def document(self) -> dict[str, Any]:
        """What goes into the JSON blob, in JSON types."""
        parts = {"method": self.method, "results": self.results, "info": self.info, "arrays": self.arrays}
        return {key: encode(value) for key, value in parts.items() if value}


def encode(value: Any) -> Any:
    """JSON form from which :func:`decode` restores every bit and type; TypeError for what has none."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O" and all(isinstance(item, str) for item in value.flat):  # how ASE reads words
            return {"$array": "O", "list": value.tolist()}
        if value.dtype.kind in "US":
            return {"$array": value.dtype.str, "list": value.tolist()}
        if value.dtype.kind not in "biufc":
            raise TypeError(f"an array of {value.dtype} cannot be stored")
        data = np.ascontiguousarray(value)
        return {
            "$array": data.dtype.str,
            "shape": list(value.shape),
            "base64": base64.b64encode(data.tobytes()).decode(),
        }
    if isinstance(value, np.generic):
        return {"$scalar": value.dtype.str, "base64": base64.b64encode(value.tobytes()).decode()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [encode(item) for item in value]}
    raise TypeError(f"a value of type {type(value).__name__} cannot be stored")


def decode(value: Any) -> Any:
    """Inverse of :func:`encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tuple" in value:
        return tuple(decode(item) for item in value["$tuple"])
    if "$scalar" in value:
        return np.frombuffer(base64.b64decode(value["base64"]), value["$scalar"])[0]
    if "$array" in value:
        if "list" in value:
            return np.array(value["list"], dtype=value["$array"])
        return np.frombuffer(base64.b64decode(value["base64"]), value["$array"]).reshape(value["shape"]).copy()
    return {key: decode(item) for key, item in value.items()}


def dump(document: dict[str, Any]) -> bytes:
    """JSON as stored."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def geometry_uid(numbers: Array, positions: Array, cell: Array, pbc: tuple[bool, bool, bool]) -> bytes:
    """Sha256 of a geometry as given: equal hashes mean equal geometries; re-ordered copies have unequal ones."""
    positions = np.asarray(positions, "<f8")
    cell = np.asarray(cell, "<f8")
    if any(pbc) and abs(np.linalg.det(cell)) > 1e-12:
        turns = np.floor(np.linalg.solve(cell.T, positions.T).T) * np.asarray(pbc)
        positions = positions - turns @ cell if turns.any() else positions
    digest = hashlib.sha256()
    for part in (np.asarray(numbers, "u1"), cell + 0.0, np.asarray(pbc, "u1"), positions + 0.0):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.digest()


def label_hash(uid: bytes, method: str) -> bytes:
    """Sha256 of a geometry and a method."""
    return hashlib.sha256(uid + method.encode()).digest()


def content_hash(columns: dict[str, Array], document: dict[str, Any]) -> bytes:
    """Sha256 of one row: its columns (numbers as stored) and its JSON without ``source``."""
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(name.encode() + b"=" + np.ascontiguousarray(columns[name]).tobytes())
    digest.update(dump({key: value for key, value in document.items() if key != "source"}))
    return digest.digest()
