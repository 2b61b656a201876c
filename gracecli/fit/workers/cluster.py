"""Who takes part in a fit: addresses of all workers, and which of them this process is.

Three ways to say so, the first that applies:

* ``TF_CONFIG`` (TensorFlow's own, one JSON document per process) names all workers and this one;
* ``--hosts A,B,...`` names one host per worker; ``srun`` or ``mpirun`` say which of them a process is;
* ``--workers N`` alone starts N - 1 further processes on this machine.

Worker 0 is the chief: it alone writes files and speaks.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gracecli.errors import UsageError

PORT = 23230
"""First port on a host that ``--hosts`` names without one."""
RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
"""Where launchers say which process this is."""


@dataclass(frozen=True)
class Cluster:
    """All workers of a fit.

    Attributes
    ----------
    addresses : tuple of str
        ``host:port`` of every worker, the chief's first.
    rank : int
        Which of them this process is.
    local : bool
        This process starts the others.
    """

    addresses: tuple[str, ...]
    rank: int = 0
    local: bool = False

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self.addresses)

    @property
    def on_this_host(self) -> int:
        """Workers that share this worker's machine."""
        host = self.addresses[self.rank].rpartition(":")[0]
        return sum(address.rpartition(":")[0] == host for address in self.addresses)


def find_cluster(
    workers: int, hosts: Sequence[str] = (), environment: Mapping[str, str] = os.environ
) -> Cluster | None:
    """The cluster that options and environment describe; None for a fit by one process.

    Raises
    ------
    UsageError
        They contradict each other, or do not say which worker this process is.
    """
    found = None
    if environment.get("TF_CONFIG"):
        found = _from_tf_config(environment["TF_CONFIG"])
    elif hosts:
        addresses = _with_ports(hosts)
        found = Cluster(addresses, _rank(environment, len(addresses)))
    if found is None:
        return Cluster(_free_addresses(workers), local=True) if workers > 1 else None
    if workers not in (1, found.size):
        where = "TF_CONFIG" if environment.get("TF_CONFIG") else "--hosts"
        raise UsageError(f"--workers {workers}, but {where} names {found.size}", "leave out --workers")
    return found if found.size > 1 else None


def _from_tf_config(text: str) -> Cluster:
    try:
        document = json.loads(text)
        cluster, task = document["cluster"], document["task"]
        kinds = [kind for kind in ("chief", "worker") if cluster.get(kind)]
        addresses = [address for kind in kinds for address in cluster[kind]]
        kind, index = str(task["type"]), int(task["index"])
        if kind not in kinds or index >= len(cluster[kind]) or set(cluster) - {"chief", "worker"}:
            raise ValueError("its task is no chief and no worker of its cluster")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        example = '{"cluster": {"worker": ["host1:23230", "host2:23230"]}, "task": {"type": "worker", "index": 0}}'
        raise UsageError(f"TF_CONFIG describes no workers: {error}", f"TF_CONFIG='{example}'") from error
    before = len(cluster["chief"]) if kind == "worker" and "chief" in kinds else 0
    return Cluster(tuple(addresses), before + index)


def _with_ports(hosts: Sequence[str]) -> tuple[str, ...]:
    """``host:port``; hosts named twice get neighbouring ports."""
    addresses: list[str] = []
    seen: dict[str, int] = {}
    for host in hosts:
        if ":" not in host:
            seen[host] = seen.get(host, -1) + 1
            host = f"{host}:{PORT + seen[host]}"
        addresses.append(host)
    if len(set(addresses)) < len(addresses):
        raise UsageError(f"--hosts names {next(a for a in addresses if addresses.count(a) > 1)} twice")
    return tuple(addresses)


def _rank(environment: Mapping[str, str], size: int) -> int:
    name = next((name for name in RANKS if environment.get(name, "").isdigit()), None)
    if name is None:
        text = "--hosts, but nothing says which of them this is"
        raise UsageError(text, "start it with srun or mpirun, or set TF_CONFIG")
    rank = int(environment[name])
    if rank >= size:
        raise UsageError(f"{name} is {rank}, but --hosts names {size}", "name one host per process")
    return rank


def _free_addresses(count: int) -> tuple[str, ...]:
    """Ports of this machine that nobody uses at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    finally:
        for each in sockets:
            each.close()
