"""Structures from files: every format ASE reads, the formats of plugins, with errors that name file and cause."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms

from gracecli.errors import GraceError, InputError
from gracecli.plugin.manager import get_plugin_manager
from gracecli.run.checks import check_structure

#: Formats whose files are collections of structures; all other multi-frame formats are histories of one structure, of
#: which the last frame counts.
COLLECTIONS = ("extxyz",)


@dataclass(frozen=True)
class Structure:
    """A structure and where it comes from.

    Attributes
    ----------
    name : str
        What messages call it: the argument, with ``#N`` where a file holds several.
    path : Path
    format : str
        ASE's name of the format, or the name of the plugin's reader.
    atoms : Atoms
    frame, frames : int
        Position in the file (from 0), and how many were read from it.
    direct : bool
        POSCAR: fractional coordinates ("Direct").
    notes : tuple of str
        Warnings of the reader.
    """

    name: str
    path: Path
    format: str
    atoms: Atoms
    frame: int = 0
    frames: int = 1
    direct: bool = False
    notes: tuple[str, ...] = ()


def read_structures(argument: str) -> list[Structure | GraceError]:
    """Structures of one command-line argument.

    Parameters
    ----------
    argument : str
        A path, ``PATH@INDEX`` with ASE's index syntax (``traj.extxyz@-1``, ``XDATCAR@::10``), or ``STORE:QUERY``.

    Returns
    -------
    list
        A :class:`Structure`, or the error, for every frame.

    Raises
    ------
    InputError
        The file as a whole cannot be read.
    """
    stored = _from_store(argument)
    if stored is not None:
        return stored
    path, index = _split(argument)
    frames = read_frames(path, index, argument)
    found: list[Structure | GraceError] = []
    count = len(frames.images)
    for number, atoms in enumerate(frames.images):
        name = argument if count == 1 else f"{argument}#{number + 1}"
        notes = frames.notes if number == 0 else ()
        structure = Structure(name, path, frames.format, atoms, number, count, frames.direct, notes)
        try:
            check_structure(atoms, name)
            found.append(structure)
        except InputError as error:
            found.append(error)
    return found


@dataclass(frozen=True)
class Frames:
    """What a file holds, as ASE or a plugin's reader gives it.

    Attributes
    ----------
    format : str
        ASE's name of the format, or the name of the plugin's reader.
    images : list of Atoms
    direct : bool
        POSCAR: fractional coordinates ("Direct").
    notes : tuple of str
        Warnings of the reader, with the name of the file.
    """

    format: str
    images: list[Atoms]
    direct: bool
    notes: tuple[str, ...]


def read_frames(path: Path, index: Any = None, name: str = "") -> Frames:
    """Structures of a file, unchecked.

    Parameters
    ----------
    path : Path
    index : int or slice, optional
        Frames. [default: all of a collection, the last one of a history]
    name : str
        What messages call it. [default: the path]

    Raises
    ------
    InputError
        Missing, empty, of an unknown format, or damaged.
    """
    name = name or str(path)
    if not path.exists():
        raise InputError(f"{name}: no such file")
    if path.is_dir():
        raise InputError(f"{name}: is a folder", f"name a file in it, such as {path / 'POSCAR'}")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{name}: the file is empty")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            format_name, images, direct = _read(path, index)
    except GraceError:
        raise
    except Exception as error:  # readers of dozens of formats raise whatever they like
        raise InputError(f"{name}: {_reason(error, path)}") from error
    if not images:
        raise InputError(f"{name}: no structure in the file")
    notes = tuple(dict.fromkeys(f"{name}: {_first_line(item.message)}" for item in caught))
    return Frames(format_name, images, direct, notes)


def stream_structures(argument: str) -> Iterator[Structure | GraceError]:
    """Structures of one command-line argument as :func:`read_structures` gives them, one in memory at a time.

    Streamed are extxyz files and stores; other formats hold few structures and are read as a whole.
    """
    path, index = Path(argument), None
    if "@" in argument and not path.exists():
        path, index = _split(argument)
    streamed = path.suffix.lower() in (".extxyz", ".xyz") and path.is_file() and path.stat().st_size > 0
    if any(path.suffix.lower() in spec.suffixes for spec in get_plugin_manager().readers().values()):
        streamed = False
    if streamed and (index is None or isinstance(index, slice)):
        yield from _stream_extxyz(argument, path, index)
    elif (split := split_store(argument)) is not None:
        yield from _stream_store(argument, *split)
    else:
        yield from read_structures(argument)


def _stream_extxyz(argument: str, path: Path, index: slice | None) -> Iterator[Structure | GraceError]:
    import ase.io

    frames = ase.io.iread(path, index=slice(None) if index is None else index, format="extxyz")
    number = 0
    while True:
        name = f"{argument}#{number + 1}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                atoms = next(frames, None)
        except Exception as error:  # ASE's readers raise anything
            raise InputError(f"{name}: {_reason(error, path)}") from error
        if atoms is None:
            break
        try:
            check_structure(atoms, name)
            yield Structure(name, path, "extxyz", atoms, number)
        except InputError as error:
            yield error
        number += 1
    if number == 0:
        raise InputError(f"{argument}: no structure in the file")


def _stream_store(argument: str, path: str, query: str) -> Iterator[Structure | GraceError]:
    from gracecli.store.store import Store

    with Store(path) as store:
        numbers = store.query(query)
        if not len(numbers):
            raise InputError(f"{argument}: no structure matches", f"`grace store query {path}` lists them")
        for frame, number in enumerate(numbers):
            name = f"{path}:{number}"
            try:
                atoms = store.atoms(int(number))
                check_structure(atoms, name)
                yield Structure(name, Path(path), "gracecli-store", atoms, frame, len(numbers))
            except InputError as error:
                yield error


def format_of(path: Path, read: bool = True) -> str:
    """ASE's name of a file's format.

    ASE looks for ``POSCAR`` and ``OUTCAR`` anywhere in the name first; an extension that says what it is wins here.

    Raises
    ------
    ase.io.formats.UnknownFileTypeError
        Neither the name nor (with ``read``) the content is known.
    """
    from ase.io.formats import filetype

    plain = {".extxyz": "extxyz", ".xyz": "extxyz", ".cif": "cif"}.get(path.suffix.lower())
    return plain or str(filetype(str(path), read=read))


def _from_store(argument: str) -> list[Structure | GraceError] | None:
    """Structures of ``store.h5`` or ``store.h5:QUERY``; None when the argument is something else."""
    split = split_store(argument)
    if split is None:
        return None
    path, query = split
    from gracecli.store.store import Store

    with Store(path) as store:
        numbers = store.query(query)
        if not len(numbers):
            raise InputError(f"{argument}: no structure matches", f"`grace store query {path}` lists them")
        images = [store.atoms(int(number)) for number in numbers]
    found: list[Structure | GraceError] = []
    for frame, (number, atoms) in enumerate(zip(numbers, images, strict=True)):
        name = f"{path}:{number}"
        try:
            check_structure(atoms, name)
            found.append(Structure(name, Path(path), "gracecli-store", atoms, frame, len(images)))
        except InputError as error:
            found.append(error)
    return found


def split_store(argument: str) -> tuple[str, str] | None:
    """Path and query of ``store.h5`` or ``store.h5:QUERY``."""
    path, separator, query = argument.partition(":")
    if Path(argument).exists() or not separator:
        path, query = argument, ""
    if not Path(path).is_file() or Path(path).suffix not in (".h5", ".hdf5"):
        return None
    from gracecli.store.schema import is_store

    return (path, query) if is_store(path) else None


def _split(argument: str) -> tuple[Path, Any]:
    """Path and index (None: the default of the format)."""
    from ase.io.formats import string2index

    if Path(argument).exists() or "@" not in argument:
        return Path(argument), None
    name, _, text = argument.rpartition("@")
    try:
        return Path(name), string2index(text)
    except ValueError as error:
        raise InputError(f"{argument}: no such file") from error


def _read(path: Path, index: Any) -> tuple[str, list[Atoms], bool]:
    """Format name, structures, and whether a POSCAR was "Direct"."""
    import ase.io

    for spec in get_plugin_manager().readers().values():
        if path.suffix.lower() in spec.suffixes:
            return spec.name, list(spec.load()(path)), False
    format_name = format_of(path)
    if format_name == "vasp":
        source, direct = _read_poscar(path)
        return format_name, [ase.io.read(source, format="vasp")], direct
    if index is None:
        index = slice(None) if format_name in COLLECTIONS else -1
    if format_name == "db":
        return format_name, _read_database(path, index), False
    frames: Atoms | Iterable[Atoms] = ase.io.read(path, index=index, format=format_name)
    return format_name, [frames] if isinstance(frames, Atoms) else list(frames), False


def _read_database(path: Path, index: int | slice) -> list[Atoms]:
    """Rows of an ASE database, their key-value pairs and data in ``info``."""
    import ase.db

    with ase.db.connect(path) as database:
        rows = list(database.select())
    images = []
    for row in rows[index] if isinstance(index, slice) else [rows[index]]:
        atoms = row.toatoms(add_additional_information=True)
        pairs, data = atoms.info.pop("key_value_pairs", None) or {}, atoms.info.pop("data", None) or {}
        atoms.info.pop("unique_id", None)
        atoms.info.update({**pairs, **({"data": data} if data else {})})
        images.append(atoms)
    return images


def _read_poscar(path: Path) -> tuple[Path | io.StringIO, bool]:
    """What ASE shall read, and whether coordinates are fractional.

    VASP reads the selective-dynamics flags as Fortran logicals (``F``, ``f``, ``.FALSE.``); ASE takes everything but a
    capital ``F`` for "free" and would release such atoms. Such flags are rewritten before ASE sees them.
    """
    if path.suffix.lower() in (".gz", ".bz2", ".xz"):
        return path, False
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        counts = 5 if lines[5].split()[0].lstrip("+").isdigit() else 6
        total = sum(int(word) for word in lines[counts].split("!")[0].split())
        selective = lines[counts + 1].strip()[:1].lower() == "s"
        start = counts + 3 if selective else counts + 2
        direct = lines[start - 1].strip()[:1].lower() not in ("c", "k")
        if not selective:
            return path, direct
        changed = False
        for number in range(start, start + total):
            words = lines[number].split()
            flags = [_fortran_logical(word) for word in words[3:6]]
            if len(flags) != 3:
                raise InputError(f"{path}: line {number + 1} lacks selective-dynamics flags")
            changed = changed or flags != words[3:6]
            lines[number] = " ".join([*words[:3], *flags])
    except (IndexError, ValueError) as error:
        raise InputError(f"{path}: not a complete POSCAR file") from error
    return (io.StringIO("\n".join(lines) + "\n") if changed else path), direct


def _fortran_logical(word: str) -> str:
    """``T`` or ``F`` from a Fortran logical; ValueError for anything else."""
    letter = word.lstrip(".")[:1].upper()
    if letter not in ("T", "F"):
        raise ValueError(word)
    return letter


def _reason(error: Exception, path: Path) -> str:
    """Why a file could not be read, in one line."""
    from ase.data import atomic_numbers
    from ase.io.formats import UnknownFileTypeError

    if isinstance(error, UnknownFileTypeError):
        return "unknown file format"
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        word = error.args[0]
        if word.isalpha() and len(word) <= 3 and word not in atomic_numbers:
            return f"unknown element {word!r}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, StopIteration) or not _first_line(error):  # the reader ran to the end and found nothing
        return f"no structure in the file (it was taken for the format {format_of(path)!r})"
    return f"cannot be read: {_first_line(error)}"


def _first_line(error: object) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else ""
