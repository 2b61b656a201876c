"""Named architectures: FS, one-layer and two-layer GRACE in three sizes, as functions that return blueprints.

Graphs (x = coupled product, <- = channel mixing; Bochkarev et al., PRX 14, 021036 (2024); sizes of Table III of
Lysogorskiy et al., arXiv:2508.17936)::

    fs   A(R, Y, Z);  AA = A x A;  AAA = AA x A;  AAAA = AA x AA;  E = FS(reduce[A, AA, AAA, AAAA])
    1l   A; A1 = A <- A; AA = A1 x A1; AA1 = AA <- A; AAA = AA1 x A1; AA2 = AA <- A; AAAA = AA2 x AA2;
         E = MLP(reduce[A, AA, AAA, AAAA]) + element shift
    2l   layer one as 1l with equivariant AAA, AAAA; I = reduce(reduce[A, AA, AAA, AAAA]) is sent to the neighbours,
         B = reduce[Y I, B0]; then B1, BB, BBB, BBBB as above; E = MLP(norm(rho_1) + norm(rho_2)) + element shift

``linear`` is fs with one density that enters linearly; its radial functions stay as they are drawn, so that all its
weights come from one linear system (:mod:`gracecli.fit.linear`).

There are two generations. ``1l-small`` and ``2l-small`` are of the first (tanh networks, envelope p = 5, AAA = AA1 x A,
one normalised readout without element shift), the others of the second; this reproduces the parameter counts of
Table III. ``generation=`` chooses the other one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from gracecli.errors import UsageError
from gracecli.model import blueprint as bp

NATURAL: bp.LPList = tuple((l, (-1) ** l) for l in range(7))
FULL: bp.LPList = ((0, 1), *((l, p) for l in range(1, 7) for p in (-1, 1)))
SCALAR: bp.LPList = ((0, 1),)


@dataclass(frozen=True)
class Sizes:
    """Everything a preset lets you change; tuples are per order (fs) or per layer (2l).

    ``generation`` is 1 or 2; ``order`` 1 to 4; ``n_product`` are the channels after mixing, ``indicator_lmax`` the
    degree of the message, ``cutoffs`` a dictionary of pair cutoffs (keys such as ``AlLi`` or ``Al``) that replaces the
    single cutoff; ``element_shifts`` are in the order in which the elements are given to :func:`preset`.
    """

    cutoff: float = 6.0
    generation: int = 2
    order: int = 4
    lmax: tuple[int, ...] = (4,)
    n_radial: tuple[int, ...] = (32,)
    n_product: tuple[int, ...] = (32,)
    n_density: int = 12
    n_basis: int = 8
    envelope_p: int | None = None
    hidden: tuple[int, ...] = (64, 64)
    readout_hidden: tuple[int, ...] = (64,)
    embedding: int = 128
    indicator_lmax: int = 1
    average_neighbours: float = 1.0
    scale: float = 1.0
    element_shifts: tuple[float, ...] | None = None
    fs_parameters: tuple[tuple[float, float], ...] = ((1.0, 1.0), (1.0, 0.5))
    cutoffs: dict[str, float] | None = None
    zbl_cutoffs: dict[str, float] | None = None


_FS = Sizes(lmax=(5, 5, 4, 3), n_radial=(20, 15, 10, 5), n_basis=20, embedding=64)
_LINEAR = Sizes(
    cutoff=6.0, lmax=(4, 4, 4, 3), n_radial=(24, 24, 24, 12), n_basis=10, embedding=8, fs_parameters=((1.0, 1.0),)
)
_1L = Sizes(lmax=(4,), n_radial=(32,), n_product=(32,))
_2L = Sizes(lmax=(4, 3), n_radial=(32, 32), n_product=(32, 32))

_OF_FS = ("fs", "linear")

PRESETS: dict[str, Sizes] = {
    "fs-small": replace(_FS, cutoff=7.0, order=3, lmax=(5, 5, 4), n_radial=(20, 15, 10), embedding=32),
    "fs-medium": replace(_FS, cutoff=7.0, fs_parameters=((1.0, 1.0), (1.0, 0.5), (1.0, 2.0), (1.0, 0.75))),
    "fs-large": replace(
        _FS, cutoff=7.0, n_radial=(20, 20, 15, 10), embedding=72,
        fs_parameters=((1.0, 1.0), (1.0, 0.5), (1.0, 2.0), (1.0, 0.75), (1.0, 1.5)),
    ),
    "linear-small": replace(_LINEAR, n_radial=(16, 16, 16, 6), n_basis=8, lmax=(3, 3, 3, 2)),
    "linear-medium": _LINEAR,
    "linear-large": replace(_LINEAR, n_radial=(40, 40, 40, 24), n_basis=12),
    "1l-small": replace(_1L, generation=1),
    "1l-medium": replace(_1L, n_density=16, n_basis=10),
    "1l-large": replace(_1L, n_product=(64,), n_density=16, n_basis=10),
    "2l-small": replace(_2L, generation=1, lmax=(4, 4)),
    "2l-medium": replace(_2L, n_radial=(42, 32), n_product=(42, 64), n_density=16, n_basis=10),
    "2l-large": replace(
        _2L, n_radial=(42, 32), n_product=(42, 64), n_density=16, n_basis=10, indicator_lmax=3
    ),
}  # fmt: skip


def preset_sizes(name: str, **overrides: Any) -> Sizes:
    """Sizes of a preset with overrides.

    Raises
    ------
    UsageError
        Unknown preset or option; the message names the nearest.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1) or list(PRESETS)
        raise UsageError(f"unknown preset {name!r}", f"did you mean {near[0]}? known: {', '.join(PRESETS)}")
    known = {f.name for f in fields(Sizes)}
    for key in overrides:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UsageError(f"preset {name}: unknown option {key!r}", f"did you mean {near[0]}?" if near else None)
    default = PRESETS[name]
    values: dict[str, Any] = {}
    for key, value in overrides.items():
        if isinstance(getattr(default, key), tuple) and key != "fs_parameters" and isinstance(value, int):
            value = (value,) * len(getattr(default, key))
        values[key] = tuple(value) if isinstance(value, list) else value
    sizes = replace(default, **values)
    for key in ("lmax", "n_radial", "n_product"):
        wanted, given = len(getattr(default, key)), len(getattr(sizes, key))
        if given != wanted and not name.startswith(_OF_FS):
            raise UsageError(f"preset {name}: {key} needs {wanted} value{'s' * (wanted > 1)}, not {given}")
    if sizes.generation == 1 and not name.startswith(_OF_FS):
        sizes = _first_generation_channels(name, sizes, "n_product" in values)
    return sizes


