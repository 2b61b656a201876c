"""What is known of every frame without reading it: set, kind, weight, share, numbers of labels.

Lists of frames and frames that stay in a store have such a table alike; whatever visits all frames in every epoch looks
here, not at the frames.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gracecli.fit.data import Frame

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class FrameTable:
    """One row per frame.

    Attributes
    ----------
    sets, kinds : tuple of str
        Names of sets and of ``config_type`` values.
    set_code, kind_code : (n,) int
        Indices into them.
    share, weight : (n,) float64
        Visits per epoch; factor on the loss.
    labels : (n, 3) int
        Energies, force components, stress components that have a label.
    """

    sets: tuple[str, ...]
    kinds: tuple[str, ...]
    set_code: NDArray[np.int32]
    kind_code: NDArray[np.int32]
    share: NDArray[np.float64]
    weight: NDArray[np.float64]
    labels: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.set_code)

    def subset(self, chosen: Sequence[int] | IntArray) -> FrameTable:
        """Rows in the order given."""
        rows = np.asarray(chosen, dtype=np.int64)
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return replace(self, **arrays)

    def strata(self) -> dict[tuple[str, str], list[int]]:
        """Rows by set and kind."""
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row, (a, b) in enumerate(zip(self.set_code.tolist(), self.kind_code.tolist(), strict=True)):
            found[self.sets[a], self.kinds[b]].append(row)
        return found

    def groups(self) -> dict[tuple[str, float], list[int]]:
        """Rows by set and share."""
        found: dict[tuple[str, float], list[int]] = {}
        for row, (code, share) in enumerate(zip(self.set_code.tolist(), self.share.tolist(), strict=True)):
            found.setdefault((self.sets[code], share), []).append(row)
        return found


_ARRAYS = ("set_code", "kind_code", "share", "weight", "labels")


def make_table(rows: Sequence[tuple[str, str, float, float, tuple[int, int, int]]]) -> FrameTable:
    """Table from (set, kind, share, weight, labels)."""
    sets, kinds = tuple(sorted({row[0] for row in rows})), tuple(sorted({row[1] for row in rows}))
    at_set, at_kind = ({name: i for i, name in enumerate(names)} for names in (sets, kinds))
    return FrameTable(
        sets,
        kinds,
        np.array([at_set[row[0]] for row in rows], np.int32),
        np.array([at_kind[row[1]] for row in rows], np.int32),
        np.array([row[2] for row in rows], float),
        np.array([row[3] for row in rows], float),
        np.array([row[4] for row in rows], np.int32).reshape(-1, 3),
    )


def join_tables(tables: Sequence[FrameTable]) -> FrameTable:
    """Tables one below the other."""
    sets = tuple(sorted({name for table in tables for name in table.sets}))
    kinds = tuple(sorted({name for table in tables for name in table.kinds}))
    columns: dict[str, Any] = {name: np.concatenate([getattr(t, name) for t in tables]) for name in _ARRAYS[2:]}
    for name, known, codes in (("sets", sets, "set_code"), ("kinds", kinds, "kind_code")):
        maps = [np.array([known.index(n) for n in getattr(t, name)], np.int32) for t in tables]
        columns[codes] = np.concatenate([m[getattr(t, codes)] for m, t in zip(maps, tables, strict=True)])
    return FrameTable(sets, kinds, **columns)


def count_of(frame: Frame) -> tuple[int, int, int]:
    """Labels of a frame: energies, force components (of atoms that have all three), stress components."""
    return (
        int(np.isfinite(frame.energy)),
        3 * int(np.isfinite(frame.forces).all(axis=1).sum()),
        int(np.isfinite(frame.stress).sum()),
    )


def table_of(frames: Sequence[Frame]) -> FrameTable:
    """The table of frames, made where they do not bring it."""
    known: FrameTable | None = getattr(frames, "table", None)
    if known is not None:
        return known
    return make_table([(f.set_name, f.config_type, f.share, f.weight, count_of(f)) for f in frames])
