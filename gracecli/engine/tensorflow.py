"""The TensorFlow engine: any blueprint, compiled by XLA for a small ladder of padded shapes.

Per structure ``E = sum_a E_a``, ``F_k = sum_(b: i=k) g_b - sum_(b: j=k) g_b`` and ``stress = sum_b g_b r_b / V`` with
``g_b = dE/dr_b``; the sums run on the host, so the compiled program depends on the batch shape alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from gracecli.engine.base import Array, Graph, IntArray, Results
from gracecli.engine.batch import Batch, BatchShape, ShapeLadder, pack, required_shape
from gracecli.engine.grading import element_index, no_grade, with_gamma
from gracecli.errors import InputError, MemoryLimitError, UsageError
from gracecli.model.cutoffs import pair_cutoff_function
from gracecli.model.modelfile import Model
from gracecli.quiet import import_tensorflow, stderr_closed

PRECISIONS = {"fp64": "float64", "fp32": "float32"}
MAX_BATCH_COST = 6000.0
"""Largest batch (cost of :class:`BatchShape`, about atoms): beyond it memory grows and nothing is gained."""


def create_engine(model_path: Path | None, precision: str | None = None, **options: Any) -> TensorFlowEngine:
    """Engine for a model file or a published model directory (factory of the engine spec)."""
    from gracecli.registry.resolve import read_model

    return TensorFlowEngine(read_model(model_path), precision, **options)


class TensorFlowEngine:
    """Evaluates one model.

    Parameters
    ----------
    model : Model
    precision : str, optional
        ``fp64`` or ``fp32``; default is fp64 for models published in fp64 *and* fp32 (weights are widened), so that
        relaxations converge tightly; ``fp32`` evaluates as spec section 10 says.
    radial : str
        ``exact`` or ``spline``.
    xla : bool
        Compile with XLA (the eager graph is slow; for debugging).

    Attributes
    ----------
    grade : ExtrapolationGrade or None
        Of the model.
    gamma : bool
        Whether evaluations return extrapolation grades; may be set.
    """

    name = "tensorflow"

    def __init__(self, model: Model, precision: str | None = None, radial: str = "exact", xla: bool = True) -> None:
        precision = precision or "fp64"
        if precision not in PRECISIONS:
            raise UsageError(f"unknown precision {precision!r}", f"choose from {', '.join(PRECISIONS)}")
        if radial not in ("exact", "spline"):
            raise UsageError(f"unknown radial mode {radial!r}", "choose from exact, spline")
        tf = import_tensorflow()
        from gracecli.model.network import Network

        self._tf = tf
        self.model = model
        self.elements = model.elements
        self.cutoff = model.cutoff
        self.precision = precision
        self.radial = radial
        self.network = Network(model.blueprint, model.weights, PRECISIONS[precision])
        self.ladder = ShapeLadder()
        self._index = {atomic_numbers[e]: i for i, e in enumerate(self.elements)}
        self._pair_cutoff = pair_cutoff_function(model)
        self.grade = model.grade
        self.gamma = model.grade is not None  # a few per cent here; another program would cost a compile
        self._element_of = element_index([atomic_numbers[e] for e in self.elements])
        self._programs: dict[tuple[BatchShape, str], Any] = {}
        self._xla = xla
        self._compile_seconds = 0.0
        self._seconds = 0.0
        self._evaluations = 0
        if radial == "spline":
            self.network.freeze_tables()

    def pair_cutoff(self, numbers: IntArray) -> Array | None:
        """Pair-cutoff matrix over the sorted unique numbers, or None."""
        return self._pair_cutoff(numbers)

    def statistics(self) -> dict[str, Any]:
        """Compiles, their seconds, evaluations, seconds of evaluation, shapes."""
        return {
            "compiles": len(self._programs),
            "compile_seconds": self._compile_seconds,
            "evaluations": self._evaluations,
            "evaluate_seconds": self._seconds,
            "shapes": [tuple(s)[:3] for s, _ in self._programs],
        }

    def plan(self, shapes: Sequence[BatchShape]) -> None:
        """Announce the structures of a run, so that few programs serve them all."""
        self.ladder.plan(shapes)

    def evaluate(self, graphs: Sequence[Graph]) -> list[Results]:
        """Energies, forces and stresses, several structures per batch.

        Raises
        ------
        InputError
            An element the model does not cover.
        MemoryLimitError
            A single structure does not fit into memory.
        """
        for graph in graphs:
            missing = sorted({int(z) for z in graph.numbers} - set(self._index))
            if missing:
                raise InputError(f"the model does not cover {', '.join(chemical_symbols[z] for z in missing)}")
        results: list[Results] = []
        for group in _groups(graphs, MAX_BATCH_COST):
            results.extend(self._evaluate_group(group))
        return results

    def _evaluate_group(self, graphs: Sequence[Graph]) -> list[Results]:
        shape = self.ladder.choose(required_shape(graphs))
        try:
            return self._evaluate_batch(pack(graphs, self._index, shape))
        except self._tf.errors.ResourceExhaustedError as error:
            self.ladder.forget(shape)
            if len(graphs) == 1:
                raise MemoryLimitError(
                    f"a structure of {len(graphs[0])} atoms does not fit into memory", "use --precision fp32"
                ) from error
        middle = len(graphs) // 2
        return self._evaluate_group(graphs[:middle]) + self._evaluate_group(graphs[middle:])

    def _program(self, shape: BatchShape, kind: str) -> Any:
        """Compiled function of a shape: ``forces``, ``graded`` or ``grade slopes``."""
        if (shape, kind) not in self._programs:
            tf = self._tf

            def run(*tensors: Any) -> Any:
                from gracecli.model.network import BatchTensors

                batch = BatchTensors(*tensors[:6])
                if kind == "forces":
                    return self.network.energies_and_pair_gradients(batch, self.radial)
                assert self.grade is not None
                if kind == "graded":
                    return self.network.graded(batch, self.grade, self.radial)
                return (self.network.features_pulled_back(batch, self.grade, tensors[6], tensors[7], self.radial),)

            self._programs[shape, kind] = tf.function(run, jit_compile=self._xla, autograph=False)
        return self._programs[shape, kind]

    def _run(self, batch: Batch, kind: str, *others: Array) -> list[Any]:
        """Run the program of a batch, compiled if it is new; arrays."""
        start = perf_counter()
        fresh = (batch.shape, kind) not in self._programs
        arrays = (
            batch.bond_vector, batch.row_centre, batch.neighbour, batch.species, batch.elements, batch.atom_mask,
            *others,
        )  # fmt: skip
        program = self._program(batch.shape, kind)
        tensors = [self._tf.constant(a) for a in arrays]
        if fresh:
            with stderr_closed():
                made = [t.numpy() for t in program(*tensors)]
            self._compile_seconds += perf_counter() - start
        else:
            made = [t.numpy() for t in program(*tensors)]
            self._seconds += perf_counter() - start
        return made

    def _evaluate_batch(self, batch: Batch) -> list[Results]:
        graded = self.gamma and self.grade is not None
        energies, gradient, *features = self._run(batch, "graded" if graded else "forces")
        self._evaluations += batch.n_structures
        results = split_results(batch, energies, gradient)
        if not graded:
            return results
        assert self.grade is not None
        real = int(batch.atom_offset[-1])
        species = batch.elements[batch.species[:real]]
        return with_gamma(results, self.grade, species, *(f[:real] for f in features))

    def features(self, graphs: Sequence[Graph]) -> tuple[Array, IntArray]:
        """Features of extrapolation grades of all atoms, (N, D), and their elements (numbers of the model), (N,)."""
        if self.grade is None:
            raise no_grade(self)
        found, species = [], []
        for group in _groups(graphs, MAX_BATCH_COST):
            batch = pack(group, self._index, self.ladder.choose(required_shape(group)))
            real = int(batch.atom_offset[-1])
            _, _, projected, squares = self._run(batch, "graded")
            found.append(self.grade.feature(projected[:real], squares[:real]))
            species.append(batch.elements[batch.species[:real]])
        return np.concatenate(found), np.concatenate(species)

    def invariants(self, graphs: Sequence[Graph]) -> Array:
        """Invariants B that enter the energy, (atoms of all graphs, D_b) (:mod:`gracecli.model.grade`)."""
        from gracecli.model.network import batch_tensors

        if not graphs:
            return np.empty((0, 0))
        batch = pack(graphs, self._index)
        made = self.network.invariants(batch_tensors(batch), self.radial).numpy()
        return np.asarray(made[: int(batch.atom_offset[-1])], dtype=np.float64)

    def gamma_slopes(self, graph: Graph) -> tuple[Array, Array]:
        """Derivatives of U, the sum of grades over atoms.

        Returns
        -------
        dU/dr : (N, 3) float64
            1/Å; a gradient, not a force.
        virial : (6,) float64
            sum_b r_b dU/dr_b, in the order xx yy zz xy xz yz of published models.
        """
        if self.grade is None:
            raise no_grade(self)
        batch = pack([graph], self._index, self.ladder.choose(required_shape([graph])))
        _, _, projected, squares = self._run(batch, "graded")
        species = self._element_of[graph.numbers]
        n = len(graph)
        by_feature = self.grade.gradient(self.grade.feature(projected[:n], squares[:n]), species)
        slopes = self.grade.pull_back(projected[:n], squares[:n], by_feature)
        padded = [np.concatenate([s, np.zeros((len(batch.species) - n, s.shape[1]))]) for s in slopes]
        (gradient,) = self._run(batch, "grade slopes", *padded)
        (result,) = split_results(batch, np.zeros(len(batch.species)), gradient)
        virial = np.einsum("rwi,rwj->ij", gradient, batch.bond_vector)
        return -result.forces, virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]


def split_results(batch: Batch, energies: Array, gradient: Array) -> list[Results]:
    """Forces and stresses of every structure from atomic energies (atoms,) and dE/dr (rows, W, 3)."""
    n_atoms = len(batch.species)
    neighbour = batch.neighbour.reshape(-1)
    flat = gradient.reshape(-1, 3)
    forces = np.zeros((n_atoms, 3))
    for k in range(3):
        forces[:, k] = -np.bincount(neighbour, weights=flat[:, k], minlength=n_atoms)
    per_row = gradient.sum(axis=1)
    for k in range(3):
        forces[:, k] += np.bincount(batch.row_centre, weights=per_row[:, k], minlength=n_atoms)
    virial_rows = np.einsum("rwi,rwj->rij", gradient, batch.bond_vector)
    row_structure = batch.structure[batch.row_centre]
    results = []
    for s in range(batch.n_structures):
        atoms = slice(int(batch.atom_offset[s]), int(batch.atom_offset[s + 1]))
        rows = row_structure == s
        virial = virial_rows[rows].sum(axis=0)
        virial = 0.5 * (virial + virial.T)
        volume = batch.volumes[s]
        voigt = np.array([virial[0, 0], virial[1, 1], virial[2, 2], virial[1, 2], virial[0, 2], virial[0, 1]])
        results.append(
            Results(
                energy=float(energies[atoms].sum()),
                energies=energies[atoms].copy(),
                forces=forces[atoms].copy(),
                stress=voigt / volume,
            )
        )
    return results


def _groups(graphs: Sequence[Graph], limit: float) -> list[list[Graph]]:
    """Cut a sequence into consecutive batches of bounded cost."""
    groups: list[list[Graph]] = []
    total = 0.0
    for graph in graphs:
        cost = required_shape([graph]).cost
        if not groups or total + cost > limit:
            groups.append([])
            total = 0.0
        groups[-1].append(graph)
        total += cost
    return groups
