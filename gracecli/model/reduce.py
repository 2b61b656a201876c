"""A model of fewer elements, or of another precision: the same numbers from fewer weights.

Which weights and options run over elements is declared per node type by :func:`element_axes`; nothing is guessed from
shapes. With n the number of elements, an array over *elements* has a leading axis of n, an array over *pairs* one of
n^2, row-major (centre, neighbour).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Any

import numpy as np

from gracecli.errors import InputError, ModelError
from gracecli.model import blueprint as bp
from gracecli.model.heads import map_heads
from gracecli.model.modelfile import Model
from gracecli.names import suggestion

SYMBOLS = re.compile(r"[A-Z][a-z]?|\*")
"""The parts of a key of a pair dictionary."""
DTYPES = {"fp64": "float64", "fp32": "float32"}
ALWAYS_DOUBLE = "rc"
"""The cutoff of a ChemicalDensity is a double whatever the precision of the model."""


@dataclass(frozen=True)
class ElementAxes:
    """What of a node runs over elements.

    Attributes
    ----------
    weights : mapping
        Path of a variable -> ``"elements"`` or ``"pairs"``; a path that ends in ``/*`` stands for all below it.
    options : mapping
        Name of an option -> ``"elements"`` (a tuple of one entry per element) or ``"pairs"`` (a dictionary whose keys
        join two symbols, name one, or contain ``*``). Options of other types are left alone.
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)

    def of(self, path: str) -> str | None:
        """How a variable depends on elements, or None."""
        for pattern, kind in self.weights.items():
            if path == pattern or (pattern.endswith("/*") and path.startswith(pattern[:-1])):
                return kind
        return None


@singledispatch
def element_axes(node: bp.Node) -> ElementAxes:
    """What of a node runs over elements; plugins register their node types (``functools.singledispatch``).

    Raises
    ------
    ModelError
        The node type does not say.
    """
    raise ModelError(
        f"node {node.name!r}: the node type {node.kind} does not say what of it belongs to single elements",
        "leave out --elements; its plugin may register gracecli.model.reduce.element_axes",
    )


_NONE = ElementAxes()
for _plain in (
    bp.RadialBasis, bp.LinearRadial, bp.MLPRadial, bp.Harmonics, bp.MessageDensity, bp.ChemicalDensity, bp.Product,
    bp.InvariantNorm, bp.EquivariantNorm, bp.Gate, bp.InitialEnergy, bp.MLPReadout, bp.LinearReadout,
    bp.FinnisSinclairReadout,
):  # fmt: skip
    element_axes.register(_plain)(lambda node: _NONE)


@element_axes.register
def _(node: bp.PairRadialBasis) -> ElementAxes:
    return ElementAxes({"bond_cutoff_map": "pairs"}, {"cutoffs": "pairs"})


@element_axes.register
def _(node: bp.Embedding) -> ElementAxes:
    return ElementAxes({"w": "elements"}, {"elements": "elements"})


@element_axes.register
def _(node: bp.Density) -> ElementAxes:
    return ElementAxes(options={"average_neighbours": "elements"})


@element_axes.register
def _(node: bp.Mix) -> ElementAxes:
    dependent = {"w_left": node.element_left, "w_right": node.element_right}
    return ElementAxes({path: "elements" for path, is_dependent in dependent.items() if is_dependent})


@element_axes.register
def _(node: bp.Reduce) -> ElementAxes:
    if not node.element_dependent:
        return _NONE
    return ElementAxes({f"reducing_{source}": "elements" for source in node.sources})


@element_axes.register
def _(node: bp.ZBL) -> ElementAxes:
    return ElementAxes({"bond_zbl_cutoff_map": "pairs"}, {"elements": "elements", "cutoffs": "pairs"})


@element_axes.register
def _(node: bp.BranchReadout) -> ElementAxes:
    return ElementAxes({"mlp_layers/*": "elements"} if node.element_dependent else {})


@element_axes.register
def _(node: bp.ScaleShift) -> ElementAxes:
    return ElementAxes(options={"element_shifts": "elements"})


@element_axes.register
def _(node: bp.ElementShift) -> ElementAxes:
    return ElementAxes({} if node.embedding else {"at_shifts": "elements"})


def reduce_elements(model: Model, elements: Sequence[str]) -> Model:
    """The model restricted to some of its elements, kept in the model's order.

    Energies, forces and stresses of structures of these elements do not change.

    Parameters
    ----------
    model : Model
    elements : sequence of str

    Raises
    ------
    InputError
        An element the model does not have, named twice, or none at all.
    ModelError
        A node type does not declare what depends on elements, or a variable is not as declared.
    """
    for element in elements:
        if element not in model.elements:
            raise InputError(f"the model does not cover {element}", suggestion(element, model.elements))
    if not elements or len(set(elements)) < len(elements):
        raise InputError("no element is left" if not elements else "an element is named twice", "e.g. --elements Si,Ge")
    keep = [index for index, element in enumerate(model.elements) if element in elements]
    kept = tuple(model.elements[index] for index in keep)
    if kept == model.elements:
        return model
    if model.heads:
        return map_heads(model, lambda head: reduce_elements(head, elements))
    nodes = tuple(_reduced_node(node, keep, kept, len(model.elements)) for node in model.blueprint)
    weights = {name: weight_of_rows(model, name, value, keep) for name, value in model.weights.items()}
    blueprint = bp.Blueprint(nodes)
    metadata = {**model.metadata, "elements": list(kept), "reduced_from": _origin(model)}
    grade = None if model.grade is None else model.grade.of_elements(keep)
    reduced = Model(blueprint, weights, metadata, grade=grade)
    return replace(reduced, metadata={**metadata, "cutoff": reduced.cutoff})


def _origin(model: Model) -> dict[str, Any]:
    origin = {"sha256": model.sha256(), "elements": list(model.elements)}
    return {"name": model.metadata["name"], **origin} if model.metadata.get("name") else origin


def _reduced_node(node: bp.Node, keep: list[int], kept: tuple[str, ...], n_all: int) -> bp.Node:
    changed: dict[str, Any] = {}
    for option, kind in element_axes(node).options.items():
        value = getattr(node, option)
        if kind == "elements" and isinstance(value, tuple):
            if len(value) != n_all:
                raise ModelError(f"node {node.name!r}: {option} has {len(value)} entries for {n_all} elements")
            changed[option] = tuple(value[index] for index in keep)
        elif kind == "pairs" and isinstance(value, dict):
            changed[option] = {key: v for key, v in value.items() if set(SYMBOLS.findall(key)) <= {*kept, "*"}}
    return replace(node, **changed) if changed else node


def weight_of_rows(model: Model, name: str, value: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """A variable of the model for the elements of the given rows (repeated ones too), in their order.

    Raises
    ------
    ModelError
        No node owns the variable, or its shape is not as declared.
    """
    node_name, _, path = name.partition("/")
    if node_name not in model.blueprint.by_name:
        raise ModelError(f"model: the blueprint has no node for the variable {name!r}")
    kind = element_axes(model.blueprint.by_name[node_name]).of(path)
    if kind is None:
        return value
    n = len(model.elements)
    wanted = n if kind == "elements" else n * n
    if value.ndim == 0 or value.shape[0] != wanted:
        raise ModelError(f"model: variable {name!r} has shape {value.shape}, not {wanted} {kind} in front")
    if kind == "elements":
        return np.ascontiguousarray(value[list(rows)])
    matrix = value.reshape(n, n, *value.shape[1:])
    return np.ascontiguousarray(matrix[np.ix_(rows, rows)].reshape(-1, *value.shape[1:]))


def cast(model: Model, precision: str) -> Model:
    """The model with weights of another precision.

    Parameters
    ----------
    model : Model
    precision : str
        ``fp64`` or ``fp32``; narrowing rounds to the nearest.
    """
    dtype = np.dtype(DTYPES[precision])
    if model.heads:
        return map_heads(model, lambda head: cast(head, precision))

    def convert(name: str, value: np.ndarray) -> np.ndarray:
        double = _always_double(model, name)
        return value if double or value.dtype.kind != "f" else value.astype(dtype)

    weights = {name: convert(name, np.asarray(value)) for name, value in model.weights.items()}
    metadata = {**model.metadata, "precision": dtype.name}
    if "param_dtype" in metadata:
        metadata["param_dtype"] = dtype.name
    return Model(model.blueprint, weights, metadata, grade=model.grade)


def _always_double(model: Model, name: str) -> bool:
    node, _, path = name.partition("/")
    return path == ALWAYS_DOUBLE and isinstance(model.blueprint.by_name.get(node), bp.ChemicalDensity)


def stored_precision(model: Model) -> str:
    """``fp64`` or ``fp32``: that of the weights in memory."""
    single = [
        np.asarray(value).dtype == np.float32
        for name, value in model.weights.items()
        if np.asarray(value).dtype.kind == "f" and not _always_double(model, name)
    ]
    return "fp32" if single and all(single) else "fp64"
