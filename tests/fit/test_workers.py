"""Several workers give the fit of one process: as threads, and as processes of ``grace fit`` where it counts."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gracecli.errors import UsageError
from gracecli.fit.checkpoint import load_checkpoint
from gracecli.fit.config_read import make_config
from gracecli.fit.stop import TrainingInterrupted
from gracecli.fit.trainer import Trainer
from gracecli.fit.workers.cluster import Cluster, find_cluster
from gracecli.fit.workers.team import WorkerLostError, WorkersDisagreeError

REPOSITORY = Path(__file__).resolve().parents[2]


def arrays(directory: Path) -> dict[str, np.ndarray]:
    return load_checkpoint(directory / "checkpoint.npz").arrays


def assert_same_bits(one: Path, other: Path) -> None:
    a, b = arrays(one), arrays(other)
    assert a.keys() == b.keys()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.fixture(scope="module")
def training():
    return {"epochs": 4, "batches_per_step": 3, "validate_every": 2, "learning_rate": 0.03}


@pytest.fixture(scope="module")
def alone(copper, tmp_path_factory, settings, training):
    """The fit of one process."""
    directory = tmp_path_factory.mktemp("alone")
    return Trainer(make_config(settings(copper, directory, **training))).run()


def test_two_workers_give_the_bits_of_one_process(alone, copper, tmp_path, settings, training, together):
    seen = [0, 0]

    def count(trainer) -> None:
        inner = trainer.compute._compute.each

        def each(batches, weights=None):
            seen[trainer.team.rank] += sum(len(b.members) for b in batches)
            return inner(batches, weights)

        trainer.compute._compute.each = each

    result, other = together(settings(copper, tmp_path, **training), 2, count)
    assert sum(seen) == 4 * 19  # epochs, training structures: everybody evaluates their own only
    assert min(seen) > 4 * 19 / 4
    assert_same_bits(alone.directory, tmp_path)
    assert result.metrics == other.metrics == alone.metrics
    log, expected = (load_checkpoint(d / "checkpoint.npz").state.log for d in (tmp_path, alone.directory))
    for row, one in zip(log, expected, strict=True):
        assert {k: v for k, v in row.items() if k != "seconds"} == {k: v for k, v in one.items() if k != "seconds"}


def test_a_lost_worker_leaves_a_checkpoint_to_go_on_from(alone, copper, tmp_path, settings, training, together):
    """Lost in mid-epoch; the chief saves the last whole step; resumed by one process and by two, to the same bits."""
    content = settings(copper, tmp_path, **training)

    def lose(trainer) -> None:
        if trainer.team.rank == 1:
            trainer.team.lose(5)

    errors = together(content, 2, lose)
    assert all(isinstance(error, WorkerLostError) for error in errors)
    assert errors[0].exit_code == 130
    assert f"checkpoint of step 3 in {tmp_path}" in str(errors[0])
    state = load_checkpoint(tmp_path / "checkpoint.npz").state
    assert (state.step, state.position) == (3, 1)
    saved = (tmp_path / "checkpoint.npz").read_bytes()
    Trainer(make_config(content), resume=True).run()
    assert_same_bits(alone.directory, tmp_path)
    (tmp_path / "checkpoint.npz").write_bytes(saved)
    together(content, 2, resume=True)
    assert_same_bits(alone.directory, tmp_path)


@pytest.mark.slow
def test_a_signal_to_one_worker_stops_all_after_the_same_step(copper, tmp_path, settings, training, together):
    def interrupt(trainer) -> None:
        def look(step: int) -> None:
            if step == 3 and trainer.team.rank == 1:
                trainer._stop.signal_number = signal.SIGTERM

        trainer._after_step = look

    errors = together(settings(copper, tmp_path, **training), 2, interrupt)
    assert all(isinstance(error, TrainingInterrupted) for error in errors)
    assert load_checkpoint(tmp_path / "checkpoint.npz").state.step == 4


@pytest.mark.slow
def test_a_batch_is_split_when_there_are_more_workers(copper, tmp_path, settings, together):
    training = {"epochs": 3, "batches_per_step": 1, "batch_atoms": 32}
    whole = Trainer(make_config(settings(copper, tmp_path / "whole", **training))).run()
    said: list[str] = []

    def look(trainer) -> None:
        if trainer.team.chief:
            said.append(trainer._dealer.describe())

    results = together(settings(copper, tmp_path / "split", **training), 2, look)
    assert "each split into 2 parts" in said[0]
    assert "training.batches_per_step = 2" in said[0]
    a, b = arrays(whole.directory), arrays(results[0].directory)
    assert max(np.abs(a[name] - b[name]).max() for name in a) < 1e-9
    assert results[0].metrics["valid"]["overall"]["forces_mae"] == pytest.approx(
        whole.metrics["valid"]["overall"]["forces_mae"], rel=1e-7
    )


@pytest.mark.slow
def test_workers_that_hold_other_weights_are_found_out(copper, tmp_path, settings, training, together):
    def disturb(trainer) -> None:
        if trainer.team.rank == 1:
            variable = trainer.optimizer.variables[0]
            variable.assign(variable * (1 + 1e-15))

    errors = together(settings(copper, tmp_path, **training), 2, disturb)
    assert all(isinstance(error, WorkersDisagreeError) for error in errors)
    assert "worker 1 has other weights than the chief after epoch 1" in str(errors[0])


def test_workers_with_other_data_do_not_start(copper, alloy, tmp_path, settings, thread_teams):
    contents = [settings(path, tmp_path) for path in (copper, alloy)]
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(Trainer, make_config(c), team=t) for c, t in zip(contents, thread_teams(2), strict=True)]
        assert all("other settings or data" in str(task.exception()) for task in tasks)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lbfgs", "amsgrad"])
def test_other_optimizers(optimizer, copper, tmp_path, settings, together):
    training = {"epochs": 2, "batches_per_step": 3, "optimizer": optimizer, "lbfgs_iterations": 5}
    Trainer(make_config(settings(copper, tmp_path / "one", **training))).run()
    together(settings(copper, tmp_path / "three", **training), 3)
    assert_same_bits(tmp_path / "one", tmp_path / "three")


@pytest.mark.parametrize(
    ("workers", "hosts", "environment", "expected"),
    [
        (1, (), {}, None),
        (1, (), {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}'}, None),
        (
            2,
            (),
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'},
            Cluster(("a:1", "b:1"), 1),
        ),
        (
            1,
            (),
            {"TF_CONFIG": '{"cluster": {"chief": ["c:1"], "worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}'},
            Cluster(("c:1", "a:1"), 1),
        ),
        (1, ("a", "a", "b"), {"SLURM_PROCID": "2"}, Cluster(("a:23230", "a:23231", "b:23230"), 2)),
        (2, ("a:5", "b"), {"OMPI_COMM_WORLD_RANK": "0"}, Cluster(("a:5", "b:23230"), 0)),
    ],
)
def test_who_takes_part(workers, hosts, environment, expected):
    assert find_cluster(workers, hosts, environment) == expected


def test_workers_of_this_machine_get_ports_of_their_own():
    cluster = find_cluster(3, (), {})
    assert cluster.local
    assert cluster.rank == 0
    assert len(set(cluster.addresses)) == 3


@pytest.mark.parametrize(
    ("workers", "hosts", "environment", "message"),
    [
        (1, (), {"TF_CONFIG": "{"}, "TF_CONFIG describes no workers"),
        (1, (), {"TF_CONFIG": '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}'}, "no chief and no"),
        (3, ("a", "b"), {"SLURM_PROCID": "0"}, "--workers 3, but --hosts names 2"),
        (1, ("a", "b"), {}, "nothing says which"),
        (1, ("a", "b"), {"SLURM_PROCID": "2"}, "SLURM_PROCID is 2"),
        (1, ("a:1", "a:1"), {"SLURM_PROCID": "0"}, "names a:1 twice"),
    ],
)
def test_clusters_that_cannot_be(workers, hosts, environment, message):
    with pytest.raises(UsageError, match=message):
        find_cluster(workers, hosts, environment)


# --- processes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fit(copper, tmp_path, settings, training):
    """``fit(directory, *options, **environment)``: ``grace fit`` with the settings of ``alone``."""
    path = tmp_path / "fit.toml"
    content = settings(copper, tmp_path, **training)
    content["model.overrides"] = content["model"].pop("overrides")
    sections = [
        "\n".join([f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in entries.items())])
        for section, entries in content.items()
    ]
    path.write_text("\n".join(sections), encoding="utf-8")
    running: list[subprocess.Popen] = []

    def start(directory: Path, *options: str, **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "gracecli.cli.main", "fit", str(path), "-o", str(directory), *options]
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def children(process: subprocess.Popen) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(word) for path in tasks for word in path.read_text().split()]


def gone(pid: int, seconds: float) -> bool:
    """Whether a process has ended, or is a corpse that nobody collects."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def wait_for(process: subprocess.Popen, start: str) -> None:
    for line in process.stderr:
        if line.startswith(start):
            return
    raise AssertionError(f"no line that begins with {start!r}")


