"""Which models cover given elements, and what an uncovered element is answered with."""

import pytest
from ase import Atoms

from gracecli import GraceCalculator
from gracecli.engine.tensorflow import TensorFlowEngine
from gracecli.errors import InputError, ModelError
from gracecli.registry.catalog import find_published, published_models
from gracecli.registry.covering import models_covering, suggest_models
from gracecli.registry.resolve import resolve_model


def test_catalog():
    models = published_models()
    assert len(models) == 44
    assert sum(model.elements is None for model in models.values()) == 12  # trained on SMAX: not stated
    for model in models.values():
        assert model.layers == (1 if "-FS-" in model.name else int(model.name.split("-")[1][0]))
        assert model.elements is None or len(set(model.elements)) == 89
        assert model.licence.startswith("Academic Software License")
        assert 5.0 <= model.cutoff[0] <= model.cutoff[1] <= 7.5
    names = [name.lower() for m in models.values() for name in (m.name, *m.aliases)]
    assert len(set(names)) == len(names)
    assert find_published("grace-1l-omat-m").name == "GRACE-1L-OMAT-medium-ft-E"
    assert find_published("nothing") is None


def test_local_models_come_first(library, bundled, stored):
    stored(bundled / "ours.grace", "Cu", "Ni", "Zr")
    stored(library / "mine.grace", "Cu", "Ni")
    stored(library / "copper.grace", "Cu")
    assert models_covering(["Cu", "Ni"])[:3] == ["ours", "mine", "GRACE-FS-OAM"]
    assert models_covering(["Cu"])[:3] == ["ours", "copper", "mine"]
    assert suggest_models(["Ni"]) == ["ours", "mine"]


def test_published_models_are_marked(library):
    assert suggest_models(["Cu", "U"]) == [
        "GRACE-FS-OMAT", "GRACE-1L-OMAT", "GRACE-2L-OMAT (published, not on this machine)",
    ]  # fmt: skip


def test_elements_that_nothing_covers(library):
    assert models_covering(["Cu", "Rn"]) == []
    assert suggest_models(["Rn"]) == []


def test_damaged_models_are_not_suggested(library, stored):
    path = stored(library / "a.grace", "Cu")
    path.write_bytes(path.read_bytes()[:2000])
    assert suggest_models(["Cu"])[0] == "GRACE-FS-OMAT"


def test_calculator_names_a_model_that_covers_the_elements(library, stored, small_model, tensorflow):
    stored(library / "alloy.grace", "Cu", "Ni")
    calculator = GraceCalculator(engine=TensorFlowEngine(small_model("Cu"), xla=False))
    atoms = Atoms("CuNi", positions=[[0, 0, 0], [2.5, 0, 0]], calculator=calculator)
    with pytest.raises(InputError) as caught:
        atoms.get_potential_energy()
    assert caught.value.exit_code == 4
    assert caught.value.message == "the model does not cover Ni; it covers Cu"
    assert caught.value.hint == "models that cover Cu, Ni: alloy"


def test_published_name_that_is_not_here(library):
    with pytest.raises(
        ModelError, match=r"GRACE-1L-OAM is a published model .*not on this machine .*Academic Software"
    ):
        resolve_model("GRACE-1L-OAM_2Feb25")
