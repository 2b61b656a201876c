"""Rows by their hash: which structures have a uid, which results an identity. In memory, updated in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from gracecli.store.schema import COLUMNS

if TYPE_CHECKING:
    from gracecli.store.store import Store

MERGE_ROWS = 2048
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


class HashIndex:
    """Rows of a column of hashes, found by their first eight bytes and compared whole.

    Old rows stand in a sorted array (16 bytes per row, whatever their number), new ones in a dictionary until there are
    enough to sort again.

    Parameters
    ----------
    store : Store
    path : str
        Column such as ``"structure/uid"``.
    """

    def __init__(self, store: Store, path: str) -> None:
        self.store, self.path = store, path
        self._axis = COLUMNS[path].axis
        self._known = 0
        self._keys: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._rows: NDArray[np.int64] = np.zeros(0, np.int64)
        self._new: dict[int, list[int]] = {}

    def update(self) -> None:
        """Take in the rows committed since the last call."""
        count = self.store.commit.counts[self._axis]
        if count == self._known:
            return
        fresh = np.ascontiguousarray(self.store.column(self.path, self._known, count)[:, :8]).view("<u8").ravel()
        numbers = np.arange(self._known, count)
        self._known = count
        for key, number in zip(fresh.tolist(), numbers.tolist(), strict=True) if len(fresh) < MERGE_ROWS else ():
            self._new.setdefault(key, []).append(number)
        if len(fresh) >= MERGE_ROWS or len(self._new) >= MERGE_ROWS:
            waiting = [(key, row) for key, rows in self._new.items() for row in rows]
            parts = [self._keys, np.array([key for key, _ in waiting], np.uint64)]
            places = [self._rows, np.array([row for _, row in waiting], np.int64)]
            if len(fresh) >= MERGE_ROWS:
                parts, places = [*parts, fresh], [*places, numbers]
            keys, rows = np.concatenate(parts), np.concatenate(places)
            order = np.argsort(keys, kind="stable")
            self._keys, self._rows, self._new = keys[order], rows[order], {}

    def find(self, digest: bytes) -> list[int]:
        """Rows with this hash, ascending."""
        self.update()
        key = int.from_bytes(digest[:8], "little")
        first, last = (int(np.searchsorted(self._keys, np.uint64(key), side=side)) for side in _SIDES)
        candidates = [*self._rows[first:last].tolist(), *self._new.get(key, ())]
        return sorted(row for row in candidates if self.store.column(self.path, row, row + 1)[0].tobytes() == digest)
