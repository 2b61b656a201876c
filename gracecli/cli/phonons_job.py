"""The work of ``grace phonons``: read all, plan all folders, one structure after the other, print, exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.output import emit_json, json_text, progress, verbosity, warn
from gracecli.errors import GraceError, InputError, PartialFailureError, PhysicsError

if TYPE_CHECKING:
    from gracecli.engine.calculator import GraceCalculator
    from gracecli.run.phonons import PhononSettings
    from gracecli.run.structures import Structure

SCHEMA, SCHEMA_VERSION = "gracecli/phonons", 1


@dataclass
class Entry:
    """One structure on its way through the command."""

    name: str
    structure: Structure | None = None
    folder: Path | None = None
    document: dict[str, Any] | None = None
    error: GraceError | None = None


@dataclass
class Job:
    """All structures of one call."""

    as_json: bool
    quasiharmonic: bool
    follow: int
    strict: bool
    settings: PhononSettings | None = None
    entries: list[Entry] = field(default_factory=list)
    interrupted: bool = False

    @property
    def runnable(self) -> list[Entry]:
        """Entries that can be computed."""
        return [entry for entry in self.entries if entry.structure is not None and entry.error is None]

    def read(self, arguments: Sequence[str]) -> None:
        """Read everything first: a typing error in the last name shows before the first run."""
        from gracecli.run.structures import Structure, read_structures

        for argument in arguments:
            try:
                found = read_structures(argument)
            except GraceError as error:
                found = [error]
            for number, item in enumerate(found):
                if isinstance(item, Structure):
                    self.entries.append(Entry(item.name, structure=item))
                    for text in item.notes:
                        warn(text)
                else:
                    name = argument if len(found) == 1 else f"{argument}#{number + 1}"
                    self.entries.append(Entry(name, error=item))

    def plan(self, output: Path | None, force: bool) -> None:
        """One folder for every structure; what is there already is an error now, not after the run."""
        entries = self.runnable
        taken: set[Path] = set()
        for entry in entries:
            assert entry.structure is not None
            stem = entry.structure.path.stem
            if entry.structure.frames > 1:
                stem += f"-{entry.structure.frame + 1}"
            folder = output if output is not None and len(entries) == 1 else (output or Path()) / f"{stem}.phonons"
            number = 2
            while folder in taken:
                folder = folder.with_name(f"{stem}-{number}.phonons")
                number += 1
            taken.add(folder)
            if folder.exists() and (not force or not _is_ours(folder)):
                hint = "give --force to replace it" if _is_ours(folder) else "name another with -o"
                raise InputError(f"{folder} exists", hint)
            entry.folder = folder
        if output is not None and len(entries) > 1:
            output.mkdir(parents=True, exist_ok=True)

    def run(self, calculator: GraceCalculator) -> None:
        """One structure after the other; a failure of one does not stop the others."""
        for entry in self.runnable:
            try:
                self._one(entry, calculator)
            except KeyboardInterrupt:
                self.interrupted = True
                return
            except GraceError as error:
                entry.error = type(error)(f"{entry.name}: {error.message}", error.hint)

    def _one(self, entry: Entry, calculator: GraceCalculator) -> None:
        from gracecli.files import write_folder_atomically
        from gracecli.run.phonon_files import UNITS, phonon_document, write_files
        from gracecli.run.phonon_follow import follow
        from gracecli.run.quasiharmonic import quasiharmonic, with_same_supercell

        assert entry.structure is not None
        assert entry.folder is not None
        assert self.settings is not None
        name = Path(entry.name).name
        with _Bar(name) as bar:
            result = follow(entry.structure.atoms, calculator, self.settings, self.follow, progress=bar)
        expansion = None
        if self.quasiharmonic:
            with _Bar(f"{name}, volumes") as bar:
                settings = with_same_supercell(self.settings, result.phonon)
                expansion = quasiharmonic(result.atoms, calculator, settings, progress=bar)
        document = {"name": entry.name, **phonon_document(result, expansion), "folder": str(entry.folder)}
        text = json_text(SCHEMA, SCHEMA_VERSION, document, UNITS)
        write_folder_atomically(
            entry.folder, lambda folder: write_files(folder, result, text, expansion), replace=entry.folder.exists()
        )
        entry.document = document

    def print(self) -> None:
        """The result on stdout."""
        from gracecli.cli.phonons_tables import phonon_card, phonon_summary
        from gracecli.run.phonon_files import UNITS

        documents = [document for entry in self.entries if (document := _document(entry)) is not None]
        if self.as_json:
            emit_json(SCHEMA, SCHEMA_VERSION, {"interrupted": self.interrupted, "results": documents}, UNITS)
            return
        done = [document for document in documents if "error" not in document]
        if len(self.entries) == 1 or verbosity() >= 1:
            for document in done:
                click.echo(phonon_card(document))
        if len(self.entries) > 1:
            click.echo(phonon_summary(documents))

    def finish(self) -> int:
        """Exit code, or the error that carries it."""
        if self.interrupted:
            click.echo("grace: interrupted; finished structures are in their folders", err=True)
            return 130
        errors = [entry.error for entry in self.entries if entry.error is not None]
        for entry in self.entries:
            document = entry.document
            if self.strict and document is not None and document["stability"]["verdict"] == "unstable":
                errors.append(
                    PhysicsError(f"{entry.name}: dynamically unstable", "--follow-imaginary looks for the way down")
                )
        if not errors:
            return 0
        if len(self.entries) == 1 or (len(errors) == len(self.entries) and len({e.exit_code for e in errors}) == 1):
            raise errors[0]
        raise PartialFailureError(f"{len(errors)} of {len(self.entries)} structures failed", "the table says why")


def _document(entry: Entry) -> dict[str, Any] | None:
    if entry.error is not None:
        return {"name": entry.name, "error": {"message": entry.error.message, "hint": entry.error.hint}}
    return entry.document


class _Bar:
    """Progress of the supercells."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` supercells are evaluated."""
        if self.bar is None or self.bar.total != total:
            self.close()
            self.bar = progress(total=total, description=f"{self.name}: supercells", unit="cell")
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def __exit__(self, *details: Any) -> None:
        self.close()


def _is_ours(folder: Path) -> bool:
    return (folder / "phonons.json").is_file()
