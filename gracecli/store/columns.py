"""Reading columns: straight from the file where chunks are plain, each chunk's checksum verified at its first touch.

HDF5 spends tens of microseconds per call; ``pread`` at a known chunk address spends two. A chunk is read once through
HDF5, which compares its fletcher32, and by address afterwards. Compressed columns always go through HDF5.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import StoreError
from gracecli.store.handle import Handle
from gracecli.store.schema import COLUMNS, Column

Array = NDArray[Any]


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
        self._rows = 0
        self._verified: dict[int, int] = {}  # chunk -> rows of it that were verified
        self._address: dict[int, int | None] = {}
        self._plain = True
        self._type: np.dtype[Any] = np.dtype(column.dtype)
        self._bytes = column.row_bytes
        self._chunk = column.chunk

    def refresh(self, generation: int) -> Any:
        """Dataset, up to date with a commit."""
        dataset = self.handle.dataset(self.column.path)
        if self._generation != generation:
            if not self.handle.writing and self.handle.swmr:
                dataset.refresh()
            self._rows = dataset.shape[0]
            self._type = dataset.dtype
            self._bytes = self._type.itemsize * int(np.prod(self.column.shape, dtype=int))
            self._chunk = dataset.chunks[0]
            self._plain = dataset.compression is None and not dataset.shuffle
            self._address = {key: value for key, value in self._address.items() if value is not None}
            self._generation = generation
        return dataset

    def read(self, start: int, stop: int, generation: int) -> Array:
        """Rows ``start`` to ``stop`` (not included); rows beyond the last written one have the fill value."""
        if self._generation != generation:
            self.refresh(generation)
        if stop <= start:
            return np.zeros((0, *self.column.shape), self._type)
        if stop > self._rows:
            missing = np.full((stop - max(start, self._rows), *self.column.shape), self.column.fill, self._type)
            if start >= self._rows:
                return missing
            return np.concatenate([self.read(start, self._rows, generation), missing])
        first, last = start // self._chunk, (stop - 1) // self._chunk
        if not self._plain or last - first > 8:
            return self._through_hdf5(start, stop)
        if first == last:
            return self._piece(first, start, stop)
        pieces = [
            self._piece(chunk, max(start, chunk * self._chunk), min(stop, (chunk + 1) * self._chunk))
            for chunk in range(first, last + 1)
        ]
        return np.concatenate(pieces)

    def _piece(self, chunk: int, start: int, stop: int) -> Array:
        origin = chunk * self._chunk
        if self._verified.get(chunk, 0) < stop - origin:
            top = min(origin + self._chunk, self._rows)
            whole = self._through_hdf5(origin, top)
            self._verified[chunk] = top - origin
            return np.asarray(whole[start - origin : stop - origin])
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

    def _through_hdf5(self, start: int, stop: int) -> Array:
        dataset = self.handle.dataset(self.column.path)
        try:
            return np.asarray(dataset[start:stop])
        except OSError as error:
            raise StoreError(
                f"{self.handle.path}: {self.column.path} rows {start} to {stop - 1} are damaged",
                "`grace store repair` keeps the rest",
            ) from error


def readers(handle: Handle) -> dict[str, ColumnReader]:
    """A reader of every column."""
    return {path: ColumnReader(handle, column) for path, column in COLUMNS.items()}
