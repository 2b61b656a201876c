"""Reading structures, and writing them back."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write

from gracecli.errors import InputError
from gracecli.run.outputs import Source, Target, TrajectoryWriter, plan_outputs, write_structures
from gracecli.run.structures import Structure, read_structures

POSCAR = """Si and comment
1.0
5.4 0 0
0.1 5.5 0
0 0.2 5.6
Si
2
Selective dynamics
{style}
0.0 0.0 0.0 {first}
0.25 0.25 {z} {second}
"""


def only(path) -> Structure:
    (found,) = read_structures(str(path))
    assert isinstance(found, Structure)
    return found


def fails(argument, *words):
    """The message of the one error that reading ``argument`` gives."""
    try:
        (error,) = read_structures(str(argument))
    except InputError as raised:
        error = raised
    assert isinstance(error, InputError)
    assert error.exit_code == 4
    assert "\n" not in error.message
    for word in (str(argument), *words):
        assert word in error.message
    return error


@pytest.mark.parametrize("flags", ["F F F", "f f f", ".FALSE. .FALSE. .FALSE.", ".F. .f. F"])
def test_selective_dynamics_in_every_fortran_spelling(tmp_path, flags):
    path = tmp_path / "POSCAR"
    path.write_text(POSCAR.format(style="Direct", first=flags, second=".TRUE. t T", z=0.25))
    structure = only(path)
    (constraint,) = structure.atoms.constraints
    assert constraint.index.tolist() == [0]
    assert structure.direct


@pytest.mark.parametrize(("style", "direct"), [("Direct", True), ("Cartesian", False), ("kartesisch", False)])
def test_poscar_keeps_style_and_flags(tmp_path, style, direct):
    path = tmp_path / "Si.poscar"
    path.write_text(POSCAR.format(style=style, first="F F F", second="T F T", z=0.25 if direct else 2.3))
    structure = only(path)
    assert structure.direct is direct
    target = Target(tmp_path / "out.poscar", "vasp", structure.direct)
    write_structures(target, [structure.atoms], "grace relax: converged")
    lines = target.path.read_text().splitlines()
    assert lines[7:9] == ["Selective dynamics", "Direct" if direct else "Cartesian"]
    assert [line.split()[3:] for line in lines[9:11]] == [["F", "F", "F"], ["T", "F", "T"]]
    assert "grace relax: converged" in lines[0]
    np.testing.assert_allclose(read(target.path).positions, structure.atoms.positions, atol=1e-12)


def test_errors_name_file_and_cause(tmp_path):
    fails(tmp_path / "nothing", "no such file")
    fails(tmp_path, "is a folder")
    empty = tmp_path / "empty.cif"
    empty.touch()
    fails(empty, "empty")
    noise = tmp_path / "noise.bin"
    noise.write_bytes(b"\x00\x01 not a structure\n" * 20)
    fails(noise, "unknown file format")
    text = tmp_path / "README.md"  # ASE takes .md for CASTEP's output of molecular dynamics
    text.write_text("# structures\n\nOne per line.\n")
    fails(text, "no structure in the file")
    cut = tmp_path / "POSCAR"
    cut.write_text("Si\n1.0\n5 0 0\n0 5 0\n")
    fails(cut, "not a complete POSCAR")
    cut.write_text("Si\n1.0\n5 0 0\n0 5 0\n0 0 5\nXx\n1\nDirect\n0 0 0\n")
    fails(cut, "unknown element 'Xx'")
    xyz = tmp_path / "a.xyz"
    xyz.write_text("1\n\nXq 0 0 0\n")
    fails(xyz, "unknown element 'Xq'")
    xyz.write_text("2\n\nCu 0 0 0\nCu 0 0 nan\n")
    fails(xyz, "atom 2 is not a number")
    xyz.write_text("0\n\n")
    fails(xyz, "no atoms")
    xyz.write_text("2\n\nCu 0 0 0\nCu 0 0 0.2\n")
    fails(xyz, "atoms 1 (Cu) and 2 (Cu) are on top of each other", "0.200 Å")
    xyz.write_text('1\nLattice="3 0 0 3 0 0 0 0 3" pbc="T T T"\nCu 0 0 0\n')
    fails(xyz, "one plane")


def test_atoms_may_overlap_across_the_boundary_only_by_error(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text('2\nLattice="5 0 0 0 5 0 0 0 5" pbc="T T T"\nCu 0.1 0 0\nCu 4.9 0 0\n')
    fails(path, "on top of each other", "0.200 Å")


def test_partial_occupancy_is_not_silently_ordered(tmp_path):
    atoms = bulk("Cu", cubic=True)
    path = tmp_path / "a.cif"
    write(path, atoms)
    path.write_text(path.read_text().replace("0.0  0.0  0.0  1.0000", "0.0  0.0  0.0  0.5000"))
    fails(path, "partially occupied")


def test_every_frame_of_extxyz_and_the_last_of_a_history(tmp_path):
    frames = [bulk("Cu", a=a) for a in (3.5, 3.6, 3.7)]
    path = tmp_path / "a.extxyz"
    write(path, frames)
    names = [item.name for item in read_structures(str(path))]
    assert names == [f"{path}#{number}" for number in (1, 2, 3)]
    (last,) = read_structures(f"{path}@-1")
    assert last.atoms.cell.volume == pytest.approx(3.7**3 / 4)
    history = tmp_path / "a.traj"
    write(history, frames)
    assert only(history).atoms.cell.volume == pytest.approx(3.7**3 / 4)


def test_output_names_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = ["a/POSCAR", "b/POSCAR", "b/c/POSCAR", "x.cif", "x.vasp", "y/run.xml"]
    sources = [Source(tmp_path / path, "vasp") for path in paths[:3]]
    sources += [Source(tmp_path / "x.cif", "cif"), Source(tmp_path / "x.vasp", "vasp")]
    sources += [Source(tmp_path / "vasprun.xml", "vasp-xml"), Source(tmp_path / "POSCAR.gz", "vasp")]
    names = [str(target.path) for target in plan_outputs(sources, None, force=False)]
    assert len(set(names)) == len(names)
    assert names[3:] == ["x.relaxed.cif", "x.relaxed.vasp", "vasprun.xml.relaxed.extxyz", *names[-1:]]
    assert "a-POSCAR.relaxed" in names
    same = plan_outputs([Source(tmp_path / "a/POSCAR", "vasp")] * 2, None, force=False)
    assert same[0].path != same[1].path


def test_output_must_be_writable_and_is_not_overwritten(tmp_path):
    source = Source(tmp_path / "POSCAR", "vasp")
    existing = tmp_path / "out.poscar"
    existing.write_text("precious")
    with pytest.raises(InputError, match="exists"):
        plan_outputs([source], existing, force=False)
    assert plan_outputs([source], existing, force=True)[0].path == existing
    with pytest.raises(InputError, match="cannot write"):
        plan_outputs([source], tmp_path / "no" / "folder" / "out.cif", force=False)
    with pytest.raises(InputError, match="is a file"):
        plan_outputs([source, source], existing, force=True)
    with pytest.raises(InputError, match="not written as whatever"):
        plan_outputs([source], tmp_path / "out.whatever", force=False)
    with pytest.raises(InputError, match="can hold one structure"):
        plan_outputs([Source(tmp_path / "a.extxyz", "extxyz", frames=2)], tmp_path / "out.poscar", force=False)
    assert existing.read_text() == "precious"


def test_cif_holds_the_cell_in_full(tmp_path):
    atoms = bulk("Cu", a=3.61234567891, cubic=True)
    target = Target(tmp_path / "a.cif", "cif")
    write_structures(target, [atoms], "comment")
    assert read(target.path).cell.volume == pytest.approx(atoms.cell.volume, rel=1e-9)


def test_trajectory_frames_are_whole_and_hold_raw_forces(tmp_path):
    atoms = bulk("Cu", cubic=True)
    forces = np.arange(12.0).reshape(4, 3)
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=forces, stress=np.arange(6.0))
    atoms.info["energy"] = 99.0  # left over from the input file
    writer = TrajectoryWriter(tmp_path / "t.extxyz")
    writer.append(atoms, step=0)
    writer.append(atoms, step=1)
    on_disk = read(tmp_path / "t.extxyz", ":")  # readable before it is closed
    writer.close()
    assert [frame.info["step"] for frame in on_disk] == [0, 1]
    assert on_disk[1].get_potential_energy() == -1.5
    np.testing.assert_array_equal(on_disk[1].get_forces(apply_constraint=False), forces)
    np.testing.assert_allclose(on_disk[1].get_stress(), np.arange(6.0))
