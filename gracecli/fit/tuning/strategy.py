"""Which weights a fine-tuning strategy moves, decided by what nodes are for (:mod:`gracecli.model.roles`).

================  ==================================================================================================
strategy          moves
================  ==================================================================================================
naive             everything (strategy 1 of Lysogorskiy et al., arXiv:2508.17936, section II.E)
frozen            of the elements in the data: their final coefficients (readout reductions) and shifts (2a)
frozen-messages   frozen, and what atoms of these elements tell others: embedding, coefficients of messages (2b)
readout           the whole readout: final coefficients of the elements in the data, and the networks that all share
lora              all linear maps, by low-rank corrections (Hu et al., arXiv:2106.09685)
replay            everything, with a readout for the new data beside the old one, which old data keep in place
================  ==================================================================================================

What this guarantees for elements that are not in the data, after any number of steps:

* frozen: atoms of these elements keep their energies bit for bit in *every* structure, because no number that enters
  them moves; structures without the elements of the data keep energies, forces and stresses;
* frozen-messages: structures without the elements of the data keep energies, forces and stresses bit for bit, because
  only rows of the elements in the data move; atoms beside such elements do not;
* all others: nothing, because shared weights move.

A new element has no old knowledge to keep: its rows move under every strategy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gracecli.errors import UsageError
from gracecli.model.blueprint import Blueprint
from gracecli.model.reduce import element_axes
from gracecli.model.roles import node_roles

STRATEGIES = ("naive", "frozen", "frozen-messages", "readout", "lora", "replay")
_FINAL = frozenset({"readout", "reference"})
_ROLES: Mapping[str, frozenset[str]] = {
    "frozen": _FINAL,
    "frozen-messages": _FINAL | {"messages", "embedding"},
    "readout": _FINAL,
}
_NO_MAPS = frozenset({"embedding", "reference", "repulsion"})


@dataclass(frozen=True)
class Movement:
    """How one variable moves.

    Attributes
    ----------
    rows : tuple of int or None
        Elements (indices) whose rows move; None means all of the array. Empty: held.
    factors : tuple of int, optional
        (batch, m, n, rank) of a low-rank correction instead: the array (its ``rows``) as ``batch`` matrices m x n.
    """

    rows: tuple[int, ...] | None = ()
    factors: tuple[int, int, int, int] | None = None

    @property
    def held(self) -> bool:
        """Nothing moves."""
        return self.rows == () and self.factors is None

    def count(self, shape: Sequence[int]) -> int:
        """Numbers that move in an array of this shape."""
        if self.factors is not None:
            batch, m, n, rank = self.factors
            return batch * rank * (m + n)
        size = int(np.prod(shape))
        return size if self.rows is None else size // max(shape[0] if shape else 1, 1) * len(self.rows)


ALL, HELD = Movement(None), Movement()


def movements(
    blueprint: Blueprint,
    shapes: Mapping[str, Sequence[int]],
    strategy: str,
    present: Collection[str],
    new: Collection[str] = (),
    rank: int = 8,
) -> dict[str, Movement]:
    """How every trainable variable moves.

    Parameters
    ----------
    blueprint : Blueprint
    shapes : mapping
        Trainable variables ``node/path`` -> shape.
    strategy : str
        One of :data:`STRATEGIES`.
    present, new : collection of str
        Elements in the data; those that were added to the model.
    rank : int
        Of the corrections of ``lora``.

    Raises
    ------
    UsageError
        Nothing moves (the model has no weights of their own per element).
    """
    roles = node_roles(blueprint)
    rows = {name: tuple(i for i, e in enumerate(blueprint.elements) if e in chosen) for name, chosen in
            (("present", present), ("new", new))}  # fmt: skip
    found = {}
    for name, shape in shapes.items():
        node, _, path = name.partition("/")
        own = element_axes(blueprint.by_name[node]).of(path) == "elements"
        movement = _movement(strategy, roles[node], own, shape, rows["present"], rank)
        if own and movement.held:
            movement = Movement(rows["new"])
        found[name] = movement
    if not any(m.count(shapes[name]) for name, m in found.items()):
        raise UsageError(
            f"--strategy {strategy} would move nothing: the model has no weights of that kind",
            f"choose another of {', '.join(STRATEGIES)}",
        )
    return found


def _movement(
    strategy: str, role: str, own: bool, shape: Sequence[int], present: tuple[int, ...], rank: int
) -> Movement:
    if strategy in ("naive", "replay"):
        return ALL
    if strategy == "lora":
        return HELD if role in _NO_MAPS else _low_rank(shape, present if own else None, rank)
    if role not in _ROLES[strategy]:
        return HELD
    if own:
        return Movement(present)
    return ALL if strategy == "readout" else HELD


def _low_rank(shape: Sequence[int], rows: tuple[int, ...] | None, rank: int) -> Movement:
    """Factors of a linear map (one per row of elements in the data, where elements have their own).

    Maps too small for factors move as a whole; scales and biases are no maps and are held.
    """
    rest = shape if rows is None else shape[1:]
    if len(rest) < 2 or rest[0] == 1:
        return HELD
    batch, m, n = 1 if rows is None else len(rows), int(rest[0]), int(np.prod(rest[1:]))
    return Movement(rows) if rank * (m + n) >= m * n else Movement(rows, (batch, m, n, rank))


@dataclass(frozen=True)
class Line:
    """One node in the listing of a strategy."""

    node: str
    kind: str
    role: str
    weights: int
    moving: int
    how: str


def listing(blueprint: Blueprint, shapes: Mapping[str, Sequence[int]], moves: Mapping[str, Movement]) -> list[Line]:
    """How many weights of which node move."""
    roles = node_roles(blueprint)
    lines = []
    for node in blueprint:
        names = [name for name in shapes if name.partition("/")[0] == node.name]
        if not names:
            continue
        weights = sum(int(np.prod(shapes[name])) for name in names)
        moving = sum(moves[name].count(shapes[name]) for name in names)
        how = ", ".join(dict.fromkeys(_how(moves[name], blueprint.elements) for name in names))
        lines.append(Line(node.name, node.kind, roles[node.name], weights, moving, how))
    return lines


def _how(movement: Movement, elements: Sequence[str]) -> str:
    if movement.factors is not None:
        rank = f"rank {movement.factors[3]}"
        return rank if movement.rows is None else f"{rank} of {_named(movement.rows, elements)}"
    if movement.rows is None:
        return "all"
    return _named(movement.rows, elements) or "held"


def _named(rows: Sequence[int], elements: Sequence[str]) -> str:
    return "all elements" if len(rows) == len(elements) else " ".join(elements[row] for row in rows)


def by_role(lines: Iterable[Line]) -> dict[str, tuple[int, int]]:
    """Role -> (moving, all) weights."""
    found: dict[str, tuple[int, int]] = {}
    for line in lines:
        moving, weights = found.get(line.role, (0, 0))
        found[line.role] = (moving + line.moving, weights + line.weights)
    return found
