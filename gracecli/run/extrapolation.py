"""What runs say about extrapolation: the largest grade of a structure, a verdict, and a place for what lies outside.

gamma (:mod:`gracecli.model.grade`) is the distance of an atom's surroundings from the data of the model, in units of
the farthest training atom::

    gamma <= 1          inside           the model interpolates
    1 < gamma <= 1.5    at the edge      a little beyond the farthest training atom
    gamma > 1.5         extrapolating    nothing like it was trained on: check, or label it and train again

The second limit is by experience with the bundled model: of 226 held-out structures of its test sets none exceeds it,
of crystals with foreign neighbours (Cu-Ni, Si-Ge, Mo-Cu, Li-Si) all do.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from gracecli.engine.base import Array, Engine, Results
from gracecli.engine.grading import GAMMA, can_grade
from gracecli.errors import GraceError, InputError, PhysicsError

if TYPE_CHECKING:
    from collections.abc import Iterator

INSIDE, EDGE = 1.0, 1.5
SET_NAME = "extrapolating"
ADVICE = "label the structure and train again, or raise --max-gamma"


@dataclass(frozen=True)
class Extrapolation:
    """The grades of one structure in a few numbers.

    Attributes
    ----------
    gamma : float
        The largest.
    atom : int
        Whose it is, from 1.
    element : str
    verdict : str
        ``inside``, ``at the edge`` or ``extrapolating``.
    outside : int
        Atoms with gamma > 1.
    atoms : int
    step : int or None
        Of a run, where it occurred.
    """

    gamma: float
    atom: int
    element: str
    verdict: str
    outside: int
    atoms: int
    step: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def verdict(gamma: float) -> str:
    """What a grade means."""
    return "inside" if gamma <= INSIDE else "at the edge" if gamma <= EDGE else "extrapolating"


def summarise(
    gamma: Array | None, numbers: Sequence[int] | np.ndarray, step: int | None = None
) -> Extrapolation | None:
    """Summary of the grades of a structure; None where there are none."""
    if gamma is None or not len(gamma):
        return None
    worst = int(np.argmax(gamma))
    value = float(gamma[worst])
    element = chemical_symbols[int(numbers[worst])]
    return Extrapolation(value, worst + 1, element, verdict(value), int((gamma > INSIDE).sum()), len(gamma), step)


@contextmanager
def grading(engine: Engine) -> Iterator[bool]:
    """Grades on for a while, where the engine can make them; yields whether it can."""
    if not can_grade(engine):
        yield False
        return
    before = engine.gamma  # type: ignore[attr-defined]
    engine.gamma = True  # type: ignore[attr-defined]
    try:
        yield True
    finally:
        engine.gamma = before  # type: ignore[attr-defined]


def grades_of(engine: Engine, structures: Sequence[Atoms]) -> list[Array | None]:
    """Grades of structures by an evaluation of their own; None where the model has none or cannot evaluate."""
    from gracecli.run.predict import predict_many

    with grading(engine) as possible:
        if not possible:
            return [None] * len(structures)
        made = dict(predict_many(enumerate(structures), engine))
    return [r.extra.get(GAMMA) if isinstance(r, Results) else None for r in (made[i] for i in range(len(structures)))]


def text(extrapolation: dict[str, Any] | None) -> str | None:
    """A line for people."""
    if extrapolation is None:
        return None
    e = extrapolation
    meaning = {"inside": "inside the training data", "at the edge": "at the edge of the training data"}
    what = meaning.get(e["verdict"], "EXTRAPOLATING")
    when = f" in step {e['step']}" if e.get("step") is not None else ""
    more = f"; {e['outside']} of {e['atoms']} atoms beyond 1" if e["outside"] else ""
    return f"gamma at most {e['gamma']:.2f}{when}, atom {e['atom']} ({e['element']}): {what}{more}"


def beyond(names: Sequence[str], count: int, limit: float, largest: float) -> PhysicsError:
    """The error of structures beyond ``--max-gamma``."""
    which = f"{names[0]} has" if len(names) == 1 else f"{len(names)} of {count} structures have"
    return PhysicsError(f"{which} gamma beyond {limit:g} (the largest is {largest:.2f}); results were written", ADVICE)


@dataclass
class Collector:
    """Keeps structures beyond a limit, for labelling.

    Parameters
    ----------
    path : Path or None
        A store (``.h5``; they go into the set ``extrapolating``) or an extxyz file, which grows. None: nowhere.
    limit : float or None
        Structures with a larger gamma are kept; default is where extrapolation begins.
    """

    path: Path | None = None
    limit: float | None = None
    kept: int = 0
    _waiting: list[Atoms] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.suffix not in (".h5", ".hdf5", ".extxyz", ".xyz"):
            raise InputError(
                f"{self.path}: offending structures go to a store or an extxyz file", "end the name in .h5 or .extxyz"
            )

    @property
    def threshold(self) -> float:
        """Beyond it structures are kept."""
        return EDGE if self.limit is None else min(self.limit, EDGE)

    def offer(self, atoms: Atoms, gamma: Array | None, source: str) -> bool:
        """Keep a structure if it is beyond the limit."""
        found = summarise(gamma, atoms.numbers)
        if self.path is None or found is None or found.gamma <= self.threshold:
            return False
        copy = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        copy.info = {"gamma": found.gamma, "gamma_atom": found.atom, "source": source}
        copy.arrays[GAMMA] = np.asarray(gamma, dtype=float)
        self._waiting.append(copy)
        return True

    def flush(self) -> None:
        """Write what waits."""
        if self.path is None or not self._waiting:
            return
        if self.path.suffix in (".h5", ".hdf5"):
            from gracecli.store.store import Store

            with Store(self.path, "a") as store:
                store.append(self._waiting, set_name=SET_NAME)
        else:
            from gracecli.files import write_text_atomically
            from gracecli.run.outputs import extxyz_text

            before = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
            write_text_atomically(self.path, before + "".join(extxyz_text(atoms) for atoms in self._waiting))
        self.kept += len(self._waiting)
        self._waiting = []


class ExtrapolationError(PhysicsError):
    """A run met a structure beyond ``--max-gamma``."""


def check_limit(engine: Engine, limit: float | None, collect: Path | None) -> None:
    """Refuse ``--max-gamma`` and ``--collect-gamma`` where there are no grades.

    Raises
    ------
    ModelError
        The model or engine makes none.
    InputError
        The limit is not a positive number.
    """
    from gracecli.engine.grading import no_grade

    if limit is not None and not limit > 0.0:
        raise InputError(f"--max-gamma {limit} is not a positive number", "1 is the edge of the training data")
    if (limit is not None or collect is not None) and not can_grade(engine):
        error: GraceError = no_grade(engine)
        raise error
