"""Tiny models of every architecture in files, and the command line in this process."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gracecli.cli.main import main
from gracecli.model import blueprint as bp
from gracecli.model.modelfile import Model, save_model
from gracecli.model.presets import initial_weights
from gracecli.plugin.manager import reset_plugin_manager

spec = importlib.util.spec_from_file_location("small_models", Path(__file__).parents[1] / "model" / "conftest.py")
small_models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small_models)

ELEMENTS = small_models.ELEMENTS
TINY = {"lmax": (1, 1, 1), "n_radial": (2, 2, 2), "embedding": 2, "n_basis": 3}
PAIRS = {"AlAl": 3.6, "AlCu": 3.8, "AlNi": 4.0, "CuCu": 3.7, "CuNi": 3.9, "NiNi": 4.1}
SHORT = {"AlAl": 1.6, "AlCu": 1.7, "AlNi": 1.8, "CuCu": 1.9, "CuNi": 1.65, "NiNi": 1.75}


def rarely_used():
    """Nodes with element-dependent weights and options that no preset has."""
    return bp.Blueprint(
        (
            bp.RadialBasis(name="g", basis="Cheb", n_functions=3, cutoff=4.0),
            bp.Harmonics(name="Y", lmax=1),
            bp.Embedding(name="Z", elements=ELEMENTS, size=2),
            bp.MLPRadial(
                name="R", basis="g", n_radial=2, lmax=1, hidden=(4,), activations=("silu",), embedding_i="Z",
                embedding_j="Z",
            ),
            bp.Density(name="A", radial="R", harmonics="Y", embedding="Z", average_neighbours=(9.0, 11.0, 13.0)),
            bp.Mix(name="A1", left="A", right="A", n_out=3, element_left=True, element_right=True),
            bp.Reduce(name="rho", sources=("A", "A1"), lmax=(0, 0), n_out=3, allowed=((0, 1),), element_dependent=True),
            bp.InitialEnergy(name="atomic_energy"),
            bp.BranchReadout(
                name="out", sources=("rho",), hidden=(4,), activation="tanh", element_dependent=True
            ),
            bp.ScaleShift(name="shift", scale=1.3, element_shifts=(-1.0, 2.0, -3.0), embedding="Z"),
            bp.ElementShift(name="chemistry", embedding="Z"),
        )
    )  # fmt: skip


def make_model(name):
    """A model by name, every weight random (also those that start at 0 or 1)."""
    if name == "rare":
        blueprint = rarely_used()
        model = Model(blueprint, initial_weights(blueprint, np.random.default_rng(3)), {"name": name})
    elif name == "tiny":
        model = small_models.small_model("fs", **TINY)
    elif name == "pairs":
        model = small_models.small_model("1l", cutoffs=PAIRS, zbl_cutoffs=SHORT, lmax=1, n_radial=2, n_product=2)
    else:
        model = small_models.small_model(name)
    rng = np.random.default_rng(11)
    fixed = ("rc", "cutoff", "bond_cutoff_map", "bond_zbl_cutoff_map", "delta_cutoff", "grid")
    weights = {
        key: value if key.rsplit("/", 1)[-1] in fixed else value + 0.1 * rng.standard_normal(np.shape(value))
        for key, value in model.weights.items()
    }
    return Model(model.blueprint, weights, {"name": name, "licence": "MIT", "elements": list(ELEMENTS)})


@pytest.fixture(scope="session")
def model(tensorflow):
    """Model by name: tiny (fs), rare, pairs (pair cutoffs and ZBL), 1l, 2l, 3l."""
    known = {}

    def get(name):
        if name not in known:
            known[name] = make_model(name)
        return known[name]

    return get


@pytest.fixture(scope="session")
def model_file(model, tmp_path_factory):
    """The same in a file."""
    folder = tmp_path_factory.mktemp("models")

    def get(name):
        path = folder / f"{name}.grace"
        return path if path.exists() else save_model(path, model(name))

    return get


@pytest.fixture
def grace(monkeypatch, tmp_path):
    """Call ``grace`` with arguments in an empty folder."""
    monkeypatch.setenv("GRACE_PLUGINS", "")
    monkeypatch.chdir(tmp_path)
    reset_plugin_manager()
    yield lambda *arguments: CliRunner().invoke(main, [str(a) for a in arguments])
    reset_plugin_manager()
