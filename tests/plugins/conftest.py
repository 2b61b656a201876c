"""Installs made-up and real plugins into a folder, as an installer would, without an installer."""

import importlib
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from gracecli.cli.main import main
from gracecli.plugin.manager import GROUP, PluginManager, reset_plugin_manager

ROOT = Path(__file__).parents[2]
TOY_SOURCE = ROOT / "plugins" / "grace-toy" / "src"


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Site:
    """A folder in the style of site-packages."""

    path: Path

    def install(
        self, distribution: str, source: str, *, name: str | None = None, module: str | None = None, version="1.2.3"
    ) -> None:
        """Put a package with one module and one entry point there."""
        module = module or distribution.replace("-", "_")
        (self.path / f"{module}.py").write_text(textwrap.dedent(source))
        self.write_metadata(distribution, name or distribution, module, version)

    def install_toy(self) -> None:
        """Make the sample package of the repository visible."""
        self.write_metadata("grace-toy", "toy", "grace_toy.plugin", "0.1.0")

    def write_metadata(self, distribution: str, name: str, module: str, version: str) -> None:
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}\n")
        importlib.invalidate_caches()

    def entry_points(self) -> list[EntryPoint]:
        found = distributions(path=[str(self.path)])
        return [entry for one in found for entry in one.entry_points if entry.group == GROUP]

    def manager(self, selection=None) -> PluginManager:
        return PluginManager(self.entry_points(), selection)

    def grace(self, *arguments: str, **environment: str) -> Ended:
        """Run the command line in this process, which has this folder on its path."""
        reset_plugin_manager()
        result = CliRunner().invoke(main, list(arguments), env={"GRACE_PLUGINS": None, **environment})
        return Ended(result.exit_code, result.stdout, result.stderr)

    def grace_process(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it in a process of its own."""
        return self.python("-m", "gracecli.cli.main", *arguments, **environment)

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run an interpreter that sees this folder, the sample package and the repository."""
        paths = [str(self.path), str(TOY_SOURCE), str(ROOT)]
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env=variables,
            cwd=self.path,
            check=False,
        )


@pytest.fixture
def site(tmp_path, monkeypatch) -> Site:
    """An empty folder on the import path; modules imported from it are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    reset_plugin_manager()
