from __future__ import annotations

import gzip
from collections import Counter

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.data import chemical_symbols

from gracecli.errors import InputError
from gracecli.fit.config import DataConfig, SetConfig
from gracecli.fit.data import elements_of, read_set, read_sets, require_elements, split_validation
from gracecli.fit.reference import energies_text, fit_reference, force_rms


def labelled(energy: float, symbols: str = "Cu2", **info) -> Atoms:
    atoms = Atoms(symbols, positions=[(0, 0, 0), (0, 0, 2.2)], cell=(9, 9, 9), pbc=True, info=info)
    forces = np.array([(0.0, 0.0, 0.7), (0.0, 0.0, -0.7)])
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=np.arange(6) / 10)
    return atoms


def write(path, structures):
    ase.io.write(path, structures, format="extxyz")
    return path


def read(path, **options):
    return read_set(SetConfig(str(path), **options), DataConfig())


def test_labels_survive_reading_plain_and_gzipped(copper, tmp_path, emt_structures):
    frames, report = read(copper)
    original = emt_structures(24, seed=3)
    assert (report.frames, report.atoms, report.energy_key, report.stresses) == (24, 96, "energy", 24)
    for frame, atoms in zip(frames, original, strict=True):
        assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-7)
        np.testing.assert_allclose(frame.stress, atoms.get_stress(), atol=1e-7)  # sign and Voigt order of ASE
    zipped = tmp_path / "copper.extxyz.gz"
    zipped.write_bytes(gzip.compress(copper.read_bytes()))
    again, _ = read(zipped)
    assert [frame.energy for frame in again] == [frame.energy for frame in frames]


def test_constraints_never_zero_forces(tmp_path):
    atoms = labelled(-7.0)
    atoms.set_constraint(FixAtoms([0]))
    path = tmp_path / "fixed.extxyz"
    ase.io.write(path, atoms, columns=["symbols", "positions", "move_mask", "forces"])
    assert ase.io.read(path).get_forces()[0, 2] == 0.0  # the trap
    assert read(path)[0][0].forces[0, 2] == pytest.approx(0.7)


def test_custom_keys_and_force_consistent_energy(tmp_path):
    atoms = Atoms("Cu", cell=(3, 3, 3), pbc=True, info={"dft_energy": -3.5, "virial_stress": np.eye(3).ravel()})
    atoms.arrays["dft_forces"] = np.zeros((1, 3))
    path = write(tmp_path / "custom.extxyz", [atoms])
    with pytest.raises(InputError, match=r"no label 'energy'.*dft_energy.*energy_key"):
        read(path)
    data = DataConfig(energy_key="dft_energy", forces_key="dft_forces", stress_key="virial_stress")
    frames, report = read_set(SetConfig(str(path)), data)
    assert (frames[0].energy, report.energy_key) == (-3.5, "dft_energy")
    np.testing.assert_array_equal(frames[0].stress, [1, 1, 1, 0, 0, 0])

    both = labelled(-7.0)
    both.calc.results["free_energy"] = -7.1
    path = write(tmp_path / "both.extxyz", [both])
    frames, report = read(path)
    assert (frames[0].energy, report.energy_key) == (-7.1, "free_energy")


def test_filters(tmp_path):
    path = write(tmp_path / "set.extxyz", [labelled(-7, config_type=k) for k in ("bulk", "Surface", "Elastic")])
    frames, report = read(path, drop=("Surface",), drop_stress=("Elastic",))
    assert [frame.config_type for frame in frames] == ["bulk", "Elastic"]
    assert (report.dropped, report.stresses) == (1, 1)
    assert np.isnan(frames[1].stress).all()
    assert np.isfinite(frames[1].forces).all()
    with pytest.raises(InputError, match=r"'surface'.*did you mean Surface"):
        read(path, drop=("surface",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.calc.results.update(energy=float("nan")), "energy not finite"),
        (lambda a: a.calc.results["forces"].__setitem__((0, 0), np.inf), "forces not finite"),
    ],
)
def test_bad_labels_name_file_and_index(tmp_path, change, message):
    good, bad = labelled(-7), labelled(-7)
    change(bad)
    path = write(tmp_path / "bad.extxyz", [good, bad])
    with pytest.raises(InputError, match=rf"bad\.extxyz:1: {message}"):
        read(path)


