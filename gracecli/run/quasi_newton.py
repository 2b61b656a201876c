"""LBFGS for one structure: the steps of the batch (:class:`gracecli.run.batch_steps.Lbfgs`) as an ASE optimizer.

``ase.optimize.LBFGS`` keeps pairs of steps and force changes whatever their curvature. Where the energy is not convex
(soft lithium, cells far from the minimum) its steps may go uphill and run in circles; here such pairs are left out.
"""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from ase.optimize.optimize import Optimizer

from gracecli.run.batch_segments import Array, Segments
from gracecli.run.batch_steps import Lbfgs


class QuasiNewton(Optimizer):
    """Limited-memory BFGS without pairs of negative curvature.

    Parameters
    ----------
    atoms : Atoms or filter
    logfile : file or str, optional
    trajectory : str, optional
    """

    def __init__(self, atoms: Any, logfile: IO[str] | str | None = "-", trajectory: str | None = None) -> None:
        self._steps = Lbfgs()
        super().__init__(atoms, None, logfile, trajectory)
        self._rows = Segments(np.array([len(atoms)]))

    def initialize(self) -> None:
        """Nothing: the memory is empty."""

    def step(self, forces: Array | None = None) -> None:
        """One step from the present geometry."""
        target: Any = self.atoms
        found = target.get_forces() if forces is None else np.asarray(forces).reshape(-1, 3)
        positions = target.get_positions()
        target.set_positions(positions + self._steps.step(positions, found, self._rows))
