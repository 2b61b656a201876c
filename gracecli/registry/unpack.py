"""Unpack an archive that comes from elsewhere: nothing leaves the folder, and nothing fills the disk.

Refused, before a byte is written: absolute paths, ``..``, links, devices, two members of one name, more members or more
bytes than a model can have.
"""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path, PurePosixPath

from gracecli.errors import ModelError

MAX_MEMBERS = 2_000
MAX_BYTES = 8 << 30
MAX_RATIO = 60  # weights hardly compress; a bomb does
FREE_BYTES = 64 << 20  # below this the ratio does not matter


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a ``tar`` archive (compressed or not) into an empty folder.

    Returns
    -------
    Path
        The only top-level folder of the archive, or ``folder`` itself where it has several members.

    Raises
    ------
    ModelError
        Not an archive, a damaged one, or one that does what archives of models do not do; names the member.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty")
    hint = "nothing was kept; the address or the mirror may be wrong"
    try:
        with tarfile.open(archive, "r:*") as tar:
            members = _checked(tar, archive)
            for member in members:
                member.mode = 0o755 if member.isdir() else 0o644
                tar.extract(member, folder, set_attrs=False, filter="data")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ModelError(f"{archive.name}: not a complete archive ({error})", hint) from error
    except OSError as error:
        if error.errno is None:  # gzip and lzma say so about data
            raise ModelError(f"{archive.name}: not a complete archive ({error})", hint) from error
        raise ModelError(
            f"{archive.name}: cannot be unpacked: {error.strerror}", "free space, or set GRACE_CACHE"
        ) from error
    tops = {PurePosixPath(member.name).parts[0] for member in members}
    top = folder / tops.pop() if len(tops) == 1 else folder
    return top if top.is_dir() else folder


def _checked(tar: tarfile.TarFile, archive: Path) -> list[tarfile.TarInfo]:
    """All members, none of which does harm."""
    limit = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * archive.stat().st_size))
    members: list[tarfile.TarInfo] = []
    names: set[PurePosixPath] = set()
    total = 0
    for member in tar:  # headers are read one by one: a bomb is seen before it is unpacked
        name = PurePosixPath(member.name)
        total += member.size
        problem = None
        if name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in name.parts[:1]:
            problem = "leaves the folder"
        elif not name.parts:
            continue  # "./" itself
        elif not (member.isreg() or member.isdir()):
            problem = "is a link or a device"
        elif name in names and not member.isdir():
            problem = "occurs twice"
        elif len(members) >= MAX_MEMBERS:
            problem = f"is one of more than {MAX_MEMBERS} members"
        elif total > limit:
            problem = f"makes the content larger than {limit / 1e6:,.0f} MB"
        if problem:
            raise ModelError(f"{archive.name}: refused: {member.name!r} {problem}", "do not trust this source")
        names.add(name)
        members.append(member)
    if not members:
        raise ModelError(f"{archive.name}: an empty archive", "the address or the mirror may be wrong")
    return members
