"""What people and programs read on stdout."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from gracecli.cli.options import verbosity_options
from gracecli.cli.output import Column, emit_json, format_pairs, format_table, note, plain, progress, warn


@dataclass(frozen=True)
class Result:
    energy: float
    forces: np.ndarray
    path: Path


def test_json_document_is_strict_json(capsys):
    result = Result(energy=np.float64(-1.5), forces=np.array([[0.0, np.nan]]), path=Path("a/b"))
    emit_json("gracecli.test", 2, {"results": [result], "converged": np.bool_(True)}, {"energy": "eV"})
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)  # no NaN, no Infinity
    assert document == {
        "schema": "gracecli.test",
        "schema_version": 2,
        "_units": {"energy": "eV"},
        "results": [{"energy": -1.5, "forces": [[0.0, None]], "path": "a/b"}],
        "converged": True,
    }


def test_json_keeps_every_digit():
    assert json.loads(json.dumps(plain(np.array([0.1 + 0.2])))) == [0.1 + 0.2]


def test_json_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match="object"):
        plain({"a": object()})


def test_table():
    text = format_table(
        ["name", Column("energy", "eV", ".3f"), Column("steps"), "converged"],
        [("Si", -10.0, 12, True), ("a long name", np.float64(-1.23456), None, False), ("x", float("nan"), 3, True)],
    )
    assert text.splitlines() == [
        "name          energy  steps  converged",
        "                  eV",
        "-----------  -------  -----  ---------",
        "Si           -10.000     12  yes",
        "a long name   -1.235      -  no",
        "x                  -      3  yes",
    ]


def test_table_without_rows_shows_its_head():
    assert format_table(["a", "b"], []).splitlines() == ["a  b", "-  -"]


def test_table_rejects_a_row_of_the_wrong_length():
    with pytest.raises(ValueError, match="zip"):
        format_table(["a", "b"], [(1,)])


def test_pairs():
    assert format_pairs([("cutoff", 6.0), ("elements", ("Si", "Ge")), ("licence", None)]) == (
        "cutoff    6\nelements  Si, Ge\nlicence   -"
    )


@click.group()
@verbosity_options
def loud():
    pass


@loud.command()
@verbosity_options
def speak():
    warn("warned")
    note("noted")
    logging.getLogger("gracecli.test").warning("logged")
    logging.getLogger("gracecli.test").debug("debugged")
    with progress(range(3), description="counting") as bar:
        click.echo(sum(bar))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["speak", "-v"], "grace: warning: warned\nnoted\ngrace: warning: logged\n"),
        (["-v", "speak"], "grace: warning: warned\nnoted\n"),
        (["-v", "speak", "-v"], "grace: warning: warned\nnoted\ngrace: warning: logged\ndebugged\n"),
        (["speak", "-q"], ""),
        (["-q", "speak"], ""),
    ],
)
def test_verbosity_before_and_after_the_command(arguments, expected):
    result = CliRunner().invoke(loud, arguments)
    assert result.exit_code == 0
    assert result.stdout == "3\n"
    assert result.stderr.startswith(expected)
    assert "counting" not in result.stderr  # no terminal, no bar
    if not expected:
        assert result.stderr == ""
