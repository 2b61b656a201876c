"""GRACE interatomic potentials from one command.

``from gracecli import GraceCalculator, load_model`` works without paying for what is not used: names are imported on
first access, so that ``import gracecli`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gracecli.engine.calculator import GraceCalculator as GraceCalculator
    from gracecli.engine.create import load_model as load_model

    __version__: str

_EXPORTS = {
    "GraceCalculator": "gracecli.engine.calculator:GraceCalculator",
    "load_model": "gracecli.engine.create:load_model",
}

__all__ = ["GraceCalculator", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("gracecli")
    if name in _EXPORTS:
        from importlib import import_module

        module, _, attribute = _EXPORTS[name].partition(":")
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
