"""Space group of a structure by spglib, for the result card and for warnings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ase import Atoms
from ase.utils import spglib_new_errorhandling

#: Distance tolerance of spglib (``symprec``) in Å. A structure relaxed to fmax 0.02 eV/Å has atoms a few 0.001 Å off
#: their ideal sites, so a tighter value would not see the symmetry that was found.
SYMMETRY_TOLERANCE = 0.01


@dataclass(frozen=True)
class SpaceGroup:
    """A space group, or why there is none.

    Attributes
    ----------
    number : int or None
        Number in the International Tables; None where no group is defined.
    symbol : str
        International short symbol, or "none (not periodic)" and the like.
    operations : int
        Order of the point group times the number of primitive cells in the given cell: what it has of symmetry,
        comparable before and after.
    """

    number: int | None
    symbol: str
    operations: int

    def __str__(self) -> str:
        return self.symbol if self.number is None else f"{self.symbol} ({self.number})"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"number": self.number, "symbol": self.symbol, "operations": self.operations}


def space_group(atoms: Atoms, tolerance: float = SYMMETRY_TOLERANCE) -> SpaceGroup:
    """Space group of ``atoms`` with spglib's distance ``tolerance`` in Å."""
    import spglib

    periodic = int(sum(atoms.pbc))
    if periodic == 0:
        return SpaceGroup(None, "none (not periodic)", 0)
    if periodic < 3:
        return SpaceGroup(None, f"none (periodic in {periodic} of 3 directions)", 0)
    cell = (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers)
    dataset = spglib_new_errorhandling(spglib.get_symmetry_dataset)(cell, symprec=tolerance)
    if dataset is None:
        return SpaceGroup(None, "unknown (spglib found none)", 0)
    database = spglib_new_errorhandling(spglib.get_symmetry_from_database)(dataset.hall_number)
    point_group = {rotation.tobytes() for rotation in database["rotations"]}
    cells = len(atoms) // len(set(dataset.mapping_to_primitive.tolist()))
    return SpaceGroup(int(dataset.number), str(dataset.international), len(point_group) * cells)
