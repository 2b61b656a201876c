"""What a store file looks like: groups, columns, units, and the chain of schema versions.

One HDF5 file, columns instead of a group per structure. An *axis* is a table whose rows grow together; a variable
number of items per row (atoms of a structure, bytes of its JSON) is a column ``offset`` of N + 1 ends (CSR)::

    /               attributes: format, schema_version, uuid, created_by, created, units, state ("hot" or "sealed")
    /structure/     one row per structure
        offset      u8[N+1] ends in /atom           uid       u1[N,32] sha256 of the geometry as given
        cell        f8[N,3,3] Å, rows are vectors    label     u1[N,32] sha256(uid + method)
        pbc         u1[N] bits a=1 b=2 c=4           content   u1[N,32] sha256 of everything the row holds
        natoms      u4[N]                            run       u4[N] row of /runs + 1 (0: none)
        energy      f8[N] eV, force-consistent       set       u2[N] row of /set_names (0: none)
        stress      f8[N,6] eV/Å^3, tensile-positive, xx yy zz yz xz xy
        present     u8[N] bits: which labels there are (Present)
        meta_ofs    u8[N+1] ends in /blob/json       comp_ofs  u8[N+1] ends in /composition
    /atom/          Z u1, R f8[3] Å, F f8[3] (or f4) eV/Å, magmom f8 μB, charge f8 e, velocity f8[3] Å/(Å sqrt(u/eV)),
                    mask u1 (fixed directions: x=1 y=2 z=4)
    /composition/   Z u1, n u4: the elements of a structure, by atomic number
    /index/         fmax f8[N] eV/Å: largest force; rebuilt from /atom/F
    /blob/          json, runs, results (UTF-8 JSON), data (little-endian arrays of results): u1
    /runs/          uid u1[16], event u1 (1 start, 2 end), time f8, exit_code i4, config u1[32], model u1[32] (sha256),
                    seed i8, offset u8[R+1] ends in /blob/runs
    /set_names/     name u1[48]                      /members/  structure u8, set u2, op u1 (1 in, 0 out), run u4
    /result/        kind u1[24], structure u8, final u8 (row of the resulting geometry), run u4, converged u1,
                    identity u1[32] sha256(geometry + model + settings), json_ofs u8[M+1], data_ofs u8[M+1]
                    (gracecli.store.results; run is a row of /runs + 1, converged is exit code 0, final may be 2^64-1)
    /commits/rows   u8[C,20]: number, time (ns), rows of every axis, crc32 of the row, crc32 chained over all rows

All results share one table, and ``kind`` is a column: a plugin's kind of result needs no new HDF5 object, which a file
open for SWMR writing could not take. Names of JSON documents and units of their arrays stand in the JSON itself.

Rows are only ever appended. What counts is what the last valid commit row says: anything beyond is the remainder of a
writer that was killed, and the next writer overwrites it. Columns that few structures use (forces, magnetic moments,
...) end where they were last used; beyond that, and in unallocated chunks, the fill value stands (NaN or 0).
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

FORMAT = "gracecli-store"
SCHEMA_VERSION = 1
CHUNK_ROWS = 1024
BLOB_CHUNK = 32 * 1024
LIBVER = ("v110", "v110")  # first that knows SWMR; files stay readable by HDF5 1.10 and later
COMMIT_WIDTH = 20
NO_ROW = 2**64 - 1


class Present:
    """Bits of ``/structure/present``."""

    ENERGY = 1
    FORCES = 2
    STRESS = 4
    MAGMOMS = 8
    CHARGES = 16
    VELOCITIES = 32
    MASK = 64
    FREE_ENERGY = 128  # the energy came under the name "free_energy": force-consistent by its own word


PRESENT_NAMES = {
    "energy": Present.ENERGY,
    "forces": Present.FORCES,
    "stress": Present.STRESS,
    "magmoms": Present.MAGMOMS,
    "charges": Present.CHARGES,
    "velocities": Present.VELOCITIES,
    "fixed": Present.MASK,
    "free_energy": Present.FREE_ENERGY,
}


@dataclass(frozen=True)
class Column:
    """One dataset.

    Attributes
    ----------
    path : str
        Name in the file.
    axis : str
        Table whose rows it has.
    dtype : str
        NumPy notation, little-endian.
    shape : tuple of int
        Of one row.
    unit : str
        Written as its attribute ``unit``.
    fill : float
        Value where nothing was written.
    ends : bool
        A CSR column: one row more than its axis, the first is 0.
    chunk : int
        Rows per chunk.
    """

    path: str
    axis: str
    dtype: str
    shape: tuple[int, ...] = ()
    unit: str = ""
    fill: float = 0
    ends: bool = False
    chunk: int = CHUNK_ROWS

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return np.dtype(self.dtype).itemsize * int(np.prod(self.shape, dtype=int))


AXES = (
    "structure", "atom", "composition", "json", "run", "run_json", "set_name", "member", "result", "result_json",
    "result_data",
)  # fmt: skip

_NAN = float("nan")
_COLUMNS = (
    Column("structure/offset", "structure", "<u8", ends=True),
    Column("structure/uid", "structure", "u1", (32,), "sha256", chunk=256),
    Column("structure/label", "structure", "u1", (32,), "sha256", chunk=256),
    Column("structure/content", "structure", "u1", (32,), "sha256", chunk=256),
    Column("structure/cell", "structure", "<f8", (3, 3), "Å", chunk=256),
    Column("structure/pbc", "structure", "u1", unit="bits a=1 b=2 c=4"),
    Column("structure/natoms", "structure", "<u4"),
    Column("structure/energy", "structure", "<f8", unit="eV", fill=_NAN),
    Column("structure/stress", "structure", "<f8", (6,), "eV/Å^3 (tensile-positive; xx yy zz yz xz xy)", _NAN,
           chunk=256),
    Column("structure/present", "structure", "<u8", unit="bits"),
    Column("structure/run", "structure", "<u4"),
    Column("structure/set", "structure", "<u2"),
    Column("structure/meta_ofs", "structure", "<u8", ends=True),
    Column("structure/comp_ofs", "structure", "<u8", ends=True),
    Column("index/fmax", "structure", "<f8", unit="eV/Å", fill=_NAN),
    Column("atom/Z", "atom", "u1"),
    Column("atom/R", "atom", "<f8", (3,), "Å"),
    Column("atom/F", "atom", "<f8", (3,), "eV/Å", _NAN),
    Column("atom/magmom", "atom", "<f8", unit="μB", fill=_NAN),
    Column("atom/charge", "atom", "<f8", unit="e", fill=_NAN),
    Column("atom/velocity", "atom", "<f8", (3,), "Å/(Å sqrt(u/eV))", _NAN),
    Column("atom/mask", "atom", "u1", unit="bits of fixed directions x=1 y=2 z=4"),
    Column("composition/Z", "composition", "u1"),
    Column("composition/n", "composition", "<u4"),
    Column("blob/json", "json", "u1", unit="UTF-8 JSON", chunk=BLOB_CHUNK),
    Column("runs/uid", "run", "u1", (16,), chunk=64),
    Column("runs/event", "run", "u1", unit="1 start, 2 end", chunk=256),
    Column("runs/time", "run", "<f8", unit="s since 1970-01-01 UTC", chunk=256),
    Column("runs/exit_code", "run", "<i4", chunk=256),
    Column("runs/config", "run", "u1", (32,), "sha256", chunk=64),
    Column("runs/model", "run", "u1", (32,), "sha256", chunk=64),
    Column("runs/seed", "run", "<i8", chunk=256),
    Column("runs/offset", "run", "<u8", ends=True, chunk=256),
    Column("blob/runs", "run_json", "u1", unit="UTF-8 JSON", chunk=4096),
    Column("set_names/name", "set_name", "u1", (48,), "UTF-8", chunk=16),
    Column("members/structure", "member", "<u8"),
    Column("members/set", "member", "<u2"),
    Column("members/op", "member", "u1", unit="1 in, 0 out"),
    Column("members/run", "member", "<u4"),
    Column("result/kind", "result", "u1", (24,), "UTF-8", chunk=64),
    Column("result/structure", "result", "<u8", chunk=256),
    Column("result/final", "result", "<u8", chunk=256),
    Column("result/run", "result", "<u4", chunk=256),
    Column("result/converged", "result", "u1", chunk=256),
    Column("result/identity", "result", "u1", (32,), "sha256", chunk=64),
    Column("result/json_ofs", "result", "<u8", ends=True, chunk=256),
    Column("result/data_ofs", "result", "<u8", ends=True, chunk=256),
    Column("blob/results", "result_json", "u1", unit="UTF-8 JSON", chunk=4096),
    Column("blob/data", "result_data", "u1", chunk=BLOB_CHUNK),
)  # fmt: skip

COLUMNS = {column.path: column for column in _COLUMNS}
COMMITS = "commits/rows"
UNITS = {column.path: column.unit for column in _COLUMNS if column.unit}


def columns_of(axis: str) -> list[Column]:
    """Columns of one table."""
    return [column for column in _COLUMNS if column.axis == axis]


def create_file(
    path: Path,
    *,
    state: str = "hot",
    forces: str = "<f8",
    compress: bool = False,
    attributes: dict[str, Any] | None = None,
) -> None:
    """Write an empty store at ``path`` with every dataset in it (SWMR writers cannot create any later).

    Parameters
    ----------
    path : Path
        A temporary name: the caller renames it (:func:`gracecli.files.write_atomically`).
    state : str
        ``"hot"`` (appended in place) or ``"sealed"`` (rewritten once).
    forces : str
        ``"<f8"`` or ``"<f4"``: four bytes save a quarter of the file and round forces to 7 digits.
    compress : bool
        gzip-1 with shuffle; for sealed stores only, because a growing compressed chunk moves at every append.
    attributes : dict, optional
        Root attributes that are kept from another file.
    """
    import json
    from datetime import UTC, datetime
    from importlib.metadata import version

    if compress and state != "sealed":
        raise ValueError("a hot store is never compressed")
    filters: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if compress else {}
    with h5py.File(path, "w", libver=LIBVER, locking=False) as file:
        file.attrs["format"] = FORMAT
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["uuid"] = secrets.token_hex(16)
        file.attrs["created_by"] = f"gracecli {version('gracecli')}"
        file.attrs["created"] = datetime.now(UTC).isoformat(timespec="seconds")
        file.attrs["units"] = json.dumps(UNITS, ensure_ascii=False)
        for name, value in (attributes or {}).items():
            file.attrs[name] = value
        file.attrs["state"] = state
        for column in _COLUMNS:
            dtype = forces if column.path == "atom/F" else column.dtype
            rows = 1 if column.ends else 0
            dataset = file.create_dataset(
                column.path,
                shape=(rows, *column.shape),
                maxshape=(None, *column.shape),
                chunks=(column.chunk, *column.shape),
                dtype=dtype,
                fillvalue=column.fill,
                fletcher32=True,
                **filters,
            )
            if column.unit:
                dataset.attrs["unit"] = column.unit
            if column.ends:
                dataset[0] = 0
        commits = file.create_dataset(
            COMMITS, shape=(0, COMMIT_WIDTH), maxshape=(None, COMMIT_WIDTH), chunks=(64, COMMIT_WIDTH), dtype="<u8"
        )
        commits.attrs["columns"] = json.dumps(["number", "time_ns", *AXES])
        file.flush()


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` looks like a store: an HDF5 file whose first bytes name the format.

    Only the beginning of the file is read, so that asking costs nothing and needs no HDF5.
    """
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(64 * 1024)
    except OSError:
        return False
    return head.startswith(b"\x89HDF\r\n\x1a\n") and FORMAT.encode() in head
