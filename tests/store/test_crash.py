"""Writers killed at random instants, writers and readers at once, full disks, damaged files."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gracecli.errors import StoreError
from gracecli.store import check, schema
from gracecli.store.check import repair, verified
from gracecli.store.store import Store

sys.path.insert(0, str(Path(__file__).parent))
from crash_writer import RESULTS, calculation, relaxed, structure, value
from crash_writer import start as begin

SCRIPT = Path(__file__).parent / "crash_writer.py"


def start(path, writer, count=10**9):
    command = [sys.executable, SCRIPT, path, str(writer), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def own(store):
    """Structures that writers made, apart from those of results; their entries."""
    return [entry for entry in (store.entry(index) for index in range(len(store))) if "writer" in entry.info]


def assert_whole(path, minimum):
    """Every row is what its writer meant, in the writer's order; at least ``minimum`` structures are there.

    Results are there in whole groups of three, with what went in and what came out.
    """
    report = check.check(path)
    assert not report.problems, report.problems
    with Store(path) as store:
        seen: dict[int, int] = {}
        count = 0
        for found in own(store):
            writer, number = found.info["writer"], found.info["number"]
            meant = structure(writer, number)
            assert number == seen.get(writer, 0)
            seen[writer] = number + 1
            count += 1
            assert np.array_equal(found.positions, meant.positions)
            assert np.array_equal(found.forces, meant.forces)
            assert found.energy == meant.energy
            assert (found.magmoms is None) == (meant.magmoms is None)
            if meant.magmoms is not None:
                assert np.array_equal(found.magmoms, meant.magmoms)
        groups: dict[tuple[int, int], list[int]] = {}
        for row in range(store.result_count):
            assert_result(store, store.result(row), groups)
        assert all(group == list(range(RESULTS)) for group in groups.values()), groups
        assert count >= minimum
        return count, store.result_count


def assert_result(store, found, groups):
    writer, number, k = (found.values[name] for name in ("writer", "number", "k"))
    meant = relaxed(writer, number, k)
    assert found.calculation == calculation(writer, number, k)
    assert np.array_equal(found.values["array"], value(writer, number, k))
    assert np.array_equal(found.output.positions, meant.positions)
    assert np.array_equal(found.output.get_forces(), meant.get_forces())
    assert np.array_equal(store.entry(found.structure).positions, begin(writer, number).positions)
    assert store.why(f"r{found.id}").run.argv == ("writer", str(writer))
    groups.setdefault((writer, number), []).append(k)


def kill_writers(folder, kills, seed):
    """Kill a writer of one and the same store ``kills`` times; each time nothing acknowledged may be missing."""
    rng = np.random.default_rng(seed)
    path = folder / "store.h5"
    acknowledged = lost = 0
    for kill in range(kills):
        process = start(path, kill)
        first = process.stdout.readline()
        assert first, process.stderr.read()
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        done = int((rest.splitlines() or [first])[-1] or first) if rest.endswith("\n") or not rest else int(first)
        before = acknowledged
        acknowledged += done
        with Store(path) as store:  # opens although nobody recovered it
            count = sum(store.in_set(name).sum() for name in store.set_names())
            assert 0 <= count - acknowledged <= 14  # committed, not yet acknowledged
            acknowledged = count
        lost += acknowledged < before + done
        if kill % 20 == 19 or kill == kills - 1:
            structures, results = assert_whole(path, acknowledged)
            assert structures == acknowledged
    print(f"\n{kills} kills, {structures} structures and {results} results committed, {lost} lost")
    assert lost == 0


def test_killed_writers_lose_nothing_that_was_committed(tmp_path, capsys):
    with capsys.disabled():
        kill_writers(tmp_path, 20, 1)


@pytest.mark.slow
def test_two_hundred_kills(tmp_path, capsys):
    with capsys.disabled():
        kill_writers(tmp_path, 200, 2)


def run_together(path, seconds, capsys):
    """Two writers, four readers, each in its own process."""
    writers = [start(path, number) for number in (1, 2)]
    reader = [sys.executable, "-c", READER, str(path), str(seconds)]
    firsts = [process.stdout.readline() for process in writers]
    assert all(firsts), [process.stderr.read() for process in writers]
    readers = [subprocess.Popen(reader, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [process.communicate(timeout=seconds + 120) for process in readers]
    counts = []
    for process in writers:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate()
        counts.append(int([*firsts, *out.splitlines()][-1]))
    for out, err in outputs:
        assert out.startswith("read"), err
    total, results = assert_whole(path, sum(counts))
    with capsys.disabled():
        reads = sum(int(out.split()[1]) for out, _ in outputs)
        print(
            f"\n2 writers {counts}, 4 readers {reads} reads in {seconds} s: "
            f"{total} structures and {results} results whole, no torn read"
        )
    assert min(counts) > 0


READER = f"""
import sys, time
sys.path.insert(0, {str(SCRIPT.parent)!r})
import numpy as np
import gracecli.store.convert
from crash_writer import calculation, start, structure, value
from gracecli.store.store import Store
rng = np.random.default_rng()
until, reads, last = time.time() + float(sys.argv[2]), 0, 0
with Store(sys.argv[1]) as store:
    while time.time() < until:
        count = store.refresh()
        assert count >= last, (count, last)
        last = count
        for index in rng.integers(0, count, 20 if count else 0):
            found = store.entry(int(index))
            if "writer" not in found.info:
                continue
            meant = structure(found.info["writer"], found.info["number"])
            assert np.array_equal(found.positions, meant.positions), index
            assert np.array_equal(found.forces, meant.forces), index
            assert found.energy == meant.energy and np.array_equal(found.stress, meant.stress), index
            reads += 1
        for index in rng.integers(0, store.result_count, 5 if store.result_count else 0):
            found = store.result(int(index))
            key = [found.values[name] for name in ("writer", "number", "k")]
            assert np.array_equal(found.values["array"], value(*key)), index
            assert store.find(calculation(*key), start(*key[:2])).id == index
            reads += 1
