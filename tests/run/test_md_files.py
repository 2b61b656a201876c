"""Files of a run: H5MD that MDAnalysis opens, logs and trajectories that are cut to the checkpoint, explosions."""

import importlib.util
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from ase.units import fs

from gracecli.errors import InputError, PhysicsError, UsageError
from gracecli.run.md import Simulation, run
from gracecli.run.md_checkpoint import load_checkpoint
from gracecli.run.md_files import FileRecorder, MdFiles
from gracecli.run.md_log import read_log
from gracecli.run.md_settings import MdSettings, parse_temperature, parse_time
from gracecli.run.md_trajectory import Trajectory
from gracecli.store import superblock

specification = importlib.util.spec_from_file_location("md_models", Path(__file__).parent / "md_models.py")
md_models = importlib.util.module_from_spec(specification)
sys.modules["md_models"] = md_models
specification.loader.exec_module(md_models)

SETTINGS = MdSettings(
    ensemble="npt-mtk", timestep=2.0, steps=60, seed=4, thermo_every=5, trajectory_every=10, checkpoint_every=25,
    write_forces=True,
)  # fmt: skip


def record_run(folder, settings=SETTINGS, stop_at=None):
    atoms, calculator = md_models.crystal()
    files = MdFiles(folder)
    files.prepare(force=False)
    simulation = Simulation.begin(atoms, calculator, settings)
    recorder = FileRecorder(files, simulation.system.atoms, settings)
    outcome = run(simulation, recorder, should_stop=lambda: simulation.step == stop_at)
    recorder.close()
    return files, simulation, outcome


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return record_run(tmp_path_factory.mktemp("md") / "whole")


