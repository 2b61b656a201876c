"""A fit by several processes."""

from __future__ import annotations

from contextlib import ExitStack

from gracecli.errors import UsageError
from gracecli.fit.config import FitConfig
from gracecli.fit.progress import Progress
from gracecli.fit.result import FitResult
from gracecli.fit.start import create_trainer, is_linear
from gracecli.fit.workers.cluster import Cluster
from gracecli.fit.workers.launch import LocalWorkers, Task
from gracecli.fit.workers.team import CollectiveTeam


def run_cluster(
    config: FitConfig, cluster: Cluster, progress: Progress | None = None, resume: bool = False, force: bool = False
) -> FitResult:
    """Fit as one worker of a cluster, starting the others where the cluster is this machine.

    Raises
    ------
    UsageError
        A model that is solved directly.
    WorkerLostError
        Another worker ended too early; a checkpoint is saved.
    """
    if is_linear(config):
        raise UsageError("linear models are solved directly, by one process", "leave out --workers")
    if not cluster.local:
        return run_worker(config, cluster, progress, resume, force)
    with ExitStack() as stack:
        others = stack.enter_context(LocalWorkers(Task(config, cluster, resume)))
        team = CollectiveTeam(cluster, config.training.threads, others.explain)
        return create_trainer(config, progress, resume=resume, force=force, team=team).run()


def run_worker(
    config: FitConfig, cluster: Cluster, progress: Progress | None = None, resume: bool = False, force: bool = False
) -> FitResult:
    """Fit as one worker of a cluster whose others are started elsewhere."""
    chosen = progress if progress is not None and cluster.rank == 0 else Progress(quiet=True)
    chosen.message(f"waiting for {cluster.size - 1} more of {cluster.size} workers")
    team = CollectiveTeam(cluster, config.training.threads)
    return create_trainer(config, chosen, resume=resume, force=force, team=team).run()
