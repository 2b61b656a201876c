r"""Cell modes of a relaxation: which deformations are free, and what stress is left in them.

A cell :math:`h` (rows :math:`a_i`) deforms as :math:`h = h_0 F^T`. At external pressure :math:`p` the enthalpy
:math:`H = E + pV` is stationary in the free deformations. With the stress :math:`\sigma` tensile-positive:

===========  ==========================================  =========================================================
mode         free deformation                            residual stress (zero at the minimum)
===========  ==========================================  =========================================================
``none``     :math:`F = 1`                               none
``full``     :math:`F = \exp U`, any U                   :math:`\sigma + p` (all six components)
``volume``   :math:`F = e^{u}\,1`                        :math:`\mathrm{tr}\,\sigma/3 + p`
``shape``    :math:`F = \exp U`, :math:`\mathrm{tr} U=0` :math:`\sigma - \mathrm{tr}\,\sigma/3`
``lengths``  :math:`a_i \to e^{q_i} a_i`                 :math:`(h \sigma h^{-1})_{ii} + p`
===========  ==========================================  =========================================================

The last row follows from :math:`dE = V\,\sigma:\epsilon` with :math:`\epsilon = h^{-1}\,\mathrm{diag}(dq)\,h`. A mask
on the Cartesian strain, which other tools use for it, keeps angles in axis-aligned orthogonal cells only.

======================  ==========================================================
symbol                  variable
======================  ==========================================================
h, h_0                  ``cell``, ``self.orig_cell`` (Å)
:math:`\sigma`, p       ``stress`` (eV/Å^3, xx yy zz yz xz xy), ``pressure`` (eV/Å^3)
q, U                    the last three rows of the generalised positions / ``scale``
======================  ==========================================================

Sources: Tadmor et al., Phys. Rev. B 59, 235 (1999); ASE's ``FrechetCellFilter`` for the gradient with respect to U.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms
from ase.filters import Filter, FrechetCellFilter, UnitCellFilter
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

Array = NDArray[np.float64]
CellMode = Literal["none", "full", "volume", "shape", "lengths"]
CELL_MODES: tuple[CellMode, ...] = get_args(CellMode)

#: No atom moves farther than this (Å) in one step, whatever the optimizer proposes.
MAX_DISPLACEMENT = 0.2
#: The logarithmic strain of one step stays below this; a step of 0.2 in the cell coordinates of a small cell would be
#: tens of percent, and symmetry constraints are exact to first order only.
MAX_STRAIN = 0.05


def residual_stress(mode: CellMode, cell: Array, stress: Array, pressure: float) -> Array:
    """Stress components that the mode lets relax, relative to their target.

    Parameters
    ----------
    mode : str
        Cell mode; ``none`` gives an empty array.
    cell : (3, 3) float64
        Å.
    stress : (6,) float64
        eV/Å^3, tensile-positive, xx yy zz yz xz xy.
    pressure : float
        eV/Å^3, positive compresses.

    Returns
    -------
    (M,) float64
        eV/Å^3; all zero at the minimum of the enthalpy.
    """
    if mode == "none":
        return np.zeros(0)
    tensor = voigt_6_to_full_3x3_stress(stress)
    if mode == "full":
        return full_3x3_to_voigt_6_stress(tensor + pressure * np.eye(3))
    if mode == "volume":
        return np.array([np.trace(tensor) / 3.0 + pressure])
    if mode == "shape":
        return full_3x3_to_voigt_6_stress(tensor - np.trace(tensor) / 3.0 * np.eye(3))
    return np.diag(cell @ tensor @ np.linalg.inv(cell)) + pressure


class StepLimit:
    """Mixin for filters: scale a proposed step as a whole so that it exceeds neither limit."""

    atoms: Atoms

    def set_positions(self, new: Array, **options: Any) -> None:
        """Move towards ``new`` (N or N + 3, 3), as far as the limits allow."""
        old = self.get_positions()  # type: ignore[attr-defined]
        step = new - old
        count = len(self.atoms)
        excess = np.linalg.norm(step[:count], axis=1).max(initial=0.0) / MAX_DISPLACEMENT
        if len(step) > count:
            excess = max(excess, float(np.linalg.norm(step[count:])) / self.exp_cell_factor / MAX_STRAIN)  # type: ignore[attr-defined]
        if excess > 1.0:
            new = old + step / excess
        super().set_positions(new, **options)  # type: ignore[misc]


class AtomsFilter(StepLimit, Filter):
    """All atoms, fixed cell."""

    def __init__(self, atoms: Atoms) -> None:
        super().__init__(atoms, indices=range(len(atoms)))


class StrainFilter(StepLimit, FrechetCellFilter):
    """Atoms and the logarithm of the deformation gradient."""


class _LatticeLengths(UnitCellFilter):
    """Atoms and the logarithms of the three lattice vector lengths; angles and orientation stay.

    Generalised positions: rows 0..N-1 are the atoms in the undeformed cell, the diagonal of the last three rows is
    ``scale`` times :math:`q`.
    """

    def __init__(self, atoms: Atoms, exp_cell_factor: float, scalar_pressure: float) -> None:
        super().__init__(atoms, mask=np.eye(3), scalar_pressure=scalar_pressure)
        self.exp_cell_factor = exp_cell_factor

    def get_positions(self) -> Array:
        """Generalised positions (N + 3, 3)."""
        positions = super().get_positions()
        stretch = self.atoms.cell.lengths() / np.linalg.norm(self.orig_cell, axis=1)
        positions[len(self.atoms) :] = np.diag(np.log(stretch)) * self.exp_cell_factor
        return positions

    def get_forces(self, **options: Any) -> Array:
        """Minus the derivative of the enthalpy by the generalised positions (N + 3, 3)."""
        count = len(self.atoms)
        stress = self.atoms.get_stress(**options)
        residual = residual_stress("lengths", self.atoms.cell[:], stress, self.scalar_pressure)
        forces = np.zeros((count + 3, 3))
        forces[:count] = self.atoms.get_forces(**options) @ self.deform_grad()
        forces[count:] = np.diag(-self.atoms.cell.volume * residual) / self.exp_cell_factor
        return forces

    def set_positions(self, new: Array, **options: Any) -> None:
        """Set cell and atoms from generalised positions (N + 3, 3)."""
        count = len(self.atoms)
        stretch = np.exp(np.diag(new[count:]) / self.exp_cell_factor)
        cell = stretch[:, None] * np.asarray(self.orig_cell)
        self.atoms.set_cell(cell, scale_atoms=True)
        self.atoms.set_positions(new[:count] @ np.linalg.solve(self.orig_cell, cell), **options)


class LatticeLengthsFilter(StepLimit, _LatticeLengths):
    """Atoms and lattice vector lengths, with the step limit."""


def cell_scale(atoms: Atoms) -> float:
    """Scale of the cell coordinates, in Å: sqrt(N).

    The curvature of the energy in a strain is V C, proportional to the number of atoms; divided by the square of this
    scale it is (V/N) C, of the order of 10 to 20 eV/Å^2 in any solid and any supercell: that of an atomic
    displacement. ASE's default, N, leaves the cell N times too soft (measured in tests/run/optimizers.md).
    """
    return float(np.sqrt(len(atoms)))


def make_filter(atoms: Atoms, mode: CellMode, pressure: float, scale: float | None = None) -> Filter:
    """The ASE filter of a cell mode.

    Parameters
    ----------
    atoms : Atoms
        With a calculator; moved in place by the optimizer.
    mode : str
        Cell mode.
    pressure : float
        eV/Å^3.
    scale : float, optional
        Scale of the cell coordinates; default :func:`cell_scale`.
    """
    if mode == "none":
        return AtomsFilter(atoms)
    scale = cell_scale(atoms) if scale is None else scale
    if mode == "lengths":
        return LatticeLengthsFilter(atoms, exp_cell_factor=scale, scalar_pressure=pressure)
    return StrainFilter(
        atoms,
        exp_cell_factor=scale,
        hydrostatic_strain=mode == "volume",
        constant_volume=mode == "shape",
        scalar_pressure=pressure,
    )
