"""Blueprint nodes -> published argument mappings: the inverse of :mod:`gracecli.model.upstream.translate`.

What a node says and no published class can is an error that names the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from gracecli.errors import ModelError
from gracecli.model import blueprint as bp
from gracecli.model.upstream.translate import translate

COMPUTE = "tensorpotential.instructions.compute"
OUTPUT = "tensorpotential.instructions.output"
LENGTH, DIRECTION = "BondLength", "ScaledBondVector"
PLAIN_ACTIVATIONS = ("tanh", "silu", "sigmoid")

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Surroundings:
    """What an instruction says besides its node: the elements, and the instruction that starts the energy."""

    elements: tuple[str, ...]
    target: str | None

    @property
    def element_map(self) -> dict[str, int]:
        """Symbol -> index."""
        return {element: index for index, element in enumerate(self.elements)}

    def types(self, dependent: bool) -> int | None:
        """``number_of_atom_types``, given only where weights depend on the element."""
        return len(self.elements) if dependent else None


def describe_blueprint(blueprint: bp.Blueprint) -> dict[str, Arguments]:
    """The mapping ``instructions`` of a model.yaml, in execution order.

    Raises
    ------
    ModelError
        A node or option without published counterpart; names the node.
    """
    initial = blueprint.of_type(bp.InitialEnergy)
    around = Surroundings(blueprint.elements, initial[0].name if initial else None)
    taken = {LENGTH, DIRECTION} & set(blueprint.by_name)
    if taken:
        raise ModelError(f"node {taken.pop()!r} has a name that published models keep for geometry", "rename it")
    described: dict[str, Arguments] = {
        LENGTH: {"__cls__": f"{COMPUTE}.BondLength", "instruction_with_bonds": None, "name": LENGTH},
        DIRECTION: {
            "__cls__": f"{COMPUTE}.ScaledBondVector", "bonds": None, "name": DIRECTION, "bond_length": reference(LENGTH)
        },
    }  # fmt: skip
    for node in blueprint:
        cls, arguments = describe(node, around)
        module = OUTPUT if isinstance(node, bp.OutputNode) else COMPUTE
        entry = {"__cls__": f"{module}.{cls}", "name": node.name, **arguments}
        if isinstance(node, bp.OutputNode):
            entry["l"] = 0
            if not isinstance(node, bp.InitialEnergy):
                if around.target is None:
                    raise ModelError(f"node {node.name!r} has no energy to add to: no InitialEnergy node before it")
                entry["target"] = reference(around.target)
        if translate(node.name, entry) != node:
            raise ModelError(
                f"node {node.name!r} ({node.kind}) has options that the published class {cls} cannot express"
            )
        described[node.name] = entry
    return described


def reference(name: str | None) -> Arguments | None:
    """A reference to another instruction."""
    return None if name is None else {"_instruction_": True, "name": name}


def references(names: Iterable[str]) -> list[Arguments | None]:
    """References to several."""
    return [reference(name) for name in names]


def _pairs(value: bp.LPList | None) -> list[list[int]] | None:
    return None if value is None else [list(pair) for pair in value]


def _no_counterpart(node: bp.Node, what: str) -> ModelError:
    return ModelError(
        f"node {node.name!r} ({node.kind}): {what} has no published counterpart", "export to another --format"
    )


def _activation(node: bp.Node, name: str, null: str) -> str | None:
    """Published name of an activation; ``null`` is what a missing one means."""
    if name in PLAIN_ACTIVATIONS:
        return name
    if name == null:
        return None
    raise _no_counterpart(node, f"the activation {name!r}")


def _hidden(node: bp.Node, hidden: tuple[int, ...]) -> list[int]:
    if not hidden:
        raise _no_counterpart(node, "a network without hidden layers")
    return list(hidden)


@singledispatch
def describe(node: bp.Node, around: Surroundings) -> tuple[str, Arguments]:
    """Published class and arguments of one node."""
    raise _no_counterpart(node, "the node type")


Describer = Callable[[Any, Surroundings], tuple[str, Arguments]]


@describe.register
def _(node: bp.RadialBasis, around: Surroundings) -> tuple[str, Arguments]:
    arguments: Arguments = {
        "bonds": reference(LENGTH), "basis_type": node.basis, "nfunc": node.n_functions, "p": node.envelope_p,
        "normalized": node.normalized, "rcut": node.cutoff,
    }  # fmt: skip
    # constructor arguments of particular bases: given only where they say something
    given = {"kind": node.chebyshev_kind, "reversed": node.reversed, "rmin": node.minimum}
    usual = {"kind": 1, "reversed": False, "rmin": 0.0}
    arguments |= {key: value for key, value in given.items() if value != usual[key]}
    return "RadialBasis", arguments | ({} if node.initial_gamma == 1.0 else {"init_gamma": node.initial_gamma})


@describe.register
def _(node: bp.PairRadialBasis, around: Surroundings) -> tuple[str, Arguments]:
    return "BondSpecificRadialBasisFunction", {
        "cutoff": node.cutoff, "cutoff_type": "symmetric_bond", "cutoff_function_param": node.envelope_p,
        "basis_type": node.basis, "nfunc": node.n_functions, "normalize": node.normalized,
        "init_gamma": node.initial_gamma, "trainable": False, "bonds": reference(LENGTH),
        "element_map": around.element_map, "cutoff_dict": None if node.cutoffs is None else dict(node.cutoffs),
    }  # fmt: skip


@describe.register
def _(node: bp.LinearRadial, around: Surroundings) -> tuple[str, Arguments]:
    return "LinearRadialFunction", {
        "basis": reference(node.basis), "input_shape": None, "init": "random", "no_weight_decay": True,
        "n_rad_max": node.n_radial, "lmax": node.lmax,
    }  # fmt: skip


@describe.register
def _(node: bp.MLPRadial, around: Surroundings) -> tuple[str, Arguments]:
    common: Arguments = {
        "basis": reference(node.basis), "input_shape": None, "hidden_layers": _hidden(node, node.hidden),
        "no_weight_decay": True, "lora_config": None, "n_rad_max": node.n_radial, "lmax": node.lmax,
    }  # fmt: skip
    if node.generation == 1:
        if len(set(node.activations)) != 1:
            raise _no_counterpart(node, "a first-generation network with several activations")
        return "MLPRadialFunction", common | {
            "norm": node.output_norm, "activation": _activation(node, node.activations[0], "scaled-silu"),
            "chemical_embedding_i": reference(node.embedding_i), "chemical_embedding_j": reference(node.embedding_j),
        }  # fmt: skip
    return "MLPRadialFunction_v2", common | {
        "activation": [_activation(node, name, "silu") for name in node.activations], "init_type": "normal",
        "normalize": node.scale_inputs, "chem_embedding": reference(node.embedding_j or node.embedding_i),
        "embed_i": node.embedding_i is not None,
        "embed_j": node.embedding_j is not None or node.embedding_i is None,
    }  # fmt: skip


@describe.register
def _(node: bp.Harmonics, around: Surroundings) -> tuple[str, Arguments]:
    return "SphericalHarmonic", {"vhat": reference(DIRECTION), "lmax": node.lmax}


@describe.register
def _(node: bp.Embedding, around: Surroundings) -> tuple[str, Arguments]:
    return "ScalarChemicalEmbedding", {
        "is_trainable": True, "init": "random", "lora_config": None,
        "element_map": {element: index for index, element in enumerate(node.elements)}, "embedding_size": node.size,
    }  # fmt: skip


@describe.register
def _(node: bp.Density, around: Surroundings) -> tuple[str, Arguments]:
    average: Any = node.average_neighbours
    return "SingleParticleBasisFunctionScalarInd", {
        "indicator": reference(node.embedding), "indicator_l_depend": node.embedding_per_l, "sum_neighbors": True,
        "avg_n_neigh": dict(enumerate(average)) if isinstance(average, tuple) else average, "lora_config": None,
        "lmax": node.lmax, "lm_first": False, "radial": reference(node.radial), "angular": reference(node.harmonics),
    }  # fmt: skip


@describe.register
def _(node: bp.MessageDensity, around: Surroundings) -> tuple[str, Arguments]:
    return "SingleParticleBasisFunctionEquivariantInd", {
        "keep_parity": _pairs(node.keep_parity), "history_drop_list": None, "l_max_ind": node.lmax_indicator,
        "max_sum_l": node.max_sum_l, "sum_neighbors": True, "avg_n_neigh": node.average_neighbours,
        "normalize": node.normalize, "radial_basis": None, "hidden_layers": None,
        "chemical_embedding": reference(node.embedding), "lm_first": False, "dense_nbr": False,
        "radial": reference(node.radial), "angular": reference(node.harmonics),
        "indicator": reference(node.indicator), "lmax": node.lmax, "Lmax": node.Lmax,
    }  # fmt: skip


@describe.register
def _(node: bp.ChemicalDensity, around: Surroundings) -> tuple[str, Arguments]:
    if node.activation not in PLAIN_ACTIVATIONS:
        raise _no_counterpart(node, f"the activation {node.activation!r}")
    return "SPBF", {
        "lmax": node.lmax, "p": node.envelope_p, "hidden_layers": _hidden(node, node.hidden),
        "activation": node.activation, "indicator": reference(node.indicator), "Lmax": node.Lmax,
        "keep_parity": _pairs(node.keep_parity), "history_drop_list": None, "l_max_ind": node.lmax_indicator,
        "max_sum_l": node.max_sum_l, "normalize_cg": node.normalize, "avg_n_neigh": node.average_neighbours,
        "sum_neighbors": True, "lm_first": False, "dense_nbr": False, "bonds": reference(LENGTH),
        "angular": reference(node.harmonics), "chemical_embedding": reference(node.embedding),
        "n_rad_max": node.n_radial, "n_rad_basis": node.n_basis, "rcut": node.cutoff,
    }  # fmt: skip


@describe.register
def _(node: bp.Mix, around: Surroundings) -> tuple[str, Arguments]:
    dependent = [node.element_left, node.element_right]
    return "FCRight2Left", {
        "n_out": node.n_out, "left_coefs": node.left_weights,
        "is_central_atom_type_dependent": dependent if any(dependent) else None,
        "number_of_atom_types": around.types(any(dependent)), "init_vars": "random", "normalize": node.normalize,
        "norm_out": node.output_norm, "lora_config": None, "lm_first": False, "left": reference(node.left),
        "right": reference(node.right),
    }  # fmt: skip


@describe.register
def _(node: bp.Product, around: Surroundings) -> tuple[str, Arguments]:
    equal = node.history_left == node.history_right
    arguments: Arguments = {
        "is_left_right_equal": node.same, "lmax_left": node.lmax_left, "lmax_right": node.lmax_right,
        "lmax_hist": node.history_left if equal else None, "lmax_hist_left": None if equal else node.history_left,
        "lmax_hist_right": None if equal else node.history_right, "max_sum_l": node.max_sum_l,
        "history_drop_list": [[label, L] for label, L in node.dropped] or None,
        "keep_parity": _pairs(node.keep_parity), "normalize": node.normalize, "lm_first": False,
        "left": reference(node.left), "right": reference(node.right), "lmax": node.lmax, "Lmax": node.Lmax,
    }  # fmt: skip
    if node.mode == "plain":
        if node.crop is None:
            return "ProductFunction", arguments
        return "CropProductFunction", {"n_crop": node.crop, **arguments}
    if node.crop is not None:
        raise _no_counterpart(node, f"mode {node.mode!r} with cropped channels")
    return "GeneralProductFunction", {
        "mode": node.mode,
        "n_out": node.n_out,
        "rank": node.rank,
        "use_S": node.use_S,
        **arguments,
    }


@describe.register
def _(node: bp.Reduce, around: Surroundings) -> tuple[str, Arguments]:
    if node.initial_value not in (0.0, 1.0):
        raise _no_counterpart(node, f"the initial value {node.initial_value:g}")
    return "FunctionReduceN", {
        "out_norm": node.output_norm, "is_central_atom_type_dependent": node.element_dependent,
        "number_of_atom_types": around.types(node.element_dependent), "init_vars": "random",
        "normalize": node.normalize, "init_target_value": "ones" if node.initial_value else "zeros",
        "simplify": False, "scale": node.scale, "lora_config": None, "lm_first": False,
        "instructions": references(node.sources), "ls_max": list(node.lmax), "n_out": node.n_out,
        "allowed_l_p": _pairs(node.allowed),
    }  # fmt: skip


@describe.register
def _(node: bp.InvariantNorm, around: Surroundings) -> tuple[str, Arguments]:
    return "InvariantLayerRMSNorm", {"type": node.mode, "init": "ones", "inpt": reference(node.source)}


@describe.register
def _(node: bp.EquivariantNorm, around: Surroundings) -> tuple[str, Arguments]:
    return "EquivariantRMSNorm", {
        "center_l0": node.center, "center_l0_bias": node.center_bias, "balance_degrees": node.balance_degrees,
        "normalize_l0_only": node.scalars_only, "split_norm": node.split, "init": "ones", "lm_first": False,
        "input": reference(node.source),
    }  # fmt: skip


@describe.register
def _(node: bp.Gate, around: Surroundings) -> tuple[str, Arguments]:
    return "EquivariantGate", {
        "hidden_dim": node.hidden, "use_bias": node.bias, "mix_channels": node.mix_channels, "lm_first": False,
        "input": reference(node.source),
    }  # fmt: skip


@describe.register
def _(node: bp.ZBL, around: Surroundings) -> tuple[str, Arguments]:
    cutoff = dict(node.cutoffs) if isinstance(node.cutoffs, dict) else node.cutoffs
    return "ZBLPotential", {
        "delta_cutoff": node.delta_cutoff, "bonds": reference(LENGTH), "cutoff": cutoff,
        "element_map": {element: index for index, element in enumerate(node.elements)},
    }  # fmt: skip


@describe.register
def _(node: bp.InitialEnergy, around: Surroundings) -> tuple[str, Arguments]:
    return "CreateOutputTarget", {"initial_value": node.value}


@describe.register
def _(node: bp.MLPReadout, around: Surroundings) -> tuple[str, Arguments]:
    return "LinMLPOut2ScalarTarget" if node.linear_channel else "MLPOut2ScalarTarget", {
        "hidden_layers": _hidden(node, node.hidden), "n_out": 1, "normalize": "layer" if node.normalize else None,
        "activation": _activation(node, node.activation, "scaled-silu"), "origin": references(node.sources),
    }  # fmt: skip


@describe.register
def _(node: bp.BranchReadout, around: Surroundings) -> tuple[str, Arguments]:
    if node.activation not in PLAIN_ACTIVATIONS:
        raise _no_counterpart(node, f"the activation {node.activation!r}")
    return "LinMLPScalarReadOut", {
        "hidden_layers": _hidden(node, node.hidden), "n_out": 1,
        "mlp_mode": "shared" if node.shared else "per_input", "element_dependent": node.element_dependent,
        "number_of_atom_types": around.types(node.element_dependent), "activation": node.activation,
        "origin": references(node.sources),
    }  # fmt: skip


@describe.register
def _(node: bp.LinearReadout, around: Surroundings) -> tuple[str, Arguments]:
    return "LinearOut2Target", {
        "trainable": node.trainable, "init_type": "zeros", "n_out": 1, "origin": references(node.sources)
    }  # fmt: skip


@describe.register
def _(node: bp.FinnisSinclairReadout, around: Surroundings) -> tuple[str, Arguments]:
    return "FSOut2ScalarTarget", {
        "fs_parameters": [list(pair) for pair in node.parameters],
        "origin": references(node.sources),
    }


@describe.register
def _(node: bp.ScaleShift, around: Surroundings) -> tuple[str, Arguments]:
    shifts = node.element_shifts
    return "ConstantScaleShiftTarget", {
        "scale": node.scale, "shift": node.shift,
        "atomic_shift_map": None if shifts is None else dict(enumerate(shifts)),
        "chemical_embedding": reference(node.embedding),
    }  # fmt: skip


@describe.register
def _(node: bp.ElementShift, around: Surroundings) -> tuple[str, Arguments]:
    if node.embedding is not None:
        return "TrainableShiftTarget_v2", {"chemical_embedding": reference(node.embedding)}
    return "TrainableShiftTarget", {"number_of_atom_types": len(around.elements)}
