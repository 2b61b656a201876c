"""Settings of a fit from TOML, strictly.

An unknown key is an error that names the nearest known one. Relative paths resolve against ``[data] root`` where given,
else against the folder of the file; ``~`` and environment variables are expanded.
"""

from __future__ import annotations

import dataclasses
import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gracecli.errors import InputError, UsageError
from gracecli.fit.config import FitConfig, SetConfig
from gracecli.fit.config_check import check
from gracecli.names import suggestion


def load_config(path: str | Path, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> FitConfig:
    """Settings from a TOML file; ``overrides`` (section -> key -> value) win over it.

    Another preset than the file's comes without the file's ``model.overrides``.

    Raises
    ------
    InputError
        The file cannot be read or is not TOML.
    UsageError
        Unknown key, wrong type, or a value out of range.
    """
    import tomllib

    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise InputError(f"cannot read {path}: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    return make_config(content, overrides, folder=path.resolve().parent, where=str(path))


def make_config(
    content: Mapping[str, Any],
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    folder: Path | None = None,
    where: str = "settings",
) -> FitConfig:
    """Settings from plain values, checked; paths become absolute."""
    merged: dict[str, Any] = {key: dict(v) if isinstance(v, Mapping) else v for key, v in content.items()}
    config: FitConfig = _build(FitConfig, merged, where)
    for section, entries in (overrides or {}).items():
        added = {key: value for key, value in entries.items() if value is not None}
        base = getattr(config, section)
        built = _build(type(base), {key: _plain(value) for key, value in added.items()}, "the command line")
        changes = {key.replace("-", "_"): getattr(built, key.replace("-", "_")) for key in added}
        if section == "model" and changes.get("preset", config.model.preset) != config.model.preset:
            changes.setdefault("overrides", built.overrides)  # sizes belong to the preset they were chosen for
        config = dataclasses.replace(config, **{section: dataclasses.replace(base, **changes)})
    config = _resolved(config, folder or Path.cwd())
    check(config, where)
    return config


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _build(cls: type, content: Any, where: str) -> Any:
    """A dataclass from a mapping, recursively, with every key and type checked."""
    if cls is SetConfig and isinstance(content, str):
        content = {"path": content}
    if not isinstance(content, Mapping):
        raise UsageError(f"{where}: expected a table of keys, found {content!r}")
    annotations = typing.get_type_hints(cls)
    values = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in annotations:
            raise UsageError(f"unknown key {key!r} in {where}", suggestion(key, annotations))
        values[name] = _convert(value, annotations[name], _below(where, key))
    try:
        return cls(**values)
    except TypeError as error:
        missing = re.findall(r"'(\w+)'", str(error))
        raise UsageError(f"{where}: missing {', '.join(missing) or error}") from error


def _below(where: str, key: str) -> str:
    return f"{where} [{key}]" if "[" not in where else f"{where[:-1]}.{key}]"


def _convert(value: Any, annotation: Any, where: str) -> Any:
    origin = typing.get_origin(annotation)
    if origin is types.UnionType:
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return None if value is None else _convert(value, kinds[0], where)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _build(annotation, value, where)
    if origin is tuple:
        item = typing.get_args(annotation)[0]
        entries = value if isinstance(value, list) else [value]
        return tuple(_convert(entry, item, where) for entry in entries)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: expected a table, found {value!r}")
        item = typing.get_args(annotation)[1]
        return {str(key): value[key] if item is Any else _convert(value[key], item, where) for key in value}
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, annotation) or (annotation is not bool and isinstance(value, bool)):
        raise UsageError(f"{where}: expected {annotation.__name__}, found {value!r}")
    return value


def _resolved(config: FitConfig, folder: Path) -> FitConfig:
    """With absolute paths of all data, new and old, from one root."""
    data, tuning = config.data, config.tuning
    root = folder / expand(data.root or "")

    def sets(entries: tuple[SetConfig, ...]) -> tuple[SetConfig, ...]:
        return tuple(dataclasses.replace(entry, path=str(root / expand(entry.path))) for entry in entries)

    structures = tuple(str(root / expand(path)) for path in tuning.replay_structures)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, root=None, train=sets(data.train), valid=sets(data.valid), test=sets(data.test)),
        tuning=dataclasses.replace(tuning, replay=sets(tuning.replay), replay_structures=structures),
    )


def expand(path: str) -> Path:
    """``~`` and environment variables filled in, with defaults: ``${NAME:-folder}``.

    Raises
    ------
    UsageError
        A variable without value.
    """
    path = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: os.environ.get(m[1]) or m[2], path)
    path = os.path.expandvars(path)
    unset = re.search(r"\$\{?(\w+)\}?", path)
    if unset:
        raise UsageError(f"path {path!r}: the environment variable {unset[1]} is not set")
    return Path(path).expanduser()
