"""What a slope other than 1 means: sign, units, energies per atom.

A slope k = dE / W: labels of stress or force that are f times too large give k = 1 / f; energies c times too large
give k = c in all parts. CODATA 2018 through ASE.
"""

from __future__ import annotations

from dataclasses import dataclass

from ase.units import Bohr, GPa, Hartree, Rydberg, kcal, kJ, mol

STRESS = {
    "eV/Å³": 1.0,
    "GPa": 1.0 / GPa,
    "kbar": 10.0 / GPa,
    "bar": 1e4 / GPa,
    "Hartree/Bohr³": Bohr**3 / Hartree,
    "Rydberg/Bohr³": Bohr**3 / Rydberg,
}
"""How much larger a stress is as a number in these units than in eV/Å^3."""

FORCES = {
    "eV/Å": 1.0,
    "Hartree/Bohr": Bohr / Hartree,
    "Rydberg/Bohr": Bohr / Rydberg,
    "Hartree/Å": 1.0 / Hartree,
    "kcal/mol/Å": mol / kcal,
    "kJ/mol/Å": mol / kJ,
    "eV/Bohr": Bohr,
}
ENERGY = {"eV": 1.0, "Hartree": 1.0 / Hartree, "Rydberg": 1.0 / Rydberg, "kcal/mol": mol / kcal, "kJ/mol": mol / kJ}


@dataclass(frozen=True)
class Meaning:
    """A named reason for a slope.

    Attributes
    ----------
    slope : float
        The slope it would give.
    text : str
        What the labels are.
    remedy : str
    """

    slope: float
    text: str
    remedy: str


def stress_meanings(volume: float) -> list[Meaning]:
    """Reasons for slopes of stresses, in structures of a mean volume (Å^3)."""
    found = []
    for unit, factor in STRESS.items():
        for sign in (1, -1):
            if unit == "eV/Å³" and sign == 1:
                continue
            reversed_sign = " with the sign of a pressure" if sign < 0 else ""
            scale = "" if factor == 1.0 else f" by {factor:.6g}"
            remedy = f"divide the stresses{scale}" if scale else "reverse the sign of the stresses"
            if scale and sign < 0:
                remedy = f"divide the stresses by {-factor:.6g}"
            found.append(Meaning(sign / factor, f"stresses in {unit}{reversed_sign}", remedy))
    if volume == volume:
        for sign in (1, -1):  # the virial is usually defined as -V sigma
            what = "the stresses are V σ in eV" if sign > 0 else "the stresses are virials (-V σ) in eV"
            found.append(Meaning(sign / volume, what, f"divide by {'' if sign > 0 else 'minus '}the volume"))
    return found


def force_meanings() -> list[Meaning]:
    """Reasons for slopes of forces."""
    found = []
    for unit, factor in FORCES.items():
        for sign in (1, -1):
            if unit == "eV/Å" and sign == 1:
                continue
            text = f"forces in {unit}" + (", reversed (gradients)" if sign < 0 else "")
            remedy = "reverse the sign of the forces" if factor == 1.0 else f"divide the forces by {sign * factor:.6g}"
            found.append(Meaning(sign / factor, text, remedy))
    return found


def energy_meanings(atoms: float) -> list[Meaning]:
    """Reasons for one slope that all parts share, in structures of a mean number of atoms."""
    found = [
        Meaning(factor, f"energies in {unit}", f"divide the energies by {factor:.6g}")
        for unit, factor in ENERGY.items()
        if unit != "eV"
    ]
    if atoms > 1.5:
        found.append(Meaning(1.0 / atoms, "energies per atom", "multiply the energies by the number of atoms"))
    return found


def nearest(slope: float, meanings: list[Meaning], tolerance: float) -> Meaning | None:
    """The meaning whose slope is within ``tolerance`` (relative), if any."""
    near = [m for m in meanings if abs(slope / m.slope - 1.0) < tolerance]
    return min(near, key=lambda m: abs(slope / m.slope - 1.0), default=None)