def test_two_processes_give_the_bits_of_one(alone, fit, tmp_path):
    process = fit(tmp_path / "two", "--workers", "2", "--json")
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "2 workers, 3 batches per step; 1 worker evaluates one more than the others" in errors
    assert json.loads(output)["completed"]
    assert_same_bits(alone.directory, tmp_path / "two")
    assert {p.name for p in (tmp_path / "two").iterdir()} == {p.name for p in alone.directory.iterdir()}


@pytest.mark.slow
def test_a_killed_worker_ends_the_fit_in_time(fit, tmp_path):
    process = fit(tmp_path / "out", "--workers", "2", "--epochs", "5000")
    wait_for(process, "epoch 20/")
    (worker,) = children(process)
    os.kill(worker, signal.SIGKILL)
    start = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 40
    assert process.returncode == 130
    errors = [line for line in errors.splitlines() if not line.startswith("epoch ")]
    assert len(errors) == 2, errors
    assert errors[0].startswith("grace: error: worker 1 of 2 is gone: killed by SIGKILL; checkpoint of step ")
    step = load_checkpoint(tmp_path / "out" / "checkpoint.npz").state.step
    assert 20 * 2 <= step < 5000 * 2


@pytest.mark.slow
def test_workers_end_with_their_chief(fit, tmp_path):
    process = fit(tmp_path / "out", "--workers", "2", "--epochs", "5000")
    wait_for(process, "epoch 20/")
    (worker,) = children(process)
    os.kill(process.pid, signal.SIGKILL)
    assert gone(worker, 10.0)


