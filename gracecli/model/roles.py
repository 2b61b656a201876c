"""What a node is for: the parts of a model that fine-tuning moves or holds.

=============  ====================================================================================
role           nodes
=============  ====================================================================================
radial         radial bases and radial functions
embedding      the vector of every element
density        atomic bases: sums over neighbours that carry no message
messages       sums over neighbours that carry a tensor of theirs, and the reductions that make it
products       coupled products, channel mixing, and reductions that feed them
readout        reductions and norms that only readouts read (the *final coefficients*), and readouts
reference      shifts and scales of the energy
repulsion      short-range pair terms
geometry       harmonics
=============  ====================================================================================

A reduction, norm or gate is what its readers make of it, followed through the graph; names play no part.
"""

from __future__ import annotations

from functools import singledispatch

from gracecli.model import blueprint as bp

ROLES = (
    "radial", "embedding", "density", "messages", "products", "readout", "reference", "repulsion", "geometry",
)  # fmt: skip
PASSING = (bp.Reduce, bp.InvariantNorm, bp.EquivariantNorm, bp.Gate)
"""Node types that take the role of those who read them."""


@singledispatch
def own_role(node: bp.Node) -> str:
    """Role of a node by its type; plugins register their node types (``functools.singledispatch``)."""
    return "readout" if isinstance(node, bp.OutputNode) else "products"


for _types, _purpose_of_types in (
    ((bp.RadialBasis, bp.PairRadialBasis, bp.LinearRadial, bp.MLPRadial), "radial"),
    ((bp.Harmonics,), "geometry"),
    ((bp.Embedding,), "embedding"),
    ((bp.Density, bp.ChemicalDensity), "density"),
    ((bp.MessageDensity,), "messages"),
    ((bp.ScaleShift, bp.ElementShift, bp.InitialEnergy), "reference"),
    ((bp.ZBL,), "repulsion"),
):
    for _type in _types:
        own_role.register(_type)(lambda node, role=_purpose_of_types: role)


def node_roles(blueprint: bp.Blueprint) -> dict[str, str]:
    """Role of every node, in blueprint order."""
    readers: dict[str, list[bp.Node]] = {node.name: [] for node in blueprint}
    for node in blueprint:
        for source in node.inputs():
            readers[source].append(node)
    found: dict[str, str] = {}
    for node in reversed(blueprint.nodes):  # readers come after what they read
        found[node.name] = _role(node, blueprint, readers[node.name], found)
    return {node.name: found[node.name] for node in blueprint}


def _role(node: bp.Node, blueprint: bp.Blueprint, readers: list[bp.Node], known: dict[str, str]) -> str:
    if isinstance(node, bp.ChemicalDensity) and _carries_message(node, blueprint):
        return "messages"
    if not isinstance(node, PASSING):
        return own_role(node)
    purposes = {_purpose(node, reader, known[reader.name]) for reader in readers}
    return purposes.pop() if len(purposes) == 1 else "products"


def _carries_message(node: bp.ChemicalDensity, blueprint: bp.Blueprint) -> bool:
    return node.indicator is not None and not isinstance(blueprint.by_name[node.indicator], bp.Embedding)


def _purpose(node: bp.Node, reader: bp.Node, role: str) -> str:
    """What a reader makes of a node."""
    if isinstance(reader, PASSING):
        return role
    if isinstance(reader, bp.OutputNode):
        return "readout"
    return "messages" if getattr(reader, "indicator", None) == node.name else "products"
