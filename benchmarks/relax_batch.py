"""Structures per minute: 200 perturbed structures relaxed by a loop of ASE relaxations, by our loop, by the batch.

    python benchmarks/relax_batch.py [--structures 200] [--engine native] [--fmax 0.02] [--threads 2] [--sample 40]

The structures (2 to 60 atoms of the elements of the bundled model: elements, B2 and L1_2 compounds, vacancies; cells
strained by 3 %, atoms rattled by 0.05 Å) are relaxed with their cells to the same fmax. ASE's loops converge on fmax
of ``FrechetCellFilter``'s generalised forces; ours on forces and stresses. ``--sample`` relaxes only a part of the
structures with the slow loops (every k-th; the rate is that of the sample).

ways:
    ase, new calculator   LBFGS(FrechetCellFilter(atoms)), a new GraceCalculator for every structure
    ase, one calculator   the same with one calculator for all
    ours, one at a time   gracecli.run.relax.relax
    ours, batch           gracecli.run.batch_relax.relax_many
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS

from gracecli import GraceCalculator
from gracecli.engine.create import create_engine
from gracecli.run.batch_relax import relax_many
from gracecli.run.relax import relax
from gracecli.run.result import RelaxSettings

ELEMENTS = ("Si", "Ge", "Cu", "Ni", "Li", "Mo", "Ta", "W", "Nb")
LATTICE = {"MoTa": 3.24, "MoNb": 3.23, "NbTa": 3.31, "TaW": 3.24, "MoW": 3.16, "NbW": 3.24}
MAX_ATOMS = 60


def structures(count: int, seed: int = 0) -> list[Atoms]:
    """Perturbed crystals."""
    random = np.random.default_rng(seed)
    found: list[Atoms] = []
    while len(found) < count:
        if random.random() < 0.3:
            name = str(random.choice(sorted(LATTICE)))
            atoms = bulk(name, "cesiumchloride", a=LATTICE[name])
        else:
            atoms = bulk(str(random.choice(ELEMENTS)), cubic=bool(random.random() < 0.5))
        atoms = atoms * tuple(int(n) for n in random.integers(1, 5, size=3))
        if not 2 <= len(atoms) <= MAX_ATOMS:
            continue
        if len(atoms) >= 16 and random.random() < 0.3:
            del atoms[int(random.integers(len(atoms)))]
        strain = random.normal(scale=0.03, size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += random.normal(scale=0.05, size=atoms.positions.shape)
        found.append(atoms)
    return found


def ase_loop(
    batch: list[Atoms], calculator: Callable[[], GraceCalculator], fmax: float
) -> tuple[int, int, list[float]]:
    """Evaluations, converged, energies per atom of a loop as people write it."""
    evaluations = converged = 0
    energies = []
    for atoms in batch:
        work = atoms.copy()
        work.calc = calculator()
        optimizer = LBFGS(FrechetCellFilter(work), logfile=None)
        converged += bool(optimizer.run(fmax=fmax, steps=500))
        evaluations += optimizer.nsteps + 1
        energies.append(work.get_potential_energy() / len(work))
    return evaluations, converged, energies


def main() -> None:
    """Run all ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=200)
    parser.add_argument("--engine", default="native")
    parser.add_argument("--fmax", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=None, help="of the native engine")
    parser.add_argument("--sample", type=int, default=None)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    settings = RelaxSettings(cell="full", fmax=options.fmax)
    extra = {"threads": options.threads} if options.threads else {}
    every = structures(options.structures)
    step = 1 if options.sample is None else max(1, len(every) // options.sample)
    part = every[::step]
    engine = create_engine(None, options.engine, **extra)
    shared = GraceCalculator(engine=engine)
    relax(every[0], shared, settings)  # libraries loaded
    print(
        f"{len(every)} structures, {sum(map(len, every))} atoms; engine {options.engine} {extra}, fmax {options.fmax}"
    )
    print(f"{'way':<22}{'structures':>11}{'s':>9}{'per minute':>12}{'evaluations':>13}{'converged':>11}")

    def report(way: str, count: int, seconds: float, evaluations: int, converged: int) -> float:
        print(
            f"{way:<22}{count:>11}{seconds:>9.1f}{60 * count / seconds:>12.1f}{evaluations:>13}{converged:>11}",
            flush=True,
        )
        return count / seconds

    started = time.perf_counter()
    before = engine.statistics().get("evaluate_seconds", 0.0)
    many = dict(relax_many(enumerate(every), engine, settings))
    seconds = time.perf_counter() - started
    arithmetic = engine.statistics().get("evaluate_seconds", 0.0) - before
    results = [many[i] for i in range(len(every))]
    calls = sum(r.force_calls for r in results)
    batch = report("ours, batch", len(every), seconds, calls, sum(r.converged for r in results))
    print(f"{'':<22}engine {arithmetic:.1f} s of {seconds:.1f} s; atoms evaluated "
          f"{sum(r.force_calls * len(r.atoms) for r in results)}")  # fmt: skip
    started = time.perf_counter()
    one = [relax(atoms, shared, settings) for atoms in part]
    report("ours, one at a time", len(part), time.perf_counter() - started, sum(r.force_calls for r in one),
           sum(r.converged for r in one))  # fmt: skip
    rates = {}
    for way, make in (
        ("ase, one calculator", lambda: shared),
        ("ase, new calculator", lambda: GraceCalculator(engine=options.engine, **extra)),
    ):
        started = time.perf_counter()
        evaluations, converged, energies = ase_loop(part, make, options.fmax)
        rates[way] = report(way, len(part), time.perf_counter() - started, evaluations, converged)
    for way, rate in rates.items():
        print(f"batch over {way}: {batch / rate:.1f} x")
    numbers = range(0, len(every), step)
    differences = [1e3 * (many[i].final.energy_per_atom - e) for i, e in zip(numbers, energies, strict=True)]
    alone = [1e3 * (many[i].final.energy_per_atom - r.final.energy_per_atom) for i, r in zip(numbers, one, strict=True)]
    same = sum(abs(d) < 1.0 for d in differences)
    print(f"same minimum as ASE (1 meV/atom): {same} of {len(differences)}, lower {sum(d < -1 for d in differences)}")
    print(f"same minimum as one at a time: {sum(abs(d) < 1.0 for d in alone)} of {len(alone)}")


if __name__ == "__main__":
    main()
