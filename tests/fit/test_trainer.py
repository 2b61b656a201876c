from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gracecli.errors import InputError
from gracecli.fit.checkpoint import load_checkpoint
from gracecli.fit.config_read import make_config
from gracecli.fit.stop import TrainingInterrupted
from gracecli.fit.trainer import Trainer

EPOCHS = 100
REPOSITORY = Path(__file__).resolve().parents[2]


class Killed(Exception):
    """Stands for a crash between two steps."""


def final_state(directory: Path) -> dict[str, np.ndarray]:
    return load_checkpoint(directory / "checkpoint.npz").arrays


def assert_same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.fixture(scope="module")
def uninterrupted(copper, tmp_path_factory, settings):
    directory = tmp_path_factory.mktemp("whole")
    content = settings(copper, directory, epochs=EPOCHS, batches_per_step=2, validate_every=20, learning_rate=0.03)
    return Trainer(make_config(content)).run(), content


def test_a_small_set_is_learnt(uninterrupted):
    result, _ = uninterrupted
    rows = list(csv.DictReader((result.directory / "log.csv").read_text(encoding="utf-8").splitlines()))
    assert [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
    assert float(rows[-1]["loss"]) < 0.2 * float(rows[0]["loss"])
    assert float(rows[-1]["valid_energy_mae"]) < 8.0  # meV/atom; they scatter by 50
    assert float(rows[-1]["valid_forces_mae"]) < 150.0  # meV/Å; they are 950
    assert result.completed
    assert result.metrics["valid"]["overall"]["structures"] == 5


def test_files_of_a_fit(uninterrupted):
    from gracecli.model.modelfile import load_model

    result, _ = uninterrupted
    for name in ("curves.png", "parity.png"):
        assert (result.directory / name).read_bytes().startswith(b"\x89PNG")
    report = json.loads((result.directory / "report.json").read_text(encoding="utf-8"))
    assert report["schema"] == "gracecli.fit-report"
    model = load_model(result.model)
    assert model.elements == ("Cu",)
    training = model.metadata["training"]
    assert training["data"]["train"][0]["frames"] == 24
    assert len(training["data"]["train"][0]["sha256"]) == 64
    assert training["seed"] == 1
    assert model.metadata["metrics"]["valid"]["by_config_type"].keys() >= {"copper/even"}


def test_the_model_file_gives_the_reported_errors(uninterrupted):
    """Evaluated by the engine (exact radial functions) instead of the trainer (projected ones)."""
    from gracecli.engine.calculator import GraceCalculator

    result, content = uninterrupted
    trainer = Trainer(make_config(content), force=False, resume=True)
    frames = trainer.data.valid
    calculator = GraceCalculator(str(result.model))
    energies = []
    for frame in frames:
        atoms = frame.atoms.copy()
        atoms.calc = calculator
        energies.append(1e3 * abs(atoms.get_potential_energy() - frame.energy) / len(atoms))
    assert np.mean(energies) == pytest.approx(result.metrics["valid"]["overall"]["energy_mae"], abs=0.02)


def test_resume_after_a_crash_in_mid_epoch_is_exact(uninterrupted, copper, tmp_path, settings):
    result, _ = uninterrupted
    content = settings(
        copper, tmp_path, epochs=EPOCHS, batches_per_step=2, validate_every=20, learning_rate=0.03, checkpoint_steps=10
    )
    steps = result.steps
    crash_at = steps // 2 + 1

    def crash(step: int) -> None:
        if step == crash_at:
            raise Killed

    with pytest.raises(Killed):
        Trainer(make_config(content), after_step=crash).run()
    state = load_checkpoint(tmp_path / "checkpoint.npz").state
    assert 0 < state.step < crash_at
    assert state.position > 0  # truly within an epoch
    content = settings(copper, tmp_path, epochs=EPOCHS, batches_per_step=2, validate_every=20, learning_rate=0.03)
    content["training"]["threads"] = 2
    resumed = Trainer(make_config(content), resume=True).run()
    assert resumed.steps == steps
    assert_same_bits(final_state(tmp_path), final_state(result.directory))


def test_stops_leave_a_checkpoint_and_say_so(uninterrupted, copper, tmp_path, settings):
    content = settings(copper, tmp_path, epochs=12, max_time="0.001s")
    limited = Trainer(make_config(content)).run()
    assert not limited.completed
    assert limited.steps == 0
    content["training"]["max_time"] = "1h"
    trainer = Trainer(make_config(content), resume=True, after_step=lambda n: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(TrainingInterrupted) as caught:
        trainer.run()
    assert caught.value.exit_code == 130
    assert load_checkpoint(tmp_path / "checkpoint.npz").state.step == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    with pytest.raises(InputError, match=r"holds a fit.*--resume"):
        Trainer(make_config(content))
    content["training"]["seed"] = 2
    with pytest.raises(InputError, match="other settings or data"):
        Trainer(make_config(content), resume=True)


def test_damaged_and_missing_checkpoints(copper, tmp_path, settings):
    config = make_config(settings(copper, tmp_path))
    with pytest.raises(InputError, match="nothing to resume"):
        Trainer(config, resume=True)
    (tmp_path / "checkpoint.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "checkpoint.npz")


@pytest.mark.slow
def test_kill_minus_nine_in_mid_epoch_resumes_to_the_same_bits(copper, tmp_path):
    """Two processes of ``grace fit``: one undisturbed, one killed while it trains and then resumed."""

    def command(directory: Path, *options: str) -> list[str]:
        config = directory.parent / "fit.toml"
        config.write_text(
            f"""
            [data]
            train = ["{copper}"]
            valid_fraction = 0.2
            [model]
            cutoff = 3.6
            [model.overrides]
            lmax = 1
            order = 2
            n_radial = 4
            n_product = 4
            hidden = [8]
            embedding = 4
            [training]
            epochs = 400
            batch_atoms = 16
            checkpoint_steps = 7
            """,
            encoding="utf-8",
        )
        program = [sys.executable, "-m", "gracecli.cli.main", "fit", str(config), "-o", str(directory)]
        return [*program, *options]

    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(whole), check=True, env=environment, cwd=REPOSITORY, capture_output=True)
    process = subprocess.Popen(
        command(broken), env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if line.startswith("epoch 100/"):
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stderr.read()
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    assert load_checkpoint(broken / "checkpoint.npz").state.epoch < 399
    subprocess.run(command(broken, "--resume"), check=True, env=environment, cwd=REPOSITORY, capture_output=True)
    assert_same_bits(final_state(broken), final_state(whole))
