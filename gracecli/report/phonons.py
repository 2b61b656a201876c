"""Pictures of phonons: bands beside the density of states, densities by element, thermal properties, expansion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.files import write_atomically
from gracecli.run.phonon_files import plain_label

if TYPE_CHECKING:
    from gracecli.run.conductivity import Conductivity
    from gracecli.run.phonons import PhononResult
    from gracecli.run.quasiharmonic import QuasiHarmonic


def plot_bands(result: PhononResult, path: Path) -> None:
    """Band structure along the path, the total density of states beside it; imaginary branches below zero, in red."""
    from matplotlib.figure import Figure

    bands: Any = result.phonon.band_structure
    dos: Any = result.phonon.total_dos
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axis, side = figure.subplots(1, 2, sharey=True, width_ratios=[4, 1])
    for distance, frequency in zip(bands.distances, bands.frequencies, strict=True):
        values = np.asarray(frequency)
        axis.plot(distance, values, color="C0", linewidth=1.2)
        axis.plot(distance, np.where(values < -result.stability.tolerance, values, np.nan), color="C3", linewidth=1.6)
    ticks, names = _ticks(bands)
    for place in ticks:
        axis.axvline(place, color="0.8", linewidth=0.8, zorder=0)
    axis.axhline(0.0, color="0.4", linewidth=0.8, zorder=0)
    axis.set_xticks(ticks, names)
    axis.set_xlim(ticks[0], ticks[-1])
    axis.set(ylabel="frequency (THz)", title=f"{result.atoms.get_chemical_formula()}, {result.model}")
    side.fill_betweenx(dos.frequency_points, 0, dos.dos, color="C0", alpha=0.35, linewidth=0)
    side.plot(dos.dos, dos.frequency_points, color="C0", linewidth=1.0)
    side.set(xlabel="DOS (1/THz)")
    side.set_xlim(left=0)
    _save(figure, path)


def plot_dos(result: PhononResult, path: Path) -> None:
    """Density of states, and its parts by element."""
    from matplotlib.figure import Figure

    dos: Any = result.phonon.total_dos
    parts: Any = result.phonon.projected_dos
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.plot(dos.frequency_points, dos.dos, color="0.2", linewidth=1.4, label="total")
    symbols = np.array(result.phonon.primitive.symbols)
    for symbol in dict.fromkeys(symbols.tolist()) if len(set(symbols.tolist())) > 1 else ():
        share = np.asarray(parts.projected_dos)[symbols == symbol].sum(axis=0)
        axis.plot(parts.frequency_points, share, linewidth=1.2, label=symbol)
    axis.set(xlabel="frequency (THz)", ylabel="density of states (1/THz per primitive cell)")
    occupied = np.asarray(dos.frequency_points)[np.asarray(dos.dos) > 0]
    axis.set_xlim(min(0.0, 1.05 * float(occupied.min())), 1.05 * float(occupied.max()))
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    _save(figure, path)


def plot_thermal(result: PhononResult, path: Path) -> None:
    """Free energy, entropy and heat capacity against temperature, per mole of primitive cells."""
    from matplotlib.figure import Figure

    thermal: Any = result.phonon.thermal_properties
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axis = figure.subplots()
    t = np.asarray(thermal.temperatures)
    axis.plot(t, thermal.free_energy, label="free energy (kJ/mol)")
    axis.plot(t, thermal.entropy, label="entropy (J/K/mol)")
    axis.plot(t, thermal.heat_capacity, label="heat capacity $C_V$ (J/K/mol)")
    limit = 3 * 8.314462618 * len(result.phonon.primitive)
    axis.axhline(limit, color="0.7", linewidth=0.8, linestyle="--")
    axis.annotate("3R per atom", (t[-1], limit), ha="right", va="bottom", color="0.5", fontsize=8)
    axis.axhline(0.0, color="0.4", linewidth=0.8, zorder=0)
    axis.set(xlabel="temperature (K)", ylabel="per mole of primitive cells")
    axis.set_xlim(0, t[-1])
    axis.legend(frameon=False)
    _save(figure, path)


def plot_expansion(expansion: QuasiHarmonic, path: Path) -> None:
    """Volume, thermal expansion, bulk modulus and heat capacity of the quasi-harmonic approximation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    axes = figure.subplots(2, 2)
    t = expansion.temperatures
    panels: list[tuple[Any, str]] = [
        (expansion.volume, "volume (Å³/atom)"),
        (expansion.thermal_expansion * 1e6, "volume expansion (10⁻⁶/K)"),
        (expansion.bulk_modulus, "bulk modulus (GPa)"),
        (expansion.heat_capacity_p, "$C_p$ (J/K/mol of atoms)"),
    ]
    for axis, (values, name) in zip(axes.flat, panels, strict=True):
        axis.plot(t, values, color="C0")
        axis.set(xlabel="temperature (K)", ylabel=name)
        axis.set_xlim(0, t[-1])
    _save(figure, path)


def plot_conductivity(transport: Conductivity, path: Path) -> None:
    """Thermal conductivity along the axes against temperature, both logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    for column, name in enumerate(("xx", "yy", "zz")):
        axis.loglog(transport.temperatures, transport.kappa[:, column], marker="o", ms=4, label=name)
    axis.set(xlabel="temperature (K)", ylabel="lattice thermal conductivity (W/m/K)")
    axis.set_title(f"relaxation-time approximation, mesh {' x '.join(map(str, transport.mesh))}", fontsize=10)
    axis.grid(True, which="both", color="0.9", linewidth=0.6)
    axis.legend(frameon=False)
    _save(figure, path)


def _ticks(bands: Any) -> tuple[list[float], list[str]]:
    """Places and names of the special points; where the path jumps, both names share one place."""
    labels = [plain_label(label) for label in bands.labels or []]
    places: list[float] = []
    names: list[str] = []
    number = 0
    for segment, distance in enumerate(bands.distances):
        if segment == 0 or not bands.path_connections[segment - 1]:
            if segment and number < len(labels):
                names[-1] = f"{names[-1]}|{labels[number]}"
            elif number < len(labels):
                places.append(float(distance[0]))
                names.append(labels[number])
            number += 1
        places.append(float(distance[-1]))
        names.append(labels[number] if number < len(labels) else "")
        number += 1
    return places, names


def _save(figure: Any, path: Path) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150))
