"""What an exporter is: something that writes a model, and evaluates what it wrote.

An exporter is registered as an :class:`~gracecli.plugin.specs.ExporterSpec`, by gracecli and by plugins alike. It only
writes and evaluates; names, temporary files, comparison and renaming are done for it by :mod:`gracecli.export.run`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gracecli.engine.base import Results

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.model.modelfile import Model


@dataclass(frozen=True)
class Job:
    """One export.

    Attributes
    ----------
    model : Model
        As it goes out: reduced and cast.
    name : str
        What the model is called, for titles and metadata.
    precision : str
        ``fp64`` or ``fp32``: of the weights, and of the arithmetic of a program.
    options : dict
        Values of the options that the spec names, as given.
    provenance : dict
        JSON values: model, sha256, elements, gracecli version; written beside or into the artefact.
    """

    model: Model
    name: str
    precision: str
    options: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """Largest deviations allowed, relative to the largest reference value where that is above 1 (eV, Å).

    Attributes
    ----------
    energy : float
        eV/atom.
    forces : float
        eV/Å.
    stress : float
        eV/Å^3.
    """

    energy: float
    forces: float
    stress: float


EXACT = Limits(energy=1e-10, forces=1e-9, stress=1e-10)
"""The same weights in fp64 arithmetic: rounding alone, in another order of sums."""
SINGLE = Limits(energy=1e-4, forces=1e-3, stress=1e-4)
"""Weights rounded to fp32, or fp32 arithmetic (random weights amplify 1e-7 most; trained models stay far below)."""


class Exporter(Protocol):
    """What the object named by an ExporterSpec makes.

    Attributes
    ----------
    program : bool
        Whether arithmetic belongs to the artefact: its precision is then fp64 unless asked otherwise. False: weights
        are stored as they are, and whoever reads them chooses the arithmetic.
    """

    program: bool

    def write(self, job: Job, target: Path) -> Sequence[str]:
        """Write the file ``target``, or into the empty folder ``target``; return remarks for the user."""
        ...

    def evaluate(self, job: Job, target: Path, structures: Sequence[Atoms]) -> Sequence[Results | None]:
        """Evaluate the artefact itself; None for a structure it cannot hold (a program of fixed size)."""
        ...

    def limits(self, job: Job, limits: Limits) -> Limits:
        """What the comparison may deviate, given the usual limits of the precision."""
        ...


class PlainExporter:
    """Defaults of :class:`Exporter` for formats that store weights."""

    program = False

    def limits(self, job: Job, limits: Limits) -> Limits:
        """The usual ones."""
        return limits
