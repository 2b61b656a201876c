"""What the engine promises whatever the model: physics, batches, threads, memory modes, errors, no TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from grace_native import library
from grace_native.engine import NativeEngine, create_engine
from native_models import DATA, MODELS, read

from gracecli.engine.neighbours import build_graph
from gracecli.errors import InputError, ModelError, UsageError
from gracecli.model import blueprint as bp
from gracecli.model.modelfile import Model
from gracecli.plugin.engine_checks import check_engine


def graph(engine: Any, atoms: Atoms) -> Any:
    return build_graph(atoms, engine.cutoff, engine.pair_cutoff)


@pytest.mark.parametrize("name", MODELS)
def test_forces_and_stress_are_derivatives_of_the_energy(name: str, engine: Any) -> None:
    outcomes = check_engine(engine(name))
    assert outcomes
    if name == "fs":  # |rho|^(1/2) curves too much for steps of 1e-3 Å; the next test takes its derivatives
        outcomes = [c for c in outcomes if "is -dE" not in c.check and "are -dE" not in c.check]
    assert [c for c in outcomes if c.outcome != "passed"] == []


@pytest.mark.parametrize("name", MODELS)
def test_spline_slopes_belong_to_spline_values(name: str, engine: Any, structures: dict[str, Atoms]) -> None:
    """Energy differences along a step equal the work of the forces: what keeps dynamics conservative."""
    native, atoms = engine(name), structures["alloy"].copy()
    move = np.random.default_rng(3).normal(size=atoms.positions.shape)
    h = 2e-4
    energies, start = [], atoms.positions.copy()
    for step in (-2, -1, 1, 2):
        atoms.positions = start + step * h * move
        energies.append(native.evaluate([graph(native, atoms)])[0].energy)
    atoms.positions = start
    slope = (8 * (energies[2] - energies[1]) - (energies[3] - energies[0])) / (12 * h)
    work = -(native.evaluate([graph(native, atoms)])[0].forces * move).sum()
    assert slope == pytest.approx(work, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("name", ["1l", "2l", "3l"])
def test_threads_agree_and_repeat_to_the_bit(name: str, structures: dict[str, Atoms]) -> None:
    atoms = structures["alloy"].repeat((2, 2, 2))
    engines = [NativeEngine(read(name), threads=n) for n in (1, 2, 2, 3)]
    one, two, again, three = (e.evaluate([graph(e, atoms)])[0] for e in engines)
    assert np.array_equal(two.forces, again.forces)
    assert two.energy == again.energy
    for other in (two, three):
        assert np.abs(one.forces - other.forces).max() < 1e-12
        assert np.array_equal(one.energies, other.energies)


@pytest.mark.parametrize("name", ["2l", "2l-first", "3l"])
def test_recomputing_equals_keeping(name: str, engine: Any, structures: dict[str, Atoms]) -> None:
    keep, recompute = engine(name), engine(name, keep_bytes=0)
    one, two = (e.evaluate([graph(e, structures["alloy"])])[0] for e in (keep, recompute))
    assert np.array_equal(one.forces, two.forces)
    assert np.array_equal(one.energies, two.energies)


def test_new_elements_change_nothing_for_old_structures(structures: dict[str, Atoms]) -> None:
    native = NativeEngine(read("2l"), threads=1)
    before = native.evaluate([graph(native, structures["cell"])])[0]
    native.evaluate([graph(native, structures["alloy"])])
    after = native.evaluate([graph(native, structures["cell"])])[0]
    assert native.statistics()["compiles"] == 2
    assert before.energy == pytest.approx(after.energy, abs=1e-11)


def test_a_single_precision_force_is_not_a_double_one(engine: Any, structures: dict[str, Atoms]) -> None:
    one, two = (e.evaluate([graph(e, structures["alloy"])])[0] for e in (engine("1l"), engine("1l", precision="fp32")))
    assert not np.array_equal(one.forces, two.forces)


def test_memory_grows_linearly(engine: Any, structures: dict[str, Atoms]) -> None:
    native, bytes_per_atom = NativeEngine(read("2l"), threads=1), []
    for n in (2, 3, 4):
        atoms = structures["alloy"].repeat(n)
        native.evaluate([graph(native, atoms)])
        bytes_per_atom.append(native.statistics()["workspace_bytes"] / len(atoms))
    assert max(bytes_per_atom) < 1.5 * min(bytes_per_atom) + 1e3


def test_element_outside_the_model_is_an_input_error(engine: Any) -> None:
    native = engine("1l")
    with pytest.raises(InputError, match="does not cover Fe"):
        native.evaluate([graph(native, Atoms("Fe"))])


@pytest.mark.parametrize("options", [{"precision": "fp16"}, {"radial": "table"}, {"threads": 0}])
def test_bad_options_are_usage_errors(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        NativeEngine(read("1l"), **options)


def test_unknown_option_of_the_factory_is_named() -> None:
    with pytest.raises(UsageError, match="colour"):
        create_engine(DATA / "1l.grace", None, colour=1)


def test_node_it_cannot_evaluate_is_named() -> None:
    @bp.node_type
    class Novelty(bp.Node):
        pass

    try:
        nodes = (*read("1l").blueprint.nodes, Novelty(name="new idea"))
        with pytest.raises(ModelError, match="'new idea' is of type Novelty"):
            NativeEngine(Model(bp.Blueprint(nodes), read("1l").weights))
    finally:
        del bp.NODE_TYPES["Novelty"]


def test_every_instruction_set_gives_the_same_numbers(structures: dict[str, Atoms], tmp_path: Any) -> None:
    script = (
        "import sys, numpy as np; from pathlib import Path; from ase.io import read\n"
        "from grace_native.engine import create_engine; from gracecli.engine.neighbours import build_graph\n"
        "e = create_engine(Path(sys.argv[1]), threads=1); a = read(sys.argv[2])\n"
        "np.save(sys.argv[3], e.evaluate([build_graph(a, e.cutoff)])[0].forces)\n"
        "print(e.statistics()['instruction_set'])\n"
    )
    structures["alloy"].write(tmp_path / "alloy.extxyz")
    best = library.import_module("grace_native._native").best()
    forces, used = [], []
    for name in library.INSTRUCTION_SETS[library.INSTRUCTION_SETS.index(best) :]:
        target = tmp_path / f"{name}.npy"
        done = subprocess.run(
            [sys.executable, "-c", script, str(DATA / "2l.grace"), str(tmp_path / "alloy.extxyz"), str(target)],
            env={**os.environ, "GRACE_NATIVE_ISA": name}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "GRACE_NATIVE_ISA" in done.stderr or "was built without" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        forces.append(np.load(target))
        used.append(done.stdout.strip())
        assert used[-1] == name
    assert forces
    for other in forces[1:]:
        assert np.abs(other - forces[0]).max() < 1e-12


def test_tensorflow_is_never_imported(tmp_path: Any) -> None:
    script = (
        "import sys; from pathlib import Path; from ase.build import bulk; from gracecli import GraceCalculator\n"
        "a = bulk('Cu', cubic=True); a.calc = GraceCalculator(sys.argv[1], engine='native'); a.get_stress()\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'keras', 'jax', 'torch')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(DATA / "1l.grace")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    library.instruction_set.cache_clear()
    monkeypatch.setattr(library, "import_module", missing)
    try:
        reason = library.available()
    finally:
        library.instruction_set.cache_clear()
    assert isinstance(reason, str)
    assert "C++17 compiler" in reason
    assert "\n" not in reason


def test_instruction_set_beyond_the_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    library.instruction_set.cache_clear()
    monkeypatch.setenv("GRACE_NATIVE_ISA", "avx1024")
    try:
        assert "avx1024" in str(library.available())
    finally:
        library.instruction_set.cache_clear()


def test_auto_prefers_the_compiled_engine() -> None:
    from gracecli.engine.create import choose_engine

    assert choose_engine("auto").name == "native"


def test_bundled_models_run_and_their_tables_hold() -> None:
    from ase.build import bulk

    from gracecli.registry.resolve import bundled_models

    if not bundled_models():
        pytest.skip("no bundled model in this installation")
    for path in bundled_models().values():
        exact, spline = (create_engine(path, None, threads=1, radial=mode) for mode in ("exact", "spline"))
        atoms = bulk("Cu", cubic=True, a=4.0)
        atoms.symbols[:] = (list(exact.elements) * 4)[:4]
        atoms.rattle(0.1, rng=np.random.default_rng(0))
        one, two = (e.evaluate([graph(e, atoms)])[0] for e in (exact, spline))
        assert np.isfinite(one.forces).all()
        assert np.abs(one.forces - two.forces).max() < 1e-8
        assert abs(one.energy - two.energy) < 1e-9
