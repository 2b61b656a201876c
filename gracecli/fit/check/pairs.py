r"""Near structures, and what their stresses and forces say about the difference of their energies.

Two structures of the same atoms in the same order, cells ``H_a, H_b`` (rows are vectors), fractional coordinates
``s_a, s_b``. The cell follows ``H(t) = H_a exp(t L)``, the atoms ``s(t) = s_a + t ds``::

    H_a^-1 H_b = U R        U symmetric, R a rotation                 (polar decomposition)
    L = log U               ds = s_b - s_a, to the nearest image, without a common translation
    dE/dt = V sigma : L - sum_i F_i . (ds_i H)                        stress tensile-positive
    E_b - E_a ~ 1/2 [ (V sigma : L - F . u)_a + (V sigma : L - F . u)_b ]

with stress and forces of b turned back by R. The trapezoid is exact for a harmonic crystal; its error grows with the
difference of its two ends, which therefore weighs a pair down. In regressions of E_b - E_a on the parts of the
right-hand side the coefficients are 1 for consistent labels, and tell sign, units and order of components for others.

Where nothing is periodic, H = 1 and R is the rotation of best overlap (Kabsch).

===========  =====================================
symbol       variable
===========  =====================================
L, R, ds     ``strain``, ``rotation``, ``shift``
===========  =====================================
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from gracecli.engine.base import Array
from gracecli.fit.check.records import Record

LARGEST_STRAIN = 0.25
LARGEST_SHIFT = 0.7
"""Å, root mean square over atoms."""
NEIGHBOURS = 3
"""Partners of every structure."""
LIMIT = 400
"""Structures of one kind that are compared with each other; more are thinned out in blocks of neighbours."""
UNMOVED = 1e-3
"""Å; two such structures differ in their cells alone."""
LENGTH = 2.0
"""Å by which a strain counts as a displacement in the search for partners."""

SHEAR_ORDERS: tuple[tuple[int, int, int], ...] = tuple(permutations((3, 4, 5)))  # type: ignore[arg-type]
SHEAR_NAMES = ("yz", "xz", "xy")


@dataclass(frozen=True)
class Pair:
    """Two near structures: energy difference and its parts, eV; ``[end a, end b]``, NaN without labels.

    Attributes
    ----------
    first, second : int
        Numbers of the records.
    energy : float
        E_b - E_a.
    others : dict
        The same by other energy keys.
    normal, forces : (2,) float64
        Work of normal stresses, of forces.
    shear : (6, 2) float64
        Work of shear stresses by order of their components (:data:`SHEAR_ORDERS`; the first is as given).
    atoms : int
    volume : float
        Mean, Å^3.
    """

    first: int
    second: int
    energy: float
    others: dict[str, float]
    normal: Array
    shear: Array
    forces: Array
    normal_strain: float
    shear_strain: float
    moved: float
    atoms: int
    volume: float


def near_pairs(records: Sequence[Record]) -> list[Pair]:
    """Pairs of near structures of equal atoms, both with energies; each once."""
    kinds: dict[bytes, list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        if np.isfinite(record.frame.energy):
            periodic = bytes(record.atoms.pbc.astype(np.uint8))
            kinds[record.atoms.numbers.astype(np.int32).tobytes() + periodic].append(number)
    pairs: list[Pair] = []
    for members in kinds.values():
        if len(members) > 1:
            thinned = _thin(members)
            found = _partners([records[i] for i in thinned])
            pairs += [_pair(records, thinned[a], thinned[b]) for a, b in found]
    return pairs


def _thin(members: Sequence[int]) -> list[int]:
    """At most :data:`LIMIT` members, in blocks of 20 neighbours of the file: steps of a run lie side by side."""
    if len(members) <= LIMIT:
        return list(members)
    starts = np.linspace(0, len(members) - 20, LIMIT // 20).astype(int)
    return [members[i] for i in sorted({int(start + k) for start in starts for k in range(20)})]


def _geometry(record: Record) -> tuple[Array, Array]:
    """Cell and fractional coordinates; unit cell where nothing is periodic."""
    cell = record.atoms.cell.complete().array if record.atoms.pbc.any() else np.eye(3)
    return cell, np.asarray(np.linalg.solve(cell.T, record.atoms.positions.T).T)


def _partners(records: Sequence[Record]) -> list[tuple[int, int]]:
    """Nearest partners by strain and displacement."""
    cells, coordinates = (np.array(part) for part in zip(*map(_geometry, records), strict=True))
    periodic = np.asarray(records[0].atoms.pbc, float)
    inverse = np.linalg.inv(cells)
    middle = int(np.argmin(np.sum((cells - np.median(cells, axis=0)) ** 2, axis=(1, 2))))
    chosen: set[tuple[int, int]] = set()
    for a in range(len(records)):
        gradient = inverse[a] @ cells
        strain = 0.5 * (gradient @ gradient.transpose(0, 2, 1) - np.eye(3))
        shift = _shift(coordinates, coordinates[a], periodic)
        if not periodic.any():
            shift = _turned_shift(coordinates, coordinates[a])
        moved = np.sqrt(np.mean(np.sum((shift @ cells[a]) ** 2, axis=2), axis=1))
        size = np.sqrt(np.sum(strain**2, axis=(1, 2)))
        distance = np.hypot(LENGTH * size, moved)
        # identical structures say nothing, far ones too much
        distance[(distance < 1e-4) | (size > LARGEST_STRAIN) | (moved > LARGEST_SHIFT)] = np.inf
        order = [int(b) for b in np.argsort(distance, kind="stable") if np.isfinite(distance[b])]
        strained = [b for b in order if moved[b] < UNMOVED]  # the trapezoid goes far where only the cell changes
        spread = strained[:: max(1, len(strained) // NEIGHBOURS)][: NEIGHBOURS + 1]
        spread += [b for b in strained if b == middle]
        chosen |= {(min(a, b), max(a, b)) for b in (*order[:NEIGHBOURS], *spread)}
    return sorted(chosen)


def _shift(to: Array, start: Array, periodic: Array) -> Array:
    """Change of fractional coordinates to the nearest image, without the common translation."""
    change = to - start
    change = change - change[..., :1, :]
    change = change - periodic * np.round(change)
    return np.asarray(change - change.mean(axis=-2, keepdims=True))


def _turned_shift(to: Array, start: Array) -> Array:
    """Displacements after the rotation of best overlap, for many structures without a cell."""
    centred, goal = to - to.mean(axis=1, keepdims=True), start - start.mean(axis=0)
    return np.asarray(centred @ _overlap(goal, centred).transpose(0, 2, 1) - goal)


def _pair(records: Sequence[Record], first: int, second: int) -> Pair:
    one, other = records[first], records[second]
    (cell_a, start), (cell_b, to) = _geometry(one), _geometry(other)
    shift = _shift(to, start, np.asarray(one.atoms.pbc, float))
    if one.atoms.pbc.any():
        left, stretch, right = np.linalg.svd(np.linalg.solve(cell_a, cell_b))
        strain, rotation = left @ np.diag(np.log(stretch)) @ left.T, left @ right
    else:
        strain, rotation = np.zeros((3, 3)), _overlap(start - start.mean(axis=0), (to - to.mean(axis=0))[None])[0]
        shift = _turned_shift(to[None], start)[0]
        cell_b = rotation
    ends = ((one, cell_a, np.eye(3)), (other, cell_b, rotation))
    work = [_work(record, strain, shift @ cell @ turn.T, turn) for record, cell, turn in ends]
    return Pair(
        first=first,
        second=second,
        energy=other.frame.energy - one.frame.energy,
        others={key: other.energies[key] - one.energies[key] for key in one.energies if key in other.energies},
        normal=np.array([part[0] for part in work]),
        shear=np.array([part[1] for part in work]).T,
        forces=np.array([part[2] for part in work]),
        normal_strain=float(np.linalg.norm(np.diag(strain))),
        shear_strain=float(np.linalg.norm(strain - np.diag(np.diag(strain)))),
        moved=float(np.sqrt(np.mean(np.sum((shift @ cell_a) ** 2, axis=1)))),
        atoms=len(one.atoms),
        volume=0.5 * (_volume(one) + _volume(other)),
    )


def _work(record: Record, strain: Array, moved: Array, turn: Array) -> tuple[float, Array, float]:
    """Derivatives of the energy along the path at one end: normal stress, shear stress by order, forces."""
    stress, volume = record.frame.stress, _volume(record)
    if not np.abs(strain).max() > 1e-9:  # the cell is the same: no work, whether there is a stress or not
        stress, volume = np.zeros(6), 0.0
    normal = volume * float(np.sum(turn @ np.diag(stress[:3]) @ turn.T * strain))
    shear = []
    for order in SHEAR_ORDERS:
        yz, xz, xy = (stress[k] for k in order)
        tensor = np.array([[0.0, xy, xz], [xy, 0.0, yz], [xz, yz, 0.0]])
        shear.append(volume * float(np.sum(turn @ tensor @ turn.T * strain)))
    still = not np.abs(moved).max(initial=0.0) > 1e-7
    forces = 0.0 if still else -float(np.sum(record.frame.forces @ turn.T * moved))
    return normal, np.array(shear), forces


def _volume(record: Record) -> float:
    return float(abs(np.linalg.det(record.atoms.cell.array))) if record.atoms.pbc.all() else float("nan")


def _overlap(start: Array, to: Array) -> Array:
    """Rotations R with ``start R ~ to`` (rows, about their means), for a stack of ``to``."""
    left, _, right = np.linalg.svd(start.T @ to)
    sign = np.where(np.linalg.det(left @ right) < 0, -1.0, 1.0)
    left[:, :, 2] *= sign[:, None]
    return np.asarray(left @ right)
