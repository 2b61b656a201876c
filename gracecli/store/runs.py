"""Who computed what, when and with which versions: one row of /runs at the start, one at the end, none rewritten."""

from __future__ import annotations

import json
import platform
import secrets
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gracecli.store.entry import dump

if TYPE_CHECKING:
    from gracecli.store.store import Store
    from gracecli.store.writer import Batch

START, END = 1, 2
_PACKAGES = ("gracecli", "numpy", "ase", "h5py", "tensorflow", "grace-native", "phonopy")


@dataclass(frozen=True)
class Run:
    """One execution of a command.

    Attributes
    ----------
    argv : tuple of str
        Command line.
    versions : mapping
        Packages that were loaded.
    seed : int or None
    files : mapping
        Input files and their sha256 (hexadecimal).
    uid : bytes
        Sixteen random bytes.
    start : float
        Seconds since 1970-01-01 UTC.
    end : float or None
        None: still running, or killed.
    exit_code : int or None
    """

    argv: tuple[str, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    seed: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    uid: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    start: float = field(default_factory=time.time)
    end: float | None = None
    exit_code: int | None = None

    @classmethod
    def now(cls, argv: Sequence[str] | None = None, **details: Any) -> Run:
        """Run of this process, started now; ``argv`` is by default its command line."""
        return cls(tuple(command_line() if argv is None else argv), versions(), socket.gethostname(), **details)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; times in ISO 8601, UTC."""
        return {
            "command": list(self.argv),
            "start": iso(self.start),
            "end": None if self.end is None else iso(self.end),
            "exit_code": self.exit_code,
            "host": self.host,
            "seed": self.seed,
            "versions": dict(self.versions),
            "files": dict(self.files),
        }


def command_line() -> list[str]:
    """Arguments of this process, the program by its plain name."""
    program = sys.argv[0].rpartition("/")[2] if sys.argv else ""
    return [program or "python", *sys.argv[1:]]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that this process has loaded."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        if name.replace("-", "_") in sys.modules:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
    return found


def iso(seconds: float) -> str:
    """A time as text."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def event_batch(run: Run, event: int, model: bytes = b"") -> Batch:
    """Row of the beginning or the end of a run (ends relative to the append)."""
    document: dict[str, Any] = {}
    if event == START:
        document = {"argv": list(run.argv), "versions": dict(run.versions), "host": run.host}
        document |= {"files": dict(run.files)} if run.files else {}
    text = dump(document)
    return {
        "runs/uid": np.frombuffer(run.uid, "u1").reshape(1, 16),
        "runs/event": np.array([event], "u1"),
        "runs/time": np.array([run.start if event == START else run.end]),
        "runs/exit_code": np.array([-1 if run.exit_code is None else run.exit_code], "<i4"),
        "runs/config": np.zeros((1, 32), "u1"),
        "runs/model": np.frombuffer(model.ljust(32, b"\0"), "u1").reshape(1, 32),
        "runs/seed": np.array([NO_SEED if run.seed is None else run.seed], "<i8"),
        "runs/offset": np.array([len(text)], "<u8"),
        "blob/runs": np.frombuffer(text, "u1"),
    }


NO_SEED = -(2**63)


def read_run(store: Store, number: int) -> Run | None:
    """Run that a row names: its number in the column ``run`` (0: none), which is one more than its row."""
    row = number - 1
    if not 0 <= row < store.commit.counts["run"]:
        return None
    first, last = (int(end) for end in store.column("runs/offset", row, row + 2))
    document = json.loads(store.column("blob/runs", first, last).tobytes() or b"{}")
    uid = store.column("runs/uid", row, row + 1)[0].tobytes()
    seed = int(store.column("runs/seed", row, row + 1)[0])
    end = end_row(store, uid)
    return Run(
        argv=tuple(document.get("argv", ())),
        versions=document.get("versions", {}),
        host=document.get("host", ""),
        seed=None if seed == NO_SEED else seed,
        files=document.get("files", {}),
        uid=uid,
        start=float(store.column("runs/time", row, row + 1)[0]),
        end=None if end is None else float(store.column("runs/time", end, end + 1)[0]),
        exit_code=None if end is None else int(store.column("runs/exit_code", end, end + 1)[0]),
    )


def end_row(store: Store, uid: bytes) -> int | None:
    """Row that says how a run ended."""
    events: NDArray[Any] = store.column("runs/event")
    same = (store.column("runs/uid") == np.frombuffer(uid, "u1")).all(axis=1)
    rows = np.flatnonzero(same & (events == END))
    return int(rows[0]) if len(rows) else None
