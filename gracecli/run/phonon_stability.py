r"""Imaginary modes: where they are, how large, whether they are more than interpolation, and a walk along the worst.

A frequency below minus the tolerance is imaginary (negative by convention). At *commensurate* wave vectors the
supercell determines the dynamical matrix exactly; anywhere else it is interpolated, and a shallow dip next to Gamma is
usually a supercell that is too small. The verdict therefore distinguishes

* ``stable``: no imaginary mode;
* ``interpolated``: imaginary modes, but none at a commensurate wave vector;
* ``unstable``: an imaginary mode at a commensurate wave vector.

Following a mode: displace along Re(e exp(i q.r)) in the supercell, relax without symmetry, reduce to the primitive
cell.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gracecli.run.phonon_cells import from_phonopy

if TYPE_CHECKING:
    from ase import Atoms
    from phonopy import Phonopy

Array = NDArray[np.float64]

TOLERANCE = 0.05
"""THz; three times what rounding and residual forces leave of the acoustic modes near Gamma."""


@dataclass(frozen=True)
class Stability:
    """The verdict.

    Attributes
    ----------
    verdict : str
        ``stable``, ``interpolated`` or ``unstable``.
    lowest : float
        Lowest frequency anywhere, THz.
    lowest_q : tuple of float
        Where, in reduced coordinates of the primitive cell.
    lowest_commensurate : float
        Lowest frequency at a commensurate wave vector, THz.
    commensurate_q : tuple of float
    imaginary_fraction : float
        Share of the modes of the mesh that are imaginary.
    acoustic : float
        Largest |frequency| of the three acoustic modes at Gamma, THz.
    tolerance : float
        THz.
    """

    verdict: str
    lowest: float
    lowest_q: tuple[float, float, float]
    lowest_commensurate: float
    commensurate_q: tuple[float, float, float]
    imaginary_fraction: float
    acoustic: float
    tolerance: float = TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def commensurate_points(phonon: Phonopy) -> Array:
    """Wave vectors (n, 3) that fit into the supercell, reduced coordinates of the primitive cell."""
    from phonopy.harmonic.dynmat_to_fc import get_commensurate_points

    matrix = np.rint(np.linalg.inv(phonon.primitive.primitive_matrix)).astype(int)  # supercell in primitive vectors
    return np.asarray(get_commensurate_points(matrix), dtype=np.float64)


def modes_at(phonon: Phonopy, points: Any) -> tuple[Array, NDArray[np.complex128]]:
    """Frequencies (n, branches) in THz at wave vectors (n, 3), and eigenvectors (n, 3 atoms, branches)."""
    phonon.run_qpoints(np.atleast_2d(points), with_eigenvectors=True)
    assert phonon.qpoints is not None
    return np.asarray(phonon.qpoints.frequencies), np.asarray(phonon.qpoints.eigenvectors)


def unstable(phonon: Phonopy) -> bool:
    """Whether a mode at a commensurate wave vector is imaginary."""
    return bool(modes_at(phonon, commensurate_points(phonon))[0].min() < -TOLERANCE)


def stability(phonon: Phonopy) -> Stability:
    """Judge the modes of the mesh, the band path and the commensurate points (mesh and bands must have been run)."""
    points = commensurate_points(phonon)
    exact, _ = modes_at(phonon, points)
    mesh: Any = phonon.mesh
    bands: Any = phonon.band_structure
    frequencies = np.asarray(mesh.frequencies)
    every_q = [np.asarray(mesh.qpoints), *(np.asarray(q) for q in bands.qpoints), points]
    every = [frequencies, *(np.asarray(f) for f in bands.frequencies), exact]
    lowest = np.concatenate([f.min(axis=1) for f in every])
    wave_vectors = np.concatenate(every_q)
    worst, worst_exact = int(lowest.argmin()), int(exact.min(axis=1).argmin())
    weights = np.asarray(mesh.weights, dtype=np.float64)
    share = (frequencies < -TOLERANCE).mean(axis=1) @ weights / weights.sum()
    verdict = "stable"
    if lowest[worst] < -TOLERANCE:
        verdict = "unstable" if exact.min() < -TOLERANCE else "interpolated"
    return Stability(
        verdict=verdict,
        lowest=float(lowest[worst]),
        lowest_q=_triple(wave_vectors[worst]),
        lowest_commensurate=float(exact.min()),
        commensurate_q=_triple(points[worst_exact]),
        imaginary_fraction=float(share),
        acoustic=float(np.sort(np.abs(modes_at(phonon, [0.0, 0.0, 0.0])[0][0]))[:3].max()),
    )


def displaced_along(phonon: Phonopy, q: tuple[float, float, float], branch: int, amplitude: float) -> Atoms:
    """The supercell with one mode frozen in; its largest atomic displacement is ``amplitude`` (Å)."""
    vectors = modes_at(phonon, q)[1][0]
    supercell = from_phonopy(phonon.supercell)
    primitive = phonon.primitive
    mode = vectors[:, branch].reshape(-1, 3)
    masses = primitive.masses
    # which primitive atom every atom of the supercell is a copy of, and the phase of its cell
    of = np.array([primitive.p2p_map[s] for s in primitive.s2p_map])
    origin = from_phonopy(primitive).positions[of]
    cells = (supercell.positions - origin) @ np.linalg.inv(primitive.cell)
    wave = mode[of] * np.exp(2j * np.pi * (np.rint(cells) @ np.asarray(q)))[:, None] / np.sqrt(masses[of])[:, None]
    best = max((np.real(wave * np.exp(1j * phase)) for phase in np.linspace(0, np.pi, 8, endpoint=False)), key=_size)
    supercell.positions += best * (amplitude / np.linalg.norm(best, axis=1).max())
    return supercell


def primitive_cell(atoms: Atoms, symprec: float) -> Atoms:
    """The primitive cell of a relaxed supercell (itself where spglib finds none)."""
    import spglib
    from ase import Atoms as AseAtoms

    found = spglib.find_primitive((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=symprec)
    if found is None:
        return atoms.copy()
    lattice, positions, numbers = found
    return AseAtoms(numbers, cell=lattice, scaled_positions=positions, pbc=True)


def _size(wave: Array) -> float:
    return float(np.abs(wave).sum())


def _triple(q: Array) -> tuple[float, float, float]:
    # -0 and rounding away
    a, b, c = (float(np.round(x, 6)) + 0.0 for x in q)
    return a, b, c
