r"""Basis functions of a linear model, functions of the density of one atom, with their derivatives; NumPy alone.

A product couples channel by channel (:mod:`gracecli.model.functions`). With the density A as both factors, or with
scalars as targets, which is all that the preset ``linear`` has::

    AA^L[M]   = sum_(m1,m2) G[M, m1, m2] A_l1[m1] A_l2[m2],    dAA/dA_l1 = G A_l2,   dAA/dA_l2 = G A_l1
    B         = sum_m c_m X[m] Y[m],                           dB/dA = sum_m c_m (dX[m]/dA Y[m] + X[m] dY[m]/dA)

A function of order four thus costs two sums over the derivatives of its factors; nothing is differentiated one
component of A at a time.

=========  ==========================================================================
symbol     variable
=========  ==========================================================================
A_l        ``Tensor.values`` of the density, (2l+1, X): X runs over channels, then atoms
dX/dA_l    ``Tensor.slopes[group][l]``, (2 L + 1, 2 l + 1, X)
G, c       ``coupling``, ``diagonal``
=========  ==========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gracecli.engine.base import Array
from gracecli.errors import ModelError
from gracecli.model.blueprint import Blueprint, Density, LinearRadial, Product, Reduce
from gracecli.model.couplings import coupling_scale, real_coupling
from gracecli.model.functions import Coupling, FunctionTable, ProductTable, couple, reduced_table, rules_of

Slopes = dict[int, Array]


@dataclass(frozen=True)
class Source:
    """Functions of one node that the energy is linear in.

    Attributes
    ----------
    name : str
    groups : tuple of int
        Scalar groups of its table, in the order of the weights.
    channels : int
    scale : float
        What the reduction multiplies its weights by.
    lmax : int
        Largest degree of the density that they depend on.
    """

    name: str
    groups: tuple[int, ...]
    channels: int
    scale: float
    lmax: int

    @property
    def size(self) -> int:
        """Number of functions."""
        return len(self.groups) * self.channels


@dataclass
class Tensor:
    """Values of all groups of a node and, unless it is the density itself, their derivatives by the density."""

    values: list[Array]
    slopes: list[Slopes] | None


class Invariants:
    """All basis functions of a blueprint of the preset ``linear``."""

    def __init__(self, blueprint: Blueprint) -> None:
        radial: LinearRadial = blueprint.of_type(LinearRadial)[0]
        self.density: Density = blueprint.of_type(Density)[0]
        self.reduce: Reduce = blueprint.of_type(Reduce)[0]
        self.lmax, self.channels = radial.lmax, radial.n_radial
        tables = {self.density.name: FunctionTable.harmonics(self.lmax)}
        channels = {self.density.name: self.channels}
        reach = {self.density.name: [g.l for g in tables[self.density.name].groups]}
        self.products: dict[str, tuple[Product, ProductTable]] = {}
        for node in blueprint.of_type(Product):
            table = couple(tables[node.left], tables[node.right], rules_of(node))
            self.products[node.name] = node, table
            tables[node.name] = table.output
            crop = channels[node.left] if node.crop is None else node.crop
            channels[node.name] = min(crop, channels[node.left], channels[node.right])
            reach[node.name] = [0] * len(table.output.groups)
            for c in table.couplings:
                for _, group in c.targets:
                    reach[node.name][group] = max(reach[node.left][c.left], reach[node.right][c.right])
        _, collected = reduced_table(
            ((tables[name], limit) for name, limit in zip(self.reduce.sources, self.reduce.lmax, strict=True)),
            frozenset(self.reduce.allowed),
        )
        self.sources = tuple(
            Source(
                name, tuple(groups), channels[name],
                self.reduce.scale / np.sqrt(channels[name]) if self.reduce.normalize else 1.0,
                max(reach[name][g] for g in groups),
            )
            for name, groups in zip(self.reduce.sources, collected, strict=True)
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Number of functions of an atom."""
        return sum(source.size for source in self.sources)

    def evaluate(self, density: Array) -> dict[str, Tensor]:
        """Values and derivatives by node.

        Parameters
        ----------
        density : (lm, channels, atoms) float64
        """
        n_atoms = density.shape[2]
        parts = np.split(density.reshape(len(density), -1), np.arange(1, self.lmax + 1) ** 2)
        found = {self.density.name: Tensor(parts, None)}
        for name, (node, table) in self.products.items():
            channels = next((s.channels for s in self.sources if s.name == name), self.channels)
            width = (channels if node.crop is None else min(channels, node.crop)) * n_atoms
            found[name] = _multiply(_crop(found[node.left], width), _crop(found[node.right], width), table)
        return found


