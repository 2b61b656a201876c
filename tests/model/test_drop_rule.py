"""The list of redundant couplings, derived again from its rule with nothing of gracecli but the list itself.

All three-fold functions ``((l1,l2)l12,l3)`` and four-fold functions ``((l1,l2)l12,(l3,l4)l34)`` of one set A_lm, l <= 5
and natural parity throughout, are polynomials in A. Evaluated at random A, functions of equal L that are proportional
to each other form a class; the member with the fewest terms in its outermost coupling stays (then the smallest label).
Couplings are Gaunt integrals by quadrature: proportional to the Clebsch-Gordan coefficients wherever l1 + l2 + L is
even, and the constant is irrelevant here.
"""

import json
from functools import cache
from importlib.resources import files

import numpy as np
import pytest
from scipy.special import roots_legendre, sph_harm_y

LMAX = 5
SAMPLES = 12


@cache
def harmonics_on_sphere():
    """Quadrature weights and real harmonics [l] -> (2l+1, points), exact for products of three with l <= 5."""
    x, w = roots_legendre(10)
    phi = np.arange(20) * (2 * np.pi / 20)
    theta, azimuth = (a.ravel() for a in np.meshgrid(np.arccos(x), phi, indexing="ij"))
    table = []
    for l in range(LMAX + 1):
        rows = []
        for m in range(-l, l + 1):
            value = sph_harm_y(l, abs(m), theta, azimuth) * (1.0 if m == 0 else np.sqrt(2.0) * (-1) ** m)
            rows.append(value.real if m >= 0 else value.imag)
        table.append(np.array(rows))
    return np.repeat(w, len(phi)) * (2 * np.pi / 20), table


@cache
def gaunt(l1, l2, l3):
    """Integral of three real harmonics, [m3, m1, m2]."""
    w, y = harmonics_on_sphere()
    table = np.einsum("q,aq,bq,cq->cab", w, y[l1], y[l2], y[l3], optimize=True)
    return np.where(np.abs(table) < 1e-10, 0.0, table)


def couplings(l1, l2, largest):
    """Degrees of natural parity that l1 and l2 couple to."""
    return [l for l in range(abs(l1 - l2), min(l1 + l2, largest) + 1) if (l1 + l2 + l) % 2 == 0]


@cache
def samples():
    rng = np.random.default_rng(5)
    return [rng.standard_normal((2 * l + 1, SAMPLES)) for l in range(LMAX + 1)]


@cache
def couple(l1, l2, l3, left, right):
    """Values of a coupled function, (2 l3 + 1, samples); left and right are keys of :func:`value`."""
    return np.einsum("cab,aq,bq->cq", gaunt(l1, l2, l3), value(left), value(right))


def value(key):
    """Values of ``l`` (elementary) or ``(l, left, right)`` (coupled) at the samples."""
    if isinstance(key, int):
        return samples()[key]
    l, left, right = key
    return couple(degree(left), degree(right), l, left, right)


def degree(key):
    return key if isinstance(key, int) else key[0]


def text(key):
    """History label and degree of a factor."""
    return str(key) if isinstance(key, int) else f"({text(key[1])},{text(key[2])}){key[0]}"


def pairs():
    """All two-fold functions (l12, l1, l2) with l1 >= l2."""
    return [(l, l1, l2) for l1 in range(LMAX + 1) for l2 in range(l1 + 1) for l in couplings(l1, l2, LMAX)]


def functions(fold, L):
    """Candidates of one target degree: (left factor, right factor)."""
    if fold == "three_fold":
        found = [(a, b) for a in pairs() for b in range(LMAX + 1)]
    else:

        def order(key):
            return (key[0], text(key)[: -len(str(key[0]))])

        found = [(a, b) for a in pairs() for b in pairs() if b[0] < a[0] or (b[0] == a[0] and order(a) <= order(b))]
    return [(a, b) for a, b in found if L in couplings(degree(a), degree(b), LMAX)]


def terms(a, b, L):
    """Terms of the outermost coupling, products of equal factors counted once."""
    table = gaunt(degree(a), degree(b), L)
    if a == b:
        table = np.tril(table + table.transpose(0, 2, 1))
    return int(np.count_nonzero(np.abs(table) > 1e-10))


def classes(candidates, L):
    """Group functions that are proportional as polynomials; identically vanishing ones are left out."""
    directions, members = [], []
    for a, b in candidates:
        vector = value((L, a, b)).ravel()
        norm = np.linalg.norm(vector)
        scale = np.linalg.norm(value(a)) * np.linalg.norm(value(b))
        if norm < 1e-10 * scale:
            continue
        vector = vector / norm
        overlap = np.abs(np.array(directions) @ vector) if directions else np.zeros(0)
        match = np.flatnonzero(overlap > 1.0 - 1e-9)
        if len(match):
            members[match[0]].append((a, b))
        else:
            directions.append(vector)
            members.append([(a, b)])
    return members


def dropped(fold, L):
    """Labels the rule drops."""
    labels = set()
    for members in classes(functions(fold, L), L):
        ranked = sorted((terms(a, b, L), f"({text(a)},{text(b)})") for a, b in members)
        labels.update(label for _, label in ranked[1:])
    return labels


@pytest.fixture(scope="module")
def shipped():
    return json.loads(files("gracecli.model").joinpath("coupling_drop_labels.json").read_text())


@pytest.mark.parametrize(("fold", "L"), [("three_fold", L) for L in range(4)] + [("four_fold", L) for L in range(3)])
def test_shipped_list_follows_the_rule(shipped, fold, L):
    wanted = set(shipped[fold][str(L)])
    counts = {"three_fold": (22, 17, 18, 14), "four_fold": (33, 15, 15)}
    assert len(wanted) == len(shipped[fold][str(L)]) == counts[fold][L]
    assert dropped(fold, L) == wanted


def test_the_list_ends_where_the_published_rule_ends(shipped):
    assert sorted(shipped["three_fold"]) == ["0", "1", "2", "3"]
    assert sorted(shipped["four_fold"]) == ["0", "1", "2"]


def test_a_known_redundancy():
    """((1,1)2,2) and ((2,1)1,1) at L = 0 are the same invariant of one vector and one tensor."""
    members = next(m for m in classes(functions("three_fold", 0), 0) if ((2, 1, 1), 2) in m)
    assert ((1, 2, 1), 1) in members
