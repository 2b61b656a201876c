"""``grace elastic`` as a user types it."""

from __future__ import annotations

import json

import pytest
from ase.build import bulk
from click.testing import CliRunner

from gracecli.cli.main import main


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bulk("Cu", "fcc", a=3.63).write("Cu.poscar", format="vasp")
    bulk("Mo", "fcc", a=4.0).write("Mo-fcc.poscar", format="vasp")

    def call(*arguments):
        return CliRunner().invoke(main, ["elastic", *map(str, arguments)])

    return call


def test_card_files_and_refusal_to_overwrite(run, tmp_path):
    done = run("Cu.poscar")
    assert done.exit_code == 0, done.output
    for text in ("GPa", "Born stability", "Voigt", "Debye temperature", "K"):
        assert text in done.stdout
    assert {p.name for p in (tmp_path / "Cu.elastic").iterdir()} == {"elastic.json", "young.png", "reference.poscar"}
    assert (tmp_path / "Cu.elastic/young.png").read_bytes().startswith(b"\x89PNG")
    assert run("Cu.poscar").exit_code == 4
    assert run("Cu.poscar", "--force", "--clamped").exit_code == 0


def test_json_of_several_and_strict(run):
    done = run("Cu.poscar", "Mo-fcc.poscar", "absent.cif", "--json", "--strict", "--method", "stress")
    assert done.exit_code == 5, done.output
    good, unstable, absent = json.loads(done.stdout)["results"]
    assert good["stable"]
    assert not unstable["stable"]
    assert good["independent_constants"] == 3
    assert good["energy_based"] is None
    assert good["compliance"][3][3] == pytest.approx(1000 / good["tensor"][3][3])
    assert "no such file" in absent["error"]["message"]


def test_bad_options_are_one_line(run):
    assert run("Cu.poscar", "--strain", "0.2").exit_code == 2
    assert run("Cu.poscar", "--method", "guess").exit_code == 2
    assert run("Mo-fcc.poscar", "--strict").exit_code == 9


def test_answered_from_the_store(run, tmp_path):
    """The same again is not computed; another setting is; the lineage leads to the file."""
    first = run("Cu.poscar", "--store", "results.h5", "--json")
    assert first.exit_code == 0, first.output
    again = run("Cu.poscar", "--store", "results.h5", "--json", "-o", "elsewhere")
    assert again.exit_code == 0, again.output
    one, two = (json.loads(done.stdout)["results"][0] for done in (first, again))
    assert "results.h5" in two.pop("folder")
    one.pop("folder")
    assert one == two
    assert not (tmp_path / "elsewhere").exists()
    rerun = run("Cu.poscar", "--store", "results.h5", "--rerun", "-o", "elsewhere")
    assert rerun.exit_code == 0
    assert (tmp_path / "elsewhere").is_dir()
    story = CliRunner().invoke(main, ["store", "why", "results.h5", "r0"]).output
    assert "Cu.poscar" in story
    assert "elastic" in story
