"""Every ``grace store`` subcommand: what it prints, what it refuses, which exit code."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gracecli import Store
from gracecli.cli.main import main
from gracecli.store.results import Calculation

SAMPLES = Path(__file__).parents[1] / "store" / "samples"


def run(*words, code=0):
    result = CliRunner().invoke(main, ["store", *map(str, words)])
    assert result.exit_code == code, result.output
    return result


def document(*words):
    found = json.loads(run(*words, "--json").stdout)
    assert found["schema"] == f"gracecli.store.{words[0]}"
    return found


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of the samples: two labelled steps of VASP, a bare CIF, one result."""
    monkeypatch.chdir(tmp_path)
    for name in ("vasprun.xml", "OUTCAR", "Cu.cif", "steps.extxyz"):
        shutil.copy(SAMPLES / name, tmp_path)
    run("add", "s.h5", "vasprun.xml", "Cu.cif", "--set", "raw")
    with Store("s.h5", "a") as opened:
        calculation = Calculation("predict", "toy", "ab" * 32, {"fmax": 0.02})
        atoms = opened[2]
        opened.record(calculation, atoms, {"steps": 3}, argv=["grace", "predict", "Cu.cif"], source="Cu.cif")
    return Path("s.h5")


def test_add_says_what_it_did_and_in_which_units(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("add", "s.h5", SAMPLES / "vasprun.xml")
    row = result.stdout.splitlines()[2].split()
    assert row[1:] == ["vasp-xml", "2", "2", "0", "0", "1"]
    assert "eV/Å³ (stress tensile-positive, xx yy zz yz xz xy)" in result.stdout
    assert "kB, positive under compression -> eV/Å^3, tensile-positive" in result.stderr


def test_adding_a_file_again_adds_nothing(store):
    before = store.read_bytes()
    for words in (("vasprun.xml", "Cu.cif"), ("vasprun.xml", "--set", "raw")):
        files = document("add", store, *words)["files"]
        assert [item["new"] for item in files] == [0] * len(files)
        assert files[0]["known"] == 2
    assert len(Store(store)) == 3
    assert "vasp-xml           2    0      2  -         -" in run("add", store, "vasprun.xml").stdout
    assert Path(store).read_bytes()[4096:] == before[4096:]  # nothing but the superblock was touched


def test_known_structures_enter_a_new_set(store):
    assert document("add", store, "Cu.cif", "vasprun.xml", "--set", "more")["structures"] == 3
    assert document("sets", store)["sets"] == {"raw": 3, "more": 3}


def test_labels_of_another_method_or_another_energy(store):
    files = document("add", store, "vasprun.xml", "--method", "r2SCAN")["files"]
    assert files[0]["new"] == 2
    text = Path("steps.extxyz").read_text()
    run("add", store, "steps.extxyz")
    energy = next(word for word in text.split() if word.startswith("free_energy="))
    Path("other.extxyz").write_text(text.replace(energy, "free_energy=-9.0"))
    result = run("add", store, "other.extxyz")
    assert "are there with another energy" in result.stderr
    assert len(Store(store)) == 7


def test_labels_are_added_to_a_bare_structure(store):
    """The file of a calculation whose start is in the store without labels brings them as a new row."""
    with Store(store) as opened:
        entry = opened.entry(2)
    entry.energy = -1.0
    from gracecli.store.add import add_groups
    from gracecli.store.runs import Run

    with Store(store, "a") as opened:
        (added,) = add_groups(opened, [[entry]], Run.now())
        assert added.new == (3,)


def test_ls(store):
    found = document("ls", store)
    assert (found["structures"], found["atoms"], found["state"]) == (3, 12, "hot")
    assert found["results"] == {"predict": 1}
    assert found["labels"]["free_energy"] == 2
    text = run("ls", store).stdout
    assert "raw (3)" in text
    assert "predict 1" in text


def test_query_and_show(store):
    found = document("query", store, "has=energy and pressure>14")
    assert [row["id"] for row in found["structures"]] == [0, 1]
    assert run("query", store, "set=raw and not has=energy", "--ids").stdout == "2\n"
    assert "no structure matches" in run("query", store, "natoms>99").stdout
    assert "natoms" in run("query", store, "natom>9", code=2).stderr
    shown = document("show", store, 1)
    assert shown["stress"][0] < 0
    assert "VASP 6.4.2" in run("show", store, 1).stdout


def test_round_trip_through_files_is_exact(store):
    run("add", "t.h5", "steps.extxyz")
    run("export", "t.h5", "-o", "once.extxyz")
    run("add", "u.h5", "once.extxyz")
    run("export", "u.h5", "-o", "twice.extxyz")
    assert Path("once.extxyz").read_bytes() == Path("twice.extxyz").read_bytes()
    with Store("t.h5") as one, Store("u.h5") as two:
        assert np.array_equal(one.column("structure/content"), two.column("structure/content"))
    assert "exists" in run("export", "t.h5", "-o", "once.extxyz", code=4).stderr


def test_split_and_sets(store):
    run("add", store, "steps.extxyz", "OUTCAR")
    found = document("split", f"{store}:has=energy", "--fractions", "train=0.5,test=0.5", "--seed", "4")
    assert sorted(len(rows) for rows in found["sets"].values()) == [2, 3]
    assert document("sets", store)["sets"] == {"raw": 3, **{k: len(v) for k, v in found["sets"].items()}}
    assert "--force splits anew" in run("split", store, "--fractions", "train=1,test=1", code=4).stderr
    text = run("split", store, "--fractions", "train=1,test=1", "--force").stdout
    assert "6 structures split, seed 0" in text
    for wrong in ("train", "train=x", "train=-1,test=1", "a=1,a=2"):
        assert "NAME=SHARE" in run("split", store, "--fractions", wrong, code=2).stderr
    run("split", "missing.h5", code=4)
    assert not Path("missing.h5").exists()


def test_merge(store):
    found = document("merge", "t.h5", store)["sources"]
    assert (found[0]["added"], found[0]["results_added"]) == (3, 1)
    assert document("merge", "t.h5", store)["sources"][0]["added"] == 0
    assert "0 structures added" in run("merge", "t.h5", store).stdout
    assert "into itself" in run("merge", store, store, code=4).stderr
    assert document("why", "t.h5", "r0")["run"]["command"] == ["grace", "predict", "Cu.cif"]


def test_dedup(store):
    run("add", store, "vasprun.xml", "--method", "again")
    with Store(store, "a") as opened:
        opened.append([opened.entry(0)])
    assert document("dedup", store, "--dry-run")["removed"] == 1
    assert len(Store(store)) == 6
    assert "1 copies removed" in run("dedup", store).stdout
    assert len(Store(store)) == 5
    assert "0 copies removed" in run("dedup", store, "--match").stdout


def test_compact_check_repair(store):
    assert "3 structures, 1 results, sealed" in run("compact", store).stdout
    assert "is sealed" in run("add", store, "OUTCAR", code=7).stderr
    assert document("compact", store, "--hot")["state"] == "hot"
    run("compact", store, "-o", "packed.h5", "--gzip")
    assert "exists" in run("compact", store, "-o", "packed.h5", code=4).stderr
    run("compact", store, "--hot", "--gzip", code=4)
    report = document("check", "packed.h5")
    assert (report["structures"], report["results"], report["problems"]) == (3, 1, [])
    assert "intact" in run("check", store).stdout
    data = bytearray(store.read_bytes())
    with Store(store) as opened:
        data[opened._handle.dataset("atom/R").id.get_chunk_info(0).byte_offset + 7] ^= 1
    store.write_bytes(data)
    assert "grace store repair" in run("check", store, code=7).stderr
    assert "lost" in run("repair", store).stdout
    run("check", store)


def test_why(store):
    found = document("why", store, "r0")
    assert found["model_sha256"] == "ab" * 32
    assert found["parent"]["source"] == "Cu.cif"
    assert found["parent"]["run"]["files"]["Cu.cif"]
    text = run("why", store, "r0").stdout
    assert "grace predict Cu.cif" in text
    assert "└─ structure 2: Cu4, 4 atoms" in text
    assert "vasprun.xml:1" in run("why", store, 1).stdout
    run("why", store, "r7", code=4)
    run("why", store, "x", code=4)


def test_a_locked_store_is_exit_code_7(store):
    from gracecli.store.lock import WriterLock

    with WriterLock(store):
        assert "is being written by process" in run("add", store, "OUTCAR", "--wait", "0.1", code=7).stderr
        run("ls", store)  # readers do not wait
