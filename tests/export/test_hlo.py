"""HLO: the exported program on JAX, which is an extra: GRACE_JAX_PYTHON may name a Python that has it."""

import os
import subprocess
from importlib.util import find_spec

import numpy as np
import pytest
from ase.build import bulk

from gracecli.errors import InputError, UsageError
from gracecli.export.reference import evaluate_model, graphs_for
from gracecli.export.run import export_model


def test_without_jax(model_file, tmp_path, monkeypatch):
    monkeypatch.delenv("GRACE_JAX_PYTHON", raising=False)
    monkeypatch.setattr("gracecli.export.hlo.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"JAX, which is not installed.*gracecli\[jax\]"):
        export_model(model_file("tiny"), "hlo", tmp_path / "out", options={"atoms": 4, "bonds": 64})
    assert list(tmp_path.iterdir()) == []


def test_structures_must_fit(model_file, tmp_path):
    bulk("Cu", cubic=True).write(tmp_path / "Cu.extxyz")
    bulk("W").write(tmp_path / "W.extxyz")
    for options, words in [
        ({"structure": tmp_path / "Cu.extxyz", "bonds": 5}, "do not fit"),
        ({"structure": tmp_path / "W.extxyz"}, "does not cover W"),
        ({"structure": tmp_path / "no.extxyz"}, "cannot read"),
    ]:
        with pytest.raises(InputError, match=words):
            export_model(model_file("tiny"), "hlo", tmp_path / "out", options=options)


@pytest.fixture
def jax_python():
    given = os.environ.get("GRACE_JAX_PYTHON")
    if not given and find_spec("jax") is None:
        pytest.skip("neither jax nor GRACE_JAX_PYTHON")
    from gracecli.export.hlo import jax_python

    return jax_python()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "pairs", "2l"])
def test_runs_on_jax(model, model_file, tmp_path, jax_python, name):
    done = export_model(model_file(name), "hlo", tmp_path / "out", options={"atoms": 16, "bonds": 1200})
    assert done.verification.structures >= 2
    assert done.verification.passed
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[1] = "Al"
    atoms.rattle(0.1, seed=1)
    (graph,) = graphs_for(model(name), [atoms])
    (wanted,) = evaluate_model(model(name), [graph])
    np.savez(
        tmp_path / "asked.npz", numbers0=graph.numbers, centre0=graph.centre, neighbour0=graph.neighbour,
        bond_vector0=graph.bond_vector,
    )  # fmt: skip
    runner = [jax_python, str(tmp_path / "out" / "run_on_jax.py")]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    asked, answered = tmp_path / "asked.npz", tmp_path / "answered.npz"
    subprocess.run([*runner, "--graphs", str(asked), str(answered)], env=environment, check=True)
    with np.load(answered) as found:
        np.testing.assert_allclose(found["energies0"], wanted.energies, atol=1e-11)
        np.testing.assert_allclose(found["forces0"], wanted.forces, atol=1e-10)
        np.testing.assert_allclose(found["virial0"] / graph.volume, wanted.stress, atol=1e-11)


@pytest.mark.slow
def test_too_small_for_every_structure(model_file, tmp_path, jax_python):
    with pytest.raises(UsageError, match="too small for every test structure"):
        export_model(model_file("tiny"), "hlo", tmp_path / "out", options={"atoms": 1, "bonds": 1})
