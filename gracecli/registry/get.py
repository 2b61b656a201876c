"""Bring a catalogued model into the library: licence, download, unpack, convert, pin."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gracecli.errors import InputError, ModelError
from gracecli.quiet import cache_root
from gracecli.registry import download, lock
from gracecli.registry.catalog import Published, all_models, find_published
from gracecli.registry.library import Added, add_model
from gracecli.registry.licences import require_licence
from gracecli.registry.resolve import SUFFIX, library_directory
from gracecli.registry.summary import Summary, summarise
from gracecli.registry.unpack import unpack

CARRY = "on a machine with internet `grace models bundle NAME`, here `grace models unbundle FILE`; or name a --mirror"


@dataclass(frozen=True)
class Got:
    """What :func:`get_model` did.

    Attributes
    ----------
    summary : Summary
    fetched : download.Fetched or None
        None where the model was here already.
    notes : tuple of str
    """

    summary: Summary
    fetched: download.Fetched | None
    notes: tuple[str, ...] = ()


def is_offline() -> bool:
    """Whether ``GRACE_OFFLINE`` forbids the network."""
    return os.environ.get("GRACE_OFFLINE", "").lower() not in ("", "0", "no", "off", "false")


def mirrors_of(given: Sequence[str] = ()) -> tuple[str, ...]:
    """Mirrors: those given, then those of ``GRACE_MIRRORS`` (separated by spaces)."""
    return (*given, *os.environ.get("GRACE_MIRRORS", "").split())


def get_model(
    name: str,
    *,
    force: bool = False,
    offline: bool = False,
    mirrors: Sequence[str] = (),
    accept_licence: bool = False,
    ask: Callable[[str], bool] | None = None,
    progress: download.Progress | None = None,
    attempts: int = download.ATTEMPTS,
    pause: float = download.FIRST_PAUSE,
) -> Got:
    """Fetch a model of the catalog and convert it; a model that is here already is not fetched again.

    Two processes that ask for one model at once fetch it once.

    Parameters
    ----------
    name : str
        Name or alias in a catalog.
    force : bool
        Fetch again and replace, unless the content contradicts ``grace.lock``.
    offline : bool
        Use no network (``GRACE_OFFLINE`` does the same).
    mirrors : sequence of str
        Addresses that replace the base of the catalog's; tried first.
    accept_licence, ask
        See :func:`~gracecli.registry.licences.require_licence`.
    progress, attempts, pause
        See :func:`~gracecli.registry.download.fetch`.

    Raises
    ------
    ModelError
        Not in a catalog, licence not accepted, not to be fetched, damaged, or other content than recorded.
    """
    entry = _entry(name)
    target = library_directory() / f"{entry.name}{SUFFIX}"
    with _one_at_a_time(entry.name):
        if target.is_file() and not force:
            return Got(_known(target, entry), None)
        if entry.checkpoint is None:
            raise ModelError(f"the catalog {entry.catalog!r} gives no address for {entry.name}", CARRY)
        if offline or is_offline():
            raise ModelError(f"{entry.name} is not on this machine, and the network is not to be used", CARRY)
        require_licence(entry.name, entry.licence, ask, accept=accept_licence)
        archive = _downloads() / f"{entry.name}-{Path(entry.checkpoint).name}"
        urls = [f"{base.rstrip('/')}/{entry.checkpoint.lstrip('/')}" for base in (*mirrors_of(mirrors), entry.base)]
        fetched = download.fetch(urls, archive, progress, attempts=attempts, pause=pause)
        try:
            _check_archive(entry, fetched)
            added = _convert(entry, fetched, target.is_file())
        finally:
            archive.unlink(missing_ok=True)
        return Got(added.summary, fetched, added.notes)


def _entry(name: str) -> Published:
    entry = find_published(name)
    if entry is None:
        from gracecli.names import suggestion

        every = [known for model in all_models().values() for known in model.names]
        raise ModelError(
            f"no catalog has a model called {name!r}", suggestion(name, every, "`grace models list --all`")
        )
    return entry


def _known(target: Path, entry: Published) -> Summary:
    from gracecli.model.modelfile import load_model

    model = load_model(target)
    lock.check_pin(entry.name, model.sha256())
    return summarise(model, target)


def _downloads() -> Path:
    folder = cache_root() / "downloads"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make {folder}: {error.strerror}", "set GRACE_CACHE to a folder you can write to"
        ) from error
    return folder


@contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    with lock.locked(_downloads() / name):
        yield


def _check_archive(entry: Published, fetched: download.Fetched) -> None:
    """The archive is the one that the catalog, or the first use, recorded."""
    pin = lock.pins().get(entry.name)
    for wanted, source in (
        (entry.sha256, f"the catalog {entry.catalog!r}"),
        (pin and pin.archive_sha256, str(lock.lock_path())),
    ):
        if wanted and wanted != fetched.sha256:
            raise ModelError(
                f"{fetched.url}: not the archive that {source} records "
                f"(sha256 {fetched.sha256[:12]}..., recorded {wanted[:12]}...)",
                "nothing was kept; if the publishers replaced the model, `grace models rm` forgets the old one",
            )


def _convert(entry: Published, fetched: download.Fetched, replace_old: bool) -> Added:
    archive = fetched.path
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".unpack-") as folder:
        if archive.suffix == SUFFIX:
            source = archive
        else:
            source = unpack(archive, Path(folder) / "archive")
            own = sorted(source.glob(f"*{SUFFIX}"))
            if len(own) == 1:
                source = own[0]
            elif not (source / "model.yaml").is_file():
                raise ModelError(
                    f"{archive.name}: no model.yaml in the archive", "the address or the mirror may be wrong"
                )
            if source.is_dir() and source.name != entry.name:
                source = source.rename(source.with_name(entry.name))  # provenance and messages speak of the model
        try:
            return add_model(
                source, entry.name, force=replace_old, enforce=True, url=fetched.url, archive_sha256=fetched.sha256
            )
        except ModelError as error:
            text = error.message.replace(str(folder), archive.name)
            raise ModelError(f"{entry.name}: what was fetched is no usable model: {text}", error.hint) from error
