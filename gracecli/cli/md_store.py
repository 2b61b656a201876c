"""Runs of ``grace md`` in a store: looked up before the first step, recorded after the last.

The store is open for these moments alone, not for the hours between. A run that is killed and resumed is recorded by
the resume: the checkpoint remembers the store, the folder the structure that the run began with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from gracecli.cli.many import Memory
from gracecli.cli.output import plain, warn
from gracecli.errors import GraceError
from gracecli.run.work import EngineChoice

if TYPE_CHECKING:
    from gracecli.cli.md_job import Ended
    from gracecli.run.md import Simulation
    from gracecli.run.md_files import MdFiles
    from gracecli.run.md_settings import MdSettings
    from gracecli.store.results import Calculation

START = "start.traj"
_BOOKKEEPING = ("thermo_every", "trajectory_every", "write_forces", "checkpoint_every")


class RunMemory:
    """The store of a run, or none.

    Parameters
    ----------
    path : Path or None
    rerun : bool
        Do not answer from it.
    """

    def __init__(self, path: Path | None, rerun: bool) -> None:
        self.path = None if path is None else path.resolve()
        self.rerun = rerun
        Memory(path, rerun)  # refuses --rerun alone

    def find(
        self, choice: EngineChoice, options: dict[str, Any], settings: MdSettings, atoms: Atoms
    ) -> dict[str, Any] | None:
        """The document of the same run, if the store has it; a drawn seed never occurs twice."""
        if self.path is None or self.rerun or options["seed"] is None or not self.path.exists():
            return None
        wanted = _calculation(choice, options["model"], settings, options["keep_velocities"])
        with Memory(self.path, False).open() as memory:
            known = memory.find(wanted, atoms)
        if known is None:
            return None
        document: dict[str, Any] = json.loads(str(known.values["document"]))
        document["files"] = {"folder": f"{self.path} (result r{known.id}, no new files)"}
        return document

    def remember(self, files: MdFiles, atoms: Atoms) -> str | None:
        """Keep beside the run what recording it will need; what the checkpoint is to remember of it."""
        if self.path is None:
            return None
        from ase.io.trajectory import Trajectory

        with Trajectory(str(files.folder / START), "w") as written:
            written.write(atoms)
        return str(self.path)


def record_run(simulation: Simulation, files: MdFiles, ended: Ended) -> None:
    """Record a finished run in the store that it was started with."""
    path, document = simulation.origin.get("store"), ended.document
    if not path or document is None or document["status"] != "finished":
        return
    from ase.io import read

    from gracecli.run.md_result import UNITS
    from gracecli.store.results import Outcome

    identity = simulation.calculator
    choice = EngineChoice.of(
        identity["model"], identity["engine"], identity["precision"], dict(identity["engine_options"])
    )
    kept = bool(simulation.origin.get("keep_velocities"))
    calculation = _calculation(choice, identity["model"], simulation.settings, kept)
    means = {key: mean["mean"] for key, mean in document["averages"].items() if mean["mean"] is not None}
    final = simulation.system.to_atoms()
    try:
        begun = read(files.folder / START)
        assert isinstance(begun, Atoms)
        values = {**means, "wall_time": document["wall_time"], "document": json.dumps(plain(document))}
        units = {key: unit for key, unit in UNITS.items() if key in values}
        name = str(simulation.origin.get("name", ""))
        with Memory(Path(str(path)), True).open() as memory:
            memory.add(Outcome(calculation, begun, values, output=final, units=units, source=name))
    except (GraceError, OSError) as error:  # the run itself is done and on the disk
        warn(f"not recorded in {path}: {error}")


def _calculation(choice: EngineChoice, given: str | None, settings: MdSettings, kept: bool) -> Calculation:
    """What was computed, without what only says how often to write."""
    content = {key: value for key, value in settings.to_dict().items() if key not in _BOOKKEEPING}
    return choice.calculation("md", given, {**content, "keep_velocities": kept})
