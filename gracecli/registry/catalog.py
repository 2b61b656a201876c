"""The catalog of published foundation models: what exists, whether or not it is on this machine.

``catalog.json`` is written by ``tools/make_catalog.py``; weights are not shipped, and their licences are not ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CATALOG = Path(__file__).with_name("catalog.json")


@dataclass(frozen=True)
class Published:
    """One published model.

    Attributes
    ----------
    name : str
    aliases : tuple of str
    description : str
        Size and layers.
    layers : int
    training_data : str
    cutoff : tuple of float
        Smallest and largest pair cutoff in Å.
    precision : str
        ``fp64`` or ``fp32``, of the stored weights.
    licence : str
    elements : tuple of str or None
        Symbols, None where the publishers do not state them.
    """

    name: str
    aliases: tuple[str, ...]
    description: str
    layers: int
    training_data: str
    cutoff: tuple[float, float]
    precision: str
    licence: str
    elements: tuple[str, ...] | None


@cache
def published_models() -> dict[str, Published]:
    """Name -> entry of all published models, in catalog order."""
    document = json.loads(CATALOG.read_text(encoding="utf-8"))
    sets = {name: tuple(symbols) for name, symbols in document["element_sets"].items()}
    return {
        name: Published(
            name=name,
            aliases=tuple(entry["aliases"]),
            description=entry["description"],
            layers=entry["layers"],
            training_data=entry["training_data"],
            cutoff=(entry["cutoff"][0], entry["cutoff"][1]),
            precision=entry["precision"],
            licence=document["licences"][entry["licence"]],
            elements=sets.get(entry["elements"]),
        )
        for name, entry in document["models"].items()
    }


def find_published(name: str) -> Published | None:
    """Entry of a name or alias, whatever its case; None if there is none."""
    wanted = name.lower()
    for entry in published_models().values():
        if wanted in (entry.name.lower(), *(alias.lower() for alias in entry.aliases)):
            return entry
    return None
