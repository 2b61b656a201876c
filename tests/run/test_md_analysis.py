"""Analysis against closed forms: random walks, ideal gases, crystals, oscillators, correlated noise."""

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from gracecli.run.md_checks import check_distribution, check_drift, check_mean, thermodynamic_checks
from gracecli.run.md_h5md import LIBVER, OBSERVABLES, create, elements
from gracecli.run.md_settings import MdSettings
from gracecli.run.md_statistics import Drift, Mean, average, correlation_time, drift, equilibrated
from gracecli.run.md_structure import pair_distributions
from gracecli.run.md_trajectory import Trajectory
from gracecli.run.md_transport import _mean_square, diffusion, vibrations


def trajectory_of(path, atoms, positions, velocities=None, spacing=10.0, cells=None):
    """A trajectory file with given coordinates."""
    count = len(positions)
    values = {
        "step": np.arange(count),
        "time": np.arange(count) * spacing,
        "edges": np.broadcast_to(atoms.cell.array, (count, 3, 3)) if cells is None else cells,
        "position": positions,
        "velocity": np.zeros_like(positions) if velocities is None else velocities,
        **dict.fromkeys(OBSERVABLES, np.zeros(count)),
    }
    with h5py.File(path, "w", libver=LIBVER) as file:
        create(file, atoms, forces=False)
        for name, data in elements(file):
            data.resize(count, axis=0)
            data[:] = values[name]
    return Trajectory(path)


def noise(count, tau, rng):
    """First-order autoregressive noise of unit variance and correlation time ``tau``."""
    keep = np.exp(-1.0 / tau)
    kicks = rng.standard_normal(count) * np.sqrt(1 - keep**2)
    series = np.empty(count)
    series[0] = rng.standard_normal()
    for i in range(1, count):
        series[i] = keep * series[i - 1] + kicks[i]
    return series


def test_correlation_time_of_known_noise():
    rng = np.random.default_rng(1)
    for tau in (2.0, 10.0, 40.0):
        keep = np.exp(-1.0 / tau)
        exact = 0.5 * (1 + keep) / (1 - keep)
        assert correlation_time(noise(100_000, tau, rng)) == pytest.approx(exact, rel=0.15)
    assert correlation_time(rng.standard_normal(100_000)) == pytest.approx(0.5, abs=0.03)
    assert correlation_time(np.full(50, 3.0)) == 25.0


def test_errors_of_means_and_drifts_are_neither_too_small_nor_too_large():
    """Deviations from the truth in units of the claimed error have a spread near one."""
    rng = np.random.default_rng(2)
    times = np.linspace(0.0, 1.0, 2000)
    means, slopes = [], []
    for _ in range(200):
        series = noise(2000, 15.0, rng)
        found = average(series)
        means.append(found.value / found.error)
        line = drift(times, 0.7 * times + series)
        slopes.append((line.value - 0.7) / line.error)
    assert 0.75 < np.std(means) < 1.2
    assert 0.75 < np.std(slopes) < 1.2
    assert abs(np.mean(slopes)) < 0.3


def test_equilibration_is_found_and_a_stationary_series_is_kept():
    rng = np.random.default_rng(3)
    series = noise(2000, 5.0, rng)
    assert equilibrated(series) < 600
    late = series + 30.0 * np.exp(-np.arange(2000) / 60.0)
    assert 150 < equilibrated(late) < 800


def test_mean_square_displacement_is_the_sum_over_all_origins():
    rng = np.random.default_rng(4)
    r = rng.standard_normal((40, 3, 3)).cumsum(axis=0)
    direct = [((r[lag:] - r[: 40 - lag]) ** 2).sum(axis=2).mean() for lag in range(40)]
    np.testing.assert_allclose(_mean_square(r), direct, atol=1e-9)


