"""Relaxation of the cells that an analysis makes of one structure (strained, of other volumes): all must converge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ase import Atoms

from gracecli.errors import GraceError, NotConvergedError, UsageError
from gracecli.run.cell import CellMode
from gracecli.run.relax import relax as relax_one
from gracecli.run.result import RelaxResult, RelaxSettings

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

Progress = Callable[[int, int], None]
REFERENCE_MODES = ("full", "positions", "none")


def check_reference(relax: str) -> None:
    """What of the reference relaxes first; a :class:`UsageError` unless one of :data:`REFERENCE_MODES`."""
    if relax not in REFERENCE_MODES:
        raise UsageError(f"unknown relaxation {relax!r}", f"one of {', '.join(REFERENCE_MODES)}")


def check_limits(fmax: float, smax: float) -> None:
    """Largest forces and stresses of relaxations must be positive."""
    if not (fmax > 0 and smax > 0):
        raise UsageError("fmax and smax must be positive")


def relax_cells(
    cells: Sequence[Atoms],
    calculator: Calculator,
    settings: RelaxSettings,
    what: Callable[[int], str],
    hint: str,
    progress: Progress | None = None,
) -> list[RelaxResult]:
    """Relax all cells, together where the calculator is one of ours.

    Parameters
    ----------
    cells : sequence of Atoms
        Left untouched.
    calculator : ase.calculators.calculator.Calculator
        The engine of a :class:`~gracecli.engine.calculator.GraceCalculator` relaxes all cells as one batch.
    settings : RelaxSettings
    what : callable
        Name of a cell in errors, by its number.
    hint : str
        What to try when one does not converge.
    progress : callable, optional
        Called with cells done and in all.

    Returns
    -------
    list of RelaxResult
        In the order of the cells.

    Raises
    ------
    NotConvergedError
        A cell did not relax.
    GraceError
        A cell cannot be evaluated.
    """
    from gracecli.engine.calculator import GraceCalculator
    from gracecli.run.batch_relax import relax_many

    found: dict[int, RelaxResult] = {}
    if isinstance(calculator, GraceCalculator):
        name = str(getattr(calculator, "model_name", ""))
        outcomes = relax_many(enumerate(cells), calculator.engine, settings, model=name)
    else:
        outcomes = ((number, relax_one(cell, calculator, settings)) for number, cell in enumerate(cells))
    for key, outcome in outcomes:
        assert isinstance(key, int)
        if isinstance(outcome, GraceError):
            raise type(outcome)(f"{what(key)}: {outcome.message}", outcome.hint)
        if not outcome.converged:
            raise NotConvergedError(f"{what(key)} did not relax: {outcome.message}", hint)
        found[key] = outcome
        if progress is not None:
            progress(len(found), len(cells))
    return [found[number] for number in range(len(cells))]


def relaxed_reference(atoms: Atoms, calculator: Calculator, relax: str, fmax: float, smax: float) -> Atoms:
    """The structure without constraints, relaxed in its symmetry: ``full``, ``positions``, or not (``none``).

    Parameters
    ----------
    fmax, smax : float
        eV/Å and GPa.

    Raises
    ------
    NotConvergedError
        It did not relax.
    """
    free = atoms.copy()
    free.set_constraint()
    if relax == "none":
        return free
    cell: CellMode = "full" if relax == "full" else "none"
    settings = RelaxSettings(fmax=fmax, smax=smax, steps=1000, cell=cell, fix_symmetry=True)
    (result,) = relax_cells([free], calculator, settings, lambda number: "the reference", "loosen --fmax or --smax")
    return bare(result)


def bare(result: RelaxResult) -> Atoms:
    """The relaxed geometry without calculator and constraints."""
    atoms = result.atoms.copy()
    atoms.set_constraint()
    return atoms
