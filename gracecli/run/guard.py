"""A calculator around the calculator: counts evaluations, remembers the last good geometry, stops explosions.

Optimizers evaluate at points nobody sees in between (line searches, trial steps), so the check sits where every
evaluation passes. Interrupts can hit anywhere too, between a new cell and its new positions for instance; the copy
kept here is always a geometry that was evaluated as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator

from gracecli.errors import PhysicsError

#: A relaxation that changes the energy by more than this (eV/atom) has left the range of any potential: reaction and
#: cohesive energies are below 10 eV/atom, a hole in a fitted potential is bottomless.
ENERGY_WINDOW = 50.0
#: Inputs with larger forces (eV/Å) have atoms far inside each other's cores; they may fall as deep as they like.
SANE_FORCE = 50.0
#: Largest credible force in eV/Å once past the first evaluation; inputs that start above it may only go down.
FORCE_LIMIT = 1000.0
#: Volume may change by this factor (halving or doubling every length) before the cell counts as exploded.
VOLUME_FACTOR = 8.0


@dataclass
class Start:
    """What the first evaluation found (eV/atom, eV/Å, Å^3): the reference for "exploded"."""

    energy: float
    force: float
    volume: float


class GuardedCalculator(Calculator):
    """Delegates to ``inner`` and watches the results.

    Parameters
    ----------
    inner : ase.calculators.calculator.Calculator
        Must offer energy and forces.
    need_stress : bool
        Ask for the stress in every evaluation, so that one evaluation serves all.

    Attributes
    ----------
    evaluations : int
        Number of evaluations so far.
    last_good : Atoms or None
        Copy of the latest geometry that passed the checks, with its results attached.
    failed : bool
        Whether the latest evaluation raised an error.
    """

    def __init__(self, inner: Calculator, need_stress: bool) -> None:
        super().__init__()
        self.inner = inner
        self.implemented_properties = list(inner.implemented_properties)
        self.evaluations = 0
        self.last_good: Atoms | None = None
        self.failed = False
        self._wanted = ["energy", "forces", *(["stress"] if need_stress else [])]
        self._start: Start | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Evaluate ``inner``, then check.

        Raises
        ------
        PhysicsError
            Not-a-number results, or energy, force or volume out of every credible range.
        """
        super().calculate(atoms, properties or self._wanted, system_changes)
        wanted = [*self._wanted, *(name for name in properties or () if name not in self._wanted)]
        self.failed = True
        self.inner.calculate(self.atoms, wanted, system_changes)
        self.evaluations += 1
        results = {key: np.copy(value) if np.ndim(value) else value for key, value in self.inner.results.items()}
        self._check(results)
        self.results = results
        good = self.atoms.copy()
        good.calc = SinglePointCalculator(good, **_standard(results))
        self.last_good = good
        self.failed = False

    def _check(self, results: dict[str, Any]) -> None:
        checked = [name for name in self._wanted if name in results]
        for name in checked:
            if not np.all(np.isfinite(results[name])):
                raise not_a_number(name, self.evaluations)
        count = len(self.atoms)
        force = float(np.linalg.norm(results["forces"], axis=1).max())
        volume = self.atoms.cell.volume if self.atoms.pbc.all() else 0.0
        energy = float(results["energy"]) / count
        if self._start is None:
            self._start = Start(energy, force, volume)
            return
        reason = why_exploded(self._start, energy, force, volume)
        if reason is not None:
            raise exploded(reason, self.evaluations)


def why_exploded(start: Start, energy: float, force: float, volume: float) -> str | None:
    """What is out of every credible range (eV/atom, eV/Å, Å^3), or None."""
    fell = start.energy - energy if start.force < SANE_FORCE else 0.0
    if max(energy - start.energy, fell) > ENERGY_WINDOW:
        return f"the energy changed by {energy - start.energy:+.0f} eV/atom"
    if force > max(FORCE_LIMIT, 2.0 * start.force):
        return f"a force reached {force:.3g} eV/Å"
    if volume and not 1.0 / VOLUME_FACTOR < volume / start.volume < VOLUME_FACTOR:
        return f"the volume changed by a factor of {volume / start.volume:.2g}"
    return None


def exploded(reason: str, evaluations: int) -> PhysicsError:
    """The error of a relaxation that left every credible range."""
    return PhysicsError(
        f"the relaxation exploded: {reason} after {evaluations} evaluations",
        "check the input geometry and the model's range; the last good geometry was kept",
    )


def not_a_number(name: str, evaluations: int) -> PhysicsError:
    """The error of a model that returns NaN or infinity."""
    return PhysicsError(
        f"the model returned a not-a-number {name} after {evaluations} evaluations",
        "the geometry is outside the model's range; the last good one was kept",
    )


def _standard(results: dict[str, Any]) -> dict[str, Any]:
    """The results that ASE's single-point calculator can hold."""
    names = ("energy", "free_energy", "forces", "stress", "energies")
    return {name: results[name] for name in names if name in results}
