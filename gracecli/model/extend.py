"""A model of more elements: new rows that start as copies of those of the chemically nearest known element.

What runs over elements is declared per node type (:func:`gracecli.model.reduce.element_axes`). Structures of the old
elements keep their energies, forces and stresses bit for bit; before any training a new element behaves exactly like
its donor.

"Nearest" is the distance in the periodic table, ``|group - group'| + PERIOD_WEIGHT |period - period'|`` (elements of a
group are alike, neighbours in a row less so); lanthanides and actinides count as group 3, and ties go to the element
of nearest atomic number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from gracecli.errors import InputError, ModelError
from gracecli.model import blueprint as bp
from gracecli.model.modelfile import Model
from gracecli.model.reduce import SYMBOLS, element_axes, weight_of_rows
from gracecli.names import suggestion

NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)
PERIOD_WEIGHT = 0.6


def group_and_period(symbol: str) -> tuple[int, int]:
    """Group (1 to 18; f elements 3) and period of an element.

    Raises
    ------
    InputError
        Not the symbol of an element.
    """
    from ase.data import atomic_numbers

    number = atomic_numbers.get(symbol, 0)
    if number < 1:
        raise InputError(f"{symbol!r} is not the symbol of an element")
    period, (before, last) = next((k, ends) for k, ends in enumerate(pairwise(NOBLE), 1) if number <= ends[1])
    place, length = number - before, last - before  # length: 2, 8, 18 or 32
    if place <= 2 and number != 2:
        return place, period
    from_end = 18 - (length - place)
    return max(from_end, 3) if length == 32 else from_end, period


def nearest_element(symbol: str, known: Sequence[str]) -> str:
    """The known element that is nearest in the periodic table."""
    from ase.data import atomic_numbers

    group, period = group_and_period(symbol)

    def distance(other: str) -> tuple[float, int]:
        g, p = group_and_period(other)
        return abs(g - group) + PERIOD_WEIGHT * abs(p - period), abs(atomic_numbers[other] - atomic_numbers[symbol])

    return min(known, key=distance)


def extend_elements(
    model: Model, elements: Sequence[str], like: Mapping[str, str] | None = None
) -> tuple[Model, dict[str, str]]:
    """The model with further elements behind its own, and the donor of each.

    Parameters
    ----------
    model : Model
    elements : sequence of str
        Elements to add; those the model has are left alone.
    like : mapping, optional
        New element -> donor, where the nearest one is not wanted.

    Raises
    ------
    InputError
        Not an element, or a donor that the model lacks.
    ModelError
        A node type does not declare what depends on elements, or a variable is not as declared.
    """
    chosen = like or {}
    new = [symbol for symbol in dict.fromkeys(elements) if symbol not in model.elements]
    for symbol in chosen:
        if symbol not in new:
            raise InputError(f"{symbol} is to be made like {chosen[symbol]}, but is no new element", "see --like")
        if chosen[symbol] not in model.elements:
            raise InputError(
                f"{symbol} cannot be made like {chosen[symbol]}, which the model does not cover",
                suggestion(chosen[symbol], model.elements),
            )
    if not new:
        return model, {}
    if model.heads:
        raise ModelError("a model with heads cannot be extended as it is", "choose one head of it: NAME#HEAD")
    donors = {symbol: chosen.get(symbol) or nearest_element(symbol, model.elements) for symbol in new}
    rows = [*range(len(model.elements)), *(model.elements.index(donors[symbol]) for symbol in new)]
    nodes = tuple(_extended_node(node, rows, donors) for node in model.blueprint)
    weights = {name: weight_of_rows(model, name, value, rows) for name, value in model.weights.items()}
    metadata = {**model.metadata, "elements": [*model.elements, *new]}
    return replace(model, blueprint=bp.Blueprint(nodes), weights=weights, metadata=metadata), donors


def _extended_node(node: bp.Node, rows: list[int], donors: Mapping[str, str]) -> bp.Node:
    changed: dict[str, Any] = {}
    for option, kind in element_axes(node).options.items():
        value = getattr(node, option)
        if kind == "elements" and isinstance(value, tuple):
            named = option == "elements"
            changed[option] = (*value, *donors) if named else tuple(value[row] for row in rows)
        elif kind == "pairs" and isinstance(value, dict):
            changed[option] = _extended_pairs(value, donors)
    return replace(node, **changed) if changed else node


def _extended_pairs(table: dict[str, float], donors: Mapping[str, str]) -> dict[str, float]:
    """Pairs with a new element take the value of the pair with its donor."""
    named = {tuple(SYMBOLS.findall(key)): value for key, value in table.items()}
    named = {(key * 2 if len(key) == 1 else key): value for key, value in named.items()}
    found, known = dict(table), set(named)
    likes: dict[str, list[str]] = {}
    for new, donor in donors.items():
        likes.setdefault(donor, []).append(new)
    for (a, b), value in named.items():
        for left in (a, *likes.get(a, ())):
            for right in (b, *likes.get(b, ())):
                if (left, right) not in known and (right, left) not in known:
                    known.add((left, right))
                    found[left + right] = value
    return found
