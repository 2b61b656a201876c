"""L-BFGS over all training structures at once (scipy), for small models that Adam leaves short of their minimum.

One epoch is a run of ``lbfgs_iterations`` iterations that begins without memory. Between epochs the state is the
weights alone, so a checkpoint there holds everything: a run resumed in mid-epoch repeats the epoch and comes to the
same bits. The loss is the mean over the steps of one pass, plus half the weight decay times the squared weights; the
running mean of the weights is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.engine.base import Array

if TYPE_CHECKING:
    from gracecli.fit.optimizer import Optimizer

MEMORY = 20
"""Pairs of changes that the inverse Hessian is made of."""

Evaluate = Callable[[], tuple[list[Any], Array]]


class LbfgsStoppedError(Exception):
    """The run has to end within an epoch."""


@dataclass(frozen=True)
class LbfgsEpoch:
    """What one epoch did.

    Attributes
    ----------
    iterations, evaluations : int
    terms : (3,) float64
        Energy, force and stress terms of the loss at the end.
    norm : float
        Norm of the gradient at the end.
    converged : bool
        No further decrease can be had.
    """

    iterations: int
    evaluations: int
    terms: Array
    norm: float
    converged: bool


def run_epoch(
    optimizer: Optimizer,
    evaluate: Evaluate,
    iterations: int,
    weight_decay: float,
    stop: Callable[[], bool],
    step: Callable[[float], None],
) -> LbfgsEpoch:
    """Move the weights by some iterations.

    Parameters
    ----------
    optimizer : Optimizer
        Holds the weights.
    evaluate : callable
        Mean gradients and loss terms over the training data at the present weights.
    iterations : int
    weight_decay : float
    stop : callable
        Asked at every evaluation; on True the old weights come back and :class:`LbfgsStoppedError` is raised.
    step : callable
        Told the loss after every evaluation.

    Raises
    ------
    LbfgsStoppedError
    """
    from scipy.optimize import minimize

    start = optimizer.weights()
    shapes = [start[name].shape for name in optimizer.names]
    cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    seen: dict[bytes, tuple[Array, float]] = {}

    def load(flat: Array) -> None:
        parts = [part.reshape(shape) for part, shape in zip(np.split(flat, cuts), shapes, strict=True)]
        optimizer.put(dict(zip(optimizer.names, parts, strict=True)))

    def loss(flat: Array) -> tuple[float, Array]:
        if stop():
            optimizer.put(start)
            raise LbfgsStoppedError
        load(flat)
        gradients, terms = evaluate()
        gradient = _flat([g.numpy() for g in gradients]) + weight_decay * flat
        total = float(terms.sum()) + 0.5 * weight_decay * float(flat @ flat)
        seen[flat.tobytes()] = (terms, float(np.linalg.norm(gradient)))
        step(total)
        return total, gradient

    options = {"maxiter": iterations, "maxcor": MEMORY, "maxls": 30, "ftol": 0.0, "gtol": 0.0}
    first = _flat([start[name] for name in optimizer.names])
    result = minimize(loss, first, jac=True, method="L-BFGS-B", options=options)
    load(result.x)
    terms, norm = seen[result.x.tobytes()]
    converged = int(result.nit) < iterations
    return LbfgsEpoch(int(result.nit), int(result.nfev), terms, norm, converged)


def _flat(arrays: Sequence[Any]) -> Array:
    return np.concatenate([np.ravel(array).astype(np.float64) for array in arrays])
