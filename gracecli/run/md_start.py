r"""How a run begins: supercell, velocities, what is asked of the input.

Momenta are drawn from the Maxwell-Boltzmann distribution, freed of the conserved ones, and scaled to the temperature::

    p_i = sqrt(m_i kB T) xi            p_i <- p_i - m_i sum_j p_j / sum_j m_j
    L = sum_i r_i x p_i  (about the centre of mass, molecules only)     p_i <- p_i - m_i (I^-1 L) x r_i
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.units import kB

from gracecli.errors import InputError
from gracecli.run.checks import OVERLAP
from gracecli.run.md_settings import MdSettings
from gracecli.run.md_system import Array, System, inertia

SMALLEST_DISTANCE = 0.3
"""Å; half of the shortest bond there is would already be an explosion (H2, 0.74 Å)."""
HYDROGEN_LIMIT = 1.0
"""fs; above it the stretch of a bond to hydrogen (9 fs) is sampled by fewer than nine points."""


def supercell(atoms: Atoms, repeats: tuple[int, int, int]) -> Atoms:
    """``atoms`` repeated along the cell vectors, constraints and momenta with them.

    Raises
    ------
    InputError
        A repetition along a direction that is not periodic.
    """
    for axis, (count, periodic) in enumerate(zip(repeats, atoms.pbc, strict=True)):
        if count > 1 and not periodic:
            raise InputError(f"the structure is not periodic along {'abc'[axis]}, it cannot be repeated there")
    return atoms.repeat(repeats) if repeats != (1, 1, 1) else atoms.copy()


def draw_momenta(system: System, temperature: float, rng: np.random.Generator) -> None:
    """Maxwell-Boltzmann momenta of exactly ``temperature`` (K), without net momentum (and rotation of a molecule)."""
    width = np.sqrt(kB * temperature * system.masses)
    system.momenta = width * rng.standard_normal(system.positions.shape) * system.free
    remove_drift(system)
    if system.freedom < 1 or temperature <= 0.0:
        system.momenta = np.zeros_like(system.momenta)
        return
    system.momenta *= np.sqrt(temperature / system.temperature())


def remove_drift(system: System) -> float:
    """Take out net momentum, and the rotation of a molecule; returns what temperature that was, in K."""
    if not system.all_free:
        return 0.0
    before = system.twice_kinetic()
    system.momenta -= system.masses * (system.momenta.sum(axis=0) / system.masses.sum())
    if not system.atoms.pbc.any() and len(system.masses) > 1:
        arm = system.positions - (system.masses * system.positions).sum(axis=0) / system.masses.sum()
        angular = np.cross(arm, system.momenta).sum(axis=0)
        turning: Array = np.linalg.pinv(inertia(system), rcond=1e-8) @ angular
        system.momenta -= system.masses * np.cross(turning, arm)
    return abs(before - system.twice_kinetic()) / (3.0 * kB)


def start_warnings(atoms: Atoms, settings: MdSettings) -> list[str]:
    """What deserves a second look before hours are spent."""
    found = []
    if (atoms.numbers == 1).any() and settings.timestep > HYDROGEN_LIMIT:
        found.append(
            f"a timestep of {settings.timestep:g} fs is long for hydrogen: 0.5 fs follows its stretches, "
            "1 fs is the most"
        )
    elif settings.timestep > 5.0:
        found.append(f"a timestep of {settings.timestep:g} fs is longer than atoms of any element can bear for long")
    if settings.ensemble == "npt-berendsen":
        found.append("npt-berendsen equilibrates but samples no ensemble: take averages under npt-mtk")
    if settings.thermostatted and settings.ensemble != "nvt-langevin" and settings.thermostat_time < 20.0:
        found.append(f"a thermostat time of {settings.thermostat_time:g} fs disturbs the dynamics; 100 fs is usual")
    heights = 1.0 / np.linalg.norm(np.linalg.pinv(atoms.cell.array), axis=0) if atoms.cell.rank == 3 else np.zeros(3)
    short = [f"{'abc'[axis]} ({heights[axis]:.1f} Å)" for axis in range(3) if atoms.pbc[axis] and heights[axis] < 7.5]
    if short:
        found.append(f"the cell is short along {', '.join(short)}: atoms feel their own images; see --supercell")
    return found


def smallest_allowed_distance(atoms: Atoms, settings: MdSettings) -> float:
    """Å; closer atoms mean that the run blew up: 0.4 of the smallest sum of covalent radii, unless set."""
    if settings.min_distance is not None:
        return settings.min_distance
    radius = min(float(covalent_radii[number]) for number in set(atoms.numbers.tolist()))
    return max(SMALLEST_DISTANCE, OVERLAP * 2.0 * radius)


def largest_allowed_temperature(settings: MdSettings, start: float) -> float:
    """K; hotter means that the run blew up."""
    if settings.max_temperature is not None:
        return settings.max_temperature
    return 10.0 * max(settings.temperature, settings.temperature_end, start) + 2000.0


def symbols_of(atoms: Atoms) -> list[str]:
    """Distinct elements in order of their number."""
    return [chemical_symbols[number] for number in sorted(set(atoms.numbers.tolist()))]
