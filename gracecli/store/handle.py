"""HDF5 file handles: one per file and process (HDF5 mixes up two), opened for SWMR, never locked by HDF5 itself."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path
from typing import Any

import h5py

from gracecli.errors import StoreError
from gracecli.store.schema import FORMAT, LIBVER, SCHEMA_VERSION

OPEN_SECONDS = 5.0


class Handle:
    """An open store file that can change between reading and writing under those who use it."""

    def __init__(self, path: Path, swmr: bool = True) -> None:
        self.path = path
        self.swmr = swmr
        self.users = 0
        self.file: Any = None
        self.writing = False
        self.generation = 0
        self._datasets: dict[str, Any] = {}
        self._map: mmap.mmap | None = None
        self.descriptor = os.open(path, os.O_RDONLY)
        self.key = _key(path)  # stays when another file takes the name

    def dataset(self, path: str) -> Any:
        """Dataset by its path."""
        if self.file is None:
            self.read()
        if path not in self._datasets:
            self._datasets[path] = self.file[path]
        return self._datasets[path]

    def map(self) -> mmap.mmap:
        """Map the file into memory, for reading; arrays made of it stay valid when the handle is closed."""
        if self._map is None:
            self._map = mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ)
        return self._map

    def being_written(self) -> bool:
        """Whether somebody holds the writer lock."""
        return self.path.with_name(f"{self.path.name}.lock").exists()

    def read(self) -> None:
        """Open for reading; a file in the instant of changing hands is tried again."""
        until = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                file = h5py.File(self.path, "r", libver=LIBVER, swmr=self.swmr, locking=False)
                break
            except OSError as error:
                if not self.swmr or time.monotonic() > until:
                    raise StoreError(
                        f"{self.path} cannot be opened: {str(error).splitlines()[0]}",
                        "`grace store check` tells more, `grace store repair` rescues what is left",
                    ) from error
                time.sleep(0.02)
        self._adopt(file, False)

    def write(self) -> None:
        """Open for appending, in SWMR mode from the first moment. The caller holds the writer lock."""
        self.release()
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
        access.set_file_locking(False, True)
        flags = h5py.h5f.ACC_RDWR | h5py.h5f.ACC_SWMR_WRITE
        try:
            file = h5py.File(h5py.h5f.open(os.fsencode(self.path), flags, access))
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {str(error).splitlines()[0]}") from error
        self._adopt(file, True)

    def _adopt(self, file: Any, writing: bool) -> None:
        if file.attrs.get("format") != FORMAT:
            file.close()
            raise StoreError(f"{self.path}: an HDF5 file, but not a store", "stores are made by `grace store add`")
        version = int(file.attrs["schema_version"])
        if version > SCHEMA_VERSION:
            file.close()
            raise StoreError(
                f"{self.path}: schema version {version}, this gracecli knows {SCHEMA_VERSION}", "update gracecli"
            )
        self.file, self.writing = file, writing
        self.generation += 1

    def release(self) -> None:
        """Close the HDF5 side; it opens again when needed."""
        self._datasets = {}
        file, self.file, self.writing = self.file, None, False
        if file is not None:
            try:
                file.close()
            except RuntimeError as error:  # what HDF5 makes of a disk that filled up
                raise OSError(str(error)) from error

    def close(self) -> None:
        """One user less; the last one closes everything."""
        self.users -= 1
        if self.users <= 0:
            self.release()
            os.close(self.descriptor)
            _HANDLES.pop(self.key, None)


_HANDLES: dict[tuple[int, int], Handle] = {}


def _key(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def open_handle(path: Path, swmr: bool = True) -> Handle:
    """Handle of a file, shared by all its users in this process.

    Without ``swmr`` (nobody writes), HDF5 gives up at once on damaged metadata instead of waiting for its writer.
    """
    key = _key(path)
    handle = _HANDLES.get(key)
    if handle is None:
        handle = _HANDLES[key] = Handle(path, swmr)
    handle.users += 1
    return handle
