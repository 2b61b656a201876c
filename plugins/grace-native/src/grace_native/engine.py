"""The engine ``native``: evaluates a model with compiled kernels.

A model is lowered (:mod:`grace_native.lowering`) for the elements of the structures it meets and handed to C++ as one
array of integers and one of numbers; a structure with a new element lowers it again for all elements met so far.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from grace_native.analysis import Analysis
from grace_native.graphs import JoinedGraphs, voigt
from grace_native.library import couplings, default_threads, instruction_set, load
from grace_native.lowering import Lowering
from gracecli.engine.base import Array, Graph, IntArray, Results
from gracecli.engine.bonds import Bonds, NearBonds
from gracecli.engine.grading import no_grade, with_gamma
from gracecli.errors import InputError, UsageError
from gracecli.model.cutoffs import pair_cutoff_function
from gracecli.model.modelfile import Model

PRECISIONS = ("fp64", "fp32")
RADIAL_MODES = ("spline", "exact")
KEEP_BYTES = 512 * 2**20
"""Values kept between the passes of models with messages; above it they are computed twice."""
MAX_ATOMS = 200_000
"""Atoms evaluated together; larger batches of small structures only cost memory."""


def create_engine(model_path: Path | None, precision: str | None = None, **options: Any) -> NativeEngine:
    """Engine for a model file or a published model directory (factory of the engine spec)."""
    from gracecli.registry.resolve import read_model

    known = ("radial", "threads", "keep_bytes")
    for name in options:
        if name not in known:
            raise UsageError(f"the native engine has no option {name!r}", f"its options are {', '.join(known)}")
    return NativeEngine(read_model(model_path), precision, **options)


class NativeEngine:
    """Evaluates one model.

    Parameters
    ----------
    model : Model
    precision : str, optional
        ``fp64`` (default) or ``fp32``: single precision after the geometry, sums over atoms in double.
    radial : str
        ``spline`` (default) or ``exact`` (radial functions evaluated on every bond; for checks).
    threads : int, optional
        Default: ``OMP_NUM_THREADS``, else all processors of this process.
    keep_bytes : int
        Memory for values kept between passes; 0 always recomputes them.

    Attributes
    ----------
    grade : ExtrapolationGrade or None
        Of the model.
    gamma : bool
        Whether evaluations return extrapolation grades; may be set.

    Raises
    ------
    UsageError
        Unknown precision, mode or number of threads.
    ModelError
        The model holds a node type this engine cannot evaluate; the message names it.
    """

    name = "native"

    def __init__(
        self,
        model: Model,
        precision: str | None = None,
        radial: str = "spline",
        threads: int | None = None,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        precision = precision or "fp64"
        if precision not in PRECISIONS:
            raise UsageError(f"unknown precision {precision!r}", f"choose from {', '.join(PRECISIONS)}")
        if radial not in RADIAL_MODES:
            raise UsageError(f"unknown radial mode {radial!r}", f"choose from {', '.join(RADIAL_MODES)}")
        self.threads = default_threads() if threads is None else int(threads)
        if self.threads < 1:
            raise UsageError(f"threads must be positive, not {threads}")
        self._library = load()
        self._bonds_within = import_module("grace_native._native").bonds_within
        Analysis(model.blueprint, model.weights)  # unsupported models are refused now, not at the first structure
        self.model = model
        self.elements = model.elements
        self.cutoff = model.cutoff
        self.precision = precision
        self.radial = radial
        self.keep_bytes = int(keep_bytes)
        self._index = {atomic_numbers[e]: i for i, e in enumerate(self.elements)}
        self._pair_cutoff = pair_cutoff_function(model)
        self.grade = model.grade
        self.gamma = False
        self._present: list[int] = []
        self._lock = threading.Lock()
        self._compiled: Any = None
        self._lowering: Lowering | None = None
        self._evaluations, self._seconds, self._lower_seconds, self._lowered = 0, 0.0, 0.0, 0

    def pair_cutoff(self, numbers: IntArray) -> Array | None:
        """Pair-cutoff matrix over the sorted unique numbers, or None."""
        return self._pair_cutoff(numbers)

    def bond_filter(self, bonds: Bonds, positions: Array, cell: Array, squared_cutoff: Array | float) -> NearBonds:
        """Bonds shorter than their cutoff, compiled; to the bit those of :func:`gracecli.engine.bonds.near_bonds`."""
        count, atoms = len(bonds.centre), len(positions)
        centre, neighbour = np.empty(count, np.int32), np.empty(count, np.int32)
        vectors, first = np.empty((count, 3)), np.empty(atoms + 1, np.int64)
        kept, squared = self._bonds_within(
            positions, bonds.offsets(cell), bonds.centre, bonds.neighbour, bonds.shift_index,
            np.atleast_1d(squared_cutoff), centre, neighbour, vectors, first, self.threads,
        )  # fmt: skip
        return NearBonds(centre[:kept], neighbour[:kept], vectors[:kept], first, float(np.sqrt(squared)))

    def statistics(self) -> dict[str, Any]:
        """Counters; ``compiles`` counts how often the model was prepared for new elements."""
        return {
            "compiles": self._lowered,
            "compile_seconds": self._lower_seconds,
            "evaluations": self._evaluations,
            "evaluate_seconds": self._seconds,
            "threads": self.threads,
            "instruction_set": instruction_set(),
            "workspace_bytes": 0 if self._compiled is None else int(self._compiled.bytes()),
            "spline_error": max(self._lowering.radial.errors, default=0.0) if self._lowering else 0.0,
        }

    def evaluate(self, graphs: Sequence[Graph]) -> list[Results]:
        """Energies, forces and stresses of several structures.

        Raises
        ------
        InputError
            An element the model does not cover.
        """
        with self._lock:
            self._prepare(graphs)
            start = perf_counter()
            results: list[Results] = []
            batch: list[Graph] = []
            for graph in graphs:
                if batch and sum(map(len, batch)) + len(graph) > MAX_ATOMS:
                    results += self._evaluate(batch)
                    batch = []
                batch.append(graph)
            results += self._evaluate(batch) if batch else []
            self._evaluations += len(graphs)
            self._seconds += perf_counter() - start
        return results

    def _prepare(self, graphs: Sequence[Graph]) -> None:
        """Lower the model for all elements met so far."""
        numbers = np.flatnonzero(np.bincount(np.concatenate([g.numbers for g in graphs]))).tolist()
        missing = [z for z in numbers if z not in self._index]
        if missing:
            raise InputError(f"the model does not cover {', '.join(chemical_symbols[z] for z in missing)}")
        wanted = sorted({self._index[z] for z in numbers} | set(self._present))
        if self._compiled is not None and wanted == self._present:
            return
        start = perf_counter()
        self._lowering = Lowering(self.model, wanted, couplings(), self.precision, self.radial == "exact", True)
        code, data = self._lowering.build().encode()
        self._compiled = self._library.engine(code, data, self.precision == "fp32")
        self._present = wanted
        self._species = np.full(max(self._index) + 1, -1, dtype=np.int32)
        for place, element in enumerate(wanted):
            self._species[atomic_numbers[self.elements[element]]] = place
        self._lowered += 1
        self._lower_seconds += perf_counter() - start

    def features(self, graphs: Sequence[Graph]) -> tuple[Array, IntArray]:
        """Features of extrapolation grades of all atoms, (N, D), and their elements (numbers of the model), (N,)."""
        if self.grade is None:
            raise no_grade(self)
        with self._lock:
            self._prepare(graphs)
            found = [self._run([graph], True) for graph in graphs]
        features = [self.grade.feature(projected, squares) for _, _, projected, squares in found]
        return np.concatenate(features), np.concatenate([species for _, species, _, _ in found])

    def _evaluate(self, graphs: Sequence[Graph]) -> list[Results]:
        graded = self.gamma and self.grade is not None
        results, species, projected, squares = self._run(graphs, graded)
        if not graded:
            return results
        assert self.grade is not None
        return with_gamma(results, self.grade, species, projected, squares)

    def _run(self, graphs: Sequence[Graph], graded: bool) -> tuple[list[Results], IntArray, Array, Array]:
        """Results, elements (numbers of the model), and what grades are made of (empty unless wanted)."""
        joined = JoinedGraphs(graphs)
        offsets = joined.offsets
        species = self._species[np.concatenate([g.numbers for g in graphs])]
        total = int(offsets[-1])
        exact = self._exact_radials(species, np.asarray(joined.centre), joined.neighbour, joined.vectors)
        energies, forces, virials = np.empty(total), np.empty((total, 3)), np.empty((total, 9))
        made = np.empty((total, self._compiled.feature_columns() if graded else 0))
        self._compiled.evaluate(
            species, joined.first, joined.neighbour, joined.vectors, energies, forces, virials, made,
            self.threads, self.keep_bytes,
        )  # fmt: skip
        del exact
        results = [
            _result(graph, energies[a:b], forces[a:b], virials[a:b])
            for graph, a, b in zip(graphs, offsets[:-1], offsets[1:], strict=True)
        ]
        numbers = np.array(self._present, dtype=np.int32)[species]
        if not graded:
            return results, numbers, made, made
        assert self._lowering is not None
        assert self._lowering.features is not None
        return results, numbers, *self._lowering.features.sums(made)

    def _exact_radials(self, species: IntArray, centre: IntArray, other: IntArray, vectors: Array) -> list[Array]:
        """Hand exact radial functions of all bonds to C++ (which keeps no copy: the arrays must outlive the call)."""
        kept: list[Array] = []
        if self.radial != "exact":
            return kept
        assert self._lowering is not None
        distance = np.sqrt((vectors**2).sum(axis=1) + 1e-10)
        for number, table in enumerate(self._lowering.radial.tables):
            value, slope = table.on_bonds(species[centre], species[other], distance)
            self._compiled.set_radial(number, value, slope)
            kept += [value, slope]
        return kept


def _result(graph: Graph, energies: Array, forces: Array, virials: Array) -> Results:
    """Sum up one structure; stress = sum_b r g / V, tensile positive, xx yy zz yz xz xy."""
    stress = voigt(virials.sum(axis=0)) / graph.volume
    return Results(energy=float(energies.sum()), energies=energies.copy(), forces=forces.copy(), stress=stress)
