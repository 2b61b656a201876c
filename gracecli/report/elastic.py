"""Picture of elasticity: Young's modulus over all directions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.files import write_atomically
from gracecli.run.elastic_files import sphere
from gracecli.run.elastic_tensor import young_modulus

if TYPE_CHECKING:
    from gracecli.run.elastic import ElasticResult


def plot_young(result: ElasticResult, path: Path) -> None:
    """The surface whose distance from the origin is Young's modulus, and its sections by the three planes."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    directions = sphere(61, 121)
    modulus = young_modulus(result.tensor, directions.reshape(-1, 3)).reshape(directions.shape[:2])
    points = directions * modulus[..., None]
    figure = Figure(figsize=(10.0, 4.6), layout="constrained")
    panels: Any = figure.subfigures(1, 2)
    left, right = panels
    surface: Any = left.add_subplot(projection="3d")
    low, high = float(modulus.min()), float(modulus.max())
    spread = Normalize(low, high if high > 1.001 * low else low * 1.001 + 1e-9)
    colours = colormaps["viridis"](spread(modulus))
    surface.plot_surface(
        *np.moveaxis(points, -1, 0), facecolors=colours, rstride=1, cstride=1, linewidth=0, shade=False
    )
    limit = 1.05 * high
    surface.set(xlim=(-limit, limit), ylim=(-limit, limit), zlim=(-limit, limit), xlabel="x", ylabel="y", zlabel="z")
    surface.set_box_aspect((1, 1, 1))
    surface.tick_params(labelsize=7)
    surface.locator_params(nbins=5)
    left.colorbar(ScalarMappable(spread, "viridis"), ax=surface, shrink=0.7, label="Young's modulus (GPa)")
    plane: Any = right.add_subplot(projection="polar")
    angle = np.linspace(0, 2 * np.pi, 361)
    zero, one, two = np.zeros_like(angle), np.cos(angle), np.sin(angle)
    planes = {"xy": (one, two, zero), "xz": (one, zero, two), "yz": (zero, one, two)}
    for name, style, (x, y, z) in zip(planes, ("-", "--", ":"), planes.values(), strict=True):
        plane.plot(angle, young_modulus(result.tensor, np.stack([x, y, z], axis=1)), style, label=f"{name} plane")
    plane.set_title("sections (GPa)")
    plane.legend(loc="lower left", bbox_to_anchor=(-0.25, -0.12), frameon=False, fontsize=8)
    figure.suptitle(f"{result.atoms.get_chemical_formula()}, {result.model}, IEEE axes")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150))
