"""Options and records that commands over many structures share: batches, processes, clusters, the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gracecli.errors import UsageError

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.store.results import Calculation, Outcome, Recorded

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def spread_options(function: Decorated) -> Decorated:
    """``--batch``, ``--jobs``, ``--dask``."""
    for option in (
        click.option(
            "--dask", metavar="ADDRESS", help="Work on a Dask cluster (tcp://host:8786); needs gracecli[dask]."
        ),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Processes on this machine; they share its threads.",
        ),
        click.option(
            "--batch",
            default="auto",
            show_default=True,
            metavar="auto|off|N",
            callback=_batch,
            help="Structures in work at once: as many as memory allows, one after the other, or at most N.",
        ),
    ):
        function = option(function)
    return function


def store_options(function: Decorated) -> Decorated:
    """``--store``, ``--rerun``."""
    function = click.option("--rerun", is_flag=True, help="Compute also what the store has.")(function)
    return click.option(
        "--store",
        type=click.Path(path_type=Path),
        metavar="FILE.h5",
        help="Record results here; an identical calculation that it holds is not repeated.",
    )(function)


def _batch(context: click.Context, parameter: click.Parameter, value: str) -> str:
    text = str(value).lower()
    if text not in ("auto", "off") and not (text.isdigit() and int(text) > 0):
        raise click.BadParameter(f"{value!r} is neither auto, off nor a positive number", context, parameter)
    return text


def wanted_structures(batch: str) -> int | None:
    """Structures at once that ``--batch`` asks for; None is automatic."""
    return int(batch) if batch.isdigit() else 1 if batch == "off" else None


@dataclass
class Memory:
    """The store of a command, or none.

    Parameters
    ----------
    path : Path or None
    rerun : bool
        Do not answer from it.
    """

    path: Path | None
    rerun: bool
    _store: Any = None
    _recorder: Any = None
    ends_with: int = field(default=0)

    def __post_init__(self) -> None:
        if self.rerun and self.path is None:
            raise UsageError("--rerun has no meaning without --store")

    @contextmanager
    def open(self) -> Iterator[Memory]:
        """Open the store for the time of the run; it is closed on every way out."""
        if self.path is None:
            yield self
            return
        from gracecli.store.store import Store

        with Store(self.path, "a") as self._store, self._store.recording() as self._recorder:
            yield self
            self._recorder.end_with(self.ends_with)

    def find(self, calculation: Calculation, atoms: Atoms) -> Recorded | None:
        """A finished result of the same calculation."""
        if self._store is None or self.rerun:
            return None
        found: Recorded | None = self._store.find(calculation, atoms)
        return found

    def add(self, outcome: Outcome) -> None:
        """Record a result (committed in groups)."""
        if self._recorder is not None:
            self._recorder.add(outcome)
