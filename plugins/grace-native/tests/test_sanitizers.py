"""Address, undefined-behaviour and thread sanitizers on all kernels (builds them: minutes)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "sanitize.sh"


@pytest.mark.slow
def test_sanitizers_are_silent() -> None:
    if any(shutil.which(tool) is None for tool in ("g++", "cmake", "ninja")):
        pytest.skip("needs g++, cmake and ninja")
    done = subprocess.run(["sh", str(SCRIPT), sys.executable], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("clean") == 2
