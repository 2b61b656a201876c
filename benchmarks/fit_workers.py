"""Time of a training step: one process, one process with threads, several workers.

    python benchmarks/fit_workers.py --data ../shared/datasets [--preset 1l-small] [--workers 2]

Every variant fits the same structures (mlearn-Mo) for a few epochs; the first, which compiles, is left out. Weights are
compared at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from fine_tuning import subset, write_subset

from gracecli.fit.checkpoint import load_checkpoint
from gracecli.fit.config import DataConfig, SetConfig
from gracecli.fit.data import read_set

ATOMS = 54
"""Of the structures chosen."""


def run(data: Path, folder: Path, options: list[str], threads: int | None) -> tuple[float, int]:
    """Seconds per step after the first epoch, and steps per epoch."""
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        environment.pop(name, None)
        if threads is not None:
            environment[name] = str(threads)
    command = [sys.executable, "-m", "gracecli.cli.main", "fit", str(data), "-o", str(folder), "-q", *options]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    log = load_checkpoint(folder / "checkpoint.npz").state.log
    steps = int(log[0]["step"])
    return (log[-2]["seconds"] - log[0]["seconds"]) / (len(log) - 2) / steps, steps


def main() -> None:
    """Run all variants, print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/datasets")
    parser.add_argument("--preset", default="1l-small")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--structures", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    frames, _ = read_set(SetConfig(str(Path(options.data) / "mlearn-Mo" / "train.extxyz.gz")), DataConfig())
    chosen = subset([frame for frame in frames if len(frame.atoms) == ATOMS], options.structures, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_subset(folder / "mo.extxyz", chosen)
        settings = folder / "fit.toml"
        settings.write_text(
            f'[data]\ntrain = ["mo.extxyz"]\nvalid_fraction = 0.0\n[model]\npreset = "{options.preset}"\n'
            f"[training]\nepochs = {options.epochs}\nbatch_atoms = {5 * ATOMS}\nbatches_per_step = 4\n"
            "[output]\ntensorboard = false\n",
            encoding="utf-8",
        )
        count = str(options.workers)
        variants: dict[str, tuple[list[str], int | None]] = {
            "one process, one thread": ([], 1),
            f"one process, --threads {count}": (["--threads", count], None),
            f"--workers {count}, one thread each": (["--workers", count], 1),
        }
        first: dict[str, np.ndarray] = {}
        base = 0.0
        for number, (label, (extra, threads)) in enumerate(variants.items()):
            seconds, steps = run(settings, folder / str(number), extra, threads)
            arrays = load_checkpoint(folder / str(number) / "checkpoint.npz").arrays
            first, base = first or arrays, base or seconds
            same = all(arrays[key].tobytes() == first[key].tobytes() for key in first)
            print(
                f"{label:32s} {1e3 * seconds:8.0f} ms/step, {base / seconds:5.2f} times the first; "
                f"{steps} steps per epoch of {4 * 5 * ATOMS} atoms; weights {'as there' if same else 'differ'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
