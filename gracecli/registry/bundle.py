"""Carry models to a machine without internet: one file with models, licences and hashes."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from gracecli.errors import ModelError, UsageError
from gracecli.files import write_atomically
from gracecli.registry import lock
from gracecli.registry.library import Added, add_model, checked_name
from gracecli.registry.licences import require_licence
from gracecli.registry.resolve import SUFFIX, bundled_models, library_models, resolve_model
from gracecli.registry.summary import summary_of
from gracecli.registry.unpack import unpack

MANIFEST = "manifest.json"
SCHEMA, VERSION = "gracecli.bundle", 1


def bundle(names: Sequence[str], target: Path, *, force: bool = False) -> list[str]:
    """Write models of the library into one file.

    Returns
    -------
    list of str
        Names as the library has them.

    Raises
    ------
    UsageError
        A model that every installation has, or a path.
    ModelError, InputError
        No such model; the file exists or cannot be written.
    """
    chosen: dict[str, Path] = {}
    known = library_models()
    for name in names:
        path = resolve_model(name)
        if path in bundled_models().values():
            raise UsageError(f"{name!r} comes with gracecli", "it needs no bundle")
        if known.get(path.stem) != path:
            raise UsageError(f"{name}: not in the library", "`grace models add` it first")
        chosen[path.stem] = path
    pins = lock.pins()
    entries = {}
    for name, path in chosen.items():
        summary = summary_of(path)
        pin = pins.get(name)
        entries[name] = {
            "file": path.name,
            "sha256": summary.sha256,
            "licence": summary.licence or "",
            "url": pin.url if pin else None,
            "archive_sha256": pin.archive_sha256 if pin else None,
        }
    manifest = json.dumps({"schema": SCHEMA, "schema_version": VERSION, "models": entries}, indent=1).encode()

    def write(temporary: Path) -> None:
        with tarfile.open(temporary, "w") as tar:
            header = tarfile.TarInfo(MANIFEST)
            header.size = len(manifest)
            tar.addfile(header, io.BytesIO(manifest))
            for path in chosen.values():
                tar.add(path, path.name, recursive=False)

    write_atomically(target, write, force=force)
    return list(chosen)


def unbundle(
    source: Path, *, force: bool = False, accept_licence: bool = False, ask: Callable[[str], bool] | None = None
) -> list[Added]:
    """Put all models of a bundle into the library; nothing is taken from one that is damaged.

    Raises
    ------
    ModelError
        Not a bundle, other content than its manifest says, a licence that is not accepted.
    InputError
        A model of that name is here (without ``force``).
    """
    if not source.is_file():
        raise ModelError(f"{source}: no such file", "`grace models bundle NAME` writes one")
    with tempfile.TemporaryDirectory(prefix="grace-unbundle-") as scratch:
        folder = unpack(source, Path(scratch) / "bundle")
        entries = _manifest(folder, source)
        for name, entry in entries.items():
            checked_name(name)
            file = folder / Path(str(entry["file"])).name
            if file.suffix != SUFFIX or not file.is_file() or summary_of(file).sha256 != entry["sha256"]:
                raise ModelError(
                    f"{source}: model {name!r} is missing or not what the manifest says", "carry it over again"
                )
            require_licence(name, entry["licence"] or "not stated", ask, accept=accept_licence or not entry["licence"])
        added = []
        for name, entry in entries.items():
            file = folder / Path(str(entry["file"])).name
            origin = {"url": entry.get("url"), "archive_sha256": entry.get("archive_sha256")}
            added.append(add_model(file, name, force=force, enforce=True, **origin))
    return added


def _manifest(folder: Path, source: Path) -> dict[str, dict[str, str]]:
    try:
        document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        if document["schema_version"] > VERSION:
            raise ModelError(f"{source}: written by a newer gracecli", "upgrade gracecli")
        return dict(document["models"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{source}: not a bundle of models ({error})", "`grace models bundle NAME` writes one"
        ) from error
