"""Properties of elemental crystals by a model beside DFT, as a table in Markdown.

    python tools/crystal_properties.py [MODEL] [--data ../shared]

    E_vac = E(N - 1, relaxed) - (N - 1) / N E(N)          54 (bcc), 108 (fcc), 64 (diamond) sites at the model's a
    gamma = (E_slab - n E_bulk) / (2 A)                   slabs of the data sets, relaxed from the DFT geometry

Elastic constants are those of stresses at strains of 1 and 2 %, the window of the DFT values, with clamped ions for
diamond lattices, because those of the data are.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.units import _e

from gracecli.engine.calculator import GraceCalculator
from gracecli.fit.sources import read_source
from gracecli.run.elastic import ElasticSettings, elastic
from gracecli.run.relax import RelaxSettings, relax

LATTICES = {
    "Li": "bcc", "Si": "diamond", "Ni": "fcc", "Cu": "fcc", "Ge": "diamond", "Nb": "bcc", "Mo": "bcc", "Ta": "bcc",
    "W": "bcc", "Ag": "fcc", "Au": "fcc",
}  # fmt: skip
REPEATS = {"bcc": 3, "fcc": 3, "diamond": 2}
BY_ENERGY = ("Li", "Nb")
"""Elements whose shear stresses contradict their energies: C44 is the one of the energies."""
J_PER_M2 = _e * 1e20
"""J/m^2 per eV/Å^2."""
COLUMNS = {
    "a": ("a (Å)", "{:.3f}"), "C11": ("C11 (GPa)", "{:.0f}"), "C12": ("C12 (GPa)", "{:.0f}"),
    "C44": ("C44 (GPa)", "{:.0f}"), "B": ("B (GPa)", "{:.0f}"), "vacancy": ("vacancy (eV)", "{:.2f}"),
    "surface": ("lowest surface (J/m²)", "{:.2f}"),
}  # fmt: skip


@dataclass
class Crystal:
    """Properties of one element by a model and by DFT: Å, GPa, eV, J/m².

    Attributes
    ----------
    model, dft : dict
        ``a``, ``C11``, ``C12``, ``C44``, ``B``, ``vacancy``, ``surface`` (the lowest of DFT); DFT where it is known.
    slabs : list of (str, float, float)
        Miller indices and surface energies by model and DFT.
    """

    element: str
    model: dict[str, float] = field(default_factory=dict)
    dft: dict[str, float] = field(default_factory=dict)
    slabs: list[tuple[str, float, float]] = field(default_factory=list)


# --- the model ------------------------------------------------------------------------------------------------------


def crystal(element: str, calculator: GraceCalculator, shared: Path, start: float | None = None) -> Crystal:
    """All properties of one element.

    Parameters
    ----------
    element : str
    calculator : GraceCalculator
    shared : Path
        Folder with ``reference`` and ``datasets``.
    start : float, optional
        Lattice constant to begin from, Å. [default: that of DFT, else the experimental one ASE knows]
    """
    found = Crystal(element, dft=reference(element, shared))
    lattice = LATTICES[element]
    start = start or found.dft.get("a")
    perfect = relax(
        bulk(element, lattice, a=start, cubic=True), calculator, RelaxSettings(cell="full", fmax=1e-3, smax=1e-3)
    ).atoms
    energy = energy_of(perfect, calculator) / len(perfect)
    settings = ElasticSettings(method="stress", strain=0.01, clamped=lattice == "diamond")
    tensor = elastic(perfect, calculator, settings).tensor
    found.model = {
        "a": float(perfect.cell.lengths()[0]),
        "C11": float(tensor[0, 0]),
        "C12": float(tensor[0, 1]),
        "C44": float(tensor[3, 3]),
        "B": float(tensor[0, 0] + 2 * tensor[0, 1]) / 3,
        "vacancy": vacancy(perfect, REPEATS[lattice], energy, calculator),
    }
    for hkl, atoms, gamma in slabs(element, shared):
        found.slabs.append((hkl, surface(atoms, energy, calculator), gamma))
    if found.slabs:
        _, found.model["surface"], found.dft["surface"] = min(found.slabs, key=lambda slab: slab[2])
    return found


def energy_of(atoms: Atoms, calculator: GraceCalculator) -> float:
    """Energy in eV."""
    atoms = atoms.copy()
    atoms.calc = calculator
    return float(atoms.get_potential_energy())


def vacancy(perfect: Atoms, repeat: int, energy: float, calculator: GraceCalculator) -> float:
    """Formation energy (eV) of a vacancy in a relaxed supercell of fixed size; ``energy`` of the crystal in eV/atom."""
    holed = perfect.repeat(repeat)
    del holed[0]
    result = relax(holed, calculator, RelaxSettings(fmax=0.005))
    return float(result.final.energy - len(holed) * energy)


def surface(slab: Atoms, energy: float, calculator: GraceCalculator) -> float:
    """Surface energy (J/m²) of a slab whose third axis leaves the surface, relaxed at fixed cell."""
    result = relax(slab, calculator, RelaxSettings(fmax=0.01))
    area = float(np.linalg.norm(np.cross(slab.cell[0], slab.cell[1])))
    return float(result.final.energy - len(slab) * energy) / (2 * area) * J_PER_M2


# --- DFT ------------------------------------------------------------------------------------------------------------


def reference(element: str, shared: Path) -> dict[str, float]:
    """What ``reference`` knows of an element by DFT (sources: :data:`SOURCES`)."""
    found: dict[str, float] = {}
    for row in _rows(shared, "elements_elastic_expt_and_pbe.csv"):
        if row["element"] == element and row["kind"] == "VASP-PBE" and element in ("Ag", "Au"):
            found = {name: float(row[name.lower()]) for name in ("C11", "C12", "C44")}
            found["B"] = (found["C11"] + 2 * found["C12"]) / 3
    for row in _rows(shared, "dft_elastic_from_datasets.csv"):  # Mo: the later row, as the slabs of nbmotaw
        if row["element"] == element:
            found = {name: float(row[name]) for name in ("C11", "C12", "C44", "B")}
            if element in BY_ENERGY:
                found["C44"] = float(row["C44_energy"])
            found["a"] = float(row["a0_cell_A"]) * (1 + float(row["residual_pressure_GPa"]) / (3 * found["B"]))
    for row in _rows(shared, "jarvis_vacancy_elements.csv"):
        if row["element"] == element and element != "W":  # 7.3 eV: no vacancy of bcc W
            found["vacancy"] = float(row["vacancy_formation_energy_eV"])
    for row in _rows(shared, "zuo2020_dft_properties_FROM_MEMORY.csv"):
        if row["element"] == element:
            found["vacancy"] = float(row["E_vac_eV"])
    return found


def slabs(element: str, shared: Path) -> list[tuple[str, Atoms, float]]:
    """Miller indices, DFT geometry and surface energy (J/m²) of the slabs in the data; not of Ge (another zero)."""
    found = []
    for row in _rows(shared, "dft_surface_energies_from_datasets.csv"):
        wanted = "nbmotaw" if element == "Mo" else row["dataset"]  # as the bulk energy of the lattice constant
        if row["element"] != element or element == "Ge" or row["dataset"] != wanted:
            continue
        atoms = _structures(str(shared / "datasets" / row["dataset"])).get(row["source_id"])
        if atoms is not None:
            found.append((row["hkl"], atoms, float(row["gamma_J_per_m2"])))
    return found


SOURCES = """DFT (PBE): a, elastic constants and surfaces from the cells of the training data: strained cells
(`dft_elastic_from_datasets`; C44 of Li and Nb from energies, because their shear stresses contradict them; clamped ions
for Si and Ge, as in the data) and slabs (`dft_surface_energies_from_datasets`, good to 0.2 J/m²; those of Ge have
another energy zero); elastic constants of Ag and Au from the abacus-test collection. Vacancies: Zuo et al. (2020),
quoted from memory and unverified, for Li, Si, Ni, Cu, Ge and Mo; JARVIS-DFT (OptB88vdW, 0.1 - 0.3 eV from PBE) for Nb,
Ta, Ag and Au; its 7.3 eV for W are no vacancy of bcc W."""


@cache
def _rows(shared: Path, name: str) -> list[dict[str, str]]:
    with (shared / "reference" / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def _structures(folder: str) -> dict[str, Atoms]:
    found = {}
    for name in ("train", "test"):
        path = Path(folder) / f"{name}.extxyz.gz"
        if path.exists():
            for atoms in read_source(str(path)).images:
                found[str(atoms.info["source_id"])] = Atoms(
                    atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True
                )
    return found


# --- the table ------------------------------------------------------------------------------------------------------


def table(crystals: list[Crystal]) -> str:
    """Markdown: the model's value, DFT in brackets; the last row is the mean relative deviation."""
    lines = [
        f"| element | {' | '.join(title for title, _ in COLUMNS.values())} | all slabs, mean deviation (J/m²) |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for c in crystals:
        cells = [_cell(c, name, form) for name, (_, form) in COLUMNS.items()]
        differences = [abs(model - dft) for _, model, dft in c.slabs]
        last = f"{np.mean(differences):.2f} ({len(differences)})" if differences else ""
        lines.append(f"| {c.element} | {' | '.join(cells)} | {last} |")
    means = [_mean(crystals, name) for name in COLUMNS]
    relative = [abs(model / dft - 1) for c in crystals for _, model, dft in c.slabs]
    lines.append(f"| mean deviation | {' | '.join(means)} | {100 * np.mean(relative):.1f} % |")
    return "\n".join(lines)


def _cell(c: Crystal, name: str, form: str) -> str:
    if name not in c.model:
        return ""
    dft = f" ({form.format(c.dft[name])})" if name in c.dft else ""
    return form.format(c.model[name]) + dft


def _mean(crystals: list[Crystal], name: str) -> str:
    pairs = [(c.model[name], c.dft[name]) for c in crystals if name in c.model and name in c.dft]
    if not pairs:
        return ""
    return f"{100 * np.mean([abs(model / dft - 1) for model, dft in pairs]):.{2 if name == 'a' else 0}f} %"


def to_dict(crystals: list[Crystal]) -> dict[str, Any]:
    """For the model file."""
    return {c.element: {"model": c.model, "dft": c.dft, "slabs": [list(slab) for slab in c.slabs]} for c in crystals}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="name or file (default: the bundled model)")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    options = parser.parse_args()
    calculator = GraceCalculator(model=options.model)
    known = [element for element in LATTICES if element in calculator.engine.elements]
    print(table([crystal(element, calculator, options.data) for element in known]))
    print(f"\n{SOURCES}")


if __name__ == "__main__":
    main()
