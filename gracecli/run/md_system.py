r"""The moving system: coordinates, momenta, cell, and the forces that belong to them.

Temperature and pressure of a snapshot, with :math:`N_f` degrees of freedom::

    K = sum_i p_i^2 / 2 m_i          T = 2 K / (N_f kB)
    sigma = sigma_virial - sum_i p_i p_i / (m_i V)          P = -tr(sigma) / 3

=================  ==========================================
symbol             variable
=================  ==========================================
p_i, m_i           ``System.momenta``, ``System.masses``
N_f                ``System.freedom``
sigma_virial       ``System.stress`` (of the calculator)
sigma              ``System.full_stress()``
=================  ==========================================

Units: Å, eV, u; time in ASE's unit Å sqrt(u/eV) = 10.18 fs (:data:`ase.units.fs` converts).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms, FixCartesian, FixScaled
from ase.units import kB
from numpy.typing import NDArray

from gracecli.engine.bonds import cell_volume
from gracecli.errors import InputError

Array = NDArray[np.float64]


class System:
    """What an integrator moves.

    Parameters
    ----------
    atoms : Atoms
        Geometry and momenta; copied. Fixed atoms or Cartesian directions stay fixed.
    calculator : ase.calculators.calculator.Calculator
        Energy, forces, and stress where there is a volume.

    Attributes
    ----------
    positions, momenta, forces : (N, 3) float64
        Å, ASE momenta, eV/Å. ``forces`` are zero along what is fixed.
    cell : (3, 3) float64
        Rows are lattice vectors, Å.
    masses : (N, 1) float64
        u.
    free : (N, 3) bool
        What may move.
    energy : float
        Potential energy, eV.
    stress : (3, 3) float64 or None
        Of the potential, eV/Å^3, tensile-positive.
    freedom : int
        Degrees of freedom in the temperature.

    Raises
    ------
    InputError
        A constraint that the integrators do not know; an atom without mass.
    """

    def __init__(self, atoms: Atoms, calculator: Calculator) -> None:
        self.atoms = atoms.copy()
        self.free = free_directions(atoms)
        self.atoms.set_constraint()
        self.calculator = calculator
        self.positions: Array = self.atoms.positions.copy()
        self.momenta: Array = atoms.get_momenta() * self.free
        self.cell: Array = self.atoms.cell.array.copy()
        self.masses: Array = atoms.get_masses()[:, None].astype(np.float64)
        if not (self.masses > 0).all():
            raise InputError(f"atom {int(np.argmin(self.masses > 0)) + 1} has no mass")
        self._inverse_masses = 1.0 / self.masses[:, 0]
        self.all_free = bool(self.free.all())
        self.periodic = bool(atoms.pbc.all()) and atoms.cell.rank == 3
        self._wanted = ["energy", "forces"]
        if self.periodic and "stress" in calculator.implemented_properties:
            self._wanted.append("stress")
        self.energy = float("nan")
        self.forces: Array = np.full_like(self.positions, np.nan)
        self.stress: Array | None = None
        self.evaluations = 0
        self.freedom = conserved_freedom(self)

    def evaluate(self) -> None:
        """Energy, forces and stress of the present positions and cell (the calculator's cache is left aside)."""
        self.atoms.positions[:] = self.positions
        self.atoms.cell.array[:] = self.cell
        self.calculator.calculate(self.atoms, self._wanted, all_changes)
        self.evaluations += 1
        results = self.calculator.results
        self.energy = float(results.get("free_energy", results["energy"]))
        forces = np.array(results["forces"], dtype=np.float64)
        self.forces = forces if self.all_free else forces * self.free
        if len(self._wanted) == 3:
            xx, yy, zz, yz, xz, xy = np.asarray(results["stress"], dtype=np.float64)
            self.stress = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])

    def kick(self, time: float) -> None:
        """``p += time F``."""
        self.momenta += time * self.forces

    def drift(self, time: float) -> None:
        """``r += time p / m``."""
        self.positions += time * (self.momenta / self.masses)

    def twice_kinetic(self) -> float:
        """``sum p^2 / m`` in eV."""
        return float(np.einsum("ix,ix->i", self.momenta, self.momenta) @ self._inverse_masses)

    def kinetic_energy(self) -> float:
        """Kinetic energy in eV."""
        return 0.5 * self.twice_kinetic()

    def temperature(self) -> float:
        """K."""
        return self.twice_kinetic() / (max(self.freedom, 1) * kB)

    def volume(self) -> float:
        """Å^3; NaN where not periodic."""
        return cell_volume(self.cell) if self.periodic else float("nan")

    def full_stress(self) -> Array | None:
        """Stress (3, 3) with the momenta's part, eV/Å^3, tensile-positive; None where there is none."""
        if self.stress is None:
            return None
        flow = (self.momenta * self._inverse_masses[:, None]).T @ self.momenta
        return np.asarray(self.stress - flow / self.volume())

    def pressure(self) -> float:
        """eV/Å^3; NaN where there is none."""
        if self.stress is None:
            return float("nan")
        return (self.twice_kinetic() / self.volume() - float(np.trace(self.stress))) / 3.0

    def to_atoms(self) -> Atoms:
        """A structure with momenta and results (raw energy, forces, stress) attached."""
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms = self.atoms.copy()
        atoms.positions[:], atoms.cell.array[:] = self.positions, self.cell
        atoms.set_momenta(self.momenta)
        results: dict[str, Any] = {"energy": self.energy, "forces": self.forces.copy()}
        if self.stress is not None:
            results["stress"] = self.stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]].copy()
        atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    def state(self) -> dict[str, Array]:
        """What is needed to go on exactly here."""
        arrays = {name: getattr(self, name).copy() for name in ("positions", "momenta", "cell", "forces")}
        arrays["energy"] = np.array(self.energy)
        if self.stress is not None:
            arrays["stress"] = self.stress.copy()
        return arrays

    def restore(self, arrays: dict[str, Array]) -> None:
        """Inverse of :meth:`state`."""
        for name in ("positions", "momenta", "cell", "forces"):
            setattr(self, name, np.array(arrays[name], dtype=np.float64))
        self.energy = float(arrays["energy"])
        self.stress = np.array(arrays["stress"]) if "stress" in arrays else None
        self.atoms.positions[:], self.atoms.cell.array[:] = self.positions, self.cell


