"""The catalog of published foundation models: what exists, whether or not it is on this machine.

``catalog.json`` is written by ``tools/make_catalog.py``; weights are not shipped, and their licences are not ours.
Plugins add catalogs of the same layout; a name that the built-in catalog has stays its own.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gracecli.errors import ModelError

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
    checkpoint : str or None
        Address of the archive with model.yaml and checkpoint (or of a ``.grace`` file), relative to ``base``.
    base : str
        Where the addresses begin; mirrors replace it.
    sha256 : str or None
        Of the archive, where the catalog knows it.
    catalog : str
        What brought the entry: ``published``, or the name of a plugin.
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
    checkpoint: str | None = None
    base: str = ""
    sha256: str | None = None
    catalog: str = "published"

    @property
    def names(self) -> tuple[str, ...]:
        """Name and aliases."""
        return (self.name, *self.aliases)


@cache
def published_models() -> dict[str, Published]:
    """Name -> entry of the built-in catalog, in its order."""
    return read_catalog(json.loads(CATALOG.read_text(encoding="utf-8")))


def read_catalog(document: Mapping[str, Any], catalog: str = "published") -> dict[str, Published]:
    """Entries of a catalog document (layout of ``catalog.json``).

    Raises
    ------
    ModelError
        The document lacks something; says where.
    """
    sets = {name: tuple(symbols) for name, symbols in document.get("element_sets", {}).items()}
    licences = document.get("licences", {})
    found = {}
    for name, entry in document.get("models", {}).items():
        try:
            elements = entry.get("elements")
            found[name] = Published(
                name=name,
                aliases=tuple(entry.get("aliases", ())),
                description=entry["description"],
                layers=int(entry["layers"]),
                training_data=entry.get("training_data", "not stated"),
                cutoff=(float(entry["cutoff"][0]), float(entry["cutoff"][1])),
                precision=entry["precision"],
                licence=licences.get(entry["licence"], entry["licence"]),
                elements=sets.get(elements) if isinstance(elements, str) else tuple(elements) if elements else None,
                checkpoint=entry.get("checkpoint"),
                base=document.get("base", ""),
                sha256=entry.get("sha256"),
                catalog=catalog,
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ModelError(f"catalog {catalog!r}: entry {name!r} is not complete ({error!r})") from error
    return found


def all_models() -> dict[str, Published]:
    """Entries of the built-in catalog and of those that plugins bring; a plugin's broken catalog is a warning.

    Unlike :func:`published_models` this loads the plugins.
    """
    from gracecli.plugin.manager import get_plugin_manager

    found = dict(published_models())
    for name, spec in get_plugin_manager().catalogs().items():
        try:
            more = read_catalog(spec.load()(), name)
        except Exception as error:  # a plugin's code may raise whatever it likes
            warnings.warn(f"the catalog {name!r} of {spec.distribution} cannot be read: {error}", stacklevel=2)
            continue
        found = more | found
    return found


def find_published(name: str) -> Published | None:
    """Entry of a name or alias, whatever its case; None if there is none."""
    wanted = name.lower()
    for entry in all_models().values():
        if wanted in map(str.lower, entry.names):
            return entry
    return None
