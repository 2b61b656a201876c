"""``grace relax``: exit codes, files, tables, JSON, interrupts."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms
from ase.io import read, write
from click.testing import CliRunner

from gracecli.cli.main import main
from gracecli.cli.relax import command
from gracecli.plugin.manager import GROUP, reset_plugin_manager
from gracecli.run.result import RelaxSettings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PLUGIN = '''
import time
from gracecli.plugin import EngineSpec, hookimpl

@hookimpl
def gracecli_register_engines():
    yield EngineSpec(name="spring", help="Pair springs.", factory="spring_plugin:create", needs_model=False)

def create(path, precision, rest=2.6, stiffness=30.0, hold=0.0, fail_after=10**9, **options):
    import numpy as np
    from gracecli.engine.base import Results

    class Spring:
        """phi(r) = 1/2 k (r - r_0)^2 (1 - (r/r_c)^2)^3: smooth at the cutoff."""

        name, elements, cutoff, precision = "spring", ("Cu", "Al"), 3.4, "fp64"
        calls = 0

        def evaluate(self, graphs):
            return [self.one(graph) for graph in graphs]

        def one(self, graph):
            self.calls += 1
            time.sleep(hold)
            if self.calls > fail_after:
                return Results(np.nan, np.full(len(graph), np.nan), np.zeros((len(graph), 3)), np.zeros(6))
            r = np.linalg.norm(graph.bond_vector, axis=1)
            x = 1 - (r / self.cutoff) ** 2
            phi = 0.5 * stiffness * ((r - rest) ** 2 - 0.5) * x**3
            slope = stiffness * (r - rest) * x**3 + 0.5 * stiffness * ((r - rest) ** 2 - 0.5) * 3 * x**2 * (
                -2 * r / self.cutoff**2)
            pull = (slope / r)[:, None] * graph.bond_vector
            forces = np.zeros((len(graph), 3))
            np.add.at(forces, graph.centre, pull)
            virial = 0.5 * np.einsum("bi,bj->ij", pull, graph.bond_vector) / graph.volume
            energies = np.bincount(graph.centre, 0.5 * phi, minlength=len(graph))
            stress = virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            return Results(float(energies.sum()), energies, forces, stress)

        def pair_cutoff(self, numbers):
            return None

        def statistics(self):
            return {"compiles": 0, "evaluations": self.calls}

    return Spring()
'''


@pytest.fixture
def site(tmp_path_factory):
    """A folder with an installed plugin that brings the engine ``spring``."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "spring_plugin.py").write_text(PLUGIN)
    info = folder / "spring_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spring-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nspring = spring_plugin\n")
    return folder


