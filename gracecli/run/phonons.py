r"""Harmonic phonons by finite displacements: relax, displace, evaluate all at once, Fourier-transform, judge.

Force constants and dynamical matrix:

.. math:: \Phi_{i\alpha,j\beta} = \partial^2 E/\partial u_{i\alpha}\partial u_{j\beta} = -\partial F_{j\beta}/\partial
          u_{i\alpha},\quad \sum_j \Phi_{i\alpha,j\beta} = 0,

.. math:: D(q) = \sum_j \Phi_{0j}\,e^{iq\cdot(r_j-r_0)}/\sqrt{m_0 m_j},\quad D\,e = (2\pi\nu)^2 e.

Displacements that symmetry leaves, the solution for the force constants, and everything after them is phonopy's
(A. Togo et al., J. Phys.: Condens. Matter 35, 353001 (2023)). What is done here: the reference is relaxed so far that
its residual forces do not matter; all displaced supercells are one batch; the sum rule is *measured* before it is
imposed; imaginary modes are told apart from interpolation (:mod:`gracecli.run.phonon_stability`).

=================  ==========================================
symbol             variable
=================  ==========================================
:math:`\Phi`       ``force_constants`` (eV/Å^2)
:math:`\nu`        ``frequencies`` (THz; negative: imaginary)
u                  ``displacement`` (Å)
=================  ==========================================
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gracecli.errors import InputError, NotConvergedError, UsageError
from gracecli.run.phonon_cells import from_phonopy, supercell_matrix, to_phonopy
from gracecli.run.phonon_stability import Stability, stability
from gracecli.run.relax_cells import check_reference

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
    from phonopy import Phonopy

    from gracecli.run.relax import Observer
    from gracecli.run.result import RelaxResult

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]

SYMMETRY_TOLERANCE = 1e-4
"""Å, for the reference, which is relaxed tightly; phonopy's default of 1e-5 is below what a relaxation reaches."""

RELAX_STEPS = 1000
PROJECTION_MESH = 40.0
"""Å, of the mesh for projected densities of states, with eigenvectors everywhere; tetrahedra take a second on it."""


@dataclass(frozen=True)
class PhononSettings:
    """What to compute.

    Attributes
    ----------
    supercell : tuple of int, optional
        3 or 9 integers (rows of phonopy's matrix); None chooses by ``min_length``.
    min_length : float
        Å; shortest lattice vector of the supercell.
    displacement : float
        Å.
    relax : str
        ``full`` (cell and positions), ``positions`` or ``none`` before the displacements.
    fmax : float
        eV/Å, of that relaxation.
    smax : float
        GPa, of that relaxation.
    fix_symmetry : bool
        Hold the space group in that relaxation.
    mesh : float
        Å; the q mesh has a spacing of 2 pi / mesh.
    t_max, t_step : float
        K, of thermal properties.
    born : Path, optional
        BORN file of phonopy for the non-analytical correction, its atoms those of the primitive cell.
    """

    supercell: tuple[int, ...] | None = None
    min_length: float = 15.0
    displacement: float = 0.01
    relax: str = "full"
    fmax: float = 1e-5
    smax: float = 0.001
    fix_symmetry: bool = True
    mesh: float = 100.0
    t_max: float = 1000.0
    t_step: float = 10.0
    born: Path | None = None

    def __post_init__(self) -> None:
        if self.supercell is not None and len(self.supercell) not in (3, 9):
            raise UsageError(f"a supercell is 3 or 9 integers, not {len(self.supercell)}")
        check_reference(self.relax)
        for name in ("min_length", "displacement", "fmax", "smax", "mesh", "t_max", "t_step"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise UsageError(f"{name.replace('_', '-')} must be a positive number, not {value}")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**self.__dict__, "born": None if self.born is None else str(self.born)}


