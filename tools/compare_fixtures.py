"""Compare gracecli with reference energies, forces and stresses of published architectures.

    python tools/compare_fixtures.py [FOLDER] [--only NAME ...] [--one-by-one]

FOLDER holds one directory per model (model.yaml, checkpoint, reference.npz); the default is ../shared/fixtures/grace.
Prints the largest absolute deviation per model over all structures, and exits with 1 if one is out of bounds.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gracecli.quiet import import_tensorflow

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "grace"
FP32 = 1e-5
"""Bound for models in single precision, eV, eV/Å, eV/Å^3."""


@dataclass(frozen=True)
class Case:
    """One way of reading a model: which description, which checkpoint, which precision."""

    model: str
    description: str = "model.yaml"
    checkpoint: str = "checkpoint"
    precision: str = "float64"

    @property
    def label(self) -> str:
        """Name and what differs from the usual."""
        extra = [v for v, usual in (
            (self.description, "model.yaml"), (self.checkpoint, "checkpoint"), (self.precision, "float64")
        ) if v != usual]  # fmt: skip
        return " ".join([self.model, *extra])


@dataclass
class Deviation:
    """Largest absolute deviations; NaN where there is no reference."""

    structures: int = 0
    energy: float = 0.0
    atomic_energy: float = float("nan")
    forces: float = float("nan")
    stress: float = float("nan")

    def within(self, single: bool) -> bool:
        """Whether all are within 1e-9 eV, 1e-9 eV/Å, 1e-10 eV/Å^3 (1e-5 in single precision)."""
        bounds = (FP32,) * 4 if single else (1e-9, 1e-9, 1e-9, 1e-10)
        values = (self.energy, self.atomic_energy, self.forces, self.stress)
        return all(not v > b for v, b in zip(values, bounds, strict=True))  # NaN: no reference


def cases(folder: Path) -> list[Case]:
    """All models of a folder, in every layout and precision there is a reference for."""
    found = []
    for directory in sorted(d for d in folder.iterdir() if (d / "model.yaml").is_file()):
        name = directory.name
        found.append(Case(name))
        found.extend(Case(name, checkpoint=p.stem) for p in sorted(directory.glob("checkpoint_*.index")))
        found.extend(Case(name, description=p.name) for p in sorted(directory.glob("model_*.yaml")))
        if "param_dtype: float32" in (directory / "model.yaml").read_text():
            found.append(Case(name, precision="float32"))
    return found


def is_single(folder: Path, case: Case) -> bool:
    """Whether the reference values were computed in single precision."""
    return "param_dtype: float32" in (folder / case.model / "model.yaml").read_text()


def reference_values(directory: Path) -> list[dict[str, np.ndarray]]:
    """Structures with their energies and, where given, forces and stresses."""
    path = next(p for p in (directory / "reference.npz", directory / "reference_uq.npz") if p.is_file())
    with np.load(path) as data:
        return [
            {k[3:]: data[k] for k in data.files if k.startswith(f"{index:02d}_")} for index in range(len(data["names"]))
        ]


class Evaluator:
    """A model read from a directory, evaluated without compiling."""

    def __init__(self, folder: Path, case: Case) -> None:
        import_tensorflow()
        from ase.data import atomic_numbers

        from gracecli.model.modelfile import Model
        from gracecli.model.network import Network
        from gracecli.model.upstream.checkpoint import read_directory

        blueprint, weights, metadata = read_directory(folder / case.model, case.description, case.checkpoint)
        self.model = Model(blueprint, weights, metadata)
        self.network = Network(blueprint, weights, case.precision)
        self.index = {atomic_numbers[e]: i for i, e in enumerate(self.model.elements)}
        self.matrix = self.model.pair_cutoffs()

    def pair_cutoff(self, numbers: np.ndarray) -> np.ndarray | None:
        """Pair cutoffs over the sorted unique numbers."""
        if self.matrix is None:
            return None
        rows = [self.index[int(z)] for z in np.unique(numbers)]
        return self.matrix[np.ix_(rows, rows)]

    def evaluate(self, structures: list[Any]) -> list[Any]:
        """Results of several structures in one padded batch."""
        from gracecli.engine.batch import pack, required_shape
        from gracecli.engine.neighbours import build_graph
        from gracecli.engine.tensorflow import split_results
        from gracecli.model.network import batch_tensors

        graphs = [build_graph(atoms, self.model.cutoff, self.pair_cutoff) for atoms in structures]
        needed = required_shape(graphs)
        batch = pack(graphs, self.index, needed._replace(atoms=needed.atoms + 3, rows=needed.rows + 2))
        energies, gradient = self.network.energies_and_pair_gradients(batch_tensors(batch))
        return split_results(batch, energies.numpy(), gradient.numpy())


def deviation(folder: Path, case: Case, one_by_one: bool = False) -> Deviation:
    """Evaluate all structures of one model and compare."""
    from ase import Atoms

    evaluator = Evaluator(folder, case)
    references = reference_values(folder / case.model)
    structures = [
        Atoms(numbers=r["numbers"], positions=r["positions"], cell=r["cell"], pbc=r["pbc"]) for r in references
    ]
    groups = [[s] for s in structures] if one_by_one else [structures]
    results = [r for group in groups for r in evaluator.evaluate(group)]
    worst = Deviation(structures=len(structures))
    for reference, result in zip(references, results, strict=True):
        pairs = {
            "energy": ("energy", result.energy),
            "atomic_energy": ("atomic_energy", result.energies),
            "forces": ("forces", result.forces),
            "stress": ("stress_voigt", result.stress),
        }
        for field, (key, value) in pairs.items():
            if key not in reference or np.isnan(reference[key]).any():
                continue
            wanted = np.asarray(reference[key]).reshape(np.shape(value))
            error = float(np.abs(value - wanted).max())
            # a NaN of ours must not pass
            setattr(worst, field, np.fmax(getattr(worst, field), error if error == error else np.inf))
    return worst


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="compare gracecli with reference values of published architectures")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="models to compare")
    parser.add_argument("--one-by-one", action="store_true", help="evaluate structures one at a time")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        print(f"{options.folder}: no such folder", file=sys.stderr)
        return 4
    print(f"{'model':56s} {'n':>3s} {'dE (eV)':>9s} {'dE_atom':>9s} {'dF (eV/Å)':>9s} {'dσ (eV/Å³)':>10s}")
    failed = 0
    for case in cases(options.folder):
        if options.only and case.model not in options.only:
            continue
        d = deviation(options.folder, case, options.one_by_one)
        good = d.within(is_single(options.folder, case))
        failed += not good
        print(
            f"{case.label:56s} {d.structures:3d} {d.energy:9.1e} {d.atomic_energy:9.1e} {d.forces:9.1e} "
            f"{d.stress:10.1e}{'' if good else '   OUT OF BOUNDS'}",
            flush=True,
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
