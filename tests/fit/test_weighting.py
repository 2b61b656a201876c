"""Weights by energy above the hull."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from gracecli.fit.config import DataConfig
from gracecli.fit.data import Frame
from gracecli.fit.weighting import EnergyWeights, Hull, apply_weighting, composition_of


def frame(symbols, energy_per_atom):
    atoms = Atoms(symbols, positions=np.arange(3.0 * len(Atoms(symbols))).reshape(-1, 3))
    n = len(atoms)
    return Frame(atoms, energy_per_atom * n, np.zeros((n, 3)), np.full(6, np.nan), "all", "set", symbols, weight=2.0)


def test_hull_is_the_lowest_mixture():
    """Cu and Au at 0; CuAu at -0.1 is stable; Cu3Au at +0.02 is 0.07 above the tie line."""
    frames = [frame("Cu", 0.0), frame("Cu2", 0.5), frame("Au", 0.0), frame("CuAu", -0.1), frame("Cu3Au", 0.02)]
    hull = Hull.of(frames).energies([composition_of(f) for f in frames])
    assert hull[composition_of(frames[3])] == pytest.approx(-0.1)
    assert hull[composition_of(frames[4])] == pytest.approx(-0.05)
    assert hull[composition_of(frames[1])] == pytest.approx(0.0)


def test_weights_follow_the_formula_and_average_to_one():
    frames = [frame("Cu", 0.0), frame("Cu2", 0.5), frame("Cu4", 2.0)]
    weights = EnergyWeights.of(frames, width=1.0)(frames)
    assert weights.mean() == pytest.approx(1.0)
    assert weights[0] / weights[1] == pytest.approx(1.5**2)
    assert weights[0] / weights[2] == pytest.approx(3.0**2)


def test_weights_multiply_those_of_the_sets():
    frames = [frame("Cu", 0.0), frame("Cu2", 0.5)]
    valid = [frame("Cu", 0.25), replace(frame("Cu", 0.0), energy=float("nan"))]
    data = DataConfig(weighting="energy", weighting_width=0.5)
    train, (weighted,) = apply_weighting(frames, [valid], data)
    expected = np.array([4.0, 1.0, 1 / 0.75**2, 4.0]) / 2.5 * 2.0
    assert [f.weight for f in (*train, *weighted)] == pytest.approx(expected.tolist())
    assert apply_weighting(frames, [valid], DataConfig())[0] is frames
