"""What every potential owes, asked of an engine on small rattled and sheared structures of its own elements.

::

    F_ia       = - dE/dr_ia                                             (1)
    sigma_ab   =   1/V dE/d eps_ab,   r -> r (1 + eps), eps symmetric   (2)
    E          =   sum_i E_i                                            (3)
    E(R r + t) =   E(r),   F(R r + t) = R F(r)                          (4)
    E, F are permuted when atoms are                                    (5)
    evaluate([a, b, c]) = evaluate([a]) + evaluate([b]) + evaluate([c]) (6)

Derivatives are five-point differences, f'(x) = [8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))] / 12h + O(h^4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gracecli.plugin.specs import describe

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.engine.base import Array, Engine, Results

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"

_STEP = {"fp64": 1e-3, "fp32": 2e-2}  # Å and strain x 1 Å; rounding E/h against truncation h^4
_TOLERANCE = {"fp64": 1e-5, "fp32": 2e-2}  # of derivatives, relative to the largest force or stress
_EXACT = {"fp64": 1e-10, "fp32": 2e-4}  # of equalities, relative in the same way


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes
    ----------
    subject : str
        What was checked, such as ``"engine lj"``.
    check : str
        What was asked.
    outcome : str
        ``passed``, ``failed`` or ``skipped``.
    detail : str
        A number or a reason.
    """

    subject: str
    check: str
    outcome: str
    detail: str = ""


def check_engine(engine: Engine, seed: int = 0) -> list[Check]:
    """Run the checks (1) to (6) of the module docstring on a ready engine; also useful in a plugin's own tests.

    Parameters
    ----------
    engine : Engine
        Any engine.
    seed : int
        Of the random structures and displacements.
    """
    from gracecli.engine.base import Engine as EngineProtocol

    if not isinstance(engine, EngineProtocol):
        return [Check(engine_name(engine), "has the Engine interface", FAILED, "see gracecli/engine/base.py")]
    trials = _Trials(engine, seed)
    return [_run(engine_name(engine), name, check, trials) for name, check in trials.checks()]


def engine_name(engine: Any) -> str:
    """The engine as messages name it."""
    return f"engine {getattr(engine, 'name', type(engine).__name__)}"


def _run(subject: str, name: str, check: Callable[[], tuple[float, float]], trials: _Trials) -> Check:
    """Run one check: it returns a deviation and its tolerance."""
    try:
        deviation, tolerance = check()
    except Exception as error:
        return Check(subject, name, FAILED, describe(error))
    good = deviation <= tolerance  # False for NaN
    return Check(subject, name, PASSED if good else FAILED, f"deviation {deviation:.1e} (limit {tolerance:.0e})")


class _Trials:
    """The structures of one engine and the checks on them."""

    def __init__(self, engine: Engine, seed: int) -> None:
        import numpy as np

        self.engine = engine
        self.random = np.random.default_rng(seed)
        self.step = _STEP[engine.precision]
        self.tolerance = _TOLERANCE[engine.precision]
        self.exact = _EXACT[engine.precision]
        self.structures = _structures(engine, self.random)
        self.crystal, self.molecule = self.structures[0], self.structures[-1]

    def checks(self) -> Iterator[tuple[str, Callable[[], tuple[float, float]]]]:
        """Names and functions, in the order of the report."""
        yield "energy is the sum over atoms", self.sums
        yield "forces are -dE/dr", self.forces
        yield "stress is dE/dstrain / V", self.stress
        yield "many at once as one at a time", self.batch
        yield "same under rotation and translation", self.motion
        yield "same under exchange of atoms", self.exchange
        yield "same for a doubled cell", self.doubling
        yield "no cell, no stress", self.no_cell

    def sums(self) -> tuple[float, float]:
        results = [self._evaluate(atoms) for atoms in self.structures]
        return _largest(abs(r.energies.sum() - r.energy) / max(1.0, abs(r.energy)) for r in results), self.exact

    def forces(self) -> tuple[float, float]:
        import numpy as np

        deviations = []
        for atoms in self.structures:
            forces = self._evaluate(atoms).forces
            for atom in range(min(3, len(atoms))):
                for axis in range(3):
                    move = np.zeros((len(atoms), 3))
                    move[atom, axis] = 1.0
                    slope = self._slope(atoms, _moved, move)
                    deviations.append(abs(forces[atom, axis] + slope) / _scale(forces))
        return _largest(deviations), self.tolerance

    def stress(self) -> tuple[float, float]:
        import numpy as np

        result, volume = self._evaluate(self.crystal), self.crystal.get_volume()
        numeric = np.zeros(6)
        for k, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
            strain = np.zeros((3, 3))
            strain[a, b] = strain[b, a] = 1.0 if a == b else 0.5
            numeric[k] = self._slope(self.crystal, _strained, strain) / volume
        return float(np.abs(result.stress - numeric).max()) / _scale(numeric), self.tolerance

    def batch(self) -> tuple[float, float]:
        together = self.engine.evaluate([self._graph(atoms) for atoms in self.structures])
        pairs = zip(together, [self._evaluate(atoms) for atoms in self.structures], strict=True)
        return _largest(_difference(one, other) for one, other in pairs), self.exact

    def motion(self) -> tuple[float, float]:
        rotation = _rotation(self.random)
        before = self._evaluate(self.crystal)
        atoms = self.crystal.copy()
        atoms.set_cell(atoms.cell.array @ rotation.T)
        atoms.positions = self.crystal.positions @ rotation.T + self.random.normal(size=3)
        after = self._evaluate(atoms)
        return _difference(before, after, forces=before.forces @ rotation.T), self.exact

    def exchange(self) -> tuple[float, float]:
        order = self.random.permutation(len(self.crystal))
        before, after = self._evaluate(self.crystal), self._evaluate(self.crystal[order])
        return _difference(before, after, forces=before.forces[order]), self.exact

    def doubling(self) -> tuple[float, float]:
        one, two = self._evaluate(self.crystal), self._evaluate(self.crystal.repeat((2, 1, 1)))
        return abs(two.energy - 2 * one.energy) / max(1.0, abs(two.energy)), self.exact

    def no_cell(self) -> tuple[float, float]:
        import numpy as np

        result = self._evaluate(self.molecule)
        finite = np.isfinite(result.energy) and np.isfinite(result.forces).all()
        if not finite or not np.isnan(result.stress).all():
            raise ValueError("energy and forces must be finite and stress NaN without a cell")
        return float(np.abs(result.forces.sum(axis=0)).max()) / _scale(result.forces), self.exact

    def _graph(self, atoms: Atoms) -> Any:
        from gracecli.engine.neighbours import build_graph

        return build_graph(atoms, self.engine.cutoff, self.engine.pair_cutoff)

    def _evaluate(self, atoms: Atoms) -> Results:
        return self.engine.evaluate([self._graph(atoms)])[0]

    def _slope(self, atoms: Atoms, change: Callable[[Atoms, Array], Atoms], direction: Array) -> float:
        """Derivative of the energy along a displacement or strain."""
        h = self.step
        graphs = [self._graph(change(atoms, x * direction)) for x in (-2 * h, -h, h, 2 * h)]
        left2, left, right, right2 = (result.energy for result in self.engine.evaluate(graphs))
        return (8 * (right - left) - (right2 - left2)) / (12 * h)


