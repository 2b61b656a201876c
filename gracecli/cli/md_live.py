"""The line that shows how a run goes, on a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from gracecli.cli.output import verbosity

if TYPE_CHECKING:
    from gracecli.run.md_log import Sample
    from gracecli.run.md_settings import MdSettings

PERIOD = 0.2  # s between two looks of the line
LINES = 10.0  # s between two lines under -v where there is no terminal


class LiveLine:
    """Shows rows of the log; silent without a terminal (under -v: now and then a line)."""

    def __init__(self, settings: MdSettings, step: int) -> None:
        self.settings = settings
        self.first = step
        self.started = time.monotonic()
        self._live = sys.stderr.isatty() and verbosity() >= 0
        self._period = PERIOD if self._live else LINES if verbosity() >= 1 else float("inf")
        self._last = 0.0
        self._shown = False

    def __call__(self, sample: Sample) -> None:
        """Show a row, if the last one is old enough."""
        now = time.monotonic()
        if now - self._last < self._period:
            return
        self._last = now
        text = self.text(sample, now - self.started)
        if self._live:
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)
            self._shown = True
        else:
            click.echo(text, err=True)

    def text(self, sample: Sample, seconds: float) -> str:
        """The line."""
        settings = self.settings
        done = sample.step - self.first
        parts = [
            f"step {sample.step}/{settings.steps}",
            f"{sample.time / 1e3:.2f} ps",
            f"T {sample.temperature:.0f} K",
            f"E {sample.total_energy:.4f} eV",
        ]
        if sample.pressure == sample.pressure:
            parts.append(f"P {sample.pressure:.2f} GPa")
        if done > 0 and seconds > 0:
            parts.append(f"{86400.0 * done * settings.timestep * 1e-6 / seconds:.2f} ns/day")
            parts.append(f"{_clock((settings.steps - sample.step) * seconds / done)} left")
        return "  ".join(parts)

    def close(self) -> None:
        """Clear the line."""
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
