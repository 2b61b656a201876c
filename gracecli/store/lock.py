"""One writer at a time, by a file ``STORE.lock`` created with O_EXCL; no fcntl, which network file systems lack.

The file names host, process and a token; a thread touches it every few seconds (the heartbeat). A lock whose process is
gone (same host: by pid and start time; other hosts: no heartbeat for two minutes of the file system's own clock) is
taken over. Breakers exclude each other by a second O_EXCL file, so that nobody removes a lock that was just made.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from gracecli.errors import StoreError

HEARTBEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 120.0
POLL_SECONDS = 0.02


class WriterLock:
    """Context manager that holds the lock of one store.

    Parameters
    ----------
    store : Path
    wait : float
        Seconds to wait for another writer.
    """

    def __init__(self, store: Path, wait: float = 60.0) -> None:
        self.path = store.with_name(f"{store.name}.lock")
        self.store = store
        self.wait = wait
        self.taken_over = False
        self._content = b""
        self._stop = threading.Event()

    def __enter__(self) -> WriterLock:
        """Take the lock.

        Raises
        ------
        StoreError
            Somebody else kept it too long, or the folder cannot be written.
        """
        start = {"host": socket.gethostname(), "pid": os.getpid(), "started": _start_time(os.getpid())}
        document = {**start, "token": secrets.token_hex(8), "since": time.time()}
        self._content = json.dumps(document).encode()
        until = time.monotonic() + self.wait
        try:
            while not self._create():
                if self._break_dead():
                    self.taken_over = True
                elif time.monotonic() > until:
                    raise StoreError(
                        f"{self.store} is being written {_whose(self.path)}", "wait for it, or --wait longer"
                    )
                else:
                    time.sleep(POLL_SECONDS)
        except OSError as error:
            raise StoreError(f"cannot lock {self.store}: {error.strerror}", "is its folder writable?") from error
        self._stop.clear()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back, if it is still ours."""
        self._stop.set()
        if self.held():
            with suppress(FileNotFoundError):
                self.path.unlink()

    def held(self) -> bool:
        """Whether the lock file is still the one we made."""
        return _read(self.path) == self._content

    def _create(self) -> bool:
        """Make the lock file whole or not at all: a linked temporary file, because O_EXCL and writing are two steps."""
        temporary = self.path.with_name(f".{self.path.name}-{secrets.token_hex(6)}")
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            os.write(descriptor, self._content)
            os.close(descriptor)
            os.link(temporary, self.path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def _break_dead(self) -> bool:
        if not _is_dead(self.path):
            return False
        breaker = self.path.with_name(f"{self.path.name}-break")
        try:
            os.close(os.open(breaker, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            with suppress(FileNotFoundError):  # a breaker needs milliseconds; one this old was killed
                if _now(breaker) - breaker.stat().st_mtime > HEARTBEAT_SECONDS:
                    breaker.unlink()
            return False
        try:
            if not _is_dead(self.path):
                return False
            with suppress(FileNotFoundError):
                self.path.unlink()
            return True
        finally:
            breaker.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            if self.held():
                with suppress(OSError):
                    os.utime(self.path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _is_dead(path: Path) -> bool:
    content = _read(path)
    if not content:
        return False  # gone in the meantime
    try:
        document: dict[str, Any] = json.loads(content)
        if document["host"] == socket.gethostname():
            return _start_time(document["pid"]) != document["started"]
        return _now(path) - path.stat().st_mtime > DEAD_AFTER_SECONDS
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        return True  # not a lock of ours: half-written by a full disk


def _start_time(pid: int) -> str | None:
    """When a process of this host started (a recycled pid is another process); None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return "unknown"
    return None if fields[0] == "Z" else fields[19]  # a zombie writes no more


def _now(path: Path) -> float:
    """The file system's own time: clocks of hosts differ."""
    probe = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _whose(path: Path) -> str:
    try:
        document = json.loads(_read(path))
        since = datetime.fromtimestamp(document["since"]).strftime("%H:%M:%S")
        return f"by process {document['pid']} on {document['host']} since {since}"
    except (ValueError, KeyError):
        return "by another process"
