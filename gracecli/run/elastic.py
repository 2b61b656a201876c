r"""Elastic constants of a crystal from stresses and from energies of strained cells.

The relaxed reference (cell h_0, volume V_0) is deformed by a symmetric strain, :math:`h = h_0 (1 + \delta\,e)`, for
patterns e and :math:`\delta = \pm s, \pm 2s`. With the derivative at zero from a polynomial through the five points
(error of order :math:`s^4`):

.. math:: C e = d\sigma/d\delta,\qquad e^T C e = V_0^{-1} d^2E/d\delta^2 .

C is sought in the space that the point group leaves (:mod:`gracecli.run.elastic_tensor`), by least squares over the
fewest patterns that determine it (two for a cubic crystal), or over all of them. Ions relax in every strained cell, or
are clamped to the homogeneous deformation.

Checks: :math:`R^2` of straight lines through the stresses (linearity), the misfit of the measured derivatives to the
symmetric tensor, stress- against energy-based constants, the residual pressure of the reference, Born stability.

======================  ==========================================================
symbol                  variable
======================  ==========================================================
:math:`\delta`, e       ``amplitudes``, ``patterns`` (Voigt, engineering shears)
s                       ``ElasticSettings.strain``
:math:`\sigma`          eV/Å^3 from the calculator, GPa in results
======================  ==========================================================
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.units import GPa
from numpy.typing import NDArray

from gracecli.errors import InputError, UsageError
from gracecli.run.elastic_tensor import (
    Moduli,
    ieee_rotation,
    invariant_basis,
    moduli,
    point_group,
    rotate,
    smallest_eigenvalue,
    strain_matrix,
)
from gracecli.run.relax_cells import Progress, check_limits, check_reference, relax_cells, relaxed_reference
from gracecli.run.result import RelaxSettings

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

Array = NDArray[np.float64]

METHODS = ("stress", "energy", "both")
SYMMETRY_TOLERANCE = 1e-3
STEPS = (-2.0, -1.0, 0.0, 1.0, 2.0)


@dataclass(frozen=True)
class ElasticSettings:
    """What to compute.

    Attributes
    ----------
    method : str
        ``stress``, ``energy`` or ``both``; the tensor reported is the stress-based one where there is one.
    clamped : bool
        Clamped ions: no relaxation in strained cells.
    strain : float
        The smaller of the two amplitudes (the other is twice it); shears are engineering strains.
    all_strains : bool
        Use all patterns, not only those that symmetry leaves independent.
    relax : str
        ``full``, ``positions`` or ``none``: the reference, first.
    fmax, smax : float
        eV/Å and GPa, of all relaxations.
    """

    method: str = "both"
    clamped: bool = False
    strain: float = 0.005
    all_strains: bool = False
    relax: str = "full"
    fmax: float = 1e-4
    smax: float = 0.001

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"unknown method {self.method!r}", f"one of {', '.join(METHODS)}")
        check_reference(self.relax)
        if not (np.isfinite(self.strain) and 0 < self.strain <= 0.05):
            raise UsageError(f"the strain must be above 0 and at most 0.05, not {self.strain}")
        check_limits(self.fmax, self.smax)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


@dataclass
class ElasticResult:
    """Elastic constants and their checks.

    Attributes
    ----------
    tensor : (6, 6) float64
        GPa, Voigt, in the IEEE setting; compliance is its inverse.
    tensor_given : (6, 6) float64
        GPa, in the Cartesian axes of the structure.
    stress_tensor, energy_tensor : (6, 6) float64 or None
        GPa, IEEE, by method.
    moduli : Moduli
    eigenvalue : float
        Smallest eigenvalue, GPa; negative: unstable (Born).
    linearity : float
        Smallest R^2 of straight lines through stresses that matter.
    misfit : float
        Largest misfit of a measured derivative to the symmetric tensor, over the largest constant.
    difference : float or None
        Largest |stress-based - energy-based| constant, GPa.
    pressure : float
        Of the reference, GPa.
    constants : int
        Independent constants by symmetry.
    strained : int
        Number of strained cells.
    """

    atoms: Atoms
    settings: ElasticSettings
    tensor: Array
    tensor_given: Array
    stress_tensor: Array | None
    energy_tensor: Array | None
    moduli: Moduli
    eigenvalue: float
    soft_strain: Array
    linearity: float | None
    misfit: float
    difference: float | None
    pressure: float
    constants: int
    strained: int
    crystal: str
    model: str
    wall_time: float
    warnings: list[str] = field(default_factory=list)

    @property
    def stable(self) -> bool:
        """Born stability."""
        return self.eigenvalue > 0


def elastic(
    atoms: Atoms, calculator: Calculator, settings: ElasticSettings | None = None, progress: Progress | None = None
) -> ElasticResult:
    """Elastic constants of a crystal.

    Parameters
    ----------
    atoms : Atoms
        Periodic in three directions; left untouched, constraints ignored.
    calculator : ase.calculators.calculator.Calculator
        With stress; one with ``evaluate`` gets all cells at once.
    settings : ElasticSettings, optional
    progress : callable, optional
        Called with cells done and in all.

    Raises
    ------
    InputError
        Not a crystal.
    NotConvergedError
        The reference or a strained cell did not relax.
    """
    settings = settings or ElasticSettings()
    started = time.perf_counter()
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise InputError("elastic constants need a structure that is periodic in three directions")
    reference = relaxed_reference(atoms, calculator, settings.relax, settings.fmax, settings.smax)
    operations = point_group(reference, SYMMETRY_TOLERANCE)
    basis = invariant_basis(operations)
    linear, quadratic = select_patterns(basis, settings)
    patterns = list(dict.fromkeys(tuple(p) for p in [*linear, *quadratic]))
    cells = [reference, *(_strained(reference, np.array(p), d * settings.strain) for p in patterns for d in STEPS if d)]
    energies, stresses = evaluate(cells, calculator, settings, progress)
    table = _by_pattern(patterns, energies, stresses)
    volume = reference.get_volume()
    from_stress = from_energy = None
    misfit, linearity = 0.0, None
    if settings.method != "energy":
        from_stress, misfit, linearity = fit_stresses(basis, linear, table, settings.strain)
    if settings.method != "stress":
        from_energy, energy_misfit = fit_energies(basis, quadratic, table, settings.strain, volume)
        misfit = max(misfit, energy_misfit)
    rotation = ieee_rotation(reference)
    given = from_stress if from_stress is not None else from_energy
    assert given is not None
    eigenvalue, soft = smallest_eigenvalue(given)
    difference = None
    if from_stress is not None and from_energy is not None:
        difference = float(np.abs(from_stress - from_energy).max())
    return ElasticResult(
        atoms=reference,
        settings=settings,
        tensor=_clean(rotate(given, rotation)),
        tensor_given=given,
        stress_tensor=None if from_stress is None else _clean(rotate(from_stress, rotation)),
        energy_tensor=None if from_energy is None else _clean(rotate(from_energy, rotation)),
        moduli=moduli(given, reference),
        eigenvalue=eigenvalue,
        soft_strain=soft,
        linearity=linearity,
        misfit=misfit,
        difference=difference,
        pressure=float(-stresses[0][:3].mean() / GPa),
        constants=len(basis),
        strained=len(cells) - 1,
        crystal=_crystal(reference),
        model=str(getattr(calculator, "model_name", None) or getattr(calculator, "name", "")),
        wall_time=time.perf_counter() - started,
    )


def select_patterns(basis: Array, settings: ElasticSettings) -> tuple[list[Array], list[Array]]:
    """Strain patterns for stresses (single components) and energies (also sums of two), the fewest that suffice."""
    unit = np.eye(6)
    pairs = [unit[i] + unit[j] for i in range(6) for j in range(i + 1, 6)]
    linear = list(unit)
    quadratic = [*unit, *pairs]
    if not settings.all_strains:
        linear = _fewest(linear, lambda e: np.array([b @ e for b in basis]).T, len(basis))
        quadratic = _fewest(quadratic, lambda e: np.array([[e @ b @ e for b in basis]]), len(basis))
    return ([] if settings.method == "energy" else linear), ([] if settings.method == "stress" else quadratic)


def _fewest(candidates: Sequence[Array], equations: Callable[[Array], Array], unknowns: int) -> list[Array]:
    """Greedy choice: the pattern that adds most to the rank, the best conditioned where several do."""
    chosen: list[Array] = []
    rows = np.zeros((0, unknowns))
    while np.linalg.matrix_rank(rows, tol=1e-6) < unknowns:
        left = [c for c in candidates if not any(c is k for k in chosen)]

        def quality(pattern: Array, rows: Array = rows) -> tuple[int, float]:
            s = np.linalg.svd(np.vstack([rows, equations(pattern)]), compute_uv=False)
            rank = int((s > 1e-6).sum())
            return rank, round(float(s[rank - 1]), 9)

        best = max(left, key=quality)
        chosen.append(best)
        rows = np.vstack([rows, equations(best)])
    return chosen


def fit_stresses(
    basis: Array, patterns: Sequence[Array], table: dict[tuple[float, ...], tuple[Array, Array]], strain: float
) -> tuple[Array, float, float]:
    """Tensor (GPa), relative misfit, linearity, from stresses (eV/Å^3)."""
    rows, values, straight = [], [], []
    for pattern in patterns:
        _, stress = table[tuple(pattern)]
        rows.append(np.array([b @ pattern for b in basis]).T)
        values.append(_first_derivative(stress, strain) / GPa)
        straight.append(_linearity(stress))
    coefficients, misfit = _solve(np.vstack(rows), np.concatenate(values))
    return np.einsum("k,kij->ij", coefficients, basis), misfit, float(min(straight))


def fit_energies(
    basis: Array,
    patterns: Sequence[Array],
    table: dict[tuple[float, ...], tuple[Array, Array]],
    strain: float,
    volume: float,
) -> tuple[Array, float]:
    """Tensor (GPa) and relative misfit, from energies (eV)."""
    rows, values = [], []
    for pattern in patterns:
        energy, _ = table[tuple(pattern)]
        rows.append([pattern @ b @ pattern for b in basis])
        values.append(_second_derivative(energy, strain) / volume / GPa)
    coefficients, misfit = _solve(np.array(rows), np.array(values))
    return np.einsum("k,kij->ij", coefficients, basis), misfit


def evaluate(
    cells: Sequence[Atoms], calculator: Calculator, settings: ElasticSettings, progress: Progress | None = None
) -> tuple[Array, Array]:
    """Energies (n,) in eV and stresses (n, 6) in eV/Å^3, ions relaxed unless clamped."""
    if not settings.clamped:
        # the stress of a strained cell feels its forces to first order: relax them as far as the reference's
        wanted = RelaxSettings(fmax=settings.fmax, smax=settings.smax, steps=1000)
        hint = "loosen --fmax, or use --clamped"
        done = relax_cells(cells, calculator, wanted, lambda number: f"strained cell {number}", hint, progress)
        stresses = [result.final.stress for result in done]
        return np.array([result.final.energy for result in done]), np.array(stresses, dtype=np.float64)
    batched = getattr(calculator, "evaluate", None)
    if batched is not None:
        results = batched(list(cells))
        return np.array([r.energy for r in results]), np.array([r.stress for r in results])
    energies, stresses = [], []
    for cell in cells:
        energies.append(calculator.get_property("energy", cell))
        stresses.append(np.array(calculator.get_property("stress", cell)))
    return np.array(energies), np.array(stresses)


def _strained(reference: Atoms, pattern: Array, amplitude: float) -> Atoms:
    atoms = reference.copy()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + amplitude * strain_matrix(pattern)), scale_atoms=True)
    return atoms


def _by_pattern(
    patterns: Sequence[tuple[float, ...]], energies: Array, stresses: Array
) -> dict[tuple[float, ...], tuple[Array, Array]]:
    """Energies (5,) and stresses (5, 6) at the amplitudes STEPS, the reference in the middle."""
    table = {}
    for number, pattern in enumerate(patterns):
        own = 1 + 4 * number + np.arange(4)
        order = [own[0], own[1], 0, own[2], own[3]]
        table[pattern] = (energies[order], stresses[order])
    return table


def _first_derivative(values: Array, step: float) -> Array:
    """By the five-point formula, error O(step^4)."""
    return np.asarray((values[0] - 8 * values[1] + 8 * values[3] - values[4]) / (12 * step))


def _second_derivative(values: Array, step: float) -> float:
    """By the five-point formula, error O(step^4)."""
    return float((-values[0] + 16 * values[1] - 30 * values[2] + 16 * values[3] - values[4]) / (12 * step**2))


def _linearity(stress: Array) -> float:
    """Smallest R^2 of straight lines through the components that change by at least a tenth of the largest."""
    centred = stress - stress.mean(axis=0)
    x = np.array(STEPS)
    total = (centred**2).sum(axis=0)
    explained = (x @ centred) ** 2 / (x @ x)
    matters = total > 0.01 * total.max()
    return float((explained[matters] / total[matters]).min())


def _solve(rows: Array, values: Array) -> tuple[Array, float]:
    coefficients = np.linalg.lstsq(rows, values, rcond=None)[0]
    misfit = float(np.abs(rows @ coefficients - values).max() / np.abs(values).max())
    return np.asarray(coefficients, dtype=np.float64), misfit


def _clean(tensor: Array) -> Array:
    """Symmetric, without the rounding noise of rotations."""
    tensor = (tensor + tensor.T) / 2
    return np.where(np.abs(tensor) < 1e-8 * np.abs(tensor).max(), 0.0, tensor)


def _crystal(atoms: Atoms) -> str:
    from gracecli.run.symmetry import space_group

    return str(space_group(atoms, SYMMETRY_TOLERANCE))
