"""Errors that know their exit code and what to try.

Every error a user can cause is a :class:`GraceError`: one line that says what went wrong, where, and what to try.
The command line prints it and exits with ``exit_code`` (the table in README.md); nothing else decides exit codes.
"""

from __future__ import annotations


class GraceError(Exception):
    """Base of all errors with a remedy.

    Parameters
    ----------
    message : str
        What is wrong and where, one line.
    hint : str, optional
        What to try, one line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} ({self.hint})"


class VerificationError(GraceError):
    """What was made does not give the numbers of what it was made from; it was not handed over."""

    exit_code = 1


class UsageError(GraceError):
    """Options that contradict each other or a bad configuration file."""

    exit_code = 2


class NotConvergedError(GraceError):
    """A run stopped before its convergence criterion; results were written and flagged."""

    exit_code = 3


class InputError(GraceError):
    """Structure, data or output path that cannot be used."""

    exit_code = 4


class PartialFailureError(GraceError):
    """Some of many structures failed."""

    exit_code = 5


class ModelError(GraceError):
    """Model missing, corrupt, unsupported, or not licensed for this use."""

    exit_code = 6


class StoreError(GraceError):
    """Store locked or corrupt."""

    exit_code = 7


class MemoryLimitError(GraceError):
    """Out of memory after back-off."""

    exit_code = 8


class PhysicsError(GraceError):
    """The physics went wrong: exploded, extrapolating, unstable under ``--strict``."""

    exit_code = 9


class PluginError(GraceError):
    """A plugin failed."""

    exit_code = 20
