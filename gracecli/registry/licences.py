"""Licences of models that are not ours: shown once, accepted once, remembered beside the library."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from gracecli.errors import ModelError
from gracecli.files import write_text_atomically
from gracecli.quiet import cache_root
from gracecli.registry.lock import locked

FREE = ("MIT", "BSD", "Apache", "CC0", "CC-BY-4.0", "CC BY 4.0")
"""Licences that ask for nothing before use begin with one of these."""


def accepted_path() -> Path:
    """File of accepted licences."""
    return cache_root() / "licences.json"


def accepted() -> dict[str, str]:
    """Licence text -> when it was accepted."""
    try:
        content = json.loads(accepted_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in content.items()} if isinstance(content, dict) else {}


def require_licence(name: str, licence: str, ask: Callable[[str], bool] | None, *, accept: bool = False) -> None:
    """Return when the licence is accepted, now or before.

    Parameters
    ----------
    name : str
        Model.
    licence : str
    ask : callable or None
        Puts the question to the user; None where there is nobody to ask.
    accept : bool
        The user has accepted in advance.

    Raises
    ------
    ModelError
        Not accepted.
    """
    if licence.startswith(FREE) or licence in accepted():
        return
    if not accept and (ask is None or not ask(f"{name} is licensed under the {licence}. Do you accept this licence?")):
        raise ModelError(
            f"{name} is licensed under the {licence}, which was not accepted", "give --accept-licence if you accept it"
        )
    path = accepted_path()
    with locked(path):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_text_atomically(path, json.dumps({**accepted(), licence: now}, indent=1) + "\n")
