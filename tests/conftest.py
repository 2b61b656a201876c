"""Shared by all tests: few TensorFlow threads, and the folder of reference data next to the checkout."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

# before anything imports TensorFlow, and inherited by subprocesses: tests share the machine
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("GRACE_SHARED", ROOT.parent / "shared"))


def load_script(path):
    """Import a Python file that belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shared_folder():
    """Reference data that is no part of the repository; tests that need it are skipped without it."""
    if not (SHARED / "fixtures" / "grace").is_dir():
        pytest.skip(f"no reference data in {SHARED} (set GRACE_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def tensorflow():
    """TensorFlow, imported quietly."""
    from gracecli.quiet import import_tensorflow

    return import_tensorflow()


@pytest.fixture(scope="session")
def compare(shared_folder, tensorflow):
    """The comparison with the reference data that ``tools/compare_fixtures.py`` prints."""
    return load_script(ROOT / "tools" / "compare_fixtures.py")
