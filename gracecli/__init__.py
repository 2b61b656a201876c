"""GRACE interatomic potentials from one command.

``from gracecli import GraceCalculator, load_model`` works without paying for what is not used: names are imported on
first access, so that ``import gracecli`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from gracecli.engine.calculator import GraceCalculator as GraceCalculator
    from gracecli.model.modelfile import Model
    from gracecli.store.store import Store as Store

    __version__: str

__all__ = ["GraceCalculator", "Store", "__version__", "load_model"]


def load_model(model: str | Path | None = None) -> Model:
    """Read a model: blueprint, weights, metadata.

    Parameters
    ----------
    model : str, Path or None
        Registered name, path of a ``.grace`` file, or folder with a published model.yaml and checkpoint; None is the
        bundled default model. ``NAME#HEAD`` is one head of a model that has several.

    Raises
    ------
    ModelError
        No such model, or its file is corrupt or unsupported.
    """
    from gracecli.registry.resolve import read_model, resolve_model

    return read_model(resolve_model(model))


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("gracecli")
    if name == "GraceCalculator":
        from gracecli.engine.calculator import GraceCalculator

        return GraceCalculator
    if name == "Store":
        from gracecli.store.store import Store

        return Store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
