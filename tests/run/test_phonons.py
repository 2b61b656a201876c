"""Phonons against closed forms, an independent phonopy script, DFT, and what phonopy reads back."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones

from gracecli.errors import InputError, NotConvergedError, UsageError
from gracecli.run.phonon_cells import from_phonopy, supercell_matrix, to_phonopy
from gracecli.run.phonon_follow import follow
from gracecli.run.phonon_stability import commensurate_points, displaced_along, modes_at
from gracecli.run.phonons import PhononSettings, phonons
from gracecli.run.quasiharmonic import quasiharmonic

SHARED = Path(__file__).parents[2].parent / "shared" / "reference"
THZ = np.sqrt(units._e / units._amu) * 1e10 / (2 * np.pi) * 1e-12  # sqrt(eV/Å^2/amu) -> THz


class Springs(Calculator):
    """A chain along x: springs ``k`` (eV/Å^2) between neighbours, nothing sideways."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, k, spacing):
        super().__init__()
        self.k, self.spacing = k, spacing

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        order = np.argsort(self.atoms.positions[:, 0])
        length = self.atoms.cell[0, 0]
        x = self.atoms.positions[order, 0]
        stretch = np.append(x[1:], x[0] + length) - x - self.spacing
        forces = np.zeros((len(x), 3))
        forces[order, 0] = self.k * (stretch - np.roll(stretch, 1))
        self.results = {"energy": 0.5 * self.k * (stretch**2).sum(), "forces": forces}


def test_harmonic_chain_has_its_dispersion():
    """nu = 2 sqrt(k/m) |sin(pi q)| / 2 pi."""
    chain = Atoms("Ar", cell=[2.0, 9.0, 9.0], pbc=True)
    settings = PhononSettings(supercell=(8, 1, 1), relax="none", mesh=20.0)
    result = phonons(chain, Springs(3.0, 2.0), settings)
    for q in (0.125, 0.25, 0.375, 0.5, 0.31):
        frequencies = modes_at(result.phonon, [q, 0, 0])[0][0]
        along = 2 * np.sqrt(3.0 / chain.get_masses()[0]) * abs(np.sin(np.pi * q)) * THZ
        np.testing.assert_allclose(frequencies, [0, 0, along], atol=1e-4)
    assert result.displacements == 2


def test_born_charges_split_the_optical_modes(tmp_path):
    """nu_LO^2 - nu_TO^2 = 4 pi (e^2/4 pi eps0) Z^2 / (eps V mu) in a cubic crystal of two atoms."""
    atoms = bulk("NaCl", "cesiumchloride", a=3.8)
    (tmp_path / "BORN").write_text(
        "14.399652\n5 0 0 0 5 0 0 0 5\n1.3 0 0 0 1.3 0 0 0 1.3\n-1.3 0 0 0 -1.3 0 0 0 -1.3\n"
    )
    settings = PhononSettings(supercell=(3, 3, 3), relax="none", mesh=20.0, born=tmp_path / "BORN")
    result = phonons(atoms, LennardJones(sigma=3.0, epsilon=0.1, rc=5.0), settings)
    split = []
    for direction in ([1, 0, 0], [1, 1, 1], [0.3, -0.5, 0.8]):
        result.phonon.run_qpoints([[0, 0, 0]], nac_q_direction=direction)
        low, middle, high = np.sort(result.phonon.qpoints.frequencies[0])[3:]
        assert low == pytest.approx(middle, abs=1e-6)
        split.append(high**2 - low**2)
    mass = 1 / (1 / atoms.get_masses()).sum()
    expected = 4 * np.pi * 14.399652 * 1.3**2 / (5 * atoms.get_volume() * mass) * THZ**2
    np.testing.assert_allclose(split, expected, rtol=1e-3)


def nearest_neighbour_fcc():
    atoms = bulk("Ar", "fcc", a=np.sqrt(2) * 2 ** (1 / 6) * 3.4)
    return atoms, LennardJones(sigma=3.4, epsilon=0.0104, rc=4.6, smooth=False)


