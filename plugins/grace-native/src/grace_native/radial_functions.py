"""Radial functions of every node type in NumPy, and their tabulation.

A radial function R[n, l](d) of a pair of elements is written as ``R[n, l](d) = sum_k phi_k(d) C[k, n, l]``: the last
hidden layer of a network (or the radial basis) are the phi, the last linear map is C. Two forms are used:

* ``exact``: phi as it stands, evaluated on every bond;
* ``spline``: compressed and tabulated (:mod:`grace_native.splines`).

Slopes come from complex steps: ``f'(d) = Im f(d + i h) / h`` with h = 1e-30, exact to rounding.

=================  ==========================
symbol             variable
=================  ==========================
``phi_k(d)``       ``features``
``C``              ``mixing`` [k, n, lmax + 1]
=================  ==========================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import ModelError
from gracecli.model import radial as formulas
from gracecli.model.blueprint import Blueprint, ChemicalDensity, LinearRadial, MLPRadial, PairRadialBasis, RadialBasis

Array = NDArray[np.float64]
STEP = 1e-30


class _ComplexOps:
    """The NumPy functions that :mod:`gracecli.model.radial` asks for, analytic in the right half plane."""

    sin, exp, where, stack = np.sin, np.exp, np.where, np.stack

    @staticmethod
    def abs(x: Any) -> Any:
        return np.where(np.real(x) < 0, -x, x)


def _silu(x: Any) -> Any:
    return x / (1.0 + np.exp(-x))


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": np.tanh,
    "silu": _silu,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "scaled-silu": lambda x: 1.6759 * _silu(x),
    "linear": lambda x: x,
}


@dataclass(frozen=True)
class RadialFunction:
    """R of one pair of elements.

    Attributes
    ----------
    end : float
        Cutoff in Å; R is zero from there on.
    features : callable
        d (points,) -> phi (points, K), real or complex.
    mixing : (K, n, lmax + 1) float64
    key : hashable
        Equal keys mean equal functions of d / end.
    """

    end: float
    features: Callable[[Any], Any]
    mixing: Array
    key: Any

    def values_and_slopes(self, distance: Array) -> tuple[Array, Array]:
        """Phi and dphi/dd (1/Å), (points, K), for distances below the end."""
        value = self.features(distance + 1j * STEP)
        return np.ascontiguousarray(value.real), np.ascontiguousarray(value.imag / STEP)


class RadialFunctions:
    """Makes the radial function of a node for any pair of elements."""

    def __init__(self, blueprint: Blueprint, weights: Mapping[str, np.ndarray], precision: str) -> None:
        self.blueprint = blueprint
        self.weights = {
            k: np.asarray(v, dtype=np.float64) for k, v in weights.items() if np.asarray(v).dtype.kind == "f"
        }
        self.precision = precision

    def of(self, name: str, i: int, j: int) -> RadialFunction:
        """Radial function of node ``name`` for centre element i and neighbour element j (numbers of the model)."""
        node: Any = self.blueprint.by_name[name]
        if isinstance(node, LinearRadial):
            return self._linear(node, i, j)
        if isinstance(node, MLPRadial):
            return self._network(node, i, j)
        if isinstance(node, ChemicalDensity):
            return self._chemical(node, i, j)
        raise ModelError(f"native engine: node {name!r} ({node.kind}) is no radial function it knows")

    def pair_dependent(self, name: str) -> bool:
        """Whether the function differs between pairs in more than the cutoff."""
        node: Any = self.blueprint.by_name[name]
        return isinstance(node, ChemicalDensity) or bool(
            isinstance(node, MLPRadial) and (node.embedding_i or node.embedding_j)
        )

    def _linear(self, node: LinearRadial, i: int, j: int) -> RadialFunction:
        end, basis, key = self._basis(node.basis, i, j)
        crad = self.weights[f"{node.name}/crad"]  # [n, l, k]
        return RadialFunction(end, basis, np.ascontiguousarray(crad.transpose(2, 0, 1)), (node.name, key))

    def _layers(self, node: MLPRadial) -> list[Array]:
        pattern = "{}/mlp/layer{}/w" if node.generation == 1 else "{}/layers/{}/w"
        layers = [self.weights[pattern.format(node.name, k)] for k in range(len(node.hidden) + 1)]
        return [w / np.sqrt(w.shape[0]) if node.scale_inputs else w for w in layers]

    def _network(self, node: MLPRadial, i: int, j: int) -> RadialFunction:
        end, basis, key = self._basis(node.basis, i, j)
        layers = self._layers(node)
        extra = self._appended(node, i, j)

        def hidden(d: Any) -> Any:
            x = basis(d)
            if extra is not None:
                x = np.concatenate([x, np.broadcast_to(extra, (len(d), len(extra)))], axis=1)
            for w, name in zip(layers[:-1], node.activations, strict=True):
                x = ACTIVATIONS[name](x @ w)
            return x

        shape = (node.n_radial, node.lmax + 1)
        factor = self._factor(node, i, j)
        pair = (i, j) if node.embedding_i or node.embedding_j else None
        if not node.output_norm:
            mixing = layers[-1] * (1.0 if factor is None else factor)
            return RadialFunction(end, hidden, mixing.reshape(-1, *shape), (node.name, key, pair))
        gamma = self.weights[f"{node.name}/gamma"][0]

        def normalised(d: Any) -> Any:
            x = hidden(d) @ layers[-1]
            deviation = x - x.mean(axis=1, keepdims=True)
            return x * gamma / np.sqrt((deviation * deviation).mean(axis=1, keepdims=True) + 1e-5)

        mixing = np.diag(np.ones(shape[0] * shape[1]) if factor is None else factor)
        return RadialFunction(end, normalised, mixing.reshape(-1, *shape), (node.name, key, pair))

    def _appended(self, node: MLPRadial, i: int, j: int) -> Array | None:
        """First generation: embeddings joined to the input."""
        if node.generation != 1:
            return None
        sides = ((i, node.embedding_i), (j, node.embedding_j))
        parts = [self.weights[f"{name}/w"][element] for element, name in sides if name]
        return np.concatenate(parts) if parts else None

    def _factor(self, node: MLPRadial, i: int, j: int) -> Array | None:
        """Second generation: factor of the output from the embeddings."""
        if node.generation != 2 or not (node.embedding_i or node.embedding_j):
            return None
        w = self.weights[f"{node.name}/embed_transform/w"]
        z = self.weights[f"{node.embedding_j or node.embedding_i}/w"] @ w / np.sqrt(w.shape[0])
        if not node.embedding_i:
            return np.asarray(z[j])
        return np.tanh(z[i] * z[j] if node.embedding_j else z[i])

    def _chemical(self, node: ChemicalDensity, i: int, j: int) -> RadialFunction:
        embedding = self.weights[f"{node.embedding}/w"]
        extra = np.concatenate([embedding[i], embedding[j]])
        count = len(node.hidden) + 1
        layers = [self.weights[f"{node.name}/mlp_layers/{k}/w"] for k in range(count)]
        biases = [self.weights[f"{node.name}/mlp_layers/{k}/b"][0] for k in range(count - 1)]

        def hidden(d: Any) -> Any:
            x = d / node.cutoff
            basis = np.stack(formulas.chebyshev(2.0 * x - 1.0, node.n_basis), axis=-1)
            h = np.concatenate([basis, np.broadcast_to(extra, (len(d), len(extra)))], axis=1)
            for w, b in zip(layers[:-1], biases, strict=True):
                h = ACTIVATIONS[node.activation]((h @ w + b) / np.sqrt(w.shape[0]))
            return h * formulas.envelope(x, node.envelope_p)[:, None]

        last = layers[-1] / np.sqrt(layers[-1].shape[0])
        return RadialFunction(node.cutoff, hidden, last.reshape(len(last), node.n_radial, -1), (node.name, i, j))

    def _basis(self, name: str, i: int, j: int) -> tuple[float, Callable[[Any], Any], Any]:
        """Cutoff, basis functions of d (points, k), and what the functions of d / cutoff depend on."""
        node: Any = self.blueprint.by_name[name]
        if isinstance(node, RadialBasis):
            end = float(np.float32(node.cutoff)) if self.precision == "fp32" else float(node.cutoff)
            return end, self._plain_basis(node, end), None
        if isinstance(node, PairRadialBasis):
            cutoffs = self.weights[f"{name}/bond_cutoff_map"]
            n = round(len(cutoffs) ** 0.5)
            end = float(cutoffs.reshape(n, n)[i, j])
            return end, self._pair_basis(node, end), None if node.basis == "Cheb" else end
        raise ModelError(f"native engine: node {name!r} ({node.kind}) is no radial basis it knows")

    def _plain_basis(self, node: RadialBasis, end: float) -> Callable[[Any], Any]:
        n, p = node.n_functions, node.envelope_p
        if node.basis == "Cheb":
            return lambda d: np.stack(
                formulas.chebyshev_basis(
                    d / end,
                    n,
                    p,
                    normalized=node.normalized,
                    kind=node.chebyshev_kind,
                    reverse=node.reversed,
                    ops=_ComplexOps,
                ),
                axis=-1,
            )
        if node.basis == "SBessel":
            return lambda d: np.stack(formulas.sbessel_basis(d, n, end, _ComplexOps), axis=-1)
        if node.basis == "RadSinBessel":
            return lambda d: np.stack(formulas.sine_basis(d / end, n, p, end, node.normalized, _ComplexOps), axis=-1)
        grid = self.weights[f"{node.name}/basis_function/grid"][0]
        scale = float(self.weights[f"{node.name}/basis_function/scale"])
        return lambda d: np.exp(scale * (d[:, None] - grid) ** 2) * formulas.envelope(d / end, p)[:, None]

    def _pair_basis(self, node: PairRadialBasis, end: float) -> Callable[[Any], Any]:
        n, p = node.n_functions, node.envelope_p
        if node.basis == "Cheb":
            return lambda d: np.stack(
                formulas.chebyshev_basis(d / end, n, p, normalized=False, kind=1, reverse=False, ops=_ComplexOps),
                axis=-1,
            )
        if node.basis == "RadSinBessel":
            return lambda d: np.stack(
                formulas.pair_sine_basis(d / end, n, p, end, node.normalized, _ComplexOps), axis=-1
            )
        grid = self.weights[f"{node.name}/basis_function/grid"][0]
        scale = np.broadcast_to(self.weights[f"{node.name}/basis_function/scale"].ravel(), (n,))
        return lambda d: np.exp(-((scale * (d[:, None] - grid)) ** 2)) * formulas.envelope(d / end, p)[:, None]
