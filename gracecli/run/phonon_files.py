"""What a phonon run leaves behind: files that phonopy reads back, pictures, and one JSON document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gracecli.run.conductivity import Conductivity
    from gracecli.run.phonons import PhononResult
    from gracecli.run.quasiharmonic import QuasiHarmonic

UNITS = {
    "frequency": "THz",
    "lowest": "THz",
    "lowest_commensurate": "THz",
    "acoustic": "THz",
    "tolerance": "THz",
    "residual_force": "eV/Å",
    "sum_rule": "largest violation over largest force constant",
    "decay": "largest force constant at half the supercell over the largest",
    "temperature": "K",
    "free_energy": "kJ/mol (per primitive cell)",
    "entropy": "J/K/mol (per primitive cell)",
    "heat_capacity": "J/K/mol (per primitive cell)",
    "zero_point_energy": "kJ/mol (per primitive cell)",
    "sound_speed": "km/s",
    "energy_change": "eV/atom",
    "volume": "Å^3/atom",
    "thermal_expansion": "1/K (of the volume)",
    "bulk_modulus": "GPa",
    "heat_capacity_p": "J/K/mol of atoms",
    "kappa": "W/m/K (xx yy zz yz xz xy)",
    "average": "W/m/K (mean of the diagonal)",
    "wall_time": "s",
}


def phonon_document(
    result: PhononResult, expansion: QuasiHarmonic | None = None, transport: Conductivity | None = None
) -> dict[str, Any]:
    """Everything of a run that fits in JSON."""
    phonon = result.phonon
    mesh: Any = phonon.mesh
    bands: Any = phonon.band_structure
    thermal: Any = phonon.thermal_properties
    return {
        "formula": result.atoms.get_chemical_formula(),
        "atoms": len(result.atoms),
        "primitive_atoms": len(phonon.primitive),
        "model": result.model,
        "settings": result.settings.to_dict(),
        "supercell_matrix": np.asarray(phonon.supercell_matrix).tolist(),
        "supercell_atoms": len(phonon.supercell),
        "evaluated_supercells": result.displacements,
        "mesh": np.asarray(mesh.mesh_numbers).tolist(),
        "relaxation": None if result.relaxation is None else result.relaxation.to_dict(),
        "residual_force": result.residual_force,
        "sum_rule": result.sum_rule,
        "decay": result.decay,
        "stability": result.stability.to_dict(),
        "gamma": gamma_frequencies(result).tolist(),
        "highest": float(np.asarray(mesh.frequencies).max()),
        "sound_speed": sound_speeds(result),
        "bands": [
            {"q": np.asarray(q).tolist(), "frequency": np.asarray(f).tolist()}
            for q, f in zip(bands.qpoints, bands.frequencies, strict=True)
        ],
        "band_labels": None if bands.labels is None else [plain_label(label) for label in bands.labels],
        "thermal": {
            "temperature": np.asarray(thermal.temperatures).tolist(),
            "free_energy": np.asarray(thermal.free_energy).tolist(),
            "entropy": np.asarray(thermal.entropy).tolist(),
            "heat_capacity": np.asarray(thermal.heat_capacity).tolist(),
        },
        "zero_point_energy": float(np.asarray(thermal.free_energy)[0]),
        "quasiharmonic": None if expansion is None else expansion.to_dict(),
        "thermal_conductivity": None if transport is None else transport.to_dict(),
        "followed": result.followed,
        "warnings": result.warnings,
        "wall_time": result.wall_time,
    }


def gamma_frequencies(result: PhononResult) -> Any:
    """Frequencies at Gamma in THz."""
    from gracecli.run.phonon_stability import modes_at

    return modes_at(result.phonon, [0.0, 0.0, 0.0])[0][0]


def sound_speeds(result: PhononResult) -> list[float]:
    """Smallest and largest speed of sound near Gamma in km/s (over the directions of the band path)."""
    bands: Any = result.phonon.band_structure
    speeds = []
    for points, velocities in zip(bands.qpoints, bands.group_velocities or [], strict=False):
        length = np.linalg.norm(np.asarray(points), axis=1)
        for end, inner in ((0, 1), (-1, -2)):
            if length[end] < 1e-8 and len(length) > 2:
                speeds.append(np.linalg.norm(np.asarray(velocities)[inner][:3], axis=1) * 0.1)  # Å THz -> km/s
    return [] if not speeds else [float(np.min(speeds)), float(np.max(speeds))]


def plain_label(label: str) -> str:
    r"""``$\Gamma$`` -> ``Γ``, ``$\mathrm{X}$`` -> ``X``."""
    text = label.strip("$").replace("\\Gamma", "Γ").replace("\\mathrm", "").replace("\\Sigma", "Σ")
    return text.replace("\\Delta", "Δ").replace("\\Lambda", "Λ").replace("{", "").replace("}", "").replace("\\", "")


def write_files(
    folder: Path,
    result: PhononResult,
    text: str,
    expansion: QuasiHarmonic | None = None,
    transport: Conductivity | None = None,
    plots: bool = True,
) -> None:
    """Fill an empty folder.

    Parameters
    ----------
    folder : Path
    result : PhononResult
    text : str
        The JSON document.
    expansion : QuasiHarmonic, optional
    transport : Conductivity, optional
    plots : bool
        Draw pictures.
    """
    from gracecli.run.outputs import Target, write_structures

    phonon = result.phonon
    phonon.save(folder / "phonopy_params.yaml", settings={"force_constants": True})
    phonon.write_yaml_band_structure(filename=folder / "band.yaml")
    phonon.write_total_dos(filename=folder / "total_dos.dat")
    phonon.write_projected_dos(filename=folder / "projected_dos.dat")
    phonon.write_yaml_thermal_properties(filename=folder / "thermal_properties.yaml")
    write_structures(
        Target(folder / "reference.poscar", "vasp", direct=True), [result.atoms], "grace phonons: relaxed reference"
    )
    if plots:
        _draw(folder, result, expansion, transport)
    (folder / "phonons.json").write_text(text + "\n", encoding="utf-8")


def _draw(folder: Path, result: PhononResult, expansion: QuasiHarmonic | None, transport: Conductivity | None) -> None:
    from gracecli.report.phonons import plot_bands, plot_conductivity, plot_dos, plot_expansion, plot_thermal

    plot_bands(result, folder / "band.png")
    plot_dos(result, folder / "dos.png")
    plot_thermal(result, folder / "thermal.png")
    if expansion is not None:
        plot_expansion(expansion, folder / "expansion.png")
    if transport is not None:
        plot_conductivity(transport, folder / "kappa.png")
