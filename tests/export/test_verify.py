"""The structures exports are verified with, and what counts as equal."""

from dataclasses import replace

import numpy as np
import pytest
from ase.data import chemical_symbols

from gracecli.engine.base import Results
from gracecli.export.base import EXACT
from gracecli.export.verify import compare, graphs_of, possible_pairs
from gracecli.export.verify import test_structures as structures_of

MANY = [symbol for symbol in chemical_symbols[1:84] if symbol != "Po"]
CASES = [(["Si"], 6.0), (["Si", "Ge"], 3.0), (["Al", "Li", "Ni"], 5.0), (MANY, 6.0)]


def no_pairs(numbers):
    return None


@pytest.mark.parametrize(("elements", "cutoff"), CASES)
def test_every_pair_meets(elements, cutoff):
    structures = structures_of(elements, cutoff, no_pairs)
    met = set()
    for atoms, graph in zip(structures, graphs_of(structures, cutoff, no_pairs), strict=True):
        symbols = atoms.get_chemical_symbols()
        met |= {tuple(sorted((symbols[i], symbols[j]))) for i, j in zip(graph.centre, graph.neighbour, strict=True)}
    assert met == possible_pairs(elements, cutoff, no_pairs)
    assert any(not atoms.pbc.any() for atoms in structures)
    assert any(len(atoms) == 1 for atoms in structures)


def test_pairs_without_cutoff_are_not_asked_for():
    matrix = np.array([[4.0, 0.0], [0.0, 4.0]])
    assert possible_pairs(["Al", "Ni"], 4.0, lambda numbers: matrix) == {("Al", "Al"), ("Ni", "Ni")}
    assert structures_of(["Al", "Ni"], 4.0, lambda numbers: matrix)


def result(n, energy, force, stress):
    return Results(energy, np.full(n, energy / n), np.full((n, 3), force), np.full(6, stress))


def test_deviations_and_limits():
    structures = structures_of(["Si"], 5.0, no_pairs)
    wanted = [result(len(a), -5.0 * len(a), 2.0, 0.1) for a in structures]

    def compared(**changes):
        found = [replace(wanted[0], **changes), *wanted[1:]]
        return compare(structures, wanted, found, EXACT, 5.0, no_pairs)

    same = compared()
    assert same.passed
    assert (same.structures, same.pairs, same.all_pairs) == (len(structures), 1, 1)
    n = len(structures[0])
    energy, forces, stress = compared(energy=wanted[0].energy + 1e-3 * n).deviations
    assert energy.largest == pytest.approx(1e-3)
    assert not energy.within
    assert forces.within
    assert stress.within
    assert energy.limit == pytest.approx(5.0 * EXACT.energy)  # relative where values are large
    assert not compared(forces=wanted[0].forces + 1e-6).passed
    assert not compared(stress=wanted[0].stress + 1e-6).passed
    assert not compared(energy=float("nan")).passed  # no number is never equal


def test_structures_that_do_not_fit_are_not_counted():
    structures = structures_of(["Si", "Ge"], 5.0, no_pairs)
    wanted = [result(len(a), -1.0, 0.1, 0.1) for a in structures]
    outcome = compare(structures, wanted, [None, *wanted[1:-1], None], EXACT, 5.0, no_pairs)
    assert outcome.structures == len(structures) - 2
    assert outcome.atoms == sum(len(a) for a in structures[1:-1])
