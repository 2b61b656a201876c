"""Learning rate as a pure function of the progress of the run.

With progress p in [0, 1] (completed part of the planned epochs), warm-up fraction w, peak a and end b::

    p < w :  lr = a (0.01 + 0.99 p / w)
    else  :  lr = b + (a - b) (1 + cos(pi (p - w) / (1 - w))) / 2

A time limit, a resume or a change of machine moves nothing: p depends on epoch and position alone.
"""

from __future__ import annotations

from math import cos, pi


def cosine_with_warmup(progress: float, peak: float, end: float, warmup: float) -> float:
    """Learning rate at ``progress`` in [0, 1].

    Parameters
    ----------
    progress : float
        Completed fraction of the run.
    peak, end : float
        Learning rate after warm-up and at the end.
    warmup : float
        Fraction of the run with linear rise from 1 % of the peak.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return peak * (0.01 + 0.99 * progress / warmup)
    rest = (progress - warmup) / (1.0 - warmup)
    return end + (peak - end) * 0.5 * (1.0 + cos(pi * rest))


def progress_of(epoch: int, position: int, steps: int, epochs: int) -> float:
    """Completed fraction of the run before step ``position`` of ``steps`` in ``epoch`` (from 0) of ``epochs``."""
    return (epoch + position / max(steps, 1)) / epochs
