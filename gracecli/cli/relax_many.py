"""Many structures in one ``grace relax``: batches, processes or a cluster, a journal to resume from, the store."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gracecli.cli.many import Memory, wanted_structures
from gracecli.cli.output import note, progress, warn
from gracecli.errors import GraceError, InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from gracecli.cli.relax_job import Entry, Job
    from gracecli.run.journal import Journal
    from gracecli.run.relax import RelaxStep
    from gracecli.run.result import RelaxResult
    from gracecli.run.work import EngineChoice
    from gracecli.store.results import Calculation, Outcome

REWRITE_SECONDS = 30.0  # a file of many structures is brought up to date this often while they are being relaxed
CHUNK_ATOMS, CHUNK_STRUCTURES = 800, 32


def settings_of(job: Job) -> dict[str, Any]:
    """What of the settings changes the result."""
    return job.settings.to_dict()


def answer(entries: Sequence[Entry], calculation: Calculation, memory: Memory, journal: Journal | None) -> list[Entry]:
    """Take what the journal and the store hold; the entries left to be relaxed."""
    from gracecli.run.result import RelaxResult

    left = []
    for entry in entries:
        assert entry.structure is not None
        atoms, settings = entry.structure.atoms, entry.settings
        resumed = journal.result(atoms, settings) if journal is not None else None
        if resumed is not None:
            entry.result, entry.source = resumed, "resumed"
            continue
        found = memory.find(calculation, atoms)
        if found is None or found.output is None or "document" not in found.values:
            left.append(entry)
            continue
        output = found.output
        output.set_constraint(atoms.constraints)
        entry.result = RelaxResult.from_dict(json.loads(found.values["document"]), output, settings)
        entry.source, entry.stored = "store", found.id
    return left


def outcome(entry: Entry, calculation: Calculation) -> Outcome:
    """The result as the store records it."""
    from gracecli.run.result import UNITS
    from gracecli.store.results import Outcome

    assert entry.structure is not None
    assert entry.result is not None
    result = entry.result
    final = result.final
    values = {
        "status": result.status,
        "energy": final.energy,
        "energy_per_atom": final.energy_per_atom,
        "max_force": final.max_force,
        "volume": final.volume,
        "steps": result.steps,
        "force_calls": result.force_calls,
        "wall_time": result.wall_time,
        "document": json.dumps(result.to_dict()),
    }
    units = {name: UNITS[name] for name in values if name in UNITS}
    parent = entry.structure.atoms
    return Outcome(
        calculation, parent, values, result.atoms, entry.exit_code, result.message, units, str(entry.structure.path)
    )


def relax_entries(
    job: Job, entries: Sequence[Entry], choice: EngineChoice, label: str, options: Spread, observer: Trajectories
) -> Generator[tuple[Any, Any], None, None]:
    """Relax the entries in the way asked for: (place in ``entries``, result or error) as they finish."""
    from gracecli.run.batch_evaluate import Budget
    from gracecli.run.batch_relax import relax_many
    from gracecli.run.spread import spread
    from gracecli.run.work import RelaxWork, chunks_of, relax_chunk

    inputs = [(i, entry.structure.atoms) for i, entry in enumerate(entries) if entry.structure is not None]
    wanted = wanted_structures(options.batch)
    if options.spreads:
        work = RelaxWork(choice, job.settings, label, wanted)
        each = max(1, sum(len(atoms) for _, atoms in inputs) // (4 * options.jobs))
        chunks = chunks_of(inputs, min(CHUNK_ATOMS, each), CHUNK_STRUCTURES)
        yield from spread(relax_chunk, work, chunks, jobs=options.jobs, dask=options.dask)
    else:
        yield from relax_many(
            inputs,
            choice.create(),
            job.settings,
            model=label,
            budget=Budget.of_machine(wanted),
            observer=observer if observer.wanted else None,
        )


class Spread:
    """How the work is spread: ``--batch``, ``--jobs``, ``--dask``."""

    def __init__(self, batch: str, jobs: int, dask: str | None) -> None:
        if jobs > 1 and dask is not None:
            raise UsageError("--jobs and --dask exclude each other", "a Dask cluster has its own processes")
        self.batch, self.jobs, self.dask = batch, jobs, dask

    @property
    def spreads(self) -> bool:
        """Whether other processes do the work."""
        return self.jobs > 1 or self.dask is not None

    def is_many(self, job: Job) -> bool:
        """Whether this module relaxes the structures (else one after the other, by any optimizer)."""
        if self.spreads:
            if any(entry.trajectory for entry in job.entries):
                raise UsageError("--trajectory cannot be combined with --jobs or --dask", "use --batch alone")
            return True
        few = self.batch == "off" or (self.batch == "auto" and len(job.runnable) < 2)
        return not few and job.settings.optimizer in ("lbfgs", "fire") and not job.settings.fix_symmetry


class Trajectories:
    """Trajectory files of the structures in work."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.wanted = any(entry.trajectory for entry in entries)
        self._writers: dict[int, Any] = {}

    def __call__(self, key: Hashable, step: RelaxStep) -> None:
        """Record one step."""
        from gracecli.run.outputs import TrajectoryWriter

        assert isinstance(key, int)
        entry = self.entries[key]
        if key not in self._writers:
            assert entry.trajectory is not None
            self._writers[key] = TrajectoryWriter(entry.trajectory)
        self._writers[key].append(step.atoms, structure=entry.name, step=step.number)

    def close(self, key: int) -> None:
        """A structure is done."""
        if key in self._writers:
            self._writers.pop(key).close()

    def close_all(self) -> None:
        """The run is over."""
        for key in list(self._writers):
            self.close(key)


