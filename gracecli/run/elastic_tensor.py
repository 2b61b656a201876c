r"""Algebra of elastic tensors: what symmetry leaves of them, moduli, stability, directions.

Voigt notation: strains :math:`e = (e_{xx}, e_{yy}, e_{zz}, 2e_{yz}, 2e_{xz}, 2e_{xy})`, :math:`\sigma = C e`,
:math:`S = C^{-1}`. In Mandel's notation (shear components times :math:`\sqrt 2` instead of 2) rotations of the crystal
are orthogonal 6 x 6 matrices Q and an invariant tensor obeys :math:`C = Q C Q^T` for all operations of the point group;
the space of such tensors is the image of the average over the group.

.. math::
    K_V = (C_{11} + C_{22} + C_{33} + 2(C_{12} + C_{13} + C_{23}))/9,\quad
    G_V = (C_{11} + C_{22} + C_{33} - C_{12} - C_{13} - C_{23} + 3(C_{44} + C_{55} + C_{66}))/15,

.. math::
    1/K_R = S_{11} + S_{22} + S_{33} + 2(S_{12} + S_{13} + S_{23}),\quad
    15/G_R = 4(S_{11} + S_{22} + S_{33} - S_{12} - S_{13} - S_{23}) + 3(S_{44} + S_{55} + S_{66}),

.. math:: A^U = 5G_V/G_R + K_V/K_R - 6,\quad E = 9KG/(3K + G),\quad \nu = (3K - 2G)/(6K + 2G),

.. math:: v_l^2 = (K + 4G/3)/\rho,\quad v_t^2 = G/\rho,\quad 3/v_m^3 = 1/v_l^3 + 2/v_t^3,\quad
          \Theta_D = (\hbar/k_B)(6\pi^2 N/V)^{1/3} v_m .

A crystal without stress is stable (Born) when C is positive definite.

Sources: R. Hill, Proc. Phys. Soc. A 65, 349 (1952); S. I. Ranganathan, M. Ostoja-Starzewski, Phys. Rev. Lett. 101,
055504 (2008); O. L. Anderson, J. Phys. Chem. Solids 24, 909 (1963); F. Mouhat, F.-X. Coudert, Phys. Rev. B 90, 224104
(2014).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

Array = NDArray[np.float64]

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
MANDEL = np.array([1.0, 1.0, 1.0, np.sqrt(2.0), np.sqrt(2.0), np.sqrt(2.0)])
"""C in Mandel's notation = C in Voigt's times the outer product of this with itself."""


def strain_matrix(voigt: Array) -> Array:
    """Symmetric (3, 3) strain of six Voigt components (engineering shears)."""
    e = np.asarray(voigt, dtype=np.float64)
    return np.array(
        [[e[0], e[5] / 2, e[4] / 2], [e[5] / 2, e[1], e[3] / 2], [e[4] / 2, e[3] / 2, e[2]]]
    )  # fmt: skip


def mandel_rotation(rotation: Array) -> Array:
    """Q (6, 6), orthogonal, of a rotation or reflection (3, 3)."""
    q = np.empty((6, 6))
    for column, (k, l) in enumerate(VOIGT):
        unit = np.zeros((3, 3))
        unit[k, l] = unit[l, k] = 1.0 if k == l else 1 / np.sqrt(2.0)
        turned = rotation @ unit @ rotation.T
        q[:, column] = [turned[i, j] * (1.0 if i == j else np.sqrt(2.0)) for i, j in VOIGT]
    return q


def rotate(tensor: Array, rotation: Array) -> Array:
    """A tensor (6, 6; Voigt) in turned axes: x' = R x."""
    q = mandel_rotation(rotation)
    scale = np.outer(MANDEL, MANDEL)
    return np.asarray((q @ (tensor * scale) @ q.T) / scale)


def point_group(atoms: Atoms, symprec: float) -> list[Array]:
    """Cartesian operations (3, 3) of the crystal's point group."""
    import spglib
    from ase.utils import spglib_new_errorhandling

    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    dataset = spglib_new_errorhandling(spglib.get_symmetry_dataset)(cell, symprec=symprec)
    if dataset is None:
        return [np.eye(3)]
    columns = atoms.cell.array.T
    found = {tuple(r.ravel().tolist()): r for r in dataset.rotations}
    return [columns @ r @ np.linalg.inv(columns) for r in found.values()]


def invariant_basis(operations: list[Array]) -> Array:
    """Basis (n, 6, 6; Voigt) of the tensors that all operations leave alone; n is 3 for cubic, 21 for triclinic."""
    rotations = [mandel_rotation(r) for r in operations]
    averaged = []
    for i in range(6):
        for j in range(i, 6):
            unit = np.zeros((6, 6))
            unit[i, j] = unit[j, i] = 1.0
            averaged.append(np.mean([q @ unit @ q.T for q in rotations], axis=0).ravel())
    _, s, vt = np.linalg.svd(np.array(averaged))
    rank = int((s > 1e-8 * s[0]).sum())
    return np.asarray(vt[:rank].reshape(rank, 6, 6) / np.outer(MANDEL, MANDEL))


