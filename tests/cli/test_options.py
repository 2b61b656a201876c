"""Options that commands share, and their defaults from files."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gracecli.cli.main import GraceGroup
from gracecli.cli.options import (
    config_option,
    force_option,
    json_option,
    model_options,
    output_option,
    seed_option,
)


@click.command()
@model_options
@output_option
@force_option
@json_option
@seed_option
@click.option("--fmax", type=float, default=0.02)
@click.option("--fix-symmetry/--no-fix-symmetry")
@config_option
def command(**values):
    click.echo(repr(values))


@pytest.fixture
def run(monkeypatch):
    """Values the command receives, or the error."""
    monkeypatch.setenv("GRACE_PLUGINS", "")
    group = GraceGroup("grace")
    monkeypatch.setattr(group, "get_command", lambda context, name: command)

    def invoke(*arguments):
        result = CliRunner().invoke(group, ["command", *arguments])
        if result.exit_code:
            return result.exit_code, result.stderr
        return eval(result.stdout, {"PosixPath": Path})

    return invoke


def test_defaults(run):
    assert run() == {
        "model": None,
        "engine": "auto",
        "precision": None,
        "engine_option": {},
        "output": None,
        "force": False,
        "as_json": False,
        "seed": None,
        "fmax": 0.02,
        "fix_symmetry": False,
    }


def test_engine_options_are_typed(run):
    given = [word for pair in ("a=1", "b-c=1e-3", "d=true", "e=x=y", "f=-2") for word in ("--engine-option", pair)]
    assert run(*given)["engine_option"] == {"a": 1, "b_c": 1e-3, "d": True, "e": "x=y", "f": -2}
    code, message = run("--engine-option", "sigma")
    assert code == 2
    assert "is not KEY=VALUE" in message


def test_command_line_wins_over_file_over_default(run, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('fmax = 0.5\nseed = 7\nmodel = "this"\nfix-symmetry = true\njson = true\nengine-option = ["a=2"]\n')
    values = run("--config", str(file), "--seed", "8")
    assert (values["fmax"], values["seed"], values["model"]) == (0.5, 8, "this")
    assert (values["fix_symmetry"], values["as_json"], values["engine_option"]) == (True, True, {"a": 2})
    assert values["engine"] == "auto"
    assert run("--config", str(file), "--no-fix-symmetry")["fix_symmetry"] is False


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("fmx = 0.5\n", 2, "unknown key 'fmx' in {file}\n  try: did you mean fmax?"),
        ("config = 'other.toml'\n", 2, "unknown key 'config'"),
        ("fmax = 'loose'\n", 2, "'--fmax'"),
        ("fmax = \n", 4, "is not valid TOML"),
        ("precision = 'fp16'\n", 2, "'--precision'"),
    ],
)
def test_bad_files(run, tmp_path, content, code, message):
    file = tmp_path / "run.toml"
    file.write_text(content)
    result = run("--config", str(file))
    assert result[0] == code
    assert message.format(file=file) in result[1]


def test_missing_and_binary_files(run, tmp_path):
    assert run("--config", str(tmp_path / "none.toml"))[0] == 4
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    code, message = run("--config", str(tmp_path / "binary.toml"))
    assert code == 4
    assert "not a text file" in message
