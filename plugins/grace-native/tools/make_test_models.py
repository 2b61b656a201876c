"""Make the small models of the tests and their reference numbers with the TensorFlow engine (needs TensorFlow).

Random weights; every node type the native engine evaluates occurs. Run: ``python tools/make_test_models.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from gracecli.engine.neighbours import build_graph
from gracecli.engine.tensorflow import TensorFlowEngine
from gracecli.model import blueprint as bp
from gracecli.model.modelfile import Model, save_model
from gracecli.model.presets import FULL, NATURAL, SCALAR, initial_weights, preset

DATA = Path(__file__).parents[1] / "tests" / "data"
ELEMENTS = ("Al", "Cu")


def three_layers() -> bp.Blueprint:
    """A small model of the classes that three-layer models use, and of rarely used ones."""
    nodes: list[bp.Node] = [
        bp.Harmonics(name="Y", lmax=2),
        bp.Embedding(name="Z", elements=ELEMENTS, size=3),
        bp.ChemicalDensity(
            name="A1", harmonics="Y", embedding="Z", indicator="Z", n_radial=5, n_basis=4, cutoff=4.5, lmax=2,
            hidden=(6, 5), average_neighbours=8.0,
        ),
        bp.Product(name="P1", left="A1", right="A1", lmax=2, Lmax=2, keep_parity=NATURAL, mode="cp_l", rank=6),
        bp.Reduce(name="I1", sources=("A1", "P1"), lmax=(2, 2), n_out=5, allowed=NATURAL),
        bp.EquivariantNorm(name="N1", source="I1", center=True),
        bp.Gate(name="G1", source="N1", hidden=4, mix_channels=3),
        bp.ChemicalDensity(
            name="A2", harmonics="Y", embedding="Z", indicator="G1", n_radial=5, n_basis=4, cutoff=4.5, lmax=2,
            hidden=(6,), average_neighbours=8.0, Lmax=2, keep_parity=FULL, normalize=True,
        ),
        bp.Reduce(name="I2", sources=("A2",), lmax=(2,), n_out=5, allowed=FULL),
        bp.Product(
            name="P2", left="I2", right="I2", lmax=2, Lmax=2, keep_parity=NATURAL, mode="cp_lL", rank=4, use_S=True,
            n_out=5,
        ),
        bp.Mix(name="M2", left="P2", right="I2", n_out=5, left_weights=False, output_norm=True),
        bp.EquivariantNorm(name="N2", source="I2", split=True),
        bp.ChemicalDensity(
            name="A3", harmonics="Y", embedding="Z", indicator="N2", n_radial=5, n_basis=4, cutoff=4.5, lmax=1,
            hidden=(6,), average_neighbours=8.0, Lmax=1, keep_parity=NATURAL,
        ),
        bp.Reduce(name="r1", sources=("A1", "P1"), lmax=(0, 0), n_out=4, allowed=SCALAR, element_dependent=True),
        bp.Reduce(name="r3", sources=("P1", "M2", "A3"), lmax=(0, 0, 0), n_out=4, allowed=SCALAR, output_norm=True),
        bp.InvariantNorm(name="n1", source="r1", mode="only_nonlin"),
        bp.InvariantNorm(name="n3", source="r3", mode="full"),
        bp.InitialEnergy(name="E0"),
        bp.MLPReadout(name="E1", sources=("n1", "n3"), hidden=(5,), activation="silu"),
        bp.BranchReadout(name="E2", sources=("r1", "r3"), hidden=(3,), activation="tanh", shared=True),
        bp.ScaleShift(name="E3", scale=1.3, shift=0.2, element_shifts=(-1.0, -2.0)),
        bp.ElementShift(name="E4", embedding="Z"),
    ]  # fmt: skip
    return bp.Blueprint(tuple(nodes))


def blueprints() -> dict[str, bp.Blueprint]:
    """All test models."""
    common = {"cutoff": 4.5, "n_basis": 4, "hidden": (8,), "embedding": 4, "average_neighbours": 12.0}
    cutoffs = {"AlAl": 4.5, "AlCu": 4.0, "CuCu": 3.6}
    return {
        "fs": preset("fs-medium", ELEMENTS, **common, lmax=(3, 3, 2, 2), n_radial=(4, 3, 3, 2)),
        "1l": preset("1l-medium", ELEMENTS, **common, n_radial=(4,), n_product=(5,), n_density=3, scale=1.1),
        "1l-first": preset("1l-small", ELEMENTS, **common, lmax=(3,), n_radial=(4,), n_product=(4,), n_density=3),
        "1l-pairs": preset(
            "1l-medium", ELEMENTS, **common, lmax=(2,), n_radial=(3,), n_product=(3,), n_density=3, cutoffs=cutoffs,
            zbl_cutoffs={"AlAl": 1.8, "AlCu": 2.4, "CuCu": 2.4},
        ),
        "2l": preset(
            "2l-large", ELEMENTS, **common, lmax=(3, 2), n_radial=(4, 3), n_product=(4, 5), n_density=3,
            indicator_lmax=2,
        ),
        "2l-first": preset("2l-small", ELEMENTS, **common, lmax=(2, 2), n_radial=(3, 3), n_product=(3, 3), n_density=3),
        "3l": three_layers(),
    }  # fmt: skip


def structures() -> dict[str, Atoms]:
    """A crystal of two elements, a small cell, a slab, a molecule, an isolated atom."""
    rng = np.random.default_rng(1)
    alloy = bulk("Cu", cubic=True, a=3.8).repeat((2, 1, 1))
    alloy.symbols[::3] = "Al"
    alloy.set_cell(alloy.cell.array @ (np.eye(3) + rng.normal(scale=0.03, size=(3, 3))), scale_atoms=True)
    slab = bulk("Al", cubic=True).repeat((1, 1, 2))
    slab.center(vacuum=5.0, axis=2)
    slab.pbc = (True, True, False)
    trimer = molecule("H2O")
    trimer.symbols[:] = ["Al", "Cu", "Cu"]
    trimer.positions *= 2.1
    found = {"alloy": alloy, "cell": bulk("Al"), "slab": slab, "trimer": trimer, "atom": Atoms("Cu")}
    for atoms in found.values():
        atoms.rattle(0.08, rng=rng)
    return found


def main() -> None:
    """Write models and numbers."""
    DATA.mkdir(exist_ok=True)
    numbers: dict[str, np.ndarray] = {}
    atoms_of = structures()
    for name, atoms in atoms_of.items():
        numbers[f"{name}/numbers"], numbers[f"{name}/positions"] = atoms.numbers, atoms.positions
        numbers[f"{name}/cell"], numbers[f"{name}/pbc"] = atoms.cell.array, atoms.pbc
    for name, blueprint in blueprints().items():
        rng = np.random.default_rng(len(name))
        weights = initial_weights(blueprint, rng)
        for key, value in weights.items():
            if (
                key.endswith(("/b", "at_shifts", "l0_bias", "gate_b1", "gate_b2", "scale", "affine_weight"))
                and "ZBL" not in key
            ):
                weights[key] = value + 0.3 * rng.standard_normal(value.shape)
        model = Model(blueprint, weights, {"name": name})
        save_model(DATA / f"{name}.grace", model, overwrite=True)
        engine = TensorFlowEngine(model, xla=False)
        graphs = [build_graph(a, engine.cutoff, engine.pair_cutoff) for a in atoms_of.values()]
        for key, result in zip(atoms_of, engine.evaluate(graphs), strict=True):
            numbers[f"{name}/{key}/energies"] = result.energies
            numbers[f"{name}/{key}/forces"], numbers[f"{name}/{key}/stress"] = result.forces, result.stress
    np.savez_compressed(DATA / "reference.npz", **numbers)


if __name__ == "__main__":
    main()