def test_mdanalysis_opens_the_trajectory(finished):
    mdanalysis = pytest.importorskip("MDAnalysis", exc_type=ImportError)
    files, simulation, _ = finished
    universe = mdanalysis.Universe(str(files.trajectory), to_guess=())  # no names in it to guess types from
    assert len(universe.atoms) == 32
    assert len(universe.trajectory) == 7
    last = universe.trajectory[-1]
    assert last.time == pytest.approx(0.12)  # ps
    assert last.data["step"] == 60
    np.testing.assert_allclose(universe.atoms.positions, simulation.system.positions, atol=2e-6)
    velocities = simulation.system.momenta / simulation.system.masses * fs * 1e3  # Å/ps
    np.testing.assert_allclose(universe.atoms.velocities, velocities, atol=1e-4)
    np.testing.assert_allclose(universe.atoms.forces, simulation.system.forces * 96.48533, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(last.dimensions[:3], np.linalg.norm(simulation.system.cell, axis=1), rtol=1e-6)
    assert last.data["temperature"] == pytest.approx(simulation.system.temperature())
    universe.trajectory.close()


def test_layout_is_h5md(finished):
    with h5py.File(finished[0].trajectory) as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        group = file["particles/trajectory"]
        assert group["position/value"].shape == (7, 32, 3)
        assert group["position/value"].attrs["unit"] == "Angstrom"
        assert group["position/step"] == group["velocity/step"]  # one dataset, linked
        assert list(group["box"].attrs["boundary"]) == ["periodic"] * 3
        assert group["position/step"][:].tolist() == [0, 10, 20, 30, 40, 50, 60]
        assert file["observables/pressure/value"].attrs["unit"] == "GPa"
        assert group["species"][:].tolist() == [29] * 32


def test_file_is_open_to_all_while_it_is_written(tmp_path):
    files = MdFiles(tmp_path / "run")
    files.prepare(force=False)
    atoms, calculator = md_models.crystal()
    simulation = Simulation.begin(atoms, calculator, SETTINGS)
    recorder = FileRecorder(files, simulation.system.atoms, SETTINGS)
    seen = []

    def look(sample):
        with h5py.File(files.trajectory, "r", locking=False) as file:
            seen.append(len(file["particles/trajectory/position/value"]))
        assert superblock.read(files.trajectory).flags == 0

    run(simulation, recorder, observer=look)
    recorder.close()
    assert seen == sorted(seen)
    assert seen[-1] == 6  # frames up to the checkpoint of step 50


@pytest.mark.parametrize("stop_at", [7, 25, 38])
def test_resumed_files_are_those_of_the_uninterrupted_run(finished, tmp_path, stop_at):
    files, _, outcome = record_run(tmp_path / "run", stop_at=stop_at)
    assert outcome.status == "interrupted"
    resume(files)
    assert_same_files(finished[0], files)


def test_rows_and_frames_behind_the_checkpoint_are_cut(finished, tmp_path):
    """As after a kill between the trajectory and the checkpoint: both files go on beyond what the checkpoint knows."""
    files, _, _ = record_run(tmp_path / "run", stop_at=30)
    early = files.checkpoint.read_bytes()
    resume(files, 50)
    files.checkpoint.write_bytes(early)
    with files.log.open("a") as stream:
        stream.write("55,110.0,3")  # half a row
    resume(files)
    assert_same_files(finished[0], files)


def test_a_mark_of_a_killed_writer_is_taken_off(finished, tmp_path):
    files, _, _ = record_run(tmp_path / "run", stop_at=30)
    head = bytearray(files.trajectory.read_bytes()[:48])
    head[11] = 5
    head[44:48] = superblock.lookup3(bytes(head[:44])).to_bytes(4, "little")
    with files.trajectory.open("r+b") as stream:
        stream.write(head)
    with Trajectory(files.trajectory) as trajectory:
        assert trajectory.frames == 4
    resume(files)
    assert_same_files(finished[0], files)


def test_a_run_can_be_made_longer(finished, tmp_path):
    files, _, _ = record_run(tmp_path / "run", replace(SETTINGS, steps=40))
    resume(files, 60)
    assert_same_files(finished[0], files)


@pytest.mark.parametrize("damage", ["truncated log", "no trajectory", "short trajectory"])
def test_files_that_lack_what_the_checkpoint_knows_are_an_error(finished, tmp_path, damage):
    shutil.copytree(finished[0].folder, tmp_path / "run")
    files = MdFiles(tmp_path / "run")
    if damage == "truncated log":
        files.log.write_text("step\n")
    elif damage == "no trajectory":
        files.trajectory.unlink()
    else:
        shutil.copy(record_run(tmp_path / "other", replace(SETTINGS, steps=10))[0].trajectory, files.trajectory)
    with pytest.raises(InputError, match=r"thermo|trajectory"):
        resume(files, 80)


def test_log_is_read_without_loss_and_without_a_broken_last_row(finished, tmp_path):
    columns = read_log(finished[0].log)
    assert columns["step"].tolist() == list(range(0, 61, 5))
    sample = finished[1].sample()
    assert columns["conserved_energy"][-1] == sample.conserved_energy
    np.testing.assert_allclose(
        columns["pressure"], -(columns["stress_xx"] + columns["stress_yy"] + columns["stress_zz"]) / 3
    )
    copy = tmp_path / "thermo.csv"
    copy.write_bytes(finished[0].log.read_bytes()[:-3])
    assert len(read_log(copy)["step"]) == 12


def test_without_force_a_run_is_not_overwritten(finished):
    with pytest.raises(InputError, match="holds a run already"):
        finished[0].prepare(force=False)


class Breaking(Calculator):
    """The Morse crystal until a number of evaluations, then something else."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, inner, after, change):
        super().__init__()
        self.inner, self.after, self.change, self.calls = inner, after, change, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        self.inner.calculate(atoms, properties, system_changes)
        self.results = dict(self.inner.results)
        self.calls += 1
        if self.calls > self.after:
            self.change(self.results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda results: results.update(energy=np.nan, free_energy=np.nan), "not a number"),
        (lambda results: results.update(forces=results["forces"] * np.nan), "not a number"),
        (lambda results: results.update(forces=results["forces"] + 400.0 * np.eye(32, 3)), " K "),
    ],
)
def test_an_explosion_ends_the_run_and_keeps_what_was_good(tmp_path, change, message):
    atoms, inner = md_models.crystal()
    files = MdFiles(tmp_path / "run")
    files.prepare(force=False)
    settings = replace(SETTINGS, ensemble="nve")
    simulation = Simulation.begin(atoms, Breaking(inner, 33, change), settings)
    recorder = FileRecorder(files, simulation.system.atoms, settings)
    outcome = run(simulation, recorder)
    recorder.explosion()
    recorder.close()
    assert outcome.status == "exploded"
    assert message in outcome.message
    state = load_checkpoint(files.checkpoint)
    assert state.step == 25
    assert all(np.isfinite(value).all() for value in state.system.values())
    with Trajectory(files.trajectory) as trajectory:
        assert np.isfinite(trajectory.positions()).all()
    assert files.last_good.is_file()


def test_atoms_too_close_end_the_run_with_any_calculator():
    atoms, _ = md_models.crystal()
    atoms.positions[1] = atoms.positions[0] + [1.3, 0.0, 0.0]
    settings = replace(SETTINGS, ensemble="nve", min_distance=1.4, max_temperature=1e9)
    with pytest.raises(PhysicsError, match="apart"):
        run(Simulation.begin(atoms, LennardJones(sigma=2.3, epsilon=0.1), settings))


@pytest.mark.parametrize(("text", "value"), [("10ps", 1e4), ("1.5 ns", 1.5e6), ("250fs", 250.0), ("1e1ps", 1e4)])
def test_times(text, value):
    assert parse_time(text) == value


@pytest.mark.parametrize("text", ["10", "ps", "-1ps", "10 s", "0fs", "1.2.3ps"])
def test_bad_times(text):
    with pytest.raises(UsageError):
        parse_time(text)


def test_temperatures_and_ramps():
    assert parse_temperature("300") == (300.0, 300.0)
    assert parse_temperature("300:1200") == (300.0, 1200.0)
    for text in ("hot", "1:2:3", "-5", "nan"):
        with pytest.raises(UsageError):
            parse_temperature(text)
    settings = MdSettings(temperature=300.0, temperature_end=1200.0, steps=100, ramp_steps=100)
    assert [settings.continued(200).target_temperature(step) for step in (0, 50, 100, 150)] == [300, 750, 1200, 1200]


def resume(files, steps=60):
    state = load_checkpoint(files.checkpoint)
    _, calculator = md_models.crystal()
    simulation = Simulation.resume(state, calculator, state.settings.continued(steps))
    recorder = FileRecorder(files, simulation.system.atoms, simulation.settings, state)
    try:
        assert run(simulation, recorder).status == "finished"
    finally:
        recorder.close()


def assert_same_files(one, other):
    assert one.log.read_bytes() == other.log.read_bytes()
    with h5py.File(one.trajectory) as a, h5py.File(other.trajectory) as b:
        names = []
        a.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        assert len(names) > 8
        for name in names:
            assert a[name][...].tobytes() == b[name][...].tobytes(), name
    first, second = np.load(one.checkpoint), np.load(other.checkpoint)
    for name in set(first.files) - {"document"}:
        assert first[name].tobytes() == second[name].tobytes(), name
