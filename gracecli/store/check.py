"""Is a store what its writers committed? Every commit row, every row's content hash, the superblock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import GraceError, StoreError
from gracecli.store import commits, superblock
from gracecli.store.commits import Commit
from gracecli.store.entry import content_hash
from gracecli.store.results import read_result
from gracecli.store.schema import COMMITS, NO_ROW
from gracecli.store.store import Store
from gracecli.store.transfer import gather, members
from gracecli.store.writer import PER_ATOM, Batch, Writer, hashed_columns

BLOCK = 512
_DAMAGE = (GraceError, OSError, ValueError, RuntimeError, KeyError, TypeError)


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes
    ----------
    structures, results, commits : int
        Committed ones that can be reached.
    bad, bad_results : tuple of int
        Those whose content is not what was committed.
    problems : tuple of str
        Damage, in words; empty for a sound store.
    notes : tuple of str
        What is no damage: an append that a killed writer left open.
    """

    structures: int
    results: int
    commits: int
    bad: tuple[int, ...]
    bad_results: tuple[int, ...]
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
        return Report(0, 0, 0, (), (), (*problems, f"it does not open: {error}".splitlines()[0]), tuple(notes))
    with store:
        bad = tuple(index for index, sound in verified(store) if not sound)
        if bad:
            problems.append(f"{len(bad)} of {len(store)} structures are damaged: {_ranges(bad)}")
        results = store.commit.counts["result"]
        bad_results = tuple(row for row in range(results) if not sound_result(store, row))
        if bad_results:
            problems.append(f"{len(bad_results)} of {results} results are damaged: {_ranges(bad_results)}")
        return Report(len(store), results, store.commit.number, bad, bad_results, tuple(problems), tuple(notes))


def sound_result(store: Store, row: int) -> bool:
    """Whether a result, and what it refers to, is what was committed."""
    try:
        found = read_result(store, row, output=False)
        return found.structure < len(store) and (found.output_id is None or found.output_id < len(store))
    except _DAMAGE:
        return False


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
        except _DAMAGE:
            for index in range(start, stop):  # one bad chunk must not condemn its neighbours
                try:
                    yield from _verified_block(store, index, index + 1)
                except _DAMAGE:
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
    store._quick, store._ends = [], ()
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
    """Copy what is sound: structures by set and run as they were added, runs, results, members."""
    try:
        names = ["", *old.set_names()]
    except (GraceError, OSError):
        names = [""]
    total = len(old)
    good = [index for index, sound in verified(old) if sound]
    with new.writer() as writer:
        runs = _rescue_runs(old, writer)
    new.refresh()
    groups: list[tuple[tuple[str, int], list[int]]] = []
    for index in good:
        code, run = _number(old, "structure/set", index), _number(old, "structure/run", index)
        key = (names[code] if code < len(names) else "", runs.get(run, 0))
        if not groups or groups[-1][0] != key:
            groups.append((key, []))
        groups[-1][1].append(index)
    rows: dict[int, int] = {}
    for (name, run), indices in groups:
        rows.update(zip(indices, new.append(old.entries(indices), set_name=name, run=run), strict=True))
    with new.writer() as writer:
        for batch in (*_rescued_results(old, rows, runs), *_rescued_members(old, names, rows, new)):
            writer.append(batch)
    new.refresh()
    return len(good), total - len(good)


def _number(old: Store, path: str, row: int) -> int:
    try:
        return int(old.column(path, row, row + 1)[0])
    except _DAMAGE:
        return 0


def _rescue_runs(old: Store, writer: Writer) -> dict[int, int]:
    """Runs that can be read; number there -> number here."""
    numbers: dict[int, int] = {}
    for row in range(old.commit.counts["run"]):
        with suppress(*_DAMAGE):
            batch = gather(old, "run", row, row + 1, np.ones(1, bool))
            json.loads(batch["blob/runs"].tobytes() or b"{}")
            writer.append(batch)
            numbers[row + 1] = writer.commit.counts["run"]
    return numbers


def _rescued_results(old: Store, rows: dict[int, int], runs: dict[int, int]) -> Iterator[Batch]:
    for row in range(old.commit.counts["result"]):
        if not sound_result(old, row):
            continue
        batch = gather(old, "result", row, row + 1, np.ones(1, bool))
        final = int(batch["result/final"][0])
        places = [rows.get(int(batch["result/structure"][0])), NO_ROW if final == NO_ROW else rows.get(final)]
        if None in places:
            continue  # a result without its structure says nothing
        batch["result/structure"], batch["result/final"] = (np.array([place], "<u8") for place in places)
        batch["result/run"] = np.array([runs.get(int(batch["result/run"][0]), 0)], "<u4")
        yield batch


def _rescued_members(old: Store, names: list[str], rows: dict[int, int], new: Store) -> Iterator[Batch]:
    here = new.set_names()
    for row in range(old.commit.counts["member"]):
        place, code = rows.get(_number(old, "members/structure", row)), _number(old, "members/set", row)
        if place is not None and 0 < code < len(names):
            name = names[code]
            if name not in here:
                here.append(name)
                yield {"set_names/name": np.frombuffer(name.encode().ljust(48, b"\0"), "u1").reshape(1, 48)}
            yield members([place], here.index(name) + 1, _number(old, "members/op", row))
