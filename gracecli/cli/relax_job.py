"""The work of ``grace relax``: read all, plan all files, relax one after the other, print, and choose the exit code."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.output import emit_json, note, verbosity, warn
from gracecli.errors import GraceError, InputError, PartialFailureError

if TYPE_CHECKING:
    from gracecli.cli.gamma import GammaJob
    from gracecli.cli.relax_many import Recording
    from gracecli.engine.base import Engine
    from gracecli.engine.calculator import GraceCalculator
    from gracecli.run.outputs import Target, TrajectoryWriter
    from gracecli.run.relax import RelaxStep
    from gracecli.run.result import RelaxResult, RelaxSettings
    from gracecli.run.structures import Structure

SCHEMA, SCHEMA_VERSION = "gracecli.relax", 1
INTERRUPTED = 130
REWRITE_SECONDS = 30.0  # a file of many structures is brought up to date this often while they are being relaxed


@dataclass
class Entry:
    """One structure on its way through the command."""

    name: str
    structure: Structure | None = None
    target: Target | None = None
    trajectory: Path | None = None
    result: RelaxResult | None = None
    error: GraceError | None = None
    settings: RelaxSettings = None  # type: ignore[assignment]
    source: str = "computed"  # or "store", "resumed"
    stored: int | None = None
    extrapolation: dict[str, Any] | None = None

    @property
    def exit_code(self) -> int:
        """What this structure alone would end with."""
        if self.error is not None:
            return self.error.exit_code
        return {"not-converged": 3, "exploded": 9}.get(self.result.status, 0) if self.result is not None else 0

    def document(self) -> dict[str, Any]:
        """Its part of the JSON document."""
        source = {"name": self.name, "input": str(self.structure.path) if self.structure else self.name}
        if self.result is None:
            error = self.error or GraceError("not reached")
            details = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
            return {**source, "status": "failed", "error": {**details, "exit_code": error.exit_code}}
        document = self.result.to_dict()
        del document["_units"]
        files = {
            "output": self.target and str(self.target.path),
            "trajectory": self.trajectory and str(self.trajectory),
        }
        origin = {"source": self.source, "store_result": self.stored}
        return {**source, **document, "extrapolation": self.extrapolation, **files, **origin}


@dataclass
class Job:
    """All structures of one call."""

    settings: RelaxSettings
    as_json: bool
    entries: list[Entry] = field(default_factory=list)
    interrupted: bool = False
    gamma: GammaJob | None = None

    @property
    def runnable(self) -> list[Entry]:
        """Entries that can be relaxed."""
        return [entry for entry in self.entries if entry.structure is not None and entry.error is None]

    @property
    def runnable_or_failed(self) -> list[Entry]:
        """Entries with an output file, whatever came of them."""
        return [entry for entry in self.entries if entry.target is not None]

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
                    self.entries.append(Entry(item.name, structure=item, settings=self.settings))
                    for text in item.notes:
                        warn(text)
                else:
                    name = argument if len(found) == 1 else f"{argument}#{number + 1}"
                    self.entries.append(Entry(name, error=item))

    def plan(self, output: Path | None, trajectory: Path | None, force: bool) -> None:
        """Decide all file names, and find out now what cannot be written."""
        from gracecli.run.outputs import Source, check_writable, extxyz_name, plan_outputs

        groups: dict[int, list[Entry]] = {}
        for entry in self.runnable:
            assert entry.structure is not None
            new = entry.structure.frame == 0 or not groups
            known = list(groups.values())[-1] if groups else []
            if not new and known[-1].structure is not None and known[-1].structure.path == entry.structure.path:
                known.append(entry)
            else:
                groups[len(groups)] = [entry]
        sources = []
        for group in groups.values():
            first = group[0].structure
            assert first is not None
            sources.append(Source(first.path, first.format, len(group), first.direct))
        if not sources:
            return
        for group, target in zip(groups.values(), plan_outputs(sources, output, force), strict=True):
            for entry in group:
                entry.target = target
        if trajectory is None:
            return
        entries = self.runnable
        if len(entries) > 1 or trajectory.is_dir():
            _make_folder(trajectory)
            for number, entry in enumerate(entries):
                assert entry.target is not None
                frame = f"-{entry.structure.frame + 1}" if entry.structure and entry.structure.frames > 1 else ""
                stem = (
                    entry.target.path.name.replace(".relaxed", "")
                    if output is None
                    else f"{number + 1}-" + (entry.target.path.name.replace(".relaxed", ""))
                )
                entry.trajectory = trajectory / extxyz_name(f"{stem}{frame}.trajectory")
        else:
            entries[0].trajectory = trajectory
        for entry in entries:
            assert entry.trajectory is not None
            check_writable(entry.trajectory, force)

    def run(self, calculator: GraceCalculator, record: Recording) -> None:
        """Relax one after the other; a failure of one does not stop the others."""
        entries = record.start(self)
        for target in {id(entry.target): entry.target for entry in self.runnable if entry.result is not None}.values():
            self.write(target)
        written = time.monotonic()
        for number, entry in enumerate(entries):
            try:
                self._relax(entry, calculator)
                record.add(entry)
            except KeyboardInterrupt:
                self.interrupted = True
            except GraceError as error:
                entry.error = _named(error, entry.name)
            except MemoryError:
                raise
            except Exception as error:
                if len(self.entries) == 1:
                    raise
                entry.error = GraceError(f"{entry.name}: internal error: {type(error).__name__}: {error}")
                entry.error.__cause__ = error
            following = entries[number + 1] if number + 1 < len(entries) else None
            stop = self.interrupted or (entry.result is not None and entry.result.status == "interrupted")
            last = stop or following is None or following.target is not entry.target
            if last or time.monotonic() - written > REWRITE_SECONDS:
                self.write(entry.target)
                written = time.monotonic()
            if stop:
                self.interrupted = True
                return

    def _relax(self, entry: Entry, calculator: GraceCalculator) -> None:
        from gracecli.run.outputs import TrajectoryWriter
        from gracecli.run.relax import relax

        assert entry.structure is not None
        writer = TrajectoryWriter(entry.trajectory) if entry.trajectory is not None else None
        watcher = _Watcher(entry.name, self.settings, writer)
        try:
            entry.result = relax(entry.structure.atoms, calculator, self.settings, watcher)
        finally:
            watcher.close()
            if writer is not None:
                writer.close()

    def write(self, target: Target | None) -> None:
        """Write all results so far that belong into ``target``."""
        from gracecli.run.outputs import write_structures

        frames, comments = [], []
        for entry in self.entries:
            if entry.target is target and entry.result is not None:
                frame = entry.result.atoms
                frame.info.update(relaxation=entry.result.status, converged=entry.result.converged)
                frames.append(frame)
                comments.append(entry.result.status)
        if frames and target is not None:
            write_structures(target, frames, f"grace relax: {', '.join(dict.fromkeys(comments))}")

    def grade(self, gamma: GammaJob, engine: Engine) -> None:
        """How far the relaxed structures are outside the data of the model."""
        from gracecli.run.extrapolation import grades_of

        self.gamma = gamma
        done = [entry for entry in self.entries if entry.result is not None]
        grades = grades_of(engine, [entry.result.atoms for entry in done if entry.result is not None])
        for entry, found in zip(done, grades, strict=True):
            assert entry.result is not None
            entry.extrapolation = gamma.take(entry.name, entry.result.atoms, found)
        gamma.finish()

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        if self.interrupted:
            return INTERRUPTED
        codes = {entry.exit_code for entry in self.entries}
        return codes.pop() if len(codes) == 1 else PartialFailureError.exit_code

    def print(self) -> None:
        """The result on stdout."""
        from gracecli.cli.relax_tables import relax_card, relax_summary
        from gracecli.run.result import UNITS

        shown = [entry for entry in self.entries if entry.result is not None or entry.error is not None]
        documents = [entry.document() for entry in shown]
        if self.as_json:
            emit_json(SCHEMA, SCHEMA_VERSION, {"interrupted": self.interrupted, "results": documents}, UNITS)
            return
        if len(self.entries) == 1:
            for document in documents:
                if document["status"] != "failed":
                    click.echo(relax_card(document))
            return
        if verbosity() >= 1:
            for document in documents:
                if document["status"] != "failed":
                    click.echo(relax_card(document) + "\n")
        click.echo(relax_summary(documents))

    def finish(self) -> int:
        """Exit code, or the error that carries it."""
        if self.interrupted:
            done = [entry for entry in self.entries if entry.result is not None]
            left = len(self.entries) - len(done)
            kept = f"; the last geometry is in {done[-1].target.path}" if done and done[-1].target else ""
            more = f"; {left} structures not relaxed" if left else ""
            resume = "; the same command with --resume goes on" if len(self.entries) > 1 else ""
            click.echo(f"grace: interrupted{kept}{more}{resume}", err=True)
            return INTERRUPTED
        failed = [entry for entry in self.entries if entry.exit_code]
        outside = None if self.gamma is None else self.gamma.error()
        if not failed and outside is not None:
            raise outside
        if not failed:
            return 0
        errors = [_error_of(entry) for entry in failed]
        if len(self.entries) == 1:
            raise errors[0]
        codes = {error.exit_code for error in errors}
        text = f"{len(failed)} of {len(self.entries)} structures failed"
        if len(failed) == len(self.entries) and len(codes) == 1:
            kind = type(errors[0])
            raise kind(f"{text}; the first: {errors[0].message}", errors[0].hint)
        raise PartialFailureError(
            f"{text}: {', '.join(Path(entry.name).name for entry in failed[:5])}" + (" ..." if len(failed) > 5 else ""),
            "the table says why",
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--trajectory {folder} must be a folder for several structures: {error.strerror}", "name another"
        ) from error


def _named(error: GraceError, name: str) -> GraceError:
    """The same error, its message beginning with the structure it is about."""
    if not error.message.startswith(name):
        named = type(error)(f"{name}: {error.message}", error.hint)
        named.__cause__ = error.__cause__
        return named
    return error


def _error_of(entry: Entry) -> GraceError:
    """The error that a structure ends with."""
    if entry.error is not None:
        return entry.error
    assert entry.result is not None
    try:
        entry.result.raise_for_status()
    except GraceError as error:
        written = f"; the last good geometry is in {entry.target.path}" if entry.target else ""
        return type(error)(f"{entry.name}: {error.message}{written}", error.hint)
    raise AssertionError(entry.result.status)


class _Watcher:
    """Sees every step: trajectory, and a line of progress on stderr."""

    def __init__(self, name: str, settings: RelaxSettings, trajectory: TrajectoryWriter | None) -> None:
        self.name = name
        self.trajectory = trajectory
        self._live = sys.stderr.isatty() and verbosity() >= 0
        self._lines = not self._live and verbosity() >= 1
        self._shown = False

    def __call__(self, step: RelaxStep) -> None:
        """Record one step."""
        if self.trajectory is not None:
            self.trajectory.append(step.atoms, structure=self.name, step=step.number)
        if not (self._live or self._lines):
            return
        name = Path(self.name).name
        text = f"{name}  step {step.number:4d}  energy {step.energy:.6f} eV  fmax {step.max_force:.4f} eV/Å"
        if step.max_stress is not None:
            text += f"  smax {step.max_stress:.4f} GPa"
        if self._live:
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)
            self._shown = True
        else:
            click.echo(text, err=True)

    def close(self) -> None:
        """Clear the line."""
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, which batch systems send at the time limit, ends a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def report_statistics(calculator: GraceCalculator) -> None:
    """Engine counters under ``-v``."""
    if verbosity() < 1:
        return
    parts = [
        f"{key.replace('_', ' ')} {value:.3f}" if isinstance(value, float) else f"{key.replace('_', ' ')} {value}"
        for key, value in calculator.statistics().items()
    ]
    note(f"engine: {', '.join(parts)}")
