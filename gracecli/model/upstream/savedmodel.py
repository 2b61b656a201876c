"""Read a published TensorFlow SavedModel export: a compiled program with its elements and cutoffs.

What it covers comes from ``metadata.yaml`` (``chemical_symbols``, ``cutoff``, optional ``cutoff_matrix``), or in older
exports from the restored instructions (checkpoint format, section 4). Inputs and outputs are read from the signature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gracecli.engine.base import Array
from gracecli.errors import ModelError

SIGNATURES = ("compute", "serving_default")
KNOWN_INPUTS = frozenset(
    {"bond_vector", "ind_i", "ind_j", "mu_i", "mu_j", "atomic_mu_i", "batch_tot_nat", "batch_tot_nat_real"}
)
OUTPUTS = ("atomic_energy", "total_f", "virial")


@dataclass(frozen=True)
class Coverage:
    """What a program can be asked.

    Attributes
    ----------
    elements : tuple of str
        In index order.
    cutoff : float
        Largest, Å.
    cutoff_matrix : (n_elements, n_elements) or None
        Å, where it depends on the pair.
    """

    elements: tuple[str, ...]
    cutoff: float
    cutoff_matrix: Array | None


@dataclass(frozen=True)
class Program:
    """A loaded program.

    Attributes
    ----------
    call : callable
        Arrays by input name -> arrays by output name.
    inputs, outputs : frozenset of str
        Names in the signature.
    coverage : Coverage
    precision : str
        ``fp64`` or ``fp32``, of its variables.
    """

    call: Callable[[Mapping[str, Any]], dict[str, Any]]
    inputs: frozenset[str]
    outputs: frozenset[str]
    coverage: Coverage
    precision: str


def load_program(directory: Path) -> Program:
    """Load a SavedModel.

    Raises
    ------
    ModelError
        No or a damaged SavedModel, one without the signature, or with inputs this version does not know.
    """
    if not (directory / "saved_model.pb").is_file():
        raise ModelError(f"{directory}: no saved_model.pb", "give the folder of a SavedModel export")
    from gracecli.quiet import import_tensorflow, stderr_closed

    tf = import_tensorflow()
    try:
        with stderr_closed():
            restored = tf.saved_model.load(str(directory))
    except (tf.errors.OpError, OSError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{directory}: cannot load the SavedModel: {reason}", "fetch or export it again") from error
    name = next((s for s in SIGNATURES if s in restored.signatures), None)
    if name is None:
        raise ModelError(
            f"{directory}: the SavedModel has neither the signature {' nor '.join(SIGNATURES)}",
            f"it has: {', '.join(restored.signatures) or 'none'}; it is no GRACE export",
        )
    signature = restored.signatures[name]
    inputs, outputs = frozenset(signature.structured_input_signature[1]), frozenset(signature.structured_outputs)
    unknown, lacking = sorted(inputs - KNOWN_INPUTS), sorted(set(OUTPUTS) - outputs)
    if unknown or lacking:
        what = f"unknown input {unknown[0]!r}" if unknown else f"no output {lacking[0]!r}"
        raise ModelError(f"{directory}: signature {name!r} has {what}", "a newer gracecli may run it")
    types = {key: spec.dtype for key, spec in signature.structured_input_signature[1].items()}

    def call(arrays: Mapping[str, Any]) -> dict[str, Any]:
        tensors = {key: tf.constant(arrays[key], dtype=types[key]) for key in inputs}
        return {key: value.numpy() for key, value in signature(**tensors).items()}

    # the signature does not keep the object alive whose variables it reads
    call.restored = restored  # type: ignore[attr-defined]
    single = any(variable.dtype == tf.float32 for variable in signature.variables)
    return Program(call, inputs, outputs, read_coverage(directory, restored), "fp32" if single else "fp64")


def read_coverage(directory: Path, restored: Any = None) -> Coverage:
    """Elements and cutoffs from ``metadata.yaml``, else from the restored object.

    Raises
    ------
    ModelError
        Neither states them.
    """
    path = directory / "metadata.yaml"
    if path.is_file():
        import yaml

        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
            return _coverage(document["chemical_symbols"], document["cutoff"], document.get("cutoff_matrix"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"{path}: cannot read elements and cutoff: {reason}", "export the model again") from error
    if restored is None:
        raise ModelError(f"{directory}: no metadata.yaml, so the elements are unknown without loading the program")
    return _restored_coverage(directory, restored)


def _coverage(symbols: Any, cutoff: Any, matrix: Any) -> Coverage:
    elements = tuple(str(s) for s in symbols)
    if matrix is None:
        return Coverage(elements, float(cutoff), None)
    values = np.asarray(matrix, dtype=float).reshape(len(elements), len(elements))
    values = np.maximum(values, values.T)
    return Coverage(elements, float(max(values.max(), float(cutoff))), values)


def _restored_coverage(directory: Path, restored: Any) -> Coverage:
    """From the members of ``instructions``: element_map_symbols/_index, rc (or basis_function.rc), bond_cutoff_map."""
    instructions = getattr(restored, "instructions", None) or {}
    members = list(instructions.values() if hasattr(instructions, "values") else instructions)
    symbols: tuple[str, ...] | None = None
    cutoffs: list[float] = []
    matrix = None
    for member in members:
        if symbols is None and hasattr(member, "element_map_symbols"):
            order = np.argsort(np.asarray(member.element_map_index.numpy()))
            names = np.asarray(member.element_map_symbols.numpy())
            symbols = tuple(name.decode() for name in names[order])
        owners = [member, getattr(member, "basis_function", None)]
        cutoffs += [float(np.max(owner.rc.numpy())) for owner in owners if owner is not None and hasattr(owner, "rc")]
        if hasattr(member, "bond_cutoff_map"):
            matrix = np.asarray(member.bond_cutoff_map.numpy(), dtype=float)
    if matrix is not None:
        cutoffs.append(float(matrix.max()))
    if symbols is None or not cutoffs:
        raise ModelError(
            f"{directory}: neither metadata.yaml nor the program states elements and cutoff", "export the model again"
        )
    return _coverage(symbols, max(cutoffs), matrix)