def _first_generation_channels(name: str, sizes: Sizes, given: bool) -> Sizes:
    """The first generation multiplies mixed functions with the density itself (AAA = AA1 x A): equal channels."""
    wanted, found = sizes.n_radial[0], sizes.n_product[0]
    if wanted != found and given:
        raise UsageError(
            f"preset {name}: n_product {found} differs from n_radial {wanted}",
            "the first generation needs them equal; leave n_product out, or use generation = 2",
        )
    return replace(sizes, n_product=(wanted, *sizes.n_product[1:]))


def preset(name: str, elements: Sequence[str], **overrides: Any) -> bp.Blueprint:
    """Blueprint of a named architecture.

    Parameters
    ----------
    name : str
        ``fs-small`` ... ``2l-large``.
    elements : sequence of str
        Element symbols; sorted alphabetically.
    **overrides
        Fields of :class:`Sizes`.
    """
    sizes = preset_sizes(name, **overrides)
    if sizes.envelope_p is None:
        sizes = replace(sizes, envelope_p=5 if sizes.generation == 1 or name.startswith(_OF_FS) else 16)
    symbols = _checked_elements(elements)
    if sizes.order not in (1, 2, 3, 4):
        raise UsageError(f"products of order {sizes.order}", "choose order 1, 2, 3 or 4")
    if sizes.element_shifts is not None:
        if len(sizes.element_shifts) != len(symbols):
            raise UsageError(f"{len(sizes.element_shifts)} element shifts for {len(symbols)} elements")
        own = dict(zip(elements, sizes.element_shifts, strict=True))
        sizes = replace(sizes, element_shifts=tuple(own[symbol] for symbol in symbols))
    assert sizes.envelope_p is not None
    nodes: list[bp.Node] = []
    if sizes.cutoffs:
        basis = "BondSpecificRadialBasisFunction"
        nodes.append(
            bp.PairRadialBasis(
                name=basis, basis="Cheb", n_functions=sizes.n_basis, cutoff=sizes.cutoff,
                envelope_p=sizes.envelope_p, cutoffs=sizes.cutoffs,
            )
        )  # fmt: skip
    else:
        basis = "RadialBasis"
        kind = "SBessel" if name.startswith(_OF_FS) else "Cheb"
        nodes.append(
            bp.RadialBasis(
                name=basis, basis=kind, n_functions=sizes.n_basis, cutoff=sizes.cutoff, envelope_p=sizes.envelope_p
            )
        )
    build = {"fs": _fs, "linear": _linear, "1l": _one_layer, "2l": _two_layers}[name.split("-")[0]]
    build(nodes, basis, symbols, sizes)
    nodes.extend(_shifts(name, symbols, sizes))
    return bp.Blueprint(tuple(nodes))


