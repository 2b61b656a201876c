"""Plugins as a user meets them: listed, checked, called, broken, and gone again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read

ROOT = Path(__file__).parents[2]

COMMAND = """
    import click
    from gracecli.plugin import CommandSpec, hookimpl

    @hookimpl
    def gracecli_register_commands():
        yield CommandSpec(name="sparkle", help="Sparkle.", import_path="{module}:command", section="Properties")

    @click.command()
    def command():
        "Sparkle."
        {body}
"""


def sparkle(body: str, module: str = "grace_sparkle") -> str:
    return COMMAND.format(module=module, body=body)


def test_a_plugin_command_appears_and_runs(site):
    site.install_toy()
    done = site.grace_process("--help")
    assert done.returncode == 0
    assert "Show the toy potentials. [grace-toy 0.1.0]" in " ".join(done.stdout.split())
    assert done.stderr == ""
    done = site.grace("toy", "info", "--json")
    document = json.loads(done.stdout)
    assert [engine["name"] for engine in document["engines"]] == ["lj", "emt"]
    assert document["_units"] == {"cutoff": "Å"}


def test_help_stays_light_with_plugins(site):
    site.install_toy()
    program = (
        "import sys\nfrom gracecli.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert not end.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    loaded = site.python("-c", program).stderr.split()
    assert "grace_toy.plugin" in loaded
    assert {"numpy", "ase", "tensorflow", "scipy", "pymatgen", "grace_toy.lj"}.isdisjoint(loaded)


def test_no_plugins_and_an_empty_selection(site):
    site.install_toy()
    for arguments, environment in (
        (["--no-plugins", "toy", "info"], {}),
        (["toy", "info", "--no-plugins"], {}),
        (["toy", "info"], {"GRACE_PLUGINS": ""}),
    ):
        done = site.grace(*arguments, **environment)
        assert done.returncode == 2
        assert "no command is called 'toy'" in done.stderr
    assert site.grace("toy", "info", GRACE_PLUGINS="grace-toy").returncode == 0


def test_list_and_info(site):
    site.install_toy()
    document = json.loads(site.grace("plugins", "list", "--json").stdout)
    rows = {row["name"]: row for row in document["plugins"]}
    assert document["schema"] == "gracecli.plugins.list"
    assert rows["toy"]["version"] == "0.1.0"
    assert {spec["name"] for spec in rows["toy"]["specs"]} == {"lj", "emt", "toy"}
    done = site.grace("plugins", "info", "grace-toy")
    assert done.returncode == 0
    assert "grace_toy.lj:create_engine" in done.stdout
    done = site.grace("plugins", "info", "toi")
    assert (done.returncode, done.stderr) == (
        4,
        "grace: error: no plugin is called 'toi'\n  try: did you mean toy?\n",
    )


def test_a_broken_plugin_warns_once_and_harms_nobody(site):
    site.install("grace-broken", "import tensorflow_that_is_not_there", name="sparkle")
    site.install_toy()
    done = site.grace("toy", "info")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "grace: warning: plugin 'sparkle' of grace-broken 1.2.3 is broken: "
        "ModuleNotFoundError: No module named 'tensorflow_that_is_not_there'"
    ]
    assert site.grace("-q", "toy", "info").stderr == ""
    done = site.grace("plugins", "list")
    assert done.returncode == 0
    assert "broken  ModuleNotFoundError" in done.stdout
    assert "Broken plugins: sparkle" in site.grace("--help").stdout
    done = site.grace("plugins", "info", "sparkle")
    assert "grace_broken.py:1" in done.stdout


def test_calling_a_broken_plugin_exits_20_and_names_it(site):
    site.install("grace-broken", "raise RuntimeError('no luck')", name="sparkle")
    done = site.grace_process("sparkle")
    assert done.returncode == 20
    assert "grace-broken 1.2.3" in done.stderr
    assert "Traceback" not in done.stderr
    assert "raise RuntimeError" in site.grace("sparkle", "--traceback").stderr


def test_strict_mode_makes_a_broken_plugin_an_error(site):
    site.install("grace-broken", "raise RuntimeError('no luck')")
    assert site.grace("plugins", GRACE_STRICT_PLUGINS="1").returncode == 20
    assert site.grace("plugins", "--no-plugins", GRACE_STRICT_PLUGINS="1").returncode == 0


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("return {}['x']", 20, "command 'sparkle' of grace-sparkle 1.2.3 failed: KeyError: 'x'"),
        ("open('/not/there')", 20, "command 'sparkle' of grace-sparkle 1.2.3 failed: FileNotFoundError"),
        ("from gracecli.errors import InputError; raise InputError('bad file')", 4, "grace: error: bad file"),
        ("return 3", 3, ""),
        ("return None", 0, ""),
    ],
)
def test_what_a_plugin_command_raises(site, body, code, message):
    site.install("grace-sparkle", sparkle(body))
    done = site.grace("sparkle")
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_two_plugins_with_one_command(site):
    for number in "12":
        module = f"grace_sparkle{number}"
        site.install(f"grace-sparkle{number}", sparkle("return None", module), module=module)
    done = site.grace("sparkle")
    assert done.returncode == 20
    assert "claimed by grace-sparkle1 1.2.3 and grace-sparkle2 1.2.3" in done.stderr
    assert "GRACE_PLUGINS" in done.stderr
    assert site.grace("sparkle", GRACE_PLUGINS="grace-sparkle2").returncode == 0


def test_check_passes_the_toy(site):
    site.install_toy()
    done = site.grace("plugins", "check", "toy", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["passed"]
    asked = {(check["subject"], check["check"]) for check in document["checks"]}
    assert {("engine emt", "forces are -dE/dr"), ("engine lj", "stress is dE/dstrain / V")} <= asked
    assert ("plugin toy", "module is light") in asked


def test_a_plugin_engine_relaxes_a_structure(site):
    """Argon, stretched by 3 %, shrinks to the minimum of the pair potential within the cutoff."""
    pytest.importorskip("gracecli.cli.relax")
    site.install_toy()
    bulk("Ar", "fcc", a=5.4, cubic=True).write(site.path / "Ar.vasp", format="vasp")
    words = ["relax", "Ar.vasp", "--engine", "lj", "--engine-option", "sigma=3.4", "--cell", "full", "--json"]
    done = site.grace_process(*words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["_units"]
    relaxed = read(next(site.path.glob("*relaxed*")))
    assert np.allclose(relaxed.cell.lengths(), 5.25, atol=0.05)  # 1.5451 sigma at no cutoff, a little more with one
    done = site.grace_process("relax", "Ar.vasp", "--engine", "lj", "--engine-option", "depth=1", "--force")
    assert (done.returncode, "epsilon, sigma, cutoff, onset" in done.stderr) == (2, True)


def test_check_fails_a_heavy_module_and_a_missing_factory(site):
    site.install(
        "grace-heavy",
        """
        import numpy
        from gracecli.plugin import EngineSpec, hookimpl

        @hookimpl
        def gracecli_register_engines():
            yield EngineSpec(name="heavy", help="Heavy.", factory="not_there:create_engine", needs_model=False)
        """,
    )
    done = site.grace("plugins", "check", "grace-heavy")
    assert done.returncode == 20
    assert "imports numpy at start-up" in done.stdout
    assert "No module named 'not_there'" in done.stdout
    assert "fails 2 of 3 checks" in done.stderr


@pytest.mark.slow
def test_install_and_uninstall_for_real(tmp_path):
    """The package installer puts the sample package into a fresh environment and takes it out again."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    # the dependencies of gracecli come from this interpreter's environment: what is tested is the package
    packages = [path for path in sys.path if path.endswith("site-packages")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *packages])}

    def grace(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = [python, "-m", "gracecli.cli.main", *arguments]
        return subprocess.run(program, capture_output=True, text=True, env=variables, cwd=tmp_path, check=False)

    package = ROOT / "plugins" / "grace-toy"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", package], check=True)
    assert grace("toy", "info").returncode == 0
    assert grace("plugins", "check", "toy").returncode == 0
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "grace-toy"], check=True)
    assert grace("toy", "info").returncode == 2
