"""All checks of labelled structures, in the order of the table that ``grace check`` prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gracecli.errors import UsageError
from gracecli.fit.check.consistency import check_consistency
from gracecli.fit.check.duplicates import check_duplicates
from gracecli.fit.check.elements import check_elements
from gracecli.fit.check.finding import Finding, worst
from gracecli.fit.check.geometry import check_distances
from gracecli.fit.check.labels import check_energies, check_forces, check_missing, check_zeroed
from gracecli.fit.check.records import Record, read_records
from gracecli.fit.check.zeros import check_zeros
from gracecli.fit.config import DataConfig

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Check:
    """Result of all checks.

    Attributes
    ----------
    findings : tuple of Finding
    structures : dict
        Number read, by split.
    atoms : int
    """

    findings: tuple[Finding, ...]
    structures: dict[str, int]
    atoms: int

    @property
    def level(self) -> str:
        """ok, warning or error: the gravest finding."""
        return worst(self.findings)


def check_data(data: DataConfig, say: Callable[[str], None] = lambda text: None) -> Check:
    """Read the sets of a fit and check them.

    Parameters
    ----------
    data : DataConfig
        Sets and keys of labels, as ``grace fit`` takes them; ``drop`` counts, all other labels are looked at.
    say : callable
        Told what is going on.

    Raises
    ------
    InputError
        A file that cannot be read.
    UsageError
        No data named.
    """
    if not data.train:
        raise UsageError("no data", "name files, store.h5:QUERY, or a fit.toml with [data] train")
    records: list[Record] = []
    refused: list[str] = []
    for split in SPLITS:
        say(f"reading {split}")
        found, bad = read_records(split, getattr(data, split), data)
        records += found
        refused += bad
    findings = check_missing(records, refused)
    stages: tuple[tuple[str, Callable[[list[Record]], list[Finding]]], ...] = (
        ("energies against forces and stresses", check_consistency),
        ("energy zeros", check_zeros),
        ("zeroed forces", check_zeroed),
        ("energies", check_energies),
        ("forces", check_forces),
        ("distances", check_distances),
        ("duplicates", check_duplicates),
        ("elements", check_elements),
    )
    for name, check in stages:
        say(name)
        findings += check(records)
    counts = {split: sum(record.split == split for record in records) for split in SPLITS}
    return Check(tuple(findings), counts, sum(len(record.atoms) for record in records))