def _checked_elements(elements: Sequence[str]) -> tuple[str, ...]:
    """Element symbols in alphabetical order, each once."""
    from ase.data import atomic_numbers

    if not elements:
        raise UsageError("a model of no elements", "name at least one element")
    for symbol in elements:
        if symbol not in atomic_numbers or symbol == "X":
            raise UsageError(f"{symbol!r} is not the symbol of an element")
        if list(elements).count(symbol) > 1:
            raise UsageError(f"element {symbol} is given twice")
    return tuple(sorted(elements))


def _common(nodes: list[bp.Node], symbols: tuple[str, ...], sizes: Sizes) -> None:
    nodes.append(bp.Harmonics(name="Y", lmax=sizes.lmax[0]))
    nodes.append(bp.Embedding(name="Z", elements=symbols, size=sizes.embedding))


def _radial_density(nodes: list[bp.Node], basis: str, name: str, radial: str, n: int, lmax: int, sizes: Sizes) -> None:
    """Radial network and the density made with it."""
    nodes.append(
        bp.MLPRadial(
            name=radial, basis=basis, n_radial=n, lmax=lmax, hidden=sizes.hidden,
            activations=("tanh" if sizes.generation == 1 else "silu",) * len(sizes.hidden),
            generation=sizes.generation,
        )
    )  # fmt: skip
    nodes.append(
        bp.Density(name=name, radial=radial, harmonics="Y", embedding="Z", average_neighbours=sizes.average_neighbours)
    )


def _mix(name: str, left: str, right: str, n: int) -> bp.Node:
    return bp.Mix(name=name, left=left, right=right, n_out=n, output_norm=True)


def _product(name: str, left: str, right: str, lmax: int, Lmax: int, **options: Any) -> bp.Node:
    options.setdefault("keep_parity", NATURAL)
    return bp.Product(name=name, left=left, right=right, lmax=lmax, Lmax=Lmax, normalize=True, **options)


def _densities(name: str, sources: Sequence[str], n: int, allowed: bp.LPList = SCALAR) -> bp.Node:
    return bp.Reduce(
        name=name, sources=tuple(sources), lmax=(0,) * len(sources), n_out=n, allowed=allowed, element_dependent=True
    )


def _fs(nodes: list[bp.Node], basis: str, symbols: tuple[str, ...], sizes: Sizes) -> None:
    _powers(nodes, basis, symbols, sizes, "fs", lambda lmax: 3, {"max_sum_l": 6}, lambda lmax: {
        "max_sum_l": 4, "history_left": 3, "history_right": 3,
    })  # fmt: skip


