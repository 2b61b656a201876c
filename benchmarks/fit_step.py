"""Time of a training step per atom (packing, gradient, optimizer) by the clock and by the processor.

    python benchmarks/fit_step.py DATA.extxyz [--preset 1l-large] [--precision fp32] [--batch-atoms 256] [--epochs 3]

Prints microseconds per atom and step for every epoch but the first, in which the program is compiled. On a machine that
others use the time of the processor is the fairer number.
"""

from __future__ import annotations

import argparse
import tempfile
import time

from gracecli.fit.config_read import make_config
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
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--cutoff", type=float, default=6.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        content = {
            "data": {"train": [options.data], "valid_fraction": 0.0},
            "model": {"preset": options.preset, "cutoff": options.cutoff},
            "training": {
                "epochs": options.epochs,
                "batch_atoms": options.batch_atoms,
                "precision": options.precision,
                "radial": options.radial,
                "engine": options.engine,
            },
            "output": {"directory": folder, "tensorboard": False},
        }
        count = [0]
        last = [0.0, 0.0]

        def after(step: int) -> None:
            count[0] += 1
            if count[0] % steps:
                return
            now = [time.perf_counter(), time.process_time()]
            if count[0] > steps:
                wall, cpu = (1e6 * (a - b) / trainer.graphs.atoms for a, b in zip(now, last, strict=True))
                print(
                    f"  epoch {count[0] // steps}: {wall:.0f} µs per atom and step, {cpu:.0f} of processor", flush=True
                )
            last[:] = now

        trainer = Trainer(make_config(content), after_step=after)
        steps = len(trainer._plan(0))
        print(
            f"{options.preset} {trainer.engine} {options.precision} {options.radial}: {trainer.parameters} weights, "
            f"{steps} steps of {trainer.graphs.atoms // steps} atoms",
            flush=True,
        )
        trainer._finish = lambda: None  # type: ignore[assignment,return-value,method-assign]
        trainer.run()


if __name__ == "__main__":
    main()
