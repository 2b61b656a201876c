"""What workers tell each other: blocks of bytes, gathered by TensorFlow's collective operations.

Everything rests on one operation, a gather to all, because a sum over gathered parts has a fixed order: the result of a
step does not depend on how its batches were dealt out. A worker that is gone ends the gather with an error.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import GraceError, UsageError
from gracecli.fit.workers.cluster import Cluster

Bytes = NDArray[np.uint8]


class WorkerLostError(GraceError):
    """A worker ended before the fit did."""

    exit_code = 130


class WorkersDisagreeError(GraceError):
    """Workers that should hold the same numbers do not."""


class Team:
    """A team of one: what every fit has unless it is given another.

    Attributes
    ----------
    rank, size : int
    stop : int
        What all agreed on in the last step: 0 go on, 1 the time is over, 2 a signal came.
    """

    rank = 0
    size = 1
    stop = 0

    @property
    def chief(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def gather(self, block: Bytes) -> Bytes:
        """Blocks of all workers: uint8 (n,), as long everywhere -> (size, n)."""
        return block[None]

    def exchange(self, content: bytes) -> list[bytes]:
        """Contents of all workers, of any lengths."""
        lengths = self.gather(np.array([len(content)], np.int64).view(np.uint8)).view(np.int64)[:, 0]
        block = np.zeros(max(int(lengths.max()), 1), np.uint8)
        block[: len(content)] = np.frombuffer(content, np.uint8)
        found = self.gather(block)
        return [row[:length].tobytes() for row, length in zip(found, lengths.tolist(), strict=True)]

    def wait(self) -> None:
        """Return when all have come here."""
        self.gather(np.zeros(4, np.uint8))

    def agree(self, when: str, contents: Mapping[str, bytes]) -> None:
        """Compare contents (by their hashes) with those of the chief.

        Raises
        ------
        WorkersDisagreeError
        """
        if self.size == 1:
            return
        digests = [hashlib.sha256(content).digest()[:8] for content in contents.values()]
        found = self.gather(np.frombuffer(b"".join(digests), np.uint8))
        for rank, row in enumerate(found):
            for number, name in enumerate(contents):
                part = slice(8 * number, 8 * number + 8)
                if (row[part] != found[0][part]).any():
                    raise WorkersDisagreeError(
                        f"worker {rank} has other {name} than the chief {when}",
                        "every worker needs the same files, versions, and kind of processor",
                    )


class CollectiveTeam(Team):
    """Workers of a cluster, connected by ``tf.distribute.MultiWorkerMirroredStrategy``.

    To be made before TensorFlow has done anything else. Blocks until all workers are there.

    Parameters
    ----------
    cluster : Cluster
    threads : int
        Batches evaluated at a time by a worker.
    explain : callable, optional
        What became of a worker, in words, when a gather fails.
    """

    def __init__(self, cluster: Cluster, threads: int = 1, explain: Callable[[], str | None] = lambda: None) -> None:
        from gracecli.quiet import import_tensorflow, stderr_closed

        tf = import_tensorflow()
        self.rank, self.size = cluster.rank, cluster.size
        self._explain = explain
        self._errors = tf.errors.OpError
        self._constant = tf.constant
        _share_processors(tf, cluster, threads)
        distribute = tf.distribute
        resolver = distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
            task_type="worker",
            task_id=cluster.rank,
            rpc_layer="grpc",
        )
        options = distribute.experimental.CommunicationOptions(
            implementation=distribute.experimental.CommunicationImplementation.RING
        )
        old = _interruptible()
        try:
            with stderr_closed():  # the server announces itself
                strategy = distribute.MultiWorkerMirroredStrategy(resolver, options)
        except self._errors as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"no connection between workers: {reason}", "are all addresses right and free?") from error
        finally:
            if old is not None:
                signal.signal(signal.SIGINT, old)
        device = f"/job:worker/replica:0/task:{cluster.rank}/device:CPU:0"

        def gather(block: Any) -> Any:
            with tf.device(device):
                return strategy.run(
                    lambda own: distribute.get_replica_context().all_gather(tf.identity(own), axis=0), args=(block,)
                )

        self._gather = tf.function(gather, input_signature=[tf.TensorSpec([1, None], tf.int32)], autograph=False)

    def gather(self, block: Bytes) -> Bytes:
        """Blocks of all workers: uint8 (n,), as long everywhere -> (size, n).

        Raises
        ------
        WorkerLostError
        """
        size = len(block)
        padded = np.zeros(4 * -(-size // 4), np.uint8)
        padded[:size] = block
        try:
            found = self._gather(self._constant(padded.view(np.int32)[None])).numpy()
        except self._errors as error:
            reason = self._explain() or f"lost the connection to another worker ({_reason(error)})"
            raise WorkerLostError(reason, "start again, with --resume where there is a checkpoint") from error
        return np.ascontiguousarray(found).view(np.uint8)[:, :size]


def _reason(error: Exception) -> str:
    if "heartbeat" in str(error):
        return "it does not answer any more"
    lines = [line.strip() for line in str(error).splitlines() if "abort" in line.lower() or "closed" in line.lower()]
    return (lines or [type(error).__name__])[0]


def _share_processors(tf: Any, cluster: Cluster, threads: int) -> None:
    """Workers of one machine share its processors, unless the user has said how many threads TensorFlow takes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads > 1:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    else:
        own = max(1, cores // cluster.on_this_host)
        os.environ.setdefault("OMP_NUM_THREADS", str(own))  # for the native engine
        if "TF_NUM_INTRAOP_THREADS" not in os.environ:
            tf.config.threading.set_intra_op_parallelism_threads(own)
    if tf.config.list_physical_devices("GPU"):
        raise UsageError("several workers on GPUs are not supported", 'hide them: CUDA_VISIBLE_DEVICES=""')


def _interruptible() -> Any:
    """Let Ctrl-C end the process while TensorFlow waits for others; the old handler, to be put back."""
    try:
        return signal.signal(signal.SIGINT, signal.SIG_DFL)
    except ValueError:  # not the main thread
        return None
