"""Settings and result of a relaxation: frozen, complete, and JSON-ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.units import GPa
from numpy.typing import NDArray

from gracecli.errors import NotConvergedError, PhysicsError, UsageError
from gracecli.run.cell import CELL_MODES, CellMode, residual_stress
from gracecli.run.symmetry import SYMMETRY_TOLERANCE, SpaceGroup, space_group

Array = NDArray[np.float64]
Status = Literal["converged", "not-converged", "interrupted", "exploded"]

#: Units of every number in :meth:`RelaxResult.to_dict`.
UNITS = {
    "energy": "eV",
    "energy_per_atom": "eV/atom",
    "enthalpy": "eV",
    "max_force": "eV/Å",
    "max_force_with_fixed": "eV/Å",
    "stress": "GPa (tensile-positive; xx yy zz yz xz xy)",
    "max_stress": "GPa (largest residual component the cell mode lets relax)",
    "pressure": "GPa (positive compresses)",
    "volume": "Å^3",
    "cell": "Å (rows are lattice vectors)",
    "lengths": "Å",
    "angles": "degree",
    "max_displacement": "Å (in the frame of the deforming cell)",
    "fmax": "eV/Å",
    "smax": "GPa",
    "symmetry_tolerance": "Å",
    "wall_time": "s",
}


@dataclass(frozen=True)
class RelaxSettings:
    """What to relax and when to stop.

    Attributes
    ----------
    fmax : float
        Largest force (norm, eV/Å) on any free atom at convergence. 0.02 is what fairchem uses; 0.1, the default of
        other tools, leaves lattice constants and phonons off.
    smax : float
        Largest residual stress component (GPa) at convergence where the cell relaxes. 0.02 GPa is a strain of 5e-4
        in lithium (bulk modulus 14 GPa) and 7e-5 in copper, below the accuracy of any model.
    steps : int
        Most optimizer steps.
    optimizer : str
        Name of a registered optimizer.
    cell : str
        ``none``, ``full``, ``volume``, ``shape`` or ``lengths``: see :mod:`gracecli.run.cell`.
    pressure : float
        External pressure in GPa, positive compresses.
    fix_symmetry : bool
        Hold the space group of the input (found with ``symmetry_tolerance``, Å).
    """

    fmax: float = 0.02
    smax: float = 0.02
    steps: int = 500
    optimizer: str = "lbfgs"
    cell: CellMode = "none"
    pressure: float = 0.0
    fix_symmetry: bool = False
    symmetry_tolerance: float = SYMMETRY_TOLERANCE

    def __post_init__(self) -> None:
        if self.cell not in CELL_MODES:
            raise UsageError(f"unknown cell mode {self.cell!r}", f"one of {', '.join(CELL_MODES)}")
        for name in ("fmax", "smax", "symmetry_tolerance"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise UsageError(f"{name} must be a positive number, not {value}")
        if self.steps < 0:
            raise UsageError(f"steps must not be negative, not {self.steps}")
        if not np.isfinite(self.pressure):
            raise UsageError(f"pressure must be a number, not {self.pressure}")
        if self.pressure and self.cell not in ("full", "volume", "lengths"):
            raise UsageError(
                f"a pressure of {self.pressure:g} GPa has no effect with --cell {self.cell}",
                "use --cell full, volume or lengths",
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``smax`` is null where the cell does not relax."""
        return {
            "fmax": self.fmax,
            "smax": None if self.cell == "none" else self.smax,
            "steps": self.steps,
            "optimizer": self.optimizer,
            "cell": self.cell,
            "pressure": self.pressure,
            "fix_symmetry": self.fix_symmetry,
            "symmetry_tolerance": self.symmetry_tolerance,
        }


