"""Options and lines about extrapolation that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gracecli.cli.output import note

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.engine.base import Engine
    from gracecli.errors import GraceError
    from gracecli.run.extrapolation import Collector, Extrapolation

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def limit_option(what: str) -> Callable[[Decorated], Decorated]:
    """``--max-gamma``; ``what`` says what a structure beyond the limit does to the run."""
    return click.option(
        "--max-gamma",
        type=float,
        metavar="X",
        help=f"Extrapolation grade allowed; 1 is the edge of the training data. {what}",
    )


def gamma_options(what: str) -> Callable[[Decorated], Decorated]:
    """``--max-gamma``, ``--collect-gamma``; ``what`` says what a structure beyond the limit does to the run."""

    def decorate(function: Decorated) -> Decorated:
        function = click.option(
            "--collect-gamma",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Add structures with gamma beyond 1.5 (or --max-gamma, if less) to a store (.h5, set extrapolating) "
            "or extxyz file, for labelling.",
        )(function)
        return limit_option(what)(function)

    return decorate


@dataclass
class GammaJob:
    """Grades of all structures of a call: documents, collection, and the error at the end."""

    limit: float | None
    collector: Collector
    count: int = 0
    flagged: list[str] = field(default_factory=list)
    largest: float = 0.0
    verdicts: dict[str, int] = field(default_factory=dict)
    worst: dict[str, Any] | None = None

    @classmethod
    def of(cls, limit: float | None, collect: Path | None, engine: Engine) -> GammaJob:
        """From the options."""
        from gracecli.run.extrapolation import Collector, check_limit

        check_limit(engine, limit, collect)
        return cls(limit, Collector(collect, limit))

    def take(self, name: str, atoms: Atoms, gamma: Any) -> dict[str, Any] | None:
        """Note the grades of a structure; what the document says about them."""
        from gracecli.run.extrapolation import summarise

        found: Extrapolation | None = summarise(gamma, atoms.numbers)
        if found is None:
            return None
        self.count += 1
        self.verdicts[found.verdict] = self.verdicts.get(found.verdict, 0) + 1
        document = found.to_dict()
        if self.worst is None or found.gamma > self.largest:
            self.worst = {**document, "structure": name}
        self.largest = max(self.largest, found.gamma)
        if self.limit is not None:
            document["flagged"] = found.gamma > self.limit
            if document["flagged"]:
                self.flagged.append(name)
        self.collector.offer(atoms, gamma, name)
        return document

    def document(self) -> dict[str, Any] | None:
        """All structures together."""
        if self.worst is None:
            return None
        return {
            "largest": self.worst,
            "verdicts": self.verdicts,
            "max_gamma": self.limit,
            "flagged": len(self.flagged),
            "collected_in": self.collector.path,
            "collected": self.collector.kept,
        }

    def finish(self) -> None:
        """Write what was collected."""
        self.collector.flush()
        if self.collector.kept:
            note(f"{self.collector.kept} extrapolating structures added to {self.collector.path}")

    def error(self) -> GraceError | None:
        """What structures beyond the limit end the command with."""
        from gracecli.run.extrapolation import beyond

        if self.limit is None or not self.flagged:
            return None
        return beyond(self.flagged, self.count, self.limit, self.largest)


def gamma_line(document: dict[str, Any] | None) -> str | None:
    """One structure, in words."""
    from gracecli.run.extrapolation import text

    return text(document)


def gamma_summary(document: dict[str, Any]) -> str:
    """Many structures, in words."""
    worst, verdicts = document["largest"], document["verdicts"]
    order = ("inside", "at the edge", "extrapolating")
    counts = ", ".join(f"{verdicts[name]} {name}" for name in order if name in verdicts)
    where = f"{Path(worst['structure']).name}, atom {worst['atom']} ({worst['element']})"
    return f"gamma at most {worst['gamma']:.2f} ({where}); {counts}"
