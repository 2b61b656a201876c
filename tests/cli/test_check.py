"""``grace check`` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[1] / "store" / "samples"


@pytest.fixture
def call(grace):
    return lambda *arguments: grace(*map(str, arguments))


@pytest.fixture
def copper_file(tmp_path):
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    def make(name: str, sign: float = 1.0) -> Path:
        images = []
        for size in (0.96, 0.97, 0.98, 0.99, 1.0, 1.01, 1.02, 1.03):
            atoms = bulk("Cu", a=3.6 * size, cubic=True)
            atoms.calc = EMT()
            results = atoms.get_potential_energy(), atoms.get_forces(), sign * atoms.get_stress()
            atoms.calc = SinglePointCalculator(atoms, **dict(zip(("energy", "forces", "stress"), results, strict=True)))
            images.append(atoms)
        write(tmp_path / name, images)
        return tmp_path / name

    return make


def test_good_data_exit_zero(call, copper_file):
    result = call("check", copper_file("good.extxyz"), "--strict")
    assert result.exit_code == 0, result.output
    assert "normal stress" in result.stdout
    assert "follows from the energies" in result.stdout


def test_a_wrong_sign_is_an_error_under_strict(call, copper_file):
    path = copper_file("bad.extxyz", sign=-1.0)
    assert call("check", path).exit_code == 0
    result = call("check", path, "--strict", "--json")
    assert result.exit_code == 4
    document = json.loads(result.stdout)
    assert document["schema"] == "gracecli.check"
    assert document["level"] == "error"
    finding = next(f for f in document["findings"] if f["check"] == "normal stress")
    assert finding["remedy"] == "reverse the sign of the stresses"
    assert finding["details"]["slope"] == pytest.approx(-1.0, abs=0.02)


def test_stores_runs_and_settings_are_read(call, copper_file, tmp_path):
    path = copper_file("data.extxyz")
    assert call("store", "add", tmp_path / "s.h5", path, "--set", "train").exit_code == 0
    result = call("check", f"{tmp_path / 's.h5'}:set=train", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["structures"]["train"] == 8
    run = call("check", SAMPLES / "vasprun.xml", "--json")
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["structures"]["train"] == 2
    (tmp_path / "fit.toml").write_text(f'[data]\ntrain = ["{path}"]\ntest = ["{path}"]\n')
    leak = call("check", tmp_path / "fit.toml", "--strict")
    assert leak.exit_code == 4
    assert "8 of 8 test structures are identical to training structures" in leak.stdout


def test_bad_input_is_one_line(call, tmp_path):
    result = call("check", tmp_path / "none.extxyz")
    assert result.exit_code == 4
    assert "no such file" in result.stderr
