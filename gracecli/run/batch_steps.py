r"""LBFGS and FIRE for many structures at once: one set of array operations per step, whatever the number of structures.

Scalar products are taken per structure (segment sums). With :math:`x` the generalised coordinates, :math:`F` the
generalised forces, :math:`s_k, y_k` the latest differences of :math:`x` and of :math:`-F`, :math:`\rho_k = 1/y_k s_k`:

LBFGS (Nocedal, Math. Comput. 35, 773 (1980)), :math:`q = -F`; for k from the newest to the oldest
:math:`a_k = \rho_k\,s_k q,\; q \leftarrow q - a_k y_k`; :math:`z = q/\alpha`; from the oldest to the newest
:math:`z \leftarrow z + s_k\,(a_k - \rho_k\,y_k z)`; the step is :math:`-z`.

A pair with :math:`\rho_k = 0` changes nothing. That is how structures of different age share one memory, how a memory
is emptied, and how pairs of no positive curvature (:math:`y_k s_k \le 0`) are left out: the step then goes downhill.

FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006)), :math:`P = F v`: where P > 0
:math:`v \leftarrow (1-a) v + a |v| F/|F|`, and after 5 such steps :math:`\Delta t` grows and a shrinks; else
:math:`v = 0`, :math:`\Delta t` is halved. Then :math:`v \leftarrow v + F \Delta t`, the step is :math:`v \Delta t`.

Parameters are those of ``ase.optimize``, which the one-at-a-time path uses.

=======================  ============================================
symbol                   variable
=======================  ============================================
:math:`x, F`             ``coordinates``, ``forces`` (R, 3)
:math:`s, y, \rho`       ``_Pair.step``, ``.change``, ``.inverse``
:math:`\alpha`           ``ALPHA``
:math:`v, \Delta t, a`   ``velocity``, ``time_step``, ``mixing``
=======================  ============================================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gracecli.run.batch_segments import Array, Segments

ALPHA = 70.0  # eV/Å^2, the curvature where nothing is known yet
MEMORY = 40  # pairs; more changes nothing, and costs time and memory
MAX_STEP = 0.2  # Å, longest row (LBFGS) or whole step (FIRE)
TIME_STEP, LARGEST_TIME_STEP = 0.1, 1.0
GROWTH, SHRINKAGE, PATIENCE = 1.1, 0.5, 5
MIXING, MIXING_DECAY = 0.1, 0.99


@dataclass
class _Pair:
    """One pair of the memory of all structures."""

    step: Array
    change: Array
    inverse: Array


class Lbfgs:
    """Steps of limited-memory BFGS."""

    def __init__(self) -> None:
        self._pairs: list[_Pair] = []
        self._coordinates: Array = np.zeros((0, 3))
        self._forces: Array = np.zeros((0, 3))
        self._known: NDArray[np.bool_] = np.zeros(0, dtype=bool)

    def step(self, coordinates: Array, forces: Array, rows: Segments) -> Array:
        """Proposed step (R, 3), after taking in where the last one led."""
        self._learn(coordinates, forces, rows)
        q = -forces
        weights = []
        for pair in reversed(self._pairs):
            a = pair.inverse * rows.dot(pair.step, q)
            weights.append(a)
            q -= rows.spread(a)[:, None] * pair.change
        q /= ALPHA
        for pair, a in zip(self._pairs, reversed(weights), strict=True):
            b = pair.inverse * rows.dot(pair.change, q)
            q += rows.spread(a - b)[:, None] * pair.step
        longest = rows.longest(q)
        return -q * rows.spread(np.minimum(1.0, MAX_STEP / np.maximum(longest, 1e-300)))[:, None]

    def _learn(self, coordinates: Array, forces: Array, rows: Segments) -> None:
        known = self._known
        if known.any():
            step, change = coordinates - self._coordinates, self._forces - forces
            curvature = rows.dot(step, change)
            positive = known & (curvature > 1e-12 * rows.dot(step, step))
            inverse = np.where(positive, 1.0 / np.where(positive, curvature, 1.0), 0.0)
            self._pairs.append(_Pair(step, change, inverse))
            if len(self._pairs) > MEMORY or not self._pairs[0].inverse.any():
                del self._pairs[0]
        self._coordinates, self._forces = coordinates.copy(), forces.copy()
        self._known = np.ones(len(rows), dtype=bool)

    def forget(self, structures: NDArray[np.bool_]) -> None:
        """Empty the memory of some structures (S,)."""
        self._known = self._known & ~structures
        for pair in self._pairs:
            pair.inverse = np.where(structures, 0.0, pair.inverse)

    def keep(self, structures: NDArray[np.int64], kept_rows: NDArray[np.int64]) -> None:
        """Keep these structures only."""
        self._coordinates, self._forces = self._coordinates[kept_rows], self._forces[kept_rows]
        self._known = self._known[structures]
        self._pairs = [_Pair(p.step[kept_rows], p.change[kept_rows], p.inverse[structures]) for p in self._pairs]

    def add(self, structures: int, rows: int) -> None:
        """Make room for new structures with ``rows`` rows in all."""
        nothing, none = np.zeros((rows, 3)), np.zeros(structures)
        self._coordinates = np.concatenate([self._coordinates, nothing])
        self._forces = np.concatenate([self._forces, nothing])
        self._known = np.concatenate([self._known, none.astype(bool)])
        for pair in self._pairs:
            pair.step = np.concatenate([pair.step, nothing])
            pair.change = np.concatenate([pair.change, nothing])
            pair.inverse = np.concatenate([pair.inverse, none])


class Fire:
    """Steps of the fast inertial relaxation engine."""

    def __init__(self) -> None:
        self._velocity: Array = np.zeros((0, 3))
        self._time_step: Array = np.zeros(0)
        self._mixing: Array = np.zeros(0)
        self._downhill: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._started: NDArray[np.bool_] = np.zeros(0, dtype=bool)

    def step(self, forces: Array, rows: Segments, active: NDArray[np.bool_]) -> Array:
        """Proposed step (R, 3) of the ``active`` (S,) structures; the others' state is left alone."""
        power = rows.dot(forces, self._velocity)
        down = active & self._started & (power > 0.0)
        up = active & self._started & ~down
        strength = np.sqrt(rows.dot(forces, forces))
        speed = np.sqrt(rows.dot(self._velocity, self._velocity))
        turned = np.where(strength > 0.0, self._mixing * speed / np.where(strength > 0.0, strength, 1.0), 0.0)
        kept = np.where(down, 1.0 - self._mixing, np.where(up, 0.0, 1.0))
        velocity = rows.spread(kept)[:, None] * self._velocity
        velocity += rows.spread(np.where(down, turned, 0.0))[:, None] * forces
        patient = down & (self._downhill > PATIENCE)
        self._time_step = np.where(patient, np.minimum(self._time_step * GROWTH, LARGEST_TIME_STEP), self._time_step)
        self._time_step = np.where(up, self._time_step * SHRINKAGE, self._time_step)
        self._mixing = np.where(patient, self._mixing * MIXING_DECAY, np.where(up, MIXING, self._mixing))
        self._downhill = np.where(down, self._downhill + 1, np.where(up, 0, self._downhill))
        self._started = self._started | active
        pace = rows.spread(np.where(active, self._time_step, 0.0))[:, None]
        velocity += pace * forces
        self._velocity = velocity
        step = pace * velocity
        length = np.sqrt(rows.dot(step, step))
        return np.asarray(step * rows.spread(np.minimum(1.0, MAX_STEP / np.maximum(length, 1e-300)))[:, None])

    def forget(self, structures: NDArray[np.bool_], rows: Segments) -> None:
        """Begin anew with some structures (S,)."""
        self._velocity = np.where(rows.spread(structures)[:, None], 0.0, self._velocity)
        self._time_step = np.where(structures, TIME_STEP, self._time_step)
        self._mixing = np.where(structures, MIXING, self._mixing)
        self._downhill = np.where(structures, 0, self._downhill)
        self._started = self._started & ~structures

    def keep(self, structures: NDArray[np.int64], kept_rows: NDArray[np.int64]) -> None:
        """Keep these structures only."""
        self._velocity = self._velocity[kept_rows]
        for name in ("_time_step", "_mixing", "_downhill", "_started"):
            setattr(self, name, getattr(self, name)[structures])

    def add(self, structures: int, rows: int) -> None:
        """Make room for new structures with ``rows`` rows in all."""
        self._velocity = np.concatenate([self._velocity, np.zeros((rows, 3))])
        self._time_step = np.concatenate([self._time_step, np.full(structures, TIME_STEP)])
        self._mixing = np.concatenate([self._mixing, np.full(structures, MIXING)])
        self._downhill = np.concatenate([self._downhill, np.zeros(structures, dtype=np.int64)])
        self._started = np.concatenate([self._started, np.zeros(structures, dtype=bool)])