@dataclass
class PhononResult:
    """Phonons of one structure, with their checks.

    Attributes
    ----------
    phonon : phonopy.Phonopy
        With force constants; band structure, mesh, DOS and thermal properties have been run.
    atoms : Atoms
        The relaxed reference.
    relaxation : RelaxResult or None
    residual_force : float
        Largest force in the undisplaced supercell, eV/Å; subtracted from all.
    sum_rule : float
        Largest violation of the acoustic sum rule, before it was imposed, over the largest force constant.
    decay : float
        Largest force constant between atoms at least half the supercell apart, over the largest of all: whether the
        supercell is large enough.
    stability : Stability
    displacements : int
        Number of supercells evaluated, the undisplaced one included.
    """

    phonon: Phonopy
    atoms: Atoms
    settings: PhononSettings
    relaxation: RelaxResult | None
    residual_force: float
    sum_rule: float
    decay: float
    stability: Stability
    displacements: int
    model: str
    wall_time: float
    warnings: list[str] = field(default_factory=list)
    followed: list[dict[str, Any]] = field(default_factory=list)


def phonons(
    atoms: Atoms,
    calculator: Calculator,
    settings: PhononSettings | None = None,
    observer: Observer | None = None,
    progress: Progress | None = None,
) -> PhononResult:
    """Phonons of a crystal.

    Parameters
    ----------
    atoms : Atoms
        Periodic in three directions; left untouched.
    calculator : ase.calculators.calculator.Calculator
        One with ``evaluate`` (:class:`gracecli.engine.calculator.GraceCalculator`) gets all supercells at once.
    settings : PhononSettings, optional
    observer : callable, optional
        Sees the steps of the relaxation.
    progress : callable, optional
        Called with supercells done and in all.

    Raises
    ------
    InputError
        Not a crystal; a BORN file that does not fit.
    NotConvergedError
        The reference could not be relaxed.
    """
    settings = settings or PhononSettings()
    started = time.perf_counter()
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise InputError("phonons need a structure that is periodic in three directions")
    reference, relaxation = relaxed(atoms, calculator, settings, observer)
    phonon = prepare(reference, settings)
    cells = [from_phonopy(c) for c in [phonon.supercell, *(phonon.supercells_with_displacements or [])]]
    forces = evaluate_forces(cells, calculator, progress)
    sum_rule, residual = solve(phonon, forces)
    if settings.born is not None:
        add_nonanalytical_term(phonon, settings.born)
    result = PhononResult(
        phonon=phonon,
        atoms=reference,
        settings=settings,
        relaxation=relaxation,
        residual_force=residual,
        sum_rule=sum_rule,
        decay=decay_of_force_constants(phonon),
        stability=derive(phonon, settings),
        displacements=len(cells),
        model=str(getattr(calculator, "model_name", None) or getattr(calculator, "name", "")),
        wall_time=time.perf_counter() - started,
    )
    result.warnings += [] if relaxation is None else list(relaxation.warnings)
    return result


def relaxed(
    atoms: Atoms, calculator: Calculator, settings: PhononSettings, observer: Observer | None = None
) -> tuple[Atoms, RelaxResult | None]:
    """The reference geometry, without constraints.

    Raises
    ------
    NotConvergedError
        Forces of the size left would show as spurious modes.
    """
    from gracecli.run.relax import relax
    from gracecli.run.result import RelaxSettings

    free = atoms.copy()
    free.set_constraint()
    if settings.relax == "none":
        return free, None
    wanted = RelaxSettings(
        fmax=settings.fmax,
        smax=settings.smax,
        steps=RELAX_STEPS,
        cell="full" if settings.relax == "full" else "none",
        fix_symmetry=settings.fix_symmetry,
    )
    result = relax(free, calculator, wanted, observer)
    if not result.converged:
        raise NotConvergedError(
            f"the reference of the phonons did not relax: {result.message}",
            "relax it first (`grace relax`), or loosen --fmax",
        )
    reference = result.atoms.copy()
    reference.set_constraint()
    return reference, result


def prepare(reference: Atoms, settings: PhononSettings) -> Phonopy:
    """Phonopy with its supercell and symmetry-reduced displacements."""
    from phonopy import Phonopy
    from phonopy.structure.cells import guess_primitive_matrix

    matrix = supercell_matrix(reference, settings.supercell, settings.min_length)
    unit = to_phonopy(reference)
    # not "auto": phonopy 4 warns of what it resolves to, and turns the axes of cells that are primitive already
    primitive = np.asarray(guess_primitive_matrix(unit, symprec=SYMMETRY_TOLERANCE))
    if abs(np.linalg.det(primitive)) > 0.99:
        primitive = np.eye(3)
    phonon = Phonopy(
        unit,
        supercell_matrix=matrix,
        primitive_matrix=primitive,
        symprec=SYMMETRY_TOLERANCE,
        log_level=0,
    )
    phonon.generate_displacements(distance=settings.displacement)
    return phonon


