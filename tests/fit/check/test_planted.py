"""Defects planted into clean data must be found, each by its check; the clean data must pass."""

from __future__ import annotations

import numpy as np
import pytest

from gracecli.fit.check.finding import LEVELS
from gracecli.fit.check.records import Record
from gracecli.fit.check.run import check_data
from gracecli.fit.config import DataConfig, SetConfig

GPA, KBAR = 160.21766208, 1602.1766208


@pytest.fixture(scope="module")
def clean():
    """Strained cells, rattled cells and slabs of Cu, labelled by EMT: list of (atoms, energy, forces, stress)."""
    from ase.build import bulk, fcc100, fcc111
    from ase.calculators.emt import EMT

    rng = np.random.default_rng(5)
    found = []

    def add(atoms, kind):
        atoms.calc = EMT()
        labels = atoms.get_potential_energy(), atoms.get_forces().copy(), atoms.get_stress().copy()
        atoms.calc = None
        atoms.info = {"config_type": kind}
        found.append((atoms, *labels))

    for axis in range(6):
        for size in (-0.03, -0.015, 0.01, 0.025):
            atoms = bulk("Cu", cubic=True)
            strain = np.zeros((3, 3))
            if axis < 3:
                strain[axis, axis] = size
            else:
                one, other = ((1, 2), (0, 2), (0, 1))[axis - 3]
                strain[one, other] = size
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            add(atoms, "strained")
    for _ in range(14):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.01, size=(3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.04, size=atoms.positions.shape)
        add(atoms, "rattled")
    for layers in (5, 6, 7, 8, 9):
        for make in (fcc100, fcc111):
            atoms = make("Cu", (1, 1, layers), vacuum=7.0)
            atoms.pbc = True
            add(atoms, "slab")
    return found


@pytest.fixture
def check(clean, tmp_path):
    """``check(change)`` -> {check name: worst finding}; ``change(number, atoms, labels)`` returns labels or None."""
    import ase.io
    from ase.calculators.singlepoint import SinglePointCalculator

    def run(change=None, extra=(), test=()):
        paths = {}
        for name, source in (("train", [*clean, *extra]), ("test", test)):
            images = []
            for atoms, energy, forces, stress in source:
                copy = atoms.copy()
                labels = {"energy": energy, "forces": forces.copy(), "stress": stress.copy()}
                labels = change(copy, labels) if change and name == "train" else labels
                copy.calc = SinglePointCalculator(copy, **labels)
                images.append(copy)
            if images:
                paths[name] = tmp_path / f"{name}-copper.extxyz"
                ase.io.write(paths[name], images, format="extxyz")
        data = DataConfig(**{name: (SetConfig(str(path)),) for name, path in paths.items()})
        levels = {}
        for finding in check_data(data).findings:
            old = levels.get(finding.check)
            if old is None or LEVELS.index(finding.level) > LEVELS.index(old.level):
                levels[finding.check] = finding
        return levels

    return run


def test_clean_data_pass(check):
    found = check()
    assert {name: f.level for name, f in found.items() if f.level != "ok"} == {}
    for name in ("normal stress", "shear stress", "forces"):
        assert found[name].details["slope"] == pytest.approx(1.0, abs=0.05)
    assert "energy zero" in found


def scaled(key, factor):
    return lambda atoms, labels: {**labels, key: factor * labels[key]}


def reorder(atoms, labels):
    """VASP's order of the shear components, xy yz xz."""
    return {**labels, "stress": labels["stress"][[0, 1, 2, 5, 3, 4]]}


def per_atom(atoms, labels):
    return {**labels, "energy": labels["energy"] / len(atoms)}


def virial(atoms, labels):
    return {**labels, "stress": -labels["stress"] * atoms.get_volume()}


@pytest.mark.parametrize(
    ("change", "name", "text"),
    [
        (scaled("stress", -1.0), "normal stress", "sign of a pressure"),
        (scaled("stress", GPA), "normal stress", "stresses in GPa:"),
        (scaled("stress", -GPA), "normal stress", "stresses in GPa with the sign of a pressure"),
        (scaled("stress", -KBAR), "shear stress", "stresses in kbar with the sign of a pressure"),
        (virial, "normal stress", "virials"),
        (reorder, "shear order", "order xx yy zz xy yz xz"),
        (scaled("forces", -1.0), "forces", "reversed"),
        (scaled("forces", 0.529177 / 27.211386), "forces", "Hartree/Bohr"),
        (scaled("forces", 23.0605), "forces", "kcal/mol/Å"),
        (scaled("energy", 1.0 / 27.211386), "energy units", "Hartree"),
        (scaled("energy", 23.0605), "energy units", "kcal/mol"),
        (per_atom, "energy units", "per atom"),
    ],
)
def test_units_signs_and_orders_are_named(check, change, name, text):
    finding = check(change)[name]
    assert finding.level == "error"
    assert text in finding.found
    assert finding.remedy


def test_shear_stresses_that_are_noise(check):
    rng = np.random.default_rng(1)

    def noise(atoms, labels):
        if atoms.info["config_type"] == "strained":
            labels["stress"][3:] = rng.normal(scale=0.02, size=3)
        return labels

    found = check(noise)
    assert found["shear stress"].level == "error"
    assert found["shear stress"].remedy == 'drop_shear = ["strained"]'
    assert found["normal stress"].level == "ok"


def test_an_order_whose_slope_stands_for_no_unit_is_not_advised(check):
    """As in mlearn's strained Li: noise that happens to be proportional to another component."""

    def faint(atoms, labels):
        if atoms.info["config_type"] == "strained":
            labels["stress"][3:] = labels["stress"][[5, 3, 4]] / 70.0
        return labels

    found = check(faint)
    assert "shear order" not in found
    assert found["shear stress"].remedy == 'drop_shear = ["strained"]'


