"""Small models of every architecture with random weights, each traced once for all tests."""

import numpy as np
import pytest

from gracecli.engine.batch import BatchShape
from gracecli.engine.neighbours import build_graph
from gracecli.model import blueprint as bp
from gracecli.model.modelfile import Model
from gracecli.model.presets import initial_weights, preset

ELEMENTS = ("Al", "Cu", "Ni")
CUTOFF = 4.0
SHAPE = BatchShape(atoms=40, rows=88, elements=3)
"""Large enough for every structure of these tests: one traced program per model."""

COMMON = {
    "cutoff": CUTOFF,
    "average_neighbours": 12.0,
    "element_shifts": (-1.5, 0.5, -3.0),
    "embedding": 4,
    "n_basis": 5,
}
NETWORKS = {"hidden": (8, 8), "readout_hidden": (8,), "n_density": 4}
SMALL = {
    "fs": ("fs-small", {"lmax": (3, 2, 2), "n_radial": (4, 3, 2), "scale": 1.0}),
    "1l": ("1l-medium", {"lmax": 3, "n_radial": 4, "n_product": 4, "scale": 20.0, **NETWORKS}),
    "1l-first": ("1l-small", {"lmax": 2, "n_radial": 4, "n_product": 4, "scale": 4.0, **NETWORKS}),
    "2l": ("2l-medium", {"lmax": (2, 1), "n_radial": (4, 4), "n_product": (4, 4), "scale": 1.0, **NETWORKS}),
    "2l-first": ("2l-small", {"lmax": (2, 2), "n_radial": (4, 4), "n_product": (4, 4), "scale": 4.0, **NETWORKS}),
}
PLAIN = ((0, 1), (1, -1), (2, 1))
BOTH = ((0, -1), (0, 1), (1, -1), (1, 1))


def three_layers():
    """Chemistry-dependent densities, low-rank products and equivariant norms, as in the 3L models."""
    density = {
        "harmonics": "Y", "embedding": "Z", "n_radial": 3, "n_basis": 4, "cutoff": CUTOFF, "lmax": 2, "hidden": (6,),
        "average_neighbours": 12.0,
    }  # fmt: skip
    message = {**density, "Lmax": 1, "keep_parity": BOTH}
    product = {"lmax": 2, "normalize": True, "mode": "cp_l", "rank": 3}
    scalars = {"n_out": 4, "allowed": ((0, 1),), "element_dependent": True}
    return bp.Blueprint(
        (
            bp.Harmonics(name="Y", lmax=2),
            bp.Embedding(name="Z", elements=ELEMENTS, size=4),
            bp.ChemicalDensity(name="A1", indicator="Z", **density),
            bp.Product(name="A1_2", left="A1", right="A1", same=True, Lmax=2, keep_parity=PLAIN, **product),
            bp.Mix(name="A1_2_fc", left="A1_2", right="A1", left_weights=False, output_norm=True),
            bp.Reduce(
                name="eq1", sources=("A1", "A1_2_fc"), lmax=(2, 2), n_out=3, allowed=PLAIN, element_dependent=True
            ),
            bp.EquivariantNorm(name="eq1_norm", source="eq1", center=True),
            bp.Reduce(name="rho1", sources=("A1", "A1_2_fc"), lmax=(0, 0), **scalars),
            bp.InvariantNorm(name="rho1_norm", source="rho1"),
            bp.ChemicalDensity(name="A2", indicator="eq1_norm", **message),
            bp.Reduce(name="A2_red", sources=("A2",), lmax=(1,), n_out=3, allowed=BOTH),
            bp.Product(name="A2_2", left="A2_red", right="A2_red", same=True, Lmax=1, keep_parity=BOTH, **product),
            bp.Reduce(name="eq2", sources=("A2_red", "A2_2"), lmax=(1, 1), n_out=3, allowed=BOTH),
            bp.EquivariantNorm(name="eq2_norm", source="eq2", center=True),
            bp.Reduce(name="rho2", sources=("A2_red", "A2_2"), lmax=(0, 0), **scalars),
            bp.InvariantNorm(name="rho2_norm", source="rho2", mode="full"),
            bp.ChemicalDensity(name="A3", indicator="eq2_norm", **message),
            bp.Reduce(name="rho3", sources=("A3",), lmax=(0,), **scalars),
            bp.InvariantNorm(name="rho3_norm", source="rho3", mode="full"),
            bp.InitialEnergy(name="atomic_energy"),
            bp.MLPReadout(
                name="out", sources=("rho1_norm", "rho2_norm", "rho3_norm"), hidden=(8,), activation="silu"
            ),
            bp.ScaleShift(name="shift", element_shifts=(-1.5, 0.5, -3.0)),
        )
    )  # fmt: skip


def small_model(name, elements=ELEMENTS, seed=7, **overrides):
    """A model of a few thousand weights."""
    if name == "3l":
        blueprint = three_layers()
    else:
        base, options = SMALL[name]
        blueprint = preset(base, elements, **{**COMMON, **options, **overrides})
    return Model(blueprint, initial_weights(blueprint, np.random.default_rng(seed)), {"name": name})


class OneShape:
    """A ladder of one rung."""

    def choose(self, needed):
        assert SHAPE.holds(needed), needed
        return SHAPE


class Evaluator:
    """The engine without XLA, one program for all structures."""

    def __init__(self, model, **options):
        from gracecli.engine.tensorflow import TensorFlowEngine

        self.model = model
        self.engine = TensorFlowEngine(model, xla=False, **options)
        self.engine.ladder = OneShape()

    def __call__(self, atoms):
        return self.together([atoms])[0]

    def together(self, structures):
        """Several structures in one batch."""
        return self.engine.evaluate([build_graph(a, self.model.cutoff) for a in structures])

    def energy(self, atoms):
        return self(atoms).energy


@pytest.fixture(scope="session")
def small_models(tensorflow):
    """Name -> evaluator, made on first use."""
    known = {}

    def get(name):
        if name not in known:
            known[name] = Evaluator(small_model(name))
        return known[name]

    return get


@pytest.fixture(scope="session")
def new_model(tensorflow):
    """Make a small model that belongs to one test."""
    return small_model
