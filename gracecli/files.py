"""Files that are either whole or not there.

A reader, or the next run after a crash, never meets half a file: the content goes to a temporary name in the same
folder, is flushed to the disk (fsync), and only then takes the wanted name (rename, atomic on one file system).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gracecli.errors import InputError


def write_atomically(path: str | Path, writer: Callable[[Path], object], *, force: bool = True) -> Path:
    """Write a file through ``writer`` so that ``path`` never holds a part of it.

    Parameters
    ----------
    path : str or Path
        Wanted file. A symbolic link is followed; a device such as ``/dev/stdout`` is written directly.
    writer : callable
        Called with a temporary path in the same folder (same suffix); creates the file there.
    force : bool
        Replace an existing file; otherwise it is an error.

    Returns
    -------
    Path
        The path written.

    Raises
    ------
    InputError
        The file exists (without ``force``) or cannot be written.
    """
    path = Path(path)
    refuse_overwrite(path, force)
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            if target.is_dir():
                raise InputError(f"cannot write {path}: it is a folder", "give a file name")
            writer(target)
            return path
        temporary = target.with_name(f".{target.stem}-{os.getpid()}-{secrets.token_hex(4)}{target.suffix}")
        try:
            writer(temporary)
            if target.exists():
                temporary.chmod(target.stat().st_mode & 0o7777)
            _flush_to_disk(temporary)
            temporary.replace(target)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        _flush_to_disk(target.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}", "choose another place with -o/--output"
        ) from error
    return path


def write_folder_atomically(path: str | Path, writer: Callable[[Path], object], *, replace: bool = False) -> Path:
    """Write a folder through ``writer`` so that ``path`` is never a part of it.

    Parameters
    ----------
    path : str or Path
        Wanted folder.
    writer : callable
        Called with an empty temporary folder beside it (same suffix).
    replace : bool
        Replace an existing folder (or file), moved aside first and deleted last; otherwise it is an error. Whether it
        *may* be replaced is for the caller to know.

    Raises
    ------
    InputError
        It exists (without ``replace``) or cannot be written.
    """
    path = Path(path)
    target = path.absolute()
    if target.exists() and not replace:
        raise InputError(f"{path} exists", "give --force to replace it, or another -o/--output")
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = target.with_name(f".{target.stem}-{mark}{target.suffix}")
    aside = target.with_name(f".{target.stem}-{mark}-old{target.suffix}")
    try:
        temporary.mkdir()
        try:
            writer(temporary)
            for item in sorted(temporary.rglob("*"), reverse=True):
                if not item.is_symlink():
                    _flush_to_disk(item)
            _flush_to_disk(temporary)
            if target.exists():
                target.rename(aside)
            try:
                temporary.rename(target)
            except OSError:
                if aside.exists():
                    aside.rename(target)
                raise
            _remove(aside)
        finally:
            _remove(temporary)
        _flush_to_disk(target.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}", "choose another place with -o/--output"
        ) from error
    return path


def _remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text_atomically(path: str | Path, text: str, *, force: bool = True) -> Path:
    """Write ``text`` (UTF-8) as :func:`write_atomically` does."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), force=force)


def file_sha256(path: Path) -> str:
    """Hash of a file of any size, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_overwrite(path: str | Path, force: bool) -> None:
    """Raise :class:`InputError` when the regular file ``path`` exists and ``force`` is off.

    Call it before a long run, so that the run does not end in this error.
    """
    if not force and Path(path).is_file():
        raise InputError(f"{path} exists", "give --force to replace it, or another -o/--output")


def _flush_to_disk(path: Path) -> None:
    """Fsync a file or a folder (folders cannot be opened for this on every system; then the rename has to do)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
