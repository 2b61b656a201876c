"""Small labelled sets from ASE's EMT, and a model small enough to compile in seconds."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gracecli.fit.workers.team import Team, WorkerLostError

TINY = {
    "lmax": 1, "order": 2, "n_radial": 4, "n_product": 4, "n_density": 3, "n_basis": 5,
    "hidden": [8], "readout_hidden": [8], "embedding": 4,
}  # fmt: skip
CUTOFF = 3.6


def make_structures(count: int, seed: int, symbols: tuple[str, ...] = ("Cu",)) -> list:
    """Rattled, strained fcc cells of 4 atoms, labelled by EMT; some are alloys when two symbols are given."""
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator

    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols = rng.choice(symbols, size=4)
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.1, size=(4, 3))
        atoms.calc = EMT()
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
        atoms.info["config_type"] = "even" if number % 2 == 0 else "odd"
        found.append(atoms)
    return found


@pytest.fixture(scope="session")
def copper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 structures of Cu."""
    return write(tmp_path_factory.mktemp("data") / "copper.extxyz", make_structures(24, seed=3))


@pytest.fixture(scope="session")
def alloy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 structures of Cu, Ag and both."""
    return write(tmp_path_factory.mktemp("data") / "alloy.extxyz", make_structures(16, seed=4, symbols=("Cu", "Ag")))


@pytest.fixture(scope="session")
def emt_structures():
    """``emt_structures(count, seed, symbols)``."""
    return make_structures


def write(path: Path, structures: list) -> Path:
    import ase.io

    ase.io.write(path, structures, format="extxyz")
    return path


@pytest.fixture(scope="session")
def settings():
    """Settings of a tiny fit, as plain values: ``settings(path, directory, **training)``."""
    return tiny_settings


def tiny_settings(path: Path, directory: Path, **training) -> dict:
    """Settings of a tiny fit, as plain values."""
    return {
        "data": {"train": [str(path)], "valid_fraction": 0.2},
        "model": {"preset": "1l-small", "cutoff": CUTOFF, "overrides": dict(TINY)},
        "training": {"epochs": 3, "batch_atoms": 16, "learning_rate": 0.01, **training},
        "output": {"directory": str(directory), "gamma": False},  # see test_training_grade.py
    }


class ThreadTeam(Team):
    """Workers that are threads of one process; ``lose(n)``: the n-th gather from now on fails."""

    def __init__(self, rank: int, blocks: list, barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, len(blocks)
        self._blocks, self._barrier = blocks, barrier
        self._left = -1

    def lose(self, gathers: int) -> None:
        self._left = gathers

    def gather(self, block):
        self._left -= 1
        if self._left == 0:
            self._barrier.abort()
        try:
            self._blocks[self.rank] = block
            self._barrier.wait(60)
            found = np.stack(self._blocks)
            self._barrier.wait(60)
        except threading.BrokenBarrierError as error:
            raise WorkerLostError("a worker is gone", "continue with --resume") from error
        return found


def teams(size: int) -> list[ThreadTeam]:
    blocks, barrier = [None] * size, threading.Barrier(size)
    return [ThreadTeam(rank, blocks, barrier) for rank in range(size)]


@pytest.fixture(scope="session")
def thread_teams():
    """``thread_teams(size)``: connected workers, to be used by a thread each."""
    return teams


@pytest.fixture(scope="session")
def together():
    """``together(settings, size, change)``: results (or what was raised) of every worker of a fit."""
    from gracecli.fit.config_read import make_config
    from gracecli.fit.trainer import Trainer

    def run(content, size: int, change=lambda trainer: None, **options) -> list:
        def work(team: ThreadTeam):
            try:
                trainer = Trainer(make_config(content) if isinstance(content, dict) else content, team=team, **options)
                change(trainer)
                return trainer.run()
            except Exception as error:
                return error

        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(work, teams(size)))

    return run
