"""``grace bench``: real processes with a cheap engine of a plugin; tables, documents, files, errors."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gracecli.cli.main import main
from gracecli.plugin.manager import GROUP, reset_plugin_manager

PLUGIN = '''
from gracecli.plugin import BenchRunnerSpec, EngineSpec, hookimpl

@hookimpl
def gracecli_register_engines():
    yield EngineSpec(name="spring", help="Harmonic bonds.", factory="bench_plugin:create_engine", needs_model=False)
    yield EngineSpec(name="absent", help="Never there.", factory="bench_plugin:create_engine", needs_model=False,
                     available="bench_plugin:why")

@hookimpl
def gracecli_register_bench_runners():
    yield BenchRunnerSpec(name="counter", help="Counts its steps.", factory="bench_plugin:Counter")
    yield BenchRunnerSpec(name="short", help="Reports too few.", factory="bench_plugin:Short")

def why():
    return "its compiled part is missing"

class Counter:
    """A program that is no engine: every step takes as many milliseconds as steps were made."""
    neighbours_per_atom = None
    def __init__(self, *, atoms, model, precision, threads, timestep):
        import os
        assert os.environ["OMP_NUM_THREADS"] == str(threads)
        assert atoms.get_velocities().any() and timestep == 1.0
        self.precision, self.made = precision or "fp64", 0
    def run(self, steps):
        print("noise of a library")
        self.made += steps
        return [1e-3 * k for k in range(self.made - steps + 1, self.made + 1)]
    def compiles(self):
        return 0
    def peak_memory(self):
        return 123_000_000

class Short(Counter):
    def run(self, steps):
        return super().run(steps)[:5]

def create_engine(path, precision=None, **options):
    import numpy as np
    from gracecli.engine.base import Results

    class Spring:
        name, elements, cutoff, precision = "spring", ("W", "Cu"), 3.5, "fp64"

        def evaluate(self, graphs):
            return [Results(0.0, np.zeros(len(g)), np.zeros((len(g), 3)), np.zeros(6)) for g in graphs]

        def pair_cutoff(self, numbers):
            return None

        def statistics(self):
            return {"compiles": 0}

    return Spring()
'''
QUICK = ["--steps", "3", "--repeats", "2", "--exclude", "2"]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Run ``grace bench`` with the plugin, in this process and in its workers."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "bench_plugin.py").write_text(PLUGIN)
    info = site / "bench_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nbenchplugin = bench_plugin\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("GRACE_PLUGINS", "benchplugin")
    sys.modules.pop("bench_plugin", None)
    reset_plugin_manager()
    yield lambda *arguments: CliRunner().invoke(main, ["bench", *map(str, arguments)])
    reset_plugin_manager()


def test_document_table_and_files_agree(bench):
    result = bench("--engine", "counter,spring", "--sizes", "16,54", *QUICK, "-o", "speed", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["schema"], document["schema_version"]) == ("gracecli.bench", 1)
    rows = document["measurements"]
    assert [(r["engine"], r["atoms"]) for r in rows] == [
        ("counter", 16),
        ("spring", 16),
        ("counter", 54),
        ("spring", 54),
    ]
    numbers = {key for key, value in rows[0].items() if isinstance(value, float)}
    assert numbers <= set(document["_units"])
    # steps 1, 2 are excluded; a block leaves one out and times three: steps 4, 5, 6, then 8, 9, 10
    assert rows[0]["times"] == pytest.approx([5e3 / 16, 9e3 / 16])
    assert rows[0]["median"] == pytest.approx(7e3 / 16)
    assert rows[0]["first_seconds"] >= 1e-3
    assert rows[0]["peak_memory"] == 123_000_000
    assert rows[0]["ratio"] == 1.0
    assert rows[1]["peak_memory"] > rows[1]["base_memory"] > 0
    assert rows[1]["neighbours_per_atom"] == pytest.approx(14, abs=1)  # bcc: 8 and 6 within 3.5 Å
    ratio = sorted(a / b for a, b in zip(rows[0]["times"], rows[1]["times"], strict=True))
    assert rows[1]["ratio"] == pytest.approx(sum(ratio) / 2)
    assert json.loads(Path("speed/bench.json").read_text()) == document
    assert Path("speed/bench.png").read_bytes().startswith(b"\x89PNG")
    again = bench("--engine", "counter", "-o", "speed", *QUICK)
    assert again.exit_code == 4
    assert "exists" in again.stderr


def test_table_for_people(bench):
    result = bench("--engine", "counter", "--precision", "fp64,fp32", "--threads", "1,2", "--sizes", "16", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "16 atoms" in result.stdout
    assert "2 blocks of 3 steps in turn, after 2 that do not count" in result.stdout
    assert result.stdout.count("437.5") == 4  # 7e3 / 16
    assert "busy" in result.stderr  # 250 to 562 is a large spread
    assert "noise" not in result.stdout


def test_structure_from_a_file(bench):
    from ase.build import molecule
    from ase.io import write

    atoms = molecule("H2O")
    atoms.symbols[:] = "Cu"
    atoms.positions *= 3
    write("trimer.xyz", atoms)
    result = bench("--engine", "counter", "--structure", "trimer.xyz", "--json", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert [r["atoms"] for r in json.loads(result.stdout)["measurements"]] == [3]
    assert bench("--engine", "counter", "--structure", "trimer.xyz", "--element", "W").exit_code == 2
    assert bench("--engine", "counter", "--structure", "none.xyz").exit_code == 4


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--engine", "sprong"], 2, "did you mean spring"),
        (["--engine", "absent"], 2, "compiled part is missing"),
        (["--engine", "counter,"], 2, "list of names"),
        (["--sizes", "many"], 2, "numbers of atoms"),
        (["--sizes", "0"], 2, "numbers of atoms"),
        (["--threads", "0"], 2, "threads"),
        (["--precision", "fp16"], 2, "fp64"),
        (["--element", "Mg"], 4, "hcp"),
        (["--model", "nothing-of-that-name"], 6, "no model"),
    ],
)
def test_mistakes_are_one_line(bench, arguments, code, text):
    engine = [] if "--engine" in arguments else ["--engine", "counter"]
    result = bench(*engine, *arguments)
    assert result.exit_code == code, result.stderr
    assert text in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert result.stdout == ""


def test_failures_of_some_are_exit_5_and_of_all_their_own(bench):
    some = bench("--engine", "counter,short", "--sizes", "16", "--steps", "9", "--repeats", "1")
    assert some.exit_code == 5
    assert "asked for 9 steps" in some.stderr
    assert "counter" in some.stdout
    every = bench("--engine", "short", "--sizes", "16", "--steps", "9", "--repeats", "1")
    assert every.exit_code == 20
