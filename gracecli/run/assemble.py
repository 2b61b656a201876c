"""Beginning and end of a relaxation, whoever drives it: what is prepared, what is said, how the result is made."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from gracecli.errors import InputError
from gracecli.run.checks import advice, cell_warnings
from gracecli.run.constraints import exact_constraints, hold_symmetry
from gracecli.run.result import RelaxResult, RelaxSettings, State, Status


def prepared(atoms: Atoms, settings: RelaxSettings, has_stress: bool, model: str) -> Atoms:
    """The copy of ``atoms`` that is moved, its constraints exact.

    Raises
    ------
    InputError
        The structure, or the model (which gives no stress), does not allow these settings.
    """
    periodic = bool(atoms.pbc.all())
    if settings.cell != "none" and not (periodic and atoms.cell.rank == 3):
        raise InputError(
            f"--cell {settings.cell} needs a structure that is periodic in three directions", "use --cell none"
        )
    if settings.cell != "none" and not has_stress:
        raise InputError(f"{model or 'the calculator'} gives no stress to relax the cell with")
    moved = atoms.copy()
    moved.arrays.pop("momenta", None)
    moved.set_constraint(exact_constraints(moved.constraints))
    if settings.fix_symmetry:
        if not periodic:
            raise InputError("--fix-symmetry needs a structure that is periodic in three directions")
        hold_symmetry(moved, settings.symmetry_tolerance)
    return moved


def left_over(settings: RelaxSettings, max_force: float, max_stress: float | None) -> str:
    """Residual force (eV/Å) and stress (GPa) beside their limits."""
    text = f"residual force {max_force:.3g} eV/Å (fmax {settings.fmax:g})"
    if max_stress is not None:
        text += f", residual stress {max_stress:.3g} GPa (smax {settings.smax:g})"
    return text


def climb_warnings(settings: RelaxSettings, climbs: int) -> list[str]:
    """How often the optimizer had to be called back."""
    if not climbs:
        return []
    times = "once" if climbs == 1 else f"{climbs} times"
    return [f"{settings.optimizer} climbed {times}: went back to the lowest point and on with fire for a bit"]


def assemble(
    given: Atoms,
    reference: Atoms,
    evaluated: Atoms,
    initial: State,
    settings: RelaxSettings,
    *,
    status: Status,
    message: str,
    steps: int,
    force_calls: int,
    wall_time: float,
    model: str,
    warnings: list[str],
) -> RelaxResult:
    """The result of a relaxation.

    Parameters
    ----------
    given : Atoms
        The input; its constraints go to the output.
    reference : Atoms
        The start (the input, symmetrised if asked).
    evaluated : Atoms
        The last good geometry with its results and the constraints in force.
    initial : State
    settings : RelaxSettings
    status, message, steps, force_calls, wall_time, model
        See :class:`RelaxResult`.
    warnings : list of str
        What is known before the final checks.
    """
    final = State.of(evaluated, settings)
    after = [*cell_warnings(evaluated, initial, final), *advice(given, final, settings)]
    moved = evaluated.positions - reference.positions
    if reference.cell.rank == 3:
        fraction = evaluated.cell.scaled_positions(evaluated.positions)
        moved = (fraction - reference.cell.scaled_positions(reference.positions)) @ evaluated.cell[:]
    output = evaluated.copy()
    output.set_constraint(given.constraints)
    output.calc = evaluated.calc
    output.calc.atoms = output.copy()
    return RelaxResult(
        atoms=output,
        settings=settings,
        status=status,
        message=message,
        initial=initial,
        final=final,
        max_displacement=float(np.linalg.norm(moved, axis=1).max()),
        steps=steps,
        force_calls=force_calls,
        wall_time=wall_time,
        model=model,
        warnings=(*warnings, *after),
    )
