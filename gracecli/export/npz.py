"""``--format npz``: weights and blueprint for numpy alone.

Keys: ``weights/NODE/PATH`` one array each, ``blueprint`` and ``metadata`` (JSON text), ``format``, ``version``. All
arrays are numbers or text: ``numpy.load`` reads the file without pickle.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gracecli.engine.base import Results
from gracecli.errors import ModelError
from gracecli.export.base import Job, PlainExporter
from gracecli.export.reference import evaluate_read_back
from gracecli.model.blueprint import Blueprint
from gracecli.model.modelfile import Model

if TYPE_CHECKING:
    from ase import Atoms

FORMAT, VERSION = "gracecli-model-npz", 1
PREFIX = "weights/"


class Npz(PlainExporter):
    """Writes ``NAME.npz``."""

    def write(self, job: Job, target: Path) -> Sequence[str]:
        """Write the file."""
        metadata = {**job.model.metadata, "sha256": job.model.sha256()}
        arrays = {
            "format": np.array(FORMAT),
            "version": np.array(VERSION),
            "blueprint": np.array(job.model.blueprint.to_json()),
            "metadata": np.array(json.dumps(metadata, default=str)),
        }
        weights = {PREFIX + name: np.asarray(value) for name, value in job.model.weights.items()}
        with target.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays, **weights)
        return ()

    def evaluate(self, job: Job, target: Path, structures: Sequence[Atoms]) -> Sequence[Results | None]:
        """Read it back and evaluate."""
        return evaluate_read_back(job, read_npz(target), target, structures)


def read_npz(path: Path) -> Model:
    """The model in an exported file.

    Raises
    ------
    ModelError
        Not such a file.
    """
    with np.load(path, allow_pickle=False) as data:
        if "format" not in data or str(data["format"]) != FORMAT or int(data["version"]) > VERSION:
            raise ModelError(f"{path}: not a model exported by gracecli as npz")
        weights = {name.removeprefix(PREFIX): data[name] for name in data.files if name.startswith(PREFIX)}
        metadata = json.loads(str(data["metadata"]))
        metadata.pop("sha256", None)
        return Model(Blueprint.from_json(str(data["blueprint"])), weights, metadata)