def _structures(engine: Engine, random: Any) -> list[Atoms]:
    """A sheared crystal of one or two elements, a bigger one, a slab with vacuum, and a molecule without a cell."""
    import numpy as np
    from ase import Atoms
    from ase.data import atomic_numbers, covalent_radii

    familiar = ("Cu", "Ni", "Si", "Al")  # of similar size; many potentials know all elements
    symbols = [str(symbol) for symbol in familiar if symbol in engine.elements][:2] or list(engine.elements[:2])
    pair = (symbols[0], symbols[-1])
    radius = float(np.mean([covalent_radii[atomic_numbers[symbol]] for symbol in pair]))
    length = 2.0 * radius * 1.05 * np.sqrt(2.0)  # fcc lattice constant from touching spheres, a little loose
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])

    def crystal(kinds: list[str], periodic: Any = True) -> Atoms:
        cell = length * (np.eye(3) + random.normal(scale=0.04, size=(3, 3)))
        atoms = Atoms(kinds, scaled_positions=corners, cell=cell, pbc=periodic)
        atoms.rattle(0.03 * length, rng=random)
        return atoms

    mixed = crystal([pair[0], pair[1], pair[0], pair[0]])
    slab = crystal([pair[1]] * 4)
    slab.center(vacuum=engine.cutoff, axis=2)
    slab.pbc = (True, True, False)
    molecule = Atoms([pair[0], pair[1], pair[0]], positions=corners[:3] * length)
    molecule.rattle(0.03 * length, rng=random)
    return [mixed, crystal([pair[0]] * 4).repeat((2, 1, 1)), slab, molecule]


def _moved(atoms: Atoms, move: Array) -> Atoms:
    moved = atoms.copy()
    moved.positions = moved.positions + move
    return moved


def _strained(atoms: Atoms, strain: Array) -> Atoms:
    import numpy as np

    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return strained


def _rotation(random: Any) -> Array:
    """A proper rotation, uniformly distributed but for the signs that QR fixes."""
    import numpy as np

    matrix = np.linalg.qr(random.normal(size=(3, 3)))[0]
    return np.asarray(matrix * np.sign(np.linalg.det(matrix)))


def _largest(values: Iterable[float]) -> float:
    """Maximum; NaN if one is (Python's ``max`` drops it)."""
    import numpy as np

    return float(np.max(list(values)))


def _scale(values: Array) -> float:
    """Largest magnitude, so that deviations are relative; at least 1e-3 (eV/Å), so that tiny forces are not judged."""
    import numpy as np

    return _largest([np.abs(values).max(), 1e-3])


def _difference(one: Results, other: Results, forces: Array | None = None) -> float:
    """Largest relative difference in energy and forces."""
    import numpy as np

    expected = one.forces if forces is None else forces
    energy = abs(one.energy - other.energy) / max(1.0, abs(one.energy))
    return _largest([energy, np.abs(expected - other.forces).max() / _scale(expected)])