@dataclass(frozen=True)
class State:
    """A geometry and what the model says of it (energies eV, forces eV/Å, stress eV/Å^3, lengths Å)."""

    energy: float
    energy_per_atom: float
    enthalpy: float | None
    max_force: float
    max_force_with_fixed: float
    stress: Array | None
    max_stress: float | None
    volume: float | None
    cell: Array
    lengths: Array
    angles: Array
    space_group: SpaceGroup

    @classmethod
    def of(cls, atoms: Atoms, settings: RelaxSettings) -> State:
        """State of evaluated ``atoms``; forces are those that the constraints leave."""
        pressure = settings.pressure * GPa
        periodic = bool(atoms.pbc.all())
        energy = float(atoms.get_potential_energy())
        volume = float(atoms.get_volume()) if periodic else None
        stress = atoms.get_stress() if periodic and "stress" in atoms.calc.results else None
        left = None
        if stress is not None and settings.cell != "none":
            left = float(np.abs(residual_stress(settings.cell, atoms.cell[:], stress, pressure)).max())
        return cls(
            energy=energy,
            energy_per_atom=energy / len(atoms),
            enthalpy=energy + pressure * volume if volume is not None and pressure else None,
            max_force=_largest(atoms.get_forces()),
            max_force_with_fixed=_largest(atoms.get_forces(apply_constraint=False)),
            stress=stress,
            max_stress=left,
            volume=volume,
            cell=atoms.cell.array.copy(),
            lengths=atoms.cell.lengths(),
            angles=atoms.cell.angles(),
            space_group=space_group(atoms, settings.symmetry_tolerance),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, stresses in GPa."""
        has_cell = self.volume is not None
        return {
            "energy": self.energy,
            "energy_per_atom": self.energy_per_atom,
            "enthalpy": self.enthalpy,
            "max_force": self.max_force,
            "max_force_with_fixed": self.max_force_with_fixed,
            "stress": None if self.stress is None else (self.stress / GPa).tolist(),
            "pressure": None if self.stress is None else float(-self.stress[:3].mean() / GPa),
            "max_stress": None if self.max_stress is None else self.max_stress / GPa,
            "volume": self.volume,
            "cell": self.cell.tolist() if has_cell else None,
            "lengths": self.lengths.tolist() if has_cell else None,
            "angles": self.angles.tolist() if has_cell else None,
            "space_group": self.space_group.to_dict(),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> State:
        """The state that :meth:`to_dict` wrote (the cell of a structure without volume is not in it: zero)."""
        has_cell = document["volume"] is not None
        stress, left = document["stress"], document["max_stress"]
        return cls(
            energy=document["energy"],
            energy_per_atom=document["energy_per_atom"],
            enthalpy=document["enthalpy"],
            max_force=document["max_force"],
            max_force_with_fixed=document["max_force_with_fixed"],
            stress=None if stress is None else np.array(stress) * GPa,
            max_stress=None if left is None else left * GPa,
            volume=document["volume"],
            cell=np.array(document["cell"]) if has_cell else np.zeros((3, 3)),
            lengths=np.array(document["lengths"]) if has_cell else np.zeros(3),
            angles=np.array(document["angles"]) if has_cell else np.full(3, 90.0),
            space_group=SpaceGroup(**document["space_group"]),
        )


def _largest(forces: Array) -> float:
    """Largest force norm in eV/Å."""
    return float(np.linalg.norm(forces, axis=1).max())


@dataclass(frozen=True)
class RelaxResult:
    """A finished (or stopped) relaxation and its checks.

    Attributes
    ----------
    atoms : Atoms
        Final geometry with its results attached and the constraints of the input.
    status : str
        ``converged``, ``not-converged``, ``interrupted`` or ``exploded``.
    message : str
        Why it stopped, empty when converged.
    initial, final : State
    max_displacement : float
        Farthest any atom moved, in the frame of the deforming cell (Å).
    steps, force_calls : int
    wall_time : float
        Seconds, compilation included.
    warnings : tuple of str
    """

    atoms: Atoms
    settings: RelaxSettings
    status: Status
    message: str
    initial: State
    final: State
    max_displacement: float
    steps: int
    force_calls: int
    wall_time: float
    model: str
    warnings: tuple[str, ...] = field(default=())

    @property
    def converged(self) -> bool:
        """Whether the criteria were met."""
        return self.status == "converged"

    def raise_for_status(self) -> None:
        """Raise what the status means: NotConvergedError, PhysicsError, KeyboardInterrupt, or nothing."""
        if self.status == "not-converged":
            raise NotConvergedError(self.message, "raise --steps, or try another --optimizer")
        if self.status == "exploded":
            raise PhysicsError(self.message)
        if self.status == "interrupted":
            raise KeyboardInterrupt

    def to_dict(self) -> dict[str, Any]:
        """JSON form with ``_units``."""
        return {
            "_units": UNITS,
            "formula": self.atoms.get_chemical_formula(),
            "atoms": len(self.atoms),
            "status": self.status,
            "converged": self.converged,
            "message": self.message,
            "model": self.model,
            "settings": self.settings.to_dict(),
            "initial": self.initial.to_dict(),
            "final": self.final.to_dict(),
            "max_displacement": self.max_displacement,
            "steps": self.steps,
            "force_calls": self.force_calls,
            "wall_time": self.wall_time,
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], atoms: Atoms, settings: RelaxSettings) -> RelaxResult:
        """The result of which :meth:`to_dict` is the document and ``atoms`` the final geometry, results attached."""
        return cls(
            atoms=atoms,
            settings=settings,
            status=document["status"],
            message=document["message"],
            initial=State.from_dict(document["initial"]),
            final=State.from_dict(document["final"]),
            max_displacement=document["max_displacement"],
            steps=document["steps"],
            force_calls=document["force_calls"],
            wall_time=document["wall_time"],
            model=document["model"],
            warnings=tuple(document["warnings"]),
        )
