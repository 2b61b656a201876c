from __future__ import annotations

import ase.io
import numpy as np
import pytest

from gracecli.errors import InputError, UsageError
from gracecli.fit.checkpoint import load_checkpoint
from gracecli.fit.config_read import make_config
from gracecli.fit.trainer import Trainer
from gracecli.fit.tuning.replay import LABELLED
from gracecli.model.heads import head_names, select_head
from gracecli.model.modelfile import load_model


class Killed(Exception):
    """Stands for a crash between two steps."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRACE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def replay(tune, silver, copper):
    """Settings: silver at other energies is new, labelled copper is old."""

    def settings(directory, **training) -> dict:
        old = {"replay": [str(copper)], "head": "shifted"}
        return tune(silver, "replay", directory, tuning=old, batches_per_step=2, **training)

    return settings


def test_two_heads_on_one_body(replay, tmp_path, base, evaluated, silver, copper):
    result = Trainer(make_config(replay(tmp_path / "fit", epochs=12))).run()
    model = load_model(result.model)
    assert head_names(model) == ("shifted", "base")
    shared = set(model.weights) - set(model.heads["base"].weights)
    assert {name.split("/")[0] for name in model.heads["base"].weights} == {"rho", "LinMLPOut2ScalarTarget"}
    start = load_model(base)
    assert any(not np.array_equal(model.weights[name], start.weights[name]) for name in shared)  # the body moves
    for head, path in (("shifted", silver), ("base", copper)):  # each head at its own level of theory
        structures = ase.io.read(path, ":")
        labels = np.array([atoms.get_potential_energy() / len(atoms) for atoms in structures])
        error, before = (
            np.mean([abs(r.energy / 4 - e) for r, e in zip(evaluated(m, structures), labels, strict=True)])
            for m in (f"{result.model}#{head}", base)
        )
        assert error < 0.8 * before
    assert set(result.metrics["valid"]["by_set"]) == {"silver", "replay copper"}


@pytest.mark.slow
def test_two_workers_give_the_bits_of_one_process(replay, tmp_path, together):
    """Heads are summed apart, as one process does; the others wait until the chief has prepared the start."""
    training = {"epochs": 2, "ema": 0.0}
    Trainer(make_config(replay(tmp_path / "one", **training))).run()
    results = together(replay(tmp_path / "two", **training), 2)
    assert results[0].completed, results
    one, two = (load_checkpoint(tmp_path / name / "checkpoint.npz").arrays for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


@pytest.mark.slow
def test_the_reported_errors_are_those_of_the_heads(replay, tmp_path, evaluated):
    trainer = Trainer(make_config(replay(tmp_path / "fit")))
    result = trainer.run()
    for name, head in (("silver", "shifted"), ("replay copper", "base")):
        frames = [frame for frame in trainer.data.valid if frame.set_name == name]
        found = evaluated(f"{result.model}#{head}", [frame.atoms for frame in frames])
        errors = [abs(r.energy - f.energy) / len(f.atoms) * 1e3 for r, f in zip(found, frames, strict=True)]
        assert np.mean(errors) == pytest.approx(result.metrics["valid"]["by_set"][name]["energy_mae"], abs=0.05)


def test_heads_start_as_the_base(replay, tmp_path, base):
    """Before any step the base head is the base, bit for bit."""
    trainer = Trainer(make_config(replay(tmp_path / "fit")))
    joined = trainer.adapter.model(trainer.blueprint, trainer.optimizer.weights(), {})
    assert select_head(joined, "base").sha256() == load_model(base).sha256()


@pytest.mark.slow
def test_resume_after_a_crash_is_exact(replay, tmp_path):
    whole = Trainer(make_config(replay(tmp_path / "whole"))).run()

    def crash(step: int) -> None:
        if step == whole.steps // 2 + 1:
            raise Killed

    settings = make_config(replay(tmp_path / "broken", checkpoint_steps=2))
    with pytest.raises(Killed):
        Trainer(settings, after_step=crash).run()
    resumed = Trainer(settings, resume=True).run()
    one, other = (load_checkpoint(r.directory / "checkpoint.npz").arrays for r in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_the_model_labels_old_structures_itself(tune, silver, alloy, tmp_path, base, evaluated):
    pseudo = {"replay_structures": [str(alloy)], "augment": ["rattle", "unaries"]}
    trainer = Trainer(make_config(tune(silver, "replay", tmp_path / "fit", tuning=pseudo)))
    labelled = ase.io.read(tmp_path / "fit" / LABELLED, ":")
    kinds = [atoms.info["config_type"] for atoms in labelled]
    assert kinds.count("rattle") == 3 * 16
    assert kinds.count("unary-fcc") == 2 * 9
    expected = evaluated(base, labelled)
    for atoms, result in zip(labelled, expected, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(result.energy, abs=1e-6)
        assert atoms.get_forces() == pytest.approx(result.forces, abs=1e-6)
    sets = {frame.set_name for frame in trainer.data.train}
    assert sets == {"silver", "replay pseudo-labels"}


def test_the_base_head_does_not_cover_new_elements(tune, emt_structures, write, tmp_path, base):
    """What a copied row says of gold is no knowledge: it is neither replayed nor offered."""
    gold = write(tmp_path / "gold.extxyz", emt_structures(6, 71, ("Au",)))
    trainer = Trainer(make_config(tune(gold, "replay", tmp_path / "fit", tuning={"augment": ["unaries"]})))
    replayed = {s for f in trainer.data.train if f.set_name != "gold" for s in f.atoms.get_chemical_symbols()}
    assert replayed == {"Cu", "Ag"}
    model = trainer.adapter.model(trainer.blueprint, trainer.optimizer.weights(), {})
    assert set(select_head(model, "new").elements) == {"Cu", "Ag", "Au"}
    assert select_head(model, "base").sha256() == load_model(base).sha256()
    wrong = tune(gold, "replay", tmp_path / "other", tuning={"replay": [str(gold)]})
    with pytest.raises(InputError, match="old data have Au"):
        Trainer(make_config(wrong))


def test_replay_needs_old_data(tune, silver):
    with pytest.raises(UsageError, match="needs old data") as caught:
        Trainer(make_config(tune(silver, "replay")))
    assert "--replay FILE" in str(caught.value.hint)
    with pytest.raises(UsageError, match="rattle copy old structures"):
        Trainer(make_config(tune(silver, "replay", tuning={"augment": ["rattle"]})), force=True)
    with pytest.raises(UsageError, match="belong to the strategy replay"):
        make_config(tune(silver, "naive", tuning={"augment": ["unaries"]}))
    with pytest.raises(UsageError, match="no augmentation is called 'unary'"):
        make_config(tune(silver, "replay", tuning={"augment": ["unary"]}))
    with pytest.raises(UsageError, match="two names"):
        make_config(tune(silver, "replay", tuning={"augment": ["unaries"], "head": "base"}))
