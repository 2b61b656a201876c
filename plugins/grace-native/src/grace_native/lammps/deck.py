"""A LAMMPS input for a model, and the line that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase.data import atomic_masses, atomic_numbers

from gracecli.errors import InputError


def mass_lines(elements: Sequence[str]) -> list[str]:
    """``mass`` commands of the atom types, one element each."""
    return [f"mass {i} {atomic_masses[atomic_numbers[e]]:.6g}" for i, e in enumerate(elements, 1)]


def input_deck(
    program: str | Path,
    elements: Sequence[str],
    data: str | Path,
    plugin: str | Path | None = None,
    precision: str | None = None,
    temperature: float = 300.0,
    steps: int = 1000,
    timestep: float = 1.0,
) -> str:
    """Text of a LAMMPS input: dynamics at constant temperature (Langevin) of the atoms in a data file.

    Parameters
    ----------
    program : str or Path
        ``NAME.gracelmp`` or a model.
    elements : sequence of str
        Symbol of every atom type, in the order of types.
    data : str or Path
        LAMMPS data file (``ase.io.write(..., format="lammps-data", masses=False)``).
    plugin : str or Path, optional
        ``graceplugin.so``; not needed under the ``lmp`` of the wheel once :func:`build` has run.
    precision : str, optional
        ``fp64`` or ``fp32``; default what the program was written for.
    temperature : float
        K; 0 runs at constant energy.
    steps : int
    timestep : float
        fs.

    Returns
    -------
    str

    Raises
    ------
    InputError
        A symbol that is no element.
    """
    unknown = [e for e in elements if e not in atomic_numbers]
    if unknown or not elements:
        raise InputError(f"no such element: {', '.join(unknown)}" if unknown else "no element is named")
    names = " ".join(elements)
    masses = "\n".join(f"{line}  # {e}" for line, e in zip(mass_lines(elements), elements, strict=True))
    load = f"plugin load {plugin}\n" if plugin is not None else ""
    thermostat = ""
    if temperature > 0:
        thermostat = (
            f"velocity all create {temperature:g} 4711 mom yes rot yes dist gaussian\n"
            f"fix heat all langevin {temperature:g} {temperature:g} 0.1 4711 zero yes\n"
        )
    return f"""\
# GRACE potential in LAMMPS: energies eV, lengths A, times ps, pressures bar
units metal
atom_style atomic
boundary p p p
newton on
{load}read_data {data}
{masses}
pair_style grace{f" {precision}" if precision else ""}
pair_coeff * * {program} {names}
neighbor 1.0 bin
neigh_modify every 1 delay 0 check yes
timestep {timestep / 1000:g}
{thermostat}fix move all nve
thermo_style custom step temp pe ke etotal press
thermo {max(1, steps // 10)}
run {steps}
"""


def run_line(deck: str | Path = "in.grace", ranks: int = 1) -> str:
    """Shell line that runs an input on so many MPI ranks."""
    return f"mpirun -n {ranks} lmp -in {deck}" if ranks > 1 else f"lmp -in {deck}"
