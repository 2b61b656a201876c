"""An engine for published SavedModel exports: their own program, our bonds and sums.

The program returns atomic energies ``E_a`` and ``f_b = -dE/dr_b`` of every bond. Structures of a batch are disjoint
graphs, so ``F_k = sum_(b: j=k) f_b - sum_(b: i=k) f_b`` and ``stress = -sum_b f_b r_b / V`` are formed per structure
here. Old exports without pair forces are asked for one structure at a time and give forces and virial themselves.

Exports are compiled for every new shape: atoms and bonds are padded up a small ladder. Padded atoms follow the real
ones; padded bonds are longer than every cutoff and belong to the last atom.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from gracecli.engine.base import Array, Graph, IntArray, Results
from gracecli.engine.batch import ROW_WIDTH, BatchShape, ShapeLadder
from gracecli.errors import InputError, ModelError, UsageError
from gracecli.model.upstream.savedmodel import load_program
from gracecli.quiet import stderr_closed

PADDED_VECTOR = (52.0, 52.0, 52.0)
"""Å, the value of published padding."""
MAX_BATCH_BONDS = 200_000
VOIGT = [0, 1, 2, 5, 4, 3]
"""xx yy zz xy xz yz of the program -> xx yy zz yz xz xy."""


def create_engine(model_path: Path | None, precision: str | None = None, **options: Any) -> SavedModelEngine:
    """Engine for a SavedModel directory (factory of the engine spec)."""
    if options:
        raise UsageError(f"engine saved-model has no option {next(iter(options))!r}", "it takes none")
    if model_path is None or not (model_path / "saved_model.pb").is_file():
        raise ModelError(
            f"{model_path}: not a SavedModel (no saved_model.pb)", "give its folder with -m, or use --engine auto"
        )
    return SavedModelEngine(model_path, precision)


class SavedModelEngine:
    """Evaluates one SavedModel.

    Parameters
    ----------
    directory : Path
    precision : str, optional
        A program has its own; asking for the other one is an error.

    Raises
    ------
    ModelError
        The directory holds no program we can run.
    UsageError
        The program has another precision.
    """

    name = "saved-model"

    def __init__(self, directory: Path, precision: str | None = None) -> None:
        self.program = load_program(directory)
        if precision not in (None, self.program.precision):
            raise UsageError(
                f"{directory} was exported in {self.program.precision} and cannot run in {precision}",
                "leave out --precision",
            )
        self.elements = self.program.coverage.elements
        self.cutoff = self.program.coverage.cutoff
        self.precision = self.program.precision
        self.ladder = ShapeLadder()
        self._index = {atomic_numbers[e]: i for i, e in enumerate(self.elements)}
        self._batches = "z_pair_f" in self.program.outputs
        self._shapes: set[BatchShape] = set()
        self._compile_seconds = 0.0
        self._seconds = 0.0
        self._evaluations = 0

    def pair_cutoff(self, numbers: IntArray) -> Array | None:
        """Pair-cutoff matrix over the sorted unique numbers, or None."""
        matrix = self.program.coverage.cutoff_matrix
        if matrix is None:
            return None
        rows = [self._index[int(z)] for z in np.unique(numbers)]
        return np.asarray(matrix[np.ix_(rows, rows)])

    def statistics(self) -> dict[str, Any]:
        """Shapes met (each may cost a compile), seconds of their first evaluations, and of the others."""
        return {
            "compiles": len(self._shapes),
            "compile_seconds": self._compile_seconds,
            "evaluations": self._evaluations,
            "evaluate_seconds": self._seconds,
            "shapes": [(shape.atoms, shape.rows * ROW_WIDTH) for shape in sorted(self._shapes)],
        }

    def plan(self, shapes: Sequence[BatchShape]) -> None:
        """Announce the structures of a run, so that few shapes serve them all."""
        self.ladder.plan([BatchShape(shape.atoms, shape.rows, 1) for shape in shapes])

    def evaluate(self, graphs: Sequence[Graph]) -> list[Results]:
        """Energies, forces and stresses; several structures per call where the program gives pair forces.

        Raises
        ------
        InputError
            An element the model does not cover.
        """
        for graph in graphs:
            missing = sorted({int(z) for z in graph.numbers} - set(self._index))
            if missing:
                raise InputError(f"the model does not cover {', '.join(chemical_symbols[z] for z in missing)}")
        if not self._batches:
            return [self._evaluate([graph])[0] for graph in graphs]
        results: list[Results] = []
        group: list[Graph] = []
        for graph in graphs:
            if group and sum(len(g.centre) for g in [*group, graph]) > MAX_BATCH_BONDS:
                results += self._evaluate(group)
                group = []
            group.append(graph)
        return results + (self._evaluate(group) if group else [])

    def _evaluate(self, graphs: Sequence[Graph]) -> list[Results]:
        start = perf_counter()
        n_atoms, n_bonds = sum(len(g) for g in graphs), sum(len(g.centre) for g in graphs)
        shape = self.ladder.choose(BatchShape(n_atoms, max(1, -(-n_bonds // ROW_WIDTH)), 1))
        arrays = self._pack(graphs, shape)
        if shape in self._shapes:
            outputs = self.program.call(arrays)
            self._seconds += perf_counter() - start
        else:
            with stderr_closed():
                outputs = self.program.call(arrays)
            self._shapes.add(shape)
            self._compile_seconds += perf_counter() - start
        self._evaluations += len(graphs)
        energies = np.asarray(outputs["atomic_energy"], dtype=float)[:n_atoms, 0]
        if not self._batches:
            (graph,) = graphs
            forces = np.asarray(outputs["total_f"], dtype=float)[:n_atoms]
            virial = np.asarray(outputs["virial"], dtype=float)[VOIGT]
            return [Results(float(energies.sum()), energies, forces, -virial / graph.volume)]
        return _split(graphs, energies, np.asarray(outputs["z_pair_f"], dtype=float))

    def _pack(self, graphs: Sequence[Graph], shape: BatchShape) -> dict[str, Any]:
        """Flat arrays under the published input names."""
        n_bonds = shape.rows * ROW_WIDTH
        offsets = np.cumsum([0, *(len(g) for g in graphs)])
        numbers = np.concatenate([g.numbers for g in graphs])
        species = np.zeros(shape.atoms, dtype=np.int32)
        species[: len(numbers)] = [self._index[int(z)] for z in numbers]

        def padded(parts: Sequence[IntArray]) -> IntArray:
            values = np.full(n_bonds, shape.atoms - 1, dtype=np.int32)
            joined = np.concatenate([part + offset for part, offset in zip(parts, offsets, strict=False)])
            values[: len(joined)] = joined
            return values

        centre, neighbour = padded([g.centre for g in graphs]), padded([g.neighbour for g in graphs])
        vectors = np.tile(np.array(PADDED_VECTOR), (n_bonds, 1))
        real = np.concatenate([g.bond_vector for g in graphs])
        vectors[: len(real)] = real
        return {
            "bond_vector": vectors,
            "ind_i": centre,
            "ind_j": neighbour,
            "mu_i": species[centre],
            "mu_j": species[neighbour],
            "atomic_mu_i": species,
            "batch_tot_nat": shape.atoms,
            "batch_tot_nat_real": len(numbers),
        }


def _split(graphs: Sequence[Graph], energies: Array, pair_forces: Array) -> list[Results]:
    """Results per structure from atomic energies (atoms,) and -dE/dr (bonds, 3)."""
    results = []
    atom = bond = 0
    for graph in graphs:
        own = energies[atom : atom + len(graph)].copy()
        f = pair_forces[bond : bond + len(graph.centre)]
        forces = np.zeros((len(graph), 3))
        np.add.at(forces, graph.neighbour, f)
        np.subtract.at(forces, graph.centre, f)
        virial = np.einsum("bi,bj->ij", f, graph.bond_vector)
        virial = 0.5 * (virial + virial.T)
        voigt = np.array([virial[0, 0], virial[1, 1], virial[2, 2], virial[1, 2], virial[0, 2], virial[0, 1]])
        results.append(Results(float(own.sum()), own, forces, -voigt / graph.volume))
        atom, bond = atom + len(graph), bond + len(graph.centre)
    return results
