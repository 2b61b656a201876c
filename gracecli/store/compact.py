"""Rewriting a store: sealed (contiguous, mapped by readers, or gzip) or hot again; without duplicates.

The lock is held throughout; the new file is written under a temporary name, flushed to the disk and renamed, so that a
kill leaves the old store. Readers that have the old file open go on reading it.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gracecli.errors import InputError, StoreError
from gracecli.files import refuse_overwrite, write_atomically
from gracecli.store import schema
from gracecli.store.commits import Commit
from gracecli.store.lock import WriterLock
from gracecli.store.schema import AXES, COLUMNS, COMMIT_WIDTH, COMMITS, SEAL, SEAL_BLOCK
from gracecli.store.transfer import BLOCK, CHILDREN, Transfer, copy_foreign, gather

if TYPE_CHECKING:
    from gracecli.store.store import Store
    from gracecli.store.writer import Batch

KEPT = ("uuid", "created", "created_by")


@dataclass(frozen=True)
class Rewritten:
    """What :func:`compact` or :func:`dedup` did."""

    structures: int
    removed: int
    results: int
    size_before: int
    size_after: int


def compact(
    path: Path, output: Path | None = None, *, gzip: bool = False, hot: bool = False, wait: float = 60.0,
    force: bool = False,
) -> Rewritten:  # fmt: skip
    """Rewrite a store; by default in place and sealed, so that readers map it into memory.

    Parameters
    ----------
    path : Path
    output : Path, optional
        Write there instead.
    gzip : bool
        Compress: smaller, some ten times slower to read at random.
    hot : bool
        Make it one that can be appended to.
    wait : float
        Seconds to wait for a writer.
    force : bool
        Replace ``output`` if it exists.
    """
    if gzip and hot:
        raise InputError("a store that is appended to cannot be compressed", "choose --gzip or --hot")
    return rewrite(path, output, None, None, state="hot" if hot else "sealed", gzip=gzip, wait=wait, force=force)


def rewrite(
    path: Path,
    output: Path | None,
    keep: NDArray[np.bool_] | None,
    same: NDArray[np.int64] | None,
    *,
    state: str = "",
    gzip: bool = False,
    wait: float = 60.0,
    force: bool = False,
) -> Rewritten:
    """Write the rows that are kept to a new file, which then takes the place of the old one.

    ``keep`` and ``same`` are those of :class:`gracecli.store.transfer.Transfer`; ``state`` is by default the old one.

    Raises
    ------
    StoreError
        Locked, or changed since ``keep`` was made.
    """
    from gracecli.store.store import Store

    target = output or path
    if not path.is_file():
        raise InputError(f"{path}: no such store")
    if output is not None:
        if output.resolve() == path.resolve():
            raise InputError(f"{output} is the store itself", "leave -o/--output away to rewrite it in place")
        refuse_overwrite(output, force)
    with WriterLock(path, wait):
        with Store(path) as old:
            if keep is not None and len(keep) != len(old):
                raise StoreError(f"{path} has grown meanwhile", "run it again")
            state = state or str(old.attributes["state"])
            before, count = path.stat().st_size, len(old)
            write_atomically(target, lambda temporary: _write(old, temporary, keep, same, state, gzip))
        with Store(target) as new:
            kept, results = len(new), new.commit.counts["result"]
    return Rewritten(kept, count - kept, results, before, target.stat().st_size)


def _write(
    old: Store, temporary: Path, keep: NDArray[np.bool_] | None, same: NDArray[np.int64] | None, state: str, gzip: bool
) -> None:
    from gracecli.store.store import Store

    attributes = old.attributes
    kept = {name: attributes[name] for name in KEPT if name in attributes}
    forces = old._handle.dataset("atom/F").dtype.str
    if keep is not None or state == "hot":
        schema.create_file(temporary, forces=forces, attributes=kept)
        with Store(temporary, "a", durable=False) as new, new.writer() as writer:
            new.commit = writer.commit
            if keep is None:
                _copy_all(old, writer)
            else:
                Transfer(old, new, writer)(keep, same)
    if state != "hot" and keep is not None:
        first = temporary.with_name(f"{temporary.name}.hot")
        temporary.replace(first)
        try:
            with Store(first) as chosen:
                seal(chosen, temporary, gzip, kept)
        finally:
            first.unlink(missing_ok=True)
    elif state != "hot":
        seal(old, temporary, gzip, kept)
    with h5py.File(temporary, "r+", libver=schema.LIBVER, locking=False) as file:
        copy_foreign(old._handle.file, file, "old")


def _copy_all(old: Store, sink: Any) -> None:
    """Every row of every table, as it is."""
    for axis in ("run", "set_name", "structure", "result", "member"):
        count = old.commit.counts[axis]
        for start in range(0, count, BLOCK):
            stop = min(start + BLOCK, count)
            sink.append(gather(old, axis, start, stop, np.ones(stop - start, bool)))


def seal(old: Store, path: Path, gzip: bool, attributes: dict[str, Any]) -> None:
    """Write a sealed copy of a store."""
    with h5py.File(path, "w", libver=schema.LIBVER, locking=False) as file:
        schema.write_attributes(file, "sealed", attributes)  # first: at the beginning of the file, where is_store looks
        file.flush()
        sealed = _Sealed(file, old, gzip)
        _copy_all(old, sealed)
        sealed.finish(old.commit)


class _Sealed:
    """A sealed file in the making: every column has its final length from the start."""

    def __init__(self, file: Any, old: Store, gzip: bool) -> None:
        self.file, self.gzip = file, gzip
        self.at = dict.fromkeys(AXES, 0)
        filters: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
        for column in COLUMNS.values():
            rows = old.commit.counts[column.axis] + column.ends
            shape = (rows, *column.shape)
            dtype = old._handle.dataset(column.path).dtype if column.path == "atom/F" else column.dtype
            packed = gzip and rows > 0
            layout = {"chunks": (min(rows, column.chunk), *column.shape), **filters} if packed else {}
            dataset = file.create_dataset(column.path, shape=shape, dtype=dtype, fillvalue=column.fill, **layout)
            if column.unit:
                dataset.attrs["unit"] = column.unit
            if column.ends:
                dataset[0] = 0

    def append(self, batch: Batch) -> None:
        """Write rows behind those before."""
        grown = dict(self.at)
        children = {path: child for paths in CHILDREN.values() for path, child in paths.items()}
        for path, rows in batch.items():
            column = COLUMNS[path]
            start = self.at[column.axis] + column.ends
            grown[column.axis] = self.at[column.axis] + len(rows)
            if len(rows):
                values = rows + np.uint64(self.at[children[path]]) if column.ends else rows
                self.file[path][start : start + len(rows)] = values
        self.at = grown

    def finish(self, commit: Commit) -> None:
        """Checksums of contiguous columns, and one commit that says how much there is."""
        if self.at != commit.counts:
            raise StoreError(f"{self.file.filename}: {self.at} rows written of {commit.counts}")
        self.file.flush()
        for path in COLUMNS:
            dataset = self.file[path]
            if dataset.chunks is None and dataset.id.get_offset() is not None:
                sums = _sums(Path(self.file.filename), dataset.id.get_offset(), dataset.nbytes)
                self.file.create_dataset(f"{SEAL}/{path}", data=sums)
        _, row = Commit().following(commit.counts)
        rows = self.file.create_dataset(COMMITS, data=row.reshape(1, COMMIT_WIDTH))
        rows.attrs["columns"] = json.dumps(["number", "time_ns", *AXES])


def _sums(path: Path, offset: int, size: int) -> NDArray[np.uint32]:
    """crc32 of every block of a part of a file."""
    found = np.zeros(-(-size // SEAL_BLOCK), "<u4")
    at, step = 0, 1024 * SEAL_BLOCK
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for begin in range(0, size, step):
            view = memoryview(os.pread(descriptor, min(step, size - begin), offset + begin))
            for first in range(0, len(view), SEAL_BLOCK):
                found[at] = zlib.crc32(view[first : first + SEAL_BLOCK])
                at += 1
    finally:
        os.close(descriptor)
    return found
