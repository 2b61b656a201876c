"""Further workers on this machine: started by the chief, watched by it, and never left behind.

A worker receives its task (settings, cluster) through its standard input, which stays open: its end tells the worker
that the chief is gone. What it writes goes to a temporary file; the chief repeats the reason of a worker that fails.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import Any

from gracecli.fit.config import FitConfig
from gracecli.fit.workers.cluster import Cluster
from gracecli.fit.workers.team import WorkerLostError

ORDERLY = (0, 3, 130)
"""Exit codes of a worker that ended because the fit did."""
GRACE = 30.0
"""Seconds that the chief has to end by itself when a worker is lost."""
LAST_WORDS = 2.0
"""Seconds in which the reason of a lost connection shows."""


@dataclass(frozen=True)
class Task:
    """What a worker is told."""

    config: FitConfig
    cluster: Cluster
    resume: bool


class LocalWorkers:
    """The other workers of a cluster on this machine; a context manager that ends them.

    Parameters
    ----------
    task : Task
        Of the chief.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._outputs: dict[int, Any] = {}
        self._lost: str | None = None
        self._closing = threading.Event()

    def __enter__(self) -> LocalWorkers:
        cluster = self._task.cluster
        for rank in range(1, cluster.size):
            output = tempfile.TemporaryFile()  # read after the process has ended
            process = subprocess.Popen(
                [sys.executable, "-m", "gracecli.fit.workers.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,  # Ctrl-C is the chief's, who tells the others
            )
            self._processes[rank], self._outputs[rank] = process, output
            assert process.stdin is not None
            task = Task(self._task.config, Cluster(cluster.addresses, rank), self._task.resume)
            pickle.dump(task, process.stdin)
            process.stdin.flush()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *details: object) -> None:
        self._closing.set()
        failed = details[0] is not None
        deadline = time.monotonic() + (1.0 if failed else 20.0)
        for process in self._processes.values():
            try:
                process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            process.stdin.close()
        for output in self._outputs.values():
            output.close()

    def explain(self) -> str | None:
        """What became of a lost worker; waits a moment for it to show."""
        deadline = time.monotonic() + LAST_WORDS
        while self._lost is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._lost

    def _watch(self) -> None:
        """Notice a worker that ends too early; end this process if it does not by itself."""
        while not self._closing.wait(0.1):
            for rank, process in self._processes.items():
                code = process.poll()
                if code is not None and code not in ORDERLY:
                    self._lost = f"worker {rank} of {self._task.cluster.size} is gone: {self._reason(rank, code)}"
                    if not self._closing.wait(GRACE):
                        print(f"grace: error: {self._lost}", file=sys.stderr, flush=True)
                        self._kill()
                        os._exit(WorkerLostError.exit_code)
                    return

    def _kill(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()

    def _reason(self, rank: int, code: int) -> str:
        if code < 0:
            try:
                return f"killed by {signal.Signals(-code).name}"
            except ValueError:
                return f"killed by signal {-code}"
        output: io.BufferedIOBase = self._outputs[rank]
        output.seek(0)
        lines = [line for line in output.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {code}"
