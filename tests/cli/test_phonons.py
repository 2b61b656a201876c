"""``grace phonons`` as a user types it."""

from __future__ import annotations

import json

import pytest
from ase.build import bulk
from click.testing import CliRunner

from gracecli.cli.main import main


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bulk("Si", "diamond", a=5.45).write("Si.poscar", format="vasp")
    bulk("Cu", "bcc", a=2.88).write("Cu-bcc.poscar", format="vasp")

    def call(*arguments):
        return CliRunner().invoke(main, ["phonons", *map(str, arguments)])

    return call


QUICK = ("--min-length", "7", "--mesh", "30")


def test_card_files_and_refusal_to_overwrite(run, tmp_path):
    done = run("Si.poscar", *QUICK)
    assert done.exit_code == 0, done.output
    assert "dynamically stable" in done.stdout
    assert "THz" in done.stdout
    names = {path.name for path in (tmp_path / "Si.phonons").iterdir()}
    assert {
        "band.png", "dos.png", "thermal.png", "phonopy_params.yaml", "band.yaml", "total_dos.dat", "projected_dos.dat",
        "thermal_properties.yaml", "reference.poscar", "phonons.json",
    } <= names  # fmt: skip
    again = run("Si.poscar", *QUICK)
    assert again.exit_code == 4
    assert "exists" in again.output
    (tmp_path / "mine").mkdir()
    other = run("Si.poscar", *QUICK, "-o", "mine", "--force")
    assert other.exit_code == 4  # a folder that is not one of ours is never replaced
    assert (tmp_path / "mine").is_dir()
    assert run("Si.poscar", *QUICK, "--force").exit_code == 0


def test_json_strict_and_several(run):
    done = run("Si.poscar", "Cu-bcc.poscar", "absent.cif", *QUICK, "--json", "--strict")
    assert done.exit_code == 5, done.output
    document = json.loads(done.stdout)
    assert document["schema"] == "gracecli.phonons"
    good, unstable, absent = document["results"]
    assert good["stability"]["verdict"] == "stable"
    assert unstable["stability"]["verdict"] == "unstable"
    assert unstable["stability"]["lowest_commensurate"] < 0
    assert "no such file" in absent["error"]["message"]
    assert len(good["thermal"]["temperature"]) == 101


def test_strict_ends_with_nine(run):
    done = run("Cu-bcc.poscar", *QUICK, "--strict")
    assert done.exit_code == 9
    assert "UNSTABLE" in done.stdout
    assert "--follow-imaginary" in done.output


def test_bad_input_is_one_line(run, tmp_path):
    assert run("Si.poscar", "--displacement", "0").exit_code == 2
    assert run("Si.poscar", *QUICK, "--born", "absent").exit_code == 4
    (tmp_path / "BORN").write_text("nonsense\n")
    done = run("Si.poscar", *QUICK, "--relax", "none", "--born", "BORN")
    assert done.exit_code == 4
    assert "does not fit" in done.output
    assert not (tmp_path / "Si.phonons").exists()


def test_answered_from_the_store(run, tmp_path):
    """The same again is not computed; another setting is; the lineage leads to the file."""
    first = run("Si.poscar", *QUICK, "--store", "results.h5", "--json")
    assert first.exit_code == 0, first.output
    again = run("Si.poscar", *QUICK, "--store", "results.h5", "--json", "-o", "elsewhere")
    assert again.exit_code == 0, again.output
    one, two = (json.loads(done.stdout)["results"][0] for done in (first, again))
    assert "results.h5" in two.pop("folder")
    one.pop("folder")
    assert one == two
    assert not (tmp_path / "elsewhere").exists()
    rerun = run("Si.poscar", *QUICK, "--store", "results.h5", "--rerun", "-o", "elsewhere")
    assert rerun.exit_code == 0
    assert (tmp_path / "elsewhere").is_dir()
    story = CliRunner().invoke(main, ["store", "why", "results.h5", "r0"]).output
    assert "Si.poscar" in story
    assert "phonons" in story
