"""Following imaginary modes to a stable structure: displace along the worst one, relax freely, start again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from gracecli.run.phonon_stability import displaced_along, modes_at, primitive_cell
from gracecli.run.phonons import PhononResult, PhononSettings, Progress, phonons
from gracecli.run.symmetry import space_group

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from gracecli.run.relax import Observer

AMPLITUDES = (0.1, 0.3)
"""Å; the larger one where the smaller relaxes back."""


def follow(
    atoms: Atoms,
    calculator: Calculator,
    settings: PhononSettings,
    attempts: int = 3,
    observer: Observer | None = None,
    progress: Progress | None = None,
) -> PhononResult:
    """Phonons of ``atoms``, or of the structure that its unstable modes lead to.

    Parameters
    ----------
    atoms, calculator, settings, observer, progress
        As in :func:`gracecli.run.phonons.phonons`.
    attempts : int
        Most modes followed.

    Returns
    -------
    PhononResult
        Of the last structure; ``followed`` lists the way: wave vector, frequency (THz), energy gained (eV/atom), space
        groups.
    """
    result = phonons(atoms, calculator, settings, observer, progress)
    way: list[dict[str, Any]] = []
    for _ in range(attempts):
        if result.stability.verdict != "unstable":
            break
        step, lower = _one_step(result, calculator, settings)
        way.append(step)
        if lower is None:
            result.warnings.append("the worst mode leads back: the energy along it is flat, or rises within 0.3 Å")
            break
        result = phonons(lower, calculator, replace(settings, supercell=None), observer, progress)
    result.followed = way
    return result


def _one_step(
    result: PhononResult, calculator: Calculator, settings: PhononSettings
) -> tuple[dict[str, Any], Atoms | None]:
    """Displace, relax without symmetry, compare: the record, and the lower structure if there is one."""
    from gracecli.run.relax import relax
    from gracecli.run.result import RelaxSettings

    q = result.stability.commensurate_q
    branch = int(np.argmin(modes_at(result.phonon, q)[0][0]))
    before = result.atoms.copy()
    before.calc = calculator
    energy = before.get_potential_energy() / len(before)
    record: dict[str, Any] = {
        "q": list(q),
        "frequency": result.stability.lowest_commensurate,
        "space_group_before": str(space_group(result.atoms)),
        "energy_change": 0.0,
    }
    wanted = RelaxSettings(
        fmax=max(settings.fmax, 1e-3), smax=max(settings.smax, 0.01), steps=1000,
        cell="full" if settings.relax == "full" else "none",
    )  # fmt: skip
    for amplitude in AMPLITUDES:
        relaxed = relax(displaced_along(result.phonon, q, branch, amplitude), calculator, wanted)
        change = relaxed.final.energy_per_atom - energy
        if change < -1e-5:
            lower = primitive_cell(relaxed.atoms, symprec=0.01)
            record.update(energy_change=float(change), amplitude=amplitude, space_group=str(space_group(lower)))
            return record, lower
    return record, None
