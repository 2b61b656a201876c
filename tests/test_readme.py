"""What the README shows must work: options exist, exit codes agree with the code, commands run."""

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from gracecli import errors
from gracecli.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
CONSOLE = [
    line[2:]
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
CALLS = [
    shlex.split(call)[1:]
    for line in [*"".join(SHELL).splitlines(), *CONSOLE]
    for call in line.split(" && ")
    if re.match(r"(\.venv/bin/)?grace ", call)
]


def test_there_are_commands_to_check():
    assert len(SHELL) >= 2  # the first runs the main job, the second the tests
    assert len(CALLS) >= 6


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
def test_commands_and_options_exist(words):
    context = main.make_context("grace", [], resilient_parsing=True)
    command, words = main, list(words)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        command = command.get_command(context, name)
        if command is None and name == "toy":
            return  # from the plugin; its own tests call it
        assert command is not None, name
        context = click.Context(command, info_name=name, parent=context)
    options = {
        option for parameter in command.get_params(context) for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {word for word in words if word.startswith("-")} <= options


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


def test_exit_codes_agree_with_the_errors():
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GraceError)]
    assert {kind.exit_code for kind in kinds} | {0, 130} == table


def test_continuous_integration_runs_the_command_of_the_readme():
    assert SHELL[1].strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.slow
def test_first_command_and_tour_in_a_fresh_clone(tmp_path):
    """The first command as typed by a newcomer, then every command of the tour."""
    clone = tmp_path / "gracecli"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    done = subprocess.run(SHELL[0], shell=True, cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Si" in done.stdout
    python = clone / ".venv" / "bin" / "python"
    done = subprocess.run(
        [python, "tools/refresh_readme.py", "--check"], cwd=clone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
