r"""Equation of state of a crystal: energies of cells of several volumes and the curve through them.

Cells are relaxed at fixed volume (shape and atoms), or scaled as they are. Birch-Murnaghan (third order), with
:math:`x = (V_0/V)^{2/3}`,

.. math:: E(V) = E_0 + \frac{9}{16} B_0 V_0\,[(x - 1)^3 B_0' + (x - 1)^2 (6 - 4x)],

and Vinet, with :math:`y = (V/V_0)^{1/3}`, :math:`\xi = \tfrac32 (B_0' - 1)`,

.. math:: E(V) = E_0 + \frac{9 B_0 V_0}{\xi^2}\,\{1 + [\xi (1 - y) - 1]\,e^{\xi (1 - y)}\}.

Checks: the residual of the fit, the pressures :math:`-dE/dV` of the curve against those of the model's stress, and the
spread of B_0 between the equations.

======================  ================================================
symbol                  variable
======================  ================================================
V, E                    ``volumes``, ``energies`` (Å^3/atom, eV/atom)
E_0, B_0, B_0', V_0     :class:`Curve`
======================  ================================================

Sources: F. Birch, Phys. Rev. 71, 809 (1947); P. Vinet et al., J. Phys.: Condens. Matter 1, 1941 (1989); the formulas
are phonopy's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.units import GPa
from numpy.typing import NDArray

from gracecli.errors import InputError, PhysicsError, UsageError
from gracecli.run.cell import CellMode
from gracecli.run.relax_cells import Progress, bare, check_limits, check_reference, relax_cells, relaxed_reference
from gracecli.run.result import RelaxSettings

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

Array = NDArray[np.float64]

EQUATIONS = {"birch-murnaghan": "birch_murnaghan", "vinet": "vinet"}
"""Our names and phonopy's."""


@dataclass(frozen=True)
class EosSettings:
    """What to compute.

    Attributes
    ----------
    equation : str
        ``birch-murnaghan`` or ``vinet``: the one reported; the other is a check.
    strain : float
        Largest relative change of the volume, to both sides.
    points : int
        Volumes, at least seven (four parameters, and something to judge them by).
    clamped : bool
        Scale the cell as it is instead of relaxing shape and atoms at every volume.
    relax : str
        ``full``, ``positions`` or ``none``: the reference, first.
    fmax, smax : float
        eV/Å and GPa, of all relaxations.
    """

    equation: str = "birch-murnaghan"
    strain: float = 0.06
    points: int = 11
    clamped: bool = False
    relax: str = "full"
    fmax: float = 1e-3
    smax: float = 0.005

    def __post_init__(self) -> None:
        if self.equation not in EQUATIONS:
            raise UsageError(f"unknown equation {self.equation!r}", f"one of {', '.join(EQUATIONS)}")
        check_reference(self.relax)
        if not (np.isfinite(self.strain) and 0 < self.strain <= 0.3):
            raise UsageError(f"the change of volume must be above 0 and at most 0.3, not {self.strain}")
        if self.points < 7:
            raise UsageError(f"{self.points} volumes do not settle four parameters", "give at least 7 --points")
        check_limits(self.fmax, self.smax)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class Curve:
    """One fitted equation.

    Attributes
    ----------
    equation : str
    energy, volume : float
        E_0 in eV/atom, V_0 in Å^3/atom.
    bulk_modulus, bulk_derivative : float
        B_0 in GPa and its pressure derivative.
    errors : (4,) tuple of float
        Standard errors of the four, in this order.
    residual : float
        Root mean square of the fit, eV/atom.
    """

    equation: str
    energy: float
    volume: float
    bulk_modulus: float
    bulk_derivative: float
    errors: tuple[float, float, float, float]
    residual: float

    def energies(self, volumes: Array) -> Array:
        """eV/atom at volumes in Å^3/atom."""
        from phonopy.qha.eos import get_eos

        parameters = np.array([self.energy, self.bulk_modulus * GPa, self.bulk_derivative, self.volume])
        return np.asarray(get_eos(EQUATIONS[self.equation])(volumes, parameters))

    def pressures(self, volumes: Array) -> Array:
        """-dE/dV in GPa, by central differences exact to 1e-9 of B_0."""
        step = 1e-4 * self.volume
        return (self.energies(volumes - step) - self.energies(volumes + step)) / (2 * step) / GPa

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


@dataclass
class EosResult:
    """An equation of state and its checks.

    Attributes
    ----------
    atoms : Atoms
        The reference.
    volumes, energies, pressures : (n,) float64
        Å^3/atom, eV/atom, GPa (of the model's stress).
    curve, other : Curve
        The equation asked for, and the other one.
    pressure_difference : float
        Largest |pressure of the curve - pressure of the model|, GPa.
    bulk_from_stress : float
        -V dP/dV at V_0 of the model's pressures near it, GPa; does not see what the energies do farther away.
    lattice : (6,) float64
        a, b, c in Å and angles in degrees of the reference, scaled to V_0.
    """

    atoms: Atoms
    settings: EosSettings
    volumes: Array
    energies: Array
    pressures: Array
    curve: Curve
    other: Curve
    pressure_difference: float
    bulk_from_stress: float
    lattice: Array
    space_group: str
    model: str
    wall_time: float
    warnings: list[str] = field(default_factory=list)


