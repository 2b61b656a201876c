"""Perfect supercells become primitive cells that say the same."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from gracecli.errors import InputError, UsageError
from gracecli.fit.config import DataConfig, SetConfig
from gracecli.fit.config_read import make_config
from gracecli.fit.data import read_set
from gracecli.fit.frametable import table_of
from gracecli.fit.primitive import primitive_frame
from gracecli.fit.stream import open_set

SHEAR = np.eye(3) + 0.02 * np.array([[1.0, 0.5, 0.0], [0.0, -0.5, 0.3], [0.1, 0.0, 0.2]])


def labelled(atoms: Atoms, kind: str) -> Atoms:
    atoms.calc = EMT()
    values = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, energy=values[0], forces=values[1], stress=values[2])
    atoms.info["config_type"] = kind
    return atoms


def strained(atoms: Atoms) -> Atoms:
    atoms.set_cell(atoms.cell.array @ SHEAR, scale_atoms=True)
    return atoms


@pytest.fixture
def mixed(tmp_path):
    """A strained perfect fcc supercell, a strained ordered alloy of two kinds, a rattled cell."""
    alloy = bulk("Cu", cubic=True).repeat((2, 2, 1))
    alloy.symbols[alloy.get_scaled_positions()[:, 2] > 0.25] = "Ag"  # L1_0
    rattled = bulk("Cu", cubic=True)
    rattled.rattle(0.05, seed=1)
    structures = [
        labelled(strained(bulk("Cu", cubic=True).repeat(3)), "Elastic"),
        labelled(strained(alloy), "Elastic"),
        labelled(rattled, "AIMD"),
    ]
    path = tmp_path / "mixed.extxyz"
    ase.io.write(path, structures)
    return path


def test_energy_forces_stress_of_the_primitive_cell_are_those_of_the_supercell(mixed):
    whole, _ = read_set(SetConfig(str(mixed)), DataConfig())
    small, report = read_set(SetConfig(str(mixed), primitive=True), DataConfig())
    assert [len(frame.atoms) for frame in whole] == [108, 16, 4]
    assert [len(frame.atoms) for frame in small] == [1, 2, 4]
    assert report.atoms == 7
    for one, other in zip(whole, small, strict=True):
        copies = len(one.atoms) / len(other.atoms)
        assert other.atoms.get_volume() * copies == pytest.approx(one.atoms.get_volume(), rel=1e-6)
        assert other.energy * copies == pytest.approx(one.energy, rel=1e-12)
        computed = other.atoms.copy()
        computed.calc = EMT()
        assert computed.get_potential_energy() == pytest.approx(other.energy, abs=1e-5)
        np.testing.assert_allclose(computed.get_forces(), other.forces, atol=1e-5)
        np.testing.assert_allclose(computed.get_stress(), other.stress, atol=1e-6)  # nothing was rotated


def test_forces_that_differ_between_copies_keep_the_supercell(mixed):
    frame = read_set(SetConfig(str(mixed)), DataConfig())[0][0]
    frame.forces[5, 1] += 0.1
    assert primitive_frame(frame) is frame


def test_weights_and_shares_by_kind(mixed):
    entry = SetConfig(str(mixed), weight=2.0, share=0.5, kind_weights={"Elastic": 10.0}, kind_shares={"AIMD": 4.0})
    table = table_of(read_set(entry, DataConfig())[0])
    assert table.weight.tolist() == [20.0, 20.0, 2.0]
    assert table.share.tolist() == [0.5, 0.5, 2.0]
    with pytest.raises(InputError, match="kind_weights = 'Elastik'"):
        read_set(SetConfig(str(mixed), kind_weights={"Elastik": 10.0}), DataConfig())
    with pytest.raises(UsageError, match="share must be positive"):
        make_config({"data": {"train": [{"path": str(mixed), "kind_shares": {"AIMD": 0.0}}]}})


def test_structures_that_stay_in_a_store_cannot_be_reduced():
    with pytest.raises(UsageError, match="primitive cannot apply"):
        open_set(SetConfig("some.h5:set=train", primitive=True), DataConfig())
