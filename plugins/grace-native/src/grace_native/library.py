"""The compiled modules: one per instruction set, the best one the processor can run is loaded."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import Any

from gracecli.errors import UsageError

INSTRUCTION_SETS = ("avx512", "avx2", "generic")


@cache
def load() -> Any:
    """Import the module for this processor; ``GRACE_NATIVE_ISA`` asks for a lesser one.

    Raises
    ------
    ImportError
        Nothing compiled is installed.
    UsageError
        The instruction set asked for is unknown, not built, or beyond the processor.
    """
    best = str(import_module("grace_native._cpu").best())
    usable = INSTRUCTION_SETS[INSTRUCTION_SETS.index(best) :]
    wanted = os.environ.get("GRACE_NATIVE_ISA")
    if wanted is not None:
        if wanted not in usable:
            raise UsageError(f"GRACE_NATIVE_ISA={wanted} cannot be used here", f"choose from {', '.join(usable)}")
        usable = (wanted,)
    for name in usable:
        try:
            return import_module(f"grace_native._{name}")
        except ModuleNotFoundError:
            continue
    raise ImportError(f"grace-native was built without {' or '.join(usable)}; install it again with a C++17 compiler")


def available() -> bool | str:
    """Whether the engine can be used here: True, or the reason as one line."""
    try:
        load()
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