@pytest.mark.slow
def test_ctrl_c_stops_all(fit, tmp_path):
    process = fit(tmp_path / "out", "--workers", "2", "--epochs", "5000")
    wait_for(process, "epoch 20/")
    (worker,) = children(process)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "checkpoint saved" in errors
    assert "is gone" not in errors
    assert gone(worker, 10.0)


@pytest.mark.slow
def test_workers_started_by_a_launcher(fit, tmp_path):
    """As srun would start them, and killed: the other notices by the connection alone."""
    port = find_cluster(2, (), {}).addresses[0].rpartition(":")[2]
    hosts = f"127.0.0.1:{port},localhost"
    chief, other = (
        fit(tmp_path / "out", "--hosts", hosts, "--epochs", "5000", SLURM_PROCID=str(rank)) for rank in (0, 1)
    )
    lines: queue.Queue = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in chief.stderr], daemon=True).start()
    while not lines.get(timeout=200).startswith("epoch 20/"):
        pass
    other.kill()
    start = time.monotonic()
    assert chief.wait(timeout=60) == 130
    assert time.monotonic() - start < 40
    text = ""
    while "grace: error" not in text:
        text = lines.get(timeout=10)
    assert "lost the connection to another worker" in text
    assert load_checkpoint(tmp_path / "out" / "checkpoint.npz").state.step >= 40
