"""Splitting into training, validation and test sets: reproducible, stratified by composition, leak-free."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from math import floor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import InputError, UsageError
from gracecli.store.query import counts
from gracecli.store.transfer import members

if TYPE_CHECKING:
    from gracecli.store.store import Store
    from gracecli.store.writer import Batch

Group = NDArray[np.int64]


def split(
    store: Store, fractions: Mapping[str, float], *, seed: int = 0, query: str = "", force: bool = False
) -> dict[str, Group]:
    """Put every selected structure into one of several sets.

    Structures with equal geometry (uid) stay together, whatever their labels. Within each composition the sets get
    their shares (rounded down); what is left over goes where most is missing in the whole. The order is that of
    sha256(seed, uid): it depends on neither the order nor the number of the other structures.

    Parameters
    ----------
    store : Store
        Open for appending.
    fractions : mapping
        Name of a set -> its share; normalised to one.
    seed : int
    query : str
        Which structures.
    force : bool
        Structures that are in these sets leave them first; otherwise they are an error.

    Returns
    -------
    dict
        Name -> numbers of its structures, ascending.
    """
    from gracecli.store.runs import END, START, Run, event_batch

    if len(fractions) < 2 or min(fractions.values()) <= 0:
        raise UsageError("a split needs at least two sets, each with a positive share")
    chosen = store.query(query)
    if not len(chosen):
        raise InputError(f"{store.path}: no structure to split")
    inside = {name: store.in_set(name) for name in fractions if name in store.set_names()}
    taken = {name: int(mask.sum()) for name, mask in inside.items() if mask.any()}
    if taken and not force:
        found = ", ".join(f"{name} ({count})" for name, count in taken.items())
        raise InputError(f"{store.path} has structures in {found}", "--force splits anew")
    result = assign(_groups(store, chosen, seed), fractions)
    run = Run.now(seed=seed)
    with store.writer() as writer:
        if writer.commit.number != store.commit.number:
            raise InputError(f"{store.path} was written meanwhile", "run it again")
        batch: Batch = {}
        parts: list[Batch] = []
        number = writer.commit.counts["run"] + 1
        fresh = [name for name in fractions if name not in store.set_names()]
        names = [*store.set_names(), *fresh]
        for name, rows in result.items():
            code = names.index(name) + 1
            mask = inside.get(name, np.zeros(len(store), bool)).copy()
            wanted = np.zeros(len(store), bool)
            wanted[rows] = True
            parts.append(members(np.flatnonzero(mask & ~wanted), code, 0, number))
            parts.append(members(np.flatnonzero(wanted & ~mask), code, 1, number))
        batch = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        if fresh:
            encoded = [np.frombuffer(name.encode().ljust(48, b"\0"), "u1") for name in fresh]
            batch["set_names/name"] = np.array(encoded)
        start = event_batch(run, START)
        from dataclasses import replace
        from time import time

        end = event_batch(replace(run, end=time(), exit_code=0), END)
        batch |= {key: np.concatenate([start[key], end[key]]) for key in start}
        batch["runs/offset"] = np.cumsum(batch["runs/offset"], dtype="<u8")
        writer.append(batch)
    store.refresh()
    return result


def _groups(store: Store, chosen: Group, seed: int) -> list[list[Group]]:
    """Structures of equal geometry, by composition, in the order of the seed."""
    table = counts(store)[chosen]
    divisor = np.maximum(np.gcd.reduce(table, axis=1), 1)
    _, kinds = np.unique(table // divisor[:, None], axis=0, return_inverse=True)
    together: dict[tuple[int, bytes], list[int]] = {}
    uids = store.column("structure/uid")
    for number, kind in zip(chosen.tolist(), np.ravel(kinds).tolist(), strict=True):
        together.setdefault((kind, uids[number].tobytes()), []).append(number)
    salt = str(seed).encode()
    strata: dict[int, list[tuple[bytes, Group]]] = {}
    for (kind, uid), rows in together.items():
        strata.setdefault(kind, []).append((hashlib.sha256(salt + b":" + uid).digest(), np.array(rows)))
    return [[rows for _, rows in sorted(groups, key=lambda item: item[0])] for groups in strata.values()]


def assign(strata: list[list[Group]], fractions: Mapping[str, float]) -> dict[str, Group]:
    """Sets of groups that stay together."""
    names = list(fractions)
    share = np.array([fractions[name] for name in names]) / sum(fractions.values())
    found: dict[str, list[Group]] = {name: [] for name in names}
    have = np.zeros(len(names))
    left: list[Group] = []
    for groups in strata:
        quota = np.array([floor(part * sum(map(len, groups)) + 1e-9) for part in share], float)
        for rows in groups:
            room = np.where(quota >= len(rows), quota / share, -1.0)
            best = int(room.argmax())
            if room[best] < 0:
                left.append(rows)
                continue
            quota[best] -= len(rows)
            have[best] += len(rows)
            found[names[best]].append(rows)
    total = sum(len(rows) for groups in strata for rows in groups)
    for rows in left:
        best = int((share * total - have).argmax())
        have[best] += len(rows)
        found[names[best]].append(rows)
    empty = np.zeros(0, np.int64)
    return {name: np.sort(np.concatenate([empty, *rows])) for name, rows in found.items()}
