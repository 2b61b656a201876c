r"""Integrators at constant pressure: Martyna-Tobias-Klein, isotropic and with all of the cell; Berendsen.

Martyna-Tobias-Klein, for a cell with the momentum matrix ``p_g`` and external pressure ``P0``::

    dr/dt = p/m + (p_g/W) r               dp/dt = F - (p_g/W) p - tr(p_g)/(N_f W) p - p p_1/Q_1
    dh/dt = h p_g/W  (rows of h)          dp_g/dt = V (P - P0 1) + (S/N_f) 1 - p_g p_xi/R,     S = sum p^2/m
    P = (sum p p/m + virial) / V          W = (N_f + 3) kT tau_p^2 / 3
    conserved: K + U + P0 V + tr(p_g^T p_g)/2W + baths of both chains

``p_g`` is symmetric, as the stress is: the cell does not rotate, and it has six degrees of freedom, not nine (section
II C of the source; ASE 3.29 thermostats nine, which heats the cell by half and quadruples the fluctuation of the
volume, tests/run/md.md). The isotropic variant has the single variable ``eps = ln(V/V0)/3`` with
``W = (N_f + 3) kT tau_p^2``. One step, each half mirrored::

    chain of the cell, chain of the atoms, p_g, p,  r and h,  p, p_g, chain of the atoms, chain of the cell

with the linear parts solved exactly in the eigenvectors of ``p_g``.

Berendsen (``npt-berendsen``) approaches temperature and pressure exponentially and samples no ensemble::

    p <- p sqrt(1 + h/tau_T (T0/T - 1))            r, h <- mu r, mu h,     mu^3 = 1 - h/(tau_p B) (P0 - P)

=================  ================================================
symbol             variable
=================  ================================================
p_g, eps momentum  ``strain_momentum`` ((3, 3); (1, 1) if isotropic)
W                  ``mass``
P0, B              ``target``, ``bulk_modulus`` (eV/Å^3)
=================  ================================================

Sources: G. J. Martyna, D. J. Tobias, M. L. Klein, J. Chem. Phys. 101, 4177 (1994); G. J. Martyna, M. E. Tuckerman,
D. J. Tobias, M. L. Klein, Mol. Phys. 87, 1117 (1996); H. J. C. Berendsen et al., J. Chem. Phys. 81, 3684 (1984).
"""

from __future__ import annotations

import math

import numpy as np
from ase.units import GPa, fs

from gracecli.errors import InputError
from gracecli.run.md_chain import Chain
from gracecli.run.md_integrators import VelocityVerlet
from gracecli.run.md_settings import MdSettings
from gracecli.run.md_system import Array, System


class Barostat(VelocityVerlet):
    """What barostats share.

    Raises
    ------
    InputError
        No stress to act on, fixed atoms, or a single atom.
    """

    def __init__(self, system: System, settings: MdSettings, rng: np.random.Generator) -> None:
        super().__init__(system, settings, rng)
        if not system.periodic:
            raise InputError(
                f"{settings.ensemble} needs a structure that is periodic in three directions", "use an nvt ensemble"
            )
        if "stress" not in system.calculator.implemented_properties:
            raise InputError(f"{settings.ensemble} needs a stress, and the calculator gives none")
        if system.freedom < 1:
            raise InputError(f"{settings.ensemble} needs two atoms or more", "repeat the cell with --supercell")
        if not system.all_free:
            raise InputError(f"{settings.ensemble} cannot move the cell of a structure with fixed atoms")
        self.target = settings.pressure * GPa
        self.tau_p = settings.barostat_time * fs


