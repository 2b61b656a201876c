"""Files of other programs: which energy, which sign of the stress, which units, and the forces of fixed atoms."""

from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.units import GPa

from gracecli import Store
from gracecli.errors import InputError
from gracecli.store.formats import read_file

SAMPLES = Path(__file__).parent / "samples"
LABELLED = ("vasprun.xml", "OUTCAR", "steps.traj", "steps.extxyz", "steps.db")
ENTROPY = (-0.012, -0.031)  # the samples' smearing term, eV


@pytest.fixture(params=LABELLED)
def reading(request, tmp_path):
    path = SAMPLES / request.param
    if request.param == "steps.db":
        path = tmp_path / "steps.db"
        with ase.db.connect(path) as database:
            for atoms in ase.io.read(SAMPLES / "steps.traj", ":"):
                database.write(atoms)
    return read_file(path)


def volume(entry):
    return float(abs(np.linalg.det(entry.cell)))


def test_energy_and_stress_are_those_of_one_energy_function(reading):
    """Expanding a compressed crystal by dV lowers its free energy by P dV; 15 GPa, tensile-positive stress below 0."""
    one, two = reading.entries
    assert one.free_energy
    change = two.energy - one.energy
    pressure = -(one.stress[:3].mean() + two.stress[:3].mean()) / 2
    assert 14 < pressure / GPa < 16
    assert change < 0
    assert abs(change + pressure * (volume(two) - volume(one))) < 1e-5


def test_the_other_energies_of_vasp_are_kept_apart(reading):
    for entry, entropy in zip(reading.entries, ENTROPY, strict=True):
        assert abs(entry.results["energy"] - (entry.energy - entropy / 2)) < 2e-8


def test_labels_are_those_of_the_calculator(reading):
    """Components, order and units, against EMT itself on the structure that was read."""
    digits = 2e-4 if reading.format == "vasp-out" else 1e-6  # OUTCAR prints positions with five digits
    for entry in reading.entries:
        atoms = ase.Atoms(entry.numbers, entry.positions, cell=entry.cell, pbc=entry.pbc, calculator=EMT())
        assert abs(atoms.get_potential_energy() - entry.energy) < digits
        assert np.abs(atoms.get_forces() - entry.forces).max() < digits
        assert np.abs(atoms.get_stress() - entry.stress).max() < digits
        assert np.abs(entry.stress[3:]).max() > 2e-5  # or their order would not be tested


def test_forces_of_fixed_atoms_are_as_calculated(reading):
    fixed = [entry.mask is not None and entry.mask[0] == 7 for entry in reading.entries]
    assert fixed == [reading.format != "extxyz"] * 2
    for entry in reading.entries:
        assert np.linalg.norm(entry.forces[0]) > 0.1
    assert any("not zeroed" in note for note in reading.notes) == all(fixed)


def test_partly_fixed_atoms_of_vasp_keep_their_force_too(tmp_path):
    entry = read_file(SAMPLES / "vasprun.xml").entries[0]
    assert np.abs(entry.forces[1, 2]) > 0.05  # along the direction that is fixed
    with Store(tmp_path / "s.h5", "a") as store:
        store.append([entry])
        atoms = store[0]
    assert np.array_equal(atoms.get_forces(apply_constraint=False), entry.forces)
    assert {type(c).__name__ for c in atoms.constraints} == {"FixAtoms", "FixScaled"}
    assert atoms.get_forces()[1, 2] == 0


def test_what_is_converted_is_said():
    for name in ("vasprun.xml", "OUTCAR"):
        (note,) = [note for note in read_file(SAMPLES / name).notes if "kB" in note]
        assert "tensile-positive" in note
        assert "free energy" in note
    assert read_file(SAMPLES / "vasprun.xml").entries[0].method == "VASP 6.4.2 GGA=PE ENMAX=520.00000000 ISPIN=1"


def test_an_unnamed_energy_is_said_to_be_taken_as_it_is(tmp_path):
    atoms = ase.io.read(SAMPLES / "steps.traj")
    atoms.calc.results.pop("free_energy")
    ase.io.write(tmp_path / "x.traj", atoms)
    assert any("does not call free energy" in note for note in read_file(tmp_path / "x.traj").notes)


@pytest.mark.parametrize(("name", "fixed"), [("POSCAR", True), ("Cu.cif", False)])
def test_bare_structures(name, fixed):
    (entry,) = read_file(SAMPLES / name).entries
    assert entry.energy is None
    assert entry.forces is None
    assert (entry.mask is not None) == fixed
    assert abs(volume(entry) - 42.144192) < 1e-5


def test_a_truncated_vasprun_gives_the_finished_steps(tmp_path):
    text = (SAMPLES / "vasprun.xml").read_text()
    cut = text.index("<scstep>", text.index("</calculation>"))
    (tmp_path / "vasprun.xml").write_text(text[:cut])
    (entry,) = read_file(tmp_path / "vasprun.xml").entries
    assert entry.energy == read_file(SAMPLES / "vasprun.xml").entries[0].energy


@pytest.mark.parametrize("name", ["vasprun.xml", "OUTCAR", "steps.extxyz", "steps.traj"])
def test_damaged_files_are_one_line(tmp_path, name):
    path = tmp_path / name
    path.write_bytes((SAMPLES / name).read_bytes()[:300])
    with pytest.raises(InputError) as error:
        read_file(path)
    assert str(path) in error.value.message
    assert "\n" not in error.value.message
