# ruff: noqa: E501 (lines of other programs)
"""Writes the sample files of this folder: one calculation, as each program prints it.

Fcc copper under pressure: two ionic steps, the second with a 0.5 % larger volume; atom 1 fixed, atom 2
fixed along its third lattice vector. Forces, stress and free energy are those of ASE's EMT; VASP's smearing term
(E0 = F - sigma term) is set by hand and differs between the steps, so that only the free energy is consistent with the
forces and the stress.

    python tests/store/samples/make_samples.py
"""

from pathlib import Path

import ase.io
import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

HERE = Path(__file__).parent
ENTROPY = (-0.012, -0.031)  # eV: E(without entropy) = F - this, E(sigma->0) = F - this / 2
FLAGS = ("F F F", "T T F", "T T T", "T T T")


def steps():
    """Two structures with EMT's results."""
    found = []
    for number, scale in enumerate((1.0, 1.005 ** (1 / 3))):
        atoms = bulk("Cu", "fcc", a=3.48, cubic=True)
        atoms.positions += np.array([[0, 0, 0], [0.03, -0.02, 0.05], [0, 0.02, 0], [-0.01, 0, 0.02]])
        atoms.set_cell(atoms.cell * scale, scale_atoms=True)
        atoms.calc = EMT()
        results = {
            "free_energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        found.append((atoms, results, ENTROPY[number]))
    return found


def kilobar(results):
    """Stress as VASP prints it: xx yy zz xy yz zx, kB, positive under compression."""
    return -results["stress"][[0, 1, 2, 5, 3, 4]] / (0.1 * units.GPa)


def varray(name, rows, form="{:16.8f}", indent="  "):
    body = "".join(f"{indent} <v>{''.join(form.format(x) for x in row)} </v>\n" for row in rows)
    return f'{indent}<varray name="{name}" >\n{body}{indent}</varray>\n'


def structure(atoms, name=None):
    head = f' <structure name="{name}" >\n' if name else " <structure>\n"
    crystal = varray("basis", atoms.cell.array, indent="   ") + f'   <i name="volume">{atoms.get_volume():16.8f} </i>\n'
    crystal += varray("rec_basis", np.linalg.inv(atoms.cell.array).T, indent="   ")
    text = f"{head}  <crystal>\n{crystal}  </crystal>\n" + varray("positions", atoms.get_scaled_positions())
    if name == "initialpos":
        rows = "".join(f'   <v type="logical"> {flags.replace(" ", "  ")} </v>\n' for flags in FLAGS)
        text += f'  <varray name="selective"  type="logical" >\n{rows}  </varray>\n'
    return text + " </structure>\n"


def energies(free, entropy, indent):
    names = (("e_fr_energy", free), ("e_wo_entrp", free - entropy), ("e_0_energy", free - entropy / 2))
    return (
        f"{indent}<energy>\n"
        + "".join(f'{indent} <i name="{n}">{v:16.8f} </i>\n' for n, v in names)
        + f"{indent}</energy>\n"
    )


def vasprun(found):
    first = found[0][0]
    parts = [
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n <generator>\n'
        '  <i name="program" type="string">vasp </i>\n  <i name="version" type="string">6.4.2  </i>\n'
        '  <i name="subversion" type="string">20Jul23 (build Aug 01 2023 12:00:00) complex  parallel </i>\n </generator>\n'
        ' <incar>\n  <i type="string" name="PREC">accurate</i>\n  <i name="ENCUT">    520.00000000</i>\n'
        '  <i type="int" name="ISMEAR">     1</i>\n  <i name="SIGMA">      0.20000000</i>\n'
        '  <i type="int" name="NSW">     2</i>\n  <i type="int" name="ISIF">     3</i>\n </incar>\n'
        ' <kpoints>\n  <generation param="Gamma">\n   <v type="int" name="divisions">       1        1        1 </v>\n'
        "  </generation>\n" + varray("kpointlist", [[0, 0, 0]]) + varray("weights", [[1]]) + " </kpoints>\n"
        ' <parameters>\n  <separator name="electronic" >\n   <i name="ENMAX">    520.00000000</i>\n'
        '   <i type="int" name="ISPIN">     1</i>\n  </separator>\n  <separator name="electronic exchange-correlation" >\n'
        '   <i type="string" name="GGA">PE</i>\n  </separator>\n </parameters>\n'
        " <atominfo>\n  <atoms>       4 </atoms>\n  <types>       1 </types>\n"
        '  <array name="atoms" >\n   <dimension dim="1">ion</dimension>\n   <field type="string">element</field>\n'
        '   <field type="int">atomtype</field>\n   <set>\n'
        + "    <rc><c>Cu</c><c>   1</c></rc>\n"
        * 4
        + "   </set>\n  </array>\n"
        '  <array name="atomtypes" >\n   <dimension dim="1">type</dimension>\n   <field type="int">atomspertype</field>\n'
        '   <field type="string">element</field>\n   <field>mass</field>\n   <field>valence</field>\n'
        '   <field type="string">pseudopotential</field>\n   <set>\n'
        "    <rc><c>   4</c><c>Cu</c><c>     63.54600000</c><c>     11.00000000</c><c>  PAW_PBE Cu 22Jun2005                  "
        "</c></rc>\n   </set>\n  </array>\n </atominfo>\n" + structure(first, "initialpos")
    ]
    for atoms, results, entropy in found:
        free = results["free_energy"]
        k = kilobar(results)
        tensor = [[k[0], k[3], k[5]], [k[3], k[1], k[4]], [k[5], k[4], k[2]]]
        parts.append(
            " <calculation>\n  <scstep>\n" + energies(free + 0.0004, entropy, "   ") + "  </scstep>\n"
            "  <scstep>\n"
            + energies(free, entropy, "   ")
            + "  </scstep>\n"
            + structure(atoms)
            + varray("forces", results["forces"])
            + varray("stress", tensor)
            + energies(free, entropy, "  ")
            + ' <eigenvalues>\n  <array>\n   <dimension dim="1">band</dimension>\n   <dimension dim="2">kpoint</dimension>\n'
            '   <dimension dim="3">spin</dimension>\n   <field>eigene</field>\n   <field>occ</field>\n   <set>\n'
            '    <set comment="spin 1">\n     <set comment="kpoint 1">\n      <r>   -1.2500    1.0000 </r>\n'
            "      <r>    6.5000    0.0000 </r>\n     </set>\n    </set>\n   </set>\n  </array>\n </eigenvalues>\n"
            ' <dos>\n  <i name="efermi">      5.12345600 </i>\n </dos>\n </calculation>\n'
        )
    parts.append(structure(found[-1][0], "finalpos") + "</modeling>\n")
    return "".join(parts)


def outcar(found):
    lines = [
        " vasp.6.4.2 20Jul23 (build Aug 01 2023 12:00:00) complex",
        " executed on             LinuxGNU date 2023.09.01  12:00:00",
        " running on    1 total cores",
        "",
        " POTCAR:    PAW_PBE Cu 22Jun2005",
        " POTCAR:    PAW_PBE Cu 22Jun2005",
        "   ISPIN  =      1    spin polarized calculation?",
        "   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS=      2",
        "   number of dos      NEDOS =    301   number of ions     NIONS =      4",
        "   ions per type =               4",
        " k-points in reciprocal lattice and weights: Automatic mesh",
        "   0.00000000  0.00000000  0.00000000       1.000",
        "",
    ]
    for number, (atoms, results, entropy) in enumerate(found, 1):
        free, k = results["free_energy"], kilobar(results)
        lines += [
            f"--------------------------------------- Iteration {number:6d}(   1)  ---------------------------------------",
            "",
            " E-fermi :   5.1235     XC(G=0):  -9.9000     alpha+bet : -8.0000",
            "",
            "  FORCE on cell =-STRESS in cart. coord.  units (eV):",
            "  Direction    XX          YY          ZZ          XY          YZ          ZX",
            "  --------------------------------------------------------------------------------------",
            "  Total  " + "".join(f"{x * 0.1 * units.GPa * atoms.get_volume():12.5f}" for x in k),
            "  in kB  " + "".join(f"{x:12.5f}" for x in k),
            f"  external pressure = {k[:3].mean():11.2f} kB  Pullay stress =        0.00 kB",
            "",
            " VOLUME and BASIS-vectors are now :",
            " -----------------------------------------------------------------------------",
            "  energy-cutoff  :      520.00",
            f"  volume of cell :  {atoms.get_volume():10.2f}",
            "      direct lattice vectors                 reciprocal lattice vectors",
        ]
        reciprocal = np.linalg.inv(atoms.cell.array).T
        lines += [
            "  " + "".join(f"{x:13.9f}" for x in (*a, *b)) for a, b in zip(atoms.cell.array, reciprocal, strict=True)
        ]
        lines += [
            "",
            " POSITION                                       TOTAL-FORCE (eV/Angst)",
            " -----------------------------------------------------------------------------------",
        ]
        lines += [
            "  " + "".join(f"{x:13.5f}" for x in r) + "  " + "".join(f"{x:14.6f}" for x in f)
            for r, f in zip(atoms.positions, results["forces"], strict=True)
        ]
        drift = results["forces"].sum(axis=0)
        lines += [
            " -----------------------------------------------------------------------------------",
            "    total drift:                      " + "".join(f"{x:14.6f}" for x in drift),
            "",
            "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)",
            "  ---------------------------------------------------",
            f"  free  energy   TOTEN  = {free:17.8f} eV",
            "",
            f"  energy  without entropy= {free - entropy:16.8f}  energy(sigma->0) = {free - entropy / 2:16.8f}",
            "",
        ]
    return "\n".join(lines) + "\n"


def main():
    found = steps()
    (HERE / "vasprun.xml").write_text(vasprun(found))
    (HERE / "OUTCAR").write_text(outcar(found))
    images = []
    for atoms, results, entropy in found:
        image = atoms.copy()
        image.calc = SinglePointCalculator(image, energy=results["free_energy"] - entropy / 2, **results)
        image.set_constraint(FixAtoms([0]))
        images.append(image)
    ase.io.write(HERE / "steps.traj", images)
    bare = images[0].copy()
    ase.io.write(HERE / "POSCAR", bare, format="vasp", direct=True)
    bare.set_constraint()
    ase.io.write(HERE / "Cu.cif", bare)
    for image in images:
        image.set_constraint()
    ase.io.write(HERE / "steps.extxyz", images)


if __name__ == "__main__":
    main()