def _crop(tensor: Tensor, width: int) -> Tensor:
    """The first channels: channels run slower than atoms."""
    if tensor.values[0].shape[-1] == width:
        return tensor
    slopes = tensor.slopes
    return Tensor(
        [value[..., :width] for value in tensor.values],
        None if slopes is None else [{l: s[..., :width] for l, s in group.items()} for group in slopes],
    )


def _multiply(left: Tensor, right: Tensor, table: ProductTable) -> Tensor:
    count = len(table.output.groups)
    values: list[Array] = [np.empty(0)] * count
    slopes: list[Slopes] = [{} for _ in range(count)]
    for c in table.couplings:
        scalar = all(L == 0 for L, _ in c.targets)
        if not scalar and (left.slopes is not None or right.slopes is not None):
            raise ModelError("a product of products that makes more than scalars is not solved directly")
        for L, group in c.targets:
            contract = _scalar if scalar else _tensor
            values[group], slopes[group] = contract(left, right, table, c, L)
    return Tensor(values, slopes)


def _coupling(table: ProductTable, c: Coupling, L: int) -> Array:
    """F G^L, (2L+1, 2 l1+1, 2 l2+1)."""
    l1, l2 = table.left.groups[c.left].l, table.right.groups[c.right].l
    scale = coupling_scale(l1, l2, L) if table.normalize else 1.0
    coupling: Array = real_coupling(l1, l2, L) * scale
    return coupling


def _tensor(left: Tensor, right: Tensor, table: ProductTable, c: Coupling, L: int) -> tuple[Array, Slopes]:
    """Density times density, any degree."""
    a, b = left.values[c.left], right.values[c.right]
    coupling = _coupling(table, c, L)
    by_a = (coupling.reshape(-1, len(b)) @ b).reshape(2 * L + 1, len(a), -1)
    by_b = (coupling.transpose(0, 2, 1).reshape(-1, len(a)) @ a).reshape(2 * L + 1, len(b), -1)
    value = np.einsum("Mmx,mx->Mx", by_a, a)
    l1, l2 = table.left.groups[c.left].l, table.right.groups[c.right].l
    return value, {l1: by_a + by_b} if l1 == l2 else {l1: by_a, l2: by_b}


def _scalar(left: Tensor, right: Tensor, table: ProductTable, c: Coupling, L: int) -> tuple[Array, Slopes]:
    """Scalar product of two groups of one degree."""
    a, b = left.values[c.left], right.values[c.right]
    diagonal = np.diagonal(_coupling(table, c, L)[0])[:, None]
    scaled = diagonal * b
    value = np.einsum("mx,mx->x", a, scaled)[None]
    slopes: Slopes = {}
    terms = ((left, c.left, scaled, table.left), (right, c.right, diagonal * a, table.right))
    for tensor, group, other, functions in terms:
        if tensor.slopes is None:
            parts = {functions.groups[group].l: other}
        else:
            parts = {l: np.einsum("mkx,mx->kx", s, other) for l, s in tensor.slopes[group].items()}
        for l, part in parts.items():
            slopes[l] = slopes[l] + part[None] if l in slopes else part[None]
    return value, slopes
