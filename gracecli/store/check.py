"""Is a store what its writers committed? Every commit row, every row's content hash, the superblock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import GraceError, StoreError
from gracecli.store import commits, superblock
from gracecli.store.commits import Commit
from gracecli.store.entry import content_hash
from gracecli.store.schema import COMMITS
from gracecli.store.store import Store
from gracecli.store.writer import PER_ATOM, hashed_columns

BLOCK = 512


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes
    ----------
    structures, commits : int
        Committed ones that can be reached.
    bad : tuple of int
        Structures whose content is not what was committed.
    problems : tuple of str
        Damage, in words; empty for a sound store.
    notes : tuple of str
        What is no damage: an append that a killed writer left open.
    """

    structures: int
    commits: int
    bad: tuple[int, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check(path: Path) -> Report:
    """Read everything in a store and compare it with its checksums."""
    problems, notes = [], []
    block = superblock.read(path)
    if not block.checksum_ok:
        problems.append("the superblock's checksum is wrong")
    size = path.stat().st_size
    if not block.flags and block.end > size:
        problems.append(f"the file is truncated: {size:,} of {block.end:,} bytes")
    if block.flags and not path.with_name(f"{path.name}.lock").exists():
        notes.append("a writer was killed; the next one clears its mark")
    try:
        store = Store(path, swmr=bool(block.flags))
    except (GraceError, OSError, KeyError, RuntimeError) as error:
        return Report(0, 0, (), (*problems, f"it does not open: {error}".splitlines()[0]), tuple(notes))
    with store:
        bad = tuple(index for index, sound in verified(store) if not sound)
        if bad:
            problems.append(f"{len(bad)} of {len(store)} structures are damaged: {_ranges(bad)}")
        return Report(len(store), store.commit.number, bad, tuple(problems), tuple(notes))


def _ranges(numbers: tuple[int, ...]) -> str:
    array = np.array(numbers)
    groups = np.split(array, np.flatnonzero(np.diff(array) > 1) + 1)
    text = [f"{group[0]}" if len(group) == 1 else f"{group[0]}..{group[-1]}" for group in groups]
    return ", ".join(text[:8]) + (" ..." if len(text) > 8 else "")


def verified(store: Store) -> Iterator[tuple[int, bool]]:
    """Every structure with whether its content is what was committed."""
    for start in range(0, len(store), BLOCK):
        stop = min(start + BLOCK, len(store))
        try:
            yield from _verified_block(store, start, stop)
        except (GraceError, OSError, ValueError, RuntimeError, KeyError):
            for index in range(start, stop):  # one bad chunk must not condemn its neighbours
                try:
                    yield from _verified_block(store, index, index + 1)
                except (GraceError, OSError, ValueError, RuntimeError, KeyError):
                    yield index, False


def _verified_block(store: Store, start: int, stop: int) -> list[tuple[int, bool]]:
    ends = store.column("structure/offset", start, stop + 1).astype(int)
    names = ("cell", "pbc", "present", "energy", "stress", "content")
    batch: dict[str, NDArray[Any]] = {
        f"structure/{name}": store.column(f"structure/{name}", start, stop) for name in names
    }
    for path in ("atom/Z", "atom/R", *PER_ATOM):
        batch[path] = store.column(path, int(ends[0]), int(ends[-1]))
    found = []
    for row in range(stop - start):
        atoms = slice(int(ends[row] - ends[0]), int(ends[row + 1] - ends[0]))
        expected = batch["structure/content"][row].tobytes()
        columns = hashed_columns(batch, row, atoms)
        found.append((start + row, content_hash(columns, store.document(start + row)) == expected))
    return found


@contextmanager
def tolerant(path: Path) -> Iterator[Store]:
    """A store opened as far as its damage allows: the last commit that stands by itself counts."""
    store = Store.__new__(Store)
    from gracecli.store.columns import readers
    from gracecli.store.handle import open_handle

    store.path, store.mode, store.wait, store.durable = path, "r", 0.0, False
    store._handle = open_handle(path, swmr=False)
    store._columns = readers(store._handle)
    store._indices = {}
    try:
        rows = store._handle.dataset(COMMITS)[:]
        valid = [row for row in rows if commits.alone_valid(row)]
        store.commit = commits._of(valid[-1]) if valid else Commit()
        yield store
    finally:
        store.close()


def repair(path: Path) -> tuple[int, int, Path]:
    """Rewrite a damaged store with every structure that is still what was committed.

    The damaged file is kept beside it.

    Returns
    -------
    kept, lost : int
    damaged : Path
        Where the damaged file is now.

    Raises
    ------
    StoreError
        Nothing can be read.
    """
    import shutil

    from gracecli.files import write_atomically
    from gracecli.store.lock import WriterLock

    with WriterLock(path, 5.0):
        copy = path.with_name(f".{path.name}.repair")
        damaged = path.with_name(f"{path.name}.damaged")
        try:
            shutil.copyfile(path, copy)
            end = max(superblock.read(copy).end, copy.stat().st_size)
            with copy.open("r+b") as stream:
                stream.truncate(end)
            superblock.clear(copy, end)
            kept = lost = 0

            def rewrite(temporary: Path) -> None:
                nonlocal kept, lost
                temporary.unlink(missing_ok=True)
                with tolerant(copy) as old, Store(temporary, "a", durable=False) as new:
                    kept, lost = _rescue(old, new)

            try:
                fresh = path.with_name(f".{path.name}.rescued")
                write_atomically(fresh, rewrite)
            except (OSError, KeyError, RuntimeError, ValueError) as error:
                raise StoreError(f"{path} cannot be repaired: {error}", "restore it from a backup") from error
            path.replace(damaged)
            fresh.replace(path)
        finally:
            copy.unlink(missing_ok=True)
    return kept, lost, damaged


def _rescue(old: Store, new: Store) -> tuple[int, int]:
    """Copy what is sound, set by set as it was added."""
    try:
        names = ["", *old.set_names()]
    except (GraceError, OSError):
        names = [""]
    total = len(old)
    good = [index for index, sound in verified(old) if sound]
    runs: list[tuple[str, list[int]]] = []
    for index in good:
        try:
            code = int(old.column("structure/set", index, index + 1)[0])
        except GraceError:
            code = 0
        name = names[code] if code < len(names) else ""
        if not runs or runs[-1][0] != name:
            runs.append((name, []))
        runs[-1][1].append(index)
    for name, indices in runs:
        new.append(old.entries(indices), set_name=name)
    return len(good), total - len(good)
