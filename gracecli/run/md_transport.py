r"""Transport and vibrations from a trajectory: mean square displacements, velocity autocorrelation.

With ``<>`` over atoms and time origins, ``r`` unwrapped and the centre of mass at rest::

    MSD_a(t)  = < |r_i(t0 + t) - r_i(t0)|^2 >,    i in a            D_a = 1/6 dMSD_a/dt
    C_a(t)    = sum_{i in a} m_i <v_i(t0) · v_i(t0 + t)> / sum_{i in a} m_i <v_i^2>
    S_a(f)    = transform of C_a under a Hann window, its area is one

=================  ===================================================
symbol             variable
=================  ===================================================
D_a                ``Diffusion.coefficient``, 1e-9 m²/s = 0.1 Å²/ps
C_a, S_a           ``Vibrations.vacf``, ``Vibrations.dos`` (per THz)
=================  ===================================================

Error bars: the trajectory is cut into blocks, each gives an estimate, and the standard error of their mean is shown.
A diffusion coefficient is the slope between a tenth and a half of the block's length, and means something only where
the displacement grows linearly there: its exponent is reported beside it, and must be alike in both halves of the
window, since the bend from free flight to the plateau of a solid is straight for a moment too. Where the cell changes,
atoms move with it: displacements are those of fractional coordinates in the mean cell.

Source: M. P. Allen, D. J. Tildesley, Computer Simulation of Liquids, 2nd ed. (Oxford, 2017), chapters 2.7, 8.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gracecli.run.md_statistics import block_average
from gracecli.run.md_trajectory import Trajectory

Array = NDArray[np.float64]
BLOCKS = 5
COLUMN_VALUES = 2_000_000
"""Numbers of one piece of the trajectory held in memory for correlations."""


@dataclass(frozen=True)
class Diffusion:
    """Mean square displacement of one element.

    Attributes
    ----------
    element : str
    time : (T,) float64
        fs.
    msd, error : (T,) float64
        Å².
    coefficient, coefficient_error : float
        1e-9 m²/s.
    exponent : float
        Power of time that the displacement grows with where the slope is taken: 1 for diffusion, 0 in a solid.
    early, late : float
        The same in the first and in the second half of that window.
    """

    element: str
    time: Array
    msd: Array
    error: Array
    coefficient: float
    coefficient_error: float
    exponent: float
    early: float
    late: float

    @property
    def diffusive(self) -> bool:
        """Whether the coefficient means something."""
        return 0.7 < self.exponent < 1.3 and abs(self.early - self.late) < 0.5

    @property
    def bound(self) -> bool:
        """Whether the atoms stay where they are, as far as the run can tell."""
        return self.late < 0.5


@dataclass(frozen=True)
class Vibrations:
    """Velocity autocorrelation and vibrational density of states of one element (or of all: mass-weighted).

    Attributes
    ----------
    element : str
    time, vacf : (T,) float64
        fs; normalized to one at zero.
    frequency, dos : (F,) float64
        THz; per THz, area one.
    nyquist : float
        Highest frequency that the spacing of frames resolves, THz.
    """

    element: str
    time: Array
    vacf: Array
    frequency: Array
    dos: Array
    nyquist: float

    @property
    def aliased(self) -> float:
        """Share of the density in the last tenth below the Nyquist frequency: near zero where frames are dense."""
        return float(self.dos[self.frequency > 0.9 * self.nyquist].sum() / max(self.dos.sum(), 1e-300))


def diffusion(trajectory: Trajectory, frames: slice) -> list[Diffusion]:
    """Mean square displacements of every element; empty for fewer than 20 frames."""
    chosen = range(trajectory.frames)[frames]
    length = len(chosen) // BLOCKS
    if length < 4:
        return []
    spacing = float(trajectory.times[chosen[1]] - trajectory.times[chosen[0]])
    numbers = trajectory.numbers
    lags = np.arange(1, max(length // 2, 2) + 1)
    blocks = [chosen[n * length : (n + 1) * length] for n in range(BLOCKS)]
    curves: dict[int, list[Array]] = {int(z): [] for z in sorted(set(numbers.tolist()))}
    for block in blocks:
        moved = _displacements(trajectory, block)
        for z, found in curves.items():
            found.append(_mean_square(moved[:, numbers == z])[lags])
    fit = slice(len(lags) // 5, len(lags))
    results = []
    for z, found in curves.items():
        msd, error = block_average(np.array(found))
        time = np.asarray(lags * spacing, dtype=np.float64)
        slopes = [np.polyfit(time[fit], curve[fit], 1)[0] / 6.0 for curve in found]
        value, deviation = block_average(np.array(slopes) * 1e4)  # Å²/fs = 1e-5 m²/s = 1e4 · 1e-9 m²/s
        middle = (fit.start + fit.stop) // 2
        halves = slice(fit.start, middle + 1), slice(middle, fit.stop)
        whole, early, late = (_exponent(time[part], msd[part]) for part in (fit, *halves))
        results.append(
            Diffusion(chemical_symbols[z], time, msd, error, float(value), float(deviation), whole, early, late)
        )
    return results


def _exponent(time: Array, msd: Array) -> float:
    """Slope of the logarithm over that of time; NaN for a single point."""
    if len(time) < 2:
        return float("nan")
    return float(np.polyfit(np.log(time), np.log(np.maximum(msd, 1e-12)), 1)[0])


def _displacements(trajectory: Trajectory, block: range) -> Array:
    """Positions (T, N, 3) relative to the first, without the motion of the centre of mass and of the cell."""
    part = slice(block.start, block.stop, block.step)
    positions, cells = trajectory.positions(part), trajectory.cells(part)
    if trajectory.pbc.all() and np.ptp(cells, axis=0).any():
        positions = np.einsum("tix,txy->tiy", positions, np.linalg.inv(cells)) @ cells.mean(axis=0)
    moved = positions - positions[0]
    return np.asarray(moved - np.einsum("tix,i->tx", moved, trajectory.masses)[:, None] / trajectory.masses.sum())


def _mean_square(r: Array) -> Array:
    """Mean square displacement at every lag, over all origins, by Fourier transforms; ``r`` is (T, N, 3)."""
    count = len(r)
    squares = np.einsum("tix,tix->t", r, r)
    transform = np.fft.rfft(r, 2 * count, axis=0)
    products = np.fft.irfft((np.abs(transform) ** 2).sum(axis=(1, 2)), 2 * count)[:count]
    both = np.cumsum(np.append(0.0, squares))
    lag = np.arange(count)
    ends = (both[count - lag] - both[0]) + (both[count] - both[lag])
    return np.asarray((ends - 2.0 * products) / ((count - lag) * r.shape[1]))


def vibrations(trajectory: Trajectory, frames: slice) -> list[Vibrations]:
    """Velocity autocorrelation and density of states of every element, and of all; empty for fewer than 40 frames."""
    chosen = range(trajectory.frames)[frames]
    if len(chosen) < 40:
        return []
    spacing = float(trajectory.times[chosen[1]] - trajectory.times[chosen[0]])
    length = min(len(chosen) // 4, max(40, int(5000.0 / spacing)))  # 5 ps resolve 0.2 THz
    drifts = _drift_velocity(trajectory, chosen)
    by_element = {
        int(z): _correlation(trajectory, chosen, np.flatnonzero(trajectory.numbers == z), drifts, length)
        for z in sorted(set(trajectory.numbers.tolist()))
    }
    total = sum(by_element.values())
    series = {chemical_symbols[z]: curve for z, curve in by_element.items()}
    if len(series) > 1:
        series["all"] = np.asarray(total)
    return [_spectrum(name, curve, spacing) for name, curve in series.items() if curve[0] > 0]


def _drift_velocity(trajectory: Trajectory, chosen: range) -> Array:
    """Velocity of the centre of mass (T, 3)."""
    found = [
        np.einsum("tix,i->tx", trajectory.velocities(part), trajectory.masses) / trajectory.masses.sum()
        for part in _pieces(chosen, 3 * len(trajectory.numbers))
    ]
    return np.concatenate(found)


def _correlation(trajectory: Trajectory, chosen: range, atoms: NDArray[np.intp], drifts: Array, length: int) -> Array:
    """``sum_i m_i <v_i(0) · v_i(t)>`` for ``length`` lags; a few atoms at a time."""
    total = np.zeros(length)
    part = slice(chosen.start, chosen.stop, chosen.step)
    count = len(chosen)
    pieces = max(1, int(np.ceil(3 * count * len(atoms) / COLUMN_VALUES)))
    for some in np.array_split(atoms, pieces):
        v = trajectory.velocities(part, some) - drifts[:, None]
        transform = np.fft.rfft(v, 2 * count, axis=0)
        weighted = np.einsum("fix,i->f", np.abs(transform) ** 2, trajectory.masses[some])
        total += np.fft.irfft(weighted, 2 * count)[:length]
    return np.asarray(total / (count - np.arange(length)))


def _spectrum(name: str, curve: Array, spacing: float) -> Vibrations:
    count = len(curve)
    vacf = curve / curve[0]
    window = 0.5 * (1.0 + np.cos(np.pi * np.arange(count) / count))
    even = np.concatenate([vacf * window, [0.0], (vacf * window)[:0:-1]])
    frequency = np.fft.rfftfreq(len(even), spacing) * 1e3  # 1/fs -> THz
    dos = np.maximum(np.fft.rfft(even).real, 0.0)
    dos /= dos.sum() * frequency[1]
    time = np.asarray(np.arange(count) * spacing, dtype=np.float64)
    return Vibrations(name, time, vacf, np.asarray(frequency, dtype=np.float64), dos, float(frequency[-1]))


def _pieces(chosen: range, values_per_frame: int) -> list[slice]:
    """Slices of frames small enough for memory."""
    size = max(1, COLUMN_VALUES // values_per_frame)
    return [
        slice(part.start, part.stop, part.step)
        for part in (chosen[start : start + size] for start in range(0, len(chosen), size))
    ]
