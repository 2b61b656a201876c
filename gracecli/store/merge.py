"""Folding shards and other stores into one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py

from gracecli.errors import InputError
from gracecli.files import write_atomically
from gracecli.store import schema
from gracecli.store.handle import open_handle
from gracecli.store.lock import WriterLock
from gracecli.store.schema import COMMITS
from gracecli.store.store import Store
from gracecli.store.transfer import Transfer, copy_foreign


@dataclass(frozen=True)
class Merged:
    """What one source gave.

    Attributes
    ----------
    source : Path
    structures, added : int
        How many it holds, and how many of them were new.
    results, results_added : int
    groups : tuple of str
        Groups of plugins that were copied.
    """

    source: Path
    structures: int
    added: int
    results: int
    results_added: int
    groups: tuple[str, ...]


def merge(path: Path, sources: Sequence[Path], wait: float = 60.0) -> list[Merged]:
    """Add everything in ``sources`` (stores, or folders of ``.h5`` shards) that ``path`` does not hold yet.

    Structures are compared by content (geometry, labels, method, information), results by their own hash, runs by their
    uid; so a merge that was killed, or is repeated, adds nothing twice. A structure that is in a set there enters the
    set of that name here. ``path`` is made if it does not exist.

    Raises
    ------
    InputError
        A source is missing or no store, or is the target.
    """
    files = _files(sources)
    for file in files:
        if path.exists() and file.resolve() == path.resolve():
            raise InputError(f"{file} cannot be merged into itself")
        Store(file).close()  # all of them open before anything is written
    return [_merge_one(path, file, wait) for file in files]


def _files(sources: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            shards = sorted(source.glob("*.h5"))
            if not shards:
                raise InputError(f"{source}: no .h5 file in the folder")
            files += shards
        else:
            files.append(source)
    return files


def _merge_one(path: Path, source: Path, wait: float) -> Merged:
    with Store(source) as old:
        forces = old._handle.dataset("atom/F").dtype.str  # of a store that is made now
        with Store(path, "a", wait=wait, forces=forces) as new, new.writer() as writer:
            new.commit = writer.commit
            transfer = Transfer(old, new, writer)
            transfer()
        groups = _merge_foreign(old, path, wait)
        return Merged(
            source, len(old), transfer.added, old.commit.counts["result"], transfer.results_added, tuple(groups)
        )


def _merge_foreign(old: Store, path: Path, wait: float) -> list[str]:
    """Copy groups of plugins: a change of the schema, so on a copy of the file that then takes its place."""
    from gracecli.store.transfer import foreign

    old._handle.dataset(COMMITS)
    if not foreign(old._handle.file):
        return []
    copied: list[str] = []
    mark = str(old.attributes["uuid"])[:8]

    def add(temporary: Path) -> None:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+", libver=schema.LIBVER, locking=False) as file:
            copied.extend(copy_foreign(old._handle.file, file, mark))

    with WriterLock(path, wait):
        handle = open_handle(path)
        try:
            handle.release()
            with h5py.File(path, "r", libver=schema.LIBVER, swmr=True, locking=False) as target:
                needed = _needed(old._handle.file, target, mark)
        finally:
            handle.close()
        if needed:
            write_atomically(path, add)
    return copied


def _needed(source: h5py.File, target: h5py.File, mark: str) -> bool:
    """Whether some group of a plugin is not in the target yet."""
    from gracecli.store.transfer import _same, foreign

    return any(
        not (name in target and _same(source[name], target[name])) and f"{name}@{mark}" not in target
        for name in foreign(source)
    )
