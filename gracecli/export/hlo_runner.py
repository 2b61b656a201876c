"""Run an exported XLA program on JAX: energies, forces and stress of a structure, without TensorFlow or gracecli.

    python run_on_jax.py STRUCTURE            # needs jax, numpy, ase

From Python:    program = Program(folder);  energies, forces, virial = program(numbers, centre, neighbour, bond_vector)

Bonds are directed, each pair twice, ``bond_vector = r[neighbour] + shift - r[centre]`` in Å, shorter than the cutoff.
JAX has no public function that compiles serialized HLO; what is used here is checked with JAX 0.10.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

FAR = 1.0e3  # Å, length of a padded bond, beyond every cutoff


def load_hlo(serialized: bytes) -> Callable[..., list[Any]]:
    """Compile a serialized HloModuleProto for the first JAX device; returns a callable on arrays."""
    from jax._src.lib import xla_client

    module = xla_client._xla.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(serialized))
    device = jax.devices()[0]
    program = device.client.compile_and_load(module, xla_client.DeviceList((device,)), xla_client.CompileOptions())

    def call(*arrays: Any) -> list[Any]:
        placed = [a if isinstance(a, jax.Array) else jax.device_put(np.asarray(a), device) for a in arrays]
        outputs = program.execute_sharded(placed).disassemble_into_single_device_arrays()
        return [shards[0] for shards in outputs]

    return call


class Program:
    """An exported folder."""

    def __init__(self, folder: str | Path) -> None:
        atomic_numbers = _atomic_numbers()
        folder = Path(folder)
        self.about = json.loads((folder / "program.json").read_text(encoding="utf-8"))
        self.index = {atomic_numbers[symbol]: i for i, symbol in enumerate(self.about["elements"])}
        with np.load(folder / self.about["further_arguments"], allow_pickle=False) as data:
            self.weights = [jax.device_put(data[str(k)]) for k in range(len(data.files))]
        self.call = load_hlo((folder / "program.hlo.pb").read_bytes())

    def pack(self, numbers: Any, centre: Any, neighbour: Any, bond_vector: Any) -> tuple[Any, ...]:
        """Padded arguments: bonds in rows of one centre each."""
        n_atoms, n_rows, width = (self.about[key] for key in ("atoms", "rows", "row_width"))
        if len(numbers) > n_atoms or len(centre) > self.about["bonds"]:
            raise ValueError(f"{len(numbers)} atoms and {len(centre)} bonds do not fit into this program")
        order = np.argsort(centre, kind="stable")
        centre, neighbour, bond_vector = centre[order], neighbour[order], bond_vector[order]
        counts = np.bincount(centre, minlength=len(numbers))
        rows_of_atom = -(-counts // width)
        first_row = np.concatenate([[0], np.cumsum(rows_of_atom)])
        first_bond = np.concatenate([[0], np.cumsum(counts)])
        slot = first_row[centre] * width + np.arange(len(centre)) - first_bond[centre]
        vectors = np.zeros((n_rows * width, 3))
        vectors[:, 0] = FAR
        vectors[slot] = bond_vector
        ends = np.full(n_rows * width, n_atoms - 1, dtype=np.int32)
        ends[slot] = neighbour
        row_centre = np.full(n_rows, n_atoms - 1, dtype=np.int32)
        row_centre[: first_row[-1]] = np.repeat(np.arange(len(numbers)), rows_of_atom)
        species = np.zeros(n_atoms, dtype=np.int32)
        species[: len(numbers)] = [self.index[int(z)] for z in numbers]
        mask = (np.arange(n_atoms) < len(numbers)).astype(float)
        return vectors.reshape(n_rows, width, 3), row_centre, ends.reshape(n_rows, width), species, mask

    def __call__(self, numbers: Any, centre: Any, neighbour: Any, bond_vector: Any) -> tuple[Any, Any, Any]:
        """Energies (N,) in eV, forces (N, 3) in eV/Å, virial (6,) in eV (stress times volume)."""
        arguments = self.pack(np.asarray(numbers), np.asarray(centre), np.asarray(neighbour), np.asarray(bond_vector))
        energies, forces, virial = (np.asarray(value) for value in self.call(*arguments, *self.weights))
        return energies[: len(numbers)], forces[: len(numbers)], virial


def _atomic_numbers() -> dict[str, int]:
    text = (
        "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
        "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir "
        "Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl "
        "Mc Lv Ts Og"
    )
    return {symbol: z for z, symbol in enumerate(text.split(), start=1)}


def evaluate_graphs(asked: str, answered: str) -> None:
    """Evaluate the graphs of one file into another."""
    program = Program(Path(__file__).parent)
    results = {}
    with np.load(asked, allow_pickle=False) as data:
        for k in range(len([name for name in data.files if name.startswith("numbers")])):
            fields = (data[f"{name}{k}"] for name in ("numbers", "centre", "neighbour", "bond_vector"))
            for name, value in zip(("energies", "forces", "virial"), program(*fields), strict=True):
                results[f"{name}{k}"] = value
    np.savez(answered, allow_pickle=False, **results)


def main() -> None:
    """Print energy, forces and stress of a structure."""
    from ase.io import read
    from ase.neighborlist import neighbor_list

    atoms = read(sys.argv[1])
    program = Program(Path(__file__).parent)
    cutoff, pairs = program.about["cutoff"], program.about["pair_cutoffs"]
    centre, neighbour, vectors = neighbor_list("ijD", atoms, cutoff)
    if pairs is not None:
        species = np.array([program.index[int(z)] for z in atoms.numbers])
        near = np.linalg.norm(vectors, axis=1) < np.asarray(pairs)[species[centre], species[neighbour]]
        centre, neighbour, vectors = centre[near], neighbour[near], vectors[near]
    energies, forces, virial = program(atoms.numbers, centre, neighbour, vectors)
    print(f"energy {energies.sum():.9f} eV")
    print("forces (eV/Å)", np.array2string(forces, precision=6, suppress_small=True), sep="\n")
    if atoms.cell.rank == 3:
        stress = virial / atoms.get_volume()
        print("stress (eV/Å³, xx yy zz yz xz xy)", np.array2string(stress, precision=8), sep="\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--graphs"]:
        evaluate_graphs(*sys.argv[2:4])
    elif len(sys.argv) == 2:
        main()
    else:
        sys.exit(__doc__)
