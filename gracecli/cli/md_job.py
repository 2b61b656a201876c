"""The work of ``grace md``: start, resume or only analyse a run; print the card, choose the exit code."""

from __future__ import annotations

import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import filelock

from gracecli.cli.md_live import LiveLine
from gracecli.cli.md_model import identity_of, make_calculator, same_model
from gracecli.cli.output import emit_json, json_text, note, warn
from gracecli.cli.relax_job import report_statistics
from gracecli.errors import InputError, PhysicsError, UsageError

if TYPE_CHECKING:
    from gracecli.engine.calculator import GraceCalculator
    from gracecli.run.md import Outcome, Simulation
    from gracecli.run.md_checkpoint import Checkpoint
    from gracecli.run.md_files import MdFiles
    from gracecli.run.md_result import MdResult
    from gracecli.run.md_settings import MdSettings

SCHEMA, SCHEMA_VERSION = "gracecli/md", 1
INTERRUPTED = 130
LARGEST_SEED = 2**32


def start(options: dict[str, Any], given: set[str]) -> int:
    """A new run."""
    from gracecli.run.md import Simulation
    from gracecli.run.md_files import MdFiles
    from gracecli.run.md_start import start_warnings, supercell
    from gracecli.run.structures import read_structures

    found = read_structures(options["structure"])
    if len(found) != 1:
        raise InputError(
            f"{options['structure']} holds {len(found)} structures",
            f"choose one: {options['structure']}@0 is the first",
        )
    (structure,) = found
    if isinstance(structure, Exception):
        raise structure
    atoms = supercell(structure.atoms, options["supercell"] or (1, 1, 1))
    settings = settings_from(options, given, atoms.numbers)
    warnings = [*structure.notes, *start_warnings(atoms, settings)]
    if atoms.has("momenta") and not options["keep_velocities"]:
        warnings.append("the velocities in the file are replaced by drawn ones; --keep-velocities keeps them")
    for text in warnings:
        warn(text)
    files = MdFiles(options["output"] or Path(f"{_stem(structure.path)}-md"))
    with running(files, create=True):
        files.prepare(options["force"])
        calculator = make_calculator(
            options["model"], options["engine"], options["precision"], options["engine_option"]
        )
        simulation = Simulation.begin(atoms, calculator, settings, options["keep_velocities"])
        simulation.calculator = identity_of(calculator, options["model"], options["engine_option"])
        drawn = options["seed"] is None
        simulation.origin = {
            "name": structure.name, "warnings": warnings, "seed_drawn": drawn, "first_step": 0,
        }  # fmt: skip
        note(f"seed {settings.seed}{' (drawn)' if drawn else ''}")
        return _run(simulation, files, calculator, options, None)


def resume(options: dict[str, Any]) -> int:
    """Go on from a checkpoint, perhaps further than first asked for."""
    from gracecli.run.md import Simulation
    from gracecli.run.md_checkpoint import load_checkpoint
    from gracecli.run.md_files import MdFiles

    path: Path = options["resume"]
    files = MdFiles(path if path.is_dir() else path.parent)
    if path.is_file() and path.name != files.checkpoint.name:
        raise InputError(f"{path} is not a checkpoint", f"name {files.checkpoint}, or its folder")
    with running(files, create=False):
        state = load_checkpoint(files.checkpoint)
        settings = state.settings.continued(_steps(options, state.settings.timestep, state.settings.steps))
        if settings.steps < state.step:
            raise UsageError(f"the run has done {state.step} steps, more than the {settings.steps} asked for")
        calculator = same_model(state.calculator)
        simulation = Simulation.resume(state, calculator, settings)
        note(f"resumed after {state.step} of {settings.steps} steps")
        return _run(simulation, files, calculator, options, state)


