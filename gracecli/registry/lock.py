"""``grace.lock``: which bytes a model name meant when it was first used, and means ever since.

The publishers give no checksums. So the sha256 of blueprint and weights (and of the archive they came in) is recorded
at first use, beside the library (``$GRACE_CACHE/grace.lock``) or in the file that ``GRACE_LOCK`` names, for instance
one that is kept with a project's scripts. A model whose content differs later is an error, not another result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gracecli.errors import InputError, ModelError
from gracecli.files import write_text_atomically
from gracecli.quiet import cache_root

SCHEMA, VERSION = "gracecli.lock", 1


@dataclass(frozen=True)
class Pin:
    """What a name means.

    Attributes
    ----------
    sha256 : str
        Of blueprint and weights.
    url, archive_sha256 : str or None
        Where it was fetched, and the hash of what was fetched.
    first_used : str
        Time in UTC.
    """

    sha256: str
    url: str | None = None
    archive_sha256: str | None = None
    first_used: str = ""


def lock_path() -> Path:
    """The lock file: ``GRACE_LOCK``, else beside the library."""
    own = os.environ.get("GRACE_LOCK")
    return Path(own).expanduser() if own else cache_root() / "grace.lock"


def pins() -> dict[str, Pin]:
    """Name -> pin.

    Raises
    ------
    ModelError
        The lock file is damaged.
    """
    path = lock_path()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA or document["schema_version"] > VERSION:
            raise ValueError("another schema")
        return {name: Pin(**entry) for name, entry in document["models"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: cannot be read as grace.lock ({error})", "restore it, or delete it to pin anew"
        ) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; waits for the others."""
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(path) + ".filelock"):
            yield
    except PermissionError as error:
        raise InputError(f"cannot write in {path.parent}", "set GRACE_CACHE to a folder you can write to") from error


def check_pin(name: str, sha256: str, known: dict[str, Pin] | None = None) -> bool:
    """Whether the name is pinned; raises if it is pinned to another content.

    Raises
    ------
    ModelError
    """
    pin = (pins() if known is None else known).get(name)
    if pin is None:
        return False
    if pin.sha256 != sha256:
        raise ModelError(
            f"model {name!r} is not the one that {lock_path()} records (sha256 {sha256[:12]}..., "
            f"recorded {pin.sha256[:12]}... on {pin.first_used[:10]})",
            f"get the recorded one again, or accept this one: `grace models verify {name} --accept`",
        )
    return True


def pin(
    name: str, sha256: str, url: str | None = None, archive_sha256: str | None = None, *, replace: bool = False
) -> Pin:
    """Record what a name means; a recorded one must agree unless ``replace``.

    Raises
    ------
    ModelError
        It is pinned to another content.
    """
    path = lock_path()
    with locked(path):
        known = pins()
        if not replace and check_pin(name, sha256, known):
            return known[name]
        entry = Pin(sha256, url, archive_sha256, datetime.now(UTC).isoformat(timespec="seconds"))
        _write(path, {**known, name: entry})
        return entry


def unpin(name: str) -> None:
    """Forget a name (its model was removed)."""
    path = lock_path()
    if not path.is_file():
        return
    with locked(path):
        known = pins()
        if known.pop(name, None) is not None:
            _write(path, known)


def _write(path: Path, known: dict[str, Pin]) -> None:
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "schema_version": VERSION,
        "models": {name: asdict(entry) for name, entry in sorted(known.items())},
    }
    write_text_atomically(path, json.dumps(document, indent=1) + "\n")
