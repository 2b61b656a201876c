"""Evaluation of many graphs so that neither a lack of memory nor one bad structure stops the others.

Out of memory: the call is repeated in halves, and the budget for what is in work at once is halved too. Any other
error: the structures are evaluated one at a time, and those that fail alone get the error.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from gracecli.engine.base import Engine, Graph, Results
from gracecli.errors import GraceError, MemoryLimitError, PluginError
from gracecli.plugin.specs import describe

#: Memory per bond of a batch in bytes: joined lists, vectors and copies (about 150) and what engines keep for the
#: derivative (TensorFlow, 1L model: 2,000).
BYTES_PER_BOND = 2500
#: Share of the available memory that a batch may fill.
SHARE = 0.25
#: More atoms than this in one batch make nothing faster (benchmarks/relax_batch.py), only results come later.
MAX_ATOMS = 2000


@dataclass
class Budget:
    """How much may be in work at once.

    Attributes
    ----------
    atoms, bonds : int
    structures : int or None
        None: as many as the others allow.
    """

    atoms: int = MAX_ATOMS
    bonds: int = 4_000_000
    structures: int | None = None

    @classmethod
    def of_machine(cls, structures: int | None = None) -> Budget:
        """Budget for the memory that is available now; a wanted number of structures lifts the limit on atoms."""
        bonds = int(SHARE * available_memory() / BYTES_PER_BOND)
        return cls(MAX_ATOMS if structures is None else 10**9, max(bonds, 10_000), structures)

    def allows(self, structures: int, atoms: int, bonds: int) -> bool:
        """Whether so much fits; one structure always does."""
        few = self.structures is None or structures <= self.structures
        return structures <= 1 or (few and atoms <= self.atoms and bonds <= self.bonds)

    def halve(self, atoms: int, bonds: int) -> None:
        """Less than what did not fit."""
        self.atoms, self.bonds = max(atoms // 2, 1), max(bonds // 2, 1)


def available_memory() -> int:
    """Memory in bytes that programs can still take; 2 GB where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 (not a file of the user)
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) // 2
    except (OSError, ValueError):
        return 2 * 10**9


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an engine ran out of memory (Python's, gracecli's or TensorFlow's error)."""
    return isinstance(error, MemoryError | MemoryLimitError) or type(error).__name__ == "ResourceExhaustedError"


def evaluate_all(engine: Engine, graphs: Sequence[Graph], budget: Budget) -> list[Results | GraceError]:
    """Results, or the error, of every graph (module docstring)."""
    if not graphs:
        return []
    try:
        return list(engine.evaluate(graphs))
    except Exception as error:  # engines of plugins raise whatever they like
        if len(graphs) == 1:
            return [_explained(error, engine)]
        if is_out_of_memory(error):
            budget.halve(sum(map(len, graphs)), sum(len(g.centre) for g in graphs))
            middle = len(graphs) // 2
            parts = [graphs[:middle], graphs[middle:]]
        else:
            parts = [[graph] for graph in graphs]
    return [result for part in parts for result in evaluate_all(engine, part, budget)]


def _explained(error: Exception, engine: Engine) -> GraceError:
    if is_out_of_memory(error):
        return MemoryLimitError("out of memory on this structure alone", "use --precision fp32, or a larger machine")
    if isinstance(error, GraceError):
        return error
    failure = PluginError(f"engine {engine.name} failed: {describe(error)}", "report this to its authors")
    failure.__cause__ = error
    return failure
