"""What goes into a store comes out: every bit, every extra column, whatever the format it came in."""

import io

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian, Hookean

from gracecli import Store
from gracecli.errors import InputError, UsageError
from gracecli.store.exporters import export, write_extxyz
from gracecli.store.formats import read_file


def frames():
    rng = np.random.default_rng(3)
    found = []
    for number in range(12):
        atoms = bulk("Si", cubic=True) if number % 2 else Atoms("OH2", positions=rng.normal(size=(3, 3)))
        atoms.rattle(0.1, seed=number)
        atoms.info.update(
            config_type=f"kind {number % 3}", temperature=300.0 / 7, ok=True, n=number, v=rng.normal(size=3)
        )
        atoms.new_array("spin", rng.normal(size=len(atoms)))
        atoms.new_array("tag_name", np.array([f"t{i}" for i in range(len(atoms))]))
        atoms.new_array("wide", rng.normal(size=(len(atoms), 2)))
        if number != 4:
            results = {"energy": rng.normal(), "forces": rng.normal(size=(len(atoms), 3))}
            if number % 2:
                results.update(
                    free_energy=results["energy"] - 1e-3, stress=rng.normal(size=6), magmoms=rng.normal(size=8)
                )
            atoms.calc = SinglePointCalculator(atoms, **results)
        if number % 4 == 1:
            atoms.set_constraint([FixAtoms([0, 2])])
        found.append(atoms)
    return found


def write(path, images):
    with path.open("w") as stream:
        for atoms in images:
            write_extxyz(atoms, stream)


def assert_same(one, two):
    assert np.array_equal(one.numbers, two.numbers)
    assert np.array_equal(one.cell.array, two.cell.array)
    assert np.array_equal(one.pbc, two.pbc)
    assert list(one.arrays) == list(two.arrays)
    for name, value in one.arrays.items():
        assert np.array_equal(value, two.arrays[name]), name
    assert list(one.info) == list(two.info)
    for name, value in one.info.items():
        assert type(value) is type(two.info[name]), name
        assert np.array_equal(value, two.info[name]), name
    results = [dict(atoms.calc.results) if atoms.calc else {} for atoms in (one, two)]
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        assert np.array_equal(value, results[1][name]), name
    assert [c.todict() for c in one.constraints] == [c.todict() for c in two.constraints]


def test_extxyz_comes_back_bit_for_bit(tmp_path):
    source, store_path, target = tmp_path / "in.extxyz", tmp_path / "s.h5", tmp_path / "out.extxyz"
    write(source, frames())
    read = ase.io.read(source, ":")
    for one, two in zip(frames(), read, strict=True):  # the writer itself loses no bit
        assert np.array_equal(one.positions, two.positions)
        assert np.array_equal(one.arrays["wide"], two.arrays["wide"])
    with Store(store_path, "a") as store:
        store.append(read_file(source).entries)
        export(store, range(len(store)), target)
        for one, two in zip(read, ase.io.read(target, ":"), strict=True):
            assert_same(one, two)
        for one, two in zip(read, store, strict=True):
            assert_same(one, two)
    assert source.read_bytes() == target.read_bytes()


def test_forces_of_fixed_atoms_survive_every_format(tmp_path):
    atoms = bulk("Cu", cubic=True)
    forces = np.random.default_rng(0).normal(size=(4, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, free_energy=-1.75, forces=forces, stress=np.arange(6) / 7)
    atoms.set_constraint([FixAtoms([0]), FixCartesian([1], mask=[True, False, True])])
    ase.io.write(tmp_path / "a.traj", [atoms, atoms])
    with ase.db.connect(tmp_path / "a.db") as database:
        database.write(atoms, key_value_pairs={"kind": "test", "number": 3}, data={"note": [1, 2]})
    write(tmp_path / "a.extxyz", [atoms])
    for name, format_name in (("a.traj", "traj"), ("a.db", "db"), ("a.extxyz", "extxyz")):
        reading = read_file(tmp_path / name)
        assert reading.format == format_name
        entry = reading.entries[0]
        assert np.array_equal(entry.forces, forces)
        assert entry.energy == -1.75
        assert entry.free_energy
        assert np.array_equal(entry.stress, np.arange(6) / 7)
        assert any("not zeroed" in note for note in reading.notes)
    assert read_file(tmp_path / "a.db").entries[0].info["kind"] == "test"
    assert np.array_equal(read_file(tmp_path / "a.traj").entries[0].mask, [7, 5, 0, 0])


def test_other_constraints_and_velocities_come_back(tmp_path):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]])
    atoms.set_constraint([Hookean(0, 1, 10.0, 1.2)])
    atoms.set_velocities([[0.1, 0, 0], [0, 0.3, 0]])
    with Store(tmp_path / "s.h5", "a") as store:
        store.append([atoms])
        found = store[0]
    assert found.constraints[0].todict() == atoms.constraints[0].todict()
    assert np.array_equal(found.get_momenta(), atoms.get_momenta())


