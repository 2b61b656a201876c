"""Fetch a file over HTTP so that it is either whole or not there.

The bytes go to ``NAME.part``; a run that is cut off, or a server that drops the line, is continued from there (HTTP
range request, only when the server still offers the same file), with growing pauses between attempts. A page of HTML, a
wrong length or an empty answer is an error, never a file. Proxies are those of the environment (``HTTPS_PROXY`` ...).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gracecli.errors import ModelError
from gracecli.files import file_sha256, write_text_atomically

if TYPE_CHECKING:
    import requests

ATTEMPTS = 5
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # s; doubled after every failed attempt
TIMEOUT = (15.0, 60.0)  # s: to connect, and between two pieces of data
PIECE = 1 << 18  # byte
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
GIVE_UP = (
    "get it where there is internet and carry it over: `grace models bundle NAME` there, "
    "`grace models unbundle FILE` here"
)

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the total, None where the server does not say."""


class Unavailable(ModelError):
    """An address that gives nothing (now)."""


class _Interrupted(Exception):
    """The attempt failed; another may succeed."""


@dataclass(frozen=True)
class Fetched:
    """A complete file.

    Attributes
    ----------
    path : Path
    url : str
        Address that gave it (after mirrors, before redirections).
    size : int
        Bytes.
    sha256 : str
    resumed : int
        Bytes that an earlier attempt had left.
    attempts : int
    """

    path: Path
    url: str
    size: int
    sha256: str
    resumed: int
    attempts: int


def fetch(
    urls: Sequence[str],
    target: Path,
    progress: Progress | None = None,
    *,
    attempts: int = ATTEMPTS,
    pause: float = FIRST_PAUSE,
) -> Fetched:
    """Fetch the first address that gives the file; the next one is tried when one fails for good.

    Parameters
    ----------
    urls : sequence of str
        The same file at several places: mirrors first.
    target : Path
        Complete file; ``target.part`` and ``target.part.json`` hold an unfinished one.
    progress : callable, optional
    attempts : int
        Per address.
    pause : float
        Before the second attempt, in s; doubled every time, at most 30 s.

    Raises
    ------
    ModelError
        No address gave the file; says why.
    """
    import requests

    target.parent.mkdir(parents=True, exist_ok=True)
    problems = []
    with requests.Session() as session:
        for url in urls:
            try:
                return _fetch_one(session, url, target, progress, attempts, pause)
            except Unavailable as error:
                problems.append(error.message)
    raise ModelError("; ".join(problems), GIVE_UP)


def _fetch_one(
    session: requests.Session, url: str, target: Path, progress: Progress | None, attempts: int, pause: float
) -> Fetched:
    import requests

    resumed = _left_over(url, target)
    for attempt in range(1, attempts + 1):
        try:
            _attempt(session, url, target, progress)
        except (
            _Interrupted,
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as e:
            if attempt == attempts:
                raise Unavailable(f"{url}: {_short(e)} ({attempts} attempts)") from e
            time.sleep(min(pause * 2 ** (attempt - 1), LONGEST_PAUSE))
        except requests.RequestException as error:
            raise Unavailable(f"{url}: {_short(error)}") from error
        except OSError as error:
            raise ModelError(
                f"cannot write {part_of(target)}: {error.strerror or error}", "free space, or set GRACE_CACHE"
            ) from error
        else:
            part = part_of(target)
            part.replace(target)
            forget_part(target)
            return Fetched(target, url, target.stat().st_size, file_sha256(target), resumed, attempt)
    raise AssertionError


def part_of(target: Path) -> Path:
    """Where the unfinished file is."""
    return target.with_name(target.name + ".part")


def _note_of(target: Path) -> Path:
    return target.with_name(target.name + ".part.json")


def forget_part(target: Path) -> None:
    """Remove an unfinished file."""
    for path in (part_of(target), _note_of(target)):
        with suppress(FileNotFoundError):
            path.unlink()


def _left_over(url: str, target: Path) -> int:
    """Bytes of an unfinished file of the same address that can be continued; anything else is removed."""
    part = part_of(target)
    with suppress(OSError, ValueError):
        note = json.loads(_note_of(target).read_text(encoding="utf-8"))
        if note["url"] == url and note["validator"] and part.is_file():
            return part.stat().st_size
    forget_part(target)
    return 0


def _attempt(session: requests.Session, url: str, target: Path, progress: Progress | None) -> None:
    """One request: append to the unfinished file until it is whole."""
    part, start = part_of(target), _left_over(url, target)
    headers = {"Accept-Encoding": "identity"}  # lengths and ranges count the bytes of the file itself
    if start:
        validator = json.loads(_note_of(target).read_text(encoding="utf-8"))["validator"]
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:  # nothing left to send, or another file by now: from the start
            forget_part(target)
            raise _Interrupted("the server refuses to continue")
        start = _check_answer(answer, url, start)
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdigit() else None
        validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        write_text_atomically(
            _note_of(target), json.dumps({"url": url, "validator": _strong(validator), "total": total})
        )
        done = start
        with part.open("ab" if start else "wb") as file:
            answer.raw.enforce_content_length = False  # what came before the line broke is kept; see below
            while piece := _read(answer):
                file.write(piece)
                done += len(piece)
                if progress is not None:
                    progress(done, total)
    if total is not None and done < total:
        raise _Interrupted(f"the connection broke after {done:,} of {total:,} bytes")
    if done == 0 or (total is not None and done > total):
        forget_part(target)
        raise Unavailable(f"{url}: {done:,} bytes came, {total or 'some'} were expected")


def _read(answer: requests.Response) -> bytes:
    import urllib3

    try:
        return bytes(answer.raw.read(PIECE, decode_content=False))
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _Interrupted("the connection broke") from error


def _strong(validator: str | None) -> str | None:
    """A weak ETag does not promise equal bytes: such a file is not continued."""
    return None if validator is None or validator.startswith("W/") else validator


def _check_answer(answer: requests.Response, url: str, start: int) -> int:
    """Where the data of this answer begin; raises unless it is the file."""
    code = answer.status_code
    if code in TRY_AGAIN:
        raise _Interrupted(f"the server answers {code} {answer.reason}")
    if code not in (200, 206):
        raise Unavailable(f"{url}: the server answers {code} {answer.reason}")
    if "html" in answer.headers.get("Content-Type", "").lower():
        raise Unavailable(f"{url}: gives a web page, not a file (a wrong address, or a login page on the way)")
    if code == 206 and start:
        wanted = f"bytes {start}-"
        if not answer.headers.get("Content-Range", "").startswith(wanted):
            raise Unavailable(f"{url}: the server continues at another place than asked")
        return start
    return 0


def _short(error: Exception) -> str:
    """One line without the nesting of urllib3."""
    import requests

    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not answer"
    if isinstance(error, requests.exceptions.SSLError):
        return "the certificate of the server is not trusted"
    if isinstance(error, requests.Timeout):
        return "the server does not answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    if isinstance(error, requests.ConnectionError):
        text = str(error)
        return "the connection broke" if "Connection broken" in text or "IncompleteRead" in text else "no connection"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
