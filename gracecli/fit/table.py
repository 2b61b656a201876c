"""Files for people and programs: ``log.csv`` and ``report.json``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gracecli.files import write_text_atomically
from gracecli.fit.metrics import UNITS

if TYPE_CHECKING:
    from gracecli.fit.config import FitConfig
    from gracecli.fit.result import FitResult

LOG_COLUMNS = (
    "epoch", "step", "learning_rate", "loss", "loss_energy", "loss_forces", "loss_stress", "gradient_norm",
    "valid_loss", "valid_energy_mae", "valid_energy_rmse", "valid_forces_mae", "valid_forces_rmse",
    "valid_stress_mae", "valid_stress_rmse", "seconds",
)  # fmt: skip


def write_log(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One row per epoch; validation errors in meV/atom, meV/Å, GPa."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, LOG_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomically(path, stream.getvalue())


def write_report(path: Path, result: FitResult, config: FitConfig) -> None:
    """Result and settings as JSON."""
    document = {
        "schema": "gracecli.fit-report",
        "schema_version": 1,
        "_units": {**UNITS, "reference": "eV/atom", "seconds": "s"},
        "result": plain(asdict(result)),
        "settings": plain(config.to_dict()),
    }
    write_text_atomically(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """JSON types; NaN becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value
