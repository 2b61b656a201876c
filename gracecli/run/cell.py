r"""Cell modes of a relaxation: which deformations are free, and what stress is left in them.

A cell :math:`h` (rows :math:`a_i`) deforms from :math:`h_0`. At external pressure :math:`p` the enthalpy
:math:`H = E + pV` is stationary in the free deformations. With the stress :math:`\sigma` tensile-positive:

===========  ==================================================  =================================================
mode         cell                                                residual stress (zero at the minimum)
===========  ==================================================  =================================================
``none``     :math:`h = h_0`                                     none
``full``     :math:`h = h_0 \exp U`, symmetric U                 :math:`\sigma + p` (all six components)
``volume``   :math:`h = h_0\,e^u`                                :math:`\mathrm{tr}\,\sigma/3 + p`
``shape``    :math:`h = h_0 \exp U`, :math:`\mathrm{tr}\,U = 0`  :math:`\sigma - \mathrm{tr}\,\sigma/3`
``lengths``  :math:`h = \mathrm{diag}(e^{q_i})\,h_0`             :math:`(h \sigma h^{-1})_{ii} + p`
===========  ==================================================  =================================================

Gradients follow from :math:`dH = V\,(\sigma + p) : h^{-1} dh`. For the lengths that is the last column times V (a mask
on the Cartesian strain, which other tools use, keeps angles in axis-aligned orthogonal cells only). For
:math:`S = \exp U = Q e^\Lambda Q^T` (Daleckii and Krein):

.. math:: \partial H/\partial U = V\,Q\,[\Gamma \circ Q^T \mathrm{sym}((\sigma+p) S^{-1})\,Q]\,Q^T,\quad
          \Gamma_{ij} = (e^{\lambda_i} - e^{\lambda_j})/(\lambda_i - \lambda_j).

ASE's ``FrechetCellFilter`` has the same minimum. It takes the matrix logarithm of the cell at every step (with
warnings about its accuracy), and its nine coordinates let the cell rotate; six symmetric ones do not.

======================  ==========================================================
symbol                  variable
======================  ==========================================================
h, h_0                  ``cell``, ``start_cell`` (Å)
:math:`\sigma`, p       ``stress`` (eV/Å^3, xx yy zz yz xz xy), ``pressure`` (eV/Å^3)
U, or diag(q)           ``strain``
======================  ==========================================================

Sources: Tadmor et al., Phys. Rev. B 59, 235 (1999); Higham, Functions of Matrices (SIAM 2008), theorem 3.11.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms
from ase.filters import Filter
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
        return np.asarray(full_3x3_to_voigt_6_stress(tensor + pressure * np.eye(3)))
    if mode == "volume":
        return np.array([np.trace(tensor) / 3.0 + pressure])
    if mode == "shape":
        return np.asarray(full_3x3_to_voigt_6_stress(tensor - np.trace(tensor) / 3.0 * np.eye(3)))
    return np.asarray(np.diag(cell @ tensor @ np.linalg.inv(cell)) + pressure)


class CellFilter(Filter):
    """Atoms and cell as one set of coordinates for ASE's optimizers.

    Generalised positions (N + 3, 3): the atoms in the undeformed cell (Å), then ``exp_cell_factor`` (Å) times the
    strain coordinates. Fixed atoms keep their fractional coordinates. A proposed step that exceeds
    :data:`MAX_DISPLACEMENT` or :data:`MAX_STRAIN` is scaled down as a whole.

    Parameters
    ----------
    atoms : Atoms
        With a calculator; moved in place.
    mode : str
        Cell mode; with ``none`` there are N rows only.
    pressure : float
        eV/Å^3.
    scale : float, optional
        Scale of the strain coordinates in Å; default :func:`cell_scale`.
    """

    def __init__(self, atoms: Atoms, mode: CellMode, pressure: float = 0.0, scale: float | None = None) -> None:
        super().__init__(atoms, indices=range(len(atoms)))
        self.mode = mode
        self.pressure = pressure
        self.exp_cell_factor = cell_scale(atoms) if scale is None else scale  # ASE's name: CellAwareBFGS asks for it
        self.mask = np.eye(3) if mode == "lengths" else np.ones((3, 3))
        self.limit_steps = True  # off for optimizers that do not look where their step ended
        self.start_cell: Array = atoms.cell.array.copy()
        self.strain: Array = np.zeros((3, 3))

    def __len__(self) -> int:
        return len(self.atoms) + (0 if self.mode == "none" else 3)

    def get_potential_energy(self, force_consistent: bool = True) -> float:
        """Energy, or enthalpy under pressure (eV)."""
        energy = float(self.atoms.get_potential_energy(force_consistent=force_consistent))
        return energy + self.pressure * float(self.atoms.cell.volume) if self.pressure else energy

    def get_positions(self) -> Array:
        """Generalised positions (N + 3, 3) in Å."""
        if self.mode == "none":
            return np.asarray(self.atoms.get_positions())
        undeformed = self.atoms.positions @ np.linalg.inv(self._deformation())
        return np.vstack([undeformed, self.strain * self.exp_cell_factor])

    def set_positions(self, positions: Array, **options: Any) -> None:
        """Move towards ``positions`` as far as the step limits allow."""
        old = self.get_positions()
        step = np.asarray(positions) - old
        count = len(self.atoms)
        change = self._allowed(step[count:] / self.exp_cell_factor) if self.mode != "none" else np.zeros((3, 3))
        excess = 1.0
        if self.limit_steps:
            displacement = float(np.linalg.norm(step[:count], axis=1).max(initial=0.0))
            excess = max(1.0, displacement / MAX_DISPLACEMENT, float(np.linalg.norm(change)) / MAX_STRAIN)
        if self.mode == "none":
            self.atoms.set_positions(old + step / excess, **options)
            return
        self.strain = self.strain + change / excess
        self.atoms.set_cell(self._strained_cell(), scale_atoms=True)
        self.atoms.set_positions((old[:count] + step[:count] / excess) @ self._deformation(), **options)

    def get_forces(self, **options: Any) -> Array:
        """Minus the gradient of the enthalpy (N + 3, 3) in eV/Å."""
        forces = self.atoms.get_forces(**options)
        if self.mode == "none":
            return np.asarray(forces)
        gradient = self.atoms.cell.volume * self._strain_gradient(self.atoms.get_stress(**options))
        return np.vstack([forces @ self._deformation().T, -gradient / self.exp_cell_factor])

    def _strained_cell(self) -> Array:
        if self.mode == "lengths":
            return np.exp(np.diag(self.strain))[:, None] * self.start_cell
        values, vectors = np.linalg.eigh(self.strain)
        return self.start_cell @ (vectors * np.exp(values)) @ vectors.T

    def _deformation(self) -> Array:
        """F^T with cell = start_cell F^T, from the cell itself (symmetry constraints may have adjusted it)."""
        return np.asarray(np.linalg.solve(self.start_cell, self.atoms.cell.array))

    def _allowed(self, strain: Array) -> Array:
        """Projection of strain coordinates, or their gradient, on those that are free."""
        if self.mode == "lengths":
            return np.diag(np.diag(strain))
        symmetric = (strain + strain.T) / 2.0
        isotropic = np.trace(symmetric) / 3.0 * np.eye(3)
        return {"volume": isotropic, "shape": symmetric - isotropic}.get(self.mode, symmetric)

    def _strain_gradient(self, stress: Array) -> Array:
        """Gradient of the enthalpy per volume by the strain coordinates (3, 3) in eV/Å^3."""
        if self.mode == "lengths":
            return np.diag(residual_stress("lengths", self.atoms.cell.array, stress, self.pressure))
        values, vectors = np.linalg.eigh(self.strain)
        # The deformation from its definition: a symmetry constraint changes the cell by rounding only.
        inverse = (vectors * np.exp(-values)) @ vectors.T
        work = (voigt_6_to_full_3x3_stress(stress) + self.pressure * np.eye(3)) @ inverse
        half = (values[:, None] - values[None, :]) / 2.0
        mean = np.exp((values[:, None] + values[None, :]) / 2.0)
        divided = mean * (1.0 + half**2 / 6.0 + half**4 / 120.0)
        large = np.abs(half) > 1e-2
        divided[large] = (mean * np.sinh(half))[large] / half[large]
        gradient = vectors @ (divided * (vectors.T @ (work + work.T) @ vectors) / 2.0) @ vectors.T
        return self._allowed(gradient)


def cell_scale(atoms: Atoms) -> float:
    """Scale of the strain coordinates in Å: sqrt(N).

    The curvature of the energy in a strain is V C, proportional to the number of atoms; divided by the square of this
    scale it is (V/N) C, of the order of 10 to 20 eV/Å^2 in any solid and any supercell: that of an atomic
    displacement. With ASE's default, N, the cell is N times too soft: relaxing a strained 107-atom cell then took
    107 evaluations with LBFGS and 255 with FIRE, instead of 20 and 44 (tests/run/optimizers.md).
    """
    return float(np.sqrt(len(atoms)))
