"""``grace export``: what is written, that it is compared, and that nothing wrong is handed over."""

import json
from pathlib import Path

import numpy as np
import pytest

from gracecli.engine.base import Results
from gracecli.errors import InputError, ModelError, UsageError, VerificationError
from gracecli.export.npz import Npz, read_npz
from gracecli.export.run import RECORD, export_model
from gracecli.model import blueprint as bp
from gracecli.model.modelfile import Model, load_model, save_model
from gracecli.model.upstream.checkpoint import read_directory
from gracecli.model.upstream.describe import describe_blueprint

WEIGHTS = ["grace", "npz", "upstream"]


def read_back(path):
    if path.is_dir():
        return Model(*read_directory(path))
    return load_model(path) if path.suffix == ".grace" else read_npz(path)


def assert_same(found, wanted):
    assert found.blueprint == wanted.blueprint
    assert set(found.weights) == set(wanted.weights)
    for name, value in wanted.weights.items():
        assert found.weights[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found.weights[name], value, err_msg=name)


def left_in(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("format_", WEIGHTS)
@pytest.mark.parametrize("name", ["tiny", "rare", "pairs"])
def test_round_trip_bit_by_bit(model, model_file, tmp_path, name, format_):
    target = tmp_path / "out"
    done = export_model(model_file(name), format_, target)
    assert_same(read_back(done.path if format_ != "grace" else target), model(name)) if format_ == "upstream" else None
    if format_ != "upstream":
        assert_same(load_model(target) if format_ == "grace" else read_npz(target), model(name))
    assert done.verification.passed
    assert done.verification.pairs == done.verification.all_pairs == 6
    assert left_in(tmp_path) == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1l", "1l-first", "2l", "2l-first", "3l"])
def test_published_layout_of_every_architecture(model, model_file, tmp_path, name):
    export_model(model_file(name), "upstream", tmp_path / "out")
    assert_same(read_back(tmp_path / "out"), model(name))


def test_npz_needs_no_pickle(model, model_file, tmp_path):
    export_model(model_file("tiny"), "npz", tmp_path / "out.npz", verify=False)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    assert [node["name"] for node in json.loads(str(arrays["blueprint"]))] == list(model("tiny").blueprint.by_name)
    np.testing.assert_array_equal(arrays["weights/Z/w"], model("tiny").weights["Z/w"])


@pytest.mark.parametrize("format_", WEIGHTS)
def test_single_precision(model, model_file, tmp_path, format_):
    done = export_model(model_file("tiny"), format_, tmp_path / "out", precision="fp32")
    assert done.precision == "fp32"
    assert any("rounded" in note for note in done.notes)
    deviation = {d.quantity: d for d in done.verification.deviations}["forces"]
    assert 1e-12 < deviation.largest < 1e-5
    found = read_back(tmp_path / "out") if format_ == "upstream" else None
    if found is not None:
        assert found.metadata["precision"] == "float32"
        assert found.weights["Z/w"].dtype == np.float32


def test_reduced_and_single(model_file, tmp_path):
    done = export_model(model_file("tiny"), "grace", tmp_path / "out.grace", elements=["Ni", "Al"], precision="fp32")
    found = load_model(tmp_path / "out.grace")
    assert found.elements == done.elements == ("Al", "Ni")
    assert found.metadata["reduced_from"]["elements"] == ["Al", "Cu", "Ni"]
    again = export_model(tmp_path / "out.grace", "grace", tmp_path / "wide.grace", precision="fp64")
    assert any("widened" in note for note in again.notes)
    assert {d.quantity: d.largest for d in again.verification.deviations}["forces"] < 1e-12


def test_options_without_published_counterpart_are_errors_that_name_the_node(model, tmp_path):
    tiny = model("tiny")
    nodes = [bp.Reduce(**{**vars(n), "initial_value": 0.5}) if isinstance(n, bp.Reduce) else n for n in tiny.blueprint]
    save_model(tmp_path / "odd.grace", Model(bp.Blueprint(tuple(nodes)), tiny.weights))
    reduce = next(n.name for n in nodes if isinstance(n, bp.Reduce))
    with pytest.raises(ModelError, match=f"node '{reduce}'.*initial value 0.5 has no published counterpart"):
        export_model(tmp_path / "odd.grace", "upstream", tmp_path / "out")
    assert left_in(tmp_path) == ["odd.grace"]


def test_networks_without_published_counterpart(model):
    rare = model("rare").blueprint
    for change, words in [
        ({"hidden": (), "activations": ()}, "without hidden layers"),
        ({"activations": ("sigmoid-like",)}, "activation"),
        ({"output_norm": True}, "cannot express"),
    ]:
        nodes = [bp.MLPRadial(**{**vars(n), **change}) if isinstance(n, bp.MLPRadial) else n for n in rare]
        with pytest.raises(ModelError, match=f"'R'.*{words}"):
            describe_blueprint(bp.Blueprint(tuple(nodes)))


class TestNothingWrongIsHandedOver:
    def test_other_numbers(self, model_file, tmp_path, monkeypatch):
        evaluate = Npz.evaluate

        def spoiled(self, job, target, structures):
            first, *others = evaluate(self, job, target, structures)
            return [Results(first.energy, first.energies, first.forces + 1e-6, first.stress), *others]

        monkeypatch.setattr(Npz, "evaluate", spoiled)
        with pytest.raises(VerificationError, match=r"gives other forces.*1\.0e-06 eV/Å.*nothing was written"):
            export_model(model_file("tiny"), "npz", tmp_path / "out.npz")
        assert left_in(tmp_path) == []
        assert VerificationError.exit_code == 1

    def test_other_weights(self, model_file, tmp_path, monkeypatch):
        write = Npz.write

        def spoiled(self, job, target):
            weights = {**job.model.weights, "Z/w": np.nextafter(job.model.weights["Z/w"], 1.0)}
            import dataclasses

            return write(self, dataclasses.replace(job, model=Model(job.model.blueprint, weights)), target)

        monkeypatch.setattr(Npz, "write", spoiled)
        with pytest.raises(ModelError, match="not what was written: variable 'Z/w'"):
            export_model(model_file("tiny"), "npz", tmp_path / "out.npz")
        assert left_in(tmp_path) == []

    def test_an_old_export_survives_a_failed_one(self, model_file, tmp_path, monkeypatch):
        export_model(model_file("tiny"), "upstream", tmp_path / "out", verify=False)
        before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
        from gracecli.export import upstream

        def fail(model, prefix):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(upstream, "write_checkpoint", fail)
        with pytest.raises(InputError, match="No space left"):
            export_model(model_file("tiny"), "upstream", tmp_path / "out", verify=False, force=True)
        assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
        assert left_in(tmp_path) == ["out"]


class TestPlaces:
    def test_existing_things_stay(self, model_file, tmp_path):
        done = export_model(model_file("tiny"), "upstream", tmp_path / "out", verify=False)
        assert json.loads((done.path / RECORD).read_text())["model"] == "tiny"
        with pytest.raises(InputError, match="out exists"):
            export_model(model_file("tiny"), "upstream", tmp_path / "out", verify=False)
        export_model(model_file("tiny"), "upstream", tmp_path / "out", verify=False, force=True)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("years of work")
        with pytest.raises(InputError, match="mine is a folder that no export made"):
            export_model(model_file("tiny"), "upstream", tmp_path / "mine", verify=False, force=True)
        assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
        with pytest.raises(InputError, match="it is a folder"):
            export_model(model_file("tiny"), "npz", tmp_path / "mine", force=True)
        (tmp_path / "file").write_text("x")
        with pytest.raises(InputError, match="a file of that name exists"):
            export_model(model_file("tiny"), "upstream", tmp_path / "file", force=True)
        with pytest.raises(InputError, match="no folder"):
            export_model(model_file("tiny"), "npz", tmp_path / "nowhere" / "out.npz")

    def test_default_names(self, model_file, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert export_model(model_file("tiny"), "npz", verify=False).path == Path("tiny.npz")
        assert export_model(model_file("tiny"), "npz", verify=False, elements=["Cu"]).path == Path("tiny-Cu.npz")


class TestFormatsArePlugins:
    def test_missing_package_is_named(self, grace, model_file):
        ended = grace("export", model_file("tiny"), "--format", "lammps")
        assert ended.exit_code == 2
        assert "comes with the package grace-native, which is not installed" in ended.stderr
        assert "pip install grace-native" in ended.stderr

    def test_nearest_format(self, grace, model_file):
        ended = grace("export", model_file("tiny"), "--format", "savedmodel")
        assert (ended.exit_code, ended.stderr.splitlines()[1].strip()) == (2, "try: did you mean saved-model?")

    def test_list(self, grace):
        assert "5 exporters" in grace("plugins", "list").stdout
        listed = grace("export", "--formats")
        assert listed.exit_code == 0
        assert [line.split()[0] for line in listed.stdout.splitlines()[2:]] == [
            "grace", "saved-model", "upstream", "npz", "hlo",
        ]  # fmt: skip

    def test_unknown_options(self, grace, model_file):
        ended = grace("export", model_file("tiny"), "--format", "npz", "--atoms", "5")
        assert ended.exit_code == 2
        assert "format 'npz' has no option 'atoms'" in ended.stderr

    def test_a_size_is_needed(self, model_file, tmp_path):
        with pytest.raises(UsageError, match="fixed size"):
            export_model(model_file("tiny"), "hlo", tmp_path / "out")


class TestCommand:
    def test_table(self, grace, model_file):
        ended = grace("export", model_file("tiny"), "--format", "grace", "--elements", "Al,Ni", "-o", "alni.grace")
        assert ended.exit_code == 0, ended.stderr
        lines = ended.stdout.splitlines()
        assert lines[0].split() == ["written", "to", "alni.grace"]
        assert "elements    Al Ni  (2 of 3)" in lines
        assert any(line.startswith("verified") and "3 of 3 element pairs within cutoff" in line for line in lines)
        for line, unit in zip(lines[-3:], ("eV/atom", "eV/Å", "eV/Å³"), strict=True):
            assert line.split()[-1] == unit
            assert float(line.split()[1]) <= float(line.split()[2])
        assert load_model("alni.grace").elements == ("Al", "Ni")

    def test_json(self, grace, model_file):
        ended = grace("export", model_file("tiny"), "--format", "npz", "--json", "--no-verify")
        document = json.loads(ended.stdout)
        assert (document["schema"], document["schema_version"]) == ("gracecli.export", 1)
        assert document["verified"] is False
        assert document["size"] == Path("tiny.npz").stat().st_size
        document = json.loads(grace("export", model_file("tiny"), "--format", "npz", "--json", "--force").stdout)
        assert document["verification"]["deviations"]["forces"]["largest"] < 1e-12
        assert document["verification"]["deviations"]["forces"]["unit"] == "eV/Å"

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["nothing-of-that-name", "--format", "npz"], 6, "no model is called"),
            (["TINY", "--format", "npz", "--elements", "Al,Xx"], 4, "does not cover Xx"),
            (["TINY"], 2, "missing option"),
        ],
    )
    def test_errors(self, grace, model_file, arguments, code, words):
        ended = grace("export", *[str(model_file("tiny")) if a == "TINY" else a for a in arguments])
        assert ended.exit_code == code
        assert words in ended.stderr
        assert not list(Path().glob("*.npz"))
