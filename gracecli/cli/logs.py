"""What the libraries below log, on stderr. Imported when a command runs, because logging is slow to import."""

from __future__ import annotations

import logging

import click

_PREFIXES = {logging.WARNING: "grace: warning: ", logging.ERROR: "grace: error: "}


class EchoHandler(logging.Handler):
    """Writes to whatever ``sys.stderr`` is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message, warnings and errors marked as such."""
        click.echo(_PREFIXES.get(record.levelno, "") + self.format(record), err=True)


def configure_logging(level: int) -> None:
    """Send the ``gracecli`` loggers to stderr: warnings; more under ``-v``; errors alone under ``-q``.

    Parameters
    ----------
    level : int
        As :func:`gracecli.cli.output.verbosity` gives it.
    """
    logger = logging.getLogger("gracecli")
    if not any(isinstance(handler, EchoHandler) for handler in logger.handlers):
        logger.addHandler(EchoHandler())
    levels = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}
    logger.setLevel(levels.get(max(level, -1), logging.DEBUG))
