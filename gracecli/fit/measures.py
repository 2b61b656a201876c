"""Errors of a model by name, as all tables show them; nothing is imported here, the command line starts with it."""

from __future__ import annotations

MEASURES = (
    ("energy_mae", "energy MAE", "meV/atom", ".2f"),
    ("energy_rmse", "RMSE", "meV/atom", ".2f"),
    ("forces_mae", "force MAE", "meV/Å", ".1f"),
    ("forces_rmse", "RMSE", "meV/Å", ".1f"),
    ("stress_mae", "stress MAE", "GPa", ".3f"),
    ("stress_rmse", "RMSE", "GPa", ".3f"),
)
"""Field of :class:`gracecli.fit.metrics.Errors`, title of its column, unit, format."""
