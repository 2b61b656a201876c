"""Errors of a model against labels as the terminal shows them, and their units in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gracecli.cli.output import Column

ERROR_UNITS = {
    "energy_mae": "meV/atom",
    "energy_rmse": "meV/atom",
    "forces_mae": "meV/Å",
    "forces_rmse": "meV/Å",
    "stress_mae": "GPa",
    "stress_rmse": "GPa",
}


def error_columns(first: str) -> tuple[Column, ...]:
    """Columns of a table of errors, the first of them called so."""
    return (
        Column(first),
        Column("structures"),
        Column("energy MAE", "meV/atom", ".2f"),
        Column("RMSE", "meV/atom", ".2f"),
        Column("force MAE", "meV/Å", ".1f"),
        Column("RMSE", "meV/Å", ".1f"),
        Column("stress MAE", "GPa", ".3f"),
        Column("RMSE", "GPa", ".3f"),
    )


def error_row(name: str, errors: Mapping[str, Any]) -> list[Any]:
    """One row: errors as `gracecli.fit.metrics.Errors` holds them, as a mapping."""
    return [name, errors["structures"], *(errors[key] for key in ERROR_UNITS)]