def _linear(nodes: list[bp.Node], basis: str, symbols: tuple[str, ...], sizes: Sizes) -> None:
    """As _fs, with all couplings up to lmax."""
    _powers(nodes, basis, symbols, sizes, "linear", lambda lmax: lmax, {}, lambda lmax: {
        "lmax_left": lmax, "lmax_right": lmax, "history_left": lmax, "history_right": lmax,
    })  # fmt: skip


def _powers(
    nodes: list[bp.Node], basis: str, symbols: tuple[str, ...], sizes: Sizes, name: str,
    second_degree: Callable[[int], int], third: dict[str, Any], fourth: Callable[[int], dict[str, Any]],
) -> None:  # fmt: skip
    """Products of one density with itself, all of them in one Finnis-Sinclair readout.

    ``second_degree``: Lmax of AA from its lmax; ``third``, ``fourth``: limits of AAA, and of AAAA from its lmax.
    """
    order, lmax, n = sizes.order, sizes.lmax, sizes.n_radial
    if len(lmax) < order or len(n) < order:
        raise UsageError(f"preset {name} of order {order} needs {order} values of lmax and n_radial")
    nodes.append(bp.LinearRadial(name="R", basis=basis, n_radial=n[0], lmax=lmax[0]))
    _common(nodes, symbols, sizes)
    nodes.append(
        bp.Density(name="A", radial="R", harmonics="Y", embedding="Z", average_neighbours=sizes.average_neighbours)
    )
    names = ["A"]
    if order >= 2:
        nodes.append(_product("AA", "A", "A", lmax[1], second_degree(lmax[1]), crop=n[1]))
        names.append("AA")
    if order >= 3:
        nodes.append(_product("AAA", "AA", "A", lmax[2], 0, crop=n[2], **third))
        names.append("AAA")
    if order >= 4:
        nodes.append(_product("AAAA", "AA", "AA", lmax[3], 0, crop=n[3], **fourth(lmax[3])))
        names.append("AAAA")
    nodes.append(bp.InitialEnergy(name="atomic_energy"))
    nodes.append(_densities("E", names, len(sizes.fs_parameters)))
    nodes.append(bp.FinnisSinclairReadout(name="FSOut2ScalarTarget", sources=("E",), parameters=sizes.fs_parameters))


def _one_layer(nodes: list[bp.Node], basis: str, symbols: tuple[str, ...], sizes: Sizes) -> None:
    lmax, n = sizes.lmax[0], sizes.n_product[0]
    nodes.append(bp.Embedding(name="Z", elements=symbols, size=sizes.embedding))
    nodes.append(bp.Harmonics(name="Y", lmax=lmax))
    _radial_density(nodes, basis, "A", "R", sizes.n_radial[0], lmax, sizes)
    names = ["A"]
    nodes.append(_mix("A1", "A", "A", n))
    if sizes.order >= 2:
        nodes.append(_product("AA", "A1", "A1", lmax, lmax, same=True if sizes.generation == 2 else None))
        names.append("AA")
    if sizes.order >= 3:
        nodes.append(_mix("AA1", "AA", "A", n))
        nodes.append(_product("AAA", "AA1", "A" if sizes.generation == 1 else "A1", lmax, 0))
        names.append("AAA")
    if sizes.order >= 4:
        nodes.append(_mix("AA2", "AA", "A", n))
        nodes.append(_product("AAAA", "AA2", "AA2", lmax, 0))
        names.append("AAAA")
    nodes.append(_densities("rho", names, sizes.n_density + 1, SCALAR if sizes.generation == 1 else NATURAL))
    nodes.append(bp.InitialEnergy(name="atomic_energy"))
    nodes.append(_readout(("rho",), sizes, "silu"))


def _readout(sources: tuple[str, ...], sizes: Sizes, activation: str) -> bp.Node:
    """Readout: one channel linear, the others through a network; the first generation normalises them."""
    first = sizes.generation == 1
    return bp.MLPReadout(
        name="LinMLPOut2ScalarTarget", sources=sources, hidden=sizes.readout_hidden, normalize=first,
        activation="scaled-silu" if first else activation,
    )  # fmt: skip


