"""What a check says: one line with a verdict and a remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

LEVELS = ("ok", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes
    ----------
    check : str
        Name of the check, such as ``stress``.
    where : str
        Set, or set and kind of structure.
    level : str
        ok, warning or error.
    found : str
        What was seen, with units.
    remedy : str
        What to do; empty when nothing has to be done.
    details : dict
        Numbers for programs.
    """

    check: str
    where: str
    level: str
    found: str
    remedy: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def worst(findings: Iterable[Finding]) -> str:
    """The gravest level that occurs."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def several(names: Iterable[str], limit: int = 3) -> str:
    """``a, b, c and 4 more``."""
    listed = list(names)
    text = ", ".join(listed[:limit])
    return text if len(listed) <= limit else f"{text} and {len(listed) - limit} more"


def short_name(source: str) -> str:
    """``.../mlearn-Cu/train.extxyz:3`` -> ``mlearn-Cu/train.extxyz:3``."""
    return "/".join(source.split("/")[-2:])
