"""``ase.io.read("store.h5@3")`` and ``ase.io.write("store.h5", frames)``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ase import Atoms

from gracecli.store.store import Store


def read_gracecli_store(file: str | Path, index: int | slice = -1) -> Iterator[Atoms]:
    """Structures of a store."""
    with Store(file) as store:
        numbers = range(len(store))[index]
        for number in [numbers] if isinstance(numbers, int) else numbers:
            yield store.atoms(number)


def write_gracecli_store(file: str | Path, images: Sequence[Atoms]) -> None:
    """Append structures to a store; a missing one is made."""
    with Store(file, "a") as store:
        store.append(images)
