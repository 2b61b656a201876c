"""Molecular dynamics: state in, steps, state out; what happens to rows, frames and checkpoints is the recorder's.

A run ends in one of these ways:

===============  =====================================================================================
``finished``     the steps asked for are done
``interrupted``  someone asked it to stop (Ctrl-C, SIGTERM); the checkpoint is of the last step
``exploded``     energy or temperature not a number, too hot, or atoms too close; the checkpoint and
                 the last good structure stay as they are
``extrapolated`` an atom is further outside the data of the model than allowed; kept as above
===============  =====================================================================================

From Python::

    simulation = Simulation.begin(atoms, GraceCalculator(), MdSettings(ensemble="nvt-csvr", steps=1000))
    samples = []
    outcome = run(simulation, observer=samples.append)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from gracecli.errors import InputError, PhysicsError
from gracecli.plugin.manager import get_plugin_manager
from gracecli.plugin.specs import EnsembleSpec
from gracecli.run.extrapolation import ExtrapolationError
from gracecli.run.md_checkpoint import Checkpoint, constraints_of
from gracecli.run.md_gamma import GammaWatch
from gracecli.run.md_integrators import Integrator
from gracecli.run.md_log import Sample, take_sample
from gracecli.run.md_settings import ALIASES, MdSettings
from gracecli.run.md_start import draw_momenta, largest_allowed_temperature, remove_drift, smallest_allowed_distance
from gracecli.run.md_system import System

Status = Literal["finished", "interrupted", "exploded", "extrapolated"]
CHECKPOINT_SECONDS = 30.0
ADVICE = "check the structure and the model's range, and try a smaller --timestep"


class Recorder(Protocol):
    """Takes rows, frames and checkpoints."""

    def row(self, sample: Sample, system: System) -> None:
        """A row of the log is due."""
        ...

    def frame(self, sample: Sample, system: System) -> None:
        """A frame of the trajectory is due."""
        ...

    @property
    def full(self) -> bool:
        """Whether a checkpoint should come soon, whatever the time."""
        ...

    def checkpoint(self, state: Checkpoint) -> None:
        """A checkpoint is due."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    status : str
        See the module docstring.
    message : str
        Why, empty when finished.
    step : int
        Steps done in all.
    seconds : float
        Wall time of all steps, those before a resume included.
    steps_now : int
        Steps done by this call, in ``seconds_now``.
    """

    status: Status
    message: str
    step: int
    seconds: float
    steps_now: int
    seconds_now: float


class Simulation:
    """A system, its integrator, the random numbers and the step: all that a run goes on from."""

    def __init__(
        self, system: System, integrator: Integrator, settings: MdSettings, rng: np.random.Generator, step: int = 0
    ) -> None:
        self.system = system
        self.integrator = integrator
        self.settings = settings
        self.rng = rng
        self.step = step
        self.seconds = 0.0
        self.calculator: Mapping[str, Any] = {}
        self.origin: Mapping[str, Any] = {}
        self.watch: GammaWatch | None = None
        self.hottest = largest_allowed_temperature(settings, system.temperature())
        self.shortest = smallest_allowed_distance(system.atoms, settings)
        # a GraceCalculator knows its bonds and looks at every step; others are asked when a row is due
        self._calculator_checks = hasattr(system.calculator, "min_distance")
        if self._calculator_checks:
            system.calculator.min_distance = self.shortest

    @classmethod
    def begin(
        cls, atoms: Atoms, calculator: Calculator, settings: MdSettings, keep_velocities: bool = False
    ) -> Simulation:
        """A new run.

        Parameters
        ----------
        atoms : Atoms
            Left untouched.
        calculator : Calculator
            Any of ASE.
        settings : MdSettings
        keep_velocities : bool
            Take the momenta of ``atoms`` (less a net momentum) instead of drawing them.

        Raises
        ------
        InputError
            The structure cannot be run in this way.
        """
        system = System(atoms, calculator)
        rng = np.random.default_rng(settings.seed)
        if keep_velocities:
            if not atoms.has("momenta"):
                raise InputError("the structure has no velocities to keep", "leave --keep-velocities out")
            remove_drift(system)
        else:
            draw_momenta(system, settings.temperature, rng)
        integrator = find_ensemble(settings.ensemble)(system, settings, rng)
        simulation = cls(system, integrator, settings, rng)
        system.evaluate()
        simulation.check()
        return simulation

    @classmethod
    def resume(cls, state: Checkpoint, calculator: Calculator, settings: MdSettings | None = None) -> Simulation:
        """A run as its checkpoint left it, perhaps with more steps to go."""
        settings = settings or state.settings
        system = System(state.atoms, calculator)
        rng = np.random.default_rng()
        integrator: Integrator = find_ensemble(settings.ensemble)(system, settings, rng)
        rng.bit_generator.state = state.rng
        system.restore(dict(state.system))
        integrator.restore(dict(state.integrator))
        simulation = cls(system, integrator, settings, rng, state.step)
        simulation.seconds, simulation.calculator, simulation.origin = state.seconds, state.calculator, state.origin
        simulation.hottest = float(state.origin.get("hottest", simulation.hottest))
        return simulation

    def state(self) -> Checkpoint:
        """All of it."""
        atoms = self.system.atoms.copy()
        atoms.set_constraint(constraints_of(self.system.free))
        return Checkpoint(
            settings=self.settings,
            step=self.step,
            rng=dict(self.rng.bit_generator.state),
            system=self.system.state(),
            integrator=self.integrator.state(),
            atoms=atoms,
            seconds=self.seconds,
            calculator=self.calculator,
            origin={**self.origin, "hottest": self.hottest, **self._watched()},
        )

    def _watched(self) -> dict[str, Any]:
        return {} if self.watch is None else {"gamma": self.watch.state()}

    def advance(self) -> None:
        """One step.

        Raises
        ------
        PhysicsError
            The system exploded.
        """
        if self.settings.ramped:
            self.integrator.set_temperature(self.settings.target_temperature(self.step + 1))
        if self.watch is not None:
            self.watch.arm((self.step + 1) % self.settings.thermo_every == 0)
        try:
            self.integrator.advance(self.system)
        except InputError as error:  # the calculator refuses a geometry met on the way
            raise PhysicsError(f"the run exploded in step {self.step + 1}: {error.message}", ADVICE) from error
        except (np.linalg.LinAlgError, OverflowError) as error:
            raise PhysicsError(f"the run exploded in step {self.step + 1}: {error}", ADVICE) from error
        self.step += 1
        self.check()

    def check(self) -> None:
        """Raise PhysicsError if energy or temperature are out of every credible range."""
        temperature = self.system.temperature()
        if not np.isfinite(self.system.energy) or not np.isfinite(temperature):
            raise PhysicsError(f"the run exploded in step {self.step}: the energy is not a number", ADVICE)
        if temperature > self.hottest:
            raise PhysicsError(
                f"the run exploded in step {self.step}: {temperature:.0f} K (limit {self.hottest:.0f} K)", ADVICE
            )

    def check_distances(self) -> None:
        """Raise PhysicsError if atoms are too close, for calculators that do not look themselves."""
        if self._calculator_checks or self.shortest <= 0.0:
            return
        from ase.neighborlist import neighbor_list

        distances = neighbor_list("d", self.system.atoms, self.shortest)
        if len(distances):
            raise PhysicsError(
                f"the run exploded by step {self.step}: atoms are {distances.min():.3f} Å apart "
                f"(limit {self.shortest:.2f} Å)",
                ADVICE,
            )

    def sample(self) -> Sample:
        """A row of the log."""
        target = self.settings.target_temperature(self.step) if self.settings.thermostatted else float("nan")
        return take_sample(self.system, self.integrator, self.step, self.settings.timestep, target)


def run(
    simulation: Simulation,
    recorder: Recorder | None = None,
    observer: Callable[[Sample], object] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run to the end of ``settings.steps``, or until it ends otherwise.

    Parameters
    ----------
    simulation : Simulation
    recorder : Recorder, optional
    observer : callable, optional
        Called with every row of the log.
    should_stop : callable
        Asked between steps.
    """
    settings = simulation.settings
    started, first_step, before = time.monotonic(), simulation.step, simulation.seconds
    saved = started

    def save() -> None:
        nonlocal saved
        simulation.seconds = before + time.monotonic() - started
        if recorder is not None:
            recorder.checkpoint(simulation.state())
        saved = time.monotonic()

    def outcome(status: Status, message: str = "") -> Outcome:
        now = time.monotonic() - started
        simulation.seconds = before + now
        return Outcome(status, message, simulation.step, before + now, simulation.step - first_step, now)

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # explosions are found by their numbers
        if simulation.step == 0:
            record(simulation, recorder, observer)
            save()
        while simulation.step < settings.steps:
            if should_stop():
                save()
                return outcome("interrupted", f"interrupted after {simulation.step} of {settings.steps} steps")
            try:
                simulation.advance()
                record(simulation, recorder, observer)
            except ExtrapolationError as error:
                return outcome("extrapolated", error.message)
            except PhysicsError as error:
                return outcome("exploded", error.message)
            every = settings.checkpoint_every
            due = simulation.step % every == 0 if every else time.monotonic() - saved > CHECKPOINT_SECONDS
            if due or (recorder is not None and recorder.full):
                save()
        save()
    return outcome("finished")


def record(simulation: Simulation, recorder: Recorder | None, observer: Callable[[Sample], object] | None) -> None:
    """Row and frame of the present step, where they are due."""
    settings = simulation.settings
    row = simulation.step % settings.thermo_every == 0
    frame = settings.trajectory_every > 0 and simulation.step % settings.trajectory_every == 0
    if not (row or frame):
        return
    simulation.check_distances()
    if row and simulation.watch is not None:
        simulation.watch.look(simulation)
    sample = simulation.sample()
    if recorder is not None and row:
        recorder.row(sample, simulation.system)
    if recorder is not None and frame:
        recorder.frame(sample, simulation.system)
    if observer is not None and row:
        observer(sample)


def find_ensemble(name: str) -> Callable[[System, MdSettings, np.random.Generator], Integrator]:
    """The factory of an ensemble.

    Raises
    ------
    UsageError
        No ensemble has this name.
    """
    factory: Callable[[System, MdSettings, np.random.Generator], Integrator]
    factory = get_plugin_manager().find(EnsembleSpec, ALIASES.get(name, name)).load()
    return factory
