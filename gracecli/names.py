"""Nearest names: every "no such X" says what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable


def nearest_names(name: str, candidates: Iterable[str], limit: int = 3) -> list[str]:
    """Candidates that look like ``name``, best first.

    Case and the difference between ``-`` and ``_`` are ignored; a candidate that begins with ``name`` counts as near.

    Parameters
    ----------
    name : str
        What was given.
    candidates : iterable of str
        What exists.
    limit : int
        Most names returned.
    """
    import difflib  # only when something is already wrong

    folded: dict[str, str] = {}
    for candidate in candidates:
        folded.setdefault(_fold(candidate), candidate)
    wanted = _fold(name)
    matches = difflib.get_close_matches(wanted, folded, n=limit, cutoff=0.6)
    matches += sorted(key for key in folded if wanted and key.startswith(wanted) and key not in matches)
    return [folded[key] for key in matches[:limit]]


def suggestion(name: str, candidates: Iterable[str], otherwise: str | None = None) -> str | None:
    """A hint such as ``did you mean fire or fire2?``; ``otherwise`` when nothing is near.

    Without ``otherwise`` the hint lists all candidates when they are few.
    """
    known = sorted(candidates)
    near = nearest_names(name, known)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if otherwise is None and 0 < len(known) <= 12:
        return f"known: {', '.join(known)}"
    return otherwise


def _fold(name: str) -> str:
    return name.lower().replace("_", "-")
