"""The work of ``grace phonons``."""

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
    from gracecli.run.conductivity import ConductivitySettings
    from gracecli.run.phonons import PhononSettings


@dataclass
class PhononJob(FolderJob):
    """Phonons of all structures of one call."""

    kind: str = "phonons"
    as_json: bool = False
    settings: PhononSettings | None = None
    quasiharmonic: bool = False
    conductivity: ConductivitySettings | None = None
    follow: int = 0
    strict: bool = False
    plots: bool = True

    def identity(self) -> dict[str, Any]:
        """Everything that changes the numbers."""
        assert self.settings is not None
        extra = None if self.conductivity is None else vars(self.conductivity)
        return {**self.settings.to_dict(), "quasiharmonic": self.quasiharmonic, "follow": self.follow, "kappa": extra}

    def compute(self, entry: Entry, calculator: GraceCalculator) -> tuple[dict[str, Any], Atoms]:
        """Phonons, perhaps of the structure that imaginary modes lead to, perhaps at several volumes."""
        from gracecli.run.phonon_files import phonon_document, write_files
        from gracecli.run.phonon_follow import follow
        from gracecli.run.quasiharmonic import quasiharmonic, with_same_supercell

        assert entry.structure is not None
        assert self.settings is not None
        name = Path(entry.name).name
        with Bar(f"{name}: supercells") as bar:
            result = follow(entry.structure.atoms, calculator, self.settings, self.follow, progress=bar)
        expansion = None
        if self.quasiharmonic:
            with Bar(f"{name}: supercells of nine volumes") as bar:
                settings = with_same_supercell(self.settings, result.phonon)
                expansion = quasiharmonic(result.atoms, calculator, settings, progress=bar)
        transport = None
        if self.conductivity is not None:
            from gracecli.run.conductivity import conductivity

            with Bar(f"{name}: supercells of the thermal conductivity") as bar:
                transport = conductivity(result.atoms, calculator, self.settings, self.conductivity, progress=bar)
        graded = {"extrapolation": self.extrapolation(result.atoms, calculator)}
        document = self.keep(
            entry,
            {**phonon_document(result, expansion, transport), **graded},
            lambda folder, text: write_files(folder, result, text, expansion, transport, self.plots),
        )
        return document, result.atoms

    def values(self, document: dict[str, Any]) -> dict[str, Any]:
        """What the store can be asked for."""
        stability = document["stability"]
        return {"lowest": stability["lowest"], "highest": document["highest"], "verdict": stability["verdict"]}

    def verdict(self, document: dict[str, Any]) -> GraceError | None:
        """Imaginary modes under ``--strict``."""
        if self.strict and document["stability"]["verdict"] == "unstable":
            return PhysicsError("dynamically unstable", "--follow-imaginary looks for the way down")
        return None

    def card(self, document: dict[str, Any]) -> str:
        """One structure at length."""
        from gracecli.cli.phonons_tables import phonon_card

        return phonon_card(document)

    def summary(self, documents: Sequence[dict[str, Any]]) -> str:
        """A row each."""
        from gracecli.cli.phonons_tables import phonon_summary

        return phonon_summary(documents)

    def units(self) -> dict[str, str]:
        """Units of the documents."""
        from gracecli.run.phonon_files import UNITS

        return UNITS
