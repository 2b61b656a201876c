"""Runs the command line in this process."""

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gracecli.cli.main import main
from gracecli.plugin.manager import GROUP, reset_plugin_manager

ROOT = Path(__file__).parents[2]
ENGINE = """
import os, time
from gracecli.plugin import EngineSpec, hookimpl

@hookimpl
def gracecli_register_engines():
    yield EngineSpec(name="slow-emt", help="EMT, slowly.", factory="slow_plugin:create", needs_model=False)

def create(path, precision, hold=0.0, kill_atoms=0, **options):
    from grace_toy.emt import EffectiveMedium

    class Slow(EffectiveMedium):
        name = "slow-emt"

        def evaluate(self, graphs):
            time.sleep(hold)
            if any(len(g) == kill_atoms for g in graphs):
                os.kill(os.getpid(), 9)
            return super().evaluate(graphs)

    return Slow()
"""


@pytest.fixture
def grace(monkeypatch):
    """Call ``grace`` with arguments; returns click's result (``exit_code``, ``stdout``, ``stderr``)."""
    monkeypatch.setenv("GRACE_PLUGINS", "")  # whatever the developer has installed
    reset_plugin_manager()
    yield lambda *arguments: CliRunner().invoke(main, list(arguments))
    reset_plugin_manager()


@pytest.fixture
def emt_site(tmp_path_factory):
    """A folder with an installed plugin that brings the engine ``slow-emt``."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "slow_plugin.py").write_text(ENGINE)
    info = folder / "slow_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nslow = slow_plugin\n")
    return folder


@pytest.fixture
def emt_plugin(emt_site, monkeypatch):
    """The engine ``slow-emt`` is installed, here and in child processes."""
    toy = ROOT / "plugins" / "grace-toy" / "src"
    monkeypatch.syspath_prepend(emt_site)
    monkeypatch.syspath_prepend(toy)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(emt_site), str(toy), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("GRACE_PLUGINS", "slow")
    sys.modules.pop("slow_plugin", None)
    reset_plugin_manager()
    yield
    reset_plugin_manager()
