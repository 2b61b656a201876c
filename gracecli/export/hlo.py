"""``--format hlo``: the model as an XLA program of fixed size, which JAX runs on CPU, GPU or TPU.

TensorFlow gives the program of a function with static shapes as a serialized ``HloModuleProto``. The folder holds

* ``program.hlo.pb``, and the same as text in StableHLO, ``program.stablehlo.mlir``;
* ``weights.npz``: the arguments after the structure, ``0``, ``1``, ... in order (weights and tables);
* ``program.json``: names, shapes and types of arguments and results, elements, cutoffs;
* ``run_on_jax.py``: loads and runs it; needs jax, numpy and (as a script) ase, neither TensorFlow nor gracecli.

Bonds lie in rows of 16, each of one centre, as in :mod:`gracecli.engine.batch`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.engine.base import Graph, Results
from gracecli.engine.batch import ROW_WIDTH
from gracecli.errors import GraceError, InputError, UsageError
from gracecli.export.base import Job, PlainExporter
from gracecli.export.reference import graphs_for
from gracecli.model.reduce import DTYPES

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.model.modelfile import Model

RUNNER = "run_on_jax.py"
PROGRAM, TEXT, WEIGHTS, INTERFACE = "program.hlo.pb", "program.stablehlo.mlir", "weights.npz", "program.json"
ARGUMENTS = ("bond_vector", "row_centre", "neighbour", "species", "atom_mask")
RESULTS = ("energies", "forces", "virial")
HEADROOM = 1.2
"""Bonds of a program beside those of the given structure, so that it survives some motion."""


class Hlo(PlainExporter):
    """Writes the folder."""

    program = True

    def write(self, job: Job, target: Path) -> Sequence[str]:
        """Compile to HLO and write."""
        atoms, bonds = program_size(job)
        rows = (bonds + (ROW_WIDTH - 1) * atoms) // ROW_WIDTH
        serialized, text, arguments = compile_program(job.model, DTYPES[job.precision], atoms, rows)
        (target / PROGRAM).write_bytes(serialized)
        (target / TEXT).write_text(text, encoding="utf-8")
        np.savez(target / WEIGHTS, allow_pickle=False, **{str(k): value for k, value in enumerate(arguments)})
        document = _interface(job, atoms, bonds, rows)
        (target / INTERFACE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        source = Path(__file__).with_name("hlo_runner.py").read_text(encoding="utf-8")
        (target / RUNNER).write_text(source, encoding="utf-8")
        return [f"the program holds {atoms} atoms and {bonds} directed bonds; {RUNNER} runs it on JAX"]

    def evaluate(self, job: Job, target: Path, structures: Sequence[Atoms]) -> Sequence[Results | None]:
        """Run the folder's own runner in a process of its own."""
        python = jax_python()
        graphs = graphs_for(job.model, structures)
        atoms, bonds = program_size(job)
        held = [len(graph) <= atoms and len(graph.centre) <= bonds for graph in graphs]
        if not any(held):
            return [None] * len(structures)
        found = iter(_run(python, target, [graph for graph, fits in zip(graphs, held, strict=True) if fits]))
        return [next(found) if fits else None for fits in held]


def program_size(job: Job) -> tuple[int, int]:
    """Atoms and directed bonds the program holds, from the options.

    Raises
    ------
    UsageError
        Neither sizes nor a structure.
    InputError
        The structure cannot be read, or is larger than the sizes.
    """
    atoms, bonds, path = (job.options.get(name) for name in ("atoms", "bonds", "structure"))
    if path is None:
        if atoms is None or bonds is None:
            raise UsageError("an XLA program has a fixed size", "give --structure FILE, or --atoms N and --bonds M")
        return int(atoms), int(bonds)
    structure = _read(Path(path))
    missing = sorted(set(structure.get_chemical_symbols()) - set(job.model.elements))
    if missing:
        raise InputError(f"{path}: the model does not cover {', '.join(missing)}", "export with those elements")
    (graph,) = graphs_for(job.model, [structure])
    sizes = (
        len(graph) if atoms is None else int(atoms),
        int(np.ceil(HEADROOM * len(graph.centre) / ROW_WIDTH)) * ROW_WIDTH if bonds is None else int(bonds),
    )
    if sizes[0] < len(graph) or sizes[1] < len(graph.centre):
        raise InputError(f"{path}: {len(graph)} atoms, {len(graph.centre)} bonds do not fit into --atoms and --bonds")
    return sizes


def _read(path: Path) -> Any:
    from ase.io import read

    try:
        return read(path)
    except Exception as error:  # ASE's readers raise whatever they meet
        raise InputError(f"cannot read {path}: {type(error).__name__}: {error}", "any format that ASE reads") from error


