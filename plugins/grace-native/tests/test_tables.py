"""Radial functions and their tables."""

from __future__ import annotations

import numpy as np
import pytest
from grace_native.radial_functions import RadialFunctions
from grace_native.splines import compress, evaluate_spline, tabulate
from grace_native.tables import RANK_TOLERANCE, TOLERANCE
from native_models import MODELS, read

from gracecli.model.blueprint import ChemicalDensity, LinearRadial, MLPRadial
from gracecli.model.radial import SplineGrid


def functions(name: str) -> list[object]:
    model = read(name)
    made = RadialFunctions(model.blueprint, model.weights, "fp64")
    nodes = [n.name for n in model.blueprint.of_type(LinearRadial, MLPRadial, ChemicalDensity)]
    return [made.of(n, i, j) for n in nodes for i in range(2) for j in range(2)]


@pytest.mark.parametrize("name", MODELS)
def test_slopes_are_derivatives(name: str) -> None:
    for f in functions(name):
        d = np.linspace(0.8, 0.95 * f.end, 40)
        h = 1e-4
        slope = f.values_and_slopes(d)[1]
        left, right, left2, right2 = (f.values_and_slopes(d + k * h)[0] for k in (-1, 1, -2, 2))
        numeric = (8 * (right - left) - (right2 - left2)) / (12 * h)
        assert np.abs(slope - numeric).max() < 1e-7 * max(1.0, np.abs(slope).max())


@pytest.mark.parametrize("name", MODELS)
def test_functions_vanish_smoothly_at_the_cutoff(name: str) -> None:
    for f in functions(name):
        value, slope = f.values_and_slopes(np.array([f.end * (1 - 1e-9)]))
        flat = f.mixing.reshape(len(f.mixing), -1)
        assert np.abs(value @ flat).max() < 1e-6
        if name != "fs":  # the Bessel functions of fs end with a kink in the second derivative only
            assert np.abs(slope @ flat).max() < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_compression_keeps_the_functions(name: str) -> None:
    for f in functions(name):
        made = compress(f, RANK_TOLERANCE["fp64"])
        d = np.random.default_rng(0).uniform(0.3, 0.999, 200) * f.end
        phi = np.real(f.features(d))
        exact = np.einsum("pk,knl->pnl", phi, f.mixing)
        found = np.einsum("pk,knl->pnl", phi @ made.projection, made.mixing)
        assert np.abs(exact - found).max() < 1e-11 * np.abs(exact).max()


@pytest.mark.parametrize("name", MODELS)
def test_tables_keep_their_promise_between_the_probes(name: str) -> None:

    for f in functions(name)[:2]:
        intervals, coefficients, error = tabulate(f.features, f.end, TOLERANCE["fp64"])
        assert error < 1e-8
        d = np.random.default_rng(1).uniform(0.06, 0.9999, 3000) * f.end
        value, _ = evaluate_spline(SplineGrid(f.end, intervals), coefficients, d)
        exact = np.real(f.features(d))
        assert np.abs(value - exact).max() < 10 * max(error, 1e-12) * np.abs(exact).max()