def analyse_only(options: dict[str, Any]) -> int:
    """Analyse what is there."""
    from dataclasses import replace

    from gracecli.run.md_checkpoint import load_checkpoint
    from gracecli.run.md_files import MdFiles
    from gracecli.run.md_result import Run, analyse
    from gracecli.run.md_settings import parse_time

    path: Path = options["analyse"]
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    files = MdFiles(path if path.is_dir() else path.parent)
    own = path.is_dir() or (path.name == files.trajectory.name and files.checkpoint.is_file())
    run, log, trajectory, structure = Run(), None, path if path.is_file() else None, None
    if own:
        state = load_checkpoint(files.checkpoint)
        settings = state.settings
        if options["equilibration"] is not None:
            settings = replace(settings, equilibration=parse_time(options["equilibration"]))
        model = str(state.calculator.get("model_name", ""))
        run = Run(model=model, settings=settings, steps=state.step, wall_time=state.seconds)
        log, structure = files.log, state.atoms
        trajectory = files.trajectory if settings.trajectory_every else None
    result = analyse(run, log, trajectory, structure)
    folder: Path | None = options["output"] or (files.folder if own else None)
    return _finish(result, str(path), folder, {}, options)


def settings_from(options: dict[str, Any], given: set[str], numbers: Any) -> MdSettings:
    """Settings of the options; contradictions are errors."""
    from gracecli.run.md import find_ensemble
    from gracecli.run.md_settings import (
        ALIASES,
        MdSettings,
        default_thermostat_time,
        default_timestep,
        parse_temperature,
        parse_time,
    )

    ensemble = ALIASES.get(options["ensemble"], options["ensemble"])
    find_ensemble(ensemble)
    first, last = parse_temperature(options["temperature"])
    timestep = default_timestep(numbers) if options["timestep"] is None else options["timestep"]
    if not timestep > 0:
        raise UsageError(f"the timestep must be positive, not {timestep}")
    if ensemble == "nve" and first != last:
        raise UsageError("nve has no thermostat that could follow a ramp", "--ensemble nvt")
    for name, applies in (
        ("pressure", ensemble.startswith("npt")),
        ("barostat_time", ensemble.startswith("npt")),
        ("thermostat_time", ensemble != "nve"),
        ("bulk_modulus", ensemble == "npt-berendsen"),
        ("chain_length", ensemble in ("nvt-nhc", "npt-mtk", "npt-mtk-iso")),
    ):
        if name in given and not applies:
            raise UsageError(f"--{name.replace('_', '-')} has no effect with --ensemble {ensemble}")
    steps = _steps(options, timestep, 1000)
    equilibration = None if options["equilibration"] is None else parse_time(options["equilibration"])
    return MdSettings(
        ensemble=ensemble,
        temperature=first,
        temperature_end=last,
        pressure=options["pressure"],
        timestep=timestep,
        steps=steps,
        ramp_steps=steps if first != last else 0,
        seed=secrets.randbelow(LARGEST_SEED) if options["seed"] is None else options["seed"],
        thermostat_time=options["thermostat_time"] or default_thermostat_time(ensemble),
        barostat_time=options["barostat_time"],
        chain=options["chain_length"],
        bulk_modulus=options["bulk_modulus"],
        thermo_every=options["thermo_every"],
        trajectory_every=options["trajectory_every"],
        write_forces=options["write_forces"],
        checkpoint_every=options["checkpoint_every"],
        equilibration=equilibration,
        min_distance=options["min_distance"],
        max_temperature=options["max_temperature"],
    )


def _steps(options: dict[str, Any], timestep: float, default: int) -> int:
    from gracecli.run.md_settings import parse_time

    if options["time"] is not None:
        return max(1, round(parse_time(options["time"]) / timestep))
    return default if options["steps"] is None else int(options["steps"])


