"""split, merge, dedup, compact, repair: nothing is lost, nothing is there twice, references follow."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from gracecli import Store
from gracecli.errors import InputError, StoreError, UsageError
from gracecli.store import schema
from gracecli.store.check import check, repair
from gracecli.store.compact import compact
from gracecli.store.dedup import dedup, find_duplicates
from gracecli.store.merge import merge
from gracecli.store.results import Calculation
from gracecli.store.split import split

sys.path.insert(0, str(Path(__file__).parent))
from crash_writer import structure

RELAX = Calculation("relax", "toy", "ab" * 32, {"fmax": 0.01})


def labelled(atoms, energy):
    atoms = atoms.copy()
    forces = np.full((len(atoms), 3), 0.25)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, free_energy=energy, forces=forces)
    return atoms


def relaxed(atoms):
    found = labelled(atoms, -1.5)
    found.positions += 0.01
    return found


def fill(path, writer, count=40):
    """Structures, sets and three results with their lineage."""
    with Store(path, "a", durable=False) as store:
        store.append([structure(writer, n) for n in range(count)], set_name=f"set {writer}")
        for k in range(3):
            atoms = bulk("Cu", a=3.6 + k / 10 + writer / 1000)
            store.record(RELAX, atoms, {"C": np.eye(6) * k, "k": k}, relaxed(atoms), argv=["grace", str(writer)])
    return path


def contents(path):
    """What a store says, whatever its row numbers."""
    with Store(path) as store:
        entries = {}
        for index in range(len(store)):
            entry = store.entry(index)
            sets = tuple(name for name in sorted(store.set_names()) if store.in_set(name)[index])
            forces = None if entry.forces is None else entry.forces.tobytes()
            entries[entry.positions.tobytes(), entry.method] = (entry.energy, forces, str(entry.info), sets)
        results = set()
        for row in range(store.result_count):
            found = store.result(row)
            parent = store.entry(found.structure).positions.tobytes()
            argv = store.why(f"r{row}").run.argv
            results.add((parent, found.output.positions.tobytes(), found.values["C"].tobytes(), found.time, argv))
        return entries, results


def assert_sound(path):
    report = check(path)
    assert not report.problems, report.problems


@pytest.mark.parametrize("options", [{}, {"gzip": True}, {"hot": True}], ids=["sealed", "gzip", "hot"])
def test_compact_keeps_every_bit(tmp_path, options):
    path = fill(tmp_path / "s.h5", 0)
    before = contents(path)
    done = compact(path, **options)
    assert done.structures == 46
    assert contents(path) == before
    assert_sound(path)
    with Store(path) as store:
        assert store.attributes["state"] == ("hot" if "hot" in options else "sealed")
        assert (store.column("atom/R") == np.concatenate([store.entry(i).positions for i in range(46)])).all()
    if "hot" not in options:
        with Store(path, "a") as store, pytest.raises(StoreError, match="sealed"):
            store.append([structure(1, 1)])
        compact(path, hot=True)
    with Store(path, "a") as store:
        store.append([structure(1, 1)])
        assert store.find(RELAX, bulk("Cu", a=3.7)).values["k"] == 1
    assert_sound(path)


def test_the_quick_ways_read_the_same(tmp_path):
    path = fill(tmp_path / "s.h5", 0)
    for options in (None, {}, {"gzip": True}):
        if options is not None:
            compact(path, **options)
        with Store(path) as store:
            for index, quick in enumerate(store.blocks(0, 46)):
                entry = store.entry(index)
                for found in (quick, store.arrays(index)):
                    assert np.array_equal(found[0], entry.numbers)
                    assert np.array_equal(found[1], entry.positions)
                    assert np.array_equal(found[2], entry.cell)
                    assert found[3] == entry.energy or (entry.energy is None and np.isnan(found[3]))
                    forces = np.full((len(entry.numbers), 3), np.nan) if entry.forces is None else entry.forces
                    assert np.array_equal(found[4], forces, equal_nan=True)


def test_damage_in_a_sealed_store_is_never_served(tmp_path):
    path = fill(tmp_path / "s.h5", 0)
    compact(path)
    with Store(path) as store:
        offset = store._handle.dataset("atom/R").id.get_offset()
    with path.open("r+b") as stream:
        stream.seek(offset + 5000)
        byte = stream.read(1)[0]
        stream.seek(offset + 5000)
        stream.write(bytes([byte ^ 4]))
    report = check(path)
    assert report.problems
    with Store(path) as store:
        row = next(i for i in report.bad)
        with pytest.raises(StoreError, match="atom/R is damaged"):
            store.entry(row)
        with pytest.raises(StoreError, match="atom/R is damaged"):
            store.arrays(row)
    kept, lost, _ = repair(path)
    assert kept + lost == 46
    assert lost >= 1
    assert_sound(path)


def test_forces_of_four_bytes(tmp_path):
    path = tmp_path / "s.h5"
    with Store(path, "a", forces="<f4") as store:
        store.append([structure(0, n) for n in range(20)])
        store.record(RELAX, bulk("Cu"), {}, relaxed(bulk("Cu")))
    assert_sound(path)
    compact(path)
    assert_sound(path)
    fill(tmp_path / "wide.h5", 0)
    compact(path, hot=True)
    (done,) = merge(path, [tmp_path / "wide.h5"])
    # rounded, the first twenty are the same, and so are the three bare crystals but one, and the relaxed ones
    with Store(path) as store:
        assert len(store) == 22 + done.added
        assert done.added <= 26
    assert merge(path, [tmp_path / "wide.h5"])[0].added == 0
    assert_sound(path)


def test_merge_folds_shards_and_is_repeatable(tmp_path):
    folder = tmp_path / "store.d"
    folder.mkdir()
    for number in range(3):
        fill(folder / f"{number}.h5", number)
    fill(tmp_path / "all.h5", 7)
    compact(folder / "1.h5")  # a sealed shard
    target = tmp_path / "all.h5"
    before = [contents(folder / f"{number}.h5") for number in range(3)] + [contents(target)]
    done = merge(target, [folder])
    assert [m.added for m in done] == [46, 46, 46]
    assert [m.results_added for m in done] == [3, 3, 3]
    entries, results = contents(target)
    assert entries == {key: value for one, _ in before for key, value in one.items()}
    assert results == set().union(*(found for _, found in before))
    size = target.stat().st_size
    again = merge(target, [folder])
    assert [(m.added, m.results_added) for m in again] == [(0, 0)] * 3
    assert contents(target) == (entries, results)
    assert target.stat().st_size <= size
    assert_sound(target)


def test_merge_of_overlapping_stores(tmp_path):
    fill(tmp_path / "a.h5", 0, 30)
    fill(tmp_path / "b.h5", 0, 50)
    with Store(tmp_path / "b.h5", "a") as store:
        store.append([structure(0, 3)], set_name="more")
    (done,) = merge(tmp_path / "a.h5", [tmp_path / "b.h5"])
    assert done.added == 20  # the relaxed ones and the first thirty are there
    assert done.results_added == 3  # other runs: they are results of their own
    with Store(tmp_path / "a.h5") as store:
        assert store.in_set("set 0").sum() == 50
        assert np.flatnonzero(store.in_set("more")).tolist() == [3]
    assert_sound(tmp_path / "a.h5")


def test_groups_of_plugins_are_preserved(tmp_path):
    for name, value in (("a.h5", 1.0), ("b.h5", 2.0), ("c.h5", 2.0)):
        fill(tmp_path / name, 0, 5)
        with h5py.File(tmp_path / name, "r+", libver=schema.LIBVER, locking=False) as file:
            group = file.create_group("result/friction")
            group.attrs["units"] = "N"
            group["mu"] = np.full(3, value)
            file["myplugin/notes"] = np.arange(4)
    for options in ({}, {"hot": True}):
        compact(tmp_path / "a.h5", **options)
        with h5py.File(tmp_path / "a.h5") as file:
            assert file["result/friction/mu"][0] == 1.0
            assert file["myplugin/notes"].shape == (4,)
    for _ in range(2):
        merge(tmp_path / "a.h5", [tmp_path / "b.h5"])
        with h5py.File(tmp_path / "a.h5") as file:
            assert file["result/friction/mu"][0] == 1.0
            (other,) = [name for name in file["result"] if name.startswith("friction@")]
            assert file["result"][other]["mu"][0] == 2.0
            assert file["result"][other].attrs["units"] == "N"
            assert list(file["myplugin"]) == ["notes"]
    assert_sound(tmp_path / "a.h5")


def test_a_merge_that_is_killed_is_repeated(tmp_path):
    fill(tmp_path / "a.h5", 0, 3000)
    code = "import sys; from pathlib import Path; from gracecli.store.merge import merge; print(1, flush=True)\n"
    code += "merge(Path(sys.argv[1]), [Path(sys.argv[2])])"
    target = tmp_path / "t.h5"
    for delay in (0.05, 0.15, 0.3):
        process = subprocess.Popen(
            [sys.executable, "-c", code, target, tmp_path / "a.h5"], stdout=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if target.exists():
            assert_sound(target)
    merge(target, [tmp_path / "a.h5"])
    assert contents(target) == contents(tmp_path / "a.h5")


def test_merging_nonsense(tmp_path):
    path = fill(tmp_path / "s.h5", 0, 3)
    with pytest.raises(InputError, match="into itself"):
        merge(path, [path])
    with pytest.raises(InputError, match="no such store"):
        merge(path, [tmp_path / "x.h5"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.h5 file"):
        merge(path, [tmp_path / "empty"])


def test_dedup_removes_copies_and_moves_references(tmp_path):
    path = tmp_path / "s.h5"
    cu, si = bulk("Cu", cubic=True), bulk("Si")
    with Store(path, "a") as store:
        store.append([cu, labelled(si, -1.0)], set_name="train")
        store.record(RELAX, 0, {"k": 1}, relaxed(cu))  # 2
        store.append([labelled(cu, -3.0), labelled(si, -1.0), labelled(si, -2.0)], set_name="more")  # 3 4 5
        store.append([structure(0, n) for n in range(5)])
    duplicates, done = dedup(path)
    assert duplicates.groups == {3: [0], 1: [4]}
    assert duplicates.contradictions == ((1, 5),)  # the same geometry with two energies
    assert (done.structures, done.removed) == (9, 2)
    with Store(path) as store:
        found = store.find(RELAX, cu)
        assert store.entry(found.structure).energy == -3.0  # the labelled copy took the place of the bare one
        assert np.allclose(found.output.positions, cu.positions + 0.01)
        assert store.entry(int(np.flatnonzero(store.in_set("train"))[1])).energy == -3.0
        assert store.in_set("train").sum() == 2
        assert store.in_set("more").sum() == 3
    assert_sound(path)
    assert dedup(path)[1] is None


def test_dedup_by_matching(tmp_path):
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.rattle(0.05, seed=1)
    shuffled = atoms[np.random.default_rng(0).permutation(len(atoms))]
    turned = atoms.copy()
    turned.rotate(30, "z", rotate_cell=True)
    shifted = atoms.copy()
    shifted.positions += [0.3, 0.4, 0.5]
    other = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    other.rattle(0.05, seed=2)
    path = tmp_path / "s.h5"
    with Store(path, "a") as store:
        store.append([labelled(a, -1.0) for a in (atoms, shuffled, turned, shifted, other)])
        assert find_duplicates(store).groups == {}
        assert find_duplicates(store, match=True).groups == {0: [1, 2, 3]}
        store.append([labelled(shuffled, -2.0)])
        assert (0, 5) in find_duplicates(store, match=True).contradictions


def mixture(path):
    """Three compositions of 100, 10 and 3 structures; every tenth geometry comes with two labels."""
    rng = np.random.default_rng(0)
    images = []
    for symbol, count in (("Cu", 100), ("Si", 10), ("Ge", 3)):
        for _ in range(count):
            atoms = bulk(symbol, "fcc", a=4 + rng.random())
            images.append(labelled(atoms, 0.0))
    copies = [labelled(images[i], 1.0) for i in range(0, 100, 10)]
    with Store(path, "a") as store:
        store.append(images)
        store.append(copies)
    return path


SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}


def test_split_is_stratified_and_leaks_nothing(tmp_path):
    with Store(mixture(tmp_path / "s.h5"), "a") as store:
        found = split(store, SHARES, seed=3)
        assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(123))
        sizes = {name: len(rows) for name, rows in found.items()}
        assert abs(sizes["train"] - 98.4) <= 2
        assert abs(sizes["valid"] - 12.3) <= 2
        for name in SHARES:
            assert store.query(f"set={name}").tolist() == found[name].tolist()
            share = len(store.query(f"set={name} and elements=Cu")) / 110
            assert abs(share - SHARES[name]) < 0.03
        uids = store.column("structure/uid")
        sides = [{uids[i].tobytes() for i in rows} for rows in found.values()]
        assert len(set().union(*sides)) == sum(map(len, sides)) == 113


def test_split_does_not_depend_on_the_order(tmp_path):
    with Store(mixture(tmp_path / "a.h5"), "a") as one, Store(tmp_path / "b.h5", "a") as two:
        two.append([one.entry(i) for i in np.random.default_rng(1).permutation(len(one))])
        first, second = split(one, SHARES, seed=5), split(two, SHARES, seed=5)
        for name in SHARES:
            uids = [
                sorted(s.column("structure/uid")[rows].tobytes() for rows in r[name])
                for s, r in ((one, first), (two, second))
            ]
            assert uids[0] == uids[1]
        other = split(one, SHARES, seed=6, force=True)
        assert other["train"].tolist() != first["train"].tolist()
        again = split(one, SHARES, seed=5, force=True)
        assert {k: v.tolist() for k, v in again.items()} == {k: v.tolist() for k, v in first.items()}
        assert one.query("set=test").tolist() == first["test"].tolist()


def test_split_refuses_what_makes_no_sense(tmp_path):
    with Store(mixture(tmp_path / "s.h5"), "a") as store:
        split(store, {"train": 1, "test": 1}, query="elements=Cu")
        with pytest.raises(InputError, match="has structures in train"):
            split(store, {"train": 0.9, "test": 0.1})
        with pytest.raises(UsageError, match="at least two"):
            split(store, {"train": 1.0})
        with pytest.raises(InputError, match="no structure to split"):
            split(store, {"a": 1, "b": 1}, query="natoms>99")


def test_repair_keeps_results_and_sets(tmp_path):
    path = fill(tmp_path / "s.h5", 0)
    entries, results = contents(path)
    kept, lost, _ = repair(path)
    assert (kept, lost) == (46, 0)
    assert contents(path) == (entries, results)
