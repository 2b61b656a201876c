"""Time of a step in LAMMPS on one and more ranks, beside ASE with the same model and structure, alternating.

Usage: ``python tools/lammps_scaling.py PRESET SIZE[,SIZE...] [REPEATS] [RANKS[,RANKS...]]``, for example
``1l-small 2000,16000 3 1,2``.
W-bcc, rattled, cutoff 6 Å, random weights. Times are wall and CPU milliseconds per atom and step; CPU of several
ranks includes what they spend waiting for each other.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from grace_native.lammps import build, write_program

from gracecli import GraceCalculator
from gracecli.model.modelfile import Model, save_model
from gracecli.model.presets import initial_weights, preset

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "pair_style"))
from lammps_runs import BIN, write_data

STEPS = 4
TIMESTEP = 1e-6  # fs: forces of random weights may be huge


def crystal(size: int) -> Atoms:
    """About ``size`` atoms of rattled W-bcc, as cubic as it goes."""
    edge = round((size / 2) ** (1 / 3))
    atoms = bulk("W", cubic=True, a=3.17).repeat((edge, edge, max(1, round(size / 2 / edge**2))))
    atoms.rattle(0.05, seed=1)
    return atoms


def in_lammps(folder: Path, program: Path, plugin: Path, ranks: int, atoms: int) -> tuple[float, float, float]:
    """Wall and CPU ms per atom and step, and the memory of the largest rank in bytes."""
    deck = folder / "in.time"
    deck.write_text(
        f"units metal\natom_style atomic\nplugin load {plugin}\nread_data data\npair_style grace\n"
        f"pair_coeff * * {program} W\n"
        f"neighbor 1.0 bin\nfix 1 all nve\ntimestep {TIMESTEP / 1000}\nrun 0 post no\nrun {STEPS}\n"
    )
    command = [str(BIN / "lmp"), "-in", "in.time", "-log", "none"]
    command = command if ranks == 1 else [str(BIN / "mpirun"), "-n", str(ranks), *command]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "LAMMPS_PLUGIN_PATH": "", "GRACE_CACHE": str(folder)}
    script = (
        "import resource, subprocess, sys\ncode = subprocess.call(sys.argv[1:])\n"
        "print('PEAK', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    wall = float(re.findall(r"Loop time of (\S+)", done.stdout)[-1])
    share = float(re.findall(r"([\d.]+)% CPU use", done.stdout)[-1]) / 100
    peak = float(re.findall(r"PEAK (\d+)", done.stdout)[-1])
    return 1e3 * wall / STEPS / atoms, 1e3 * wall * share * ranks / STEPS / atoms, peak


def in_ase(model: Path, atoms: Atoms) -> tuple[float, float]:
    """Wall and CPU ms per atom and step."""
    atoms = atoms.copy()
    atoms.calc = GraceCalculator(model, engine="native", threads=1)
    dynamics = VelocityVerlet(atoms, TIMESTEP * units.fs)
    dynamics.run(1)
    wall, cpu = time.perf_counter(), time.process_time()
    dynamics.run(STEPS)
    scale = 1e3 / STEPS / len(atoms)
    return scale * (time.perf_counter() - wall), scale * (time.process_time() - cpu)


def main(name: str, sizes: str, repeats: str = "3", ranks: str = "1,2") -> None:
    """Print one line per size and host."""
    blueprint = preset(name, ("W",))
    model = Model(blueprint, initial_weights(blueprint, np.random.default_rng(0)))
    plugin = build()
    print(f"{name}, {STEPS} steps, {repeats} repeats, load {os.getloadavg()[0]:.1f}; ms/atom/step, medians; peak RSS")
    print(f"{'atoms':>8} {'host':<16} {'wall':>8} {'CPU':>8} {'to ASE (CPU)':>13} {'to ASE (wall)':>13} {'RSS MB':>8}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        saved = save_model(folder / "model.grace", model)
        program = write_program(model, folder / "model.gracelmp")
        for size in map(int, sizes.split(",")):
            atoms = crystal(size)
            write_data(folder / "data", atoms, ("W",))
            rows: dict[str, list[tuple[float, float, float, float, float]]] = {}
            for _ in range(int(repeats)):
                wall, cpu = in_ase(saved, atoms)
                rows.setdefault("ASE", []).append((wall, cpu, 1.0, 1.0, np.nan))
                for n in map(int, ranks.split(",")):
                    w, c, peak = in_lammps(folder, program, plugin, n, len(atoms))
                    rows.setdefault(f"LAMMPS {n} rank{'s' if n > 1 else ''}", []).append(
                        (w, c, c / cpu, w / wall, peak / 1e6)
                    )
            for host, values in rows.items():
                w, c, rc, rw, peak = np.median(values, axis=0)
                print(f"{len(atoms):>8} {host:<16} {w:8.4f} {c:8.4f} {rc:13.2f} {rw:13.2f} {peak:8.0f}", flush=True)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
