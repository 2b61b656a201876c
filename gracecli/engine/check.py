"""Is a structure fit for evaluation? Says in one line what is wrong, with the atoms concerned.

Run before every evaluation by the calculator, and by runs before they start, so that a bad file is an input error
(exit 4) and not a diverging relaxation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from ase.data import chemical_symbols

from gracecli.engine.base import Graph
from gracecli.engine.bonds import cell_volume, check_coordinates
from gracecli.engine.neighbours import build_graph
from gracecli.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

MIN_DISTANCE = 0.3
"""Å; less than half of the shortest bond there is (H2, 0.74 Å)."""

ModelsCovering = Callable[[Sequence[str]], Sequence[str]]


def check_structure(
    atoms: Atoms,
    elements: Sequence[str] | None = None,
    *,
    min_distance: float = MIN_DISTANCE,
    models_covering: ModelsCovering | None = None,
) -> None:
    """Raise unless the structure can be evaluated.

    Parameters
    ----------
    atoms : ase.Atoms
    elements : sequence of str, optional
        Symbols the model covers; None leaves that unchecked.
    min_distance : float
        Atoms closer than this (Å) are an error; 0 leaves it unchecked.
    models_covering : callable, optional
        Symbols of the structure -> names of models that cover them all, for the hint.

    Raises
    ------
    InputError
        No atoms; positions or cell not finite; a periodic cell without volume; elements the model does not cover;
        atoms on top of each other.
    """
    check_contents(atoms, elements, min_distance=min_distance, models_covering=models_covering)
    if min_distance > 0:
        check_distances(atoms, build_graph(atoms, min_distance), min_distance)


def check_contents(
    atoms: Atoms,
    elements: Sequence[str] | None = None,
    *,
    min_distance: float = MIN_DISTANCE,
    models_covering: ModelsCovering | None = None,
) -> None:
    """Check everything of :func:`check_structure` that needs no neighbour list."""
    if len(atoms) == 0:
        raise InputError("the structure has no atoms", "check the file and its format")
    check_coordinates(atoms.positions, atoms.numbers)
    if not np.isfinite(atoms.cell.array).all():
        raise InputError(f"the cell is not finite: {atoms.cell.array.tolist()} Å", "check the input file")
    if elements is not None:
        symbols = sorted(chemical_symbols[z] for z in np.flatnonzero(np.bincount(atoms.numbers)))
        missing = [symbol for symbol in symbols if symbol not in elements]
        if missing:
            raise InputError(_not_covered(missing, elements), _who_covers(symbols, models_covering))
    # No packing of spheres is denser than fcc, d^3/sqrt(2) each: below it atoms overlap for certain, and the search for
    # bonds in a collapsed cell would go through its images for hours.
    if atoms.pbc.all():
        volume = cell_volume(atoms.cell.array) / len(atoms)
        if volume < min_distance**3 / np.sqrt(2.0):
            raise InputError(
                f"the periodic cell has only {volume:.2g} Å^3 per atom, its atoms overlap",
                "check the cell vectors and their units (Å)",
            )


def check_distances(atoms: Atoms, graph: Graph, min_distance: float = MIN_DISTANCE) -> None:
    """Raise :class:`InputError` naming the closest two atoms if they are nearer than ``min_distance`` (Å).

    Parameters
    ----------
    atoms : ase.Atoms
        For the names.
    graph : Graph
        Its bonds, of a cutoff not below ``min_distance``.
    min_distance : float
        Å.
    """
    if graph.shortest is not None and graph.shortest >= min_distance:
        return
    squared = np.einsum("bx,bx->b", graph.bond_vector, graph.bond_vector)
    close = int(np.count_nonzero(squared < min_distance**2))
    if close == 0:
        return
    bond = int(np.argmin(squared))
    i, j = int(graph.centre[bond]), int(graph.neighbour[bond])
    symbols = atoms.symbols
    ends = (
        f"atom {i + 1} ({symbols[i]}) and its periodic image"
        if i == j
        else f"atoms {min(i, j) + 1} ({symbols[min(i, j)]}) and {max(i, j) + 1} ({symbols[max(i, j)]})"
    )
    more = f"; {close // 2} pairs in all" if close > 2 else ""
    raise InputError(
        f"{ends} are {np.sqrt(squared[bond]):.3g} Å apart, closer than {min_distance:g} Å{more}",
        "remove duplicate atoms, or check the cell and the units of the file",
    )


def _not_covered(missing: Sequence[str], elements: Sequence[str]) -> str:
    known = ", ".join(elements) if len(elements) <= 20 else f"{len(elements)} elements"
    return f"the model does not cover {', '.join(missing)}; it covers {known}"


def _who_covers(symbols: Sequence[str], models_covering: ModelsCovering | None) -> str:
    names = list(models_covering(symbols)) if models_covering is not None else []
    if names:
        return f"models that cover {', '.join(symbols)}: {', '.join(names)}"
    return "choose another model with -m; `grace models list` shows their elements"
