"""Initial weights: the variables a blueprint asks for, drawn in blueprint order from one generator.

Values (spec section 11): linear maps with explicit 1/sqrt(fan_in), embeddings and mixing weights N(0, 1); crad N with
variance 2 / (n_radial + n_basis); norm scales 1; element shifts, gates and biases 0; the last layer of a readout small,
so that a new model starts at its reference energies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gracecli.model.blueprint import ZBL, Blueprint, ElementShift, PairRadialBasis, RadialBasis, ScaleShift
from gracecli.model.presets import pair_matrix

READOUT_SCALE = 0.1


class _Recorder(Mapping[str, np.ndarray]):
    """Weights that come into being when a network asks for them, in the shape it asks for."""

    def __init__(self, blueprint: Blueprint, rng: np.random.Generator) -> None:
        self.blueprint = blueprint
        self.rng = rng
        self.made: dict[str, np.ndarray] = {}
        self.optional = self._constants()

    def _constants(self) -> dict[str, np.ndarray]:
        """Variables with fixed values, present only where the blueprint calls for them."""
        fixed: dict[str, np.ndarray] = {}
        elements = self.blueprint.elements
        for node in self.blueprint:
            if isinstance(node, PairRadialBasis):
                matrix = pair_matrix(node.cutoffs or {}, elements, node.cutoff)
                fixed[f"{node.name}/bond_cutoff_map"] = matrix.reshape(-1, 1)
            elif isinstance(node, ZBL):
                fixed[f"{node.name}/delta_cutoff"] = np.full((1, 1), node.delta_cutoff)
                if isinstance(node.cutoffs, dict):
                    matrix = pair_matrix(node.cutoffs, elements, 0.0)
                    fixed[f"{node.name}/bond_zbl_cutoff_map"] = matrix.reshape(-1, 1)
                else:
                    fixed[f"{node.name}/cutoff"] = np.full((1, 1), float(node.cutoffs or 0.0))
            elif isinstance(node, RadialBasis):
                fixed[f"{node.name}/rc"] = np.asarray(node.cutoff, dtype=float)
                if node.basis == "Gaussian":
                    grid = np.linspace(node.minimum, node.cutoff, node.n_functions)
                    spacing = node.initial_gamma * (grid[1] - grid[0])
                    fixed[f"{node.name}/basis_function/grid"] = grid[None]
                    fixed[f"{node.name}/basis_function/scale"] = np.asarray(-0.5 / spacing**2)
        return fixed

    def draw(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """Initial value of one variable; an open axis runs over the elements."""
        full = tuple(len(self.blueprint.elements) if s is None else s for s in shape)
        node_name, path = name.split("/", 1)
        node: Any = self.blueprint.by_name[node_name]
        leaf = path.rsplit("/", 1)[-1]
        if isinstance(node, ElementShift | ScaleShift) or leaf in ("b", "l0_bias", "gate_bias", "gate_b1", "gate_b2"):
            return np.zeros(full)
        if leaf in ("gamma", "scale", "lin_scale", "affine_weight") or path.startswith(("scales/", "alpha/")):
            return np.ones(full)
        value = self.rng.standard_normal(full)
        if leaf == "crad":
            return value * np.sqrt(2.0 / (full[0] + full[2]))
        if node.kind in ("MLPReadout", "BranchReadout") and full[-1] == 1:
            return value * READOUT_SCALE
        return value

    def request(self, name: str, shape: tuple[int | None, ...]) -> None:
        """Make a variable unless it exists."""
        if name not in self.made:
            self.made[name] = self.optional[name] if name in self.optional else self.draw(name, shape)

    def __contains__(self, name: object) -> bool:
        return name in self.made or name in self.optional

    def __getitem__(self, name: str) -> np.ndarray:
        return self.made[name]

    def __iter__(self) -> Any:
        return iter(self.made)

    def __len__(self) -> int:
        return len(self.made)


def drawn(
    blueprint: Blueprint, shapes: Mapping[str, tuple[int | None, ...]], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Initial weights of variables whose names and shapes are known, in this order, without TensorFlow."""
    recorder = _Recorder(blueprint, rng)
    for name, shape in shapes.items():
        recorder.request(name, shape)
    return dict(recorder.made)


def initialise(blueprint: Blueprint, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Initial weights of a blueprint; the same generator state gives the same weights."""
    from gracecli.quiet import import_tensorflow

    import_tensorflow()  # before the first block imports it
    from gracecli.model.network import Network

    recorder = _Recorder(blueprint, rng)
    Network(blueprint, recorder)
    return dict(recorder.made)