def _run(
    simulation: Simulation,
    files: MdFiles,
    calculator: GraceCalculator,
    options: dict[str, Any],
    resumed: Checkpoint | None,
) -> int:
    """The steps, then the analysis."""
    from gracecli.run.md import run
    from gracecli.run.md_files import FileRecorder, write_structure
    from gracecli.run.md_result import Run, analyse

    settings = simulation.settings
    recorder = FileRecorder(files, simulation.system.atoms, settings, resumed)
    live = LiveLine(settings, simulation.step)
    try:
        with stoppable() as wanted:
            outcome = run(simulation, recorder, live, wanted.is_set)
        if outcome.status == "exploded":
            recorder.explosion()
    finally:
        live.close()
        recorder.close()
    report_statistics(calculator)
    name = str(simulation.origin.get("name", ""))
    if outcome.status == "interrupted":
        click.echo(f"grace: {outcome.message}; resume with: grace md --resume {files.folder}", err=True)
        return INTERRUPTED
    if outcome.status == "finished":
        write_structure(files.final, simulation.system.to_atoms())
    facts = Run(
        outcome.status, outcome.message, str(simulation.calculator.get("model_name", "")), settings, outcome.step,
        outcome.seconds, speed(outcome, settings), tuple(simulation.origin.get("warnings", ())),
    )  # fmt: skip
    trajectory = files.trajectory if settings.trajectory_every else None
    result = analyse(facts, files.log, trajectory, simulation.system.atoms)
    extra = {
        "seed_drawn": simulation.origin.get("seed_drawn", False),
        "files": {
            "folder": str(files.folder),
            "trajectory": str(files.trajectory) if trajectory else None,
            "log": str(files.log),
            "checkpoint": str(files.checkpoint),
            "final": str(files.final if outcome.status == "finished" else files.last_good),
        },
    }
    return _finish(result, name, files.folder, extra, options, files.result)


def speed(outcome: Outcome, settings: MdSettings) -> float:
    """ns/day of the steps of this call."""
    return 86400.0 * outcome.steps_now * settings.timestep * 1e-6 / max(outcome.seconds_now, 1e-9)


def _finish(
    result: MdResult,
    name: str,
    folder: Path | None,
    extra: dict[str, Any],
    options: dict[str, Any],
    document_path: Path | None = None,
) -> int:
    """Pictures, document, card, exit code."""
    from gracecli.cli.md_tables import md_card
    from gracecli.files import write_text_atomically
    from gracecli.run.md_plots import write_curves, write_pictures
    from gracecli.run.md_result import UNITS

    document = {"name": name, **result.to_dict(), **extra}
    del document["_units"]
    written: list[Path] = []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        written = write_curves(result, folder) + (write_pictures(result, folder) if options["plots"] else [])
        document["files"] = {**document.get("files", {}), "written": [str(path) for path in written]}
    if document_path is not None:
        write_text_atomically(document_path, json_text(SCHEMA, SCHEMA_VERSION, document, UNITS) + "\n")
    if options["as_json"]:
        emit_json(SCHEMA, SCHEMA_VERSION, document, UNITS)
    else:
        click.echo(md_card(document))
    try:
        result.raise_for_status(options["strict"])
    except PhysicsError as error:
        if result.status == "exploded":
            hint = f"the last good structure is {extra['files']['final']}; {error.hint or 'try a smaller --timestep'}"
            raise PhysicsError(error.message, hint) from error
        raise
    return 0


@contextmanager
def running(files: MdFiles, create: bool) -> Iterator[None]:
    """One process at a time in a folder; the lock goes with its process."""
    if create:
        try:
            files.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write to {files.folder}: {error.strerror}", "choose another -o/--output"
            ) from error
    elif not files.folder.is_dir():
        raise InputError(f"nothing to resume: {files.folder} does not exist", "name the folder of a run")
    lock = filelock.FileLock(files.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise InputError(
            f"another process is running in {files.folder}", "name another -o/--output, or wait"
        ) from error
    except OSError as error:
        raise InputError(f"cannot write to {files.folder}: {error.strerror}", "choose another -o/--output") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event, so that the step in progress ends first; a second Ctrl-C does not wait."""
    wanted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return

    def stop(number: int, _: Any) -> None:
        if wanted.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        wanted.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".gz", ".bz2", ".xz"):
        name = name.removesuffix(suffix)
    return Path(name).stem if Path(name).suffix else name
