"""Endings of ``grace``: exit codes, one line of error, one of remedy; and a start that costs nothing."""

import os
import re
import subprocess
import sys

import click
import pytest

from gracecli import errors
from gracecli.plugin.manager import get_plugin_manager
from gracecli.plugin.specs import CommandSpec

HEAVY = {"tensorflow", "ase", "numpy", "pymatgen", "scipy", "h5py", "matplotlib", "tqdm", "logging"}


@pytest.fixture
def failing(grace, monkeypatch):
    """Replace the body of `grace models` by a function."""

    def run(body, *arguments):
        command = click.Command("models", callback=body)
        monkeypatch.setattr(CommandSpec, "load", lambda spec: command)
        return grace("models", *arguments)

    return run


def raiser(error):
    def body():
        raise error

    return body


def test_help_lists_commands_in_sections(grace):
    result = grace("--help")
    assert result.exit_code == 0
    sections = re.findall(r"^(\w+):$", result.stdout, flags=re.MULTILINE)
    assert sections == ["Options", "Structures", "Training", "Models", "Data", "Plugins"]
    for name, spec in get_plugin_manager().commands().items():
        assert re.search(rf"^  {name} +{re.escape(spec.help[:20])}", result.stdout, flags=re.MULTILINE)


def test_version(grace):
    assert grace("--version").stdout == "grace 0.1.0\n"
    assert grace("plugins", "--version").stdout == "grace 0.1.0\n"


def test_help_imports_nothing_heavy():
    program = (
        "import sys\nfrom gracecli.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert not end.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "relax" in done.stdout
    assert HEAVY.isdisjoint(done.stderr.split())


def processor_seconds(*arguments):
    """Processor time of one run of Python; the clock on the wall would depend on what else the machine does."""
    before = os.times()
    subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, env={**os.environ, "GRACE_PLUGINS": ""}, check=True
    )
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_help_is_quick():
    """Well below 0.3 s on an idle machine; here, in units of the libraries it cannot do without (about 0.12 s)."""
    help_page = ["-m", "gracecli.cli.main", "--help"]
    libraries = ["-c", "import click, pluggy, importlib.metadata"]
    runs = [(processor_seconds(*help_page), processor_seconds(*libraries)) for _ in range(4)]
    assert min(ours for ours, _ in runs) < 2.2 * min(theirs for _, theirs in runs) + 0.03


def test_without_arguments_shows_help(grace):
    result = grace()
    assert result.exit_code == 2
    assert "Structures:" in result.output


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["relx"], "no command is called 'relx'", "did you mean relax?"),
        (["qqqq"], "no command is called 'qqqq'", "`grace --help` lists them"),
        (["--verson"], "no such option", "grace --help"),
        (["plugins", "list", "--jsn"], "no such option", "grace plugins list --help"),
        (["plugins", "info"], "missing argument 'NAME'", "grace plugins info --help"),
    ],
)
def test_usage_errors_exit_2(grace, arguments, message, hint):
    result = grace(*arguments)
    assert result.exit_code == 2
    first, second = result.stderr.splitlines()
    assert first.startswith("grace: error: ")
    assert message in first
    assert second.startswith("  try: ")
    assert hint in second
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError, 2),
        (errors.NotConvergedError, 3),
        (errors.InputError, 4),
        (errors.PartialFailureError, 5),
        (errors.ModelError, 6),
        (errors.StoreError, 7),
        (errors.MemoryLimitError, 8),
        (errors.PhysicsError, 9),
        (errors.PluginError, 20),
    ],
)
def test_known_errors(failing, error, code):
    result = failing(raiser(error("what went wrong", "the remedy")))
    assert result.exit_code == code
    assert result.stderr == "grace: error: what went wrong\n  try: the remedy\n"


@pytest.mark.parametrize("flags", [[], ["--traceback"]])
def test_unexpected_errors(failing, flags):
    result = failing(raiser(ZeroDivisionError("oh")), *flags)
    assert result.exit_code == 1
    assert "grace: error: internal error: ZeroDivisionError: oh\n  try: the same with --traceback" in result.stderr
    assert ("Traceback" in result.stderr) == bool(flags)


def test_out_of_memory(failing):
    result = failing(raiser(MemoryError()))
    assert result.exit_code == 8
    assert "out of memory" in result.stderr


def test_interrupted(failing):
    result = failing(raiser(KeyboardInterrupt()))
    assert result.exit_code == 130
    assert result.stderr.strip() == "grace: interrupted"


def test_end_of_file_in_a_command_is_no_interruption(failing):
    result = failing(raiser(EOFError("short file")))
    assert result.exit_code == 1
    assert "short file" in result.stderr


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (3, 3), (0, 0), ("text", 0), (True, 0)])
def test_a_command_may_return_its_exit_code(failing, returned, code):
    assert failing(lambda: returned).exit_code == code


def test_a_reader_that_leaves_early_is_no_error():
    program = [sys.executable, "-m", "gracecli.cli.main", "plugins", "info", "gracecli"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()  # gone before the first line
    assert process.wait(timeout=240) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


def test_no_plugins_is_undone_afterwards(grace, monkeypatch):
    monkeypatch.setenv("GRACE_PLUGINS", "something")
    assert grace("plugins", "list", "--no-plugins").exit_code == 0
    assert os.environ["GRACE_PLUGINS"] == "something"


def test_every_command_explains_itself(grace):
    """Every command's help page works, and every option on it has a text."""
    for name, spec in get_plugin_manager().commands().items():
        command = spec.load()
        assert grace(name, "--help").exit_code == 0
        for one in walk(command):
            assert one.help, f"{name} {one.name}"
            for parameter in one.params:
                if isinstance(parameter, click.Option):
                    assert parameter.help, f"{name} {one.name} {parameter.opts}"
                    assert all("_" not in option for option in parameter.opts), parameter.opts


def walk(command):
    yield command
    for child in getattr(command, "commands", {}).values():
        yield from walk(child)
