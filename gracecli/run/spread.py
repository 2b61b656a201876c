"""Work over many inputs, spread over local processes or the workers of a Dask cluster.

The work function takes a configuration and a list of (number, input) and yields (number, result) as they finish; all
of them are pickled. Results reach the caller as they come; nothing is written by workers. Inputs of a worker that is
lost (killed, out of memory) are tried again, each alone; an input that loses its worker a second time is reported as
failed. On a Dask cluster the scheduler itself repeats lost work first, as often as its ``allowed-failures`` says; what
it then gives up is tried at the end, one input at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from gracecli.errors import GraceError, InputError, PluginError, UsageError
from gracecli.plugin.specs import describe

Item = tuple[int, Any]
Work = Callable[[Any, Sequence[Item]], Iterable[Item]]
_THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerLost(GraceError):
    """An input ended its worker process twice."""


def spread(
    work: Work, configuration: Any, chunks: Iterable[Sequence[Item]], *, jobs: int = 1, dask: str | None = None
) -> Iterator[Item]:
    """Results (number, result or :class:`WorkerLost`) of all inputs, as they finish.

    Parameters
    ----------
    work : callable
        Of a module (it is pickled by name).
    configuration : object
    chunks : iterable of lists of (number, input)
        What one worker does at a time; asked for as workers become free.
    jobs : int
        Local processes; the threads of this process are divided among them.
    dask : str, optional
        Address of a Dask scheduler instead, such as ``tcp://host:8786``.

    Raises
    ------
    GraceError
        What the work function itself raised (a model that cannot be read, for instance).
    """
    if dask is not None:
        yield from _on_dask(work, configuration, iter(chunks), dask)
    else:
        yield from _Pool(work, configuration, jobs).run(iter(chunks))


def threads_each(jobs: int) -> int:
    """Threads of each of ``jobs`` processes."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    total = int(given) if given.isdigit() and int(given) > 0 else len(os.sched_getaffinity(0))
    return max(1, total // jobs)


def _lost(number: int) -> Item:
    return number, WorkerLost(
        "its worker process was lost twice (killed, out of memory, or crashed)", "run it alone to see why"
    )


# --- local processes ------------------------------------------------------------------------------------------------


@dataclass
class _Worker:
    """A process and the inputs it has not answered."""

    process: Any
    pipe: Connection
    open: dict[int, Any] = field(default_factory=dict)
    ready: bool = True


def _serve(work: Work, configuration: Any, pipe: Connection) -> None:
    """Loop of a worker process; it ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            chunk = pipe.recv()
            try:
                for number, result in work(configuration, chunk):
                    pipe.send(("result", number, result))
            except GraceError as error:
                pipe.send(("error", 0, error))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                pipe.send(("error", 0, GraceError(f"internal error in a worker: {type(error).__name__}: {error}")))
            pipe.send(("done", 0, None))


class _Pool:
    """Local worker processes."""

    def __init__(self, work: Work, configuration: Any, jobs: int) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.work, self.configuration, self.jobs = work, configuration, jobs
        self.workers: list[_Worker] = []
        self.again: deque[list[Item]] = deque()
        self.losses: dict[int, int] = {}

    def run(self, chunks: Iterator[Sequence[Item]]) -> Iterator[Item]:
        """Results as they finish."""
        try:
            exhausted = False
            while True:
                while not exhausted or self.again:
                    worker = self._free_worker()
                    if worker is None:
                        break
                    chunk = self.again.popleft() if self.again else next(chunks, None)
                    if chunk is None:
                        exhausted = True
                    elif len(chunk):
                        worker.open, worker.ready = dict(chunk), False
                        with suppress(BrokenPipeError):  # a dead worker is found below
                            worker.pipe.send(list(chunk))
                if all(worker.ready for worker in self.workers):
                    return
                yield from self._listen()
        finally:
            for worker in self.workers:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()

    def _free_worker(self) -> _Worker | None:
        for worker in self.workers:
            if worker.ready:
                return worker
        if len(self.workers) >= self.jobs:
            return None
        parent, child = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(self.work, self.configuration, child), daemon=True)
        with _fewer_threads(threads_each(self.jobs)):
            process.start()
        child.close()
        self.workers.append(_Worker(process, parent))
        return self.workers[-1]

    def _listen(self) -> Iterator[Item]:
        """What busy workers say next."""
        busy = {worker.pipe: worker for worker in self.workers if not worker.ready}
        for pipe in wait(list(busy)):
            worker = busy[pipe]  # type: ignore[index]
            try:
                kind, number, content = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                yield from self._bury(worker)
                continue
            if kind == "error":
                raise content
            if kind == "done":
                worker.ready = True
            else:
                worker.open.pop(number, None)
                yield number, content

    def _bury(self, worker: _Worker) -> Iterator[Item]:
        """A worker is gone: its inputs again, each alone, or failed."""
        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        for number, content in worker.open.items():
            self.losses[number] = self.losses.get(number, 0) + 1
            if self.losses[number] >= 2:
                yield _lost(number)
            else:
                self.again.append([(number, content)])


@contextmanager
def _fewer_threads(count: int) -> Iterator[None]:
    """Environment in which a new process uses ``count`` threads."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# --- Dask -----------------------------------------------------------------------------------------------------------


def _chunk_results(work: Work, configuration: Any, chunk: Sequence[Item]) -> list[Item]:
    return list(work(configuration, chunk))


def _on_dask(work: Work, configuration: Any, chunks: Iterator[Sequence[Item]], address: str) -> Iterator[Item]:
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise UsageError("--dask needs the package distributed", "pip install 'gracecli[dask]'") from error
    try:
        client = Client(address, timeout=20, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {address}", "start `dask scheduler`, check the port") from error
    with client:
        queue = as_completed(loop=client.loop)
        pending: dict[Any, Sequence[Item]] = {}
        suspects: list[Item] = []

        def submit(chunk: Sequence[Item]) -> None:
            future = client.submit(_chunk_results, work, configuration, chunk, pure=False)
            pending[future.key] = chunk
            queue.add(future)

        threads = sum(client.nthreads().values())
        for _ in range(max(2 * threads, 2)):
            chunk = next(chunks, None)
            if chunk is not None:
                submit(chunk)
        while pending:
            future = next(queue)
            chunk = pending.pop(future.key)
            failure = future.exception()
            if failure is None:
                yield from future.result()
            elif isinstance(failure, GraceError):
                raise failure
            elif not isinstance(failure, KilledWorker):
                raise PluginError(
                    f"a Dask worker failed: {describe(failure)}", "are the same versions installed there?"
                )
            else:
                suspects += chunk
            following = next(chunks, None)
            if following is not None:
                submit(following)
        # Tasks also die with a worker that another task has killed; alone on the cluster there is no doubt.
        for item in suspects:
            future = client.submit(_chunk_results, work, configuration, [item], pure=False)
            yield from [_lost(item[0])] if isinstance(future.exception(), KilledWorker) else future.result()
