"""Fewer elements: the same numbers, and nothing guessed from shapes."""

import numpy as np
import pytest

from gracecli.errors import InputError, ModelError
from gracecli.export.reference import evaluate_model, graphs_for
from gracecli.export.verify import test_structures as structures_of
from gracecli.model import blueprint as bp
from gracecli.model.cutoffs import pair_cutoff_function
from gracecli.model.modelfile import Model
from gracecli.model.reduce import cast, element_axes, reduce_elements, stored_precision


@pytest.mark.parametrize(
    "name", ["tiny", "rare", "pairs", *(pytest.param(n, marks=pytest.mark.slow) for n in ("1l", "2l", "3l"))]
)
@pytest.mark.parametrize("elements", [("Ni", "Al"), ("Cu",)])
def test_same_numbers_as_the_full_model(model, name, elements):
    full = model(name)
    reduced = reduce_elements(full, elements)
    assert reduced.elements == tuple(e for e in full.elements if e in elements)  # in the order of the model
    assert reduced.n_parameters < full.n_parameters
    structures = structures_of(elements, full.cutoff, pair_cutoff_function(full))
    wanted = evaluate_model(full, graphs_for(full, structures))
    found = evaluate_model(reduced, graphs_for(reduced, structures))
    for a, b in zip(found, wanted, strict=True):
        scale = max(1.0, np.abs(b.forces).max())
        np.testing.assert_allclose(a.energies, b.energies, rtol=0, atol=1e-12 * scale)
        np.testing.assert_allclose(a.forces, b.forces, rtol=0, atol=1e-12 * scale)
        np.testing.assert_allclose(a.stress, b.stress, rtol=0, atol=1e-12 * scale)


def test_pair_cutoffs_follow(model):
    full = model("pairs")
    reduced = reduce_elements(full, ["Al", "Ni"])
    np.testing.assert_array_equal(reduced.pair_cutoffs(), full.pair_cutoffs()[np.ix_([0, 2], [0, 2])])
    assert set(reduced.blueprint.of_type(bp.PairRadialBasis)[0].cutoffs) == {"AlAl", "AlNi", "NiNi"}
    assert reduce_elements(full, ["Al"]).cutoff == pytest.approx(3.6)


def test_provenance_is_kept(model):
    full = model("tiny")
    origin = reduce_elements(full, ["Cu"]).metadata["reduced_from"]
    assert origin == {"name": "tiny", "sha256": full.sha256(), "elements": list(full.elements)}
    assert reduce_elements(full, full.elements) is full


def test_errors_name_what_is_wrong(model):
    full = model("tiny")
    with pytest.raises(InputError, match="does not cover Xx"):
        reduce_elements(full, ["Al", "Xx"])
    with pytest.raises(InputError, match="twice"):
        reduce_elements(full, ["Al", "Al"])
    with pytest.raises(InputError, match="no element"):
        reduce_elements(full, [])
    name = next(n for n in full.weights if n.endswith("reducing_A"))
    with pytest.raises(ModelError, match=r"reducing_A.*not 3 elements in front"):
        reduce_elements(Model(full.blueprint, {**full.weights, name: full.weights[name][:2]}), ["Al"])


def test_every_node_type_declares_its_elements():
    silent = element_axes.dispatch(object)
    assert [kind for kind, cls in bp.NODE_TYPES.items() if element_axes.dispatch(cls) is silent] == []


def test_a_node_type_that_says_nothing_is_refused():
    class Foreign(bp.Node):
        kind = "Foreign"

    with pytest.raises(ModelError, match=r"'x'.*Foreign does not say"):
        element_axes(Foreign(name="x"))


@pytest.mark.parametrize("name", ["tiny", "rare", "pairs", "2l", "3l"])
def test_declared_is_what_the_blocks_ask_for(model, name, monkeypatch):
    """Blocks leave the axis over elements open, or say its length: another number of elements changes just these."""
    from gracecli.model.blocks.base import Variables
    from gracecli.model.network import Network

    asked = {}
    get = Variables.get

    def spy(self, node, path, shape, trainable=True):
        asked[node, path] = shape
        return get(self, node, path, shape, trainable)

    monkeypatch.setattr(Variables, "get", spy)
    full = model(name)
    Network(full.blueprint, full.weights)
    assert asked
    for (node, path), shape in asked.items():
        declared = element_axes(full.blueprint.by_name[node]).of(path)
        embedding = isinstance(full.blueprint.by_name[node], bp.Embedding)
        assert (declared is not None) == (embedding or (len(shape) > 0 and shape[0] is None)), (node, path)


def test_cast(model):
    full = model("3l")
    single = cast(full, "fp32")
    assert stored_precision(full) == "fp64"
    assert stored_precision(single) == "fp32"
    assert single.precision == "float32"
    for name, value in full.weights.items():
        wanted = np.float64 if name.split("/")[0] in ("A1", "A2", "A3") and name.endswith("/rc") else np.float32
        assert single.weights[name].dtype == wanted, name
        np.testing.assert_array_equal(single.weights[name], value.astype(wanted))
