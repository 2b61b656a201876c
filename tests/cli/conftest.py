"""Runs the command line in this process."""

import pytest
from click.testing import CliRunner

from gracecli.cli.main import main
from gracecli.plugin.manager import reset_plugin_manager


@pytest.fixture
def grace(monkeypatch):
    """Call ``grace`` with arguments; returns click's result (``exit_code``, ``stdout``, ``stderr``)."""
    monkeypatch.setenv("GRACE_PLUGINS", "")  # whatever the developer has installed
    reset_plugin_manager()
    yield lambda *arguments: CliRunner().invoke(main, list(arguments))
    reset_plugin_manager()
