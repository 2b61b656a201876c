"""Radial tables of a model for given elements: which form every node gets, compressed, splined, encoded.

A local density may use *projected* functions phi_k common to all degrees (A = C B is then a small matrix product per
atom) or the *full* functions R[l][n]. With K functions against n channels the bond loops cost about ``3 K (lmax+1)^2``
and ``3 n (lmax+1)^2 + 9 n (lmax+1)``; the table is read once per bond and pass and should stay in the cache, which
favours few functions. Messages need the full form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from grace_native.radial_functions import Array, RadialFunction, RadialFunctions
from grace_native.splines import compress, tabulate
from gracecli.model.modelfile import Model

TOLERANCE = {"fp64": 1e-10, "fp32": 1e-6}
"""Of spline values and of slopes times cutoff/20, relative to the largest value (see PERFORMANCE.md)."""
RANK_TOLERANCE = {"fp64": 1e-13, "fp32": 1e-8}
LANES = {"fp64": 8, "fp32": 16}
PROJECTION_LIMIT = 2.2
"""Project when K is at most this many times the channels."""


@dataclass
class Projected:
    """Functions common to all degrees.

    Attributes
    ----------
    number : int
        Number of the table in the program.
    functions : int
        K, padded.
    mixing : (S, S, K, n, lmax + 1)
        By centre and neighbour element.
    """

    number: int
    functions: int
    mixing: Array


@dataclass
class Table:
    """One radial table: per pair of elements a function of the distance with ``functions`` values."""

    functions: int
    pairs: list[list[RadialFunction]]
    maps: dict[Any, Array] = field(default_factory=dict)  # key of a function -> phi to padded functions

    def sample(self, i: int, j: int, distance: Any) -> Any:
        """Padded functions of a pair."""
        function = self.pairs[i][j]
        return function.features(distance) @ self.maps[function.key]

    def on_bonds(self, centre: Any, neighbour: Any, distance: Array) -> tuple[Array, Array]:
        """Exact values and slopes on given bonds, (bonds, functions)."""
        value, slope = np.zeros((2, len(distance), self.functions))
        for i in np.unique(centre):
            for j in np.unique(neighbour):
                function = self.pairs[i][j]
                own = np.flatnonzero((centre == i) & (neighbour == j) & (distance < function.end))
                if len(own):
                    phi, dphi = function.values_and_slopes(distance[own])
                    value[own], slope[own] = phi @ self.maps[function.key], dphi @ self.maps[function.key]
        return value, slope


class RadialTables:
    """All radial tables of a model."""

    def __init__(self, model: Model, elements: Sequence[int], precision: str, exact: bool) -> None:
        self.functions = RadialFunctions(model.blueprint, model.weights, precision)
        self.elements = list(elements)
        self.precision = precision
        self.exact = exact
        self.tables: list[Table] = []
        self.errors: list[float] = []
        self._full: dict[str, tuple[int, int]] = {}
        self._projected: dict[str, Projected | None] = {}

    def _pairs(self, name: str) -> list[list[RadialFunction]]:
        return [[self.functions.of(name, i, j) for j in self.elements] for i in self.elements]

    def _pad(self, count: int) -> int:
        lanes = LANES[self.precision]
        return -(-count // lanes) * lanes

    def full(self, name: str) -> tuple[int, int]:
        """Number of the table with R[l][n] (n padded) and the padded n."""
        if name not in self._full:
            pairs = self._pairs(name)
            _, channels, degrees = pairs[0][0].mixing.shape
            padded = self._pad(channels)
            table = Table(padded * degrees, pairs)
            for function in (f for row in pairs for f in row):
                flat = np.zeros((len(function.mixing), degrees, padded))
                flat[:, :, :channels] = function.mixing.transpose(0, 2, 1)
                table.maps[function.key] = flat.reshape(len(flat), -1)
            self._full[name] = (len(self.tables), padded)
            self.tables.append(table)
        return self._full[name]

    def projected(self, name: str, channels: int) -> Projected | None:
        """Table with functions common to all degrees, or None where the full form is cheaper."""
        if name not in self._projected:
            self._projected[name] = self._project(name, channels)
        return self._projected[name]

    def _project(self, name: str, channels: int) -> Projected | None:
        pairs = self._pairs(name)
        compressed = {}
        for function in (f for row in pairs for f in row):
            if function.key not in compressed:
                compressed[function.key] = compress(function, RANK_TOLERANCE[self.precision])
        rank = max(len(c.mixing) for c in compressed.values())
        functions = self._pad(rank)
        if functions > PROJECTION_LIMIT * channels:
            return None
        shape = pairs[0][0].mixing.shape
        mixing = np.zeros((len(pairs), len(pairs), functions, *shape[1:]))
        table = Table(functions, pairs)
        for i, row in enumerate(pairs):
            for j, function in enumerate(row):
                own = compressed[function.key]
                mixing[i, j, : len(own.mixing)] = own.mixing
                padded = np.zeros((len(function.mixing), functions))
                padded[:, : len(own.mixing)] = own.projection
                table.maps[function.key] = padded
        self.tables.append(table)
        return Projected(len(self.tables) - 1, functions, mixing)

    def encoded(self) -> list[list[Any]]:
        """Fields of every table for the C++ side."""
        return [self._encode(table) for table in self.tables]

    def _encode(self, table: Table) -> list[Any]:
        number: dict[Any, int] = {}
        blocks: list[Any] = []
        ends = np.array([[f.end for f in row] for row in table.pairs])
        for i, row in enumerate(table.pairs):
            for j, function in enumerate(row):
                if function.key in number or self.exact:
                    continue
                if not function.end > 0:
                    continue
                number[function.key] = len(number)
                tolerance = TOLERANCE[self.precision]
                sample = partial(table.sample, i, j)
                intervals, coefficients, error = tabulate(sample, function.end, tolerance)
                self.errors.append(error)
                blocks += [intervals, coefficients]
        indices = [number.get(f.key, 0) for row in table.pairs for f in row]
        return [table.functions, len(number), *indices, ends, *blocks]
