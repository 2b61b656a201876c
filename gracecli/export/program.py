"""The published calling convention around a network: flat bonds in, energies, forces and virial out.

Equations (checkpoint format, section 4; b: i -> j runs over bonds)::

    f_b = -dE/dr_b,   F_k = sum_(b: j=k) f_b - sum_(b: i=k) f_b,   W_xy = sum_b f_b,y r_b,x

=======  ===================  =========================================================
symbol   tensor               shape, unit
=======  ===================  =========================================================
r_b      ``bond_vector``      (B, 3) Å
i, j     ``ind_i, ind_j``     (B,)
E_a      ``atomic_energy``    (N, 1) eV, zero for padded atoms
F_k      ``total_f``          (N, 3) eV/Å
W        ``virial``           (6,) eV, xx yy zz xy xz yz
f_b      ``z_pair_f``         (B, 3) eV/Å
=======  ===================  =========================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from gracecli.model.network import BatchTensors, Network

INPUTS: dict[str, tuple[tuple[int | None, ...], str]] = {
    "atomic_mu_i": ((None,), "int32"),
    "batch_tot_nat": ((), "int32"),
    "batch_tot_nat_real": ((), "int32"),
    "bond_vector": ((None, 3), "float64"),
    "ind_i": ((None,), "int32"),
    "ind_j": ((None,), "int32"),
    "mu_i": ((None,), "int32"),
    "mu_j": ((None,), "int32"),
}
"""Shapes and types by name; ``batch_tot_nat`` and ``mu_i``, ``mu_j`` follow from the others and are not read."""


def input_specs(atoms: int | None = None, bonds: int | None = None) -> dict[str, tf.TensorSpec]:
    """Specifications of the inputs; None leaves a size open."""
    sizes = {"atomic_mu_i": atoms}
    return {
        name: tf.TensorSpec((sizes.get(name, bonds), *shape[1:]) if shape else (), dtype, name=name)
        for name, (shape, dtype) in INPUTS.items()
    }


def atomic_energies(network: Network, inputs: Mapping[str, tf.Tensor], bond_vector: tf.Tensor) -> tf.Tensor:
    """Energies (N,) in eV of flat bonds: one bond per row, all elements of the model."""
    species = inputs["atomic_mu_i"]
    n_atoms = tf.shape(species)[0]
    batch = BatchTensors(
        bond_vector=bond_vector[:, None, :],
        row_centre=inputs["ind_i"],
        neighbour=inputs["ind_j"][:, None],
        species=species,
        elements=tf.range(len(network.blueprint.elements)),
        atom_mask=tf.cast(tf.range(n_atoms) < inputs["batch_tot_nat_real"], tf.float64),
    )
    return network.atomic_energies(batch)


def compute_energy(network: Network, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Atomic energies alone."""
    return {"atomic_energy": atomic_energies(network, inputs, inputs["bond_vector"])[:, None]}


def compute(network: Network, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Energies, forces, virial and pair forces."""
    r = inputs["bond_vector"]
    with tf.GradientTape() as tape:
        tape.watch(r)
        energies = atomic_energies(network, inputs, r)
    f = -tape.gradient(energies, r, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    n_atoms = tf.shape(inputs["atomic_mu_i"])[0]
    forces = tf.math.unsorted_segment_sum(f, inputs["ind_j"], n_atoms) - tf.math.unsorted_segment_sum(
        f, inputs["ind_i"], n_atoms
    )
    virial = tf.matmul(r, f, transpose_a=True)
    voigt = [virial[0, 0], virial[1, 1], virial[2, 2], virial[0, 1], virial[0, 2], virial[1, 2]]
    return {
        "atomic_energy": energies[:, None],
        "total_energy": tf.reshape(tf.reduce_sum(energies), (1, 1)),
        "total_f": forces,
        "virial": tf.stack(voigt),
        "z_pair_f": f,
    }


def trackable_tree(values: Mapping[str, Any]) -> tf.Module:
    """Objects whose attribute names spell the paths ``a/b/c`` of the values (numbers are names too)."""
    root = tf.Module()
    for path, value in values.items():
        *folders, leaf = path.split("/")
        node = root
        for name in folders:
            if not hasattr(node, name):
                setattr(node, name, tf.Module())
            node = getattr(node, name)
        setattr(node, leaf, value)
    return root
