r"""Relaxation: move atoms, and the cell if asked, to the nearest minimum of the energy or enthalpy.

Minimised is :math:`H = E + pV` over the free atoms and the deformations of the cell mode (:mod:`gracecli.run.cell`).
Converged means what a user would check on paper, not the optimizer's generalised gradient:

* :math:`\max_i |F_i| \le` ``fmax`` over the free atoms, constraints projected out;
* :math:`\max |\sigma - \sigma_\mathrm{target}| \le` ``smax`` over the components that the cell mode lets relax.

The default optimizer is LBFGS: it needs two to three times fewer evaluations than FIRE (tests/run/optimizers.md), and
its cost per step stays linear in the number of atoms (BFGS diagonalises a 3N matrix). Quasi-Newton steps can climb
where the energy is not convex; a run that does so returns to its lowest geometry and goes on with FIRE for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.units import GPa

from gracecli.errors import InputError, PhysicsError
from gracecli.plugin.manager import get_plugin_manager
from gracecli.plugin.specs import OptimizerSpec
from gracecli.run.assemble import assemble, climb_warnings, left_over, prepared
from gracecli.run.cell import CellFilter, residual_stress
from gracecli.run.checks import input_warnings
from gracecli.run.guard import GuardedCalculator
from gracecli.run.optimizers import (
    FIRE_STEPS,
    GIVING_UP,
    Descent,
    Finished,
    lacks_step,
    may_climb,
    trusts_positions,
)
from gracecli.run.result import RelaxResult, RelaxSettings, State, Status


@dataclass(frozen=True)
class RelaxStep:
    """What an observer sees after every step.

    Attributes
    ----------
    number : int
        0 is the start.
    energy : float
        eV.
    max_force : float
        Residual force in eV/Å.
    max_stress : float or None
        Residual stress in GPa; None where the cell does not relax.
    atoms : Atoms
        A copy with energy, forces and stress attached.
    """

    number: int
    energy: float
    max_force: float
    max_stress: float | None
    atoms: Atoms


Observer = Callable[[RelaxStep], None]


def relax(
    atoms: Atoms, calculator: Calculator, settings: RelaxSettings | None = None, observer: Observer | None = None
) -> RelaxResult:
    """Relax a copy of ``atoms``.

    Parameters
    ----------
    atoms : Atoms
        Input geometry, left untouched; its constraints are kept.
    calculator : ase.calculators.calculator.Calculator
        Energy, forces and, for periodic structures, stress.
    settings : RelaxSettings, optional
    observer : callable, optional
        Called with a :class:`RelaxStep` for the start and every step.

    Returns
    -------
    RelaxResult
        Also for runs that did not converge, exploded or were interrupted: see its ``status``.

    Raises
    ------
    InputError
        The structure cannot be relaxed in this way.
    PhysicsError
        The model fails on the input geometry itself.
    """
    settings = settings or RelaxSettings()
    run = _Run(atoms, calculator, settings, observer)
    started = time.perf_counter()
    status, message = run.execute()
    return run.result(status, message, time.perf_counter() - started)


class _Run:
    """One relaxation in progress."""

    def __init__(
        self, atoms: Atoms, calculator: Calculator, settings: RelaxSettings, observer: Observer | None
    ) -> None:
        self.settings = settings
        self.observer = observer
        self.input = atoms
        self.model = str(getattr(calculator, "model_name", None) or getattr(calculator, "name", ""))
        self.warnings = input_warnings(atoms, settings)
        periodic = bool(atoms.pbc.all())
        has_stress = "stress" in calculator.implemented_properties
        self.atoms = prepared(atoms, settings, has_stress, self.model)
        self.reference = self.atoms.copy()
        self.guard = GuardedCalculator(calculator, need_stress=periodic and has_stress)
        self.atoms.calc = self.guard
        self.steps = 0
        self.climbs = 0
        self.initial: State | None = None

    def execute(self) -> tuple[Status, str]:
        """Run to the end; how it ended and why."""
        try:
            self.atoms.get_potential_energy()
            self.initial = State.of(self._evaluated(), self.settings)
            optimizer = self._optimizer()
            drive = self._drive_by_run if lacks_step(optimizer) else self._drive_by_step
            return drive(optimizer)
        except KeyboardInterrupt:
            if self.initial is None:
                raise
            return "interrupted", f"interrupted after {self.steps} steps"
        except (PhysicsError, InputError) as error:  # InputError: the engine refuses a geometry met on the way
            if self.initial is None or not self.guard.failed:
                raise
            return "exploded", error.message

    def _drive_by_step(self, optimizer: Any) -> tuple[Status, str]:
        descent = Descent(optimizer.atoms) if may_climb(optimizer) else None
        detour, detour_left = FIRE_STEPS, 0
        while True:
            ending = self._ending(self._report())
            if ending is not None:
                return ending
            if descent is not None and descent.lost():
                self.climbs += 1
                descent, optimizer = None, self._fallback()
                detour, detour_left = 2 * detour, detour
            try:
                optimizer.step()
            except GIVING_UP as error:
                if self.guard.failed:
                    raise
                return self._gave_up(str(error))
            optimizer.nsteps += 1
            self.steps += 1
            if detour_left:
                detour_left -= 1
                if not detour_left:
                    optimizer = self._optimizer()  # with an empty memory
                    descent = Descent(optimizer.atoms)

    def _drive_by_run(self, optimizer: Any) -> tuple[Status, str]:
        """Optimizers that wrap a foreign minimiser have no ``step``: watch their own loop."""

        def observe() -> None:
            self.steps = optimizer.nsteps
            ending = self._ending(self._report())
            if ending is not None:
                raise Finished(*ending)

        ending = self._ending(self._report())
        if ending is not None:
            return ending
        optimizer.attach(observe)
        try:
            optimizer.run(fmax=1e-12, steps=self.settings.steps + 1)
        except Finished as finished:
            return finished.status, finished.message
        except GIVING_UP as error:
            if self.guard.failed:
                raise
            return self._gave_up(str(error))
        return self._gave_up("its own criterion was met")

    def _ending(self, step: RelaxStep) -> tuple[Status, str] | None:
        """How the run ends at this step, or None."""
        if self._is_converged(step):
            return "converged", ""
        if step.number >= self.settings.steps:
            left = left_over(self.settings, step.max_force, step.max_stress)
            return "not-converged", f"not converged in {step.number} steps: {left}"
        return None

    def _gave_up(self, reason: str) -> tuple[Status, str]:
        return "not-converged", f"{self.settings.optimizer} gave up after {self.steps} steps: {reason}"

    def result(self, status: Status, message: str, seconds: float) -> RelaxResult:
        """Assemble the result from the last good geometry."""
        assert self.initial is not None
        assert self.guard.last_good is not None
        return assemble(
            self.input,
            self.reference,
            self._evaluated(),
            self.initial,
            self.settings,
            status=status,
            message=message,
            steps=self.steps,
            force_calls=self.guard.evaluations,
            wall_time=seconds,
            model=self.model,
            warnings=[*self.warnings, *climb_warnings(self.settings, self.climbs)],
        )

    def _optimizer(self) -> Any:
        """The optimizer on the filter of the cell mode."""
        from ase.optimize import CellAwareBFGS

        factory = get_plugin_manager().find(OptimizerSpec, self.settings.optimizer).load()
        scale = None
        if isinstance(factory, type) and issubclass(factory, CellAwareBFGS):
            if self.settings.cell == "none":
                raise InputError(
                    f"--optimizer {self.settings.optimizer} relaxes the cell", "use --cell full, or --optimizer bfgs"
                )
            scale = 1.0  # it scales the cell itself
        target = CellFilter(self.atoms, self.settings.cell, self.settings.pressure * GPa, scale=scale)
        target.limit_steps = not trusts_positions(factory)
        optimizer = factory(target, logfile=None)
        optimizer.fmax = self.settings.fmax
        return optimizer

    def _fallback(self) -> Any:
        """FIRE from the current geometry; it goes downhill whatever the curvature."""
        from ase.optimize import FIRE

        return FIRE(CellFilter(self.atoms, self.settings.cell, self.settings.pressure * GPa), logfile=None)

    def _report(self) -> RelaxStep:
        """Evaluate the current geometry (cached where the optimizer did) and tell the observer."""
        energy = float(self.atoms.get_potential_energy())
        force = float(np.linalg.norm(self.atoms.get_forces(), axis=1).max())
        stress = None
        if self.settings.cell != "none":
            left = residual_stress(
                self.settings.cell, self.atoms.cell[:], self.atoms.get_stress(), self.settings.pressure * GPa
            )
            stress = float(np.abs(left).max()) / GPa
        step = RelaxStep(self.steps, energy, force, stress, self._evaluated())
        if self.observer is not None:
            self.observer(step)
        return step

    def _is_converged(self, step: RelaxStep) -> bool:
        return step.max_force <= self.settings.fmax and (
            step.max_stress is None or step.max_stress <= self.settings.smax
        )

    def _evaluated(self) -> Atoms:
        """The last good geometry with its results."""
        assert self.guard.last_good is not None
        return self.guard.last_good
