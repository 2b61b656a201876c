"""Pictures and tables of an analysis: the log, pair distributions, mean square displacements, vibrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gracecli.files import write_atomically, write_text_atomically
from gracecli.run.md_result import MdResult


def write_pictures(result: MdResult, folder: Path) -> list[Path]:
    """Draw what there is into ``folder``; the paths written."""
    drawn = []
    if len(result.columns.get("time", ())) > 1:
        drawn.append(_thermo(result, folder / "thermo.png"))
    if result.pairs:
        drawn.append(_pairs(result, folder / "rdf.png"))
    if result.diffusions:
        drawn.append(_displacements(result, folder / "msd.png"))
    if result.spectra:
        drawn.append(_vibrations(result, folder / "vdos.png"))
    return drawn


def write_curves(result: MdResult, folder: Path) -> list[Path]:
    """The same as CSV."""
    written = []
    if result.pairs:
        columns = {"r_A": result.pairs[0].r}
        for pair in result.pairs:
            columns |= {f"g_{pair.pair}": pair.g, f"error_{pair.pair}": pair.error}
        written.append(_table(folder / "rdf.csv", columns))
    if result.diffusions:
        columns = {"time_fs": result.diffusions[0].time}
        for item in result.diffusions:
            columns |= {f"msd_{item.element}_A2": item.msd, f"error_{item.element}_A2": item.error}
        written.append(_table(folder / "msd.csv", columns))
    if result.spectra:
        columns = {"time_fs": result.spectra[0].time} | {f"vacf_{v.element}": v.vacf for v in result.spectra}
        written.append(_table(folder / "vacf.csv", columns))
        columns = {"frequency_THz": result.spectra[0].frequency}
        columns |= {f"dos_{v.element}_per_THz": v.dos for v in result.spectra}
        written.append(_table(folder / "vdos.csv", columns))
    return written


def _table(path: Path, columns: dict[str, Any]) -> Path:
    rows = zip(*columns.values(), strict=True)
    text = "\n".join([",".join(columns), *(",".join(f"{value:.8g}" for value in row) for row in rows)]) + "\n"
    return write_text_atomically(path, text)


def _thermo(result: MdResult, path: Path) -> Path:
    """Temperature, pressure or cell, potential and conserved energy in time; the distribution of the temperature."""
    figure, axes = _figure(2, 3, (12.0, 6.4))
    columns, settings, count = result.columns, result.settings, max(result.atoms, 1)
    time = columns["time"] / 1e3
    axes[0, 0].plot(time, columns["temperature"], lw=0.6)
    if settings is not None and settings.thermostatted and "target_temperature" in columns:
        axes[0, 0].plot(time, columns["target_temperature"], color="k", lw=0.9, ls="--", label="target")
        axes[0, 0].legend(fontsize=8)
    axes[0, 0].set(title="temperature (K)")
    axes[0, 1].plot(time, columns["potential_energy"] / count, lw=0.6)
    axes[0, 1].set(title="potential energy (eV/atom)")
    conserved = columns["conserved_energy"] / count * 1e3
    if np.isfinite(conserved).any():
        start = conserved[np.isfinite(conserved)][0]
        axes[0, 2].plot(time, conserved - start, lw=0.6, label="conserved energy")
        shadow = columns.get("shadow_energy", np.full(1, np.nan)) / count * 1e3
        if np.isfinite(shadow).any():
            axes[0, 2].plot(time, shadow - shadow[np.isfinite(shadow)][0], lw=0.9, label="shadow energy")
        axes[0, 2].legend(fontsize=8)
    axes[0, 2].set(title="Δ conserved energy (meV/atom)")
    if np.isfinite(columns["pressure"]).any():
        axes[1, 0].plot(time, columns["pressure"], lw=0.6)
        if settings is not None and settings.barostatted:
            axes[1, 0].axhline(settings.pressure, color="k", lw=0.9, ls="--")
        axes[1, 0].set(title="pressure (GPa)")
    else:
        axes[1, 0].set_axis_off()
    if np.ptp(columns.get("volume", np.zeros(1))) > 0:
        axes[1, 1].plot(time, columns["volume"] / count, lw=0.6)
        axes[1, 1].set(title="volume (Å³/atom)")
    elif "max_force" in columns:
        axes[1, 1].plot(time, columns["max_force"], lw=0.6)
        axes[1, 1].set(title="largest force (eV/Å)")
    for axis in axes.flat[:5]:
        axis.set_xlabel("time (ps)")
        if result.start > 0:
            axis.axvspan(0.0, result.start / 1e3, color="0.9", zorder=0)
    _distribution(result, axes[1, 2])
    return _save(figure, path)


def _distribution(result: MdResult, axis: Any) -> None:
    """Histogram of the temperature, and the canonical density."""
    from scipy.stats import gamma

    kept = result.columns["temperature"][result.columns["time"] >= result.start]
    bins = int(np.clip(np.sqrt(len(kept)), 5, 60))
    axis.hist(kept, bins=bins, density=True, color="C0", alpha=0.5, label="run")
    settings = result.settings
    if settings is not None and settings.thermostatted and not settings.ramped and result.freedom > 0:
        unit = 2.0 * settings.temperature_end / result.freedom
        left, right = axis.get_xlim()
        grid = np.linspace(float(left), float(right), 300)
        axis.plot(grid, gamma(0.5 * result.freedom, scale=unit).pdf(grid), color="k", lw=1.0, label="canonical")
        axis.legend(fontsize=8)
    axis.set(xlabel="temperature (K)", title="distribution of the temperature (1/K)")


def _pairs(result: MdResult, path: Path) -> Path:
    figure, axes = _figure(1, 1, (7.0, 4.4))
    axis = axes[0, 0]
    for number, pair in enumerate(result.pairs):
        axis.plot(pair.r, pair.g, lw=1.0, color=f"C{number % 10}", label=pair.pair)
        if np.isfinite(pair.error).all():
            low, high = pair.g - pair.error, pair.g + pair.error
            axis.fill_between(pair.r, low, high, color=f"C{number % 10}", alpha=0.3, lw=0)
    axis.axhline(1.0, color="0.6", lw=0.8, zorder=0)
    first = min(float(pair.r[np.argmax(pair.g > 0)]) for pair in result.pairs)
    axis.set(xlabel="r (Å)", ylabel="g(r)", xlim=(max(first - 0.5, 0.0), result.pairs[0].r[-1]), ylim=(0.0, None))
    axis.set_title("pair distribution")
    axis.legend(fontsize=9)
    return _save(figure, path)


def _displacements(result: MdResult, path: Path) -> Path:
    figure, axes = _figure(1, 1, (7.0, 4.4))
    axis = axes[0, 0]
    for number, item in enumerate(result.diffusions):
        text = f"{item.element}: D = {_with_error(item.coefficient, item.coefficient_error)} · 10⁻⁹ m²/s"
        if not item.diffusive:
            text = f"{item.element}: {'no diffusion' if item.bound else 'too short a run to tell'}"
        time = item.time / 1e3
        axis.plot(time, item.msd, lw=1.2, color=f"C{number % 10}", label=text)
        axis.fill_between(time, item.msd - item.error, item.msd + item.error, color=f"C{number % 10}", alpha=0.3, lw=0)
    axis.set(xlabel="time (ps)", ylabel="mean square displacement (Å²)", xlim=(0.0, None), ylim=(0.0, None))
    axis.legend(fontsize=9)
    return _save(figure, path)


def _vibrations(result: MdResult, path: Path) -> Path:
    figure, axes = _figure(1, 2, (11.0, 4.4))
    for number, item in enumerate(result.spectra):
        color = "k" if item.element == "all" else f"C{number % 10}"
        axes[0, 0].plot(item.time, item.vacf, lw=0.9, color=color, label=item.element)
        axes[0, 1].plot(item.frequency, item.dos, lw=1.0, color=color, label=item.element)
    axes[0, 0].axhline(0.0, color="0.6", lw=0.8, zorder=0)
    axes[0, 0].set(
        xlabel="time (fs)", ylabel="velocity autocorrelation", xlim=(0.0, min(result.spectra[0].time[-1], 1500))
    )
    whole = result.spectra[-1]
    share = np.cumsum(whole.dos) / max(whole.dos.sum(), 1e-300)
    top = float(whole.frequency[min(int(np.searchsorted(share, 0.999)) + 1, len(share) - 1)])
    axes[0, 1].set(xlabel="frequency (THz)", ylabel="vibrational density of states (1/THz)", ylim=(0.0, None))
    axes[0, 1].set_xlim(0.0, min(1.15 * top, whole.nyquist))
    axes[0, 1].legend(fontsize=9)
    return _save(figure, path)


def _with_error(value: float, error: float) -> str:
    if not np.isfinite(error) or error <= 0:
        return f"{value:.3g}"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, path: Path) -> Path:
    return write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130))
