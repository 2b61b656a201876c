from __future__ import annotations

import json

import pytest
from ase.build import bulk
from click.testing import CliRunner

from gracecli.cli.distill import command
from gracecli.errors import InputError, ModelError, UsageError


def invoke(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def crystals(tmp_path_factory):
    """Strained copper without labels."""
    import ase.io

    images = [bulk("Cu", a=3.6 * scale, cubic=True) for scale in (0.96, 0.98, 1.0, 1.02, 1.04, 1.06)]
    path = tmp_path_factory.mktemp("data") / "crystals.extxyz"
    ase.io.write(path, images, format="extxyz")
    return path


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--pathway", "rw"), UsageError, "no pathway is called 'rw'"),
        (("--augment", "strain"), UsageError, "belongs to the pathway extended"),
        (("--teacher", "grace-1l-9l"), ModelError, "no model is called 'grace-1l-9l'"),
        (("--student", "fs-smal"), UsageError, "unknown preset 'fs-smal'"),
        (("--structures", "none.extxyz"), InputError, "none.extxyz"),
        (("--pathway", "naive"), InputError, "labels of their own"),
    ],
)
def test_errors_of_the_user(crystals, arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"--teacher": "grace-1l-11el", "--student": "fs-small", "--structures": crystals}
    settings |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    result = invoke(*(word for pair in settings.items() for word in pair))
    assert isinstance(result.exception, error)
    assert message in str(result.exception)


def test_the_examples_of_the_help_are_options():
    text = invoke("--help").output
    for option in ("--teacher", "--student", "--structures", "--pathway", "--augment"):
        assert option in text


@pytest.mark.slow
def test_a_student_of_the_bundled_model(crystals, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--teacher", "grace-1l-11el", "--student", "fs-small", "--structures", crystals, "--held-out", "0.3"]
    arguments += ["--pathway", "extended", "--augment", "strain", "--epochs", "2", "--batch-atoms", "32"]
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.exception
    document = json.loads(result.stdout)
    assert document["schema"] == "gracecli.distill"
    assert document["labelled"] == 4 + 3 * 4
    assert document["against_teacher"]["structures"] == 2
    assert document["parameters"]["student"] < 0.1 * document["parameters"]["teacher"]
    costs = {name: document["timings"][name]["microseconds"] for name in ("teacher", "student")}
    assert all(cost > 0 for cost in costs.values())
