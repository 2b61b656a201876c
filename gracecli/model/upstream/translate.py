"""Published argument mappings -> blueprint nodes.

Names and defaults of the published classes (checkpoint format, section 3); anything unknown is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gracecli.errors import ModelError
from gracecli.model import blueprint as bp

Arguments = dict[str, Any]
Translator = Callable[[str, Arguments], bp.Node | None]
TRANSLATORS: dict[str, Translator] = {}

# accepted and without effect on numbers
SILENT_CLASSES = {"BondLength", "ScaledBondVector"}
IGNORED_KEYS = {
    "dense_nbr", "downscale_embedding_size", "full_origin_norm", "init", "init_norm", "init_target_value", "init_type",
    "init_vars", "input_shape", "is_trainable", "l", "lm_first", "n_in", "name", "no_weight_decay",
    "number_of_atom_types", "radia_basis", "radial_basis", "return_hidden_target", "simplify", "target", "trainable",
    "__cls__",
}  # fmt: skip


def reference(value: Any) -> str | None:
    """Name of a referenced instruction."""
    if value is None:
        return None
    if isinstance(value, dict) and value.get("_instruction_"):
        return str(value["name"])
    raise ModelError(f"model.yaml: expected a reference to an instruction, found {value!r}")


def references(value: Any) -> tuple[str, ...]:
    """Names of a list of references."""
    return tuple(str(reference(v)) for v in value)


def parities(value: Any) -> bp.LPList | None:
    """keep_parity / allowed_l_p lists."""
    return None if value is None else tuple((int(l), int(p)) for l, p in value)


def translator(*names: str) -> Callable[[Translator], Translator]:
    """Register the translation of published classes."""

    def register(function: Translator) -> Translator:
        for name in names:
            TRANSLATORS[name] = function
        return function

    return register


def translate(name: str, arguments: Arguments) -> bp.Node | None:
    """Translate one instruction; None for classes that carry no information of their own."""
    cls = str(arguments.get("__cls__", "")).rsplit(".", 1)[-1]
    if arguments.get("lora_config"):
        raise ModelError(
            f"model.yaml: instruction {name!r} has unmerged low-rank adapters", "merge them and export again"
        )
    if cls in SILENT_CLASSES:
        return None
    if cls not in TRANSLATORS:
        raise ModelError(
            f"model.yaml: instruction {name!r} has the unknown class {cls!r}",
            "this gracecli cannot evaluate the model; a newer version or a plugin may",
        )
    try:
        return TRANSLATORS[cls](name, arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"model.yaml: instruction {name!r} ({cls}): {error!r}", "a required argument is missing or malformed"
        ) from error


def _activations(value: Any, count: int, null: str) -> tuple[str, ...]:
    names = list(value) if isinstance(value, list | tuple) else [value] * count
    return tuple(null if v is None else str(v) for v in names)


@translator("RadialBasis")
def _radial_basis(name: str, a: Arguments) -> bp.Node:
    return bp.RadialBasis(
        name=name, basis=a["basis_type"], n_functions=int(a["nfunc"]), cutoff=float(a["rcut"]),
        envelope_p=int(a.get("p", 5)), normalized=bool(a.get("normalized", False)),
        chebyshev_kind=int(a.get("kind", 1)), reversed=bool(a.get("reversed", False)),
        minimum=float(a.get("rmin", 0.0)), initial_gamma=float(a.get("init_gamma", 1.0)),
    )  # fmt: skip


@translator("BondSpecificRadialBasisFunction")
def _pair_basis(name: str, a: Arguments) -> bp.Node:
    if a.get("cutoff_type", "symmetric_bond") != "symmetric_bond":
        raise ModelError(f"model.yaml: instruction {name!r}: unknown cutoff_type {a['cutoff_type']!r}")
    cutoffs = a.get("cutoff_dict")
    return bp.PairRadialBasis(
        name=name, basis=a.get("basis_type", "Cheb"), n_functions=int(a.get("nfunc", 8)),
        cutoff=float(a.get("cutoff", 5.0)), envelope_p=int(a.get("cutoff_function_param", 5)),
        normalized=bool(a.get("normalize", False)), initial_gamma=float(a.get("init_gamma", 1.0)),
        cutoffs=dict(cutoffs) if isinstance(cutoffs, dict) else None,
    )  # fmt: skip


@translator("LinearRadialFunction")
def _linear_radial(name: str, a: Arguments) -> bp.Node:
    return bp.LinearRadial(
        name=name, basis=str(reference(a["basis"])), n_radial=int(a["n_rad_max"]), lmax=int(a["lmax"])
    )


@translator("MLPRadialFunction")
def _mlp_radial(name: str, a: Arguments) -> bp.Node:
    hidden = tuple(a.get("hidden_layers") or (64, 64, 64))
    return bp.MLPRadial(
        name=name, basis=str(reference(a["basis"])), n_radial=int(a["n_rad_max"]), lmax=int(a["lmax"]), hidden=hidden,
        activations=_activations(a.get("activation"), len(hidden), "scaled-silu"), generation=1,
        output_norm=bool(a.get("norm", False)), embedding_i=reference(a.get("chemical_embedding_i")),
        embedding_j=reference(a.get("chemical_embedding_j")),
    )  # fmt: skip


@translator("MLPRadialFunction_v2")
def _mlp_radial_2(name: str, a: Arguments) -> bp.Node:
    hidden = tuple(a.get("hidden_layers") or (64, 64))
    embedding = reference(a.get("chem_embedding"))
    return bp.MLPRadial(
        name=name, basis=str(reference(a["basis"])), n_radial=int(a["n_rad_max"]), lmax=int(a["lmax"]), hidden=hidden,
        activations=_activations(a.get("activation"), len(hidden), "silu"), generation=2,
        scale_inputs=bool(a.get("normalize", True)), embedding_i=embedding if a.get("embed_i", False) else None,
        embedding_j=embedding if a.get("embed_j", True) else None,
    )  # fmt: skip


@translator("SphericalHarmonic", "BondSphericalHarmonic")
def _harmonics(name: str, a: Arguments) -> bp.Node:
    return bp.Harmonics(name=name, lmax=int(a["lmax"]))


@translator("ScalarChemicalEmbedding")
def _embedding(name: str, a: Arguments) -> bp.Node:
    order = sorted(a["element_map"].items(), key=lambda item: item[1])
    if [i for _, i in order] != list(range(len(order))):
        raise ModelError(f"model.yaml: element_map of {name!r} is not numbered 0, 1, 2, ...")
    return bp.Embedding(name=name, elements=tuple(e for e, _ in order), size=int(a["embedding_size"]))


@translator("SingleParticleBasisFunctionScalarInd")
def _density(name: str, a: Arguments) -> bp.Node:
    given = a.get("avg_n_neigh", 1.0)
    average = tuple(float(given[k]) for k in sorted(given)) if isinstance(given, dict) else float(given)
    return bp.Density(
        name=name, radial=str(reference(a["radial"])), harmonics=str(reference(a["angular"])),
        embedding=reference(a.get("indicator")), average_neighbours=average,
        embedding_per_l=bool(a.get("indicator_l_depend", False)), lmax=a.get("lmax"),
    )  # fmt: skip


def _requires_sum(name: str, a: Arguments) -> None:
    if not a.get("sum_neighbors", True):
        raise ModelError(f"model.yaml: instruction {name!r}: sum_neighbors false is not supported")
    if a.get("history_drop_list") not in (None, [], "DEFAULT"):
        raise ModelError(f"model.yaml: instruction {name!r}: history_drop_list is not supported here")


@translator("SingleParticleBasisFunctionEquivariantInd")
def _message(name: str, a: Arguments) -> bp.Node:
    _requires_sum(name, a)
    return bp.MessageDensity(
        name=name, radial=str(reference(a["radial"])), harmonics=str(reference(a["angular"])),
        indicator=str(reference(a["indicator"])), lmax=int(a["lmax"]), Lmax=int(a["Lmax"]),
        average_neighbours=float(a.get("avg_n_neigh", 1.0)), normalize=bool(a.get("normalize", False)),
        keep_parity=parities(a.get("keep_parity")), lmax_indicator=a.get("l_max_ind"), max_sum_l=a.get("max_sum_l"),
        embedding=reference(a.get("chemical_embedding")),
    )  # fmt: skip


@translator("SPBF")
def _chemical_density(name: str, a: Arguments) -> bp.Node:
    _requires_sum(name, a)
    lmax = a.get("lmax")
    if lmax is None:
        raise ModelError(f"model.yaml: instruction {name!r} gives no lmax")
    return bp.ChemicalDensity(
        name=name, harmonics=str(reference(a["angular"])), embedding=str(reference(a["chemical_embedding"])),
        indicator=reference(a.get("indicator")), n_radial=int(a["n_rad_max"]), n_basis=int(a["n_rad_basis"]),
        cutoff=float(a["rcut"]), lmax=int(lmax), hidden=tuple(a.get("hidden_layers") or (64, 64)),
        activation=a.get("activation") or "silu", envelope_p=int(a.get("p", 5)),
        average_neighbours=float(a.get("avg_n_neigh", 1.0)), Lmax=a.get("Lmax"),
        keep_parity=parities(a.get("keep_parity")), lmax_indicator=a.get("l_max_ind"), max_sum_l=a.get("max_sum_l"),
        normalize=bool(a.get("normalize_cg", False)),
    )  # fmt: skip


@translator("FCRight2Left")
def _mix(name: str, a: Arguments) -> bp.Node:
    dependent = a.get("is_central_atom_type_dependent")
    left, right = dependent if isinstance(dependent, list | tuple) else (bool(dependent), bool(dependent))
    return bp.Mix(
        name=name, left=str(reference(a["left"])), right=str(reference(a["right"])), n_out=a.get("n_out"),
        left_weights=bool(a.get("left_coefs", True)), normalize=bool(a.get("normalize", True)),
        output_norm=bool(a.get("norm_out", False)), element_left=bool(left), element_right=bool(right),
    )  # fmt: skip


def _product_options(a: Arguments) -> dict[str, Any]:
    history = a.get("lmax_hist")
    drop = a.get("history_drop_list")
    pairs = [tuple(d) for d in drop if isinstance(d, list | tuple)] if isinstance(drop, list) else []
    return {
        "left": reference(a["left"]), "right": reference(a["right"]), "lmax": a.get("lmax"), "Lmax": a.get("Lmax"),
        "keep_parity": parities(a.get("keep_parity")), "same": a.get("is_left_right_equal"),
        "lmax_left": a.get("lmax_left"), "lmax_right": a.get("lmax_right"), "max_sum_l": a.get("max_sum_l"),
        "history_left": history if a.get("lmax_hist_left") is None else a.get("lmax_hist_left"),
        "history_right": history if a.get("lmax_hist_right") is None else a.get("lmax_hist_right"),
        "dropped": tuple((str(label), int(L)) for label, L in pairs),
    }  # fmt: skip


@translator("ProductFunction")
def _product(name: str, a: Arguments) -> bp.Node:
    return bp.Product(name=name, normalize=bool(a.get("normalize", False)), **_product_options(a))


@translator("CropProductFunction")
def _crop_product(name: str, a: Arguments) -> bp.Node:
    return bp.Product(name=name, normalize=bool(a.get("normalize", True)), crop=a.get("n_crop"), **_product_options(a))


@translator("GeneralProductFunction")
def _general_product(name: str, a: Arguments) -> bp.Node:
    rank = a.get("rank")
    return bp.Product(
        name=name, normalize=bool(a.get("normalize", False)), mode=a.get("mode", "elementwise"), rank=rank,
        n_out=rank if a.get("n_out") is None else a["n_out"], use_S=bool(a.get("use_S", True)), **_product_options(a),
    )  # fmt: skip


@translator("FunctionReduceN", "FunctionReduce")
def _reduce(name: str, a: Arguments) -> bp.Node:
    sources = references(a["instructions"])
    limits = a["ls_max"]
    limits = tuple(limits) if isinstance(limits, list | tuple) else (limits,)
    limits = limits * len(sources) if len(limits) == 1 else limits
    allowed = parities(a.get("allowed_l_p"))
    if allowed is None:
        raise ModelError(f"model.yaml: instruction {name!r} gives no allowed_l_p")
    old = str(a["__cls__"]).endswith("FunctionReduce")
    return bp.Reduce(
        name=name, sources=sources, lmax=tuple(int(v) for v in limits), n_out=int(a["n_out"]), allowed=allowed,
        element_dependent=bool(a.get("is_central_atom_type_dependent", False)),
        normalize=False if old else bool(a.get("normalize", True)), scale=float(a.get("scale", 1.0)),
        output_norm=bool(a.get("out_norm", False)), initial_value=float(a.get("init_target_value") == "ones"),
    )  # fmt: skip


@translator("InvariantLayerRMSNorm")
def _invariant_norm(name: str, a: Arguments) -> bp.Node:
    return bp.InvariantNorm(name=name, source=str(reference(a["inpt"])), mode=a.get("type", "only_nonlin"))


@translator("EquivariantRMSNorm")
def _equivariant_norm(name: str, a: Arguments) -> bp.Node:
    return bp.EquivariantNorm(
        name=name, source=str(reference(a["input"])), center=bool(a.get("center_l0", False)),
        center_bias=bool(a.get("center_l0_bias", False)), balance_degrees=bool(a.get("balance_degrees", True)),
        scalars_only=bool(a.get("normalize_l0_only", False)), split=bool(a.get("split_norm", False)),
    )  # fmt: skip


@translator("EquivariantGate")
def _gate(name: str, a: Arguments) -> bp.Node:
    return bp.Gate(
        name=name, source=str(reference(a["input"])), hidden=a.get("hidden_dim"), bias=bool(a.get("use_bias", True)),
        mix_channels=a.get("mix_channels"),
    )  # fmt: skip


@translator("ZBLPotential")
def _zbl(name: str, a: Arguments) -> bp.Node:
    order = sorted(a["element_map"].items(), key=lambda item: item[1])
    return bp.ZBL(
        name=name, elements=tuple(e for e, _ in order), delta_cutoff=float(a.get("delta_cutoff", 0.25)),
        cutoffs=a.get("cutoff"),
    )  # fmt: skip


@translator("CreateOutputTarget")
def _initial(name: str, a: Arguments) -> bp.Node:
    return bp.InitialEnergy(name=name, value=float(a.get("initial_value", 0.0)))


def _hidden(a: Arguments) -> tuple[int, ...]:
    return tuple(int(n) for n in (a.get("hidden_layers") or [32]))


@translator("LinMLPOut2ScalarTarget", "MLPOut2ScalarTarget")
def _mlp_readout(name: str, a: Arguments) -> bp.Node:
    return bp.MLPReadout(
        name=name, sources=references(a["origin"]), hidden=_hidden(a), activation=a.get("activation") or "scaled-silu",
        linear_channel=str(a["__cls__"]).endswith("LinMLPOut2ScalarTarget"), normalize=a.get("normalize") == "layer",
    )  # fmt: skip


@translator("LinMLPScalarReadOut")
def _branch_readout(name: str, a: Arguments) -> bp.Node:
    return bp.BranchReadout(
        name=name, sources=references(a["origin"]), hidden=_hidden(a), activation=a.get("activation") or "silu",
        shared=a.get("mlp_mode", "per_input") == "shared", element_dependent=bool(a.get("element_dependent", False)),
    )  # fmt: skip


@translator("LinearOut2Target")
def _linear_readout(name: str, a: Arguments) -> bp.Node:
    return bp.LinearReadout(name=name, sources=references(a["origin"]), trainable=bool(a.get("trainable", False)))


@translator("FSOut2ScalarTarget")
def _fs_readout(name: str, a: Arguments) -> bp.Node:
    parameters = a.get("fs_parameters") or [[1.0, 1.0], [1.0, 0.5]]
    return bp.FinnisSinclairReadout(
        name=name, sources=references(a["origin"]), parameters=tuple((float(c), float(e)) for c, e in parameters)
    )


@translator("ConstantScaleShiftTarget")
def _scale_shift(name: str, a: Arguments) -> bp.Node:
    shifts = a.get("atomic_shift_map")
    return bp.ScaleShift(
        name=name, scale=float(a.get("scale", 1.0)), shift=float(a.get("shift", 0.0)),
        element_shifts=tuple(float(shifts[k]) for k in sorted(shifts, key=int)) if shifts else None,
        embedding=reference(a.get("chemical_embedding")),
    )  # fmt: skip


@translator("TrainableShiftTarget", "TrainableShiftTarget_v2")
def _element_shift(name: str, a: Arguments) -> bp.Node:
    return bp.ElementShift(name=name, embedding=reference(a.get("chemical_embedding")))
