"""A worker that the chief has started on its machine: ``python -m gracecli.fit.workers.child``, task on stdin."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from typing import Any

from gracecli.errors import GraceError
from gracecli.fit.workers.launch import Task


def main() -> int:
    """Work until the fit ends; the exit code of ``grace fit``, with the reason as the last line of stderr."""
    task: Task = pickle.load(sys.stdin.buffer)  # from the process that started this one
    threading.Thread(target=_leave_with_the_chief, args=(sys.stdin.buffer,), daemon=True).start()
    from gracecli.fit.workers.run import run_worker

    try:
        result = run_worker(task.config, task.cluster, resume=task.resume)
    except GraceError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    return 0 if result.completed else 3


def _leave_with_the_chief(stdin: Any) -> None:
    """End this process when the chief has ended, however it did."""
    while stdin.read1(1):
        pass
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
