"""Extrapolation grades of a run: looked at with every row of the log, stopping it beyond a limit.

The step that ends on a row is computed with grades, all others without, so that they cost next to nothing. The largest
one, and where it occurred, goes on through checkpoints and resumes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gracecli.engine.grading import GAMMA, can_grade
from gracecli.run.extrapolation import ADVICE, Collector, Extrapolation, ExtrapolationError, check_limit, summarise

if TYPE_CHECKING:
    from gracecli.engine.calculator import GraceCalculator
    from gracecli.run.md import Simulation

ROWS_APART = 20
"""A run offers a structure for collection this many rows after the last one, or when gamma grew by ``GROWTH``."""
GROWTH = 1.1


@dataclass
class GammaWatch:
    """Looks at the grades of a run.

    Parameters
    ----------
    calculator : GraceCalculator
    limit : float or None
        Beyond it the run stops.
    collector : Collector
    largest : Extrapolation or None
        So far.
    """

    calculator: GraceCalculator
    limit: float | None
    collector: Collector
    largest: Extrapolation | None = None
    _rows: int = 0
    _kept: float = 0.0

    def __post_init__(self) -> None:
        # the engine tensorflow grades always: switching would compile a second program
        self._switches = can_grade(self.calculator.engine) and not self.calculator.engine.gamma  # type: ignore[attr-defined]

    @classmethod
    def of(
        cls,
        calculator: GraceCalculator,
        limit: float | None,
        collect: Path | None,
        before: Mapping[str, Any] | None = None,
    ) -> GammaWatch:
        """From options, which win, and what the run was started with.

        Raises
        ------
        ModelError
            A limit, and no grades.
        """
        before = before or {}
        limit = before.get("limit") if limit is None else limit
        path = before.get("collect") if collect is None else collect
        check_limit(calculator.engine, limit, None if path is None else Path(path))
        known = before.get("largest")
        watch = cls(calculator, limit, Collector(None if path is None else Path(path), limit))
        watch.largest = None if known is None else Extrapolation(**known)
        return watch

    def state(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return {
            "limit": self.limit,
            "collect": None if self.collector.path is None else str(self.collector.path.resolve()),
            "largest": None if self.largest is None else self.largest.to_dict(),
        }

    def document(self, every: int) -> dict[str, Any] | None:
        """What the result says, None without grades."""
        if self.largest is None:
            return None
        path = self.collector.path
        collected = {"collected_in": None if path is None else str(path), "collected": self.collector.kept}
        return {**self.largest.to_dict(), "max_gamma": self.limit, "every": every, **collected}

    def arm(self, due: bool) -> None:
        """Before an evaluation: whether its grades will be looked at."""
        if self._switches:
            self.calculator.engine.gamma = due  # type: ignore[attr-defined]

    def look(self, simulation: Simulation) -> None:
        """Note the grades of the present step.

        Raises
        ------
        ExtrapolationError
            They are beyond the limit.
        """
        gamma = self.calculator.results.get(GAMMA)
        found = summarise(gamma, simulation.system.atoms.numbers, simulation.step)
        if found is None:
            return
        if self.largest is None or found.gamma > self.largest.gamma:
            self.largest = found
        self._rows += 1
        stop = self.limit is not None and found.gamma > self.limit
        if stop or self._rows > ROWS_APART or found.gamma > GROWTH * self._kept:
            name = f"{simulation.origin.get('name', 'md')}, step {simulation.step}"
            if self.collector.offer(simulation.system.to_atoms(), gamma, name):
                self._rows, self._kept = 0, found.gamma
        if stop:
            raise ExtrapolationError(
                f"the run extrapolates in step {found.step}: gamma {found.gamma:.2f} at atom {found.atom} "
                f"({found.element}), beyond --max-gamma {self.limit:g}",
                ADVICE,
            )
