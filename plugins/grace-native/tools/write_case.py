"""Write a lowered model and one structure for ``grace_replay`` (cpp/replay.cpp), which runs it without Python.

Usage: ``python tools/write_case.py MODEL.grace CASE.bin fp64|fp32``
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from grace_native.library import couplings
from grace_native.lowering import Lowering

from gracecli.engine.neighbours import build_graph
from gracecli.model.modelfile import load_model


def main(model_path: str, target: str, precision: str) -> None:
    """Write ``[5 sizes][code][data][species][first][neighbour][vectors][energy of the reference]``."""
    model = load_model(model_path)
    code, data = Lowering(model, [0, 1], couplings(), precision, False).build().encode()
    with np.load(Path(model_path).parent / "reference.npz") as file:
        atoms = Atoms(
            numbers=file["alloy/numbers"], positions=file["alloy/positions"], cell=file["alloy/cell"], pbc=True
        ).repeat((2, 2, 1))
        energy = file[f"{Path(model_path).stem}/alloy/energies"].sum() * 4
    graph = build_graph(atoms, model.cutoff, None)
    species = np.array([model.elements.index(s) for s in atoms.symbols], dtype=np.int32)
    first = np.searchsorted(graph.centre, np.arange(len(atoms) + 1)).astype(np.int64)
    number = 8 if precision == "fp64" else 4
    sizes = np.array([len(code), len(data), len(atoms), len(graph.centre), number], dtype=np.int64)
    with Path(target).open("wb") as out:
        arrays = (
            sizes,
            code,
            data,
            species,
            first,
            graph.neighbour.astype(np.int32),
            graph.bond_vector,
            np.array([energy]),
        )
        for array in arrays:
            out.write(np.ascontiguousarray(array).tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