def evaluate_forces(cells: Sequence[Atoms], calculator: Calculator, progress: Progress | None = None) -> Array:
    """Forces (cells, atoms, 3) in eV/Å; in groups of about 4,000 atoms where the calculator takes several at once."""
    batched = getattr(calculator, "evaluate", None)
    step = max(1, 4000 // max(1, len(cells[0]))) if batched is not None else 1
    forces: list[Array] = []
    for first in range(0, len(cells), step):
        group = cells[first : first + step]
        if batched is not None:
            forces += [result.forces for result in batched(group)]
        else:
            forces.append(calculator.get_property("forces", group[0]).copy())
        if progress is not None:
            progress(len(forces), len(cells))
    return np.array(forces)


def solve(phonon: Phonopy, forces: Array) -> tuple[float, float]:
    """Force constants from forces (the first cell is undisplaced); relative sum-rule violation, residual force.

    The sum rules and the permutation symmetry are imposed afterwards.
    """
    residual = float(np.linalg.norm(forces[0], axis=1).max())
    phonon.forces = forces[1:] - forces[0]
    phonon.produce_force_constants(calculate_full_force_constants=False, show_drift=False)
    constants = np.asarray(phonon.force_constants)  # (atoms of the primitive cell, atoms of the supercell, 3, 3)
    violation = float(np.abs(constants.sum(axis=1)).max())
    largest = float(np.abs(constants).max())
    phonon.symmetrize_force_constants(show_drift=False)
    return violation / largest if largest else 0.0, residual


def decay_of_force_constants(phonon: Phonopy) -> float:
    """Largest force constant at half the supercell and beyond, relative to the largest of all."""
    supercell = from_phonopy(phonon.supercell)
    sizes = np.linalg.norm(np.asarray(phonon.force_constants), axis=(2, 3))
    half = 0.5 * float((1.0 / np.linalg.norm(np.linalg.inv(supercell.cell.array), axis=0)).min())
    far = 0.0
    for row, atom in enumerate(phonon.primitive.p2s_map):
        distance = supercell.get_distances(int(atom), list(range(len(supercell))), mic=True)
        far = max(far, float(sizes[row][distance >= 0.9 * half].max(initial=0.0)))
    return far / float(sizes.max())


def derive(phonon: Phonopy, settings: PhononSettings) -> Stability:
    """Band structure, mesh, DOS, projected DOS, thermal properties; the verdict on stability."""
    from phonopy.phonon.band_structure import get_band_qpoints_by_seekpath

    paths, labels, connections = get_band_qpoints_by_seekpath(phonon.primitive, 101, is_const_interval=True)
    phonon.run_band_structure(
        paths, with_eigenvectors=False, with_group_velocities=True, path_connections=connections, labels=labels
    )
    # projections need eigenvectors on the whole mesh, a coarser one does; thermal properties only frequencies
    phonon.run_mesh(min(settings.mesh, PROJECTION_MESH), with_eigenvectors=True, is_mesh_symmetry=False)
    phonon.run_projected_dos(use_tetrahedron_method=True)
    phonon.run_mesh(settings.mesh)
    phonon.run_total_dos()
    verdict = stability(phonon)
    phonon.run_thermal_properties(
        t_min=0,
        t_max=settings.t_max,
        t_step=settings.t_step,
        cutoff_frequency=0.0,
        exclude_gamma_acoustic=True,  # three translations, which rounding may make barely positive
    )
    return verdict


def add_nonanalytical_term(phonon: Phonopy, born: Path) -> None:
    """Born charges and dielectric constant from phonopy's BORN file.

    Raises
    ------
    InputError
        The file cannot be read, or belongs to another structure.
    """
    from phonopy.file_IO import parse_BORN

    try:
        phonon.nac_params = parse_BORN(phonon.primitive, filename=str(born))
    except OSError as error:
        raise InputError(f"cannot read {born}: {error.strerror}") from error
    except Exception as error:
        text = str(error).strip().splitlines()
        reason = text[0] if text else type(error).__name__
        hint = "see phonopy's documentation of BORN"
        raise InputError(f"{born} does not fit this structure: {reason}", hint) from error
