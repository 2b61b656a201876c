r"""Lattice thermal conductivity from third-order force constants, in the relaxation-time approximation, by phono3py.

.. math:: \kappa = \frac{1}{N_q V}\sum_{qs} C_{qs}\, v_{qs}\otimes v_{qs}\,\tau_{qs},\quad
          \tau_{qs} = 1/(2\cdot 2\pi\,\Gamma_{qs}),

with :math:`\Gamma` from three-phonon scattering and, if asked for, isotopes. All supercells with one and two displaced
atoms are one batch. A. Togo, L. Chaput, I. Tanaka, Phys. Rev. B 91, 094306 (2015).

Comparison of two conductivities, as for the total in B. Póta et al., arXiv:2408.00755 (the measure per mode there needs
the reference by mode):

.. math:: \mathrm{SRE} = 2\,|\kappa - \kappa_0|/(\kappa + \kappa_0) .
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gracecli.errors import PluginError, UsageError
from gracecli.run.phonon_cells import from_phonopy, supercell_matrix, to_phonopy
from gracecli.run.phonons import SYMMETRY_TOLERANCE, PhononSettings, Progress, evaluate_forces

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

Array = NDArray[np.float64]

INSTALL_HINT = "pip install 'gracecli[kappa]'"


@dataclass(frozen=True)
class ConductivitySettings:
    """What to compute.

    Attributes
    ----------
    min_length : float
        Å; shortest vector of the supercell for third-order force constants.
    displacement : float
        Å.
    mesh : float
        Å; the q mesh has a spacing of 2 pi / mesh.
    temperatures : tuple of float
        K.
    isotopes : bool
        Scattering by the natural isotopes too.
    """

    min_length: float = 10.0
    displacement: float = 0.03
    mesh: float = 40.0
    temperatures: tuple[float, ...] = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 800.0, 1000.0)
    isotopes: bool = False

    def __post_init__(self) -> None:
        if not (self.min_length > 0 and self.displacement > 0 and self.mesh > 0):
            raise UsageError("lengths of the thermal conductivity must be positive")


@dataclass(frozen=True)
class Conductivity:
    """Thermal conductivity.

    Attributes
    ----------
    temperatures : (n,) float64
        K.
    kappa : (n, 6) float64
        W/m/K: xx yy zz yz xz xy.
    supercell_atoms, supercells : int
        Of the third-order force constants.
    mesh : tuple of int
    """

    temperatures: Array
    kappa: Array
    supercell_atoms: int
    supercells: int
    mesh: tuple[int, int, int]

    @property
    def average(self) -> Array:
        """Mean of the diagonal (n,), W/m/K."""
        return np.asarray(self.kappa[:, :3].mean(axis=1))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "temperatures": self.temperatures.tolist(),
            "kappa": self.kappa.tolist(),
            "average": self.average.tolist(),
            "supercell_atoms": self.supercell_atoms,
            "supercells": self.supercells,
            "mesh": list(self.mesh),
        }


def require_phono3py() -> None:
    """Raise where phono3py is not installed.

    Raises
    ------
    PluginError
        One line that names the extra.
    """
    from importlib.util import find_spec

    if find_spec("phono3py") is None:
        raise PluginError("the thermal conductivity needs phono3py", INSTALL_HINT)


def conductivity(
    reference: Atoms,
    calculator: Calculator,
    phonon_settings: PhononSettings,
    settings: ConductivitySettings | None = None,
    progress: Progress | None = None,
) -> Conductivity:
    """Thermal conductivity of a relaxed reference.

    Parameters
    ----------
    reference : Atoms
        Relaxed as for phonons.
    calculator : ase.calculators.calculator.Calculator
    phonon_settings : PhononSettings
        The supercell of second-order force constants is the one of the phonons.
    settings : ConductivitySettings, optional
    progress : callable, optional
        Called with supercells done and in all.

    Raises
    ------
    PluginError
        phono3py is not installed.
    """
    require_phono3py()
    from phono3py import Phono3py
    from phonopy.structure.cells import guess_primitive_matrix

    settings = settings or ConductivitySettings()
    unit = to_phonopy(reference)
    primitive = np.asarray(guess_primitive_matrix(unit, symprec=SYMMETRY_TOLERANCE))
    third = Phono3py(
        unit,
        supercell_matrix=supercell_matrix(reference, None, settings.min_length),
        primitive_matrix=primitive if abs(np.linalg.det(primitive)) < 0.99 else np.eye(3),
        phonon_supercell_matrix=supercell_matrix(reference, phonon_settings.supercell, phonon_settings.min_length),
        symprec=SYMMETRY_TOLERANCE,
        log_level=0,
    )
    third.generate_displacements(distance=settings.displacement)
    third.generate_fc2_displacements(distance=phonon_settings.displacement)
    cells = [third.supercell, *third.supercells_with_displacements]
    large = [third.phonon_supercell, *third.phonon_supercells_with_displacements]
    total = len(cells) + len(large)

    def small_done(done: int, _: int) -> None:
        if progress is not None:
            progress(done, total)

    def large_done(done: int, _: int) -> None:
        if progress is not None:
            progress(len(cells) + done, total)

    forces = evaluate_forces([from_phonopy(c) for c in cells], calculator, small_done)
    third.forces = forces[1:] - forces[0]
    forces = evaluate_forces([from_phonopy(c) for c in large], calculator, large_done)
    third.phonon_forces = forces[1:] - forces[0]
    third.produce_fc3()
    third.symmetrize_fc3()
    third.produce_fc2()
    third.symmetrize_fc2()
    third.mesh_numbers = settings.mesh
    third.init_phph_interaction()
    third.run_thermal_conductivity(temperatures=list(settings.temperatures), is_isotope=settings.isotopes)
    found: Any = third.thermal_conductivity
    a, b, c = (int(n) for n in third.mesh_numbers)
    return Conductivity(
        temperatures=np.asarray(found.temperatures),
        kappa=np.asarray(found.kappa)[0],
        supercell_atoms=len(third.supercell),
        supercells=total,
        mesh=(a, b, c),
    )


def symmetric_relative_error(kappa: float, reference: float) -> float:
    """2 |kappa - reference| / (kappa + reference); 2 where a conductivity is zero or negative."""
    if kappa <= 0 or reference <= 0:
        return 2.0
    return 2.0 * abs(kappa - reference) / (kappa + reference)
