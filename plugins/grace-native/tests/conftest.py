"""Engines and structures of the tests; without the compiled part nothing here is collected."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

sys.path.insert(0, str(Path(__file__).parent))

from native_models import DATA, STRUCTURES, read

collect_ignore_glob: list[str] = []
if find_spec("grace_native") is None or find_spec("grace_native._native") is None:
    collect_ignore_glob.append("test_*.py")


@pytest.fixture(scope="session")
def numbers() -> dict[str, np.ndarray]:
    with np.load(DATA / "reference.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def structures(numbers: dict[str, np.ndarray]) -> dict[str, Atoms]:
    def make(name: str) -> Atoms:
        return Atoms(
            numbers=numbers[f"{name}/numbers"], positions=numbers[f"{name}/positions"], cell=numbers[f"{name}/cell"],
            pbc=numbers[f"{name}/pbc"],
        )  # fmt: skip

    return {name: make(name) for name in STRUCTURES}


@pytest.fixture(scope="session")
def engine() -> Any:
    """Engines by model name and options, made once."""
    made: dict[Any, Any] = {}

    def get(name: str, **options: Any) -> Any:
        from grace_native.engine import NativeEngine

        key = (name, *sorted(options.items()))
        if key not in made:
            made[key] = NativeEngine(read(name), **{"threads": 1, **options})
        return made[key]

    return get
