from __future__ import annotations

import pytest

from gracecli.errors import InputError, UsageError
from gracecli.fit.config import FitConfig
from gracecli.fit.config_check import parse_time
from gracecli.fit.config_read import load_config, make_config


def test_unknown_key_names_the_nearest():
    with pytest.raises(UsageError, match=r"'learning_rat'.*training.*learning_rate"):
        make_config({"training": {"learning_rat": 0.1}})
    with pytest.raises(UsageError, match="drop_stress"):
        make_config({"data": {"train": [{"path": "a", "dropstress": ["x"]}]}})
    with pytest.raises(UsageError, match="training"):
        make_config({"trainning": {}})


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("training", "epochs", "ten", "expected int"),
        ("training", "epochs", True, "expected int"),
        ("training", "epochs", 0, "must be positive"),
        ("training", "precision", "fp16", "fp64, fp32"),
        ("training", "ema", 1.0, "less than 1"),
        ("training", "max_time", "soon", "not a time"),
        ("loss", "energy", -1.0, "not be negative"),
        ("data", "valid_fraction", 1.0, "less than 1"),
        ("model", "reference", {"Cu": "x"}, "expected float"),
    ],
)
def test_bad_values_are_usage_errors(section, key, value, message):
    with pytest.raises(UsageError, match=message):
        make_config({section: {key: value}})


def test_command_line_wins_over_file_over_default(tmp_path):
    path = tmp_path / "fit.toml"
    path.write_text('[data]\ntrain = ["x.extxyz"]\n[training]\nepochs = 7\nlearning_rate = 1\n', encoding="utf-8")
    config = load_config(path, {"training": {"epochs": 9, "threads": None}})
    assert (config.training.epochs, config.training.learning_rate) == (9, 1.0)
    assert config.training.threads == FitConfig().training.threads


def test_sizes_belong_to_the_preset_they_were_chosen_for():
    content = {"model": {"preset": "1l-small", "overrides": {"n_radial": 16}}}
    assert make_config(content, {"model": {"preset": "1l-small"}}).model.overrides == {"n_radial": 16}
    assert make_config(content, {"model": {"preset": "linear-large"}}).model.overrides == {}


def test_paths_resolve_against_the_file_or_the_root(tmp_path, monkeypatch):
    path = tmp_path / "fit.toml"
    path.write_text('[data]\ntrain = ["x.extxyz", {path = "/abs/y.xyz"}]\n', encoding="utf-8")
    assert [s.path for s in load_config(path).data.train] == [str(tmp_path / "x.extxyz"), "/abs/y.xyz"]
    path.write_text('[data]\nroot = "${FIT_TEST_DATA:-sets}"\ntrain = ["x.extxyz"]\n', encoding="utf-8")
    monkeypatch.delenv("FIT_TEST_DATA", raising=False)
    assert load_config(path).data.train[0].path == str(tmp_path / "sets" / "x.extxyz")
    monkeypatch.setenv("FIT_TEST_DATA", "/data")
    assert load_config(path).data.train[0].path == "/data/x.extxyz"
    path.write_text('[data]\ntrain = ["$FIT_TEST_NOTHING/x.extxyz"]\n', encoding="utf-8")
    with pytest.raises(UsageError, match="FIT_TEST_NOTHING"):
        load_config(path)


def test_unreadable_settings(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[data\n", encoding="utf-8")
    with pytest.raises(InputError, match="not valid TOML"):
        load_config(tmp_path / "bad.toml")


def test_hash_ignores_what_the_weights_do_not_depend_on():
    base = make_config({})
    same = make_config({"training": {"max_time": "1h", "threads": 4}, "output": {"directory": "other"}})
    assert base.trajectory_hash() == same.trajectory_hash()
    for other in ({"training": {"seed": 2}}, {"loss": {"energy": 1}}, {"model": {"cutoff": 5}}):
        assert make_config(other).trajectory_hash() != base.trajectory_hash()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("50min", 3000), ("1.5h", 5400), ("1h30min", 5400), ("01:30:00", 5400), ("2:30", 150)],
)
def test_times(text, seconds):
    assert parse_time(text) == seconds
