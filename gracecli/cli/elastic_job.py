"""The work of ``grace elastic``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gracecli.cli.folder_job import Bar, Entry, FolderJob
from gracecli.errors import GraceError, PhysicsError

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.engine.calculator import GraceCalculator
    from gracecli.run.elastic import ElasticSettings


@dataclass
class ElasticJob(FolderJob):
    """Elastic constants of all structures of one call."""

    kind: str = "elastic"
    as_json: bool = False
    settings: ElasticSettings | None = None
    strict: bool = False
    plots: bool = True

    def compute(self, entry: Entry, calculator: GraceCalculator) -> tuple[dict[str, Any], Atoms]:
        """One crystal."""
        from gracecli.run.elastic import elastic
        from gracecli.run.elastic_files import elastic_document, write_files

        assert entry.structure is not None
        with Bar(f"{Path(entry.name).name}: strained cells") as bar:
            result = elastic(entry.structure.atoms, calculator, self.settings, progress=bar)
        graded = {"extrapolation": self.extrapolation(result.atoms, calculator)}
        document = self.keep(
            entry,
            {**elastic_document(result), **graded},
            lambda folder, text: write_files(folder, result, text, self.plots),
        )
        return document, result.atoms

    def values(self, document: dict[str, Any]) -> dict[str, Any]:
        """What the store can be asked for."""
        import numpy as np

        moduli = document["moduli"]
        return {
            "tensor": np.array(document["tensor"]),
            "bulk": moduli["bulk"],
            "shear": moduli["shear"],
            "stable": document["stable"],
        }

    def verdict(self, document: dict[str, Any]) -> GraceError | None:
        """Born instability under ``--strict``."""
        if self.strict and not document["stable"]:
            return PhysicsError("elastically unstable (Born)", "the card names the soft strain")
        return None

    def card(self, document: dict[str, Any]) -> str:
        """One crystal at length."""
        from gracecli.cli.elastic_tables import elastic_card

        return elastic_card(document)

    def summary(self, documents: Sequence[dict[str, Any]]) -> str:
        """A row each."""
        from gracecli.cli.elastic_tables import elastic_summary

        return elastic_summary(documents)

    def units(self) -> dict[str, str]:
        """Units of the documents."""
        from gracecli.run.elastic_files import UNITS

        return UNITS
