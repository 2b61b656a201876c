"""The first 48 bytes of an HDF5 file, in pure Python: clear the mark that a killed writer leaves.

A file that is open for writing carries flags in its superblock (version 3: byte 11), and HDF5 refuses to open it for
writing while they are set. A killed writer cannot clear them. Its end-of-file address (bytes 28 to 35) is stale too:
space behind it is in use, and must not be given out again. Both are followed by a checksum (bytes 44 to 47), which is
Bob Jenkins' lookup3 "hashlittle" with initial value 0 (HDF5 file format specification, version 3.0, section II.A).

==================== ===========
superblock field     bytes
==================== ===========
signature            0 to 7
version              8
flags                11
end-of-file address  28 to 35
checksum             44 to 47
==================== ===========
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from gracecli.errors import StoreError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SIZE = 48
_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Superblock:
    """What matters of a superblock."""

    flags: int
    end: int
    checksum_ok: bool


def lookup3(data: bytes, initial: int = 0) -> int:
    """Bob Jenkins' ``hashlittle`` of ``data``."""
    a = b = c = (0xDEADBEEF + len(data) + initial) & _MASK
    position, left = 0, len(data)
    while left > 12:
        x, y, z = struct.unpack_from("<III", data, position)
        a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
        a, b, c = _mix(a, b, c)
        position, left = position + 12, left - 12
    if left == 0:
        return c
    x, y, z = struct.unpack("<III", data[position:].ljust(12, b"\0"))
    return _final((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)


def _rotate(value: int, by: int) -> int:
    return ((value << by) | (value >> (32 - by))) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for by in (4, 6, 8, 16, 19, 4):
        a = ((a - c) & _MASK) ^ _rotate(c, by)
        c = (c + b) & _MASK
        a, b, c = b, c, a  # the next of the three takes the place of a
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    for by in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotate(b, by)) & _MASK
        a, b, c = b, c, a
    # after seven steps of the cycle (c, a, b) the last one changed stands in b
    return b


def read(path: Path) -> Superblock:
    """Superblock of a file.

    Raises
    ------
    StoreError
        Not an HDF5 file, or not of the version that stores are written in.
    """
    with path.open("rb") as stream:
        head = stream.read(SIZE)
    return parse(head, path)


def parse(head: bytes, path: Path) -> Superblock:
    """Superblock from the first bytes of ``path``."""
    if len(head) < SIZE or not head.startswith(SIGNATURE):
        raise StoreError(f"{path}: not an HDF5 file, or its beginning is lost", "restore it from a backup")
    if head[8] != 3:
        raise StoreError(f"{path}: not a store (superblock version {head[8]})", "stores are made by `grace store add`")
    (end,) = struct.unpack_from("<Q", head, 28)
    (checksum,) = struct.unpack_from("<I", head, 44)
    return Superblock(head[11], end, lookup3(head[:44]) == checksum)


def clear(path: Path, end: int | None = None) -> bool:
    """Take the mark of a killed writer from a file; True if there was one.

    The caller holds the writer lock.

    Parameters
    ----------
    path : Path
    end : int, optional
        End-of-file address to write; default is the size of the file.
    """
    with path.open("r+b") as stream:
        head = bytearray(stream.read(SIZE))
        found = parse(bytes(head), path)
        size = os.fstat(stream.fileno()).st_size if end is None else end
        if not found.flags and found.end == size and found.checksum_ok:
            return False
        head[11] = 0
        struct.pack_into("<Q", head, 28, size)
        struct.pack_into("<I", head, 44, lookup3(bytes(head[:44])))
        stream.seek(0)
        stream.write(head)
        stream.flush()
        os.fsync(stream.fileno())
    return True
