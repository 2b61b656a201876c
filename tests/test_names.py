"""Nearest names."""

import pytest

from gracecli.names import nearest_names, suggestion


@pytest.mark.parametrize(
    ("name", "nearest"), [("relx", "relax"), ("RELAX", "relax"), ("fix_symetry", "fix-symmetry"), ("rel", "relax")]
)
def test_nearest(name, nearest):
    assert nearest_names(name, ["phonons", "relax", "fix-symmetry"])[0] == nearest


def test_suggestion():
    assert suggestion("fire3", ["fire", "fire2", "lbfgs"]) == "did you mean fire or fire2?"
    assert suggestion("zzz", ["b", "a"]) == "known: a, b"
    assert suggestion("zzz", ["b", "a"], otherwise="look there") == "look there"
    assert suggestion("zzz", []) is None