def test_nearest_neighbour_lennard_jones_fcc_has_its_frequencies_at_x_and_l():
    """Central forces k = phi''(r0) = 72 eps / (2^(1/3) sigma^2): m w^2 is 8 k and 4 k at X, 8 k and 2 k at L."""
    atoms, calculator = nearest_neighbour_fcc()
    k = 72 * 0.0104 / (2 ** (1 / 3) * 3.4**2)
    settings = PhononSettings(supercell=(4, 4, 4), relax="none", displacement=0.001, mesh=30.0)
    result = phonons(atoms, calculator, settings)
    unit = np.sqrt(k / atoms.get_masses()[0]) * THZ
    at_x, at_l = modes_at(result.phonon, [[0.5, 0, 0.5], [0.5, 0.5, 0.5]])[0]
    np.testing.assert_allclose(at_x, unit * np.sqrt([4, 4, 8]), rtol=2e-4)
    np.testing.assert_allclose(at_l, unit * np.sqrt([2, 2, 8]), rtol=2e-4)
    assert result.stability.verdict == "stable"
    assert result.stability.acoustic < 1e-3
    assert result.sum_rule < 1e-3  # not imposed by the potential's numbers, found


def test_thermal_properties_obey_their_limits():
    atoms, calculator = nearest_neighbour_fcc()
    settings = PhononSettings(supercell=(3, 3, 3), relax="none", mesh=60.0, t_max=2000.0)
    phonon = phonons(atoms, calculator, settings).phonon
    thermal = phonon.thermal_properties
    assert thermal.heat_capacity[-1] == pytest.approx(3 * 8.314462618, rel=5e-4)  # Dulong and Petit
    weights = np.asarray(phonon.mesh.weights)
    mean = (np.clip(phonon.mesh.frequencies, 0, None).sum(axis=1) * weights).sum() / weights.sum()
    zero_point = 0.5 * units._hplanck * mean * 1e12 * units._Nav / 1000
    assert thermal.free_energy[0] == pytest.approx(zero_point, rel=1e-6)
    integral = np.trapezoid(phonon.total_dos.dos, phonon.total_dos.frequency_points)
    assert integral == pytest.approx(3.0, rel=0.03)
    parts = np.trapezoid(phonon.projected_dos.projected_dos.sum(axis=0), phonon.projected_dos.frequency_points)
    assert parts == pytest.approx(3.0, rel=0.05)


@pytest.fixture(scope="module")
def calculator():
    from gracecli import GraceCalculator

    return GraceCalculator()


