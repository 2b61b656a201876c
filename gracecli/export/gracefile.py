"""``--format grace``: gracecli's own model file, for models that were reduced or recast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gracecli.engine.base import Results
from gracecli.export.base import Job, PlainExporter
from gracecli.export.reference import evaluate_read_back
from gracecli.model.modelfile import load_model, save_model

if TYPE_CHECKING:
    from ase import Atoms


class GraceFile(PlainExporter):
    """Writes ``NAME.grace``."""

    def write(self, job: Job, target: Path) -> Sequence[str]:
        """Write the file."""
        save_model(target, job.model)
        return ()

    def evaluate(self, job: Job, target: Path, structures: Sequence[Atoms]) -> Sequence[Results | None]:
        """Read it back and evaluate."""
        return evaluate_read_back(job, load_model(target), target, structures)
