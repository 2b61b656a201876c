"""Ensembles against statistical mechanics: a cheap anharmonic crystal of Morse bonds, and the bundled model."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.units import GPa, kB
from scipy.stats import gamma, kstest

from gracecli.run.md import Simulation, run
from gracecli.run.md_settings import MdSettings
from gracecli.run.md_statistics import average, correlation_time, drift

specification = importlib.util.spec_from_file_location("md_models", Path(__file__).parents[1] / "run" / "md_models.py")
md_models = importlib.util.module_from_spec(specification)
sys.modules["md_models"] = md_models
specification.loader.exec_module(md_models)

pytestmark = pytest.mark.physics
BASE = MdSettings(
    temperature=700.0, temperature_end=700.0, timestep=3.0, thermostat_time=60.0, barostat_time=400.0, steps=40000,
    thermo_every=5, seed=11,
)  # fmt: skip


class Series:
    """A run of the crystal, its rows after the first tenth, and kinetic energies by atom and direction."""

    def __init__(self, **changes):
        atoms, calculator = md_models.crystal()
        self.settings = replace(BASE, **changes)
        simulation = Simulation.begin(atoms, calculator, self.settings)
        self.rows, directions = [], []

        def keep(sample):
            self.rows.append(sample)
            directions.append(0.5 * simulation.system.momenta**2 / simulation.system.masses)

        assert run(simulation, observer=keep).status == "finished"
        self.start = len(self.rows) // 10
        self.kinetic = np.array(directions[self.start :])
        self.freedom = simulation.system.freedom
        self.atoms = len(atoms)

    def __getitem__(self, name):
        return np.array([getattr(row, name) for row in self.rows[self.start :]])


@pytest.fixture(scope="module", params=["nvt-csvr", "nvt-nhc", "nvt-langevin", "npt-mtk", "npt-mtk-iso"])
def series(request):
    return Series(ensemble=request.param, pressure=2.0 if request.param.startswith("npt") else 0.0)


def test_kinetic_energy_is_canonical(series):
    """K / kT follows the gamma distribution of shape N_f / 2 (Kolmogorov-Smirnov, independent samples)."""
    energy = series["kinetic_energy"]
    stride = int(np.ceil(2 * correlation_time(energy)))
    apart = energy[::stride] / (kB * 700.0)
    assert len(apart) > 200
    assert kstest(apart, gamma(0.5 * series.freedom).cdf).pvalue > 1e-3
    assert apart.var() == pytest.approx(0.5 * series.freedom, rel=5 * np.sqrt(2.0 / len(apart)))


def test_energy_is_shared_equally(series):
    """Every atom and direction holds kT/2, less its share of the centre of mass at rest.

    Errors come from the scatter of ten long blocks. Only Langevin's thermostat reaches every mode; under the others
    the crystal's modes exchange energy by themselves, in several ps, so that blocks of 11 ps are not independent.
    """
    own = series.settings.ensemble == "nvt-langevin"
    expected = 0.5 * kB * 700.0 * series.freedom / (3 * series.atoms)
    length = len(series.kinetic) // 10
    blocks = series.kinetic[: 10 * length].reshape(10, length, series.atoms, 3).mean(axis=1)
    deviation = (blocks.mean(axis=0) - expected) / (blocks.std(axis=0, ddof=1) / np.sqrt(10))
    assert deviation.std() < (1.6 if own else 2.0)  # Student's t of nine degrees of freedom: 1.13
    assert np.abs(deviation).max() < 7.0
    by_direction = blocks.mean(axis=(0, 1))
    assert by_direction == pytest.approx(expected, rel=0.03 if own else 0.06)


def test_mean_temperature_is_the_target(series):
    found = average(series["temperature"])
    assert abs(found.value - 700.0) < 4 * found.error + 2.0


@pytest.fixture(scope="module")
def constant_pressure():
    return {name: Series(ensemble=name, pressure=2.0, steps=80000) for name in ("npt-mtk", "npt-mtk-iso")}


def test_mean_pressure_is_the_target(constant_pressure):
    for name, found in constant_pressure.items():
        mean = average(found["pressure"])
        assert abs(mean.value - 2.0) < 4 * mean.error + 0.01, name
        stress = average(found["stress_xx"] - found["stress_yy"])
        assert abs(stress.value) < 4 * stress.error + (0.5 if name.endswith("iso") else 0.01)


def test_volume_fluctuates_as_the_compressibility_says(constant_pressure):
    """var(V) = -kT dV/dp at constant temperature, the derivative from mean pressures at two fixed volumes."""
    volume = constant_pressure["npt-mtk"]["volume"]
    mean, variance = volume.mean(), volume.var()
    pressures = []
    for strain in (-0.004, 0.004):
        atoms, _ = md_models.crystal()
        atoms.set_cell(np.eye(3) * np.cbrt(mean * (1 + 3 * strain)), scale_atoms=True)
        settings = replace(BASE, ensemble="nvt-csvr", steps=40000)
        rows = []
        run(Simulation.begin(atoms, md_models.MorseCrystal(atoms), settings), observer=rows.append)
        pressures.append(np.mean([row.pressure for row in rows[len(rows) // 10 :]]) * GPa)
    compressibility = 0.024 / (pressures[0] - pressures[1])
    expected = kB * 700.0 * mean * compressibility
    for name, found in constant_pressure.items():
        assert found["volume"].mean() == pytest.approx(mean, rel=2e-3)
        assert found["volume"].var() == pytest.approx(expected, rel=0.15), name
    assert variance == pytest.approx(expected, rel=0.15)


@pytest.fixture(scope="module")
def silicon():
    from gracecli import GraceCalculator

    return bulk("Si", a=5.469, cubic=True), GraceCalculator()


def test_energy_of_silicon_fluctuates_as_the_timestep_squared(silicon):
    """Bundled model, solid Si at 300 K; the same start, 0.4 ps at three timesteps."""
    atoms, calculator = silicon
    spread = []
    for timestep in (0.5, 1.0, 2.0):
        settings = MdSettings(
            ensemble="nve", temperature=600.0, timestep=timestep, steps=round(400 / timestep),
            thermo_every=round(4 / timestep), seed=2,
        )  # fmt: skip
        rows = []
        run(Simulation.begin(atoms, calculator, settings), observer=rows.append)
        spread.append(np.std([row.total_energy for row in rows]) / len(atoms))
    assert spread[2] / spread[1] == pytest.approx(4.0, rel=0.15)
    assert spread[1] / spread[0] == pytest.approx(4.0, rel=0.15)
    assert spread[1] < 2e-5  # eV/atom at 1 fs


def test_energy_of_silicon_does_not_drift(silicon):
    """5 ps at 1 fs: the shadow energy resolves what the plain energy hides."""
    atoms, calculator = silicon
    settings = MdSettings(ensemble="nve", temperature=600.0, timestep=1.0, steps=5000, thermo_every=5, seed=3)
    rows = []
    run(Simulation.begin(atoms, calculator, settings), observer=rows.append)
    rows = rows[200:]
    times = np.array([row.time for row in rows]) * 1e-6  # ns
    found = drift(times, np.array([row.shadow_energy for row in rows]) / len(atoms))
    assert abs(found.value) < 4 * found.error + 1e-5
    assert found.error < 1e-4
