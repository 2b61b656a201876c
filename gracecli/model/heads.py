"""Heads: levels of theory that share one body, each with its own readout and reference energies.

A model with heads is an ordinary model (its default head) and, for every other head, the nodes and weights that differ.
Selecting a head gives an ordinary model without heads, so engines and exports know nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gracecli.errors import ModelError
from gracecli.model.blueprint import Blueprint, Node
from gracecli.model.modelfile import Model
from gracecli.names import suggestion

NAME = "head"
"""Of the metadata: the name of the default head."""
OWN_METADATA = ("level_of_theory", "licence", "citation", "metrics")
"""What a head says of itself; the rest is the body's."""
COVERS = "covers"
"""Of the metadata of a head: the elements it was trained for, where they are not all."""


@dataclass(frozen=True)
class Head:
    """What a head replaces in the default one.

    Attributes
    ----------
    nodes : tuple of Node
        Nodes that differ, by name.
    weights : mapping
        Variables that differ.
    metadata : dict
    """

    nodes: tuple[Node, ...] = ()
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


def head_names(model: Model) -> tuple[str, ...]:
    """Heads of a model, the default one first; none for a model without."""
    return (str(model.metadata.get(NAME, "default")), *model.heads) if model.heads else ()


def select_head(model: Model, name: str) -> Model:
    """One head as an ordinary model of the elements it was trained for.

    Raises
    ------
    ModelError
        The model has no heads, or none of that name.
    """
    from gracecli.model.reduce import reduce_elements

    selected = _whole_head(model, name)
    covered = selected.metadata.pop(COVERS, None)
    return selected if covered is None else reduce_elements(selected, covered)


def _whole_head(model: Model, name: str) -> Model:
    """One head with all elements of the body."""
    names = head_names(model)
    if not names:
        raise ModelError(f"the model has no heads, so no {name!r}", "leave the head out")
    if name not in names:
        raise ModelError(f"the model has no head {name!r}", suggestion(name, names) or f"it has {', '.join(names)}")
    title = str(model.metadata.get("name") or "model")
    if name == names[0]:
        return replace(model, heads={}, metadata={**model.metadata, "name": f"{title}#{name}"})
    head: Head = model.heads[name]
    own = {node.name: node for node in head.nodes}
    blueprint = Blueprint(tuple(own.get(node.name, node) for node in model.blueprint))
    metadata = {key: value for key, value in model.metadata.items() if key not in OWN_METADATA}
    metadata |= {**head.metadata, NAME: name, "name": f"{title}#{name}"}
    return Model(blueprint, {**model.weights, **head.weights}, metadata)


def join_heads(models: Mapping[str, Model], default: str, metadata: Mapping[str, Any]) -> Model:
    """Ordinary models of equal graph as heads of one; what they share is stored once.

    Parameters
    ----------
    models : mapping
        Name of the head -> model.
    default : str
        The head that is used when none is named.
    metadata : mapping
        Of the whole.

    Raises
    ------
    ModelError
        Their graphs differ.
    """
    main = models[default]
    heads = {}
    for name, model in models.items():
        if name == default:
            continue
        if [n.name for n in model.blueprint] != [n.name for n in main.blueprint] or model.elements != main.elements:
            raise ModelError(f"head {name!r} has another graph or other elements than {default!r}")
        pairs = zip(model.blueprint, main.blueprint, strict=True)
        nodes = tuple(own for own, other in pairs if own != other)
        weights = {k: v for k, v in model.weights.items() if not _same(v, main.weights[k])}
        own = {key: model.metadata[key] for key in (*OWN_METADATA, COVERS) if model.metadata.get(key)}
        heads[name] = Head(nodes, weights, own)
    return Model(main.blueprint, main.weights, {**metadata, NAME: default}, heads)


def map_heads(model: Model, change: Callable[[Model], Model]) -> Model:
    """Apply a change to every head; one that treats elements or precision, not single heads."""
    names = head_names(model)
    plain = {name: change(replace(_whole_head(model, name), metadata=model.metadata)) for name in names}
    joined = join_heads(plain, names[0], plain[names[0]].metadata)
    heads = {}
    for name, head in joined.heads.items():
        metadata = dict(model.heads[name].metadata)
        if COVERS in metadata:
            metadata[COVERS] = [e for e in metadata[COVERS] if e in joined.elements]
        heads[name] = replace(head, metadata=metadata)
    return replace(joined, heads=heads, grade=plain[names[0]].grade)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    a, b = np.asarray(one), np.asarray(other)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
