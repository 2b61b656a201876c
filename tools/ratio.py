"""Ratio of our time per atom and step to that of the published implementation, both in turn on this machine.

    python tools/ratio.py --peer-python PEER/bin/python --peer-script peer_bench.py -o ratio.json

The peer is a black box: a script with its own Python, called as ``NT=threads PYTHON SCRIPT PRESET REPEATS float64``,
that prints ``... ms/atom/step median X min Y``. Our side has the same protocol: W-bcc at 3.17 Å, atoms 0.05 Å off their
sites, moved by 1e-3 Å before each of six calls; the first call, which compiles, is left out. Presets have the sizes of
the published ones and random weights over 89 elements (FS: W alone). Every round runs all programs of a case one after
the other; the table gives medians and least values over the rounds, and ratios of the least (what a disturbed machine
distorts least) and of the medians..
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "FS": ("fs-medium", {"cutoff": 6.0, "fs_parameters": ((1.0, 1.0), (1.0, 0.5))}),
    "1L": ("1l-small", {}),
    "2L": ("2l-small", {}),
}
"""Preset of the peer's script -> ours, and what makes it the same (the published FS preset is one of its defaults)."""
STEPS = 6


def make_model(case: str, folder: Path) -> Path:
    """A model file with random weights."""
    import numpy as np
    from ase.data import chemical_symbols

    from gracecli.model.modelfile import Model, save_model
    from gracecli.model.presets import initial_weights, preset

    path = folder / f"{case}.grace"
    name, overrides = CASES[case]
    elements = ["W"] if case == "FS" else chemical_symbols[1:90]
    blueprint = preset(name, elements, average_neighbours=40.0, **overrides)
    save_model(path, Model(blueprint, initial_weights(blueprint, np.random.default_rng(0))))
    return path


def time_ours(model: str, repeats: int, engine: str, precision: str) -> None:
    """Print wall and CPU time of six steps (run in a process of its own, threads by OMP_NUM_THREADS)."""
    from time import perf_counter, process_time

    import numpy as np
    from ase.build import bulk

    from gracecli import GraceCalculator

    atoms = bulk("W", cubic=True, a=3.17).repeat(repeats)
    rng = np.random.default_rng(0)
    atoms.rattle(0.05, rng=rng)
    atoms.calc = GraceCalculator(model, engine, precision)
    atoms.get_potential_energy()
    wall, cpu = [], []
    for _ in range(STEPS):
        atoms.positions += rng.normal(0, 1e-3, atoms.positions.shape)
        start, used = perf_counter(), process_time()
        atoms.get_forces()
        wall.append(1e3 * (perf_counter() - start) / len(atoms))
        cpu.append(1e3 * (process_time() - used) / len(atoms))
    print(json.dumps({"atoms": len(atoms), "median": median(wall), "min": min(wall), "cpu": min(cpu)}))


def run(command: list[str], threads: int) -> str:
    """Standard output of a program limited to so many threads."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "NT"), str(threads))
    done = subprocess.run(command, env={**os.environ, **limits}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}exit code {done.returncode}")
    return done.stdout


def peer_times(options: argparse.Namespace, preset: str, repeats: int, threads: int) -> dict[str, Any]:
    """What the peer's script reports, ms/atom/step."""
    text = run([options.peer_python, options.peer_script, preset, str(repeats), "float64"], threads)
    found = re.search(r"atoms (\d+) .*ms/atom/step median ([\d.]+) min ([\d.]+)", text)
    if found is None:
        sys.exit(f"the peer's script printed no times:\n{text}")
    return {"atoms": int(found[1]), "median": float(found[2]), "min": float(found[3])}


def own_times(model: Path, repeats: int, engine: str, precision: str, threads: int) -> dict[str, Any]:
    """What :func:`time_ours` reports."""
    words = [sys.executable, __file__, "--worker", str(model), str(repeats), engine, precision]
    return dict(json.loads(run(words, threads).splitlines()[-1]))


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All cases, all rounds; one row per program, case and size."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.cases.split(","):
            model = make_model(preset, Path(folder))
            for repeats in map(int, options.repeats.split(",")):
                ours = [(e, p, t) for e in options.engines.split(",") for p in ("fp64", "fp32") for t in (1, 2)]
                ours = [(e, p, t) for e, p, t in ours if t == 1 or e == "native"]
                samples: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
                for _ in range(options.rounds):
                    samples.setdefault(("published", "fp64", 1), []).append(peer_times(options, preset, repeats, 1))
                    for key in ours:
                        samples.setdefault(key, []).append(own_times(model, repeats, *key))
                for (program, precision, threads), runs in samples.items():
                    rows.append(
                        {
                            "case": preset, "atoms": runs[0]["atoms"], "program": program, "precision": precision,
                            "threads": threads, "median": median(r["median"] for r in runs),
                            "min": min(r["min"] for r in runs), "runs": runs, "load": os.getloadavg()[0],
                        }
                    )  # fmt: skip
                show(rows[-len(samples) :])
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows of one case; the first is the peer."""
    peer = rows[0]
    for row in rows:
        one = next(
            r for r in rows if (r["program"], r["precision"], r["threads"]) == (row["program"], row["precision"], 1)
        )
        raw = " ".join(f"{r['min']:.4f}" for r in row["runs"])
        print(
            f"{row['case']:3} {row['atoms']:5} {row['program']:10} {row['precision']} {row['threads']} "
            f"median {row['median']:.4f} least {row['min']:.4f} ms/atom/step  "
            f"published/this {peer['min'] / row['min']:6.1f} (least) {peer['median'] / row['median']:6.1f} (median)  "
            f"one thread/this {one['min'] / row['min']:.2f}  runs {raw}  load {row['load']:.1f}",
            flush=True,
        )


def main() -> None:
    """Parse, measure, write."""
    if sys.argv[1:2] == ["--worker"]:
        time_ours(sys.argv[2], int(sys.argv[3]), *sys.argv[4:6])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="Python with the published package")
    parser.add_argument("--peer-script", required=True, help="script that times it")
    parser.add_argument("--cases", default="FS,1L,2L")
    parser.add_argument("--repeats", default="4,7", help="cubic cells per axis: 128 and 686 atoms")
    parser.add_argument("--engines", default="native")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file with every number")
    options = parser.parse_args()
    options.output.write_text(json.dumps(measure(options), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