def compile_program(model: Model, dtype: str, atoms: int, rows: int) -> tuple[bytes, str, list[np.ndarray]]:
    """Serialized HLO, StableHLO text, and the arrays that follow the structure among its arguments."""
    from gracecli.quiet import import_tensorflow, stderr_closed

    tf = import_tensorflow()
    from gracecli.model.network import BatchTensors, Network

    network = Network(model.blueprint, model.weights, dtype)
    n_elements = len(model.elements)

    def run(bond_vector: Any, row_centre: Any, neighbour: Any, species: Any, atom_mask: Any) -> tuple[Any, Any, Any]:
        batch = BatchTensors(bond_vector, row_centre, neighbour, species, tf.range(n_elements), atom_mask)
        energies, gradient = network.energies_and_pair_gradients(batch)
        flat = tf.reshape(gradient, (-1, 3))
        forces = tf.math.unsorted_segment_sum(tf.reduce_sum(gradient, axis=1), row_centre, atoms)
        forces -= tf.math.unsorted_segment_sum(flat, tf.reshape(neighbour, [-1]), atoms)
        virial = tf.matmul(tf.reshape(bond_vector, (-1, 3)), flat, transpose_a=True)
        order = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
        return energies, forces, tf.stack([virial[i, j] for i, j in order])

    specs = [tf.TensorSpec(shape, dtype) for shape, dtype in _argument_types(atoms, rows).values()]
    function = tf.function(run, jit_compile=True, autograph=False)
    with stderr_closed():
        concrete = function.get_concrete_function(*specs)
        stages = function.experimental_get_compiler_ir(*specs)
        serialized, text = stages(stage="hlo_serialized"), stages(stage="stablehlo")
    # what the function captures are further arguments, in this order
    handles = {id(variable.handle): variable for variable in concrete.variables}
    arguments = [handles[id(c)].numpy() if id(c) in handles else c.numpy() for c in concrete.captured_inputs]
    return serialized, text, arguments


def _argument_types(atoms: int, rows: int) -> dict[str, tuple[tuple[int, ...], str]]:
    return {
        "bond_vector": ((rows, ROW_WIDTH, 3), "float64"),
        "row_centre": ((rows,), "int32"),
        "neighbour": ((rows, ROW_WIDTH), "int32"),
        "species": ((atoms,), "int32"),
        "atom_mask": ((atoms,), "float64"),
    }


def _interface(job: Job, atoms: int, bonds: int, rows: int) -> dict[str, Any]:
    matrix = job.model.pair_cutoffs()
    return {
        "format": "gracecli-hlo",
        "version": 1,
        **job.provenance,
        "pair_cutoffs": None if matrix is None else matrix.tolist(),
        "atoms": atoms,
        "bonds": bonds,
        "rows": rows,
        "row_width": ROW_WIDTH,
        "arguments": [
            {"name": name, "shape": list(shape), "dtype": dtype}
            for name, (shape, dtype) in _argument_types(atoms, rows).items()
        ],
        "further_arguments": WEIGHTS,
        "results": [
            {"name": "energies", "shape": [atoms], "unit": "eV", "what": "per atom, 0 for padding"},
            {"name": "forces", "shape": [atoms, 3], "unit": "eV/Å"},
            {"name": "virial", "shape": [6], "unit": "eV", "what": "stress times volume, xx yy zz yz xz xy"},
        ],
        "_units": {"cutoff": "Å", "pair_cutoffs": "Å", "bond_vector": "Å"},
    }


def jax_python() -> str:
    """A Python that has JAX: this one, or that of ``GRACE_JAX_PYTHON``.

    Raises
    ------
    UsageError
        There is none.
    """
    given = os.environ.get("GRACE_JAX_PYTHON")
    if given:
        return given
    if find_spec("jax") is None:
        raise UsageError(
            "an HLO program is verified by running it on JAX, which is not installed",
            "pip install 'gracecli[jax]', name a Python that has it in GRACE_JAX_PYTHON, or give --no-verify",
        )
    return sys.executable


def _run(python: str, folder: Path, graphs: Sequence[Graph]) -> list[Results]:
    """Evaluate graphs by the runner, through files in the folder that are removed again."""
    asked, answered = folder / ".graphs.npz", folder / ".results.npz"
    fields = ("numbers", "centre", "neighbour", "bond_vector")
    arrays = {f"{field}{k}": getattr(graph, field) for k, graph in enumerate(graphs) for field in fields}
    np.savez(asked, allow_pickle=False, **arrays)
    try:
        command = [python, str(folder / RUNNER), "--graphs", str(asked), str(answered)]
        environment = {**os.environ, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise GraceError(f"the exported program does not run on JAX: {reason}", f"with the jax of {python}")
        with np.load(answered, allow_pickle=False) as data:
            return [
                Results(
                    float(data[f"energies{k}"].sum()), data[f"energies{k}"], data[f"forces{k}"],
                    data[f"virial{k}"] / graph.volume,
                )
                for k, graph in enumerate(graphs)
            ]  # fmt: skip
    finally:
        asked.unlink(missing_ok=True)
        answered.unlink(missing_ok=True)