@pytest.mark.parametrize(("symbol", "structure", "a"), [("Si", "diamond", 5.45), ("Cu", "fcc", 3.63)])
def test_equal_to_a_phonopy_script(calculator, symbol, structure, a):
    """The same with phonopy alone: supercell, forces one by one, frequencies."""
    from phonopy import Phonopy

    start = bulk(symbol, structure, a=a, cubic=True)
    result = phonons(start, calculator, PhononSettings(supercell=(2, 2, 2), mesh=30.0))
    primitive = [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    script = Phonopy(to_phonopy(result.atoms), supercell_matrix=np.diag([2, 2, 2]), primitive_matrix=primitive)
    script.generate_displacements(distance=0.01)
    forces = []
    for cell in script.supercells_with_displacements:
        atoms = from_phonopy(cell)
        atoms.calc = calculator
        forces.append(atoms.get_forces())
    script.forces = forces
    script.produce_force_constants()
    script.symmetrize_force_constants()
    points = [[0, 0, 0], [0.5, 0, 0.5], [0.5, 0.5, 0.5], [0.3, 0.1, 0.2]]
    np.testing.assert_allclose(modes_at(result.phonon, points)[0], modes_at(script, points)[0], atol=2e-3)


@pytest.mark.physics
def test_silicon_against_dft(calculator, capsys):
    """PBE frequencies at Gamma, X, L, K, W; the bundled model is within 1 THz everywhere, 0.5 THz on average."""
    table = SHARED / "dft_phonons_si_pbe.csv"
    if not table.is_file():
        pytest.skip("../shared/reference is absent")
    rows = [row for row in csv.DictReader(table.read_text().splitlines()) if row["branch"].isdigit()]
    result = phonons(bulk("Si", "diamond", a=5.46, cubic=True), calculator, PhononSettings(supercell=(2, 2, 2)))
    deviations = []
    with capsys.disabled():
        for point in dict.fromkeys(row["qpoint"] for row in rows):
            mine = [row for row in rows if row["qpoint"] == point]
            dft = np.sort([float(row["freq_THz"]) for row in mine])
            model = modes_at(result.phonon, [float(x) for x in mine[0]["q_primitive"].split()])[0][0]
            deviations.append(model - dft)
            print(f"\n{point:5} DFT {np.round(dft, 2)} model {np.round(model, 2)}", end="")
    assert np.abs(deviations).max() < 1.0
    assert np.abs(deviations).mean() < 0.5


def test_phonopy_reads_the_files_back(calculator, tmp_path):
    import phonopy

    from gracecli.run.phonon_files import write_files

    result = phonons(bulk("Si", "diamond", a=5.45), calculator, PhononSettings(min_length=7.0, mesh=30.0))
    folder = tmp_path / "Si.phonons"
    folder.mkdir()
    write_files(folder, result, "{}")
    loaded = phonopy.load(folder / "phonopy_params.yaml", log_level=0)
    points = [[0, 0, 0], [0.5, 0, 0.5], [0.1, 0.2, 0.3]]
    np.testing.assert_allclose(modes_at(loaded, points)[0], modes_at(result.phonon, points)[0], atol=1e-5)
    for name in ("band.png", "dos.png", "thermal.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    temperatures = (folder / "thermal_properties.yaml").read_text()
    assert "temperature" in temperatures


def test_an_unstable_crystal_is_found_and_followed(calculator):
    """Bcc copper: not a minimum in DFT, and neither here; the way down ends in a stable, denser-packed crystal."""
    start = bulk("Cu", "bcc", a=2.88)
    settings = PhononSettings(supercell=(4, 4, 4), mesh=30.0, min_length=9.0)
    first = phonons(start, calculator, settings)
    assert first.stability.verdict == "unstable"
    assert first.stability.lowest_commensurate < -0.5
    result = follow(start, calculator, settings, attempts=3)
    assert result.followed
    assert result.followed[0]["energy_change"] < -1e-3
    assert result.followed[0]["frequency"] == pytest.approx(first.stability.lowest_commensurate)


def test_mode_pattern_is_the_one_of_its_wave_vector():
    """A zone-boundary mode of the chain moves neighbours against each other."""
    chain = Atoms("Ar", cell=[2.0, 9.0, 9.0], pbc=True)
    result = phonons(chain, Springs(3.0, 2.0), PhononSettings(supercell=(4, 1, 1), relax="none", mesh=20.0))
    branch = int(np.argmax(modes_at(result.phonon, [0.5, 0, 0])[0][0]))
    moved = displaced_along(result.phonon, (0.5, 0.0, 0.0), branch, 0.1)
    shift = moved.positions - from_phonopy(result.phonon.supercell).positions
    order = np.argsort(moved.positions[:, 0])
    np.testing.assert_allclose(np.abs(shift[:, 0]), 0.1, atol=1e-9)
    assert (np.sign(shift[order, 0]) * [1, -1, 1, -1]).sum() in (4, -4)


def test_commensurate_points_number_the_primitive_cells():
    atoms, calculator = nearest_neighbour_fcc()
    phonon = phonons(atoms, calculator, PhononSettings(supercell=(2, 2, 2), relax="none", mesh=20.0)).phonon
    assert len(commensurate_points(phonon)) == 8


def test_supercells():
    primitive = bulk("Si", "diamond", a=5.43)
    matrix = supercell_matrix(primitive, None, 10.0)
    lengths = np.linalg.norm(matrix.T @ primitive.cell.array, axis=1)
    np.testing.assert_allclose(lengths, 2 * 5.43)  # of the conventional cell, although the primitive one is given
    assert round(np.linalg.det(matrix)) == 32
    np.testing.assert_array_equal(supercell_matrix(primitive, (1, 2, 3), 10.0), np.diag([1, 2, 3]))
    shape = (0, 1, 1, 1, 0, 1, 1, 1, 0)
    np.testing.assert_array_equal(supercell_matrix(primitive, shape, 10.0), np.reshape(shape, (3, 3)))
    with pytest.raises(UsageError, match="no positive volume"):
        supercell_matrix(primitive, (0, 1, 1, 1, 0, 1, 1, -1, 0, 0)[:9], 10.0)


def test_errors(calculator, monkeypatch):
    with pytest.raises(InputError, match="periodic in three directions"):
        phonons(Atoms("Si2", positions=[[0, 0, 0], [0, 0, 2.3]]), calculator)
    with pytest.raises(InputError, match=r"cannot read .*BORN"):
        phonons(
            bulk("Si", "diamond", a=5.45), calculator,
            PhononSettings(supercell=(2, 2, 2), mesh=20.0, relax="none", born=Path("no/BORN")),
        )  # fmt: skip
    with pytest.raises(UsageError, match="unknown relaxation"):
        PhononSettings(relax="some")
    rattled = bulk("Si", "diamond", a=5.4, cubic=True)
    rattled.rattle(0.05, seed=1)
    monkeypatch.setattr("gracecli.run.phonons.RELAX_STEPS", 2)
    with pytest.raises(NotConvergedError, match="did not relax"):
        phonons(rattled, calculator)


@pytest.mark.slow
def test_quasiharmonic_copper_expands_as_copper_does(calculator):
    """Experiment: 50e-6/K at 300 K (volume), B falling with T, C_p > C_V."""
    result = phonons(bulk("Cu", "fcc", a=3.63), calculator, PhononSettings(min_length=9.0, mesh=50.0))
    settings = PhononSettings(supercell=tuple(np.ravel(result.phonon.supercell_matrix)), mesh=50.0, t_max=600.0)
    expansion = quasiharmonic(result.atoms, calculator, settings)
    at = int(np.argmin(abs(expansion.temperatures - 300)))
    assert 30e-6 < expansion.thermal_expansion[at] < 70e-6
    slope = np.gradient(np.log(expansion.volume), expansion.temperatures)[at]
    assert expansion.thermal_expansion[at] == pytest.approx(slope, rel=0.02)
    assert expansion.bulk_modulus[at] < expansion.bulk_modulus[1]
    thermal = result.phonon.thermal_properties
    assert expansion.heat_capacity_p[at] > thermal.heat_capacity[int(np.argmin(abs(thermal.temperatures - 300)))]


@pytest.mark.slow
def test_thermal_conductivity_of_silicon(calculator):
    """Cubic: one number; 1/T at high temperature; equal to a phono3py script to the mesh; isotopes lower it."""
    pytest.importorskip("phono3py", reason="the extra kappa is not installed")
    from gracecli.run.conductivity import ConductivitySettings, conductivity
    from gracecli.run.phonons import relaxed

    reference, _ = relaxed(bulk("Si", "diamond", a=5.45), calculator, PhononSettings())
    settings = ConductivitySettings(mesh=25.0, temperatures=(300.0, 600.0, 1200.0))
    plain = conductivity(reference, calculator, PhononSettings(min_length=10.0), settings)
    np.testing.assert_allclose(plain.kappa[:, 0], plain.kappa[:, 2], rtol=1e-3)
    assert np.abs(plain.kappa[:, 3:]).max() < 1e-3 * plain.kappa[0, 0]
    assert plain.average[1] / plain.average[2] == pytest.approx(2.0, rel=0.05)
    assert 30 < plain.average[0] < 200  # PBE and experiment: 130 to 150
    isotopes = ConductivitySettings(mesh=25.0, temperatures=(300.0,), isotopes=True)
    assert conductivity(reference, calculator, PhononSettings(min_length=10.0), isotopes).average[0] < plain.average[0]


def test_relative_error_of_conductivities():
    from gracecli.run.conductivity import symmetric_relative_error

    assert symmetric_relative_error(3.0, 1.0) == symmetric_relative_error(1.0, 3.0) == 1.0
    assert symmetric_relative_error(-1.0, 3.0) == 2.0


def test_missing_phono3py_names_the_extra(monkeypatch):
    from gracecli.errors import PluginError
    from gracecli.run import conductivity

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PluginError, match=r"gracecli\[kappa\]"):
        conductivity.require_phono3py()
