"""What ``grace elastic`` leaves behind: one JSON document, the reference, a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gracecli.run.elastic import ElasticResult

UNITS = {
    "tensor": "GPa (Voigt, IEEE standard setting)",
    "tensor_given_axes": "GPa (Voigt, Cartesian axes of the structure)",
    "compliance": "1/TPa (Voigt, IEEE standard setting)",
    "stress_based": "GPa",
    "energy_based": "GPa",
    "moduli": "GPa; speeds km/s; debye K; density g/cm^3; poisson, anisotropy, pugh without unit",
    "smallest_eigenvalue": "GPa",
    "difference": "GPa (largest between stress- and energy-based constants)",
    "misfit": "relative to the largest measured derivative",
    "pressure": "GPa (of the reference)",
    "young_modulus": "GPa",
    "strain": "relative",
    "wall_time": "s",
}


def elastic_document(result: ElasticResult) -> dict[str, Any]:
    """Everything of a run that fits in JSON."""
    return {
        "formula": result.atoms.get_chemical_formula(),
        "atoms": len(result.atoms),
        "space_group": result.crystal,
        "model": result.model,
        "settings": result.settings.to_dict(),
        "tensor": result.tensor.tolist(),
        "tensor_given_axes": result.tensor_given.tolist(),
        "compliance": (1e3 * np.linalg.inv(result.tensor)).tolist(),
        "stress_based": None if result.stress_tensor is None else result.stress_tensor.tolist(),
        "energy_based": None if result.energy_tensor is None else result.energy_tensor.tolist(),
        "independent_constants": result.constants,
        "strained_cells": result.strained,
        "moduli": result.moduli.to_dict(),
        "young_modulus": dict(zip(("smallest", "largest"), young_range(result), strict=True)),
        "stable": result.stable,
        "smallest_eigenvalue": result.eigenvalue,
        "soft_strain": result.soft_strain.tolist(),
        "linearity": result.linearity,
        "misfit": result.misfit,
        "difference": result.difference,
        "pressure": result.pressure,
        "reference": {"cell": result.atoms.cell.array.tolist(), "volume": result.atoms.get_volume()},
        "warnings": result.warnings,
        "wall_time": result.wall_time,
    }


def young_range(result: ElasticResult) -> tuple[float, float]:
    """Smallest and largest Young's modulus over all directions, GPa."""
    from gracecli.run.elastic_tensor import young_modulus

    values = young_modulus(result.tensor, sphere(181, 361).reshape(-1, 3))
    return float(values.min()), float(values.max())


def sphere(polar: int, azimuthal: int) -> Any:
    """Unit vectors (polar, azimuthal, 3)."""
    theta, phi = np.meshgrid(np.linspace(0, np.pi, polar), np.linspace(0, 2 * np.pi, azimuthal), indexing="ij")
    return np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)


def write_files(folder: Path, result: ElasticResult, text: str, plots: bool = True) -> None:
    """Fill an empty folder."""
    from gracecli.run.outputs import Target, write_structures

    write_structures(
        Target(folder / "reference.poscar", "vasp", direct=True), [result.atoms], "grace elastic: relaxed reference"
    )
    if result.stable and plots:
        from gracecli.report.elastic import plot_young

        plot_young(result, folder / "young.png")
    (folder / "elastic.json").write_text(text + "\n", encoding="utf-8")