print("read", reads)
"""


def test_two_writers_and_four_readers(tmp_path, capsys):
    run_together(tmp_path / "store.h5", 4, capsys)


@pytest.mark.slow
def test_two_writers_and_four_readers_for_a_minute(tmp_path, capsys):
    run_together(tmp_path / "store.h5", 60, capsys)


@pytest.fixture
def filled(tmp_path):
    """A store of 600 structures in 60 commits, closed."""
    path = tmp_path / "store.h5"
    with Store(path, "a", durable=False) as store:
        for start_number in range(0, 600, 10):
            store.append([structure(0, n) for n in range(start_number, start_number + 10)])
    return path


def test_file_size_limit_is_a_clear_error_and_leaves_the_store_intact(filled):
    size = filled.stat().st_size
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
from crash_writer import structure
from gracecli.store.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 20000}, {size + 20000}))
from gracecli.errors import StoreError
store = Store({str(filled)!r}, "a")
try:
    for n in range(600, 2000, 20):
        store.append([structure(0, n + i) for i in range(20)])
except StoreError as error:
    print("ERROR", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert "ERROR" in done.stdout, done.stderr
    assert "cannot be written" in done.stdout
    count, _ = assert_whole(filled, 600)
    with Store(filled, "a") as store:
        store.append([structure(0, n) for n in range(count, count + 10)])
    assert_whole(filled, count + 10)


def fill(store):
    """Append until the disk is full; how many structures were committed."""
    for number in range(0, 100_000, 50):
        try:
            store.append([structure(0, n) for n in range(number, number + 50)])
        except StoreError as error:
            if "no space left" not in str(error).lower():
                raise
            return number
    pytest.fail("2 MB held it all")


def test_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mount is not permitted: {mounted.stderr.decode().strip()}")
    try:
        path = disk / "store.h5"
        with Store(path, "a", durable=False) as store:
            number = fill(store)
        assert number > 10
        assert_whole(path, number)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_bit_flips_are_found_and_every_other_structure_is_kept(filled):
    rng = np.random.default_rng(5)
    good = filled.read_bytes()
    with Store(filled) as store:
        chunk = store._handle.dataset("atom/R").id.get_chunk_info(3)
    data = bytearray(good)
    data[chunk.byte_offset + int(rng.integers(chunk.size - 4))] ^= 16
    filled.write_bytes(data)
    report = check.check(filled)
    assert report.problems
    kept, lost, damaged = repair(filled)
    assert damaged.read_bytes() == data
    assert kept + lost == 600
    assert lost >= 1
    assert kept > 500
    assert not check.check(filled).problems
    with Store(filled) as store:
        numbers = [store.entry(i).info["number"] for i in range(len(store))]
        assert all(sound for _, sound in verified(store))
    assert set(range(600)) - set(numbers) == set(report.bad)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_truncated_files_are_found(filled, share):
    os.truncate(filled, int(filled.stat().st_size * share))
    assert check.check(filled).problems
    try:
        kept, lost, _ = repair(filled)
    except StoreError:  # the part of the file that says where things are is gone
        assert share < 0.9
        return
    assert kept + lost == 600
    assert not check.check(filled).problems


def test_a_damaged_commit_row_is_no_silent_end(filled):
    with Store(filled) as store:
        chunk = store._handle.dataset(schema.COMMITS).id.get_chunk_info(0)
    data = bytearray(filled.read_bytes())
    data[chunk.byte_offset + 30 * 8 * schema.COMMIT_WIDTH + 20] ^= 1
    filled.write_bytes(data)
    with pytest.raises(StoreError, match="commit row 31 is damaged"):
        Store(filled)
    assert check.check(filled).problems
    kept, lost, _ = repair(filled)
    assert (kept, lost) == (600, 0)


def test_random_bit_flips_are_never_served_as_data(filled):
    rng = np.random.default_rng(7)
    good = filled.read_bytes()
    for _ in range(10):
        data = bytearray(good)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        filled.write_bytes(data)
        sound = not check.check(filled).problems
        if sound:  # the flip hit space that nothing uses
            assert_whole(filled, 600)
