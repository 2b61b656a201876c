"""What is exported runs in the published package, which needs an environment of its own: GRACE_PEER_ENV names it."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gracecli.engine.create import create_engine
from gracecli.export.reference import evaluate_model, graphs_for
from gracecli.export.run import export_model
from gracecli.export.verify import test_structures as structures_of
from gracecli.model.cutoffs import pair_cutoff_function

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
import numpy as np
from ase.io import read
from tensorpotential.calculator import TPCalculator
calculator = TPCalculator(model=sys.argv[1])
values = {}
for k, atoms in enumerate(read(sys.argv[2], index=":")):
    periodic = atoms.pbc.all()  # the published calculator puts molecules into a box, in place
    atoms.calc = calculator
    values[f"energy{k}"] = atoms.get_potential_energy()
    values[f"forces{k}"] = atoms.get_forces()
    if periodic:
        values[f"stress{k}"] = atoms.get_stress()
np.savez(sys.argv[3], **values)
"""


@pytest.fixture(scope="session")
def peer():
    """Run a program of the environment of the published package."""
    given = os.environ.get("GRACE_PEER_ENV")
    if not given:
        pytest.skip("GRACE_PEER_ENV does not name an environment with the published package")
    folder = Path(given) / "bin" if Path(given).is_dir() else Path(given).parent

    def run(program, *arguments, cwd):
        environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": ""}
        command = [str(folder / program), *(str(a) for a in arguments)]
        options = {"cwd": cwd, "env": environment, "timeout": 900, "capture_output": True, "text": True}
        return subprocess.run(command, check=False, **options)

    return run


def reference(model):
    """Test structures of a model (the periodic ones large enough for all), with our values."""
    structures = structures_of(model.elements, model.cutoff, pair_cutoff_function(model))
    return structures, evaluate_model(model, graphs_for(model, structures))


def assert_equal(found, wanted):
    scale = max(1.0, *(np.abs(r.forces).max() for r in wanted))
    for a, b in zip(found, wanted, strict=True):
        assert abs(a.energy - b.energy) < 1e-9 * scale * len(b.forces)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-9 * scale)
        if np.isfinite(b.stress).all():
            np.testing.assert_allclose(a.stress, b.stress, atol=1e-9 * scale)


@pytest.mark.parametrize("name", ["tiny", "pairs", "1l", "2l", "3l"])
def test_published_tools_load_our_checkpoints(peer, model, model_file, tmp_path, name):
    """The published command turns model.yaml and checkpoint into its own SavedModel; that one gives our numbers."""
    export_model(model_file(name), "upstream", tmp_path / "model")
    done = peer(
        "grace_utils", "-p", "model.yaml", "-c", "checkpoint.index", "export", "-n", "saved_model",
        cwd=tmp_path / "model",
    )  # fmt: skip
    program = tmp_path / "model" / "saved_model"
    assert (program / "saved_model.pb").is_file(), (done.stdout + done.stderr)[-3000:]
    structures, wanted = reference(model(name))
    engine = create_engine(program, "saved-model")
    assert engine.elements == model(name).elements
    assert engine.cutoff == pytest.approx(model(name).cutoff)
    assert_equal(engine.evaluate(graphs_for(model(name), structures)), wanted)


@pytest.mark.parametrize("name", ["tiny", "pairs", "2l"])
def test_published_calculator_runs_our_programs(peer, model, model_file, tmp_path, name):
    from ase.io import write

    export_model(model_file(name), "saved-model", tmp_path / "program", options={"xla": False})
    structures, wanted = reference(model(name))
    write(tmp_path / "structures.extxyz", [a.copy() for a in structures], columns=["symbols", "positions"])
    from ase.io import read

    # what was written has fewer digits: compare with our values for the same
    structures = read(tmp_path / "structures.extxyz", index=":")
    wanted = evaluate_model(model(name), graphs_for(model(name), structures))
    (tmp_path / "run.py").write_text(PROGRAM)
    done = peer("python", "run.py", "program", "structures.extxyz", "values.npz", cwd=tmp_path)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    scale = max(1.0, *(np.abs(r.forces).max() for r in wanted))
    with np.load(tmp_path / "values.npz") as values:
        for k, ours in enumerate(wanted):
            assert abs(values[f"energy{k}"] - ours.energy) < 1e-9 * scale * len(ours.forces)
            np.testing.assert_allclose(values[f"forces{k}"], ours.forces, atol=1e-9 * scale)
            if f"stress{k}" in values:
                np.testing.assert_allclose(values[f"stress{k}"], ours.stress, atol=1e-9 * scale)