def _two_layers_first(nodes: list[bp.Node], basis: str, symbols: tuple[str, ...], sizes: Sizes) -> None:
    """First generation: natural parities, one readout over all functions of both layers."""
    (l1, l2), Il, (n1, n2) = sizes.lmax, sizes.indicator_lmax, sizes.n_product
    _common(nodes, symbols, sizes)
    _radial_density(nodes, basis, "A", "R", sizes.n_radial[0], l1, sizes)
    below = _products(nodes, "A", n1, l1, Il, sizes.order)
    sent = tuple((l, (-1) ** l) for l in range(Il + 1))
    limits = (Il, Il, Il, 0)[: len(below)]
    nodes.append(bp.Reduce(name="I0", sources=below, lmax=limits, n_out=16, allowed=sent, element_dependent=True))
    nodes.append(bp.Reduce(name="I", sources=("I0",), lmax=(Il,), n_out=sizes.n_radial[1], allowed=sent))
    _radial_density(nodes, basis, "B0", "R1", sizes.n_radial[1], l1, sizes)
    nodes.append(
        bp.MessageDensity(
            name="YI", radial="R1", harmonics="Y", indicator="I", lmax=l1, Lmax=l2, normalize=True,
            average_neighbours=sizes.average_neighbours, keep_parity=NATURAL,
        )
    )  # fmt: skip
    nodes.append(bp.Reduce(name="B", sources=("YI", "B0"), lmax=(l2, l2), n_out=n2, allowed=NATURAL))
    above = _products(nodes, "B", n2, l2, 0, sizes.order)
    nodes.append(_densities("I_out", (*below, *above), sizes.n_density + 1))
    nodes.append(bp.InitialEnergy(name="atomic_energy"))
    nodes.append(_readout(("I_out",), sizes, "silu"))


def _products(nodes: list[bp.Node], a: str, n: int, lmax: int, Lmax_3: int, order: int) -> tuple[str, ...]:
    """A, AA, AAA, AAAA of the first generation (three-fold products up to Lmax_3); names of those made."""
    names = [a]
    nodes.append(_mix(f"{a}1", a, a, n))
    if order >= 2:
        nodes.append(_product(a * 2, f"{a}1", f"{a}1", lmax, lmax))
        names.append(a * 2)
    if order >= 3:
        nodes.append(_mix(f"{a}{a}1", a * 2, a, n))
        nodes.append(_product(a * 3, f"{a}{a}1", a, lmax, Lmax_3))
        names.append(a * 3)
    if order >= 4:
        nodes.append(_mix(f"{a}{a}2", a * 2, a, n))
        nodes.append(_product(a * 4, f"{a}{a}2", f"{a}{a}2", lmax, 0))
        names.append(a * 4)
    return tuple(names)


def _second_layer(nodes: list[bp.Node], basis: str, sizes: Sizes) -> None:
    lmax, n_radial, n_out = sizes.lmax, sizes.n_radial[1], sizes.n_product[1]
    _radial_density(nodes, basis, "B0", "R1", n_radial, lmax[0], sizes)
    nodes.append(
        bp.MessageDensity(
            name="YI", radial="R1", harmonics="Y", indicator="I", lmax=lmax[0], Lmax=lmax[1], normalize=True,
            average_neighbours=sizes.average_neighbours, keep_parity=FULL,
        )
    )  # fmt: skip
    nodes.append(bp.Reduce(name="B", sources=("YI", "B0"), lmax=(lmax[1], lmax[1]), n_out=n_out, allowed=FULL))
    nodes.append(_mix("B1", "B", "B", n_out))
    nodes.append(_product("BB", "B1", "B1", lmax[1], lmax[1], same=True, keep_parity=(*FULL, (0, -1))))
    names = ["B", "BB"]
    if sizes.order >= 3:
        nodes.append(_mix("BB1", "BB", "B", n_out))
        nodes.append(_product("BBB", "BB1", "B", lmax[1], 0))
        names.append("BBB")
    if sizes.order >= 4:
        nodes.append(_mix("BB2", "BB", "B", n_out))
        nodes.append(_product("BBBB", "BB2", "BB2", lmax[1], 0))
        names.append("BBBB")
    nodes.append(_densities("I_out_1", names, sizes.n_density + 1))
    nodes.append(bp.InvariantNorm(name="I_1_LN", source="I_out_1", mode="full"))


