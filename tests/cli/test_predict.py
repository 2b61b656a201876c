"""``grace predict``: predictions, errors against labels, files, the store."""

import json

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from click.testing import CliRunner

from grace_toy.emt import create_engine
from gracecli import GraceCalculator
from gracecli.cli.main import main
from gracecli.fit.config import DataConfig
from gracecli.fit.metrics import Prediction, full_report
from gracecli.fit.scores import Sample, Scores, frame_of, plot_parity
from gracecli.run.structures import stream_structures


@pytest.fixture
def grace(emt_plugin, tmp_path, monkeypatch):
    """Call ``grace predict`` with the engine ``slow-emt`` (see conftest.py)."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, ["predict", "--engine", "slow-emt", *map(str, words)])


@pytest.fixture
def labelled(tmp_path):
    """Twelve structures labelled by EMT with known errors added."""
    random = np.random.default_rng(0)
    calculator = GraceCalculator(engine=create_engine(None))
    frames = []
    for i in range(12):
        atoms = bulk("Cu" if i % 2 else "Al", cubic=True) * (1, 1, 1 + i % 3)
        if i % 4 == 3:
            atoms.symbols[0] = "Al"
        atoms.positions += random.normal(scale=0.1, size=atoms.positions.shape)
        atoms.calc = calculator
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        error = random.normal(scale=0.05, size=forces.shape)
        atoms.calc = SinglePointCalculator(
            atoms, energy=energy + 0.01 * len(atoms) * (-1) ** i, forces=forces + error, stress=stress + 1e-3
        )
        atoms.info["config_type"] = "odd" if i % 2 else "even"
        frames.append(atoms)
    write(tmp_path / "labelled.extxyz", frames)
    return tmp_path / "labelled.extxyz"


def document(result):
    return json.loads(result.stdout)


def test_predictions_are_those_of_the_calculator(grace, labelled):
    result = grace(labelled, "--json", "-o", "out.extxyz")
    assert result.exit_code == 0, result.stderr
    calculator = GraceCalculator(engine=create_engine(None))
    for entry, given, written in zip(
        document(result)["results"], read(labelled, ":"), read("out.extxyz", ":"), strict=True
    ):
        label = given.calc.results
        given.calc = calculator
        assert entry["energy"] == pytest.approx(given.get_potential_energy())
        np.testing.assert_allclose(written.get_forces(), given.get_forces(), atol=1e-7)
        np.testing.assert_allclose(written.get_stress(), given.get_stress(), atol=1e-9)
        np.testing.assert_allclose(written.arrays["label_forces"], label["forces"], atol=1e-7)
        assert written.info["label_energy"] == pytest.approx(label["energy"])
        assert written.info["config_type"] == given.info["config_type"]


def test_errors_are_those_of_the_fit(grace, labelled):
    """The streamed sums give the numbers of gracecli.fit.metrics, and those that were put into the labels."""
    report = document(grace(labelled, "--json", "--batch", "5"))["errors"]
    assert report["overall"]["energy_mae"] == pytest.approx(10.0, rel=1e-6)
    assert report["overall"]["stress_mae"] == pytest.approx(0.160217663, rel=1e-6)
    assert report["overall"]["forces_rmse"] == pytest.approx(50.0, rel=0.15)
    frames = [frame_of(a, f"x:{i}", "labelled", DataConfig()) for i, a in enumerate(read(labelled, ":"))]
    engine = create_engine(None)
    calculator = GraceCalculator(engine=engine)
    predictions = []
    for result in calculator.evaluate([frame.atoms for frame in frames]):
        predictions.append(Prediction(result.energy, result.forces, result.stress))
    expected = full_report(frames, predictions)
    for key, groups in expected.items():
        if key == "overall":
            assert report[key] == pytest.approx(groups)
        else:
            assert list(report[key]) == list(groups)
            for name, values in groups.items():
                assert report[key][name] == pytest.approx(values)
    assert set(report["forces_by_element"]) == {"Al", "Cu"}
    assert sum(e["atoms"] for e in report["forces_by_element"].values()) == sum(len(f.atoms) for f in frames)


def test_a_constant_offset_is_pointed_out_and_not_removed(grace, labelled, tmp_path):
    frames = read(labelled, ":")
    for atoms in frames:
        atoms.calc.results["energy"] -= 1.5 * len(atoms)
    write(tmp_path / "shifted.extxyz", frames)
    report = document(grace("shifted.extxyz", "--json"))["errors"]
    assert report["overall"]["energy_mae"] == pytest.approx(1500, abs=11)
    assert report["energy_difference"]["constant"]
    assert report["energy_difference"]["median"] == pytest.approx(1500, abs=11)
    assert "energies differ by a constant, +15" in grace("shifted.extxyz").stdout
    assert "constant" not in grace(labelled).stdout


def test_partial_labels_other_keys_and_none(grace, labelled, tmp_path):
    frames = read(labelled, ":")
    for i, atoms in enumerate(frames):
        results = atoms.calc.results
        atoms.calc = None
        atoms.info["dft"] = results["energy"]
        if i < 3:
            atoms.arrays["dft_forces"] = results["forces"]
    write(tmp_path / "keys.extxyz", frames)
    assert document(grace("keys.extxyz", "--json"))["errors"] is None
    report = document(grace("keys.extxyz", "--json", "--energy-key", "dft", "--forces-key", "dft_forces"))["errors"]
    assert report["overall"]["structures"] == 12
    assert report["overall"]["energy_mae"] == pytest.approx(10.0, rel=1e-5)
    assert report["overall"]["stress_mae"] is None
    assert report["forces_by_element"]["Cu"]["atoms"] == sum(a.symbols.count("Cu") for a in frames[:3])
    shown = grace("keys.extxyz", "--energy-key", "dft").stdout
    assert "energy MAE" in shown
    assert "stress MAE" not in shown


def test_plot(grace, labelled, tmp_path):
    result = grace(labelled, "--plot", "parity.png")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "parity.png").read_bytes()[:4] == b"\x89PNG"
    assert grace(labelled, "--plot", "parity.png").exit_code == 4  # exists


def test_failures_never_stop_the_others(grace, labelled, tmp_path):
    write(tmp_path / "iron.cif", bulk("Fe"))
    write(tmp_path / "co.xyz", molecule("CO"))
    result = grace("iron.cif", labelled, "missing.cif", "co.xyz", "--json")
    assert result.exit_code == 5
    found = document(result)
    assert {entry["name"] for entry in found["failed"]} == {"missing.cif", "iron.cif"}
    assert found["structures"] == 15
    assert found["results"][-1]["formula"] == "CO"
    assert found["results"][-1]["stress"] is None
    assert grace("iron.cif").exit_code == 4


def test_the_store_answers(grace, labelled):
    first = grace(labelled, "--json", "--store", "s.h5")
    assert first.exit_code == 0, first.stderr
    assert document(first)["from_store"] == 0
    second = grace(labelled, "--json", "--store", "s.h5", "-o", "out.extxyz")
    assert document(second)["from_store"] == 12
    assert document(second)["errors"] == document(first)["errors"]
    assert [e["energy"] for e in document(second)["results"]] == [e["energy"] for e in document(first)["results"]]
    assert len(read("out.extxyz", ":")) == 12
    assert document(grace(labelled, "--json", "--store", "s.h5", "--rerun"))["from_store"] == 0
    assert document(grace("s.h5", "--json"))["structures"] >= 12


def test_streaming_reads_one_frame_at_a_time(labelled):
    stream = stream_structures(str(labelled))
    first = next(stream)
    assert first.name.endswith("#1")
    assert sum(1 for _ in stream) == 11


def test_the_sample_of_a_parity_plot_is_uniform(tmp_path, monkeypatch):
    monkeypatch.setattr("gracecli.fit.scores.SAMPLE", 500)
    sample = Sample(0)
    values = np.arange(20_000.0)
    for part in np.array_split(values, 37):
        sample.add(part, part)
    assert sample.seen == 20_000
    assert len(sample.pairs) == 500
    assert sample.pairs[:, 0].mean() == pytest.approx(10_000, abs=4 * 20_000 / np.sqrt(12 * 500))
    scores = Scores()
    scores.samples["energy"] = sample
    plot_parity(scores, tmp_path / "only-energy.png")
    assert (tmp_path / "only-energy.png").stat().st_size > 1000
