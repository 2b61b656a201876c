"""Work spread over processes: everything is answered once, lost workers' work is repeated, killers are reported."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gracecli.errors import InputError, UsageError
from gracecli.run.spread import WorkerLost, spread, threads_each

MODULE = """
import os, signal, time
from gracecli.errors import ModelError

def double(folder, chunk):
    for number, value in chunk:
        if value == "kills":
            os.kill(os.getpid(), signal.SIGKILL)
        if value == "kills once" and not os.path.exists(folder + "/killed"):
            open(folder + "/killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if value == "no model":
            raise ModelError("no such model")
        if value == "bug":
            raise KeyError("bug")
        if value == "slow":
            open(f"{folder}/pid-{number}", "w").write(str(os.getpid()))
            time.sleep(0.4)
        yield number, (str(value) * 2, os.environ.get("OMP_NUM_THREADS"))
"""


@pytest.fixture
def double(tmp_path, monkeypatch):
    (tmp_path / "spread_work.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    sys.modules.pop("spread_work", None)
    import spread_work

    yield spread_work.double
    sys.modules.pop("spread_work", None)


def test_all_answers_once_and_threads_are_divided(double, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    chunks = [[(3 * k + i, k) for i in range(3)] for k in range(5)]
    found = list(spread(double, str(tmp_path), chunks, jobs=2))
    assert sorted(number for number, _ in found) == list(range(15))
    assert dict(found)[14] == ("44", "2")
    assert os.environ["OMP_NUM_THREADS"] == "4"
    assert threads_each(8) == 1


def test_a_killer_is_reported_and_its_neighbours_are_not(double, tmp_path):
    chunks = [[(0, "a"), (1, "kills"), (2, "b")], [(3, "kills once"), (4, "c")]]
    found = dict(spread(double, str(tmp_path), chunks, jobs=2))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert isinstance(found[1], WorkerLost)
    assert [found[i][0] for i in (0, 2, 4)] == ["aa", "bb", "cc"]
    assert found[3][0] == "kills oncekills once"


def test_what_the_work_raises_reaches_the_caller(double, tmp_path):
    from gracecli.errors import GraceError, ModelError

    with pytest.raises(ModelError, match="no such model"):
        list(spread(double, str(tmp_path), [[(0, "no model")]], jobs=2))
    with pytest.raises(GraceError, match="KeyError"):
        list(spread(double, str(tmp_path), [[(0, "bug")]], jobs=2))


def test_workers_end_with_the_caller(double, tmp_path):
    results = spread(double, str(tmp_path), [[(i, "slow")] for i in range(4)], jobs=2)
    next(results)
    pids = [int(path.read_text()) for path in tmp_path.glob("pid-*")]
    results.close()
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_no_scheduler_is_one_line(double, tmp_path):
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="no Dask scheduler"):
        list(spread(double, str(tmp_path), [], dask="nonsense://127.0.0.1:1"))


def test_without_distributed_the_extra_is_named(double, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match="distributed") as caught:
        list(spread(double, str(tmp_path), [], dask="tcp://127.0.0.1:1"))
    assert "gracecli[dask]" in caught.value.hint


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two worker processes (with nannies, which replace a killed worker), as on a real cluster."""
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    options = ["--no-dashboard", "--scheduler-file", str(file)]
    commands = [["scheduler", "--port", "0", *options], *[["worker", "--nthreads", "1", *options]] * 2]
    processes = []
    try:
        for words in commands:
            with (tmp_path / f"log-{len(processes)}").open("w") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "dask", *words], stdout=log, stderr=log, env=environment, cwd=tmp_path
                    )
                )
            while not (file.exists() and file.stat().st_size):
                assert processes[0].poll() is None, (tmp_path / "log-0").read_text()
                time.sleep(0.1)
        time.sleep(0.1)
        yield json.loads(file.read_text())["address"]
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_survives_a_killed_worker(cluster, double, tmp_path):
    chunks = [[(2 * k, "slow"), (2 * k + 1, "slow")] for k in range(6)]
    found, killed = {}, False
    for number, result in spread(double, str(tmp_path), chunks, dask=cluster):
        found[number] = result
        if not killed:
            newest = max(tmp_path.glob("pid-*"), key=lambda path: path.stat().st_mtime)
            os.kill(int(newest.read_text()), signal.SIGKILL)
            killed = True
    assert sorted(found) == list(range(12))
    assert all(result[0] == "slowslow" for result in found.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_on_a_dask_cluster_a_killer_is_reported(cluster, double, tmp_path):
    found = dict(spread(double, str(tmp_path), [[(0, "a"), (1, "kills")], [(2, "b")]], dask=cluster))
    assert isinstance(found[1], WorkerLost)
    assert found[0][0] == "aa"
    assert found[2][0] == "bb"
