"""Relaxation of many structures at once: the same minima, criteria and results as :func:`gracecli.run.relax.relax`.

Structures in work take their steps together: one pass computes the bonds of all, one engine call evaluates all, one
set of array operations proposes all steps. A structure that is done makes room for the next one; one that fails or
explodes leaves with its own status. Quasi-Newton runs that climb go back to their lowest point and on with FIRE for a
while, as they do alone. What the batch cannot do (other optimizers, ``fix_symmetry``, exotic constraints) is relaxed
alone, in its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from gracecli.engine.base import Engine, Graph, Results
from gracecli.engine.calculator import DEFAULT_SKIN, GraceCalculator
from gracecli.engine.check import MIN_DISTANCE, check_contents, check_distances
from gracecli.errors import GraceError, InputError, MemoryLimitError
from gracecli.registry.covering import suggest_models
from gracecli.run.assemble import assemble, climb_warnings, left_over, prepared
from gracecli.run.batch_evaluate import Budget, evaluate_all
from gracecli.run.batch_graphs import JoinedLists
from gracecli.run.batch_segments import Array
from gracecli.run.batch_state import Batch, Evaluated, Member, can_batch
from gracecli.run.batch_steps import Fire, Lbfgs
from gracecli.run.checks import input_warnings
from gracecli.run.guard import Start, exploded, not_a_number, why_exploded
from gracecli.run.optimizers import CLIMB
from gracecli.run.relax import RelaxStep, relax
from gracecli.run.result import RelaxResult, RelaxSettings, State, Status

Outcome = RelaxResult | GraceError
Ending = tuple[Status, str] | GraceError
Watcher = Callable[[Hashable, RelaxStep], None]


def relax_many(
    structures: Iterable[tuple[Hashable, Atoms]],
    engine: Engine,
    settings: RelaxSettings | None = None,
    *,
    model: str = "",
    budget: Budget | None = None,
    observer: Watcher | None = None,
) -> Iterator[tuple[Hashable, Outcome]]:
    """Relax many structures, results as they come.

    Parameters
    ----------
    structures : iterable of (key, Atoms)
        Read as there is room; left untouched.
    engine : Engine
    settings : RelaxSettings, optional
    model : str
        What results call the model; default is the engine's name.
    budget : Budget, optional
        How much is in work at once; default by the memory of the machine.
    observer : callable, optional
        Called with the key and a :class:`gracecli.run.relax.RelaxStep` for every step of every structure.

    Yields
    ------
    (key, RelaxResult or GraceError)
        In the order in which they finish. ``wall_time`` of a result is its share, by atoms, of the time of the batch.
        After Ctrl-C those in work come with status ``interrupted``, then KeyboardInterrupt is raised.
    """
    run = _Run(engine, settings or RelaxSettings(), model or engine.name, budget or Budget.of_machine(), observer)
    return run.execute(iter(structures))


class _Run:
    """One batch in progress."""

    def __init__(
        self, engine: Engine, settings: RelaxSettings, model: str, budget: Budget, observer: Watcher | None
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.model = model
        self.budget = budget
        self.observer = observer
        self.batch = Batch(settings)
        self.lists = JoinedLists(engine, DEFAULT_SKIN)
        self.lbfgs, self.fire = Lbfgs(), Fire()
        self.calculator: GraceCalculator | None = None
        self.bonds_per_atom = 60.0  # until measured
        self.waiting: tuple[Hashable, Atoms] | None = None

    def execute(self, structures: Iterator[tuple[Hashable, Atoms]]) -> Iterator[tuple[Hashable, Outcome]]:
        """Run until nothing is left."""
        try:
            self.waiting = next(structures, None)
            while self.waiting is not None or len(self.batch):
                started = time.perf_counter()
                yield from self._fill(structures)
                if len(self.batch):
                    yield from self._advance(started)
        except KeyboardInterrupt:
            for member in self.batch.members:
                if member.initial is not None:
                    yield member.key, self._result(member, "interrupted", f"interrupted after {member.steps} steps")
            raise

    # --- coming and going --------------------------------------------------------------------------------------------

    def _fill(self, structures: Iterator[tuple[Hashable, Atoms]]) -> Iterator[tuple[Hashable, Outcome]]:
        """Take in new structures while there is room."""
        new: list[Member] = []
        count, atoms = len(self.batch), self.batch.atoms.total
        while self.waiting is not None:
            key, given = self.waiting
            count, atoms = count + 1, atoms + len(given)
            if not self.budget.allows(count, atoms, int(self.bonds_per_atom * atoms)):
                break
            try:
                if can_batch(given, self.settings):
                    new.append(self._member(key, given))
                else:
                    count, atoms = count - 1, atoms - len(given)
                    yield key, self._alone(key, given)
            except GraceError as error:
                count, atoms = count - 1, atoms - len(given)
                yield key, error
            self.waiting = next(structures, None)
        self.batch.add(new)
        rows = sum(len(member.atoms) + self.batch.cell_rows for member in new)
        self.lbfgs.add(len(new), rows)
        self.fire.add(len(new), rows)
        self.lists.add(len(new))

    def _member(self, key: Hashable, given: Atoms) -> Member:
        """A structure that the engine can evaluate."""
        atoms = prepared(given, self.settings, has_stress=True, model=self.model)
        check_contents(atoms, self.engine.elements, models_covering=suggest_models)
        return Member(key, given, atoms, self.model, input_warnings(given, self.settings))

    def _alone(self, key: Hashable, given: Atoms) -> RelaxResult:
        """Relax what the batch cannot."""
        if self.calculator is None:
            self.calculator = GraceCalculator(engine=self.engine)
            self.calculator.model_name = self.model
        observer = self.observer
        return relax(
            given,
            self.calculator,
            self.settings,
            None if observer is None else lambda step: observer(key, step),
        )

    def _drop(self, leaving: Collection[int]) -> None:
        """Take structures out of the batch."""
        if not leaving:
            return
        structures = np.array([i for i in range(len(self.batch)) if i not in leaving], dtype=np.int64)
        rows = self.batch.keep(structures)
        self.lbfgs.keep(structures, rows)
        self.fire.keep(structures, rows)
        self.lists.keep(structures)

    # --- one step of all ---------------------------------------------------------------------------------------------

    def _advance(self, started: float) -> Iterator[tuple[Hashable, Outcome]]:
        """Evaluate all structures, let go those that are done, move the others."""
        batch = self.batch
        endings = self._unfit()
        if endings:
            yield from self._end(endings)
            if not len(batch):
                return
        positions, cells, volumes = batch.geometry()
        graphs = self.lists.graphs(positions, cells, volumes, batch.atoms)
        self.bonds_per_atom = sum(len(graph.centre) for graph in graphs) / batch.atoms.total
        results = self._evaluate(graphs)
        endings = self._accept(results, positions, cells, volumes)
        forces, stress, energies = _stacked(results, batch.atoms.counts.tolist())
        max_force, max_stress = batch.residuals(forces, stress, cells)
        for i, member in enumerate(batch.members):
            if i not in endings:
                left = None if max_stress is None else float(max_stress[i])
                ending = self._report(member, float(max_force[i]), left)
                if ending is not None:
                    endings[i] = ending
        alive = np.array([i not in endings for i in range(len(batch))])
        share = (time.perf_counter() - started) / batch.atoms.total
        for member in batch.members:
            member.seconds += share * len(member.atoms)
        if alive.any():
            # what ends has no next step; its rows are left out of the arithmetic by vanishing forces
            pull = batch.generalised(forces, stress, cells, volumes)
            pull[~batch.rows.spread(alive)] = 0.0
            self._move(pull, batch.enthalpies(energies, volumes), alive)
        yield from self._end(endings)

    def _unfit(self) -> dict[int, Ending]:
        """Structures that can no longer be evaluated."""
        batch = self.batch
        positions, cells, volumes = batch.geometry()
        endings: dict[int, Ending] = {}
        sound = np.isfinite(positions).all() and np.isfinite(cells).all() and float(np.abs(positions).max()) < 1e5
        dense = np.nan_to_num(volumes, nan=np.inf) / batch.atoms.counts < MIN_DISTANCE**3
        if not sound or dense.any():
            for i, (member, part) in enumerate(zip(batch.members, batch.atoms.slices(), strict=True)):
                moved = member.atoms.copy()
                moved.set_constraint()
                moved.positions, moved.cell = positions[part], cells[i]
                try:
                    check_contents(moved)
                except InputError as error:
                    endings[i] = error
        if not endings:
            failed = self.lists.refresh([member.atoms for member in batch.members], positions, cells, batch.atoms)
            endings.update(failed)
        return endings

    def _evaluate(self, graphs: list[Graph]) -> list[Results | GraceError]:
        """Results or errors; structures with atoms on top of each other are not evaluated."""
        found: list[Results | GraceError | None] = []
        for member, graph in zip(self.batch.members, graphs, strict=True):
            try:
                check_distances(member.atoms, graph)
                found.append(None)
            except InputError as error:
                found.append(error)
        good = [graph for graph, error in zip(graphs, found, strict=True) if error is None]
        results = iter(evaluate_all(self.engine, good, self.budget))
        return [next(results) if error is None else error for error in found]

    def _accept(
        self, results: list[Results | GraceError], positions: Array, cells: Array, volumes: Array
    ) -> dict[int, Ending]:
        """Note the geometries that were evaluated well; how the others end."""
        endings: dict[int, Ending] = {}
        parts = self.batch.atoms.slices()
        for i, (member, result, part) in enumerate(zip(self.batch.members, results, parts, strict=True)):
            if isinstance(result, GraceError):
                endings[i] = result
                continue
            member.evaluations += 1
            volume = float(volumes[i])
            error = _credible(member, result, volume)
            if error is not None:
                endings[i] = error
                continue
            stress = None if np.isnan(volume) else np.asarray(result.stress)
            member.good = Evaluated(
                positions[part], cells[i], float(result.energy), result.energies, result.forces, stress
            )
            if member.initial is None:
                member.initial = State.of(_atoms(member), self.settings)
        return endings

    def _report(self, member: Member, force: float, stress: float | None) -> Ending | None:
        """Tell the observer; how the structure ends here, or None."""
        settings = self.settings
        if self.observer is not None:
            assert member.good is not None
            step = RelaxStep(member.steps, member.good.energy, force, stress, _atoms(member))
            self.observer(member.key, step)
        if force <= settings.fmax and (stress is None or stress <= settings.smax):
            return "converged", ""
        if member.steps >= settings.steps:
            return (
                "not-converged",
                f"not converged in {member.steps} steps: {left_over(settings, force, stress)}",
            )
        return None

    def _move(self, pull: Array, values: Array, alive: NDArray[np.bool_]) -> None:
        """One step of every structure."""
        batch, each, rows = self.batch, self.batch.each, self.batch.rows
        quasi_newton = self.settings.optimizer == "lbfgs"
        if quasi_newton:
            watched = alive & (each.detour_left == 0)
            lower = watched & (values < each.lowest)
            each.lowest = np.where(lower, values, each.lowest)
            at_lowest = rows.spread(lower)[:, None]
            batch.lowest_coordinates = np.where(at_lowest, batch.coordinates, batch.lowest_coordinates)
            batch.lowest_forces = np.where(at_lowest, pull, batch.lowest_forces)
            lost = watched & (values - each.lowest >= CLIMB)
            if lost.any():
                pull = self._back(lost, pull)
            step = self.lbfgs.step(batch.coordinates, pull, rows)
        on_detour = each.detour_left > 0 if quasi_newton else np.ones(len(batch), dtype=bool)
        if on_detour.any():
            detour = self.fire.step(pull, rows, on_detour & alive)
            step = np.where(rows.spread(on_detour)[:, None], detour, step) if quasi_newton else detour
        batch.move(np.where(rows.spread(alive)[:, None], step, 0.0))
        for i, member in enumerate(batch.members):
            member.steps += int(alive[i])
        if quasi_newton and on_detour.any():
            each.detour_left = np.maximum(each.detour_left - 1, 0)
            ended = on_detour & (each.detour_left == 0)
            each.lowest = np.where(ended, np.inf, each.lowest)
            self.lbfgs.forget(ended)

    def _back(self, lost: NDArray[np.bool_], pull: Array) -> Array:
        """Return structures that climbed to their lowest point; the forces there for them."""
        batch, each, rows = self.batch, self.batch.each, self.batch.rows
        gone = rows.spread(lost)[:, None]
        batch.coordinates = np.where(gone, batch.lowest_coordinates, batch.coordinates)
        each.detour_left = np.where(lost, each.detour, each.detour_left)
        each.detour = np.where(lost, 2 * each.detour, each.detour)
        self.lbfgs.forget(lost)
        self.fire.forget(lost, rows)
        for i in np.flatnonzero(lost):
            batch.members[i].climbs += 1
        return np.where(gone, batch.lowest_forces, pull)

    # --- results -----------------------------------------------------------------------------------------------------

    def _end(self, endings: dict[int, Ending]) -> Iterator[tuple[Hashable, Outcome]]:
        """Results of structures that leave the batch."""
        leaving = {i: self.batch.members[i] for i in endings}
        self._drop(set(endings))
        for i, member in leaving.items():
            ending = endings[i]
            if not isinstance(ending, GraceError):
                yield member.key, self._result(member, *ending)
            elif member.initial is None or isinstance(ending, MemoryLimitError):
                yield member.key, ending
            else:
                yield member.key, self._result(member, "exploded", ending.message)

    def _result(self, member: Member, status: Status, message: str) -> RelaxResult:
        assert member.initial is not None
        return assemble(
            member.given,
            member.atoms,
            _atoms(member),
            member.initial,
            self.settings,
            status=status,
            message=message,
            steps=member.steps,
            force_calls=member.evaluations,
            wall_time=member.seconds,
            model=self.model,
            warnings=[*member.warnings, *climb_warnings(self.settings, member.climbs)],
        )


def _credible(member: Member, result: Results, volume: float) -> GraceError | None:
    """What is wrong with a result, or None; the first result becomes the reference."""
    periodic = bool(member.atoms.pbc.all())
    total = float(result.energy)
    if not np.isfinite(total):
        return not_a_number("energy", member.evaluations)
    force = float(np.sqrt(np.einsum("nx,nx->n", result.forces, result.forces).max()))
    if not np.isfinite(force):
        return not_a_number("forces", member.evaluations)
    if periodic and not np.isfinite(result.stress).all():
        return not_a_number("stress", member.evaluations)
    energy, volume = total / len(member.atoms), volume if periodic else 0.0
    if member.start is None:
        member.start = Start(energy, force, volume)
        return None
    reason = why_exploded(member.start, energy, force, volume)
    return None if reason is None else exploded(reason, member.evaluations)


def _stacked(results: list[Results | GraceError], counts: list[int]) -> tuple[Array, Array, Array]:
    """Forces (N, 3), stresses (S, 6) and energies (S,); zero where there is none."""
    forces, stress, energies = [], [], []
    for result, count in zip(results, counts, strict=True):
        forces.append(np.zeros((count, 3)) if isinstance(result, GraceError) else result.forces)
        stress.append(np.zeros(6) if isinstance(result, GraceError) else result.stress)
        energies.append(0.0 if isinstance(result, GraceError) else float(result.energy))
    joined = np.concatenate(forces), np.nan_to_num(np.stack(stress)), np.array(energies)
    return np.nan_to_num(joined[0]), joined[1], np.nan_to_num(joined[2])


def _atoms(member: Member) -> Atoms:
    """The last good geometry with its results and constraints."""
    good = member.good
    assert good is not None
    atoms = member.atoms.copy()
    atoms.set_constraint()
    atoms.positions, atoms.cell = good.positions, good.cell
    atoms.set_constraint(member.atoms.constraints)
    results: dict[str, Any] = {"energy": good.energy, "free_energy": good.energy, "energies": good.energies}
    results["forces"] = good.forces
    if good.stress is not None:
        results["stress"] = good.stress
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
