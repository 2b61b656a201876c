from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from gracecli.engine.calculator import GraceCalculator
from gracecli.errors import InputError
from gracecli.model.extend import extend_elements, group_and_period, nearest_element
from gracecli.model.modelfile import Model, save_model
from gracecli.model.presets import initial_weights, preset
from gracecli.model.reduce import reduce_elements

PLACES = {
    "H": (1, 1), "He": (18, 1), "Li": (1, 2), "C": (14, 2), "O": (16, 2), "Al": (13, 3), "Ar": (18, 3), "Ti": (4, 4),
    "Cu": (11, 4), "Ga": (13, 4), "Ag": (11, 5), "Xe": (18, 5), "Ba": (2, 6), "La": (3, 6), "Ce": (3, 6), "Lu": (3, 6),
    "Hf": (4, 6), "Au": (11, 6), "Rn": (18, 6), "U": (3, 7),
}  # fmt: skip


def test_groups_and_periods():
    assert {symbol: group_and_period(symbol) for symbol in PLACES} == PLACES
    with pytest.raises(InputError, match="'Xx' is not"):
        group_and_period("Xx")


def test_the_nearest_element_is_the_chemist_s():
    known = ["Cu", "Ge", "Li", "Mo", "Nb", "Ni", "Si", "Ta", "W"]
    expected = {"Ag": "Cu", "Au": "Cu", "C": "Si", "H": "Li", "Pt": "Ni", "V": "Nb", "Cr": "Mo", "Pb": "Ge", "Na": "Li"}
    assert {new: nearest_element(new, known) for new in expected} == expected


@pytest.fixture(scope="module")
def model():
    blueprint = preset(
        "1l-small", ["Cu", "Ni"], lmax=1, order=2, n_radial=4, n_product=4, n_density=3, n_basis=5, hidden=[8],
        readout_hidden=[8], embedding=4, cutoff=3.6, scale=0.5, element_shifts=(-1.0, -2.0),
        cutoffs={"Cu": 3.5, "CuNi": 3.2, "Ni": 3.4}, zbl_cutoffs={"Cu": 1.1, "CuNi": 1.2, "Ni": 1.3},
    )  # fmt: skip
    return Model(blueprint, initial_weights(blueprint, np.random.default_rng(1)), {"name": "small"})


def evaluate(model: Model, atoms, folder, engine: str):
    path = save_model(folder / "model.grace", model, overwrite=True)
    return GraceCalculator(path, engine).evaluate([atoms])[0]


@pytest.mark.parametrize("engine", ["tensorflow", "native"])
def test_a_new_element_starts_as_its_donor_and_the_rest_is_untouched(model, tmp_path, engine):
    if engine == "native":
        pytest.importorskip("grace_native")
    extended, donors = extend_elements(model, ["Ag", "Ni"])
    assert donors == {"Ag": "Cu"}
    assert extended.elements == ("Cu", "Ni", "Ag")
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=3)
    atoms.symbols[1] = "Ni"
    old, new = (evaluate(m, atoms, tmp_path, engine) for m in (model, extended))
    assert old.forces.tobytes() == new.forces.tobytes()
    assert old.energies.tobytes() == new.energies.tobytes()
    swapped = atoms.copy()
    swapped.symbols[atoms.symbols == "Cu"] = "Ag"
    other = evaluate(extended, swapped, tmp_path, engine)
    # short bonds are absent, so the repulsion (whose charges differ) is silent
    assert other.energies == pytest.approx(old.energies, abs=1e-10)
    assert other.forces == pytest.approx(old.forces, abs=1e-10)


def test_pairs_of_a_new_element_are_those_of_its_donor(model):
    extended, _ = extend_elements(model, ["Ag"])
    matrix = extended.pair_cutoffs()
    assert matrix[2].tolist() == matrix[0, [0, 1, 0]].tolist()
    zbl = next(node for node in extended.blueprint if node.kind == "ZBL")
    assert zbl.elements == ("Cu", "Ni", "Ag")
    assert zbl.cutoffs["CuAg"] == zbl.cutoffs["Cu"]
    assert reduce_elements(extended, ["Cu", "Ni"]).sha256() == model.sha256()


def test_a_donor_may_be_chosen(model):
    extended, donors = extend_elements(model, ["Ag"], {"Ag": "Ni"})
    assert donors == {"Ag": "Ni"}
    assert np.array_equal(extended.weights["Z/w"][2], model.weights["Z/w"][1])
    with pytest.raises(InputError, match="cannot be made like Pt"):
        extend_elements(model, ["Ag"], {"Ag": "Pt"})
    with pytest.raises(InputError, match="no new element"):
        extend_elements(model, ["Ag"], {"Cu": "Ni"})
