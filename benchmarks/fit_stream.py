"""Memory of a fit that streams its data from a store, against one that holds them.

    python benchmarks/fit_stream.py [--structures 20000] [--cells 10] [--epochs 3] [--stream always|never]

Makes a store of rattled copper cells (of four atoms times ``--cells``) with random labels (memory is measured, not
learning), fits a small model, and prints the resident memory after every epoch, which must not grow: with 6,000
structures of 8 atoms (--structures 6000 --cells 2 --epochs 10) it was 677 MB before training, 851 MB after the first
epoch, 876 MB after the fourth and still after the tenth.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from ase.build import bulk

from gracecli.fit.config_read import make_config
from gracecli.fit.progress import Progress
from gracecli.fit.trainer import Trainer
from gracecli.store.entry import Entry
from gracecli.store.store import Store

TINY = {
    "lmax": 1, "order": 2, "n_radial": 4, "n_product": 4, "n_density": 3, "n_basis": 5,
    "hidden": [8], "readout_hidden": [8], "embedding": 4,
}  # fmt: skip


def resident() -> float:
    """Resident memory of this process, MB."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def make_store(path: Path, count: int, cells: int) -> None:
    """``count`` supercells of ``cells`` fcc cells."""
    rng = np.random.default_rng(0)
    atoms = bulk("Cu", cubic=True) * (cells, 1, 1)
    size = len(atoms)

    def entries(number: int) -> list[Entry]:
        return [
            Entry(
                numbers=atoms.numbers,
                positions=atoms.positions + rng.normal(scale=0.1, size=(size, 3)),
                cell=atoms.cell.array,
                pbc=(True, True, True),
                energy=float(rng.normal(-3.5 * size, 0.5)),
                free_energy=True,
                forces=rng.normal(size=(size, 3)),
                stress=rng.normal(scale=0.01, size=6),
            )
            for _ in range(number)
        ]

    with Store(path, "a") as store:
        for start in range(0, count, 2000):
            store.append(entries(min(2000, count - start)), set_name="train")


class Report(Progress):
    """Prints memory after every epoch."""

    def epoch(self, row: dict, epochs: int, progress: float) -> None:
        """One epoch has ended."""
        print(f"epoch {row['epoch']}: {resident():.0f} MB, {row['seconds']:.0f} s, loss {row['loss']:.6e}", flush=True)


def main() -> None:
    """Run one fit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--structures", type=int, default=20000)
    parser.add_argument("--cells", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--stream", default="always")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.h5"
        make_store(path, options.structures, options.cells)
        print(
            f"{options.structures} structures, {path.stat().st_size / 1e6:.0f} MB; {resident():.0f} MB before the fit"
        )
        content = {
            "data": {"train": [str(path)], "valid_fraction": 0.002, "stream": options.stream},
            "model": {"preset": "1l-small", "cutoff": 3.2, "overrides": TINY},
            "training": {"epochs": options.epochs, "batch_atoms": 640},
            "output": {"directory": str(Path(folder) / "fit")},
        }
        trainer = Trainer(make_config(content), Report(quiet=True))
        print(f"prepared: {resident():.0f} MB", flush=True)
        trainer.run()


if __name__ == "__main__":
    main()
