"""What ``grace eos`` leaves behind: one JSON document, the points as CSV, the reference, a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gracecli.run.eos import EosResult

UNITS = {
    "energy": "eV/atom",
    "volume": "Å^3/atom",
    "bulk_modulus": "GPa",
    "errors": "standard errors of energy, volume, bulk modulus, its derivative",
    "residual": "eV/atom (root mean square)",
    "volumes": "Å^3/atom",
    "energies": "eV/atom",
    "pressures": "GPa (of the model's stress)",
    "bulk_from_stress": "GPa (slope of the model's pressure at V0)",
    "pressure_difference": "GPa (largest, curve against the model's stress)",
    "lattice": "Å, degree (reference scaled to the volume of the minimum)",
    "strain": "relative change of the volume",
    "wall_time": "s",
}


def eos_document(result: EosResult) -> dict[str, Any]:
    """Everything of a run that fits in JSON."""
    return {
        "formula": result.atoms.get_chemical_formula(),
        "atoms": len(result.atoms),
        "space_group": result.space_group,
        "model": result.model,
        "settings": result.settings.to_dict(),
        "curve": result.curve.to_dict(),
        "other": result.other.to_dict(),
        "lattice": result.lattice.tolist(),
        "volumes": result.volumes.tolist(),
        "energies": result.energies.tolist(),
        "pressures": result.pressures.tolist(),
        "bulk_from_stress": result.bulk_from_stress,
        "pressure_difference": result.pressure_difference,
        "warnings": result.warnings,
        "wall_time": result.wall_time,
    }


def write_files(folder: Path, result: EosResult, text: str, plots: bool = True) -> None:
    """Fill an empty folder."""
    from gracecli.run.outputs import Target, write_structures

    write_structures(
        Target(folder / "reference.poscar", "vasp", direct=True), [result.atoms], "grace eos: relaxed reference"
    )
    rows = ["volume_A3_per_atom,energy_eV_per_atom,fitted_energy_eV_per_atom,pressure_GPa,fitted_pressure_GPa"]
    fitted = result.curve.energies(result.volumes), result.curve.pressures(result.volumes)
    for v, e, f, p, q in zip(result.volumes, result.energies, fitted[0], result.pressures, fitted[1], strict=True):
        rows.append(f"{v:.8f},{e:.10f},{f:.10f},{p:.6f},{q:.6f}")
    (folder / "eos.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    if plots:
        from gracecli.report.eos import plot_eos

        plot_eos(result, folder / "eos.png")
    (folder / "eos.json").write_text(text + "\n", encoding="utf-8")
