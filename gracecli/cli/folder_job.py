"""Commands that make a folder per structure: read all, plan all folders, one after the other, print, exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.gamma import limit_option
from gracecli.cli.many import store_options
from gracecli.cli.options import (
    Decorated,
    config_option,
    force_option,
    json_option,
    output_option,
    plots_option,
    verbosity_options,
)
from gracecli.cli.output import emit_json, json_text, plain, progress, verbosity, warn
from gracecli.errors import GraceError, InputError, PartialFailureError, PhysicsError

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.cli.many import Memory
    from gracecli.engine.calculator import GraceCalculator
    from gracecli.run.structures import Structure
    from gracecli.store.results import Calculation


def folder_options(function: Decorated) -> Decorated:
    """What all commands that make a folder per structure take: grades, store, pictures, output, JSON, settings ..."""
    limit = limit_option("Beyond it the results are written all the same, and the exit code is 9.")
    for option in (
        verbosity_options, config_option, json_option, force_option, output_option, plots_option, store_options, limit,
    ):  # fmt: skip
        function = option(function)
    return function


def reference_option(text: str) -> Callable[[Decorated], Decorated]:
    """``--relax``: what relaxes before everything else."""
    return click.option(
        "--relax",
        type=click.Choice(["full", "positions", "none"]),
        default="full",
        show_default=True,
        help=f"{text} first: cell and positions, positions, nothing.",
    )


@dataclass
class Entry:
    """One structure on its way through the command."""

    name: str
    structure: Structure | None = None
    folder: Path | None = None
    document: dict[str, Any] | None = None
    error: GraceError | None = None


@dataclass
class FolderJob:
    """All structures of one call; commands give ``compute``, ``verdict`` and the tables.

    Attributes
    ----------
    kind : str
        Ending of the folders, and name of the document in them: ``phonons`` -> ``NAME.phonons/phonons.json``.
    as_json : bool
    max_gamma : float, optional
        Extrapolation grade that the geometry of a result may have.
    """

    kind: str
    as_json: bool
    version: int = 1
    entries: list[Entry] = field(default_factory=list)
    interrupted: bool = False
    max_gamma: float | None = None

    def compute(self, entry: Entry, calculator: GraceCalculator) -> tuple[dict[str, Any], Atoms]:
        """Do the work for one structure, write its folder; its document, and the geometry that it is about."""
        raise NotImplementedError

    def extrapolation(self, atoms: Atoms, calculator: GraceCalculator) -> dict[str, Any] | None:
        """How far a geometry is outside the data of the model, where the model tells."""
        from gracecli.run.extrapolation import grades_of, summarise

        (gamma,) = grades_of(calculator.engine, [atoms])
        found = summarise(gamma, atoms.numbers)
        return None if found is None else found.to_dict()

    def keep(self, entry: Entry, found: dict[str, Any], write: Callable[[Path, str], None]) -> dict[str, Any]:
        """Write the folder of a structure, all or nothing; its document.

        Parameters
        ----------
        entry : Entry
        found : dict
            What the run found.
        write : callable
            Fills an empty folder; gets the text of the document too.
        """
        from gracecli.files import write_folder_atomically

        assert entry.folder is not None
        document = {"name": entry.name, **found, "folder": str(entry.folder)}
        text = json_text(self.schema, self.version, document, self.units())
        write_folder_atomically(entry.folder, lambda folder: write(folder, text), replace=entry.folder.exists())
        return document

    def values(self, document: dict[str, Any]) -> dict[str, Any]:
        """The numbers of a result that the store keeps apart from the document."""
        return {}

    def verdict(self, document: dict[str, Any]) -> GraceError | None:
        """An error that a finished result stands for (``--strict``)."""
        return None

    def card(self, document: dict[str, Any]) -> str:
        """One result at length."""
        raise NotImplementedError

    def summary(self, documents: Sequence[dict[str, Any]]) -> str:
        """Several results, a row each."""
        raise NotImplementedError

    def units(self) -> dict[str, str]:
        """Units of the documents."""
        raise NotImplementedError

    @property
    def schema(self) -> str:
        """Name of the documents' schema."""
        return f"gracecli.{self.kind}"

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
            folder = output if output is not None and len(entries) == 1 else (output or Path()) / f"{stem}.{self.kind}"
            number = 2
            while folder in taken:
                folder = folder.with_name(f"{stem}-{number}.{self.kind}")
                number += 1
            taken.add(folder)
            if folder.exists() and (not force or not self._is_ours(folder)):
                hint = "give --force to replace it" if self._is_ours(folder) else "name another with -o"
                raise InputError(f"{folder} exists", hint)
            entry.folder = folder
        if output is not None and len(entries) > 1:
            output.mkdir(parents=True, exist_ok=True)

    def run(self, calculator: GraceCalculator, calculation: Calculation, memory: Memory) -> None:
        """One structure after the other; a failure of one does not stop the others."""
        from gracecli.run.extrapolation import check_limit

        check_limit(calculator.engine, self.max_gamma, None)
        with memory.open():
            for entry in self.runnable:
                try:
                    self._one(entry, calculator, calculation, memory)
                except KeyboardInterrupt:
                    self.interrupted = True
                    return
                except GraceError as error:
                    entry.error = type(error)(f"{entry.name}: {error.message}", error.hint)

    def _one(self, entry: Entry, calculator: GraceCalculator, calculation: Calculation, memory: Memory) -> None:
        """Answer from the store, or compute and record."""
        assert entry.structure is not None
        atoms = entry.structure.atoms
        known = memory.find(calculation, atoms)
        if known is not None:
            document = json.loads(str(known.values["document"]))
            entry.document = {
                **document,
                "name": entry.name,
                "folder": f"{memory.path} (result r{known.id}, no new files)",
            }
            return
        entry.document, reference = self.compute(entry, calculator)
        if memory.path is not None:
            from gracecli.store.results import Outcome

            values = {**self.values(entry.document), "document": json.dumps(plain(entry.document))}
            memory.add(Outcome(calculation, atoms, values, output=reference, units=self.units(), source=entry.name))

    def _is_ours(self, folder: Path) -> bool:
        return (folder / f"{self.kind}.json").is_file()

    def print(self) -> None:
        """The result on stdout."""
        documents = [document for entry in self.entries if (document := _document(entry)) is not None]
        if self.as_json:
            payload = {"interrupted": self.interrupted, "results": documents}
            emit_json(self.schema, self.version, payload, self.units())
            return
        done = [document for document in documents if "error" not in document]
        if len(self.entries) == 1 or verbosity() >= 1:
            for document in done:
                click.echo(self.card(document))
        if len(self.entries) > 1:
            click.echo(self.summary(documents))

    def _outside(self, document: dict[str, Any]) -> GraceError | None:
        """A geometry beyond ``--max-gamma``."""
        from gracecli.run.extrapolation import ADVICE

        found = document.get("extrapolation")
        if self.max_gamma is None or not found or not found["gamma"] > self.max_gamma:
            return None
        return PhysicsError(f"gamma is {found['gamma']:.2f}, beyond {self.max_gamma:g}; results were written", ADVICE)

    def finish(self) -> int:
        """Exit code, or the error that carries it."""
        if self.interrupted:
            click.echo("grace: interrupted; finished structures are in their folders", err=True)
            return 130
        errors = [entry.error for entry in self.entries if entry.error is not None]
        for entry in self.entries:
            error = None if entry.document is None else self.verdict(entry.document) or self._outside(entry.document)
            if error is not None:
                errors.append(type(error)(f"{entry.name}: {error.message}", error.hint))
        if not errors:
            return 0
        if len(self.entries) == 1 or (len(errors) == len(self.entries) and len({e.exit_code for e in errors}) == 1):
            raise errors[0]
        raise PartialFailureError(f"{len(errors)} of {len(self.entries)} structures failed", "the table says why")


def _document(entry: Entry) -> dict[str, Any] | None:
    if entry.error is not None:
        return {"name": entry.name, "error": {"message": entry.error.message, "hint": entry.error.hint}}
    return entry.document


class Bar:
    """Progress of one structure."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` cells are evaluated."""
        if self.bar is None or self.bar.total != total:
            self.close()
            self.bar = progress(total=total, description=self.name, unit="cell")
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def __exit__(self, *details: Any) -> None:
        self.close()
