"""The folder of a run: its files, and the recorder that keeps them in step with the checkpoint.

==================  ====================================================
``trajectory.h5md``  frames (:mod:`gracecli.run.md_trajectory`)
``thermo.csv``       rows (:mod:`gracecli.run.md_log`)
``checkpoint.npz``   what ``--resume`` goes on from
``final.extxyz``     last structure with velocities and forces
``result.json``      the document that ``--json`` prints
``*.png``, ``*.csv``  pictures and curves of the analysis
==================  ====================================================
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from ase import Atoms

from gracecli.errors import InputError
from gracecli.files import write_text_atomically
from gracecli.run.md_checkpoint import Checkpoint, save_checkpoint
from gracecli.run.md_log import LogWriter, Sample
from gracecli.run.md_settings import MdSettings
from gracecli.run.md_system import System
from gracecli.run.md_trajectory import TrajectoryWriter

PICTURES = (
    "thermo.png", "rdf.png", "msd.png", "vdos.png", "rdf.csv", "msd.csv", "vacf.csv", "vdos.csv",
)  # fmt: skip


@dataclass(frozen=True)
class MdFiles:
    """Paths in the folder of a run."""

    folder: Path

    @property
    def trajectory(self) -> Path:
        """H5MD."""
        return self.folder / "trajectory.h5md"

    @property
    def log(self) -> Path:
        """CSV."""
        return self.folder / "thermo.csv"

    @property
    def checkpoint(self) -> Path:
        """What a run is resumed from."""
        return self.folder / "checkpoint.npz"

    @property
    def final(self) -> Path:
        """Last structure."""
        return self.folder / "final.extxyz"

    @property
    def last_good(self) -> Path:
        """Last structure before an explosion."""
        return self.folder / "last-good.extxyz"

    @property
    def result(self) -> Path:
        """JSON document."""
        return self.folder / "result.json"

    def all(self) -> list[Path]:
        """Everything a run may write."""
        own = [self.trajectory, self.log, self.checkpoint, self.final, self.last_good, self.result]
        return [*own, *(self.folder / name for name in PICTURES)]

    def prepare(self, force: bool) -> None:
        """Make the folder, and clear the files of an earlier run if ``force``.

        Raises
        ------
        InputError
            There is a run already (without ``force``), or the folder cannot be written.
        """
        present = [path for path in self.all() if path.exists()]
        if present and not force:
            raise InputError(
                f"{self.folder} holds a run already ({present[0].name})",
                f"--resume {self.folder} continues it, --force replaces it, -o names another folder",
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
            for path in [self.checkpoint, *present]:  # the checkpoint first: without it nothing is resumed by mistake
                path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write to {self.folder}: {error.strerror}", "choose another place with -o/--output"
            ) from error


class FileRecorder:
    """Writes rows at once, frames and checkpoints together.

    Parameters
    ----------
    files : MdFiles
    atoms : Atoms
        Elements, masses, periodicity.
    settings : MdSettings
    resumed : Checkpoint or None
        Where the files are to be cut.
    """

    def __init__(self, files: MdFiles, atoms: Atoms, settings: MdSettings, resumed: Checkpoint | None = None) -> None:
        self.files = files
        self.good: Atoms | None = None
        self._trajectory: TrajectoryWriter | None = None
        if settings.trajectory_every:
            keep = None if resumed is None else resumed.frames
            self._trajectory = TrajectoryWriter(files.trajectory, atoms, settings.write_forces, keep)
        try:
            self._log = LogWriter(files.log, None if resumed is None else resumed.log_bytes)
        except InputError:
            if self._trajectory is not None:
                self._trajectory.close()
            raise

    @property
    def full(self) -> bool:
        """Whether many frames wait."""
        return self._trajectory is not None and self._trajectory.full

    def row(self, sample: Sample, system: System) -> None:
        """Append a row; its structure is good."""
        self._log.append(sample)
        self.good = system.to_atoms()

    def frame(self, sample: Sample, system: System) -> None:
        """Keep a frame."""
        if self._trajectory is not None:
            self._trajectory.append(sample=sample, system=system)

    def checkpoint(self, state: Checkpoint) -> None:
        """Bring everything to the disk, the checkpoint last."""
        if self._trajectory is not None:
            self._trajectory.sync()
        self._log.sync()
        frames = 0 if self._trajectory is None else self._trajectory.frames
        save_checkpoint(self.files.checkpoint, replace(state, frames=frames, log_bytes=self._log.bytes))

    def explosion(self) -> None:
        """Keep the last good structure, and the frames up to it."""
        if self._trajectory is not None:
            self._trajectory.sync()
        if self.good is not None:
            write_structure(self.files.last_good, self.good)

    def close(self) -> None:
        """Close the files; what came after the last checkpoint is computed again on resume."""
        self._log.close()
        if self._trajectory is not None:
            self._trajectory.close()


def write_structure(path: Path, atoms: Atoms) -> None:
    """One extxyz frame with momenta and results."""
    from gracecli.run.outputs import extxyz_text

    write_text_atomically(path, extxyz_text(atoms))