def test_another_energy_zero_of_the_slabs(check):
    def shift(atoms, labels):
        return {**labels, "energy": labels["energy"] - 0.12 * len(atoms) * (atoms.info["config_type"] == "slab")}

    finding = check(shift)["energy zero"]
    assert finding.level == "error"
    assert finding.details["slabs"] - finding.details["bulk"] == pytest.approx(-0.12, abs=0.03)


def test_forces_zeroed_by_a_constraint(check):
    def zero(atoms, labels):
        if atoms.info["config_type"] == "rattled":
            labels["forces"][:3] = 0.0
        return labels

    finding = check(zero)["zeroed forces"]
    assert finding.level == "error"
    assert len(finding.details["structures"]) == 14


def test_lengths_in_bohr(check):
    def bohr(atoms, labels):
        atoms.set_cell(atoms.cell / 0.529177, scale_atoms=True)
        return labels

    assert check(bohr)["length units"].level == "error"


def test_outliers(check):
    seen = []

    def spoil(atoms, labels):
        seen.append(atoms)
        if len(seen) == 30:
            labels["energy"] -= 3.0 * len(atoms)
        if len(seen) == 32:
            labels["forces"][0] += 90.0
        return labels

    found = check(spoil)
    assert found["energy outliers"].level == "error"
    assert found["large forces"].level == "warning"
    assert len(found["large forces"].details["structures"]) == 1


def test_overlapping_atoms(check, clean):
    atoms, energy, forces, stress = clean[30]
    moved = atoms.copy()
    moved.positions[1] = moved.positions[0] + [0.0, 0.0, 0.6]
    assert check(extra=[(moved, energy, forces, stress)])["distances"].level == "error"


def rotated(atoms, forces, stress):
    """Another cell of the same structure: axes exchanged, atoms reordered and shifted."""
    copy = atoms.copy()
    order, turn = np.random.default_rng(2).permutation(len(atoms)), [1, 2, 0]
    copy.positions = atoms.positions[:, turn][order] + [0.3, 1.1, -0.4]
    copy.cell = atoms.cell.array[:, turn]
    copy.wrap()
    return copy, forces[order][:, turn], stress[[1, 2, 0, 4, 5, 3]]


def test_leaks_are_found_whatever_the_cell(check, clean):
    atoms, energy, forces, stress = clean[26]
    other, moved_forces, moved_stress = rotated(atoms, forces, stress)
    assert check(test=[clean[27]])["leak"].level == "error"
    leak = check(test=[(other, energy, moved_forces, moved_stress)])["leak"]
    assert leak.level == "warning"
    assert leak.details["structures"] == 1
    strange = atoms.copy()
    strange.positions += np.random.default_rng(3).normal(scale=0.05, size=strange.positions.shape)
    assert "leak" not in check(test=[(strange, energy, forces, stress)])


def test_duplicates_and_contradictions(check, clean):
    atoms, energy, forces, stress = clean[25]
    assert check(extra=[clean[25]])["duplicates"].level == "warning"
    found = check(extra=[(atoms, energy + 0.2, forces, stress)])
    assert found["contradictions"].level == "error"


def test_elements_too_rare_and_undetermined(tmp_path, clean):
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    images = []
    for number in range(12):  # one composition: two reference energies, one equation
        atoms = clean[24 + number][0].copy()
        atoms.symbols[:4] = "Au"
        atoms.calc = EMT()
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
        images.append(atoms)
    write(tmp_path / "alloy.extxyz", images)
    findings = check_data(DataConfig(train=(SetConfig(str(tmp_path / "alloy.extxyz")),))).findings
    reference = next(f for f in findings if f.check == "reference energies")
    assert reference.level == "warning"
    assert reference.details["rank"] == 1


def test_which_energy_the_forces_follow(clean):
    """A broadened free energy and one extrapolated to zero: the forces belong to the first."""
    from gracecli.fit.check.consistency import check_consistency
    from gracecli.fit.data import Frame

    records = []
    for atoms, energy, forces, stress in clean[24:38]:
        entropy = 0.02 * len(atoms) * np.sin(40.0 * atoms.positions[:, 0]).mean()
        frame = Frame(atoms, energy, forces, stress, "rattled", "set", "file")
        energies = {"free_energy": energy, "energy": energy + entropy}
        records.append(Record(frame, "train", energies, np.zeros((len(atoms), 3), bool)))
    good = next(f for f in check_consistency(records) if f.check == "energy key")
    assert good.level == "ok"
    assert good.details["residual"]["free_energy"] < 0.7 * good.details["residual"]["energy"]
    for record in records:
        free, other = record.energies["free_energy"], record.energies["energy"]
        record.frame.__dict__["energy"] = other
        record.energies = {"free_energy": other, "energy": free}
    bad = next(f for f in check_consistency(records) if f.check == "energy key")
    assert bad.level == "warning"


def test_sign_of_stresses_without_near_structures(clean):
    """Structures of different sizes: pressure against volume has to do."""
    from gracecli.fit.check.pressure import check_pressure
    from gracecli.fit.data import Frame

    def records(factor):
        return [
            Record(Frame(a, e, f, factor * s, "x", "set", "file"), "train", {}, np.zeros((len(a), 3), bool))
            for a, e, f, s in clean[:12]
        ]

    assert [f.level for f in check_pressure(records(1.0))] == ["ok"]
    assert 80 < check_pressure(records(1.0))[0].details["modulus"] < 300  # GPa; EMT copper has 140
    assert check_pressure(records(-1.0))[0].level == "error"
    assert check_pressure(records(-KBAR))[0].level == "error"
    assert check_pressure(records(GPA))[0].level == "warning"
