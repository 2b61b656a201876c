"""Neighbour lists: how fast they are, and which skin is best.

Run ``python benchmarks/neighbours.py`` (about a minute; set OMP_NUM_THREADS=1 to compare with the numbers in
gracecli/engine/bonds.py and calculator.py). matscipy takes part when it is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import vesin
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE

from gracecli.engine.neighbours import NeighbourList, build_graph

CUTOFF = 6.0
SKINS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5)


def milliseconds(function: Callable[[], Any], repeats: int) -> float:
    """Best of ``repeats``."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return 1e3 * min(times)


def silicon(cells: tuple[int, int, int] | None) -> Atoms:
    """Rattled diamond, the primitive cell or a supercell of the cubic one."""
    atoms = bulk("Si", "diamond", 5.43) if cells is None else bulk("Si", "diamond", 5.43, cubic=True).repeat(cells)
    atoms.rattle(0.05, seed=1)
    return atoms


def compare_libraries() -> None:
    """Print times of the libraries and of our lists on top."""
    try:
        from matscipy.neighbours import neighbour_list
    except ImportError:
        neighbour_list = None
    print(f"diamond Si, {CUTOFF} Å, ms: bonds and shifts (vesin, matscipy); graph fresh; graph reused (skin 0.5 Å)")
    print(f"{'atoms':>6} {'bonds':>8} {'vesin':>9} {'matscipy':>9} {'fresh':>9} {'reused':>9}")
    for cells in (None, (2, 2, 2), (5, 5, 5), (10, 10, 12)):
        atoms = silicon(cells)
        repeats = 5 if len(atoms) > 2000 else 50
        finder = vesin.NeighborList(cutoff=CUTOFF, full_list=True)
        arguments = (atoms.positions, atoms.cell.array, atoms.pbc, "PS")
        times = [
            milliseconds(lambda a=arguments, f=finder: f.compute(*a), repeats),
            milliseconds(lambda a=atoms: neighbour_list("ijS", a, CUTOFF), repeats) if neighbour_list else np.nan,
            milliseconds(lambda a=atoms: build_graph(a, CUTOFF), repeats),
        ]
        reused = NeighbourList(CUTOFF, 0.5)
        reused.graph(atoms)
        times.append(milliseconds(lambda a=atoms, r=reused: r.graph(a), repeats))
        bonds = len(build_graph(atoms, CUTOFF).centre)
        print(f"{len(atoms):6d} {bonds:8d} " + " ".join(f"{t:9.3f}" for t in times), flush=True)


def dynamics(temperature: float) -> list[Atoms]:
    """Constant-energy trajectory of 256 Cu atoms (EMT) at about ``temperature`` K, every 2 fs after 0.2 ps."""
    atoms = bulk("Cu", cubic=True).repeat((4, 4, 4))
    atoms.calc = EMT()
    generator = np.random.default_rng(0)
    width = np.sqrt(atoms.get_masses() * units.kB * 2 * temperature)  # half of it goes into the potential energy
    atoms.set_momenta(generator.normal(size=(len(atoms), 3)) * width[:, None])
    run = VelocityVerlet(atoms, 2 * units.fs)
    run.run(100)
    frames: list[Atoms] = []
    run.attach(lambda: frames.append(_bare(atoms)))
    run.run(400)
    return frames


def relaxation(optimizer: type[BFGS] | type[FIRE]) -> list[Atoms]:
    """Rattled, strained Cu with a vacancy, relaxed with its cell."""
    atoms = bulk("Cu", cubic=True).repeat((3, 3, 3))
    del atoms[0]
    atoms.set_cell(atoms.cell.array @ [[1.03, 0.01, 0], [0, 0.98, 0], [0, 0, 1.02]], scale_atoms=True)
    atoms.rattle(0.1, seed=2)
    atoms.calc = EMT()
    frames: list[Atoms] = []
    run = optimizer(FrechetCellFilter(atoms), logfile=None)
    run.attach(lambda: frames.append(_bare(atoms)))
    run.run(fmax=0.01, steps=300)
    return frames


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def scan_skin(name: str, frames: list[Atoms]) -> None:
    """Print the time per step for every skin."""
    print(f"{name}: {len(frames)} steps of {len(frames[0])} atoms, {CUTOFF} Å")
    print(f"{'skin/Å':>8} {'rebuilds':>9} {'µs/atom/step':>13}")
    for skin in SKINS:
        neighbours = NeighbourList(CUTOFF, skin)
        start = perf_counter()
        for frame in frames:
            neighbours.graph(frame)
        seconds = perf_counter() - start
        print(f"{skin:8.1f} {neighbours.rebuilds:9d} {1e6 * seconds / len(frames) / len(frames[0]):13.2f}", flush=True)


if __name__ == "__main__":
    compare_libraries()
    for kelvin in (300.0, 1000.0):
        scan_skin(f"MD, fcc Cu, {kelvin:.0f} K, 2 fs", dynamics(kelvin))
    for kind in (BFGS, FIRE):
        scan_skin(f"relaxation with cell, {kind.__name__}", relaxation(kind))