def free_directions(atoms: Atoms) -> NDArray[np.bool_]:
    """Mask (N, 3) of the Cartesian directions that constraints leave free.

    Raises
    ------
    InputError
        A constraint of another kind than fixed atoms or fixed Cartesian directions.
    """
    free = np.ones((len(atoms), 3), dtype=bool)
    for item in atoms.constraints:
        if isinstance(item, FixAtoms):
            free[item.index] = False
        elif isinstance(item, FixCartesian):
            mask = np.asarray(item.mask, dtype=bool)  # True: fixed
            free[item.index] &= ~mask
        elif isinstance(item, FixScaled) and np.asarray(item.mask).all():
            free[item.index] = False
        elif isinstance(item, FixScaled) and np.count_nonzero(atoms.cell.array - np.diag(np.diag(atoms.cell))) == 0:
            free[item.index] &= ~np.asarray(item.mask, dtype=bool)
        else:
            raise InputError(
                f"dynamics cannot hold the constraint {type(item).__name__} of the input",
                "fix whole atoms, or atoms along Cartesian directions",
            )
    return free


def conserved_freedom(system: System, momentum: bool = True, rotation: bool = True) -> int:
    """Degrees of freedom: 3N, less what is fixed, less conserved momenta and (of a molecule) angular momenta.

    Parameters
    ----------
    system : System
    momentum, rotation : bool
        Whether the integrator conserves them (a Langevin thermostat does neither).
    """
    count = int(system.free.sum())
    if not system.all_free or not momentum:
        return count
    count -= 3
    if rotation and not system.atoms.pbc.any() and len(system.masses) > 1:
        count -= int(np.linalg.matrix_rank(inertia(system), tol=1e-6 * np.trace(inertia(system)) + 1e-12))
    return max(count, 0)


def inertia(system: System) -> Array:
    """Inertia tensor (3, 3) about the centre of mass, u Å^2."""
    arm = system.positions - (system.masses * system.positions).sum(axis=0) / system.masses.sum()
    weight = (system.masses * arm).T @ arm
    return np.asarray(np.trace(weight) * np.eye(3) - weight)
