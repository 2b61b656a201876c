"""Appending: data, flush, commit row, flush. A kill at any instant loses at most the append that was open."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import StoreError
from gracecli.store import commits, superblock
from gracecli.store.commits import Commit
from gracecli.store.entry import Entry, content_hash, dump, geometry_uid, label_hash
from gracecli.store.handle import Handle
from gracecli.store.lock import WriterLock
from gracecli.store.schema import COLUMNS, COMMIT_WIDTH, COMMITS, Present

Array = NDArray[Any]
Batch = dict[str, Array]


class Writer:
    """The right to append to a store, from ``with`` to its end.

    Parameters
    ----------
    handle : Handle
    wait : float
        Seconds to wait for another writer.
    durable : bool
        fsync data before the commit row and the commit row after: survives a power failure, costs milliseconds.
    """

    def __init__(self, handle: Handle, wait: float = 60.0, durable: bool = True) -> None:
        self.handle = handle
        self.lock = WriterLock(handle.path, wait)
        self.durable = durable
        self.commit = Commit()
        self.recovered = False

    def __enter__(self) -> Writer:
        """Take the lock, recover what a killed writer left, open for appending."""
        self.lock.__enter__()
        try:
            status = self.handle.path.stat()
            if (status.st_dev, status.st_ino) != self.handle.key:
                raise StoreError(f"{self.handle.path} was replaced by another file meanwhile", "open it again")
            self.handle.release()
            end = _used_bytes(self.handle) if superblock.read(self.handle.path).flags else None
            if end is not None:
                self.handle.release()
                self.recovered = superblock.clear(self.handle.path, end)
            self.handle.write()
            if self.handle.file.attrs["state"] != "hot":
                raise StoreError(f"{self.handle.path} is sealed", "`grace store compact --hot` makes it writable")
            rows = self.handle.dataset(COMMITS)[:]
            self.commit, damaged = commits.last_valid(rows, Commit())
            if damaged:
                raise StoreError(
                    f"{self.handle.path}: commit row {self.commit.number + 1} is damaged, later ones are not",
                    "`grace store repair` keeps every good one; appending now would bury them",
                )
        except BaseException:
            self.handle.release()
            self.lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *details: Any) -> None:
        """Close for writing; readers in this process go on."""
        try:
            self.handle.release()
        finally:
            self.lock.__exit__(None, None, None)

    def append(self, batch: Batch) -> Commit:
        """Append rows of one or more tables as one commit.

        Parameters
        ----------
        batch : dict
            Column path -> new rows. Columns of a table that are left out stay at the fill value; ends (CSR) are given
            relative to the append.

        Raises
        ------
        StoreError
            The disk is full, or the lock was lost: nothing was committed.
        """
        counts = dict(self.commit.counts)
        grown = dict(counts)
        for path, rows in batch.items():
            column = COLUMNS[path]
            grown[column.axis] = counts[column.axis] + len(rows)
        try:
            self._reserve(batch, counts)
            for path, rows in batch.items():
                column = COLUMNS[path]
                start = counts[column.axis] + column.ends
                if column.ends:
                    rows = rows + np.uint64(counts[_ENDS_OF[path]])
                self._write(path, start, rows)
            return self._commit(grown)
        except OSError as error:
            # pages that could not be written stay dirty in HDF5; leaving without another flush keeps the file whole
            raise StoreError(
                f"{self.handle.path} cannot be written: {_reason(error)}; nothing of this append was stored",
                "free some space and try again",
            ) from error

    def _reserve(self, batch: Batch, counts: dict[str, int]) -> None:
        """Ask the file system for the chunks of an append before HDF5 needs them.

        HDF5 cannot give up a write: on a full disk its caches stay dirty and even closing the file fails. OSError here
        leaves it untouched.
        """
        need = 0
        for path, rows in batch.items():
            dataset = self.handle.dataset(path)
            start = counts[COLUMNS[path].axis] + COLUMNS[path].ends
            rows_per_chunk = dataset.chunks[0]
            have = -(-min(start, dataset.shape[0]) // rows_per_chunk)
            chunk = rows_per_chunk * dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=int)) + 1024
            need += (-(-(start + len(rows)) // rows_per_chunk) - have) * chunk
        need += 64 * 1024 if need or not self.commit.number % 64 else 0  # indices; a chunk of commit rows
        if need:
            descriptor = os.open(self.handle.path, os.O_WRONLY)
            try:
                os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, need)
            finally:
                os.close(descriptor)

    def _write(self, path: str, start: int, rows: Array) -> None:
        if not len(rows):
            return
        dataset = self.handle.dataset(path)
        if dataset.shape[0] < start + len(rows):
            dataset.resize(start + len(rows), axis=0)
        dataset[start : start + len(rows)] = rows
        dataset.flush()

    def _commit(self, counts: dict[str, int]) -> Commit:
        if self.durable:
            os.fsync(self.handle.descriptor)
        if not self.lock.held():
            raise StoreError(
                f"{self.handle.path}: another writer took the lock over", "this process was asleep too long"
            )
        following, row = self.commit.following(counts)
        self._write(COMMITS, self.commit.number, row.reshape(1, COMMIT_WIDTH))
        if self.durable:
            os.fsync(self.handle.descriptor)
        self.commit = following
        return following


_ENDS_OF = {
    "structure/offset": "atom",
    "structure/meta_ofs": "json",
    "structure/comp_ofs": "composition",
    "runs/offset": "run_json",
    "result/json_ofs": "result_json",
    "result/data_ofs": "result_data",
}


def _used_bytes(handle: Handle) -> int:
    """End of the file as far as anything refers to it: never less, or new data would be laid over old."""
    end = handle.path.stat().st_size
    for path in (*COLUMNS, COMMITS):
        ends: list[int] = []
        handle.dataset(path).id.chunk_iter(lambda info, ends=ends: ends.append(info.byte_offset + info.size))
        end = max([end, *ends])
    return end


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return "no space left on the device" if "No space left" in text else text.splitlines()[0].lower()


def structure_batch(entries: Sequence[Entry], run: int, set_code: int, forces: str = "<f8") -> Batch:
    """Columns of new structures (ends relative to the append); ``forces`` is the type that the store keeps them in."""
    count = len(entries)
    natoms = np.array([len(entry.numbers) for entry in entries], "<u4")
    ends = np.cumsum(natoms, dtype="<u8")
    batch: Batch = {
        "structure/offset": ends,
        "structure/natoms": natoms,
        "structure/cell": np.array([entry.cell for entry in entries], "<f8"),
        "structure/pbc": np.array([sum(1 << i for i in range(3) if e.pbc[i]) for e in entries], "u1"),
        "structure/energy": np.array([np.nan if e.energy is None else e.energy for e in entries], "<f8"),
        "structure/stress": np.array([np.full(6, np.nan) if e.stress is None else e.stress for e in entries], "<f8"),
        "structure/present": np.array([present_bits(entry) for entry in entries], "<u8"),
        "structure/run": np.full(count, run, "<u4"),
        "structure/set": np.full(count, set_code, "<u2"),
        "index/fmax": np.array([_fmax(entry) for entry in entries], "<f8"),
        "atom/Z": np.concatenate([np.asarray(e.numbers, "u1") for e in entries]),
        "atom/R": np.concatenate([np.asarray(e.positions, "<f8").reshape(-1, 3) for e in entries]),
    }
    for path, name in PER_ATOM.items():
        if any(getattr(entry, name) is not None for entry in entries):
            column = COLUMNS[path]
            parts = []
            for entry in entries:
                value = getattr(entry, name)
                shape = (len(entry.numbers), *column.shape)
                parts.append(
                    np.full(shape, column.fill, column.dtype) if value is None else np.asarray(value, column.dtype)
                )
            batch[path] = np.concatenate(parts)
    if "atom/F" in batch:
        batch["atom/F"] = batch["atom/F"].astype(forces)  # hashes are of what is stored
    _add_composition(batch, entries)
    _add_hashes(batch, entries)
    return batch


PER_ATOM = {
    "atom/F": "forces",
    "atom/magmom": "magmoms",
    "atom/charge": "charges",
    "atom/velocity": "velocities",
    "atom/mask": "mask",
}


def forces_type(handle: Handle) -> str:
    """Type in which a store keeps forces: ``"<f8"`` or ``"<f4"``."""
    return str(handle.dataset("atom/F").dtype.str)


def present_bits(entry: Entry) -> int:
    """Bits of the labels that an entry has (:class:`gracecli.store.schema.Present`)."""
    bits = Present.FREE_ENERGY if entry.free_energy else 0
    parts = ("energy", "forces", "stress", "magmoms", "charges", "velocities", "mask")
    for number, name in enumerate(parts):
        bits |= (1 << number) if getattr(entry, name) is not None else 0
    return bits


def _fmax(entry: Entry) -> float:
    if entry.forces is None or not len(entry.numbers):
        return float("nan")
    return float(np.sqrt((np.asarray(entry.forces) ** 2).sum(axis=1).max()))


def _add_composition(batch: Batch, entries: Sequence[Entry]) -> None:
    elements, amounts, ends, total = [], [], [], 0
    for entry in entries:
        kinds, numbers = np.unique(np.asarray(entry.numbers, "u1"), return_counts=True)
        elements.append(kinds)
        amounts.append(numbers)
        total += len(kinds)
        ends.append(total)
    batch["structure/comp_ofs"] = np.array(ends, "<u8")
    batch["composition/Z"] = np.concatenate(elements)
    batch["composition/n"] = np.concatenate(amounts).astype("<u4")


def _add_hashes(batch: Batch, entries: Sequence[Entry]) -> None:
    uids, labels, contents, texts = [], [], [], []
    offsets = np.concatenate([[0], batch["structure/offset"]]).astype(int)
    for index, entry in enumerate(entries):
        document = entry.document()
        uid = geometry_uid(entry.numbers, entry.positions, entry.cell, entry.pbc)
        uids.append(uid)
        labels.append(label_hash(uid, entry.method))
        row = slice(offsets[index], offsets[index + 1])
        contents.append(content_hash(hashed_columns(batch, index, row), document))
        texts.append(dump({**document, **({"source": entry.source} if entry.source else {})}))
    for name, values in (("uid", uids), ("label", labels), ("content", contents)):
        batch[f"structure/{name}"] = np.frombuffer(b"".join(values), "u1").reshape(-1, 32)
    batch["structure/meta_ofs"] = np.cumsum([len(text) for text in texts], dtype="<u8")
    batch["blob/json"] = np.frombuffer(b"".join(texts), "u1")


def hashed_columns(batch: Batch, index: int, atoms: slice) -> dict[str, Array]:
    """Numbers of one row that its content hash covers: only those that are present."""
    present = int(batch["structure/present"][index])
    found = {name: batch[f"structure/{name}"][index] for name in ("cell", "pbc", "present")}
    if present & Present.ENERGY:
        found["energy"] = batch["structure/energy"][index]
    if present & Present.STRESS:
        found["stress"] = batch["structure/stress"][index]
    found["Z"], found["R"] = batch["atom/Z"][atoms], batch["atom/R"][atoms]
    bits = (Present.FORCES, Present.MAGMOMS, Present.CHARGES, Present.VELOCITIES, Present.MASK)
    for bit, path in zip(bits, PER_ATOM, strict=True):
        if present & bit:
            values = batch[path][atoms]
            found[path] = values.astype("<f8") if path == "atom/F" else values  # f4 and f8 of one value hash the same
    return found
