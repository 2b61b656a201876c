r"""Integrators at constant volume: velocity Verlet, Langevin (BAOAB), velocity rescaling, Nosé-Hoover chains.

All are symmetric splittings of *kick* ``B: p += h F``, *drift* ``A: r += h p/m`` and a thermostat, with step ``h``::

    nve           B/2 A B/2
    nvt-langevin  B/2 A/2 O A/2 B/2        O: p <- c p + sqrt((1 - c^2) m kT) xi,     c = exp(-h / tau)
    nvt-csvr      B/2 A B/2 R              R: p <- alpha p,
                  alpha^2 = c + (1 - c) K0/(N_f K) sum_{i=1..N_f} xi_i^2 + 2 xi_1 sqrt(c (1 - c) K0/(N_f K)),
                  K0 = N_f kT / 2,         sign of alpha: that of xi_1 + sqrt(c N_f K / ((1 - c) K0))
    nvt-nhc       C/2 B/2 A B/2 C/2        C: a chain of thermostats, :mod:`gracecli.run.md_chain`

Every integrator books the heat Q that its thermostat gave to the atoms, so that ``K + V - Q`` is constant up to the
error of the timestep in every ensemble, also while the target temperature ramps: its drift is a check for all of them.

The energy of velocity Verlet oscillates by O(h^2), which hides a small drift. Its *shadow* energy is conserved to
O(h^4), from the Baker-Campbell-Hausdorff series::

    H~ = H - h^2/12 v · dF/dt - h^2/24 sum_i F_i^2 / m_i,      dF/dt = (3 F_n - 4 F_{n-1} + F_{n-2}) / 2h + O(h^2)

=================  =======================================================
symbol             variable
=================  =======================================================
h, tau, kT         ``step``, ``tau``, ``kT`` (ASE units)
xi                 standard normal numbers of ``rng``
Q                  ``heat``, eV
H~                 ``VelocityVerlet.shadow_energy``
=================  =======================================================

Why not ASE's classes: they count 3N degrees of freedom where momentum conservation leaves 3N - 3 (a cell of 64 atoms
is 1.6 % too hot under Bussi and Nosé-Hoover, ASE 3.29), keep thermostat state where no checkpoint can reach it, and
know no ramps. tests/run/test_md_integrators.py compares with them under equal degrees of freedom.

Sources: L. Verlet, Phys. Rev. 159, 98 (1967); B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34 (2013);
G. Bussi, D. Donadio, M. Parrinello, J. Chem. Phys. 126, 014101 (2007), eq. A7, and for the sign G. Bussi,
M. Parrinello, Comput. Phys. Commun. 179, 26 (2008), eq. A8; R. D. Engle, R. D. Skeel, M. Drees, J. Comput. Phys. 206,
432 (2005).
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from ase.units import fs, kB

from gracecli.run.md_chain import Chain
from gracecli.run.md_settings import MdSettings
from gracecli.run.md_system import Array, System, conserved_freedom


class Integrator(Protocol):
    """What an ensemble's factory returns: ``factory(system, settings, rng)``.

    It may use ``rng`` only (its state is in every checkpoint), and must give every number it goes on from in
    :meth:`state`.
    """

    def set_temperature(self, temperature: float) -> None:
        """Target in K from now on."""
        ...

    def advance(self, system: System) -> None:
        """One step; evaluates the system once."""
        ...

    def conserved_energy(self, system: System) -> float:
        """What is constant for h -> 0, in eV; NaN if nothing is."""
        ...

    def shadow_energy(self, system: System) -> float:
        """The same to a higher order where that is known; NaN elsewhere."""
        ...

    def state(self) -> dict[str, Array]:
        """Numbers to go on from."""
        ...

    def restore(self, arrays: dict[str, Array]) -> None:
        """Inverse of :meth:`state`."""
        ...


class VelocityVerlet:
    """Constant energy; the base of the others."""

    def __init__(self, system: System, settings: MdSettings, rng: np.random.Generator) -> None:
        self.step = settings.timestep * fs
        self.tau = settings.thermostat_time * fs
        self.kT = kB * settings.target_temperature(0)
        self.rng = rng
        self.heat = 0.0
        self._before: list[Array] = []

    def set_temperature(self, temperature: float) -> None:
        """Target in K from now on."""
        self.kT = kB * temperature

    def advance(self, system: System) -> None:
        """Velocity Verlet."""
        self._before = [system.forces, *self._before[:1]]
        system.kick(0.5 * self.step)
        system.drift(self.step)
        system.evaluate()
        system.kick(0.5 * self.step)

    def conserved_energy(self, system: System) -> float:
        """``K + V - Q`` in eV."""
        return system.energy + system.kinetic_energy() - self.heat

    def shadow_energy(self, system: System) -> float:
        """``H~`` in eV; NaN in the first two steps and under a thermostat."""
        if type(self) is not VelocityVerlet or len(self._before) < 2:
            return float("nan")
        rate = (3.0 * system.forces - 4.0 * self._before[0] + self._before[1]) / (2.0 * self.step)
        power = float(np.einsum("ix,ix->", system.momenta / system.masses, rate))
        squares = float(np.einsum("ix,ix->", system.forces / system.masses, system.forces))
        return system.energy + system.kinetic_energy() - self.step**2 * (power / 12.0 + squares / 24.0)

    def state(self) -> dict[str, Array]:
        """Heat so far, and the forces of the last two steps."""
        found = {"heat": np.array(self.heat)}
        if type(self) is VelocityVerlet:
            found |= {f"before{place}": forces.copy() for place, forces in enumerate(self._before)}
        return found

    def restore(self, arrays: dict[str, Array]) -> None:
        """Inverse of :meth:`state`."""
        self.heat = float(arrays["heat"])
        self._before = [arrays[f"before{place}"] for place in range(2) if f"before{place}" in arrays]


class Langevin(VelocityVerlet):
    """Langevin dynamics, BAOAB splitting; momentum is not conserved, so all 3N degrees of freedom count."""

    def __init__(self, system: System, settings: MdSettings, rng: np.random.Generator) -> None:
        super().__init__(system, settings, rng)
        system.freedom = conserved_freedom(system, momentum=False)

    def advance(self, system: System) -> None:
        """B/2 A/2 O A/2 B/2."""
        half = 0.5 * self.step
        system.kick(half)
        system.drift(half)
        before = system.kinetic_energy()
        keep = math.exp(-self.step / self.tau)
        width = np.sqrt((1.0 - keep * keep) * self.kT * system.masses)
        noise = self.rng.standard_normal(system.momenta.shape)
        system.momenta = keep * system.momenta + width * noise
        if not system.all_free:
            system.momenta *= system.free
        self.heat += system.kinetic_energy() - before
        system.drift(half)
        system.evaluate()
        system.kick(half)


class VelocityRescaling(VelocityVerlet):
    """Canonical sampling by stochastic velocity rescaling (CSVR, Bussi)."""

    def advance(self, system: System) -> None:
        """Velocity Verlet, then rescale."""
        super().advance(system)
        kinetic = system.kinetic_energy()
        if kinetic <= 0.0 or system.freedom < 1:
            return
        scale = self._scale(kinetic, system.freedom)
        system.momenta *= scale
        self.heat += (scale * scale - 1.0) * kinetic

    def _scale(self, kinetic: float, freedom: int) -> float:
        keep = math.exp(-self.step / self.tau)
        share = (1.0 - keep) * 0.5 * self.kT / kinetic  # (1 - c) K0 / (N_f K)
        first = float(self.rng.standard_normal())
        others = 2.0 * float(self.rng.standard_gamma(0.5 * (freedom - 1))) if freedom > 1 else 0.0
        square = keep + share * (first * first + others) + 2.0 * first * math.sqrt(keep * share)
        sign = 1.0 if first + math.sqrt(keep / share) >= 0.0 else -1.0
        return sign * math.sqrt(max(square, 0.0))


class NoseHooverChains(VelocityVerlet):
    """Canonical sampling by a chain of Nosé-Hoover thermostats."""

    def __init__(self, system: System, settings: MdSettings, rng: np.random.Generator) -> None:
        super().__init__(system, settings, rng)
        self.chain = Chain(system.freedom, self.kT, self.tau, settings.chain)

    def set_temperature(self, temperature: float) -> None:
        """Target in K from now on (masses of the chain stay)."""
        super().set_temperature(temperature)
        self.chain.kT = self.kT

    def advance(self, system: System) -> None:
        """C/2, velocity Verlet, C/2."""
        system.momenta *= self.chain.integrate(system.twice_kinetic(), 0.5 * self.step)
        super().advance(system)
        system.momenta *= self.chain.integrate(system.twice_kinetic(), 0.5 * self.step)

    def conserved_energy(self, system: System) -> float:
        """Energy of the extended system, eV."""
        return system.energy + system.kinetic_energy() + self.chain.energy()

    def state(self) -> dict[str, Array]:
        """Those of the chain."""
        return {**super().state(), **self.chain.state("chain")}

    def restore(self, arrays: dict[str, Array]) -> None:
        """Inverse of :meth:`state`."""
        super().restore(arrays)
        self.chain.restore("chain", arrays)
