r"""Quasi-harmonic approximation: phonons at several volumes, the free energy minimised over the volume.

.. math:: F(V, T) = E(V) + F_\mathrm{vib}(V, T),\quad V(T) = \arg\min_V [F + pV],\quad
          \alpha_V = \frac{1}{V}\frac{dV}{dT},\quad B(T) = V\,\partial^2 F/\partial V^2 .

The shape of the cell and the atoms relax at every volume; the fit (Vinet) and its derivatives are phonopy's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.units import GPa
from numpy.typing import NDArray

from gracecli.errors import NotConvergedError, PhysicsError
from gracecli.run.phonon_cells import from_phonopy
from gracecli.run.phonon_stability import unstable
from gracecli.run.phonons import PhononSettings, Progress, evaluate_forces, prepare, solve

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
    from phonopy import Phonopy

Array = NDArray[np.float64]

STRAINS = (-0.03, -0.02, -0.01, 0.0, 0.01, 0.02, 0.03, 0.04, 0.05)
"""Relative volume changes; more on the side to which crystals expand."""


@dataclass(frozen=True)
class QuasiHarmonic:
    """What a quasi-harmonic run gives; volumes and energies per atom.

    Attributes
    ----------
    temperatures : (n,) float64
        K; ends where the crystal would be larger than the largest cell computed.
    volume : (n,) float64
        Equilibrium volume, Å^3/atom.
    thermal_expansion : (n,) float64
        Volumetric, 1/K.
    bulk_modulus : (n,) float64
        GPa.
    heat_capacity_p : (n,) float64
        At constant pressure, J/K/mol (of atoms).
    gruneisen : (n,) float64
    volumes, energies : (m,) float64
        The static curve: Å^3/atom, eV/atom.
    left_out : tuple of float
        Relative volume changes with unstable modes, which were not used.
    """

    temperatures: Array
    volume: Array
    thermal_expansion: Array
    bulk_modulus: Array
    heat_capacity_p: Array
    gruneisen: Array
    volumes: Array
    energies: Array
    left_out: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(self).items()}


def quasiharmonic(
    reference: Atoms,
    calculator: Calculator,
    settings: PhononSettings,
    strains: Sequence[float] = STRAINS,
    progress: Progress | None = None,
) -> QuasiHarmonic:
    """Run it around a relaxed reference.

    Raises
    ------
    NotConvergedError
        A cell of another volume could not be relaxed.
    PhysicsError
        Fewer than five volumes are dynamically stable.
    """
    from phonopy.qha.qha import run_qha

    made = [_at_volume(reference, calculator, settings, strain) for strain in strains]
    prepared = [prepare(atoms, settings) for atoms, _ in made]
    cells = [[from_phonopy(c) for c in [p.supercell, *(p.supercells_with_displacements or [])]] for p in prepared]
    forces = evaluate_forces([cell for group in cells for cell in group], calculator, progress)
    phonons: list[Phonopy] = []
    energies: list[float] = []
    left_out: list[float] = []
    start = 0
    for strain, phonon, group, (atoms, energy) in zip(strains, prepared, cells, made, strict=True):
        solve(phonon, forces[start : start + len(group)])
        start += len(group)
        if unstable(phonon):
            left_out.append(strain)
            continue
        phonons.append(phonon)
        energies.append(energy / len(atoms) * len(phonon.primitive))
    if len(phonons) < 5:
        raise PhysicsError(
            f"only {len(phonons)} of {len(strains)} volumes have no imaginary modes, five are needed",
            "look at the phonons of the reference first",
        )
    temperatures = np.arange(0.0, settings.t_max + 2 * settings.t_step, settings.t_step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of extrapolated volumes, which are cut off below
        result = run_qha(
            phonons, temperatures, internal_energies=energies, mesh=settings.mesh, exclude_gamma_acoustic=True
        )
    volume = np.asarray(result.equilibrium_volumes)
    inside = int(np.argmin(np.append(volume <= np.max(result.volumes), False)))
    if inside < 2:
        raise PhysicsError("the volume at 0 K is outside the computed range", "relax the structure first")
    count = len(phonons[0].primitive)
    per_mole = 96485.33212  # J/mol of 1 eV
    return QuasiHarmonic(
        temperatures=np.asarray(result.temperatures)[:inside],
        volume=volume[:inside] / count,
        thermal_expansion=np.asarray(result.thermal_expansion)[:inside],
        bulk_modulus=np.asarray(result.bulk_moduli)[:inside] / GPa,
        heat_capacity_p=np.asarray(result.heat_capacity_P.heat_capacities)[:inside] * per_mole / count,
        gruneisen=np.asarray(result.gruneisen_parameters)[:inside],
        volumes=np.asarray(result.volumes) / count,
        energies=np.asarray(energies) / count,
        left_out=tuple(left_out),
    )


def _at_volume(
    reference: Atoms, calculator: Calculator, settings: PhononSettings, strain: float
) -> tuple[Atoms, float]:
    """The reference at another volume, relaxed at that volume, and its energy in eV."""
    from gracecli.run.relax import relax
    from gracecli.run.result import RelaxSettings

    atoms = reference.copy()
    atoms.set_cell(atoms.cell.array * (1.0 + strain) ** (1.0 / 3.0), scale_atoms=True)
    wanted = RelaxSettings(
        fmax=settings.fmax, smax=max(settings.smax, 0.005), steps=1000, cell="shape", fix_symmetry=settings.fix_symmetry
    )
    result = relax(atoms, calculator, wanted)
    if not result.converged:
        raise NotConvergedError(f"the cell at {100 * strain:+.0f} % volume did not relax: {result.message}")
    done = result.atoms.copy()
    done.set_constraint()
    return done, float(result.final.energy)


def with_same_supercell(settings: PhononSettings, phonon: Phonopy) -> PhononSettings:
    """Settings that repeat the supercell of a finished run, so that all volumes have the same."""
    return replace(settings, supercell=tuple(int(n) for n in np.ravel(phonon.supercell_matrix)))