@dataclass(frozen=True)
class Moduli:
    """Polycrystal averages and what follows from them.

    Attributes
    ----------
    bulk_voigt, bulk_reuss, bulk, shear_voigt, shear_reuss, shear, young : float
        GPa; ``bulk``, ``shear`` are Hill's averages.
    poisson, anisotropy, pugh : float
        Poisson's ratio, the universal anisotropy, K/G.
    longitudinal, transverse, mean_speed : float
        Speeds of sound in km/s.
    debye : float
        Debye temperature in K.
    density : float
        g/cm^3.
    """

    bulk_voigt: float
    bulk_reuss: float
    bulk: float
    shear_voigt: float
    shear_reuss: float
    shear: float
    young: float
    poisson: float
    anisotropy: float
    pugh: float
    longitudinal: float
    transverse: float
    mean_speed: float
    debye: float
    density: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def moduli(tensor: Array, atoms: Atoms) -> Moduli:
    """Averages of a tensor (6, 6) in GPa of a crystal; NaN where it is unstable."""
    c, s = tensor, np.linalg.inv(tensor)
    diagonal, off = c[0, 0] + c[1, 1] + c[2, 2], c[0, 1] + c[0, 2] + c[1, 2]
    s_diagonal, s_off = s[0, 0] + s[1, 1] + s[2, 2], s[0, 1] + s[0, 2] + s[1, 2]
    k_v = (diagonal + 2 * off) / 9
    g_v = (diagonal - off + 3 * (c[3, 3] + c[4, 4] + c[5, 5])) / 15
    k_r = 1 / (s_diagonal + 2 * s_off)
    g_r = 15 / (4 * (s_diagonal - s_off) + 3 * (s[3, 3] + s[4, 4] + s[5, 5]))
    k, g = (k_v + k_r) / 2, (g_v + g_r) / 2
    density = atoms.get_masses().sum() * units._amu / (atoms.get_volume() * 1e-30)  # kg/m^3
    with np.errstate(invalid="ignore"):
        longitudinal, transverse = np.sqrt([(k + 4 * g / 3) * 1e9 / density, g * 1e9 / density])
    mean = (3 / (1 / longitudinal**3 + 2 / transverse**3)) ** (1 / 3)
    number = len(atoms) / (atoms.get_volume() * 1e-30)
    debye = units._hbar / units._k * (6 * np.pi**2 * number) ** (1 / 3) * mean
    return Moduli(
        bulk_voigt=float(k_v), bulk_reuss=float(k_r), bulk=float(k), shear_voigt=float(g_v), shear_reuss=float(g_r),
        shear=float(g), young=float(9 * k * g / (3 * k + g)), poisson=float((3 * k - 2 * g) / (6 * k + 2 * g)),
        anisotropy=float(5 * g_v / g_r + k_v / k_r - 6), pugh=float(k / g), longitudinal=float(longitudinal / 1e3),
        transverse=float(transverse / 1e3), mean_speed=float(mean / 1e3), debye=float(debye),
        density=float(density / 1e3),
    )  # fmt: skip


def smallest_eigenvalue(tensor: Array) -> tuple[float, Array]:
    """Smallest eigenvalue in the unit of the tensor (Mandel's notation), and its strain (6; Voigt, unit length)."""
    values, vectors = np.linalg.eigh(tensor * np.outer(MANDEL, MANDEL))
    return float(values[0]), vectors[:, 0] * np.array([1, 1, 1, *[np.sqrt(2.0)] * 3])


def young_modulus(tensor: Array, directions: Array) -> Array:
    """Young's modulus (n,) along unit vectors (n, 3): 1 / S_ijkl n_i n_j n_k n_l."""
    s = np.linalg.inv(tensor)
    n = np.asarray(directions)
    # stress n n^T in Voigt's notation; the strain energy does not double its shears
    v = np.stack([n[:, i] * n[:, j] for i, j in VOIGT], axis=1)
    return np.asarray(1.0 / np.einsum("ni,ij,nj->n", v, s, v))


def ieee_rotation(atoms: Atoms) -> Array:
    """Rotation of Cartesian axes into the IEEE standard setting (by pymatgen), x' = R x."""
    from pymatgen.analysis.elasticity.elastic import ElasticTensor
    from pymatgen.io.ase import AseAtomsAdaptor

    plain = Atoms(atoms.numbers, cell=atoms.cell, positions=atoms.positions, pbc=True)
    structure = AseAtomsAdaptor.get_structure(plain)
    return np.asarray(ElasticTensor.get_ieee_rotation(structure, refine_rotation=True), dtype=np.float64)
