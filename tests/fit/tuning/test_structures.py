from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from gracecli.errors import UsageError
from gracecli.fit.tuning.structures import BINARIES, UNARIES, augmented, crystal


def by_emt(structures):
    """EMT stands for a model."""
    found = []
    for atoms in structures:
        copy = atoms.copy()
        copy.calc = EMT()
        found.append(SimpleNamespace(energy=copy.get_potential_energy()))
    return found


def shortest(atoms) -> float:
    distances = (atoms * (3, 3, 3)).get_all_distances(mic=True)
    return float(distances[distances > 1e-6].min())


@pytest.mark.parametrize(("name", "elements"), [(n, ["Cu"]) for n in UNARIES] + [(n, ["Cu", "Ag"]) for n in BINARIES])
def test_prototypes_have_the_distance_asked_for(name, elements):
    assert shortest(crystal(name, elements, 2.5)) == pytest.approx(2.5, abs=1e-6)


def test_crystals_surround_the_volume_of_lowest_energy():
    found = augmented([], ["unaries"], ["Cu", "Ag"], by_emt, seed=1)
    assert len(found) == 2 * 5 * 9
    fcc = [a for a in found if a.info["config_type"] == "unary-fcc" and a.symbols[0] == "Cu"]
    volumes = [a.get_volume() / len(a) for a in fcc]
    reference = 3.59**3 / 4  # of EMT
    assert min(volumes) < reference < max(volumes)
    energies = [r.energy / len(a) for r, a in zip(by_emt(fcc), fcc, strict=True)]
    assert 0 < int(np.argmin(energies)) < len(fcc) - 1


def test_perturbed_copies_are_reproducible_and_differ():
    given = [bulk("Cu", cubic=True), molecule("H2O")]
    one, other, third = (augmented(given, ["rattle", "strain"], [], by_emt, seed) for seed in (1, 1, 2))
    assert [a.info["config_type"] for a in one] == ["rattle"] * 6 + ["strain"] * 6
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(one[0].positions, third[0].positions)
    strained = one[6]
    assert not np.allclose(strained.cell, given[0].cell)
    deformation = np.linalg.solve(given[0].cell.array, strained.cell.array)
    assert np.abs(deformation - deformation.T).max() < 1e-12  # no rotation
    assert not one[-1].cell.any()  # a molecule has no cell to strain


def test_unknown_kinds_are_named():
    with pytest.raises(UsageError, match="'ratle'"):
        augmented([], ["ratle"], [], by_emt, 1)
