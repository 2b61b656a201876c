"""Optimizers, stages, early stop, ensembles and logs: what they do, and that resume is exact for all."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from gracecli.fit.checkpoint import load_checkpoint
from gracecli.fit.config_read import load_config, make_config
from gracecli.fit.template import keys, template
from gracecli.fit.trainer import Trainer

KINDS = {
    "amsgrad-stages": {
        "optimizer": "amsgrad",
        "weight_decay": 1e-4,
        "stages": [{"start": 0.5, "energy": 400.0, "learning_rate": 0.005}],
        "schedule": "linear",
    },
    "plateau": {"schedule": "plateau", "plateau_patience": 1, "learning_rate": 0.05},
    "lbfgs": {"optimizer": "lbfgs", "lbfgs_iterations": 8, "ema": 0.0},
}


class CrashError(Exception):
    """Stands for a kill between two steps."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_exact(kind, copper, tmp_path, settings):
    training = {"epochs": 6, "batches_per_step": 2, **KINDS[kind]}
    whole = Trainer(make_config(settings(copper, tmp_path / "whole", **training))).run()
    content = settings(copper, tmp_path / "broken", **training, checkpoint_steps=2)
    first = Trainer(make_config(content))
    counter = []

    def crash(step):
        counter.append(step)
        if len(counter) == (4 if kind == "lbfgs" else whole.steps * 2 // 3):
            raise CrashError

    first._after_step = crash
    with pytest.raises(CrashError):
        first.run()
    state = load_checkpoint(tmp_path / "broken" / "checkpoint.npz").state
    assert 0 < state.step < whole.steps
    resumed = Trainer(make_config(content), resume=True).run()
    assert resumed.steps == whole.steps
    one, other = (load_checkpoint(tmp_path / name / "checkpoint.npz").arrays for name in ("whole", "broken"))
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    if kind == "lbfgs":
        log = load_checkpoint(tmp_path / "whole" / "checkpoint.npz").state.log
        assert log[-1]["loss"] < 0.3 * log[0]["loss"]
        assert all(a["loss"] >= b["loss"] for a, b in itertools.pairwise(log))  # a line search only goes down


@pytest.mark.slow
def test_a_stage_shifts_the_error_from_forces_to_energies(copper, tmp_path, settings):
    results = {}
    for name, stages in (("forces", []), ("switched", [{"start": 0.5, "energy": 500.0, "forces": 0.1}])):
        content = settings(copper, tmp_path / name, epochs=60, learning_rate=0.02, stages=stages)
        content["loss"] = {"energy": 0.01, "forces": 10.0, "stress": 0.0}
        results[name] = Trainer(make_config(content)).run().metrics["valid"]["overall"]
    assert results["switched"]["energy_mae"] < 0.7 * results["forces"]["energy_mae"]


@pytest.mark.slow
def test_early_stop_ends_a_run_that_gains_nothing(copper, tmp_path, settings):
    content = settings(copper, tmp_path, epochs=50, learning_rate=1e-12, final_learning_rate=1e-12, early_stop=4)
    result = Trainer(make_config(content)).run()
    assert result.completed
    assert result.epochs == 5
    assert Trainer(make_config(content), resume=True).run().epochs == 5


def test_page_and_events(copper, tmp_path, settings):
    from html.parser import HTMLParser

    from tensorflow import make_ndarray
    from tensorflow.core.util.event_pb2 import Event
    from tensorflow.python.lib.io.tf_record import tf_record_iterator

    Trainer(make_config(settings(copper, tmp_path))).run()
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    stack, seen = [], []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append((tag, dict(attrs)))
            if tag not in ("meta", "img", "br"):
                stack.append(tag)

        def handle_endtag(self, tag):
            assert stack.pop() == tag

    Checker().feed(text)
    assert not stack
    sources = [attrs["src"] for tag, attrs in seen if tag == "img"]
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "even" in text
    assert "http" not in text.replace("http-equiv", "")

    events = next((tmp_path / "tensorboard").glob("events*"))
    tags = {}
    for record in tf_record_iterator(str(events)):
        event = Event.FromString(record)
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            tags.setdefault(value.tag, []).append((event.step, float(make_ndarray(value.tensor))))
    log = load_checkpoint(tmp_path / "checkpoint.npz").state.log
    assert [step for step, _ in tags["train/loss"]] == [1, 2, 3]
    assert tags["valid/forces_mae"][-1][1] == pytest.approx(log[-1]["valid_forces_mae"], rel=1e-6)


@pytest.mark.slow
def test_ensemble_of_seeds(copper, tmp_path, settings):
    from gracecli.fit.ensemble import run_ensemble

    content = settings(copper, tmp_path, epochs=15, learning_rate=0.03)
    result = run_ensemble(make_config(content), [4, 7])
    summary = json.loads((tmp_path / "ensemble.json").read_text(encoding="utf-8"))
    assert [member["seed"] for member in summary["members"]] == [4, 7]
    assert all((tmp_path / f"seed-{seed}" / "model.grace").is_file() for seed in (4, 7))
    errors = [member.metrics["valid"]["overall"]["forces_mae"] for member in result.members]
    assert errors[0] != errors[1]
    assert result.mean["valid"]["forces_mae"] < np.mean(errors)  # convexity of the absolute error
    assert result.spread["valid"]["forces_spread"] > 0
    again = run_ensemble(make_config(content), [4, 7], resume=True)
    assert again.mean == result.mean


def test_template_has_every_key_and_the_defaults(tmp_path):
    path = tmp_path / "fit.toml"
    path.write_text(template(), encoding="utf-8")
    loaded = load_config(path)
    expected = make_config({"data": {"train": ["train.extxyz"]}}, folder=tmp_path)
    assert loaded == expected
    lines = template().splitlines()
    for key in keys():
        name = key.split(".")[1]
        assert any(line.lstrip("# [").startswith((f"{name} =", f"training.{name}]]")) for line in lines), key
    uncommented = "\n".join(line.removeprefix("# ") if " = " in line or "[[" in line else line for line in lines)
    path.write_text(uncommented.replace('"${DATA:-.}"', '"."'), encoding="utf-8")
    assert load_config(path).training.stages[0].energy == 128.0  # the examples are valid too
