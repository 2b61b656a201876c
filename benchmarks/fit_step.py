"""Time of a training step per atom: all of it (packing, gradient, optimizer), after the compilation.

    python benchmarks/fit_step.py DATA.extxyz [--preset 1l-large] [--precision fp32] [--batch-atoms 256] [--epochs 3]

Prints microseconds per atom and step for every epoch but the first, in which the program is compiled.
"""

from __future__ import annotations

import argparse
import tempfile
import time

from gracecli.fit.config import make_config
from gracecli.fit.trainer import Trainer


def main() -> None:
    """Time one fit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--preset", default="1l-large")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--radial", default="projected")
    parser.add_argument("--batch-atoms", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        content = {
            "data": {"train": [options.data], "valid_fraction": 0.0},
            "model": {"preset": options.preset, "cutoff": 6.0},
            "training": {
                "epochs": options.epochs,
                "batch_atoms": options.batch_atoms,
                "precision": options.precision,
                "radial": options.radial,
            },
            "output": {"directory": folder, "tensorboard": False},
        }
        started = time.perf_counter()
        marks: list[float] = []
        trainer = Trainer(make_config(content), after_step=lambda step: marks.append(time.perf_counter()))
        steps = len(trainer._plan(0))
        trainer._finish = lambda: None  # type: ignore[assignment,return-value,method-assign]
        trainer.run()
        print(
            f"{options.preset} {options.precision} {options.radial}: {trainer.parameters} weights, {steps} steps of "
            f"{trainer.graphs.atoms // steps} atoms; first step after {marks[0] - started:.1f} s"
        )
        for epoch in range(1, options.epochs):
            first, last = marks[epoch * steps - 1], marks[(epoch + 1) * steps - 1]
            print(f"  epoch {epoch + 1}: {1e6 * (last - first) / trainer.graphs.atoms:.0f} µs per atom and step")


if __name__ == "__main__":
    main()
