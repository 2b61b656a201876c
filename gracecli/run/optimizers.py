"""What the relaxation loop must know of ASE's optimizers: who has no step, who may climb, who looks where it landed."""

from __future__ import annotations

from typing import Any

import numpy as np

from gracecli.run.cell import CellFilter
from gracecli.run.result import Status

#: A quasi-Newton run this far (eV) above its lowest point has lost its way. Overshooting near a minimum is smaller.
CLIMB = 0.02
#: How many steps of FIRE follow; twice as many each further time.
FIRE_STEPS = 20
#: What optimizers raise when they are at their wits' end (a line search that fails, a singular Hessian).
GIVING_UP = (RuntimeError, AssertionError, ArithmeticError, np.linalg.LinAlgError)


class Finished(Exception):
    """Leaves the loop of an optimizer that runs by itself."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def lacks_step(optimizer: Any) -> bool:
    """Whether it wraps a foreign minimiser that can only be run as a whole."""
    from ase.optimize.optimize import Dynamics

    return type(optimizer).step is Dynamics.step


def trusts_positions(factory: Any) -> bool:
    """Whether an optimizer takes for granted that the atoms went where it sent them."""
    from ase.optimize import BFGSLineSearch, GPMin, LBFGSLineSearch
    from ase.optimize.sciopt import SciPyOptimizer

    return isinstance(factory, type) and issubclass(factory, (BFGSLineSearch, GPMin, LBFGSLineSearch, SciPyOptimizer))


def may_climb(optimizer: Any) -> bool:
    """Whether it takes quasi-Newton steps without looking at the energy."""
    from ase.optimize import BFGS, LBFGS, LBFGSLineSearch

    from gracecli.run.quasi_newton import QuasiNewton

    return isinstance(optimizer, (BFGS, LBFGS, QuasiNewton)) and not isinstance(optimizer, LBFGSLineSearch)


class Descent:
    """Remembers the lowest point of a run, to return to it."""

    def __init__(self, target: CellFilter) -> None:
        self.target = target
        self.lowest = np.inf
        self.positions = target.get_positions()

    def lost(self) -> bool:
        """Look at the current point; if the run has climbed away from the lowest one, go back there."""
        value = self.target.get_potential_energy(force_consistent=False)
        if value < self.lowest:
            self.lowest, self.positions = value, self.target.get_positions().copy()
            return False
        if value - self.lowest < CLIMB:
            return False
        self.target.limit_steps = False
        self.target.set_positions(self.positions)
        return True
