"""Where labelled structures come from: extended XYZ, runs of other codes, and stores (``store.h5:QUERY``).

A source is read whole here; :mod:`gracecli.fit.stream` reads stores piece by piece. Its hash covers what was selected:
of a file every byte, of a store the geometry and the labels of the selected structures, so that a store may grow
without a running fit noticing.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from gracecli.errors import InputError
from gracecli.files import file_sha256
from gracecli.fit.config import DataConfig
from gracecli.names import suggestion

if TYPE_CHECKING:
    from gracecli.store.store import Store

SPLITS = ("train", "valid", "test")
EXTENDED = (".extxyz", ".extxyz.gz", ".xyz", ".xyz.gz")


@dataclass(frozen=True)
class Source:
    """What was read.

    Attributes
    ----------
    path : str
        The argument.
    images : list of Atoms
        With their labels attached, constraints too.
    names : tuple of str
        One per image, ``file:index``; of a store the number of the structure in it.
    sha256 : str
    notes : tuple of str
        What a reader converted or warned of.
    """

    path: str
    images: list[Atoms]
    names: tuple[str, ...]
    sha256: str
    notes: tuple[str, ...] = ()


def read_source(argument: str) -> Source:
    """All structures of a file or of a query.

    Raises
    ------
    InputError
        Missing, empty, or unreadable.
    """
    from gracecli.run.structures import split_store

    stored = split_store(argument)
    if stored is not None:
        return _read_store(argument, *stored)
    path = Path(argument)
    if not path.is_file():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"no such file: {path}", suggestion(path.name, siblings) if siblings else None)
    images, notes = (_read_extended(path), ()) if path.name.endswith(EXTENDED) else _read_run(path)
    names = tuple(f"{path}:{number}" for number in range(len(images)))
    return Source(argument, images, names, file_sha256(path), notes)


def with_stored_splits(data: DataConfig) -> DataConfig:
    """``train = "store.h5"`` alone means the sets train, valid and test of that store, if it has a set ``train``."""
    from gracecli.run.structures import split_store
    from gracecli.store.store import Store

    if len(data.train) != 1 or data.valid or data.test:
        return data
    entry = data.train[0]
    stored = split_store(entry.path)
    if stored is None or stored[1]:
        return data
    with Store(stored[0]) as store:
        known = store.set_names()
    if "train" not in known:
        return data
    sets = {name: (replace(entry, path=f"{stored[0]}:set={name}"),) if name in known else () for name in SPLITS}
    return replace(data, train=sets["train"], valid=sets["valid"], test=sets["test"])


def selected_rows(store: Store, argument: str, query: str) -> np.ndarray:
    """Numbers of the structures that a query selects; an empty answer is an error."""
    rows = store.query(query)
    if not len(rows):
        raise InputError(f"{argument}: no structure matches", f"`grace store query {store.path}` lists them")
    return rows


def store_hash(store: Store, rows: Sequence[int] | np.ndarray) -> str:
    """Hash of geometry and labels of some structures, read in blocks."""
    digest = hashlib.sha256()
    wanted = np.asarray(rows, dtype=np.int64)
    for start in range(0, len(store), 1000):
        stop = min(start + 1000, len(store))
        inside = wanted[(wanted >= start) & (wanted < stop)] - start
        if not len(inside):
            continue
        for column in ("structure/uid", "structure/energy", "structure/stress"):
            digest.update(np.ascontiguousarray(store.column(column, start, stop)[inside]).tobytes())
        ends = store.column("structure/offset", start, stop + 1).astype(np.int64)
        forces = store.column("atom/F", int(ends[0]), int(ends[-1]))
        for row in inside:
            digest.update(np.ascontiguousarray(forces[ends[row] - ends[0] : ends[row + 1] - ends[0]]).tobytes())
    return digest.hexdigest()


def _read_store(argument: str, path: str, query: str) -> Source:
    from gracecli.store.store import Store

    with Store(path) as store:
        rows = selected_rows(store, argument, query)
        images = [store.atoms(int(row)) for row in rows]
        return Source(argument, images, tuple(f"{path}:{row}" for row in rows), store_hash(store, rows))


def _read_extended(path: Path) -> list[Atoms]:
    """The whole file in memory: ASE seeks to every frame, which in a gzipped file means starting over each time."""
    import ase.io

    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as stream:
                text = io.StringIO(stream.read())
        else:
            text = io.StringIO(path.read_text(encoding="utf-8"))
        images = ase.io.read(text, index=":", format="extxyz")
    except Exception as error:  # ASE's readers raise anything from IndexError to XYZError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot read structures from {path}: {reason}", "is it extended XYZ?") from error
    if not images:
        raise InputError(f"{path}: the file holds no structure")
    return list(images)


def _read_run(path: Path) -> tuple[list[Atoms], tuple[str, ...]]:
    """Every step of a run (vasprun.xml, OUTCAR, trajectories), with what the store's readers convert."""
    from gracecli.store.convert import to_atoms
    from gracecli.store.formats import read_file

    reading = read_file(path)
    return [to_atoms(entry) for entry in reading.entries], reading.notes
