"""``grace relax`` of many structures: batches, processes, journal and resume, the store."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from click.testing import CliRunner

from gracecli import Store
from gracecli.cli.main import main


@pytest.fixture
def grace(emt_plugin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def copper(tmp_path):
    """Ten frames of 4, 8 and 12 atoms."""
    random = np.random.default_rng(0)
    frames = []
    for i in range(10):
        atoms = bulk("Cu", cubic=True) * (1, 1, 1 + i % 3)
        atoms.positions += random.normal(scale=0.08, size=atoms.positions.shape)
        frames.append(atoms)
    path = tmp_path / "many.extxyz"
    write(path, frames)
    return path


RELAX = ("relax", "--engine", "slow-emt", "--cell", "full")


def document(result):
    return json.loads(result.stdout)


def energies(result):
    return {entry["name"]: entry["final"]["energy"] for entry in document(result)["results"] if "final" in entry}


def test_batches_and_processes_give_the_same(grace, copper):
    reference = grace(*RELAX, copper, "--json", "--batch", "off", "-o", "off.extxyz")
    assert reference.exit_code == 0, reference.stderr
    for number, options in enumerate(((), ("--batch", "3"), ("--jobs", "2"))):
        found = grace(*RELAX, copper, "--json", *options, "-o", f"{number}.extxyz")
        assert found.exit_code == 0, found.stderr
        assert list(energies(found)) == list(energies(reference))
        for name, energy in energies(reference).items():
            assert energies(found)[name] == pytest.approx(energy, abs=1e-4 * 12)
        frames = read(f"{number}.extxyz", ":")
        assert [len(frame) for frame in frames] == [len(frame) for frame in read(copper, ":")]
        assert all(frame.info["converged"] for frame in frames)


def test_others_go_on_when_some_fail(grace, copper, tmp_path):
    write(tmp_path / "iron.cif", bulk("Fe"))
    (tmp_path / "broken.cif").write_text("no structure")
    found = grace(*RELAX, copper, "iron.cif", "broken.cif", "--json")
    assert found.exit_code == 5
    status = [entry["status"] for entry in document(found)["results"]]
    assert status == ["converged"] * 10 + ["failed"] * 2
    assert (tmp_path / "many.relaxed.extxyz").exists()
    assert not list(tmp_path.glob(".grace-relax*"))


def test_a_structure_that_kills_its_worker_is_reported(grace, copper):
    found = grace(*RELAX, copper, "--json", "--jobs", "2", "--engine-option", "kill-atoms=8")
    assert found.exit_code == 5
    results = document(found)["results"]
    assert [entry["status"] for entry in results] == ["converged", "failed", "converged"] * 3 + ["converged"]
    assert "lost twice" in results[1]["error"]["message"]


def test_wrong_options_are_usage_errors(grace, copper):
    assert grace(*RELAX, copper, "--batch", "all").exit_code == 2
    assert grace(*RELAX, copper, "--rerun").exit_code == 2
    assert grace(*RELAX, copper, "--jobs", "2", "--dask", "tcp://x:1").exit_code == 2
    assert grace(*RELAX, copper, "--jobs", "2", "--trajectory", "t").exit_code == 2


def test_trajectories_of_a_batch(grace, copper):
    found = grace(*RELAX, copper, "--json", "--trajectory", "steps")
    assert found.exit_code == 0, found.stderr
    for entry in document(found)["results"]:
        frames = read(entry["trajectory"], ":")
        assert len(frames) == entry["steps"] + 1
        assert frames[-1].get_potential_energy() == pytest.approx(entry["final"]["energy"])


@pytest.mark.parametrize("batch", ["4", "off"])
def test_a_killed_run_resumes_where_it_was(grace, copper, tmp_path, batch):
    hold = ("--engine-option", "hold=0.03")
    words = [*RELAX, str(copper), "--json", "--batch", batch, *hold]
    process = subprocess.Popen(
        [sys.executable, "-m", "gracecli.cli.main", *words], cwd=tmp_path, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    done = 0
    for _ in range(600):
        journals = list(tmp_path.glob(".grace-relax*.journal"))
        done = journals[0].read_bytes().count(b"\n") - 1 if journals else 0
        if done >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= done < 10
    assert not (tmp_path / "many.relaxed.extxyz").exists()
    with journals[0].open("ab") as file:
        file.write(b'{"key": "half a li')  # what a kill in mid-write leaves
    refused = grace(*words)
    assert refused.exit_code == 4
    assert "--resume" in refused.stderr
    other = grace(*words, "--resume", "--fmax", "0.5")
    assert other.exit_code == 4
    assert "other settings" in other.stderr
    resumed = grace(*words, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    sources = [entry["source"] for entry in document(resumed)["results"]]
    assert done <= sources.count("resumed") < 10
    assert len(read("many.relaxed.extxyz", ":")) == 10
    assert not list(tmp_path.glob(".grace-relax*"))
    fresh = grace(*words, "--force")
    for name, energy in energies(fresh).items():
        assert energies(resumed)[name] == pytest.approx(energy, abs=1e-4 * 12)
    assert grace(*words, "--resume").exit_code == 4  # nothing to go on with, and the file exists


def test_an_interrupt_keeps_what_is_finished(emt_plugin, copper, tmp_path):
    words = [*RELAX, str(copper), "--json", "--batch", "4", "--engine-option", "hold=0.05"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gracecli.cli.main", *words], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for _ in range(600):
        journals = list(tmp_path.glob(".grace-relax*.journal"))
        if journals and journals[0].read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in err
    results = json.loads(out)["results"]
    assert {entry["status"] for entry in results} == {"converged", "interrupted"}
    frames = read(tmp_path / "many.relaxed.extxyz", ":")
    assert len(frames) == len(results) < 10


def test_the_store_answers_identical_calculations(grace, copper, tmp_path):
    first = grace(*RELAX, copper, "--json", "--store", "s.h5")
    assert first.exit_code == 0, first.stderr
    assert {entry["source"] for entry in document(first)["results"]} == {"computed"}
    with Store(tmp_path / "s.h5") as store:
        assert store.result_count == 10
    second = grace(*RELAX, copper, "--json", "--store", "s.h5", "--force")
    assert {entry["source"] for entry in document(second)["results"]} == {"store"}
    assert energies(second) == energies(first)
    table = grace(*RELAX, copper, "--store", "s.h5", "--force").stdout
    assert table.count(" store ") == 10
    for a, b in zip(read("many.relaxed.extxyz", ":"), document(first)["results"], strict=True):
        assert a.get_potential_energy() == pytest.approx(b["final"]["energy"])
    other = grace(*RELAX, copper, "--json", "--store", "s.h5", "--force", "--fmax", "0.005")
    assert {entry["source"] for entry in document(other)["results"]} == {"computed"}
    again = grace(*RELAX, copper, "--json", "--store", "s.h5", "--force", "--rerun", "--jobs", "2")
    assert {entry["source"] for entry in document(again)["results"]} == {"computed"}
    with Store(tmp_path / "s.h5") as store:
        assert store.result_count == 30


def test_one_structure_is_answered_too(grace, tmp_path):
    write(tmp_path / "one.cif", bulk("Cu", a=3.7))
    assert grace(*RELAX, "one.cif", "--store", "s.h5").exit_code == 0
    found = grace(*RELAX, "one.cif", "--store", "s.h5", "--force")
    assert "store (result 0" in found.stdout


def test_a_store_is_an_input(grace, copper):
    assert grace("store", "add", "in.h5", copper).exit_code == 0
    found = grace(*RELAX, "in.h5:natoms<10", "--json", "-o", "small.extxyz")
    assert found.exit_code == 0, found.stderr
    assert [entry["atoms"] for entry in document(found)["results"]] == [4, 8, 4, 8, 4, 8, 4]


def test_predictions_of_processes_keep_the_order(grace, copper, monkeypatch):
    from gracecli.cli import predict_job

    monkeypatch.setattr(predict_job, "CHUNK_STRUCTURES", 2)
    words = ("predict", "--engine", "slow-emt", copper, "--json")
    one, two = grace(*words), grace(*words, "--jobs", "2")
    assert two.exit_code == 0, two.stderr
    assert len(document(two)["results"]) == 10
    assert document(one)["results"] == document(two)["results"]
