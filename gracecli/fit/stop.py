"""Why a fit ends before its last epoch: a time limit or a signal."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from typing import Any

from gracecli.errors import GraceError


class TrainingInterrupted(GraceError):
    """A signal ended the fit; the checkpoint is saved."""

    exit_code = 130


@dataclass
class Stop:
    """Reasons to end before the last epoch."""

    deadline: float | None
    signal_number: int | None = None
    old_handlers: dict[int, Any] = field(default_factory=dict)

    def install(self) -> None:
        """Let SIGINT and SIGTERM end the run after the present step."""
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.old_handlers[number] = signal.signal(number, self._receive)
            except ValueError:  # not the main thread: signals are somebody else's business
                return

    def restore(self) -> None:
        """Put the old handlers back."""
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)
        self.old_handlers.clear()

    def _receive(self, number: int, frame: Any) -> None:
        if self.signal_number is not None:  # asked twice: leave at once, the last checkpoint counts
            raise KeyboardInterrupt
        self.signal_number = number

    @property
    def wish(self) -> int:
        """0: go on; 1: the time is over; 2: a signal came."""
        if self.signal_number is not None:
            return 2
        return int(self.deadline is not None and time.monotonic() > self.deadline)
