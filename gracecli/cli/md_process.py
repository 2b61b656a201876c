"""What a long run needs of its process: a folder to itself, and signals that wait for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import filelock

from gracecli.errors import InputError

if TYPE_CHECKING:
    from gracecli.run.md_files import MdFiles


@contextmanager
def running(files: MdFiles, create: bool) -> Iterator[None]:
    """One process at a time in a folder; the lock goes with its process."""
    if create:
        try:
            files.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write to {files.folder}: {error.strerror}", "choose another -o/--output"
            ) from error
    elif not files.folder.is_dir():
        raise InputError(f"nothing to resume: {files.folder} does not exist", "name the folder of a run")
    lock = filelock.FileLock(files.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise InputError(
            f"another process is running in {files.folder}", "name another -o/--output, or wait"
        ) from error
    except OSError as error:
        raise InputError(f"cannot write to {files.folder}: {error.strerror}", "choose another -o/--output") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event, so that the step in progress ends first; a second Ctrl-C does not wait."""
    wanted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return

    def stop(number: int, _: Any) -> None:
        if wanted.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        wanted.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
