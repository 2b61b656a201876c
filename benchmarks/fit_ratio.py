"""Training step beside the published implementation: processor time per atom and step, both programs in one run.

    python benchmarks/fit_ratio.py DATA.extxyz --peer /path/to/peer/bin [--preset 1l-small] [--structures 32]

The published package (academic licence) is run as a black box in an environment of its own (``gracemaker``), with the
same architecture, structures, cutoff, batch of structures, double precision, one thread. Every program runs twice, for
a few epochs and for a few more; the difference of their processor times, over the atoms visited in between, is the
step: start, compilation and files drop out, and what else the machine does matters little.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import ase.io

EPOCHS = 2, 8
PEER = {"1l-small": "GRACE_1LAYER_v1_24", "2l-small": "GRACE_2LAYER_v1_24", "fs-small": "FS"}
OPTIONS = {
    "1l-small": "n_rad_max: 32, n_mlp_dens: 12",
    "2l-small": "n_rad_max: [32, 32], lmax: [4, 4], n_mlp_dens: 12, indicator_lmax: 1",
    "fs-small": "",
}
INPUT = """\
seed: 1
cutoff: {cutoff}
data:
  filename: data.pkl.gz
  test_filename: test.pkl.gz
  reference_energy: {{{references}}}
potential:
  preset: {preset}
  kwargs: {{{options}}}
  float_dtype: float64
fit:
  loss:
    energy: {{type: huber, weight: 16, delta: 0.01}}
    forces: {{type: huber, weight: 32, delta: 0.01}}
    stress: {{type: huber, weight: 128, delta: 0.01}}
  maxiter: {epochs}
  optimizer: Adam
  opt_params: {{learning_rate: 0.008, amsgrad: True, use_ema: True, ema_momentum: 0.99, clipvalue: 1.0}}
  scheduler: cosine_decay
  scheduler_params: {{minimal_learning_rate: 0.0001}}
  compute_convex_descriptors: False
  batch_size: {batch}
  test_batch_size: 1
  jit_compile: True
  train_max_n_buckets: 1
  test_max_n_buckets: 1
  checkpoint_freq: 1000
"""
PACK = """\
import sys, ase.io, pandas as pd
frames = ase.io.read(sys.argv[1], ":")
for name, part in (("data.pkl.gz", frames), ("test.pkl.gz", frames[:1])):
    pd.DataFrame({
        "ase_atoms": part,
        "energy": [a.get_potential_energy() for a in part],
        "forces": [a.get_forces() for a in part],
        "stress": [a.get_stress() for a in part],
    }).to_pickle(name, compression="gzip", protocol=4)
"""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1",
    "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
}  # fmt: skip


def processor_seconds(command: list[str], folder: Path, log: str) -> float:
    """User time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with (folder / log).open("w") as out:
        subprocess.run(command, cwd=folder, stdout=out, stderr=out, check=True, env=os.environ | ENVIRONMENT)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def published(options: argparse.Namespace, folder: Path, references: str, epochs: int) -> float:
    """Processor time of one run of the published package."""
    own = folder / f"peer-{epochs}"
    own.mkdir()
    (own / "pack.py").write_text(PACK)
    subprocess.run([options.peer / "python", "pack.py", folder / "data.extxyz"], cwd=own, check=True)
    fields = {"preset": PEER[options.preset], "options": OPTIONS[options.preset], "references": references}
    text = INPUT.format(cutoff=options.cutoff, epochs=epochs, batch=options.batch, **fields)
    (own / "input.yaml").write_text(text)
    return processor_seconds([str(options.peer / "gracemaker"), "input.yaml"], own, "log")


def ours(options: argparse.Namespace, folder: Path, atoms: int, epochs: int, engine: str) -> float:
    """Processor time of one run of ``grace fit``."""
    command = [
        sys.executable, "-m", "gracecli.cli.main", "fit", str(folder / "data.extxyz"), "-o", f"{engine}-{epochs}",
        "--preset", options.preset, "--cutoff", str(options.cutoff), "--epochs", str(epochs), "--engine", engine,
        "--batch-atoms", str(atoms // options.structures * options.batch),
    ]  # fmt: skip
    return processor_seconds(command, folder, f"{engine}-{epochs}.log")


def main() -> None:
    """Run both and print the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--preset", default="1l-small", choices=sorted(PEER))
    parser.add_argument("--structures", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--cutoff", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--engines", default="native,tensorflow")
    options = parser.parse_args()
    frames = [a for a in ase.io.read(options.data, ":") if len(a) > 1]
    size = Counter(len(a) for a in frames).most_common(1)[0][0]
    frames = [a for a in frames if len(a) == size][: options.structures]
    options.structures = len(frames)
    atoms = sum(map(len, frames))
    symbols = sorted({s for a in frames for s in a.symbols})
    energy = sum(a.get_potential_energy() for a in frames) / atoms
    references = ", ".join(f"{s}: {energy:.6f}" for s in symbols)
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ase.io.write(folder / "data.extxyz", frames)
            try:
                found = {"published": [published(options, folder, references, e) for e in EPOCHS]}
                for engine in options.engines.split(","):
                    ours(options, folder, atoms, 1, engine)  # compiled programs are kept on disk from the first run on
                    found[engine] = [ours(options, folder, atoms, e, engine) for e in EPOCHS]
            except subprocess.CalledProcessError as error:
                for path in folder.glob("**/*log"):  # the last line alone: a crash may show what is not ours to read
                    print(path.name, *path.read_text().strip().splitlines()[-1:])
                raise SystemExit(str(error)) from None
        per_step = {k: 1e6 * (b - a) / (EPOCHS[1] - EPOCHS[0]) / atoms for k, (a, b) in found.items()}
        text = "  ".join(f"{k} {v:.0f}" for k, v in per_step.items())
        ratios = "  ".join(f"{per_step['published'] / v:.2f} x {k}" for k, v in per_step.items() if k != "published")
        print(f"{options.preset}, {len(frames)} x {size} atoms, round {number + 1}, µs of processor per atom and step:")
        print(f"  {text};  published is {ratios}", flush=True)


if __name__ == "__main__":
    main()
