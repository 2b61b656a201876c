"""Picture of an equation of state: energies, pressures, what the fit leaves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gracecli.files import write_atomically
from gracecli.run.eos import sampled

if TYPE_CHECKING:
    from gracecli.run.eos import EosResult


def plot_eos(result: EosResult, path: Path) -> None:
    """Energy and pressure against volume with the fitted curve; residuals below."""
    from matplotlib.figure import Figure

    curve, v = result.curve, result.volumes
    smooth = sampled(v.tolist())
    figure = Figure(figsize=(9.0, 5.0), layout="constrained")
    (energy, pressure), (rest, rest_pressure) = figure.subplots(2, 2, sharex=True, height_ratios=[3, 1])
    energy.plot(smooth, 1e3 * (curve.energies(smooth) - curve.energy), color="C0", label=_title(curve.equation))
    energy.plot(v, 1e3 * (result.energies - curve.energy), "o", color="0.2", markersize=4, label=result.model)
    energy.axvline(curve.volume, color="0.8", linewidth=0.8, zorder=0)
    energy.set(
        ylabel="E - E₀ (meV/atom)", title=f"B₀ = {curve.bulk_modulus:.1f} GPa, B₀' = {curve.bulk_derivative:.2f}"
    )
    energy.legend(frameon=False)
    pressure.plot(smooth, curve.pressures(smooth), color="C0", label="-dE/dV of the fit")
    pressure.plot(v, result.pressures, "o", color="0.2", markersize=4, label="stress of the model")
    pressure.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
    pressure.set(ylabel="pressure (GPa)", title=f"V₀ = {curve.volume:.3f} Å³/atom")
    pressure.legend(frameon=False)
    rest.plot(v, 1e3 * (result.energies - curve.energies(v)), "o-", color="0.2", markersize=3, linewidth=0.8)
    rest_pressure.plot(v, result.pressures - curve.pressures(v), "o-", color="0.2", markersize=3, linewidth=0.8)
    for axis, unit in ((rest, "meV/atom"), (rest_pressure, "GPa")):
        axis.axhline(0.0, color="0.7", linewidth=0.8, zorder=0)
        axis.set(xlabel="volume (Å³/atom)", ylabel=f"residual\n({unit})")
    figure.suptitle(f"{result.atoms.get_chemical_formula()}, {result.model}")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150))


def _title(equation: str) -> str:
    return "-".join(word.capitalize() for word in equation.split("-"))
