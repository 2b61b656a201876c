"""``grace md``: exit codes, files, the card, resuming after kill -9 and Ctrl-C."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import read, write
from click.testing import CliRunner

from gracecli.cli.main import main
from gracecli.cli.md import command
from gracecli.cli.md_live import LiveLine
from gracecli.plugin.manager import GROUP, reset_plugin_manager
from gracecli.run.md_log import Sample
from gracecli.run.md_settings import MdSettings

ROOT = Path(__file__).parents[2]
TOY = ROOT / "plugins" / "grace-toy" / "src"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder that makes the toy plugin an installed one."""
    folder = tmp_path_factory.mktemp("md-site")
    info = folder / "grace_toy-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: grace-toy\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ntoy = grace_toy.plugin\n")
    return folder


@pytest.fixture
def md(site, tmp_path, monkeypatch):
    """Run ``grace md ... --engine emt`` in an empty folder; gives click's result."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("GRACE_PLUGINS", "toy")
    write("Cu.cif", bulk("Cu", a=3.6, cubic=True))
    reset_plugin_manager()
    yield lambda *arguments: CliRunner().invoke(main, ["md", *map(str, arguments)])
    reset_plugin_manager()


EMT = ("Cu.cif", "--engine", "emt", "--steps", 40, "--no-plots")


def document(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_card_document_and_files_agree(md):
    shown = md(*EMT, "--seed", 1, "--supercell", 2, 2, 2, "-o", "a")
    assert shown.exit_code == 0, shown.stderr
    content = document(md(*EMT, "--seed", 1, "--supercell", 2, 2, 2, "-o", "b", "--json"))
    assert content["schema"] == "gracecli.md"
    assert content["schema_version"] == 1
    assert content["status"] == "finished"
    assert content["atoms"] == 32
    assert content["settings"]["ensemble"] == "nvt-csvr"
    assert content["degrees_of_freedom"] == 93
    assert f"{content['averages']['density']['mean']:.3f}" in shown.stdout
    assert "Cu32, finished, 0.04 ps (nvt-csvr, 300 K, 40 steps of 1 fs, seed 1)" in shown.stdout
    assert content["files"]["folder"] == "b"
    assert json.loads(Path("b/result.json").read_text())["averages"] == content["averages"]
    final = read("a/final.extxyz")
    assert final.has("momenta")
    assert np.isfinite(final.get_potential_energy())
    assert Path("a/thermo.csv").read_bytes() == Path("b/thermo.csv").read_bytes()
    assert "rdf.csv" in {path.name for path in Path("a").iterdir()}
    units = content["_units"]
    assert {"temperature", "pressure", "energy_drift", "speed", "time"} <= set(units)


def test_defaults_of_command_and_library_are_the_same():
    options = {option.name: option.default for option in command.params}
    library = MdSettings()
    for name in ("ensemble", "pressure", "barostat_time", "bulk_modulus", "thermo_every", "trajectory_every"):
        assert options[name] == getattr(library, name), name
    assert options["chain_length"] == library.chain
    assert float(options["temperature"]) == library.temperature


def test_seed_is_drawn_and_told(md):
    first, second = (document(md(*EMT, "-o", name, "--json")) for name in ("a", "b"))
    assert first["seed_drawn"] is True
    assert first["settings"]["seed"] != second["settings"]["seed"]
    again = document(md(*EMT, "-o", "c", "--json", "--seed", first["settings"]["seed"]))
    assert Path("c/thermo.csv").read_bytes() == Path("a/thermo.csv").read_bytes()
    assert again["seed_drawn"] is False


def test_velocities_of_the_file_count_only_when_asked_for(md):
    assert md(*EMT, "--seed", 1, "-o", "a").exit_code == 0
    start = read("a/final.extxyz").get_momenta()
    arguments = ("a/final.extxyz", "--engine", "emt", "--steps", 0, "--ensemble", "nve", "--seed", 1, "--no-plots")
    drawn = md(*arguments, "-o", "b")
    assert "--keep-velocities keeps them" in drawn.stderr
    kept = md(*arguments, "-o", "c", "--keep-velocities")
    assert "velocities" not in kept.stderr
    np.testing.assert_allclose(read("c/final.extxyz").get_momenta(), start, atol=1e-7)
    assert np.abs(read("b/final.extxyz").get_momenta() - start).max() > 0.1
    assert md("Cu.cif", "--engine", "emt", "--keep-velocities").exit_code == 4


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--ensemble", "nvt-cvsr"), 4, "nvt-csvr"),
        (("--time", "10"), 2, "unit"),
        (("--time", "1ps", "--steps", 5), 2, "contradict"),
        (("--pressure", 1), 2, "no effect"),
        (("--ensemble", "nve", "--temperature", "300:600"), 2, "ramp"),
        (("--temperature", "warm"), 2, "not a temperature"),
        (("--temperature", "0"), 2, "above 0"),
        (("--timestep", "-1"), 2, "positive"),
        (("--resume", "a"), 2, "give one"),
        (("--thermostat-time", "1"), 2, "too short"),
    ],
)
def test_mistakes_are_one_line(md, arguments, code, text):
    result = md("Cu.cif", "--engine", "emt", *arguments)
    assert result.exit_code == code
    assert text in result.stderr
    assert result.stderr.count("\n") <= 2
    assert not Path("Cu-md").exists()


def test_barostat_needs_a_crystal_and_hydrogen_a_short_step(md):
    write("water.xyz", molecule("H2O"))
    assert md("water.xyz", "--engine", "emt", "--ensemble", "npt").exit_code == 4
    write("h.extxyz", bulk("Cu", cubic=True))
    hydrogen = read("h.extxyz")
    hydrogen.numbers[0] = 1
    write("h.extxyz", hydrogen)
    assert "hydrogen" in md("h.extxyz", "--engine", "emt", "--timestep", 2).stderr


def test_an_existing_run_is_kept_without_force(md):
    assert md(*EMT).exit_code == 0
    again = md(*EMT)
    assert again.exit_code == 4
    assert "--resume Cu-md" in again.stderr
    assert md(*EMT, "--force", "--seed", 9).exit_code == 0


def test_continuing_is_the_long_run(md):
    assert md(*EMT, "--seed", 1, "-o", "short").exit_code == 0
    assert md("--resume", "short", "--steps", 100, "--no-plots").exit_code == 0
    assert md(*EMT[:3], "--steps", 100, "--no-plots", "--seed", 1, "-o", "long").exit_code == 0
    assert_same_run("long", "short")
    assert md("--resume", "short", "--steps", 50).exit_code == 2
    assert "no effect" in md("--resume", "short", "--timestep", 2).stderr


def test_resume_without_a_run_is_an_error(md):
    assert md("--resume", "nowhere").exit_code == 4
    Path("empty").mkdir()
    assert md("--resume", "empty").exit_code == 4
    Path("empty/checkpoint.npz").write_bytes(b"PK nonsense")
    assert md("--resume", "empty").exit_code == 4


def test_explosion_is_exit_code_nine(md):
    hot = md("Cu.cif", "--engine", "emt", "--max-temperature", 400, "--steps", 200, "--seed", 1, "--no-plots")
    assert hot.exit_code == 9
    assert "EXPLODED" in hot.stdout
    assert "last-good.extxyz" in hot.stderr
    assert read("Cu-md/last-good.extxyz").has("momenta")
    assert Path("Cu-md/checkpoint.npz").is_file()


def test_strict_turns_a_failed_check_into_exit_code_nine(md):
    arguments = ("Cu.cif", "--engine", "emt", "--steps", 600, "--seed", 1, "--no-plots", "--supercell", 2, 2, 2)
    rare = (*arguments, "--timestep", 5, "--trajectory-every", 12)  # 60 fs: less than two frames per vibration
    result = md(*rare)
    assert result.exit_code == 0
    assert "FAILED  frames resolve vibrations" in result.stdout
    assert md(*rare, "--force", "--strict").exit_code == 9


def test_pictures_and_analysis_of_what_is_there(md):
    arguments = (
        "Cu.cif",
        "--engine",
        "emt",
        "--steps",
        500,
        "--seed",
        1,
        "--ensemble",
        "npt-mtk-iso",
        "--trajectory-every",
        5,
    )
    assert md(*arguments, "--supercell", 2, 2, 2).exit_code == 0
    names = {"thermo.png", "rdf.png", "msd.png", "vdos.png", "rdf.csv", "msd.csv", "vdos.csv", "vacf.csv"}
    assert names <= {path.name for path in Path("Cu-md").iterdir()}
    whole = json.loads(Path("Cu-md/result.json").read_text())
    again = document(md("--analyse", "Cu-md", "--json", "--no-plots"))
    assert again["averages"] == whole["averages"]
    assert again["checks"] == whole["checks"]
    assert again["pair_distributions"] == whole["pair_distributions"]
    Path("Cu-md/trajectory.h5md").rename("other.h5md")
    alone = document(md("--analyse", "other.h5md", "--json"))
    assert alone["settings"] is None
    assert alone["pair_distributions"][0]["coordination"] == pytest.approx(12.0, abs=0.01)


def test_live_line_says_how_far_and_how_long():
    line = LiveLine(MdSettings(steps=1000, timestep=2.0), 0)
    row = Sample(250, 500.0, 301.4, 300.0, -5.0, 1.0, -4.0, -4.0, float("nan"), 0.123, *[0.0] * 15)
    text = line.text(row, 10.0)
    assert text.startswith("step 250/1000  0.50 ps  T 301 K  E -4.0000 eV  P 0.12 GPa")
    assert text.endswith("4.32 ns/day  0:00:30 left")


# --- real processes -------------------------------------------------------------------------------------------------


@pytest.fixture
def grace(site, tmp_path):
    """Start ``grace`` as a process of its own, in an empty folder."""
    write(tmp_path / "Cu.cif", bulk("Cu", a=3.6, cubic=True))
    path = os.pathsep.join([str(site), str(TOY), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "GRACE_PLUGINS": "toy"}

    def start(*arguments):
        call = [sys.executable, "-m", "gracecli.cli.main", "md", *map(str, arguments)]
        return subprocess.Popen(
            call, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


STEPS = 400


def options(ensemble):
    return (
        "Cu.cif", "--engine", "emt", "--ensemble", ensemble, "--steps", STEPS, "--seed", 3, "--temperature", "500:700",
        "--checkpoint-every", 9, "--thermo-every", 3, "--trajectory-every", 4, "--no-plots", "-q",
    ) if ensemble != "nve" else (
        "Cu.cif", "--engine", "emt", "--ensemble", ensemble, "--steps", STEPS, "--seed", 3,
        "--checkpoint-every", 9, "--thermo-every", 3, "--trajectory-every", 4, "--no-plots", "-q",
    )  # fmt: skip


def last_step(folder):
    lines = (folder / "thermo.csv").read_text().splitlines() if (folder / "thermo.csv").exists() else []
    return int(lines[-1].split(",")[0]) if len(lines) > 1 and lines[-1].split(",")[0].isdigit() else -1


def wait_for(process, condition):
    until = time.monotonic() + 120
    while not condition() and process.poll() is None:
        assert time.monotonic() < until, "nothing happens"
        time.sleep(0.002)


def killed_and_resumed(grace, folder, ensemble, kills, seed):
    """Run to the end with ``kills`` kills at random moments; how often a process was really killed."""
    rng = random.Random(seed)
    killed = 0
    process = grace(*options(ensemble), "-o", folder)
    for goal in sorted(rng.sample(range(20, STEPS - 20), kills)):
        wait_for(process, lambda goal=goal: last_step(folder) >= goal)
        time.sleep(rng.uniform(0.0, 0.01))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        with h5py.File(folder / "trajectory.h5md", "r", locking=False, swmr=True) as file:
            steps = file["particles/trajectory/position/step"][:]
            assert (np.diff(steps) == 4).all()
            assert np.isfinite(file["particles/trajectory/position/value"][:]).all()
        checkpoint = (folder / "checkpoint.npz").stat().st_mtime_ns
        process = grace("--resume", folder, "--no-plots", "-q")
        wait_for(process, lambda old=checkpoint: (folder / "checkpoint.npz").stat().st_mtime_ns != old)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return killed


def uninterrupted(grace, folder, ensemble):
    process = grace(*options(ensemble), "-o", folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err


@pytest.mark.parametrize("ensemble", ["nvt-csvr", "npt-mtk"])
def test_killed_run_is_resumed_bit_for_bit(grace, tmp_path, ensemble):
    uninterrupted(grace, tmp_path / "whole", ensemble)
    assert killed_and_resumed(grace, tmp_path / "killed", ensemble, 1, seed=1) == 1
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", ["nve", "nvt-langevin", "nvt-csvr", "nvt-nhc", "npt-mtk"])
def test_ten_kills(grace, tmp_path, ensemble):
    uninterrupted(grace, tmp_path / "whole", ensemble)
    assert killed_and_resumed(grace, tmp_path / "killed", ensemble, 10, seed=2) >= 8
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_a_checkpoint_and_says_how_to_resume(grace, tmp_path, number):
    arguments = [item if item != STEPS else 100000 for item in options("nvt-nhc")]
    process = grace(*arguments, "-o", "run")
    wait_for(process, lambda: last_step(tmp_path / "run") >= 30)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert out == ""
    assert "grace: interrupted after" in err
    assert "grace md --resume run" in err
    done = int(err.split("interrupted after ")[1].split()[0])
    state = np.load(tmp_path / "run" / "checkpoint.npz")
    assert json.loads(str(state["document"]))["step"] == done
    process = grace("--resume", "run", "--steps", done + 10, "--no-plots", "-q")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err


def test_two_processes_do_not_write_one_run(grace, tmp_path):
    arguments = [item if item != STEPS else 100000 for item in options("nve")]
    process = grace(*arguments, "-o", "run")
    wait_for(process, lambda: last_step(tmp_path / "run") >= 3)
    second = grace("--resume", "run")
    out, err = second.communicate(timeout=60)
    process.kill()
    process.communicate()
    assert second.returncode == 4, out + err
    assert "another process" in err


def assert_same_run(one, other):
    one, other = Path(one), Path(other)
    assert (one / "thermo.csv").read_bytes() == (other / "thermo.csv").read_bytes()
    with h5py.File(one / "trajectory.h5md") as a, h5py.File(other / "trajectory.h5md") as b:
        for name in ("position/value", "velocity/value", "position/step", "box/edges/value"):
            first, second = (file[f"particles/trajectory/{name}"][:] for file in (a, b))
            assert first.tobytes() == second.tobytes(), name
    first, second = np.load(one / "checkpoint.npz"), np.load(other / "checkpoint.npz")
    for name in set(first.files) - {"document"}:
        assert first[name].tobytes() == second[name].tobytes(), name


def test_several_runs_in_one_call(md, tmp_path):
    """A folder each; a name that does not exist stops no other; a seed gives each what it gives alone."""
    bulk("Mo", "bcc", a=3.17, cubic=True).repeat(2).write("Mo.poscar", format="vasp")
    bulk("Cu", "fcc", a=3.62, cubic=True).repeat(2).write("Cu.poscar", format="vasp")
    common = ("--steps", "20", "--seed", "5", "--no-plots")
    done = md("Cu.poscar", "absent.cif", "Mo.poscar", *common, "-o", "all", "--json")
    assert done.exit_code == 5, done.output
    copper, absent, molybdenum = json.loads(done.stdout)["results"]
    assert copper["status"] == molybdenum["status"] == "finished"
    assert "no such file" in absent["error"]["message"]
    alone = md("Mo.poscar", *common, "-o", "alone", "--json")
    assert alone.exit_code == 0, alone.output
    assert json.loads(alone.stdout)["averages"] == molybdenum["averages"]
    assert (tmp_path / "all" / "Mo-md" / "final.extxyz").read_text() == (tmp_path / "alone/final.extxyz").read_text()
    table = md("Cu.poscar", "Mo.poscar", *common, "-o", "table")
    assert table.exit_code == 0, table.output
    assert "Mo-md" in table.stdout


def test_runs_in_the_store(md, tmp_path):
    """Recorded when finished, also by a resume; the same run is answered, another seed or length is not."""
    bulk("Cu", "fcc", a=3.62, cubic=True).repeat(2).write("Cu.poscar", format="vasp")
    run = ("Cu.poscar", "--no-plots", "--store", "runs.h5", "--json")
    first = md(*run, "--steps", "20", "--seed", "5", "-o", "a")
    assert first.exit_code == 0, first.output
    again = md(*run, "--steps", "20", "--seed", "5", "-o", "b")
    assert again.exit_code == 0, again.output
    assert not (tmp_path / "b").exists()
    one, two = json.loads(first.stdout), json.loads(again.stdout)
    assert "runs.h5" in two["files"]["folder"]
    assert one["averages"] == two["averages"]
    assert md(*run, "--steps", "20", "--seed", "6", "-o", "c").exit_code == 0
    assert (tmp_path / "c").exists()
    longer = md("--resume", "a", "--steps", "40", "--no-plots")
    assert longer.exit_code == 0, longer.output
    assert md(*run, "--steps", "40", "--seed", "5", "-o", "d").exit_code == 0
    assert not (tmp_path / "d").exists()  # the resumed run was recorded as the long one
    from gracecli import Store
    from gracecli.store.results import read_result

    with Store("runs.h5") as store:
        known = [read_result(store, row) for row in range(3)]
        assert store[known[0].structure].get_chemical_symbols() == ["Cu"] * 32
    assert known[0].values["temperature"] == one["averages"]["temperature"]["mean"]
    assert known[0].output.get_momenta().any()
