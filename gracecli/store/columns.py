"""Reading columns: every byte is compared with a checksum at its first touch, and costs no HDF5 call afterwards.

======================= ===================================== ==================================================
column                  first touch                           afterwards
======================= ===================================== ==================================================
hot: plain chunks       HDF5 compares the chunk's fletcher32  array in memory (up to ``CACHE_BYTES`` per column),
                                                              then ``pread`` at the chunk's address
sealed: contiguous      crc32 of the blocks of 4 kB touched   view of the mapped file
sealed: gzip            HDF5                                  HDF5
======================= ===================================== ==================================================

A mapped file may not be shortened under its readers: sealed stores are never written, only replaced by another file.
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import StoreError
from gracecli.store.commits import Commit
from gracecli.store.handle import Handle
from gracecli.store.schema import COLUMNS, SEAL, SEAL_BLOCK, Column

Array = NDArray[Any]
CACHE_BYTES = 64 * 1024 * 1024
MANY_CHUNKS = 8
RETRY_SECONDS = 2.0


class ColumnReader:
    """Committed rows of one column.

    Parameters
    ----------
    handle : Handle
    column : Column
    """

    def __init__(self, handle: Handle, column: Column) -> None:
        self.handle = handle
        self.column = column
        self._generation = -1
        self._rows = 0  # rows that are committed and were written
        self._type: np.dtype[Any] = np.dtype(column.dtype)
        self._bytes = column.row_bytes
        self._chunk = column.chunk
        self._plain = True
        self._cache: dict[int, Array] = {}  # chunk -> its committed rows
        self._cached = 0
        self._verified: dict[int, int] = {}  # chunk -> rows of it whose checksum was compared
        self._address: dict[int, int | None] = {}
        self._flat: Array | None = None  # the whole column, mapped
        self._todo: bytearray | None = None  # of a mapped column: 1 for blocks whose checksum was not compared yet
        self._left = 0  # how many those are

    def refresh(self, commit: Commit) -> None:
        """Take a new commit in."""
        dataset = self.handle.dataset(self.column.path)
        if not self.handle.writing and self.handle.swmr:
            dataset.refresh()
        self._rows = min(dataset.shape[0], commit.counts[self.column.axis] + self.column.ends)
        self._type = dataset.dtype
        self._bytes = self._type.itemsize * int(np.prod(self.column.shape, dtype=int))
        self._generation = commit.number
        if dataset.chunks is None:
            self._map(dataset)
            return
        self._chunk = dataset.chunks[0]
        self._plain = dataset.compression is None and not dataset.shuffle
        self._address = {key: value for key, value in self._address.items() if value is not None}

    def _map(self, dataset: Any) -> None:
        """See a contiguous column as an array; one that was never written has no place in the file."""
        offset = dataset.id.get_offset()
        if offset is None or not self._rows:
            self._rows = 0
            return
        whole = memoryview(self.handle.map())[offset : offset + self._rows * self._bytes]
        self._flat = np.frombuffer(whole, self._type).reshape(-1, *self.column.shape)
        sums = self.handle.dataset(f"{SEAL}/{self.column.path}")[:]
        self._todo, self._left = bytearray(b"\1" * len(sums)), len(sums)
        self._bytes_of, self._sums = whole, sums

    def read(self, start: int, stop: int, commit: Commit) -> Array:
        """Rows ``start`` to ``stop`` (not included); rows beyond the last written one have the fill value."""
        if self._generation != commit.number:
            self.refresh(commit)
        if stop > self._rows or stop <= start:
            return self._beyond(start, stop, commit)
        if self._flat is not None:
            todo = self._todo
            if todo is not None:
                first, last = start * self._bytes // SEAL_BLOCK, (stop * self._bytes - 1) // SEAL_BLOCK
                if todo.find(1, first, last + 1) >= 0:
                    self._check(todo, first, last)
            return self._flat[start:stop]
        first = start // self._chunk
        origin = first * self._chunk
        known = self._cache.get(first)
        if known is not None and stop - origin <= len(known):
            return known[start - origin : stop - origin]
        last = (stop - 1) // self._chunk
        if not self._plain or last - first > MANY_CHUNKS:
            return self._through_hdf5(start, stop)
        if first == last:
            return self._piece(first, start, stop)
        pieces = [
            self._piece(chunk, max(start, chunk * self._chunk), min(stop, (chunk + 1) * self._chunk))
            for chunk in range(first, last + 1)
        ]
        return np.concatenate(pieces)

    def mapped(self, commit: Commit) -> bool:
        """Whether the column is mapped and whole, so that :meth:`piece` and :meth:`verified` may be used."""
        if self._generation != commit.number:
            self.refresh(commit)
        return self._flat is not None and len(self._flat) == commit.counts[self.column.axis] + self.column.ends

    def piece(self, start: int, stop: int) -> Array:
        """Rows of a mapped column that are known to exist: :meth:`read` without its questions."""
        todo = self._todo
        if todo is not None:
            first, last = start * self._bytes // SEAL_BLOCK, (stop * self._bytes - 1) // SEAL_BLOCK
            if todo.find(1, first, last + 1) >= 0:
                self._check(todo, first, last)
        return self._flat[start:stop]  # type: ignore[index]

    def verified(self) -> Any:
        """All rows of a mapped column of numbers, compared with their checksums now; quick to index one by one."""
        if self._todo is not None:
            self._check(self._todo, 0, len(self._todo) - 1)
        if sys.byteorder != "little":  # as files are
            return self._flat
        return self._bytes_of.cast({"u": "Q", "f": "d"}[self._type.kind])  # type: ignore[call-overload]

    def _beyond(self, start: int, stop: int, commit: Commit) -> Array:
        if stop <= start:
            return np.zeros((0, *self.column.shape), self._type)
        missing = np.full((stop - max(start, self._rows), *self.column.shape), self.column.fill, self._type)
        if start >= self._rows:
            return missing
        return np.concatenate([self.read(start, self._rows, commit), missing])

    def _check(self, todo: bytearray, first: int, last: int) -> None:
        """Compare the checksums of the blocks ``first`` to ``last`` of a mapped column that nobody has read before."""
        block = todo.find(1, first, last + 1)
        while block >= 0:
            if zlib.crc32(self._bytes_of[block * SEAL_BLOCK : (block + 1) * SEAL_BLOCK]) != self._sums[block]:
                row = block * SEAL_BLOCK // self._bytes
                raise StoreError(
                    f"{self.handle.path}: {self.column.path} is damaged near row {row}",
                    "`grace store repair` keeps the rest",
                )
            todo[block] = 0
            self._left -= 1
            block = todo.find(1, block + 1, last + 1)
        if not self._left:
            self._todo = None

    def _piece(self, chunk: int, start: int, stop: int) -> Array:
        """Rows of one chunk."""
        origin = chunk * self._chunk
        known = self._cache.get(chunk)
        if known is not None and stop - origin <= len(known):
            return known[start - origin : stop - origin]
        if self._verified.get(chunk, 0) < stop - origin:
            top = min(origin + self._chunk, self._rows)
            whole = self._through_hdf5(origin, top)
            self._verified[chunk] = top - origin
            self._keep(chunk, whole)
            return whole[start - origin : stop - origin]
        if chunk not in self._address:
            dataset = self.handle.dataset(self.column.path)
            coordinates = (origin, *(0 for _ in self.column.shape))
            self._address[chunk] = dataset.id.get_chunk_info_by_coord(coordinates).byte_offset
        address = self._address[chunk]
        if address is None:
            return np.full((stop - start, *self.column.shape), self.column.fill, self._type)
        size = (stop - start) * self._bytes
        data = os.pread(self.handle.descriptor, size, address + (start - origin) * self._bytes)
        return np.frombuffer(data, self._type).reshape(-1, *self.column.shape)

    def _keep(self, chunk: int, rows: Array) -> None:
        rows.flags.writeable = False
        old = self._cache.pop(chunk, None)
        self._cached += rows.nbytes - (0 if old is None else old.nbytes)
        self._cache[chunk] = rows
        while self._cached > CACHE_BYTES:
            self._cached -= self._cache.pop(next(iter(self._cache))).nbytes

    def _through_hdf5(self, start: int, stop: int) -> Array:
        """Rows as HDF5 gives them; what a writer is rewriting in this instant is read again."""
        until = time.monotonic() + (0.0 if self.handle.writing or not self.handle.swmr else RETRY_SECONDS)
        while True:
            dataset = self.handle.dataset(self.column.path)
            try:
                return np.asarray(dataset[start:stop])
            except OSError as error:
                if time.monotonic() < until and self.handle.being_written():
                    time.sleep(0.005)
                    dataset.refresh()
                    continue
                raise StoreError(
                    f"{self.handle.path}: {self.column.path} rows {start} to {stop - 1} are damaged",
                    "`grace store repair` keeps the rest",
                ) from error


def readers(handle: Handle) -> dict[str, ColumnReader]:
    """A reader of every column."""
    return {path: ColumnReader(handle, column) for path, column in COLUMNS.items()}
