"""Blueprints: a model as an ordered list of typed nodes, without weights and without TensorFlow.

Every node names its inputs and its options; :class:`Blueprint` is JSON in and out. The mathematics of each node is in
the block of the same name under :mod:`gracecli.model.blocks`, the section numbers refer to the functional
specification of the published models. Weights live beside the blueprint, keyed ``node/path``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar

from gracecli.errors import ModelError

LPList = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Node:
    """Base of all nodes: a name, and inputs given by the names of earlier nodes."""

    name: str
    kind: ClassVar[str]
    input_fields: ClassVar[tuple[str, ...]] = ()

    def inputs(self) -> tuple[str, ...]:
        """Names of the nodes this one reads."""
        found: list[str] = []
        for attribute in self.input_fields:
            value = getattr(self, attribute)
            if isinstance(value, str):
                found.append(value)
            elif value is not None:
                found.extend(value)
        return tuple(found)


NODE_TYPES: dict[str, type[Node]] = {}


def node_type(cls: type[Node]) -> type[Node]:
    """Register a node class under its class name (plugins use it too)."""
    cls.kind = cls.__name__
    NODE_TYPES[cls.__name__] = cls
    return cls


@node_type
@dataclass(frozen=True, kw_only=True)
class RadialBasis(Node):
    """Functions of the distance, one cutoff (3.3); ``basis``: Cheb, SBessel, RadSinBessel, Gaussian."""

    basis: str
    n_functions: int
    cutoff: float
    envelope_p: int = 5
    normalized: bool = False
    chebyshev_kind: int = 1
    reversed: bool = False
    minimum: float = 0.0
    initial_gamma: float = 1.0


@node_type
@dataclass(frozen=True, kw_only=True)
class PairRadialBasis(Node):
    """Radial basis whose cutoff depends on the pair of elements (3.5); weights hold ``bond_cutoff_map``."""

    basis: str
    n_functions: int
    cutoff: float
    envelope_p: int = 5
    normalized: bool = False
    initial_gamma: float = 1.0
    cutoffs: dict[str, float] | None = None


@node_type
@dataclass(frozen=True, kw_only=True)
class LinearRadial(Node):
    """R[n,l] = sum_k crad[n,l,k] g_k (section 4)."""

    basis: str
    n_radial: int
    lmax: int
    input_fields: ClassVar[tuple[str, ...]] = ("basis",)


@node_type
@dataclass(frozen=True, kw_only=True)
class MLPRadial(Node):
    """Radial functions from a network without bias on the radial basis (section 4).

    ``generation`` 1 appends embeddings to the input and may normalise the output; 2 multiplies the output by a linear
    map of the embeddings. ``activations``: one per hidden layer, from tanh, silu, sigmoid, scaled-silu (1.6759 silu).
    """

    basis: str
    n_radial: int
    lmax: int
    hidden: tuple[int, ...]
    activations: tuple[str, ...]
    generation: int = 2
    scale_inputs: bool = True
    output_norm: bool = False
    embedding_i: str | None = None
    embedding_j: str | None = None
    input_fields: ClassVar[tuple[str, ...]] = ("basis", "embedding_i", "embedding_j")


@node_type
@dataclass(frozen=True, kw_only=True)
class Harmonics(Node):
    """Real spherical harmonics of the bond direction (5.1)."""

    lmax: int


@node_type
@dataclass(frozen=True, kw_only=True)
class Embedding(Node):
    """Chemical embedding: one vector per element (5.2)."""

    elements: tuple[str, ...]
    size: int


@node_type
@dataclass(frozen=True, kw_only=True)
class Density(Node):
    """Atomic base A: sum over neighbours of R Y z (7.1). ``average_neighbours`` may be given per element."""

    radial: str
    harmonics: str
    embedding: str | None
    average_neighbours: float | tuple[float, ...] = 1.0
    embedding_per_l: bool = False
    lmax: int | None = None
    input_fields: ClassVar[tuple[str, ...]] = ("radial", "harmonics", "embedding")


@node_type
@dataclass(frozen=True, kw_only=True)
class MessageDensity(Node):
    """Message passing: sum over neighbours of R Y coupled to an equivariant tensor of the neighbour (7.2)."""

    radial: str
    harmonics: str
    indicator: str
    lmax: int
    Lmax: int
    average_neighbours: float = 1.0
    normalize: bool = False
    keep_parity: LPList | None = None
    lmax_indicator: int | None = None
    max_sum_l: int | None = None
    embedding: str | None = None
    input_fields: ClassVar[tuple[str, ...]] = ("radial", "harmonics", "indicator", "embedding")


@node_type
@dataclass(frozen=True, kw_only=True)
class ChemicalDensity(Node):
    """Density with a radial network that sees both elements (7.3), scalar or with an equivariant indicator."""

    harmonics: str
    embedding: str
    indicator: str | None
    n_radial: int
    n_basis: int
    cutoff: float
    lmax: int
    hidden: tuple[int, ...]
    activation: str = "silu"
    envelope_p: int = 5
    average_neighbours: float = 1.0
    Lmax: int | None = None
    keep_parity: LPList | None = None
    lmax_indicator: int | None = None
    max_sum_l: int | None = None
    normalize: bool = False
    input_fields: ClassVar[tuple[str, ...]] = ("harmonics", "embedding", "indicator")


@node_type
@dataclass(frozen=True, kw_only=True)
class Mix(Node):
    """Linear mixing of channels, adding the right tensor to the left one (7.4)."""

    left: str
    right: str
    n_out: int | None = None
    left_weights: bool = True
    normalize: bool = True
    output_norm: bool = False
    element_left: bool = False
    element_right: bool = False
    input_fields: ClassVar[tuple[str, ...]] = ("left", "right")


@node_type
@dataclass(frozen=True, kw_only=True)
class Product(Node):
    """Channel-wise coupled product (7.5). ``mode``: plain, elementwise, cp, cp_l, cp_lL; ``crop``: channels used."""

    left: str
    right: str
    lmax: int | None = None
    Lmax: int | None = None
    keep_parity: LPList | None = None
    normalize: bool = False
    same: bool | None = None
    lmax_left: int | None = None
    lmax_right: int | None = None
    history_left: int | None = None
    history_right: int | None = None
    max_sum_l: int | None = None
    dropped: tuple[tuple[str, int], ...] = ()
    crop: int | None = None
    mode: str = "plain"
    rank: int | None = None
    n_out: int | None = None
    use_S: bool = False
    input_fields: ClassVar[tuple[str, ...]] = ("left", "right")


@node_type
@dataclass(frozen=True, kw_only=True)
class Reduce(Node):
    """Linear map of functions and channels to one group per (l, p) (7.6)."""

    sources: tuple[str, ...]
    lmax: tuple[int, ...]
    n_out: int
    allowed: LPList
    element_dependent: bool = False
    normalize: bool = True
    scale: float = 1.0
    output_norm: bool = False
    initial_value: float = 0.0
    input_fields: ClassVar[tuple[str, ...]] = ("sources",)


@node_type
@dataclass(frozen=True, kw_only=True)
class InvariantNorm(Node):
    """RMS normalisation of scalars (7.7); ``mode``: full, only_nonlin, sep_lin_gate."""

    source: str
    mode: str = "only_nonlin"
    input_fields: ClassVar[tuple[str, ...]] = ("source",)


@node_type
@dataclass(frozen=True, kw_only=True)
class EquivariantNorm(Node):
    """RMS normalisation of an equivariant tensor (7.7)."""

    source: str
    center: bool = False
    center_bias: bool = False
    balance_degrees: bool = True
    scalars_only: bool = False
    split: bool = False
    input_fields: ClassVar[tuple[str, ...]] = ("source",)


@node_type
@dataclass(frozen=True, kw_only=True)
class Gate(Node):
    """Sigmoid gate per group, driven by the scalars (section 13)."""

    source: str
    hidden: int | None = None
    bias: bool = True
    mix_channels: int | None = None
    input_fields: ClassVar[tuple[str, ...]] = ("source",)


@node_type
@dataclass(frozen=True, kw_only=True)
class ZBL(Node):
    """Ziegler-Biersack-Littmark repulsion, smoothly cut (section 8); weights hold the cutoff matrix."""

    elements: tuple[str, ...]
    delta_cutoff: float = 0.25
    cutoffs: dict[str, float] | float | None = None


@dataclass(frozen=True, kw_only=True)
class OutputNode(Node):
    """A node that updates the per-atom energy, in list order."""


@node_type
@dataclass(frozen=True, kw_only=True)
class InitialEnergy(OutputNode):
    """Starts the per-atom energy."""

    value: float = 0.0


@node_type
@dataclass(frozen=True, kw_only=True)
class MLPReadout(OutputNode):
    """E += x_0 + MLP(x_1..), or MLP(x) without the linear channel (section 8)."""

    sources: tuple[str, ...]
    hidden: tuple[int, ...]
    activation: str
    linear_channel: bool = True
    normalize: bool = False
    input_fields: ClassVar[tuple[str, ...]] = ("sources",)


@node_type
@dataclass(frozen=True, kw_only=True)
class BranchReadout(OutputNode):
    """One network per source, or one for their sum (LinMLPScalarReadOut, section 13)."""

    sources: tuple[str, ...]
    hidden: tuple[int, ...]
    activation: str
    shared: bool = False
    element_dependent: bool = False
    input_fields: ClassVar[tuple[str, ...]] = ("sources",)


@node_type
@dataclass(frozen=True, kw_only=True)
class LinearReadout(OutputNode):
    """E += the sources, optionally through a linear map."""

    sources: tuple[str, ...]
    trainable: bool = False
    input_fields: ClassVar[tuple[str, ...]] = ("sources",)


@node_type
@dataclass(frozen=True, kw_only=True)
class FinnisSinclairReadout(OutputNode):
    """E += sum_k c_k F_(e_k)(rho_k) (section 8)."""

    sources: tuple[str, ...]
    parameters: tuple[tuple[float, float], ...]
    input_fields: ClassVar[tuple[str, ...]] = ("sources",)


@node_type
@dataclass(frozen=True, kw_only=True)
class ScaleShift(OutputNode):
    """E <- scale E + element shift + shift, constants (section 8)."""

    scale: float = 1.0
    shift: float = 0.0
    element_shifts: tuple[float, ...] | None = None
    embedding: str | None = None
    input_fields: ClassVar[tuple[str, ...]] = ("embedding",)


@node_type
@dataclass(frozen=True, kw_only=True)
class ElementShift(OutputNode):
    """E += a trainable shift per element, or a linear map of the embedding."""

    embedding: str | None = None
    input_fields: ClassVar[tuple[str, ...]] = ("embedding",)


def _plain(value: Any) -> Any:
    """JSON lists back to the tuples that nodes hold."""
    if isinstance(value, list):
        return tuple(_plain(v) for v in value)
    return value


@dataclass(frozen=True)
class Blueprint:
    """An ordered, checked list of nodes."""

    nodes: tuple[Node, ...]
    by_name: dict[str, Node] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known: dict[str, Node] = {}
        for node in self.nodes:
            if node.name in known:
                raise ModelError(f"blueprint: two nodes are named {node.name!r}")
            for source in node.inputs():
                if source not in known:
                    near = difflib.get_close_matches(source, known, n=1)
                    raise ModelError(
                        f"blueprint: node {node.name!r} reads {source!r}, which is not defined before it",
                        f"did you mean {near[0]!r}?" if near else None,
                    )
            known[node.name] = node
        object.__setattr__(self, "by_name", known)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def of_type(self, *types: type[Node]) -> list[Any]:
        """Nodes of the given types, in order."""
        return [n for n in self.nodes if isinstance(n, types)]

    @property
    def elements(self) -> tuple[str, ...]:
        """Element symbols in index order."""
        embeddings = self.of_type(Embedding)
        if not embeddings:
            raise ModelError("blueprint: no Embedding node, so the elements are unknown")
        return tuple(embeddings[0].elements)

    @property
    def cutoff(self) -> float:
        """Largest cutoff over all nodes in Å."""
        found = [n.cutoff for n in self.of_type(RadialBasis, ChemicalDensity)]
        for node in self.of_type(PairRadialBasis, ZBL):
            table = node.cutoffs
            found.extend(table.values() if isinstance(table, dict) else [table] if table else [])
            if isinstance(node, PairRadialBasis) and not (isinstance(table, dict) and _covers(table, self.elements)):
                found.append(node.cutoff)
        if not found:
            raise ModelError("blueprint: no node has a cutoff")
        return float(max(found))

    @property
    def layers(self) -> int:
        """Interaction layers: 1 for a local model, plus one per message step."""
        depth: dict[str, int] = {}
        for node in self.nodes:
            below = max((depth[s] for s in node.inputs()), default=0)
            message = isinstance(node, MessageDensity) or (
                isinstance(node, ChemicalDensity)
                and node.indicator is not None
                and not isinstance(self.by_name[node.indicator], Embedding)
            )
            depth[node.name] = below + 1 if message else max(below, int(isinstance(node, Density | ChemicalDensity)))
        return max(depth.values(), default=0)

    def to_json(self) -> str:
        """Serialise."""
        return self.nodes_to_json(self.nodes)

    @staticmethod
    def nodes_to_json(nodes: Iterable[Node]) -> str:
        """Some nodes, which need not know their inputs."""
        return json.dumps([{"kind": n.kind, **asdict(n)} for n in nodes])

    @classmethod
    def from_json(cls, text: str) -> Blueprint:
        """Read back; unknown kinds and options are errors that name them."""
        return cls(cls.nodes_from_json(text))

    @staticmethod
    def nodes_from_json(text: str) -> tuple[Node, ...]:
        """Read some nodes back."""
        nodes = []
        for entry in json.loads(text):
            kind = entry.pop("kind", None)
            if kind not in NODE_TYPES:
                near = difflib.get_close_matches(str(kind), NODE_TYPES, n=1)
                raise ModelError(
                    f"blueprint: unknown node type {kind!r} (node {entry.get('name')!r})",
                    f"nearest known: {near[0]}; is a plugin missing, or this gracecli too old?" if near else None,
                )
            nodes.append(make_node(kind, entry))
        return tuple(nodes)


def _covers(table: dict[str, float], elements: tuple[str, ...]) -> bool:
    """Whether a pair dictionary names every pair of the elements."""
    pairs = {a + b for a in elements for b in elements}
    named = set(table) | {k + k for k in table}
    return all(p in named or any(p == b + a and a + b in named for a in elements for b in elements) for p in pairs)


def make_node(kind: str, options: dict[str, Any]) -> Node:
    """Build a node from plain JSON values."""
    cls = NODE_TYPES[kind]
    known = {f.name: f for f in fields(cls)}
    for key in options:
        if key not in known:
            raise ModelError(f"blueprint: node {options.get('name')!r} ({kind}) has the unknown option {key!r}")
    missing = [
        n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING and n not in options
    ]
    if missing:
        raise ModelError(f"blueprint: node {options.get('name')!r} ({kind}) lacks {', '.join(missing)}")
    return cls(**{k: _plain(v) for k, v in options.items()})
