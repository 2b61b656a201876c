"""Checks of structures before and after a relaxation: what cannot work, and what deserves a warning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.units import GPa

from gracecli.errors import InputError
from gracecli.run.constraints import fixed_atoms

if TYPE_CHECKING:
    from gracecli.run.result import RelaxSettings, State

#: Atoms closer than this fraction of the sum of their covalent radii are on top of each other. Bonds are near 1; even
#: at hundreds of GPa no two nuclei come below 0.6.
OVERLAP = 0.4
#: An empty slice thicker than this (Å) is vacuum: more than twice the largest interlayer spacing of a crystal.
VACUUM = 8.0
#: Stress (GPa) left in a fixed cell that is worth a hint.
LARGE_STRESS = 0.5


def check_structure(atoms: Atoms, name: str) -> None:
    """Raise InputError for a structure that no model can evaluate.

    Parameters
    ----------
    atoms : Atoms
    name : str
        How messages call it.
    """
    if len(atoms) == 0:
        raise InputError(f"{name}: no atoms")
    if not np.isfinite(atoms.positions).all():
        index = int(np.argmin(np.isfinite(atoms.positions).all(axis=1)))
        raise InputError(f"{name}: the position of atom {index + 1} is not a number")
    if not np.isfinite(atoms.cell[:]).all():
        raise InputError(f"{name}: the cell is not a number")
    if (atoms.numbers == 0).any():
        index = int(np.argmin(atoms.numbers != 0))
        raise InputError(f"{name}: atom {index + 1} has no known element")
    _check_cell(atoms, name)
    _check_occupancy(atoms, name)
    _check_overlap(atoms, name)


def _check_cell(atoms: Atoms, name: str) -> None:
    if not atoms.pbc.any():
        return
    lengths = atoms.cell.lengths()
    if (lengths[atoms.pbc] < 1e-3).any():
        raise InputError(f"{name}: periodic, but a lattice vector is zero")
    shape = abs(np.linalg.det(atoms.cell.complete()[:] / np.linalg.norm(atoms.cell.complete()[:], axis=1)[:, None]))
    if shape < 1e-4:
        raise InputError(f"{name}: the lattice vectors lie in one plane")


def _check_occupancy(atoms: Atoms, name: str) -> None:
    """CIF files with mixed sites: ASE would silently take the majority species."""
    occupancy = atoms.info.get("occupancy")
    if not isinstance(occupancy, dict):
        return
    for site in occupancy.values():
        if isinstance(site, dict) and (len(site) > 1 or any(abs(float(value) - 1.0) > 1e-3 for value in site.values())):
            species = ", ".join(f"{symbol} {float(value):g}" for symbol, value in site.items())
            raise InputError(f"{name}: a site is partially occupied ({species})", "give an ordered cell")


def _check_overlap(atoms: Atoms, name: str) -> None:
    found = closest_pair(atoms, OVERLAP)
    if found is not None:
        first, second, distance = found
        one, two = chemical_symbols[atoms.numbers[first]], chemical_symbols[atoms.numbers[second]]
        raise InputError(
            f"{name}: atoms {first + 1} ({one}) and {second + 1} ({two}) are on top of each other, "
            f"{distance:.3f} Å apart"
        )


def closest_pair(atoms: Atoms, fraction: float) -> tuple[int, int, float] | None:
    """The closest pair below ``fraction`` of the sum of covalent radii: indices and distance in Å."""
    from ase.neighborlist import neighbor_list

    radii = fraction * covalent_radii[atoms.numbers]
    first, second, distance = neighbor_list("ijd", atoms, radii)
    if len(distance) == 0:
        return None
    worst = int(np.argmin(distance))
    pair = sorted((int(first[worst]), int(second[worst])))
    return pair[0], pair[1], float(distance[worst])


def vacuum_gaps(atoms: Atoms) -> list[tuple[str, float]]:
    """Empty slices thicker than :data:`VACUUM` along periodic lattice directions: (direction, thickness in Å)."""
    if atoms.cell.rank < 3 or len(atoms) == 0:
        return []
    heights = 1.0 / np.linalg.norm(atoms.cell.reciprocal()[:], axis=1)
    fractions = np.sort(atoms.get_scaled_positions(wrap=True), axis=0)
    gaps = np.diff(np.vstack([fractions, fractions[:1] + 1.0]), axis=0).max(axis=0) * heights
    return [("abc"[i], float(gaps[i])) for i in range(3) if atoms.pbc[i] and gaps[i] > VACUUM]


def input_warnings(atoms: Atoms, settings: RelaxSettings) -> list[str]:
    """What is odd about the input."""
    found = []
    if atoms.cell.rank == 3 and atoms.cell.handedness == -1:
        found.append("the lattice vectors form a left-handed set; kept as they are")
    if settings.cell != "none":
        for direction, gap in vacuum_gaps(atoms):
            found.append(f"{gap:.1f} Å of vacuum along {direction}: --cell {settings.cell} will change it")
    if fixed_atoms(atoms).all():
        found.append("all atoms are fixed")
    return found


def cell_warnings(atoms: Atoms, initial: State, final: State) -> list[str]:
    """What happened on the way that the user should know."""
    found = []
    if final.space_group.operations < initial.space_group.operations:
        found.append(
            f"the symmetry is lower than before: {initial.space_group} -> {final.space_group} "
            "(--fix-symmetry would hold it)"
        )
    if initial.volume and final.volume and abs(final.volume / initial.volume - 1.0) > 0.2:
        found.append(f"the volume changed by {100 * (final.volume / initial.volume - 1):+.0f} %")
    pair = closest_pair(atoms, 0.6)
    if pair is not None:
        found.append(f"atoms {pair[0] + 1} and {pair[1] + 1} are only {pair[2]:.2f} Å apart")
    return found


def advice(atoms: Atoms, final: State, settings: RelaxSettings) -> list[str]:
    """A hint where a fixed cell holds a stress back."""
    if settings.cell != "none" or final.stress is None or vacuum_gaps(atoms):
        return []
    largest = float(np.abs(final.stress).max()) / GPa
    return [f"a stress of {largest:.2f} GPa remains: --cell full relaxes it"] if largest > LARGE_STRESS else []
