"""``grace eos`` as a user types it."""

from __future__ import annotations

import csv
import json

import pytest
from ase.build import bulk
from click.testing import CliRunner

from gracecli.cli.main import main


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bulk("Cu", "fcc", a=3.63).write("Cu.poscar", format="vasp")
    bulk("Mo", "bcc", a=3.2).write("Mo.poscar", format="vasp")

    def call(*arguments):
        return CliRunner().invoke(main, ["eos", *map(str, arguments)])

    return call


def test_card_files_and_store(run, tmp_path):
    done = run("Cu.poscar", "--store", "results.h5")
    assert done.exit_code == 0, done.output
    for text in ("GPa", "bulk modulus B0", "by vinet", "Å³/atom"):
        assert text in done.stdout
    folder = tmp_path / "Cu.eos"
    assert {p.name for p in folder.iterdir()} == {"eos.json", "eos.csv", "eos.png", "reference.poscar"}
    assert (folder / "eos.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((folder / "eos.csv").read_text().splitlines()))
    assert len(rows) == 11
    again = run("Cu.poscar", "--store", "results.h5", "-o", "elsewhere", "--json")
    assert again.exit_code == 0, again.output
    (known,) = json.loads(again.stdout)["results"]
    assert "results.h5" in known["folder"]
    assert known["curve"]["bulk_modulus"] == json.loads((folder / "eos.json").read_text())["curve"]["bulk_modulus"]


def test_several_without_pictures(run, tmp_path):
    done = run("Cu.poscar", "Mo.poscar", "absent.cif", "--no-plots", "--equation", "vinet", "--points", "7")
    assert done.exit_code == 5, done.output
    assert "FAILED" in done.stdout
    assert not (tmp_path / "Mo.eos" / "eos.png").exists()
    assert json.loads((tmp_path / "Mo.eos" / "eos.json").read_text())["curve"]["equation"] == "vinet"
    assert run("Cu.poscar", "--points", "3").exit_code == 2
    assert run("Mo.poscar", "-o", "there", "--relax", "none", "--strain", "0.005").exit_code == 9