def _two_layers(nodes: list[bp.Node], basis: str, symbols: tuple[str, ...], sizes: Sizes) -> None:
    if sizes.generation == 1:
        _two_layers_first(nodes, basis, symbols, sizes)
        return
    lmax, n, Il = sizes.lmax[0], sizes.n_product[0], sizes.indicator_lmax
    _common(nodes, symbols, sizes)
    _radial_density(nodes, basis, "A", "R", sizes.n_radial[0], lmax, sizes)
    nodes.append(_mix("A1", "A", "A", n))
    nodes.append(_product("AA", "A1", "A1", lmax, lmax, same=True))
    names, limits = ["A", "AA"], [Il, Il]
    if sizes.order >= 3:
        nodes.append(_mix("AA1", "AA", "A", n))
        nodes.append(_product("AAA", "AA1", "A", lmax, Il))
        names.append("AAA")
        limits.append(Il)
    if sizes.order >= 4:
        nodes.append(_mix("AA2", "AA", "A", n))
        nodes.append(_product("AAAA", "AA2", "AA2", lmax, min(Il, 1)))
        names.append("AAAA")
        limits.append(min(Il, 1))
    nodes.append(
        bp.Reduce(
            name="I1", sources=tuple(names), lmax=tuple(limits), n_out=12, allowed=NATURAL, element_dependent=True
        )
    )
    nodes.append(bp.Reduce(name="I", sources=("I1",), lmax=(Il,), n_out=sizes.n_radial[1], allowed=NATURAL))
    nodes.append(_densities("I_out_0", names, sizes.n_density + 1))
    nodes.append(bp.InvariantNorm(name="I_out_0_LN", source="I_out_0", mode="only_nonlin"))
    _second_layer(nodes, basis, sizes)
    nodes.append(bp.InitialEnergy(name="atomic_energy"))
    nodes.append(_readout(("I_out_0_LN", "I_1_LN"), sizes, "tanh"))


def _shifts(name: str, symbols: tuple[str, ...], sizes: Sizes) -> list[bp.Node]:
    """Scale, shifts and the repulsion, in the published order."""
    nodes: list[bp.Node] = []
    fs, first = name.startswith(_OF_FS), sizes.generation == 1
    if fs or first or sizes.scale != 1.0 or sizes.element_shifts is not None:
        nodes.append(
            bp.ScaleShift(name="ConstantScaleShiftTarget", scale=sizes.scale, element_shifts=sizes.element_shifts)
        )
    if not fs and not first:
        nodes.append(bp.ElementShift(name="TrainableShiftTarget"))
    if sizes.zbl_cutoffs:
        nodes.append(bp.ZBL(name="ZBL", elements=symbols, cutoffs=sizes.zbl_cutoffs))
        nodes.append(bp.LinearReadout(name="LinearOut2Target", sources=("ZBL",)))
    return nodes


def pair_matrix(table: dict[str, float], elements: Sequence[str], default: float) -> np.ndarray:
    """Symmetric matrix of a pair dictionary (keys AB, A for A-A, ``*`` any element); explicit pairs win."""
    n = len(elements)
    matrix = np.full((n, n), default)
    for explicit in (False, True):
        for key, value in table.items():
            if ("*" not in key) != explicit:
                continue
            for i, a in enumerate(elements):
                for j, b in enumerate(elements):
                    named = {a + b, b + a} | ({a} if i == j else set()) | {a + "*", "*" + a, "**"}
                    if key in named:
                        matrix[i, j] = matrix[j, i] = value
    return matrix


def initial_weights(blueprint: bp.Blueprint, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Initial weights of all variables of a blueprint (spec section 11).

    Normalised linear maps, embeddings and couplings start as N(0, 1), crad with variance 2/(n_radial + n_basis),
    scales of norms at 1, element shifts at 0.
    """
    from gracecli.model.initial import initialise

    return initialise(blueprint, rng)