def test_random_walk_has_its_diffusion_coefficient_and_a_crystal_has_none(tmp_path):
    rng = np.random.default_rng(5)
    atoms = bulk("Cu", cubic=True) * (6, 6, 6)
    steps = rng.normal(scale=0.05, size=(1000, len(atoms), 3))
    with trajectory_of(tmp_path / "walk.h5md", atoms, atoms.positions + steps.cumsum(axis=0)) as walk:
        (found,) = diffusion(walk, slice(None))
    exact = 0.05**2 / (2 * 10.0) * 1e4  # <x²> = 2 D t per step of 10 fs, Å²/fs -> 1e-9 m²/s
    assert abs(found.coefficient - exact) < 4 * found.coefficient_error + 0.002 * exact
    assert found.coefficient_error < 0.1 * exact
    assert found.diffusive
    assert found.exponent == pytest.approx(1.0, abs=0.05)
    with trajectory_of(tmp_path / "still.h5md", atoms, atoms.positions + steps) as still:
        (found,) = diffusion(still, slice(None))
    assert not found.diffusive
    assert abs(found.coefficient) < 4 * found.coefficient_error + 1e-3


def test_a_few_vibrations_are_no_diffusion(tmp_path):
    """From free flight to the turning point the displacement of an oscillator is straight for a moment."""
    rng = np.random.default_rng(6)
    atoms = bulk("Cu", cubic=True) * (4, 4, 4)
    periods = rng.uniform(180.0, 260.0, size=(len(atoms), 3))
    phases = rng.uniform(0, 2 * np.pi, size=(len(atoms), 3))
    time = 10.0 * np.arange(130)[:, None, None]
    positions = atoms.positions + 0.1 * np.sin(2 * np.pi * time / periods + phases)
    with trajectory_of(tmp_path / "short.h5md", atoms, positions) as short:
        (found,) = diffusion(short, slice(None))
    assert 0.7 < found.exponent < 1.3  # which alone would look like diffusion
    assert not found.diffusive


def test_displacements_leave_out_the_cell_and_the_centre_of_mass(tmp_path):
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    scale = 1.0 + 0.03 * np.sin(np.arange(100) / 9.0)
    cells = atoms.cell.array * scale[:, None, None]
    positions = atoms.positions * scale[:, None, None] + 0.3 * np.arange(100)[:, None, None]
    with trajectory_of(tmp_path / "t.h5md", atoms, positions, cells=cells) as trajectory:
        (found,) = diffusion(trajectory, slice(None))
    assert found.msd.max() < 1e-9


def test_pair_distribution_of_an_ideal_gas_is_one(tmp_path):
    rng = np.random.default_rng(6)
    atoms = Atoms("Ar200Ne100", cell=np.diag([18.0, 19.0, 20.0]), pbc=True, positions=np.zeros((300, 3)))
    positions = rng.random((60, 300, 3)) @ atoms.cell.array
    with trajectory_of(tmp_path / "t.h5md", atoms, positions) as trajectory:
        pairs = pair_distributions(trajectory, slice(None))
    assert [pair.pair for pair in pairs] == ["Ne-Ne", "Ne-Ar", "Ar-Ar"]
    for pair in pairs:
        outer = pair.r > 3.0
        own = 1.0 - 1.0 / {"Ne-Ne": 100, "Ne-Ar": np.inf, "Ar-Ar": 200}[pair.pair]  # an atom is no neighbour of itself
        assert pair.g[outer].mean() == pytest.approx(own, abs=0.01)
        pulls = (pair.g[outer] - own) / pair.error[outer]
        assert 0.7 < np.median(np.abs(pulls)) / 0.74 < 1.5  # Student's t of four degrees of freedom


def test_first_shell_of_a_crystal(tmp_path):
    rng = np.random.default_rng(7)
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (3, 3, 3)
    positions = atoms.positions + rng.normal(scale=0.08, size=(30, len(atoms), 3))
    with trajectory_of(tmp_path / "t.h5md", atoms, positions) as trajectory:
        pairs = {pair.pair: pair for pair in pair_distributions(trajectory, slice(None))}
    assert pairs["Na-Cl"].coordination == pytest.approx(6.0, abs=0.02)
    assert pairs["Na-Cl"].first_peak == pytest.approx(2.82, abs=0.06)
    assert pairs["Na-Na"].coordination == pytest.approx(12.0, abs=0.1)


