"""Training from stores: the same data, the same bits, in memory or not."""

from __future__ import annotations

import numpy as np
import pytest

from gracecli.errors import InputError, UsageError
from gracecli.fit.checkpoint import load_checkpoint
from gracecli.fit.config import DataConfig, SetConfig
from gracecli.fit.config_read import make_config
from gracecli.fit.data import read_set
from gracecli.fit.frametable import table_of
from gracecli.fit.stream import open_set, stream_sets
from gracecli.fit.trainer import Trainer
from gracecli.store.store import Store


@pytest.fixture(scope="module")
def stored(tmp_path_factory, emt_structures):
    """Three sets of one store; another structure in between belongs to none."""
    path = tmp_path_factory.mktemp("store") / "copper.h5"
    images = emt_structures(30, seed=8, symbols=("Cu", "Ag"))
    with Store(path, "a") as store:
        store.append(images[:12], set_name="train")
        store.append(images[29:], set_name="")
        store.append(images[12:20], set_name="train")
        store.append(images[20:25], set_name="valid")
        store.append(images[25:29], set_name="test")
    return path


def same(one, other):
    assert np.array_equal(one.atoms.positions, other.atoms.positions)
    assert np.array_equal(one.atoms.cell.array, other.atoms.cell.array)
    assert np.array_equal(one.atoms.numbers, other.atoms.numbers)
    for name in ("energy", "forces", "stress"):
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
    for name in ("config_type", "set_name", "source", "weight", "share"):
        assert getattr(one, name) == getattr(other, name)


def test_streamed_frames_are_those_that_are_read(stored):
    entry = SetConfig(f"{stored}:set=train", weight=2.0, drop_shear=("odd",), drop_stress=("even",))
    whole, report = read_set(entry, DataConfig())
    frames, reports = stream_sets([entry], DataConfig())
    assert reports == [report]
    assert len(frames) == len(whole) == 20
    for streamed, one, again in zip(frames, whole, [frames[i] for i in range(20)], strict=True):
        same(streamed, one)
        same(again, one)
    table = table_of(whole)
    for name in ("share", "weight", "labels"):
        assert np.array_equal(getattr(frames.table, name), getattr(table, name))
    assert frames.table.strata() == table.strata()
    some = frames.subset([1, 4, 17])
    assert [f.source for f in some] == [whole[i].source for i in (1, 4, 17)]


def settings_for(settings, stored, directory, stream, **training):
    content = settings(stored, directory, epochs=4, batches_per_step=2, **training)
    content["data"] = {"train": [str(stored)], "stream": stream}
    return make_config(content)


@pytest.mark.slow
def test_weights_are_the_same_bit_for_bit(stored, tmp_path, settings):
    """In memory, streamed, and streamed with a crash in the middle."""
    one = Trainer(settings_for(settings, stored, tmp_path / "memory", "never")).run()
    assert one.metrics["valid"]["overall"]["structures"] == 5
    assert one.metrics["test"]["overall"]["structures"] == 4

    class CrashError(Exception):
        pass

    def crash(step):
        if step == 7:
            raise CrashError

    config = settings_for(settings, stored, tmp_path / "streamed", "always", checkpoint_steps=3)
    trainer = Trainer(config, after_step=crash)
    assert trainer.graphs.streamed
    with pytest.raises(CrashError):
        trainer.run()
    Trainer(config, resume=True).run()
    states = [load_checkpoint(tmp_path / name / "checkpoint.npz").arrays for name in ("memory", "streamed")]
    assert states[0].keys() == states[1].keys()
    assert all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[0])


@pytest.mark.slow
def test_two_workers_read_their_own_from_the_store(stored, tmp_path, settings, together):
    Trainer(settings_for(settings, stored, tmp_path / "memory", "never")).run()
    results = together(settings_for(settings, stored, tmp_path / "streamed", "always"), 2)
    assert results[0].completed, results
    states = [load_checkpoint(tmp_path / name / "checkpoint.npz").arrays for name in ("memory", "streamed")]
    assert all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[0])


def test_what_cannot_be_streamed_is_said(stored, copper):
    with pytest.raises(UsageError, match="none of the training sets is a store"):
        stream_sets([SetConfig(str(copper))], DataConfig())
    with pytest.raises(InputError, match="no structure matches"):
        open_set(SetConfig(f"{stored}:natoms>1000"), DataConfig())
    with pytest.raises(UsageError, match="own keys"):
        open_set(SetConfig(f"{stored}:set=train"), DataConfig(forces_key="dft_forces"))


def test_runs_of_vasp_are_training_data():
    from pathlib import Path

    sample = Path(__file__).parents[1] / "store" / "samples" / "vasprun.xml"
    frames, report = read_set(SetConfig(str(sample)), DataConfig())
    assert len(frames) == 2
    assert report.energy_key == "free_energy"
    assert report.stresses == 2
    assert np.isfinite(frames[0].forces).all()
