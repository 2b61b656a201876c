"""The compiled part: a Python module, and a library of kernels per instruction set, of which the best is opened."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from gracecli.errors import UsageError

INSTRUCTION_SETS = ("avx512", "avx2", "generic")


def kernel_files() -> list[Path]:
    """The libraries of kernels that are installed."""
    import grace_native

    folders = (Path(folder) / "kernels" for folder in grace_native.__path__)
    return sorted(file for folder in folders for file in folder.glob("libgracekernels_*.so"))


@cache
def instruction_set() -> str:
    """The best instruction set that is built and runs on this processor; ``GRACE_NATIVE_ISA`` asks for a lesser one.

    Raises
    ------
    ImportError
        Nothing compiled is installed.
    UsageError
        The instruction set asked for is unknown, not built, or beyond the processor.
    """
    best = str(import_module("grace_native._native").best())
    usable = INSTRUCTION_SETS[INSTRUCTION_SETS.index(best) :]
    wanted = os.environ.get("GRACE_NATIVE_ISA")
    if wanted is not None:
        if wanted not in usable:
            raise UsageError(f"GRACE_NATIVE_ISA={wanted} cannot be used here", f"choose from {', '.join(usable)}")
        usable = (wanted,)
    built = {file.stem.removeprefix("libgracekernels_") for file in kernel_files()}
    for name in usable:
        if name in built:
            return name
    raise ImportError(f"grace-native was built without {' or '.join(usable)}; install it again with a C++17 compiler")


@cache
def load() -> Any:
    """Open the library of kernels (errors of :func:`instruction_set`)."""
    name = instruction_set()
    path = next(file for file in kernel_files() if file.stem == f"libgracekernels_{name}")
    return import_module("grace_native._native").Library(str(path))


@cache
def couplings() -> frozenset[tuple[int, int, int]]:
    """Couplings with straight-line code: l1, l2, bit mask of target degrees."""
    return frozenset(tuple(k) for k in load().couplings())


def available() -> bool | str:
    """Whether the engine can be used here: True, or the reason as one line."""
    try:
        instruction_set()
    except ModuleNotFoundError:
        return "its compiled part is missing: install a C++17 compiler (such as g++), then grace-native again"
    except (ImportError, UsageError) as error:
        return str(error)
    return True


def default_threads() -> int:
    """Threads to use: ``OMP_NUM_THREADS``, else the processors this process may run on."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
