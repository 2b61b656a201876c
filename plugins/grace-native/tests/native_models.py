"""Small models with reference numbers, made by tools/make_test_models.py."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from gracecli.model.modelfile import Model, load_model

DATA = Path(__file__).parent / "data"
MODELS = ("fs", "1l", "1l-first", "1l-pairs", "2l", "2l-first", "3l")
STRUCTURES = ("alloy", "cell", "slab", "trimer", "atom")


@cache
def read(name: str) -> Model:
    """Test model by name."""
    return load_model(DATA / f"{name}.grace")
