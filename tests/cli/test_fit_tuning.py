from __future__ import annotations

import json

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from click.testing import CliRunner

from gracecli.cli.fit import command
from gracecli.errors import ModelError, UsageError


@pytest.fixture(scope="module")
def platinum(tmp_path_factory):
    """Four labelled crystals of Cu-Pt."""
    import ase.io

    images = []
    for scale in (0.98, 1.0, 1.02, 1.04):
        atoms = bulk("Cu", a=3.8 * scale, cubic=True)
        atoms.symbols[0] = "Pt"
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        images.append(atoms)
    path = tmp_path_factory.mktemp("data") / "platinum.extxyz"
    ase.io.write(path, images, format="extxyz")
    return path


def invoke(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments])


def test_a_dry_run_lists_what_moves_and_writes_nothing(platinum, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(platinum, "--from", "grace-1l-11el", "--strategy", "frozen", "--dry-run", "--json")
    assert result.exit_code == 0, result.exception
    document = json.loads(result.stdout)
    assert (document["present"], document["new"]) == (["Cu", "Pt"], ["Pt"])
    lines = {line["role"]: line for line in document["lines"] if line["moving"]}
    assert set(lines) == {"readout", "embedding", "reference"}
    assert lines["readout"]["moving"] * 6 == lines["readout"]["weights"]  # 2 of 12 elements
    assert lines["embedding"]["how"] == "Pt"
    assert document["moving"] == sum(line["moving"] for line in lines.values())
    assert "new element Pt: starts as a copy of Au" in result.stderr
    assert not list(tmp_path.iterdir())
    table = invoke(platinum, "--from", "grace-1l-11el", "--strategy", "lora", "--rank", "4", "--dry-run", "--no-shift")
    assert "rank 4 of Cu Pt" in table.stdout
    assert "shift" not in table.stderr


def test_errors_of_the_user(platinum, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, error, message in (
        (("--strategy", "frozen"), UsageError, "needs a model to start from"),
        (("--from", "grace-1l-11el", "--strategy", "frozn"), UsageError, "no strategy is called 'frozn'"),
        (("--from", "grace-1l-9l"), ModelError, "grace-1l-11el"),
        (("--from", "grace-1l-11el", "--preset", "2l-small"), UsageError, "--preset"),
        (("--dry-run",), UsageError, "--from MODEL"),
    ):
        result = invoke(platinum, *arguments, *([] if "--dry-run" in arguments else ["-o", "fit"]))
        assert isinstance(result.exception, error), arguments
        assert message in str(result.exception) + str(getattr(result.exception, "hint", ""))


@pytest.mark.parametrize(
    ("arguments", "rate"),
    [
        ((), 2e-3),
        (("--strategy", "frozen"), 1e-2),
        (("--strategy", "frozen", "--learning-rate", "0.005"), 5e-3),
        (("--strategy", "lora", "--rank", "3"), 2e-3),
    ],
)
def test_the_learning_rate_follows_the_strategy(platinum, arguments, rate, tmp_path, monkeypatch):
    """A fit that stops before its first step records the settings that it would use."""
    monkeypatch.chdir(tmp_path)
    options = ("--from", "grace-1l-11el", "--no-shift", "--max-time", "0.001s", "--valid-fraction", "0")
    result = invoke(platinum, *options, *arguments, "-o", "fit", "--json")
    assert result.exit_code != 2
    settings = json.loads((tmp_path / "fit" / "report.json").read_text(encoding="utf-8"))["settings"]
    assert settings["training"]["learning_rate"] == rate
    assert settings["tuning"]["strategy"] == (arguments[1] if arguments else "naive")
