"""The work of ``grace md``: start, resume or only analyse a run; print the card, choose the exit code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gracecli.cli.md_live import LiveLine
from gracecli.cli.md_model import identity_of, same_model
from gracecli.cli.md_options import settings_from, steps_from
from gracecli.cli.md_process import running, stoppable
from gracecli.cli.output import emit_json, json_text, note, warn
from gracecli.cli.relax import make_calculator
from gracecli.cli.relax_job import report_statistics
from gracecli.errors import GraceError, InputError, PhysicsError, UsageError
from gracecli.run.work import EngineChoice

if TYPE_CHECKING:
    from gracecli.engine.calculator import GraceCalculator
    from gracecli.run.md import Outcome, Simulation
    from gracecli.run.md_checkpoint import Checkpoint
    from gracecli.run.md_files import MdFiles
    from gracecli.run.md_result import MdResult
    from gracecli.run.md_settings import MdSettings
    from gracecli.run.structures import Structure

SCHEMA, SCHEMA_VERSION = "gracecli.md", 1
INTERRUPTED = 130


@dataclass
class Ended:
    """How one run ended.

    Attributes
    ----------
    document : dict or None
        What ``--json`` prints; None where the run did not get that far.
    error : GraceError or None
    interrupted : str
        What to type to go on; empty when the run was not interrupted.
    """

    document: dict[str, Any] | None = None
    error: GraceError | None = None
    interrupted: str = ""


def start(options: dict[str, Any], given: set[str]) -> int:
    """New runs, one after the other."""
    from gracecli.run.structures import read_structures

    found: list[tuple[str, Structure | GraceError]] = []
    for argument in options["structures"]:
        try:
            found += [(argument, item) for item in read_structures(argument)]
        except GraceError as error:
            found.append((argument, error))
    if len(found) != 1:
        from gracecli.cli.md_many import run_all

        return run_all(found, options, given)
    ((_, structure),) = found
    if isinstance(structure, GraceError):
        raise structure
    return show(begin(structure, options["output"] or Path(f"{stem(structure.path)}-md"), options, given), options)


def begin(structure: Structure, folder: Path, options: dict[str, Any], given: set[str]) -> Ended:
    """One new run, or the answer of the store."""
    from gracecli.cli.md_store import RunMemory
    from gracecli.run.md import Simulation
    from gracecli.run.md_files import MdFiles
    from gracecli.run.md_gamma import GammaWatch
    from gracecli.run.md_start import start_warnings, supercell

    atoms = supercell(structure.atoms, options["supercell"] or (1, 1, 1))
    settings = settings_from(options, given, atoms.numbers)
    warnings = [*structure.notes, *start_warnings(atoms, settings)]
    if atoms.has("momenta") and not options["keep_velocities"]:
        warnings.append("the velocities in the file are replaced by drawn ones; --keep-velocities keeps them")
    for text in warnings:
        warn(text)
    choice = EngineChoice.of(options["model"], options["engine"], options["precision"], options["engine_option"])
    memory = RunMemory(options["store"], options["rerun"])
    known = memory.find(choice, options, settings, atoms)
    if known is not None and _answers(known, options["max_gamma"]):
        return Ended({**known, "name": structure.name})
    files = MdFiles(folder)
    with running(files, create=True):
        files.prepare(options["force"])
        calculator = make_calculator(choice, options["model"])
        watch = GammaWatch.of(calculator, options["max_gamma"], options["collect_gamma"])
        watch.arm(True)
        simulation = Simulation.begin(atoms, calculator, settings, options["keep_velocities"])
        simulation.watch = watch
        simulation.calculator = identity_of(calculator, options["model"], options["engine_option"])
        drawn = options["seed"] is None
        simulation.origin = {
            "name": structure.name, "warnings": warnings, "seed_drawn": drawn, "first_step": 0,
            "keep_velocities": options["keep_velocities"], "store": memory.remember(files, atoms),
        }  # fmt: skip
        note(f"seed {settings.seed}{' (drawn)' if drawn else ''}")
        try:
            watch.look(simulation)  # a start beyond the limit leaves nothing to keep
        except PhysicsError:
            watch.collector.flush()
            raise
        return _run(simulation, files, calculator, options, None)


def _answers(known: dict[str, Any], limit: float | None) -> bool:
    """Whether a stored run also keeps within ``--max-gamma``."""
    graded = known.get("extrapolation")
    return limit is None or (graded is not None and graded["gamma"] <= limit)


def resume(options: dict[str, Any]) -> int:
    """Go on from a checkpoint, perhaps further than first asked for."""
    from gracecli.run.md import Simulation
    from gracecli.run.md_checkpoint import load_checkpoint
    from gracecli.run.md_files import MdFiles
    from gracecli.run.md_gamma import GammaWatch

    path: Path = options["resume"]
    files = MdFiles(path if path.is_dir() else path.parent)
    if path.is_file() and path.name != files.checkpoint.name:
        raise InputError(f"{path} is not a checkpoint", f"name {files.checkpoint}, or its folder")
    with running(files, create=False):
        state = load_checkpoint(files.checkpoint)
        settings = state.settings.continued(steps_from(options, state.settings.timestep, state.settings.steps))
        if settings.steps < state.step:
            raise UsageError(f"the run has done {state.step} steps, more than the {settings.steps} asked for")
        calculator = same_model(state.calculator)
        simulation = Simulation.resume(state, calculator, settings)
        before = state.origin.get("gamma")
        simulation.watch = GammaWatch.of(calculator, options["max_gamma"], options["collect_gamma"], before)
        note(f"resumed after {state.step} of {settings.steps} steps")
        return show(_run(simulation, files, calculator, options, state), options)


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
    return show(_finish(result, str(path), folder, {}, options), options)


def _run(
    simulation: Simulation,
    files: MdFiles,
    calculator: GraceCalculator,
    options: dict[str, Any],
    resumed: Checkpoint | None,
) -> Ended:
    """The steps, then the analysis."""
    from gracecli.cli.md_store import record_run
    from gracecli.run.md import run
    from gracecli.run.md_files import FileRecorder, write_structure
    from gracecli.run.md_result import Run, analyse

    settings = simulation.settings
    recorder = FileRecorder(files, simulation.system.atoms, settings, resumed)
    live = LiveLine(settings, simulation.step)
    try:
        with stoppable() as wanted:
            outcome = run(simulation, recorder, live, wanted.is_set)
        if outcome.status in ("exploded", "extrapolated"):
            recorder.explosion()
    finally:
        live.close()
        recorder.close()
        if simulation.watch is not None:
            simulation.watch.arm(False)
            simulation.watch.collector.flush()
    report_statistics(calculator)
    name = str(simulation.origin.get("name", ""))
    if outcome.status == "interrupted":
        return Ended(interrupted=f"{outcome.message}; resume with: grace md --resume {files.folder}")
    if outcome.status == "finished":
        write_structure(files.final, simulation.system.to_atoms())
    facts = Run(
        outcome.status, outcome.message, str(simulation.calculator.get("model_name", "")), settings, outcome.step,
        outcome.seconds, speed(outcome, settings), tuple(simulation.origin.get("warnings", ())),
    )  # fmt: skip
    trajectory = files.trajectory if settings.trajectory_every else None
    result = analyse(facts, files.log, trajectory, simulation.system.atoms)
    watch = simulation.watch
    extra = {
        "extrapolation": None if watch is None else watch.document(settings.thermo_every),
        "seed_drawn": simulation.origin.get("seed_drawn", False),
        "files": {
            "folder": str(files.folder),
            "trajectory": str(files.trajectory) if trajectory else None,
            "log": str(files.log),
            "checkpoint": str(files.checkpoint),
            "final": str(files.final if outcome.status == "finished" else files.last_good),
        },
    }
    ended = _finish(result, name, files.folder, extra, options, files.result)
    record_run(simulation, files, ended)
    return ended


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
) -> Ended:
    """Pictures and document; the error that the result stands for."""
    from gracecli.files import write_text_atomically
    from gracecli.run.extrapolation import ADVICE
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
    try:
        result.raise_for_status(options["strict"])
    except PhysicsError as error:
        if result.status not in ("exploded", "extrapolated"):
            return Ended(document, error)
        advice = ADVICE if result.status == "extrapolated" else "try a smaller --timestep"
        hint = f"the last good structure is {extra['files']['final']}; {error.hint or advice}"
        return Ended(document, PhysicsError(error.message, hint))
    return Ended(document)


def show(ended: Ended, options: dict[str, Any]) -> int:
    """Print one run; its exit code, or the error that carries it."""
    from gracecli.cli.md_tables import md_card
    from gracecli.run.md_result import UNITS

    if ended.interrupted:
        click.echo(f"grace: {ended.interrupted}", err=True)
        return INTERRUPTED
    if ended.document is not None and options["as_json"]:
        emit_json(SCHEMA, SCHEMA_VERSION, ended.document, UNITS)
    elif ended.document is not None:
        click.echo(md_card(ended.document))
    if ended.error is not None:
        raise ended.error
    return 0


def stem(path: Path) -> str:
    """Name of a file without its endings."""
    name = path.name
    for suffix in (".gz", ".bz2", ".xz"):
        name = name.removesuffix(suffix)
    return Path(name).stem if Path(name).suffix else name
