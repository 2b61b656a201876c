"""``grace relax`` on every example structure, against an independent ASE run with the same model."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import BFGS
from ase.units import GPa
from click.testing import CliRunner

from gracecli import GraceCalculator
from gracecli.cli.main import main

pytestmark = pytest.mark.physics

STRUCTURES = Path(__file__).parents[2] / "data" / "structures"
# cell mode: bulk cells relax fully, the slab and the vacancy cell keep theirs
EXAMPLES = {
    "Si.poscar": "full",
    "Cu.cif": "full",
    "Mo.poscar": "full",
    "Ni-vacancy.extxyz": "none",
    "Li-slab.poscar": "none",
    "Ge-shifted.cif": "full",
    "MoTa-B2.poscar": "full",
}


@pytest.fixture(scope="module")
def calculator() -> GraceCalculator:
    return GraceCalculator()


def test_no_example_is_left_out() -> None:
    files = {p.name for p in STRUCTURES.iterdir() if p.suffix not in (".md", ".py")}
    assert files == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_converges_and_agrees_with_ase(
    name: str, calculator: GraceCalculator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["relax", str(STRUCTURES / name), "--cell", EXAMPLES[name], "--fmax", "5e-4", "--smax", "1e-3"]
    done = CliRunner().invoke(main, [*arguments, "--steps", "2000", "--json"])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    assert result["status"] == "converged"

    # the numbers printed are those of the structure written, evaluated by itself
    atoms = read(result["output"])
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(result["final"]["energy"], abs=1e-6)
    free = np.linalg.norm(atoms.get_forces(), axis=1).max()
    assert free == pytest.approx(result["final"]["max_force"], abs=1e-5)
    if EXAMPLES[name] == "full":
        assert atoms.get_stress() / GPa == pytest.approx(np.array(result["final"]["stress"]), abs=1e-4)

    # another optimizer, and ASE's own cell filter, find the same minimum
    other = read(STRUCTURES / name)
    other.calc = calculator
    target = FrechetCellFilter(other) if EXAMPLES[name] == "full" else other
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy doubts its matrix logarithm in ASE's filter
        BFGS(target, logfile=None).run(fmax=5e-4, steps=1000)
    print(f"{name}: {result['final']['energy']:.6f} eV, ASE {other.get_potential_energy():.6f} eV")
    per_atom = (other.get_potential_energy() - result["final"]["energy"]) / len(other)
    assert per_atom == pytest.approx(0.0, abs=1e-6)
