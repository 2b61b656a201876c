"""Commit rows: the counts of every table, and two checksums.

A row is ``number, time, counts..., 0..., crc, chain``: ``crc`` is the crc32 of what stands before it, ``chain`` goes on
from the chain of the row before. Rows are trusted as long as the chain holds; a row that does not fit, at the very
end, is what a killed writer left. A valid one behind a bad one means damage, which no writer may bury.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gracecli.store.schema import AXES, COMMIT_WIDTH

Rows = NDArray[np.uint64]


@dataclass(frozen=True)
class Commit:
    """State of a store after one append."""

    number: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(AXES, 0))
    chain: int = 0
    time_ns: int = 0

    def following(self, counts: dict[str, int]) -> tuple[Commit, Rows]:
        """Next commit and its row."""
        row = np.zeros(COMMIT_WIDTH, dtype="<u8")
        row[0], row[1] = self.number + 1, time.time_ns()
        row[2 : 2 + len(AXES)] = [counts[axis] for axis in AXES]
        row[-2] = zlib.crc32(row[:-2].tobytes())
        row[-1] = zlib.crc32(row[:-1].tobytes(), self.chain)
        return _of(row), row


def _of(row: Rows) -> Commit:
    counts = {axis: int(row[2 + number]) for number, axis in enumerate(AXES)}
    return Commit(int(row[0]), counts, int(row[-1]), int(row[1]))


def alone_valid(row: Rows) -> bool:
    """Whether a row's own checksum holds."""
    return bool(row.any()) and zlib.crc32(row[:-2].tobytes()) == row[-2]


def last_valid(rows: Rows, start: Commit) -> tuple[Commit, bool]:
    """Last commit that the chain from ``start`` reaches in the ``rows`` behind it; and whether damage hides more."""
    commit = start
    for index, row in enumerate(rows):
        if (
            int(row[0]) != commit.number + 1
            or not alone_valid(row)
            or zlib.crc32(row[:-1].tobytes(), commit.chain) != row[-1]
        ):
            return commit, any(alone_valid(later) for later in rows[index + 1 :])
        commit = _of(row)
    return commit, False
