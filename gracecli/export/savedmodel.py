"""``--format saved-model``: a TensorFlow SavedModel with the published signature.

Signatures ``compute`` (energies, forces, virial, pair forces) and ``compute_energy``, for models with messages also
``compute_dense`` (the same with the bonds of every atom in a block of fixed width); the restored object has methods of
these names that take one dictionary. Beside it the published ``metadata.yaml`` and ``metadata.json``. The split
functions for domain decomposition (``forward_layer_1`` ...) are not exported: the LAMMPS bundle decomposes by itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gracecli.engine.base import Results
from gracecli.errors import UsageError
from gracecli.export.base import Job, PlainExporter
from gracecli.export.verify import graphs_of
from gracecli.model.reduce import DTYPES

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.model.blueprint import Blueprint
    from gracecli.model.modelfile import Model

MANY_ELEMENTS = 20
"""From here on element-dependent weights cost noticeably: the program applies those of every element to every atom."""


class SavedModel(PlainExporter):
    """Writes a SavedModel folder."""

    program = True

    def write(self, job: Job, target: Path) -> Sequence[str]:
        """Trace, save, describe."""
        from gracecli.quiet import import_tensorflow, stderr_closed

        tf = import_tensorflow()
        module = _module(job, _xla(job))
        signatures = {name: _with_keywords(module, name) for name in _functions(job.model.blueprint)}
        with stderr_closed():
            tf.saved_model.save(module, str(target), signatures=signatures)
        _write_metadata(job.model, target)
        n = len(job.model.elements)
        return [f"the program serves {n} elements at once; --elements makes it faster"] if n >= MANY_ELEMENTS else []

    def evaluate(self, job: Job, target: Path, structures: Sequence[Atoms]) -> Sequence[Results | None]:
        """Run it in the engine for published exports."""
        from gracecli.engine.savedmodel import SavedModelEngine

        engine = SavedModelEngine(target)
        # together: a program that XLA compiles is compiled for one shape only
        return engine.evaluate(graphs_of(structures, engine.cutoff, engine.pair_cutoff))


def _functions(blueprint: Blueprint) -> tuple[str, ...]:
    return ("compute", "compute_energy", *(("compute_dense",) if blueprint.layers >= 2 else ()))


def _xla(job: Job) -> bool:
    value = job.options.get("xla", True)
    if not isinstance(value, bool):
        raise UsageError(f"option xla is yes or no, not {value!r}")
    return value


def _module(job: Job, xla: bool) -> Any:
    """An object with variables under their published paths and the traced functions."""
    import tensorflow as tf

    from gracecli.export.program import compute, compute_energy, input_specs, trackable_tree
    from gracecli.export.upstream import element_maps
    from gracecli.model.network import Network

    network = Network(job.model.blueprint, job.model.weights, DTYPES[job.precision])
    module = tf.Module()
    module.instructions = trackable_tree({**network.variables_by_name, **element_maps(job.model.blueprint)})

    def method(function: Any) -> Any:
        return tf.function(
            lambda inputs: function(network, inputs), input_signature=[input_specs()], jit_compile=xla, autograph=False
        )

    for name in _functions(job.model.blueprint):
        # rows of a dense layout are bonds like any other; the empty ones lie beyond every cutoff
        setattr(module, name, method(compute_energy if name == "compute_energy" else compute))
    # Keras-free objects are saved with what they reference: the network keeps constants and variables alive
    module.network_variables = list(network.variables_by_name.values())
    return module


def _with_keywords(module: Any, name: str) -> Any:
    """A signature that takes the inputs by keyword."""
    import tensorflow as tf

    from gracecli.export.program import input_specs

    function = getattr(module, name)
    return tf.function(lambda **inputs: function(inputs), autograph=False).get_concrete_function(**input_specs())


def _write_metadata(model: Model, target: Path) -> None:
    """``metadata.yaml`` and ``metadata.json``: elements in index order, cutoffs in Å."""
    import yaml

    matrix = model.pair_cutoffs()
    document: dict[str, Any] = {"chemical_symbols": list(model.elements), "cutoff": float(model.cutoff)}
    if matrix is not None:
        document["cutoff_matrix"] = matrix.tolist()
    (target / "metadata.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    (target / "metadata.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
