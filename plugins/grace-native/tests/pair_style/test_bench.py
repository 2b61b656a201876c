"""What ``grace bench --engine lammps`` times is the dynamics that ASE does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gracecli.run.bench import BenchSettings
from gracecli.run.bench_crystal import crystal, supercells
from gracecli.run.bench_worker import AseRunner, _with_velocities


def test_lammps_and_ase_go_the_same_way(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from grace_native.lammps.bench import LammpsRunner

    monkeypatch.setenv("GRACE_CACHE", str(tmp_path))
    atoms = _with_velocities(supercells(*crystal("W"), [128])[0].structure, BenchSettings())
    options = {"model": None, "precision": "fp64", "threads": 1, "timestep": 1.0}
    one, two = AseRunner("native", atoms.copy(), **options), LammpsRunner(atoms=atoms.copy(), **options)
    for runner in (one, two):
        assert len(runner.run(1)) == 1
        times = runner.run(6)
        assert len(times) == 6
        assert min(times) > 0
    ids = np.array(two._lammps.numpy.extract_atom("id"))[: len(atoms)]
    found = np.array(two._lammps.numpy.extract_atom("x"))[: len(atoms)][np.argsort(ids)]
    expected = one.atoms.positions
    difference = found @ np.linalg.inv(atoms.cell) - expected @ np.linalg.inv(atoms.cell)
    difference = (difference - np.round(difference)) @ atoms.cell
    assert np.abs(expected - atoms.positions).max() > 0.01  # they did move
    assert np.abs(difference).max() < 1e-5  # units of metal and of ASE differ in the seventh digit
