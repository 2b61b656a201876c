"""The protocol of ``grace bench``: what is run, what counts, what the numbers mean. Never how fast."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk, molecule

from gracecli.errors import GraceError, InputError, MemoryLimitError, UsageError
from gracecli.run.bench import TRIES, BenchSettings, Contender, bench
from gracecli.run.bench_crystal import crystal, default_element, supercells
from gracecli.run.bench_worker import Worker, resident_bytes

FIRST = Contender("first.grace", "alpha", "fp64", 1)
OTHER = Contender("models/other.grace", "beta", "fp32", 2)


class Scripted:
    """A worker that does nothing but remember, with the times it is told to report."""

    def __init__(self, calls, contender, seconds=1.0, compiles=(), failing=None):
        self.calls, self.contender, self.failing = calls, contender, failing
        self.seconds, self.waiting = seconds, list(compiles)

    def prepare(self, steps):
        self.calls.append((self.contender.engine, "prepare", steps))
        if self.failing == "prepare":
            raise InputError("does not start")

    def block(self, steps):
        self.calls.append((self.contender.engine, "block", steps))
        if self.failing == "block":
            raise MemoryLimitError("too large")
        return [self.seconds] * steps, self.waiting.pop(0) if self.waiting else 0

    def facts(self):
        return {
            "precision": self.contender.precision, "neighbours_per_atom": 58.0, "first_seconds": 3.0,
            "base_memory": 10_000, "peak_memory": 10_000 + 16_000,
        }  # fmt: skip


def run(scripts, settings, entries=(FIRST, OTHER), sizes=(16,)):
    calls = []

    @contextmanager
    def start(contender, sample, settings):
        calls.append((contender.engine, "start", sample.atoms))
        yield Scripted(calls, contender, **scripts.get(contender.engine, {}))
        calls.append((contender.engine, "end", sample.atoms))

    return bench(entries, supercells(*crystal("W"), sizes), settings, start=start), calls


def test_contenders_run_in_turn_after_steps_that_do_not_count():
    settings = BenchSettings(steps=7, repeats=3, exclude=4)
    result, calls = run({"alpha": {"seconds": 0.5}, "beta": {"seconds": 0.25}}, settings)
    blocks = [("alpha", "block", 7), ("beta", "block", 7)] * 3
    starts = [("alpha", "start", 16), ("alpha", "prepare", 4), ("beta", "start", 16), ("beta", "prepare", 4)]
    assert calls[:-2] == starts + blocks
    assert {call[1] for call in calls[-2:]} == {"end"}
    one, two = result.measurements
    assert one.times == pytest.approx([0.5e6 / 16] * 3)  # µs per atom and step
    assert two.ratio == pytest.approx(2.0)
    assert one.ratio == 1.0
    assert (one.model, two.model, two.threads) == ("first", "other", 2)
    assert one.bytes_per_atom == pytest.approx(1000.0)
    assert one.spread == 0.0


def test_a_block_with_a_compilation_is_run_again():
    settings = BenchSettings(steps=2, repeats=1)
    result, calls = run({"alpha": {"compiles": [1, 0]}, "beta": {"compiles": [1] * 9}}, settings)
    assert calls.count(("alpha", "block", 2)) == 2
    assert calls.count(("beta", "block", 2)) == TRIES
    assert [m.compiled_while_timed for m in result.measurements] == [0, 1]
    assert [len(m.times) for m in result.measurements] == [1, 1]


@pytest.mark.parametrize("when", ["prepare", "block"])
def test_one_that_fails_does_not_stop_the_others(when):
    result, _ = run({"alpha": {"failing": when}}, BenchSettings(repeats=2))
    bad, good = result.measurements
    assert bad.error
    assert bad.times == ()
    assert len(good.times) == 2
    assert good.ratio is None  # nothing to compare with
    assert len(result.errors) == 1


def test_growth_compares_sizes():
    result, _ = run({"alpha": {"seconds": 1.0}}, BenchSettings(repeats=1), (FIRST,), (16, 128))
    small, large = result.measurements
    (row,) = result.growth()
    assert (row["from_atoms"], row["to_atoms"]) == (small.atoms, large.atoms) == (16, 128)
    assert row["time_ratio"] == pytest.approx(large.median / small.median)
    assert row["memory_growth"] == 0.0
    document = result.to_dict()
    assert document["measurements"][0]["median"] == small.median
    assert document["settings"]["repeats"] == 1


@pytest.mark.parametrize("change", [{"steps": 0}, {"repeats": 0}, {"exclude": 0}, {"seed": -1}])
def test_settings_are_checked(change):
    with pytest.raises(UsageError):
        replace(BenchSettings(), **change)


def test_supercells_are_cubes_nearest_to_the_size():
    samples = supercells(*crystal("W"), [1, 128, 130, 686, 100_000])
    assert [sample.atoms for sample in samples] == [2, 128, 686, 2 * 37**3]
    assert "bcc" in samples[0].name
    ideal = crystal("W")[1].repeat(4)
    moves = samples[1].structure.positions - ideal.positions
    assert moves.std() == pytest.approx(0.05, rel=0.1)
    again = supercells(*crystal("W"), [128])[0]
    np.testing.assert_array_equal(again.structure.positions, samples[1].structure.positions)


def test_crystals_have_the_ground_state_structure():
    assert len(crystal("Cu")[1]) == 4
    assert len(crystal("Si")[1]) == 8
    assert crystal("W", 3.0)[1].cell.lengths() == pytest.approx([3.0] * 3)
    for element, text in (("Mg", "hcp"), ("Xx", "no element")):
        with pytest.raises(InputError, match=text):
            crystal(element)
    with pytest.raises(UsageError):
        crystal("W", -1.0)
    assert default_element(["Cu", "W"]) == "W"
    assert default_element(["Mg", "Cu"]) == "Cu"
    with pytest.raises(InputError):
        default_element(["Mg"])


def test_what_cannot_be_repeated():
    with pytest.raises(UsageError, match="not"):
        supercells("water", molecule("H2O"), [100])
    with pytest.raises(UsageError):
        supercells("W", bulk("W"), [0])
    assert supercells("water", molecule("H2O"), [])[0].atoms == 3


def test_a_process_that_dies_is_an_error_with_its_cause():
    sample = supercells(*crystal("W"), [2])[0]
    with Worker(FIRST, sample, BenchSettings()) as worker:
        worker._process.kill()
        with pytest.raises(GraceError, match="memory"):
            worker.block(1)


def test_memory_of_this_process():
    before = resident_bytes()
    block = np.ones(8_000_000)
    assert resident_bytes() - before > 0.8 * block.nbytes
    assert resident_bytes(peak=True) >= resident_bytes() - 2**20