def test_vibrations_of_oscillators_sit_at_their_frequencies(tmp_path):
    rng = np.random.default_rng(8)
    atoms = Atoms("Cu50Ne50", cell=np.eye(3) * 30, pbc=True, positions=np.zeros((100, 3)))
    time = np.arange(2000) * 5.0
    omega = 2 * np.pi * np.repeat([4e-3, 11e-3], 50)[:, None]  # 4 and 11 THz
    phase = rng.uniform(0, 2 * np.pi, (100, 3))
    velocities = 0.01 * np.cos(time[:, None, None] * omega + phase)
    with trajectory_of(tmp_path / "t.h5md", atoms, np.zeros_like(velocities), velocities, spacing=5.0) as trajectory:
        found = {item.element: item for item in vibrations(trajectory, slice(None))}
    assert found["Cu"].frequency[np.argmax(found["Cu"].dos)] == pytest.approx(4.0, abs=0.15)
    assert found["Ne"].frequency[np.argmax(found["Ne"].dos)] == pytest.approx(11.0, abs=0.15)
    whole = found["all"]
    assert whole.nyquist == pytest.approx(100.0, rel=1e-3)
    assert whole.aliased < 1e-3
    width = whole.frequency[1]
    assert whole.dos.sum() * width == pytest.approx(1.0)
    low = whole.frequency < 7.5
    assert whole.dos[low].sum() * width == pytest.approx(63.546 / (63.546 + 20.1797), abs=0.02)  # weight m v²


def test_canonical_temperatures_pass_and_others_fail():
    rng = np.random.default_rng(9)
    freedom = 93
    good = 300.0 * rng.gamma(0.5 * freedom, size=2000) / (0.5 * freedom)
    assert check_distribution(good, 300.0, freedom)[0].verdict == "passed"
    narrow = 300.0 + 0.6 * (good - 300.0)  # as Berendsen's thermostat makes it
    assert check_distribution(narrow, 300.0, freedom)[0].verdict == "failed"
    assert check_distribution(good[:5], 300.0, freedom)[0].verdict == "undecided"


def test_verdicts_need_evidence():
    assert check_drift(Drift(1e-4, 1e-5), "d").verdict == "passed"
    assert check_drift(Drift(0.5, 0.01), "d").verdict == "failed"
    assert check_drift(Drift(0.02, 0.02), "d").verdict == "undecided"
    assert check_drift(Drift(0.001, 0.5), "d").verdict == "undecided"
    assert check_mean("m", Mean(301.0, 1.0, 30.0, 900.0), 300.0, 0.0, "K").verdict == "passed"
    assert check_mean("m", Mean(310.0, 1.0, 30.0, 900.0), 300.0, 0.0, "K").verdict == "failed"
    assert check_mean("m", Mean(310.0, 1.0, 30.0, 4.0), 300.0, 0.0, "K").verdict == "undecided"


def test_nothing_is_decided_before_the_thermostat_could_work():
    settings = MdSettings(ensemble="npt-mtk", thermostat_time=100.0, barostat_time=1000.0)
    means = {"temperature": Mean(200.0, 1.0, 30.0, 500.0), "pressure": Mean(3.0, 0.1, 1.0, 500.0)}
    temperature = np.random.default_rng(1).normal(200.0, 30.0, 500)
    for span, verdict in ((1000.0, "undecided"), (6000.0, "failed")):
        checks = thermodynamic_checks(settings, means, None, temperature, 93, span)
        assert {check.name: check.verdict for check in checks} == dict.fromkeys(
            ["mean temperature", "temperature distribution", "mean pressure"], verdict
        )


def test_a_slow_motion_of_small_amplitude_widens_the_errors():
    """Strong fast noise hides a slow one, a third as strong, from the window; the truth is the slow one's error."""
    rng = np.random.default_rng(12)
    pulls, slopes = [], []
    times = np.linspace(0.0, 1.0, 8000)
    for _ in range(60):
        series = rng.standard_normal(8000) + 0.3 * noise(8000, 120.0, rng)
        found = average(series)
        pulls.append(found.value / found.error)
        line = drift(times, series)
        slopes.append(line.value / line.error)
    assert np.std(pulls) < 1.4
    assert np.std(slopes) < 1.5
