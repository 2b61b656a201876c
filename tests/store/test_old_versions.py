"""Stores of earlier versions open, are what they were, and can be used: old_versions/*.h5.gz, written by that version.

``v1-core.h5.gz``: schema 1, by the first release of the store (before results were recorded): twelve structures of
``crash_writer.structure`` in three commits, set "old".
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from gracecli import Store
from gracecli.store.check import check
from gracecli.store.compact import compact
from gracecli.store.results import Calculation

sys.path.insert(0, str(Path(__file__).parent))
from crash_writer import structure

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", sorted(path.name for path in (HERE / "old_versions").glob("*.h5.gz")))
def test_old_stores_open(tmp_path, name):
    path = tmp_path / "old.h5"
    path.write_bytes(gzip.decompress((HERE / "old_versions" / name).read_bytes()))
    for step in range(3):
        assert not check(path).problems
        with Store(path) as store:
            assert store.in_set("old").sum() == 12
            for number in range(12):
                found, meant = store.entry(number), structure(0, number)
                assert np.array_equal(found.positions, meant.positions)
                assert np.array_equal(found.forces, meant.forces)
                assert found.energy == meant.energy
                assert found.info == meant.info
        if step == 0:
            with Store(path, "a") as store:
                store.append([structure(0, 12)])
                store.record(Calculation("relax", "toy", "ab" * 32), bulk("Cu"), {"x": 1})
        else:
            compact(path)


def test_there_are_old_stores():
    assert len(list((HERE / "old_versions").glob("*.h5.gz"))) >= 1