def equation_of_state(
    atoms: Atoms, calculator: Calculator, settings: EosSettings | None = None, progress: Progress | None = None
) -> EosResult:
    """Equation of state of a crystal.

    Parameters
    ----------
    atoms : Atoms
        Periodic in three directions; left untouched, constraints ignored.
    calculator : ase.calculators.calculator.Calculator
        With stress.
    settings : EosSettings, optional
    progress : callable, optional
        Called with cells done and in all.

    Raises
    ------
    InputError
        Not a crystal.
    NotConvergedError
        The reference or another cell did not relax.
    PhysicsError
        No minimum of the energy within the volumes.
    """
    from gracecli.run.symmetry import space_group

    settings = settings or EosSettings()
    started = time.perf_counter()
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise InputError("an equation of state needs a structure that is periodic in three directions")
    reference = relaxed_reference(atoms, calculator, settings.relax, settings.fmax, settings.smax)
    factors = 1.0 + np.linspace(-settings.strain, settings.strain, settings.points)
    cells = [_scaled(reference, factor) for factor in factors]
    mode: CellMode = "none" if settings.clamped else "shape"
    # clamped ions: a limit that every force meets, so nothing moves
    fmax = np.finfo(np.float64).max if settings.clamped else settings.fmax
    wanted = RelaxSettings(fmax=fmax, smax=settings.smax, steps=1000, cell=mode)
    done = relax_cells(
        cells, calculator, wanted, lambda k: f"the cell at {100 * (factors[k] - 1):+.1f} % volume",
        "loosen --fmax and --smax, or use --clamped", progress,
    )  # fmt: skip
    count = len(reference)
    volumes = np.array([cell.get_volume() for cell in cells]) / count
    energies = np.array([result.final.energy_per_atom for result in done])
    stresses = np.array([result.final.stress for result in done], dtype=np.float64)
    pressures = -stresses[:, :3].mean(axis=1) / GPa
    lowest = int(np.argmin(energies))
    if lowest in (0, len(energies) - 1):
        side = "smallest" if lowest == 0 else "largest"
        raise PhysicsError(
            f"the energy is lowest at the {side} volume, {volumes[lowest]:.3f} Å^3/atom: no minimum within the volumes",
            "relax the reference (--relax full), or widen --strain",
        )
    curve = fit_curve(settings.equation, volumes, energies)
    other = fit_curve(next(name for name in EQUATIONS if name != settings.equation), volumes, energies)
    group = str(space_group(reference, 1e-3))
    cell = reference.cell.array * (curve.volume * count / reference.get_volume()) ** (1.0 / 3.0)
    result = EosResult(
        atoms=reference,
        settings=settings,
        volumes=volumes,
        energies=energies,
        pressures=pressures,
        curve=curve,
        other=other,
        pressure_difference=float(np.abs(curve.pressures(volumes) - pressures).max()),
        bulk_from_stress=_bulk_from_stress(volumes, pressures, curve.volume),
        lattice=np.array(Atoms(cell=cell).cell.cellpar()),
        space_group=group,
        model=str(getattr(calculator, "model_name", None) or getattr(calculator, "name", "")),
        wall_time=time.perf_counter() - started,
    )
    if not 1.0 < curve.bulk_derivative < 10.0 or curve.bulk_modulus < 0.1:
        result.warnings.append("B0 or B0' is out of the usual range: is there vacuum in the cell?")
    if not settings.clamped:
        changed = [
            f"{100 * (factor - 1):+.1f} %"
            for factor, relaxed in zip(factors, done, strict=True)
            if str(space_group(bare(relaxed), 1e-2)) != str(space_group(reference, 1e-2))
        ]
        if changed:
            result.warnings.append(f"the space group is another at volume changes of {', '.join(changed)}")
    return result


def fit_curve(equation: str, volumes: Array, energies: Array) -> Curve:
    """Least squares of one equation.

    Raises
    ------
    PhysicsError
        The data are not of this form.
    """
    from phonopy.qha.eos import get_eos
    from scipy.optimize import curve_fit

    form = get_eos(EQUATIONS[equation])
    a, b, c = np.polyfit(volumes, energies, 2)  # a parabola to start from
    middle = -b / (2 * a)
    start = [c - b**2 / (4 * a), 2 * a * middle, 4.0, middle]

    def model(v: Array, *parameters: float) -> Array:
        return np.asarray(form(v, np.array(parameters)))

    try:
        found, covariance = curve_fit(model, volumes, energies, p0=start, maxfev=10000)
    except (RuntimeError, ValueError) as error:
        raise PhysicsError(f"the energies do not follow the {equation} equation: {error}", "lower --strain") from error
    e, bulk, derivative, v = (float(x) for x in found)
    d_e, d_bulk, d_derivative, d_v = (float(x) for x in np.sqrt(np.diag(covariance)))
    residual = float(np.sqrt(np.mean((model(volumes, *found) - energies) ** 2)))
    return Curve(equation, e, v, bulk / GPa, derivative, (d_e, d_v, d_bulk / GPa, d_derivative), residual)


def _bulk_from_stress(volumes: Array, pressures: Array, volume: float) -> float:
    """-V dP/dV by a parabola through the five volumes nearest to ``volume``."""
    near = np.argsort(np.abs(volumes - volume))[:5]
    slope = np.polyfit(volumes[near] - volume, pressures[near], 2)[1]
    return float(-volume * slope)


def _scaled(reference: Atoms, factor: float) -> Atoms:
    atoms = reference.copy()
    atoms.set_cell(atoms.cell.array * factor ** (1.0 / 3.0), scale_atoms=True)
    return atoms


def sampled(volumes: Sequence[float], points: int = 200) -> Array:
    """Volumes for drawing a smooth curve through the given ones."""
    return np.linspace(min(volumes), max(volumes), points)
