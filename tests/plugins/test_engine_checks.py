"""The checks of engines must pass right engines, and fail wrong ones for the right reason."""

from dataclasses import replace

import numpy as np
import pytest

from grace_toy.emt import create_engine as create_emt
from grace_toy.lj import LennardJones
from gracecli.plugin.engine_checks import FAILED, check_engine


class Mutant(LennardJones):
    """A Lennard-Jones engine with one mistake."""

    def __init__(self, mistake):
        super().__init__(sigma=2.2)
        self.mistake = mistake

    def evaluate(self, graphs):
        return [self.mistake(graph, result) for graph, result in zip(graphs, super().evaluate(graphs), strict=True)]


def shifted_in_batch(engine):
    """An engine whose answers depend on what else is in the batch."""

    def evaluate(graphs):
        results = LennardJones.evaluate(engine, graphs)
        return [replace(result, energy=result.energy + 1e-6 * (len(graphs) - 1)) for result in results]

    return evaluate


def test_right_engines_pass():
    for engine in (LennardJones(sigma=2.2), LennardJones(epsilon=1.0, sigma=2.5, cutoff=4.0), create_emt()):
        for seed in (0, 1):
            assert [check for check in check_engine(engine, seed) if check.outcome == FAILED] == []


@pytest.mark.parametrize(
    ("mistake", "check"),
    [
        (lambda graph, result: replace(result, forces=1.001 * result.forces), "forces are -dE/dr"),
        (lambda graph, result: replace(result, forces=np.roll(result.forces, 1, axis=0)), "forces are -dE/dr"),
        (lambda graph, result: replace(result, stress=-result.stress), "stress is dE/dstrain / V"),
        (lambda graph, result: replace(result, stress=result.stress[[0, 1, 2, 5, 4, 3]]), "stress is dE/dstrain / V"),
        (lambda graph, result: replace(result, stress=2 * result.stress), "stress is dE/dstrain / V"),
        (lambda graph, result: replace(result, energies=result.energies + 1e-6), "energy is the sum over atoms"),
        (lambda graph, result: replace(result, energy=result.energy + 1e-6), "same for a doubled cell"),
        (
            lambda graph, result: replace(result, forces=result.forces * (1, 1, -1)),
            "same under rotation and translation",
        ),
        (
            lambda graph, result: replace(result, forces=result.forces + [[1e-3, 0, 0]] + 0 * result.forces),
            "no cell, no stress",
        ),
        (lambda graph, result: replace(result, stress=np.nan_to_num(result.stress)), "no cell, no stress"),
        (
            lambda graph, result: replace(result, energy=result.energy + 1e-3 * graph.numbers[0]),
            "same under exchange of atoms",
        ),
        (lambda graph, result: replace(result, forces=np.nan * result.forces), "forces are -dE/dr"),
    ],
)
def test_wrong_engines_fail(mistake, check):
    failed = {item.check for item in check_engine(Mutant(mistake), seed=1) if item.outcome == FAILED}
    assert check in failed


def test_an_engine_that_mixes_up_its_batch_fails():
    engine = LennardJones(sigma=2.2)
    engine.evaluate = shifted_in_batch(engine)
    failed = {item.check for item in check_engine(engine) if item.outcome == FAILED}
    assert "many at once as one at a time" in failed


def test_an_object_that_is_no_engine_fails():
    (check,) = check_engine(object())
    assert check.outcome == FAILED
    assert check.check == "has the Engine interface"
