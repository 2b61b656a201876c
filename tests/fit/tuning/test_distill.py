from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest

from gracecli.errors import InputError, UsageError
from gracecli.fit.tuning.distill import DistillConfig, distill
from gracecli.model.modelfile import load_model

SMALL = {
    "lmax": 1, "order": 2, "n_radial": 4, "n_product": 4, "n_density": 3, "n_basis": 5, "hidden": [8],
    "readout_hidden": [8], "embedding": 4,
}  # fmt: skip


@pytest.fixture
def config(base, copper, tmp_path):
    """Settings of a short distillation; the structures carry labels of their own."""

    def settings(pathway: str, **changes) -> DistillConfig:
        return DistillConfig(
            **{
                "teacher": str(base), "student": "1l-small", "structures": (str(copper),), "pathway": pathway,
                "held_out": 0.25, "directory": str(tmp_path / "distilled"), "overrides": SMALL,
                "training": {"epochs": 30, "batch_atoms": 32, "learning_rate": 0.03, "validate_every": 10},
                **changes,
            }
        )  # fmt: skip

    return settings


def test_a_student_learns_what_its_teacher_says(config, base, evaluated, copper):
    result = distill(config("raw"))
    folder = result.directory
    held_out, labelled = (ase.io.read(folder / name, ":") for name in ("held-out.extxyz", "labels.extxyz"))
    assert (len(held_out), len(labelled)) == (6, 18)
    given = ase.io.read(copper, ":")
    places = {a.positions.round(6).tobytes() for a in given}
    assert {a.positions.round(6).tobytes() for a in (*held_out, *labelled)} == places
    teacher = evaluated(base, held_out)
    for atoms, expected in zip(held_out, teacher, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-6)
        assert atoms.get_forces() == pytest.approx(expected.forces, abs=1e-6)
    student = evaluated(result.model, held_out)
    difference = [np.abs(s.forces - t.forces).mean() for s, t in zip(student, teacher, strict=True)]
    assert result.against_teacher.forces_mae == pytest.approx(1e3 * np.mean(difference), rel=1e-6)
    spread = np.mean([np.abs(t.forces).mean() for t in teacher])
    assert result.against_teacher.forces_mae < 0.5e3 * spread  # meV/Å
    assert set(result.against_labels) == {"teacher", "student"}
    assert load_model(result.model).cutoff == load_model(base).cutoff
    document = json.loads((folder / "distill.json").read_text(encoding="utf-8"))
    assert document["result"]["against_teacher"]["structures"] == 6


@pytest.mark.slow
def test_pathways(config, tmp_path):
    """Fine-tuning on original labels brings the student closer to them; more structures come from augmentation."""
    raw = distill(config("raw", directory=str(tmp_path / "raw")))
    tuned = distill(config("distilled+finetuned", directory=str(tmp_path / "tuned"), finetune_epochs=20))
    assert tuned.against_labels["student"].energy_mae < 0.7 * raw.against_labels["student"].energy_mae
    extended = distill(config("extended", augment=("strain", "unaries"), directory=str(tmp_path / "extended")))
    assert extended.labelled == raw.labelled * 4 + 5 * 9
    naive = distill(config("naive", directory=str(tmp_path / "naive")))
    assert naive.labelled == raw.labelled
    assert naive.against_labels["student"].energy_mae < raw.against_labels["student"].energy_mae


@pytest.mark.slow
def test_a_stopped_distillation_goes_on(config, tmp_path):
    whole = distill(config("raw", directory=str(tmp_path / "whole")))
    settings = config("raw", directory=str(tmp_path / "stopped"))
    short = {**settings.training, "max_time": "0.001s"}
    stopped = distill(config("raw", directory=str(tmp_path / "stopped"), training=short))
    assert not stopped.completed
    with pytest.raises(InputError, match="is not empty"):
        distill(settings)
    resumed = distill(settings, resume=True)
    assert resumed.completed
    assert load_model(resumed.model).sha256() == load_model(whole.model).sha256()


def test_settings_are_checked(config, copper, tmp_path):
    for changes, message in (
        ({"pathway": "rwa"}, "no pathway is called 'rwa'"),
        ({"pathway": "raw", "augment": ("strain",)}, "belongs to the pathway extended"),
        ({"pathway": "extended"}, "needs to know with what"),
        ({"pathway": "extended", "augment": ("strian",)}, "'strian'"),
        ({"pathway": "raw", "held_out": 1.0}, "between 0 and 1"),
    ):
        with pytest.raises(UsageError, match=message):
            distill(config(**changes))
    bare = ase.io.read(copper, ":6")
    for atoms in bare:
        atoms.calc = None
    ase.io.write(tmp_path / "bare.extxyz", bare, format="extxyz")
    with pytest.raises(InputError, match="labels of their own"):
        distill(config("naive", structures=(str(tmp_path / "bare.extxyz"),)))