@pytest.fixture
def relax(site, tmp_path, monkeypatch):
    """Run ``grace relax ... --engine spring`` in an empty folder; gives click's result."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("GRACE_PLUGINS", "spring")
    sys.modules.pop("spring_plugin", None)
    reset_plugin_manager()
    yield lambda *arguments: CliRunner().invoke(main, ["relax", "--engine", "spring", *map(str, arguments)])
    reset_plugin_manager()


@pytest.fixture
def copper(tmp_path):
    """A disturbed POSCAR of copper in the current folder."""
    atoms = bulk("Cu", a=3.7, cubic=True)
    atoms.rattle(0.05, seed=1)
    write(tmp_path / "Cu.poscar", atoms, direct=True)
    return "Cu.poscar"


def document(result):
    return json.loads(result.stdout)


def test_table_file_and_json_agree(relax, copper):
    shown = relax(copper, "--cell", "full")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stderr == ""
    result = document(relax(copper, "--cell", "full", "--json", "--force"))["results"][0]
    for state in ("initial", "final"):
        assert f"{result[state]['energy']:.6f}" in shown.stdout
        assert f"{result[state]['energy_per_atom']:.6f}" in shown.stdout
        assert f"{result[state]['max_force']:.4f}" in shown.stdout
        assert f"{result[state]['volume']:.4f}" in shown.stdout
        for length in result[state]["lengths"]:
            assert f"{length:.5f}" in shown.stdout
    relaxed = read("Cu.relaxed.poscar")
    np.testing.assert_allclose(relaxed.cell[:], result["final"]["cell"], atol=1e-12)
    assert "Direct" in Path("Cu.relaxed.poscar").read_text()


def test_document_schema(relax, copper):
    content = document(relax(copper, "--json", "--cell", "full", "--pressure", "1", "--trajectory", "t.extxyz"))
    assert content["schema"] == "gracecli.relax"
    assert content["schema_version"] == 1
    assert content["interrupted"] is False
    (result,) = content["results"]
    assert set(result) == {
        "name", "input", "formula", "atoms", "status", "converged", "message", "model", "settings", "initial", "final",
        "max_displacement", "steps", "force_calls", "wall_time", "warnings", "output", "trajectory",
        "source", "store_result", "extrapolation",
    }  # fmt: skip
    assert result["model"] == "spring (spring, fp64)"
    assert result["final"]["pressure"] == pytest.approx(1.0, abs=0.02)
    numbers = [key for key, value in result["final"].items() if isinstance(value, float | list)]
    assert not set(numbers) - set(content["_units"])
    frames = read("t.extxyz", ":")
    assert len(frames) == result["steps"] + 1
    assert frames[-1].get_potential_energy() == pytest.approx(result["final"]["energy"], abs=1e-9)


def test_defaults_of_command_and_library_are_the_same():
    options = {option.name: option.default for option in command.params if not getattr(option, "is_flag", False)}
    for name, value in RelaxSettings().to_dict().items():
        if name in options:
            assert options[name] == (value if name != "smax" else RelaxSettings().smax), name


def test_formats_come_back_as_they_went(relax, tmp_path):
    slab = fcc111("Cu", (1, 1, 4), vacuum=6, periodic=True)
    slab.set_constraint(FixAtoms([0]))
    slab.rattle(0.05, seed=2)
    write("slab.vasp", slab)
    write("bulk.cif", bulk("Cu", a=3.65, cubic=True))
    write("many.extxyz", [bulk("Cu", a=a) for a in (3.6, 3.7)])
    result = relax("slab.vasp", "bulk.cif", "many.extxyz", "-o", "out", "--trajectory", "paths")
    assert result.exit_code == 0, result.stderr
    assert read("out/slab.relaxed.vasp", format="vasp").constraints[0].index.tolist() == [0]
    assert len(read("out/bulk.relaxed.cif")) == 4
    frames = read("out/many.relaxed.extxyz", ":")
    assert [frame.info["converged"] for frame in frames] == [True, True]
    assert frames[0].get_forces().shape == (1, 3)
    assert len(list(Path("paths").iterdir())) == 4
    assert result.stdout.count("converged") == 4


def test_not_converged_is_exit_3_written_and_flagged(relax, copper):
    result = relax(copper, "--steps", "1", "-o", "out.extxyz")
    assert result.exit_code == 3
    assert "NOT CONVERGED" in result.stdout
    assert "not converged in 1 steps" in result.stderr
    frame = read("out.extxyz")
    assert frame.info["converged"] == False  # noqa: E712 - numpy's
    relax(copper, "--steps", "1")
    assert "not-converged" in Path("Cu.relaxed.poscar").read_text().splitlines()[0]


def test_bad_inputs_are_exit_4_and_one_line(relax, copper, tmp_path):
    Path("empty.cif").touch()
    Path("noise.txt").write_bytes(b"what is this\n" * 9)
    Path("unknown.xyz").write_text("1\n\nXq 0 0 0\n")
    Path("twins.xyz").write_text("2\n\nCu 0 0 0\nCu 0 0 0.1\n")
    Path("nan.xyz").write_text("1\n\nCu 0 0 nan\n")
    Path("none.xyz").write_text("0\n\n")
    write("gold.cif", bulk("Au"))
    Path("file").touch()
    cases = {
        "nothing.cif": "no such file",
        "empty.cif": "empty",
        "noise.txt": "unknown file format",
        "unknown.xyz": "unknown element 'Xq'",
        "twins.xyz": "on top of each other",
        "nan.xyz": "not a number",
        "none.xyz": "no atoms",
        "gold.cif": "Au",
    }
    for name, text in cases.items():
        result = relax(name)
        assert result.exit_code == 4, (name, result.stderr)
        first, *rest = result.stderr.splitlines()
        assert first.startswith("grace: error: ")
        assert name in first
        assert text in first
        assert len(rest) <= 1  # the remedy
        assert result.stdout == ""
    for output in ("file/out.cif", "missing/out.cif"):
        result = relax(copper, "-o", output)
        assert (result.exit_code, result.stdout) == (4, "")
        assert "cannot write" in result.stderr
    assert not list(Path().glob("*.relaxed*"))


def test_usage_errors_are_exit_2(relax, copper):
    for arguments in (
        ["--cell", "all"],
        ["--pressure", "5"],
        ["--fmax", "0"],
        ["--optimizer", "fier"],
        ["--steps", "-1"],
    ):
        assert relax(copper, *arguments).exit_code == 2, arguments
    assert "did you mean fire" in relax(copper, "--optimizer", "fier").stderr
    assert relax().exit_code == 2


def test_nothing_is_overwritten_without_force(relax, copper):
    Path("Cu.relaxed.poscar").write_text("precious")
    result = relax(copper)
    assert result.exit_code == 4
    assert "exists" in result.stderr
    assert Path("Cu.relaxed.poscar").read_text() == "precious"
    Path("t.extxyz").write_text("precious")
    assert relax(copper, "-o", "new.cif", "--trajectory", "t.extxyz").exit_code == 4
    assert Path("t.extxyz").read_text() == "precious"
    assert relax(copper, "--force").exit_code == 0
    assert len(read("Cu.relaxed.poscar")) == 4


def test_others_go_on_when_some_fail(relax, copper):
    write("gold.cif", bulk("Au"))
    result = relax("nothing.cif", copper, "gold.cif", "--json")
    assert result.exit_code == 5
    content = document(result)
    assert [item["status"] for item in content["results"]] == ["failed", "converged", "failed"]
    assert content["results"][0]["error"]["exit_code"] == 4
    assert "no such file" in content["results"][0]["error"]["message"]
    table = relax("nothing.cif", copper, "gold.cif", "--force")
    assert table.exit_code == 5
    assert table.stdout.count("FAILED") == 2
    assert relax("nothing.cif", "gold.cif").exit_code == 4  # all for the same reason
    assert relax(copper, copper, "--steps", "0", "--force").exit_code == 3


def test_an_explosion_is_exit_9_with_the_last_good_geometry(relax, copper):
    result = relax(copper, "--engine-option", "fail-after=3")
    assert result.exit_code == 9
    assert "not-a-number" in result.stderr
    assert np.isfinite(read("Cu.relaxed.poscar").positions).all()
    assert "exploded" in Path("Cu.relaxed.poscar").read_text().splitlines()[0]


def test_config_file_and_verbosity(relax, copper):
    Path("relax.toml").write_text('cell = "full"\nfmax = 0.001\n')
    result = relax(copper, "--config", "relax.toml", "--fmax", "0.05", "-v")
    assert result.exit_code == 0
    assert "cell full" in result.stdout
    assert "(limit 0.05)" in result.stdout
    assert "step    0" in result.stderr
    assert "compiles 0" in result.stderr
    assert "neighbour list rebuilds" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_writes_the_last_geometry(site, tmp_path, number):
    atoms = bulk("Cu", a=3.7, cubic=True)
    atoms.rattle(0.1, seed=1)
    write(tmp_path / "POSCAR", atoms)
    paths = os.pathsep.join([str(site), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "GRACE_PLUGINS": "spring", "OMP_NUM_THREADS": "1"}
    arguments = ["relax", "POSCAR", "POSCAR", "--engine", "spring", "--engine-option", "hold=0.05", "--fmax", "1e-12"]
    arguments += ["--json", "--trajectory", "paths", "--optimizer", "mdmin", "--steps", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gracecli.cli.main", *arguments],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    trajectory = tmp_path / "paths"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        files = list(trajectory.glob("*.extxyz")) if trajectory.exists() else []
        if files and files[0].read_text().count("Lattice") > 3:
            break
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 130, stderr
    assert "interrupted" in stderr
    content = json.loads(stdout)
    assert content["interrupted"] is True
    assert [item["status"] for item in content["results"]] == ["interrupted"]
    frames = read(files[0], ":")
    assert len(frames) >= 4
    written = read(tmp_path / content["results"][0]["output"], format="vasp")
    distances = [np.abs(frame.get_scaled_positions() - written.get_scaled_positions()).max() for frame in frames]
    assert min(distances[-2:]) < 1e-8 or len(frames) < content["results"][0]["force_calls"]


def test_example_structures_are_what_the_script_makes(tmp_path):
    runpy.run_path(str(ROOT / "scripts" / "make_structures.py"))["main"](tmp_path)
    shipped = ROOT / "data" / "structures"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 7
    for name in names:
        ours, theirs = read(tmp_path / name), read(shipped / name)
        np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-8)
        np.testing.assert_allclose(ours.cell[:], theirs.cell[:], atol=1e-8)
        assert ours.symbols.get_chemical_formula() == theirs.symbols.get_chemical_formula()