def run_many(
    job: Job,
    choice: EngineChoice,
    label: str,
    options: Spread,
    record: Recording,
) -> None:
    """Relax all runnable entries, and write what is finished as it comes."""
    from gracecli.run.spread import WorkerLost

    left = record.start(job)
    writer, trajectories = _Writer(job), Trajectories(left)
    bar = progress(total=len(job.runnable), description="relaxing", unit="structure")
    bar.update(len(job.runnable) - len(left))
    results = relax_entries(job, left, choice, label, options, trajectories)

    def take(key: int, result: RelaxResult | GraceError) -> None:
        entry = left[key]
        trajectories.close(key)
        if isinstance(result, GraceError):
            entry.error = _named(result, entry.name)
            if isinstance(result, WorkerLost):
                warn(entry.error.message)
        else:
            entry.result = result
            record.add(entry)
        bar.update(1)

    try:
        for key, result in results:
            take(key, result)
            writer.write_sometimes()
    except KeyboardInterrupt:
        job.interrupted = True
        for key, result in _rest(results):
            take(key, result)
    finally:
        bar.close()
        trajectories.close_all()
        writer.write_all()


def _rest(results: Generator[tuple[Any, Any], None, None]) -> Iterator[tuple[Any, Any]]:
    """What was in work when Ctrl-C came (here or in the generator, which then is at its end)."""
    try:
        yield results.throw(KeyboardInterrupt())
        yield from results
    except (KeyboardInterrupt, StopIteration):
        return


class _Writer:
    """Brings output files up to date."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.written = time.monotonic()
        self.state: dict[int, int] = {}

    def write_sometimes(self) -> None:
        """Write complete files at once, the others every :data:`REWRITE_SECONDS`."""
        due = time.monotonic() - self.written > REWRITE_SECONDS
        self._write(complete_only=not due)
        if due:
            self.written = time.monotonic()

    def write_all(self) -> None:
        """Write everything there is."""
        self._write(complete_only=False)

    def _write(self, complete_only: bool) -> None:
        groups: dict[int, list[Entry]] = {}
        for entry in self.job.runnable_or_failed:
            groups.setdefault(id(entry.target), []).append(entry)
        for key, group in groups.items():
            results = [entry for entry in group if entry.result is not None]
            done = [entry for entry in group if entry.result is not None or entry.error is not None]
            if not results or self.state.get(key) == len(results) or (complete_only and len(done) < len(group)):
                continue
            self.job.write(group[0].target)
            self.state[key] = len(results)


class Recording:
    """Journal and store of one run."""

    def __init__(self, calculation: Calculation, memory: Memory, journal: Journal | None) -> None:
        self.calculation, self.memory, self.journal = calculation, memory, journal

    def start(self, job: Job) -> list[Entry]:
        """Take what is known; the entries left."""
        left = answer(job.runnable, self.calculation, self.memory, self.journal)
        if self.journal is not None:
            self.journal.start(keep=True)
        known = [entry.source for entry in job.runnable if entry.source != "computed"]
        for source, text in (("resumed", "finished before"), ("store", "answered from the store")):
            if source in known:
                note(f"{known.count(source)} of {len(job.runnable)} structures {text}")
        return left

    def add(self, entry: Entry) -> None:
        """Note a finished structure."""
        assert entry.result is not None
        assert entry.structure is not None
        if entry.result.status == "interrupted":
            return
        if self.journal is not None:
            self.journal.add(entry.structure.atoms, entry.result)
        self.memory.add(outcome(entry, self.calculation))


def open_journal(job: Job, calculation: Calculation, resume: bool, force: bool) -> Journal | None:
    """The journal of a run over several structures.

    Raises
    ------
    InputError
        An unfinished run is recorded, and neither ``--resume`` nor ``--force`` was given; or it computed other things.
    """
    from gracecli.run.journal import Journal, journal_path

    targets = [entry.target.path for entry in job.runnable if entry.target is not None]
    if len(job.runnable) < 2:
        return None
    journal = Journal(journal_path(targets), calculation)
    if not journal.done:
        return journal
    if not resume:
        if force:
            journal.done = {}
            return journal
        raise InputError(
            f"a run of these structures was stopped after {len(journal.done)} of {len(job.runnable)}",
            "--resume goes on with it, --force begins anew",
        )
    if not journal.same:
        raise InputError(
            "the run that was stopped had another model or other settings", "repeat them, or begin anew with --force"
        )
    return journal


def _named(error: GraceError, name: str) -> GraceError:
    """The same error, its message beginning with the structure it is about."""
    if error.message.startswith(name):
        return error
    named = type(error)(f"{name}: {error.message}", error.hint)
    named.__cause__ = error.__cause__
    return named