def test_bad_files(tmp_path):
    (tmp_path / "train.extxyz").write_text("hello\nworld\n", encoding="utf-8")
    with pytest.raises(InputError, match="cannot read structures"):
        read(tmp_path / "train.extxyz")
    with pytest.raises(InputError, match=r"no such file.*did you mean train\.extxyz"):
        read(tmp_path / "trian.extxyz")
    (tmp_path / "empty.extxyz").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="structure"):
        read(tmp_path / "empty.extxyz")


def test_split_is_seeded_stratified_and_complete(copper, alloy):
    frames, _ = read_sets([SetConfig(str(copper)), SetConfig(str(alloy))], DataConfig())
    train, valid = split_validation(frames, 0.2, seed=5)
    assert sorted(f.source for f in train + valid) == sorted(f.source for f in frames)
    assert Counter((f.set_name, f.config_type) for f in valid).keys() == {
        (s, k) for s in ("copper", "alloy") for k in ("even", "odd")
    }
    assert len(valid) == 8
    assert [f.source for f in split_validation(frames, 0.2, seed=5)[1]] == [f.source for f in valid]
    assert [f.source for f in split_validation(frames, 0.2, seed=6)[1]] != [f.source for f in valid]


def test_elements(alloy):
    frames, _ = read(alloy)
    assert elements_of(frames) == ("Ag", "Cu")
    with pytest.raises(InputError, match=r"alloy\.extxyz:\d+: Ag"):
        require_elements(frames, ["Cu", "Au"])


# --- reference energies ---------------------------------------------------------------------------------------------


def frames_of(tmp_path, entries):
    return read(write(tmp_path / "set.extxyz", [labelled(e, s) for s, e in entries]))[0]


def test_reference_energies_are_recovered(tmp_path):
    frames = frames_of(tmp_path, [("Cu2", -8.0), ("CuAg", -6.5), ("Ag2", -5.0)])
    found = fit_reference(frames, ("Ag", "Cu"))
    assert found.energies == pytest.approx({"Ag": -2.5, "Cu": -4.0})
    assert (found.rank, found.warning) == (2, None)
    assert found.residual < 1e-12
    assert found.condition < 10


def test_undetermined_reference_energies_take_the_smallest_and_warn(tmp_path):
    found = fit_reference(frames_of(tmp_path, [("CuAg", -6.0), ("AgCu", -6.0)]), ("Ag", "Cu", "Au"))
    assert found.energies == pytest.approx({"Ag": -3.0, "Cu": -3.0, "Au": 0.0})
    assert found.rank == 1
    assert "no structure has Au" in found.warning


def test_given_reference_energies(tmp_path):
    frames = frames_of(tmp_path, [("Cu2", -8.0)])
    assert fit_reference(frames, ("Cu",), {"Cu": -3.0}).residual == pytest.approx(1.0)
    with pytest.raises(InputError, match="lacks Ag"):
        fit_reference(frames, ("Ag", "Cu"), {"Cu": -3.0})


def test_force_scale(tmp_path):
    assert force_rms(frames_of(tmp_path, [("Cu2", -8.0)])) == pytest.approx(0.7 / np.sqrt(3), rel=1e-6)


def test_reference_energies_of_many_elements_fit_a_line():
    few = {"Cu": -3.7281, "Ni": -5.4687}
    assert energies_text(few) == "Cu -3.7281, Ni -5.4687"
    many = {symbol: -float(number) for number, symbol in enumerate(chemical_symbols[1:85], start=1)}
    assert energies_text(many) == "84 elements, from Po -84.0000 to H -1.0000"
