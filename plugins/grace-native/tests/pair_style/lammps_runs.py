"""Write inputs, run LAMMPS, read what it found; and the same from GraceCalculator."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers

from gracecli import GraceCalculator

BIN = Path(sys.executable).parent
ELEMENTS = ("Al", "Cu")
BAR = 1 / 1.6021765e6  # eV/Å^3, as LAMMPS rounds it (nktv2p of units metal)


@dataclass
class Run:
    """One evaluation: eV, eV/Å, eV/Å^3."""

    energy: float
    energies: np.ndarray
    forces: np.ndarray
    stress: np.ndarray  # xx yy zz yz xz xy, tensile positive
    virials: np.ndarray  # per atom, eV, as many components as asked for
    log: str


def in_lammps_frame(atoms: Atoms) -> Atoms:
    """The same structure turned so that the cell is lower triangular; without a cell, in a large box."""
    atoms = atoms.copy()
    if not atoms.pbc.any():
        atoms.center(vacuum=20.0)
        return atoms
    form, _ = atoms.cell.standard_form()
    atoms.set_cell(form, scale_atoms=True)
    # LAMMPS wants small tilts: xy, xz within half of x, yz within half of y
    cell = np.array(atoms.cell)
    cell[2] -= round(cell[2, 1] / cell[1, 1]) * cell[1]
    cell[2] -= round(cell[2, 0] / cell[0, 0]) * cell[0]
    cell[1] -= round(cell[1, 0] / cell[0, 0]) * cell[0]
    atoms.set_cell(cell, scale_atoms=False)
    return atoms


def write_data(path: Path, atoms: Atoms, elements: Sequence[str] = ELEMENTS) -> None:
    """LAMMPS data file with all digits."""
    cell = np.array(atoms.cell)
    lines = ["test", "", f"{len(atoms)} atoms", f"{len(elements)} atom types"]
    lines += [f"0 {cell[k, k]!r} {x}lo {x}hi" for k, x in enumerate("xyz")]
    if abs(cell[1, 0]) + abs(cell[2, 0]) + abs(cell[2, 1]) > 0:
        lines.append(f"{cell[1, 0]!r} {cell[2, 0]!r} {cell[2, 1]!r} xy xz yz")
    lines += ["", "Masses", ""]
    lines += [f"{k} {atomic_masses[atomic_numbers[e]]!r}" for k, e in enumerate(elements, 1)]
    lines += ["", "Atoms # atomic", ""]
    for k, (symbol, r) in enumerate(zip(atoms.symbols, atoms.positions, strict=True), 1):
        lines.append(f"{k} {elements.index(symbol) + 1} " + " ".join(repr(float(x)) for x in r))
    path.write_text("\n".join(lines).replace("np.float64(", "").replace(")", "") + "\n")


def header(plugin: Path, data: Path, potential: str, boundary: str = "p p p", processors: str = "* * *") -> str:
    """Input up to the forces."""
    return (
        f"units metal\natom_style atomic\nboundary {boundary}\nprocessors {processors}\nplugin load {plugin}\n"
        f"box tilt large\nread_data {data}\n{potential}\nneighbor 1.0 bin\nneigh_modify every 1 delay 0 check yes\n"
    )


def lammps(
    folder: Path, text: str, ranks: int = 1, name: str = "in.test", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run LAMMPS; stdout holds its log."""
    (folder / name).write_text(text)
    command = [str(BIN / "lmp"), "-in", name, "-log", "none"]
    if ranks > 1:
        command = [str(BIN / "mpirun"), "-n", str(ranks), *command]
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "LAMMPS_PLUGIN_PATH": ""}
    env["GRACE_CACHE"] = str(folder / "no-cache")  # the plugin under test is the one the input loads
    return subprocess.run(
        command, cwd=folder, env={**env, **(environment or {})}, capture_output=True, text=True, check=False,
        timeout=280,
    )  # fmt: skip


def evaluate(
    folder: Path, atoms: Atoms, potential: str, plugin: Path, ranks: int = 1, processors: str = "* * *",
    compute: str = "stress/atom NULL virial", components: int = 6,
) -> Run:  # fmt: skip
    """Energies, forces and stress of a structure (cell lower triangular) by LAMMPS."""
    write_data(folder / "data", atoms)
    boundary = " ".join("p" if p else "m" for p in atoms.pbc)
    columns = " ".join(f"c_s[{k}]" for k in range(1, components + 1))
    pressures = " ".join(f"$(c_p[{k}]:%.17g)" for k in range(1, 7))
    text = header(plugin, folder / "data", potential, boundary, processors) + (
        f"compute e all pe/atom\ncompute s all {compute}\ncompute p all pressure NULL virial\n"
        "thermo_style custom step pe c_p[1]\n"
        f"dump d all custom 1 out.dump id fx fy fz c_e {columns}\ndump_modify d sort id format float %.17g\n"
        f'run 0\nprint "RESULT $(pe:%.17g) $(vol:%.17g) {pressures}"\n'
    )
    done = lammps(folder, text, ranks)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    numbers = np.array(line.split()[1:], dtype=float)
    rows = np.loadtxt(folder / "out.dump", skiprows=9, ndmin=2)
    pressure = numbers[2:]  # bar, xx yy zz xy xz yz
    stress = -pressure[[0, 1, 2, 5, 4, 3]] * BAR
    return Run(numbers[0], rows[:, 4], rows[:, 1:4], stress, -rows[:, 5:] * BAR, done.stdout)


def reference(model: Path, atoms: Atoms, precision: str = "fp64") -> Run:
    """The same from GraceCalculator with the native engine."""
    atoms = atoms.copy()
    atoms.calc = GraceCalculator(model, engine="native", precision=precision, threads=1)
    energy = atoms.get_potential_energy()
    stress = atoms.get_stress() if atoms.pbc.all() else np.full(6, np.nan)
    return Run(energy, atoms.get_potential_energies(), atoms.get_forces(), stress, np.empty(0), "")
