from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from gracecli.cli.fit import command
from gracecli.errors import InputError, UsageError


def invoke(*arguments: str):
    return CliRunner().invoke(command, list(arguments))


def test_help_states_exit_codes_and_examples():
    text = invoke("--help").output
    assert "--max-time" in text
    assert "Exit code 3" in text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("none.toml",), InputError, "cannot read none.toml"),
        (("none.extxyz",), InputError, "no such file"),
        (("a.toml", "b.extxyz"), UsageError, "one settings file, or training files"),
        (("none.extxyz", "--max-time", "soon"), UsageError, "not a time"),
        (("none.extxyz", "--learning-rate", "-1"), UsageError, "must be positive"),
    ],
)
def test_errors_of_the_user(arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert isinstance(result.exception, error)
    assert message in str(result.exception)


def test_unknown_key_in_a_file(tmp_path):
    path = tmp_path / "fit.toml"
    path.write_text("[training]\nepoch = 3\n", encoding="utf-8")
    result = invoke(str(path))
    assert isinstance(result.exception, UsageError)
    assert "epochs" in str(result.exception)


def test_fit_prints_one_json_document(tmp_path, monkeypatch):
    """A real fit of two structures; the model is small and sees few steps."""
    import ase.io
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator

    monkeypatch.chdir(tmp_path)
    images = []
    for scale in (0.98, 1.0, 1.02, 1.04):
        atoms = bulk("Cu", a=3.6 * scale)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        images.append(atoms)
    ase.io.write("train.extxyz", images)
    (tmp_path / "fit.toml").write_text(
        """
        [data]
        train = ["train.extxyz"]
        test = ["train.extxyz"]
        [model]
        cutoff = 3.5
        overrides = { lmax = 1, order = 2, n_radial = 2, n_product = 2, hidden = [4], embedding = 2 }
        [training]
        batch_atoms = 4
        """,
        encoding="utf-8",
    )
    result = invoke("fit.toml", "--epochs", "2", "--valid-fraction", "0", "--json", "-q", "-o", "out")
    assert result.exception is None, result.exception
    document = json.loads(result.stdout)
    assert document["schema"] == "gracecli.fit"
    assert document["completed"]
    assert document["_units"]["energy_mae"] == "meV/atom"
    assert document["metrics"]["test"]["overall"]["structures"] == 4
    assert (tmp_path / "out" / "model.grace").is_file()
