"""How a structure or a result came about: back through every calculation to the files it started from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.errors import InputError
from gracecli.store.results import Recorded, read_result
from gracecli.store.runs import Run, iso, read_run

if TYPE_CHECKING:
    from gracecli.store.store import Store


@dataclass(frozen=True)
class Node:
    """A structure, and what it came from.

    Attributes
    ----------
    structure : int
    formula : str
    natoms : int
    uid : str
        Sha256 of the geometry.
    energy : float or None
        eV.
    method, source : str
        Of its labels; file and frame it was read from.
    run : Run or None
        Command that put it into the store.
    made_by : Step or None
        Calculation that it came out of; None for one that came from a file.
    """

    structure: int
    formula: str
    natoms: int
    uid: str
    energy: float | None
    method: str
    source: str
    run: Run | None
    made_by: Step | None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "structure": self.structure,
            "formula": self.formula,
            "natoms": self.natoms,
            "uid": self.uid,
            "energy": self.energy,
            "method": self.method or None,
            "source": self.source or None,
            "run": None if self.run is None else self.run.to_dict(),
            "made_by": None if self.made_by is None else self.made_by.to_dict(),
        }


@dataclass(frozen=True)
class Step:
    """A result and the structure it was computed of."""

    result: Recorded
    run: Run | None
    parent: Node

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "result": self.result.id,
            **self.result.calculation.to_dict(),
            "exit_code": self.result.exit_code,
            "message": self.result.message or None,
            "values": {name: value for name, value in self.result.values.items() if np.ndim(value) == 0},
            "units": dict(self.result.units),
            "time": iso(self.result.time),
            "output": self.result.output_id,
            "run": None if self.run is None else self.run.to_dict(),
            "parent": self.parent.to_dict(),
        }


def why(store: Store, name: int | str) -> Node | Step:
    """Lineage of structure ``N`` (number) or of result ``rN``.

    Raises
    ------
    InputError
        There is no such structure or result.
    """
    text = str(name)
    if text[:1] == "r" and text[1:].isdigit():
        return _step(store, int(text[1:]), frozenset())
    try:
        number = int(text)
    except ValueError as error:
        raise InputError(f"{text!r} is neither a structure (12) nor a result (r3)") from error
    return _node(store, store._index(number), frozenset())


def _step(store: Store, row: int, seen: frozenset[int]) -> Step:
    result = read_result(store, row, output=False)
    return Step(result, read_run(store, result.run), _node(store, result.structure, seen))


def _node(store: Store, number: int, seen: frozenset[int]) -> Node:
    """Structure, and the first successful result that it came out of (not of itself: a relaxed one relaxed again)."""
    from gracecli.store.summary import formula_of

    document = store.document(number)
    energy = float(store.column("structure/energy", number, number + 1)[0])
    rows = np.flatnonzero(store.column("result/final") == number)
    parents = store.column("result/structure")[rows].astype(int)
    seen = seen | {number}
    step = next((int(row) for row, parent in zip(rows, parents, strict=True) if parent not in seen), None)
    return Node(
        structure=number,
        formula=formula_of(store, number),
        natoms=int(store.column("structure/natoms", number, number + 1)[0]),
        uid=store.column("structure/uid", number, number + 1)[0].tobytes().hex(),
        energy=None if np.isnan(energy) else energy,
        method=document.get("method", ""),
        source=document.get("source", ""),
        run=read_run(store, int(store.column("structure/run", number, number + 1)[0])),
        made_by=None if step is None else _step(store, step, seen),
    )
