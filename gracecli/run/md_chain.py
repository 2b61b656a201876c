r"""A chain of Nosé-Hoover thermostats, for atoms or for a barostat.

The thermostatted momenta enter only through ``S = sum p^2 / m`` and are only scaled, so a chain takes a number and
returns the scale; its cost does not depend on the number of atoms. Equations of motion, with ``G_j`` the forces::

    deta_j/dt = p_j / Q_j        dp_j/dt = G_j - p_j p_{j+1} / Q_{j+1}        dp/dt = -p p_1 / Q_1
    G_1 = S - N_f kT             G_j = p_{j-1}^2 / Q_{j-1} - kT
    Q_1 = N_f kT tau^2           Q_j = kT tau^2
    heat bath = sum_j p_j^2 / 2 Q_j + integral of kT (N_f deta_1 + sum_{j>1} deta_j)

integrated by the fourth-order Suzuki-Yoshida factorization. The bath's second term is summed up along the way: with
kT constant it is the usual ``N_f kT eta_1 + kT sum eta_j``, and it stays right while kT ramps. Masses ``Q`` belong to
the first temperature.

=================  ========================================
symbol             variable
=================  ========================================
N_f, kT, Q_j       ``freedom``, ``kT``, ``masses``
p_j                ``momenta``
bath               ``work`` + kinetic part, ``energy()``
=================  ========================================

Source: G. J. Martyna, M. E. Tuckerman, D. J. Tobias, M. L. Klein, Mol. Phys. 87, 1117 (1996), section 4.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_OUTER = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
WEIGHTS = (_OUTER, 1.0 - 2.0 * _OUTER, _OUTER)


class Chain:
    """One chain.

    Parameters
    ----------
    freedom : int
        Degrees of freedom of what is thermostatted.
    kT : float
        eV.
    tau : float
        Relaxation time, ASE units.
    length : int
        Number of links.
    """

    def __init__(self, freedom: int, kT: float, tau: float, length: int) -> None:
        self.freedom = freedom
        self.kT = kT
        self.masses = [max(freedom, 1) * kT * tau**2, *[kT * tau**2] * (length - 1)]
        self.momenta = [0.0] * length
        self.work = 0.0

    def integrate(self, twice_kinetic: float, time: float) -> float:
        """Advance by ``time``; the factor for the thermostatted momenta, whose ``sum p^2 / m`` was given (eV)."""
        scale = 1.0
        for weight in WEIGHTS:
            scale *= self._substep(twice_kinetic * scale * scale, weight * time)
        return scale

    def energy(self) -> float:
        """Energy in the bath, eV."""
        return self.work + sum(0.5 * p * p / q for p, q in zip(self.momenta, self.masses, strict=True))

    def state(self, prefix: str) -> dict[str, Array]:
        """Arrays named ``prefix_...``; the masses too, since a ramp may have changed kT."""
        return {
            f"{prefix}_momenta": np.array(self.momenta),
            f"{prefix}_masses": np.array(self.masses),
            f"{prefix}_work": np.array(self.work),
        }

    def restore(self, prefix: str, arrays: dict[str, Array]) -> None:
        """Inverse of :meth:`state`."""
        self.momenta = [float(value) for value in arrays[f"{prefix}_momenta"]]
        self.masses = [float(value) for value in arrays[f"{prefix}_masses"]]
        self.work = float(arrays[f"{prefix}_work"])

    def _substep(self, twice_kinetic: float, time: float) -> float:
        last = len(self.momenta) - 1
        for link in range(last, -1, -1):
            self._push(link, twice_kinetic, 0.5 * time)
        turns = [time * p / q for p, q in zip(self.momenta, self.masses, strict=True)]
        self.work += self.kT * (self.freedom * turns[0] + sum(turns[1:]))
        scale = math.exp(-turns[0])
        for link in range(last + 1):
            self._push(link, twice_kinetic * scale * scale, 0.5 * time)
        return scale

    def _push(self, link: int, twice_kinetic: float, time: float) -> None:
        p, q = self.momenta, self.masses
        force = twice_kinetic - self.freedom * self.kT if link == 0 else p[link - 1] ** 2 / q[link - 1] - self.kT
        friction = math.exp(-0.5 * time * p[link + 1] / q[link + 1]) if link + 1 < len(p) else 1.0
        p[link] = (p[link] * friction + time * force) * friction
