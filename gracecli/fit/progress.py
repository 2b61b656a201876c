"""What a user sees of a running fit, on stderr: a bar with the time left, or one line per epoch when nobody watches."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """Bar on a terminal, lines elsewhere.

    Parameters
    ----------
    quiet : bool
        Say nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._start = time.monotonic()
        self._start_progress: float | None = None

    def message(self, text: str) -> None:
        """One line."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def begin(self, steps: int, total: int) -> None:
        """Training starts: ``steps`` done of about ``total``."""
        if sys.stderr.isatty() and not self._quiet:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=steps, desc="fit", unit="step", file=sys.stderr, dynamic_ncols=True, smoothing=0.05
            )

    def step(self, progress: float, epoch: int, loss: float) -> None:
        """Count one optimizer step."""
        if self._start_progress is None:  # the first step compiles, so time is counted from its end
            self._start, self._start_progress = time.monotonic(), progress
        if self._bar is not None:
            self._bar.set_postfix_str(f"epoch {epoch + 1}, loss {loss:.3e}", refresh=False)
            self._bar.update(1)

    def count(self, done: int, total: int, unit: str) -> None:
        """So many of a known number are done, where nothing else is known."""
        if self._quiet or not sys.stderr.isatty():
            return
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=total, desc="fit", unit=unit, file=sys.stderr, dynamic_ncols=True)
        self._bar.update(done - self._bar.n)

    def epoch(self, row: dict[str, Any], epochs: int, progress: float) -> None:
        """One epoch has ended."""
        parts = [f"epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.3e}"]
        if row.get("valid_loss") is not None:
            parts.append(
                f"valid {row['valid_loss']:.3e}: E {_number(row['valid_energy_mae'])} meV/atom, "
                f"F {_number(row['valid_forces_mae'])} meV/Å, S {_number(row['valid_stress_mae'])} GPa"
            )
        parts += [f"lr {row['learning_rate']:.1e}", f"{row['seconds']:.0f} s", f"left {self._left(progress)}"]
        if self._bar is None or row.get("valid_loss") is not None:
            self.message("  ".join(parts))

    def close(self) -> None:
        """Training has ended."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _left(self, progress: float) -> str:
        gained = progress - (self._start_progress or 0.0)
        if gained <= 0:
            return "?"
        seconds = (time.monotonic() - self._start) / gained * (1.0 - progress)
        return time_text(seconds)


def time_text(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3g}"
