"""Errors of a model against labels as the terminal shows them, and their units in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gracecli.cli.output import Column
from gracecli.fit.measures import MEASURES

ERROR_UNITS = {field: unit for field, _, unit, _ in MEASURES}


def error_columns(first: str) -> list[Column]:
    """Columns of a table of errors, the first of them called so."""
    return [Column(first), Column("structures"), *(Column(*measure) for _, *measure in MEASURES)]


def error_row(name: str, errors: Mapping[str, Any]) -> list[Any]:
    """One row: errors as `gracecli.fit.metrics.Errors` holds them, as a mapping."""
    return [name, errors["structures"], *(errors[key] for key in ERROR_UNITS)]