class Mtk(Barostat):
    """Martyna-Tobias-Klein, all of the cell."""

    cell_freedom = 6

    def __init__(self, system: System, settings: MdSettings, rng: np.random.Generator) -> None:
        super().__init__(system, settings, rng)
        self.freedom = system.freedom
        self.mass = (self.freedom + 3) * self.kT * self.tau_p**2 / 3.0
        self.strain_momentum: Array = np.zeros((3, 3))
        self.chain = Chain(self.freedom, self.kT, self.tau, settings.chain)
        self.cell_chain = Chain(self.cell_freedom, self.kT, self.tau_p, settings.chain)

    def set_temperature(self, temperature: float) -> None:
        """Target in K from now on (masses stay)."""
        super().set_temperature(temperature)
        self.chain.kT = self.cell_chain.kT = self.kT

    def advance(self, system: System) -> None:
        """One step (module docstring)."""
        half = 0.5 * self.step
        self._thermostat_cell(half)
        system.momenta *= self.chain.integrate(system.twice_kinetic(), half)
        self._kick_cell(system, half)
        rates = self._rates()
        self._kick(system, half, *rates)
        self._drift(system, self.step, *rates)
        system.evaluate()
        self._kick(system, half, *rates)
        self._kick_cell(system, half)
        system.momenta *= self.chain.integrate(system.twice_kinetic(), half)
        self._thermostat_cell(half)

    def conserved_energy(self, system: System) -> float:
        """Energy of the extended system, eV."""
        baths = self.chain.energy() + self.cell_chain.energy()
        return system.energy + system.kinetic_energy() + self.target * system.volume() + baths + self.cell_energy()

    def cell_energy(self) -> float:
        """Kinetic energy of the cell, eV."""
        return float(np.sum(self.strain_momentum**2)) / (2.0 * self.mass)

    def state(self) -> dict[str, Array]:
        """Cell momentum and both chains."""
        own = {"strain_momentum": self.strain_momentum.copy(), "mass": np.array(self.mass)}
        return {**super().state(), **own, **self.chain.state("chain"), **self.cell_chain.state("cell_chain")}

    def restore(self, arrays: dict[str, Array]) -> None:
        """Inverse of :meth:`state`."""
        super().restore(arrays)
        self.strain_momentum, self.mass = np.array(arrays["strain_momentum"]), float(arrays["mass"])
        self.chain.restore("chain", arrays)
        self.cell_chain.restore("cell_chain", arrays)

    def _thermostat_cell(self, time: float) -> None:
        self.strain_momentum = self.strain_momentum * self.cell_chain.integrate(2.0 * self.cell_energy(), time)

    def _kick_cell(self, system: System, time: float) -> None:
        stress = system.full_stress()
        assert stress is not None
        along = system.twice_kinetic() / self.freedom - system.volume() * self.target
        force = along * np.eye(3) - system.volume() * stress
        self.strain_momentum = self.strain_momentum + time * force

    def _rates(self) -> tuple[Array, Array]:
        """Strain rates along their principal axes, and the axes (columns)."""
        values, axes = np.linalg.eigh(self.strain_momentum / self.mass)
        return values, axes

    def _kick(self, system: System, time: float, values: Array, axes: Array) -> None:
        x = -time * (values + values.sum() / self.freedom)
        momenta, forces = system.momenta @ axes, system.forces @ axes
        system.momenta = (momenta * np.exp(x) + time * forces * mean_exponential(x)) @ axes.T

    def _drift(self, system: System, time: float, values: Array, axes: Array) -> None:
        x = time * values
        positions, velocities = system.positions @ axes, (system.momenta / system.masses) @ axes
        system.positions = (positions * np.exp(x) + time * velocities * mean_exponential(x)) @ axes.T
        system.cell = (system.cell @ axes * np.exp(x)) @ axes.T


class MtkIsotropic(Mtk):
    """Martyna-Tobias-Klein, the cell keeps its shape."""

    cell_freedom = 1

    def __init__(self, system: System, settings: MdSettings, rng: np.random.Generator) -> None:
        super().__init__(system, settings, rng)
        self.mass = (self.freedom + 3) * self.kT * self.tau_p**2
        self.strain_momentum = np.zeros((1, 1))

    def _kick_cell(self, system: System, time: float) -> None:
        force = 3.0 * system.volume() * (system.pressure() - self.target)
        force += 3.0 * system.twice_kinetic() / self.freedom
        self.strain_momentum = self.strain_momentum + time * force

    def _rates(self) -> tuple[Array, Array]:
        return np.full(3, self.strain_momentum[0, 0] / self.mass), np.eye(3)


class Berendsen(Barostat):
    """Weak coupling to a bath and a pressure: for equilibration only, it samples no ensemble."""

    def __init__(self, system: System, settings: MdSettings, rng: np.random.Generator) -> None:
        super().__init__(system, settings, rng)
        self.bulk_modulus = settings.bulk_modulus * GPa

    def advance(self, system: System) -> None:
        """Velocity Verlet, then scale momenta and cell; forces are those before the tiny change of the cell."""
        super().advance(system)
        kinetic = system.twice_kinetic()
        if kinetic > 0.0:
            ratio = system.freedom * self.kT / kinetic
            system.momenta *= math.sqrt(max(1.0 + min(self.step / self.tau, 1.0) * (ratio - 1.0), 0.0))
        change = self.step / (self.tau_p * self.bulk_modulus) * (self.target - system.pressure())
        scale = (1.0 - min(max(change, -0.01), 0.01)) ** (1.0 / 3.0)
        system.positions *= scale
        system.cell = system.cell * scale

    def conserved_energy(self, system: System) -> float:
        """Nothing is conserved."""
        return float("nan")


def mean_exponential(x: Array) -> Array:
    """``(exp(x) - 1) / x``, right at zero too."""
    small = np.abs(x) < 1e-8
    safe = np.where(small, 1.0, x)
    return np.asarray(np.where(small, 1.0 + 0.5 * x, np.expm1(safe) / safe))