def test_ase_reads_and_writes_stores(tmp_path):
    path = tmp_path / "s.h5"
    ase.io.write(path, frames(), format="gracecli-store")
    assert_same(ase.io.read(f"{path}@3"), frames()[3])
    assert_same(ase.io.read(path, index=5), frames()[5])
    assert len(ase.io.read(path, index=":")) == 12


def test_export_to_database_and_poscar(tmp_path):
    with Store(tmp_path / "s.h5", "a") as store:
        store.append(frames())
        export(store, [1, 3], tmp_path / "o.db")
        export(store, [1], tmp_path / "POSCAR")
        with pytest.raises(InputError, match="holds one structure"):
            export(store, [1, 3], tmp_path / "x.poscar")
        with pytest.raises(InputError, match="exists"):
            export(store, [1], tmp_path / "POSCAR")
    rows = list(ase.db.connect(tmp_path / "o.db").select())
    assert np.array_equal(rows[0].forces, frames()[1].calc.results["forces"])
    assert np.allclose(ase.io.read(tmp_path / "POSCAR").positions, frames()[1].positions, atol=1e-12)


QUERIES = {
    "elements=Si": [1, 3, 5, 7, 9, 11],
    "elements>=H": [0, 2, 4, 6, 8, 10],
    "elements<=H,O,Si and natoms<4": [0, 2, 4, 6, 8, 10],
    "formula=H2O and not id=0..3": [4, 6, 8, 10],
    "H>=2 or id=1": [0, 1, 2, 4, 6, 8, 10],
    "(set=train and natoms=8) or 2": [1, 2, 3],
    "has=stress and id<6": [1, 3, 5],
    "not has=energy": [4],
    "info.config_type='kind 1' and natoms>3": [1, 7],
    "info.n>9": [10, 11],
    "volume>0": [1, 3, 5, 7, 9, 11],
    "": list(range(12)),
}


@pytest.fixture(scope="module")
def queried(tmp_path_factory):
    path = tmp_path_factory.mktemp("query") / "s.h5"
    with Store(path, "a") as store:
        store.append(frames()[:4], set_name="train")
        store.append(frames()[4:], set_name="test")
        yield store


@pytest.mark.parametrize("text", QUERIES)
def test_queries(queried, text):
    assert queried.query(text).tolist() == QUERIES[text]


def test_query_of_energies(queried):
    results = [atoms.calc.results if atoms.calc else {} for atoms in frames()]
    energies = np.array([r.get("free_energy", r.get("energy", np.nan)) for r in results])
    per_atom = energies / [len(atoms) for atoms in frames()]
    assert queried.query("energy_per_atom<-0.05").tolist() == np.flatnonzero(per_atom < -0.05).tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("natom<3", "natoms"),
        ("elements=Sl", "not an element"),
        ("natoms<", "missing"),
        ("natoms 5", "is expected"),
        ("(natoms<5", "bracket"),
        ("natoms<5)", "one too many"),
        ("natoms<five", "not a number"),
        ("set=tran", "train"),
        ("has=force", "forces"),
        ("elements<Si", "no meaning"),
        ("__import__('os')", "is expected"),
    ],
)
def test_queries_that_make_no_sense(queried, text, message):
    with pytest.raises((UsageError, InputError), match=message):
        queried.query(text)


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match="is not a store"):
        Store(tmp_path / "x.h5")
    with pytest.raises(InputError, match="no such store"):
        Store(tmp_path / "y.h5")


def test_writing_needs_the_right_mode(tmp_path):
    with Store(tmp_path / "s.h5", "a") as store:
        store.append(frames())
        text = io.StringIO()
        write_extxyz(store[0], text)
        assert text.getvalue().startswith("3\n")


def test_a_store_is_an_argument_like_any_file(queried):
    from gracecli.run.structures import read_structures

    found = read_structures(f"{queried.path}:set=train and elements=Si")
    assert [item.name for item in found] == [f"{queried.path}:1", f"{queried.path}:3"]
    assert np.array_equal(found[0].atoms.positions, frames()[1].positions)
    with pytest.raises(InputError, match="no structure matches"):
        read_structures(f"{queried.path}:natoms>1000")
