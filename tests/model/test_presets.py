"""Named architectures: sizes of the published table, graphs of the published descriptions, options, errors."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from ase.data import chemical_symbols

from gracecli.errors import ModelError, UsageError
from gracecli.model import blueprint as bp
from gracecli.model.blueprint import Blueprint
from gracecli.model.functions import CouplingRules, FunctionTable, couple, reduced_table
from gracecli.model.modelfile import Model
from gracecli.model.presets import PRESETS, initial_weights, preset

ELEMENTS_89 = chemical_symbols[1:90]
TABLE_III = {
    "1l-small": 3447148, "1l-medium": 4461497, "1l-large": 8953529,
    "2l-small": 12597516, "2l-medium": 21764956, "2l-large": 26394284,
}  # fmt: skip


def network(*sizes):
    """Weights of a network without bias."""
    return sum(a * b for a, b in pairwise(sizes))


def count_parameters(blueprint):
    """Trainable weights, from the sizes in the blueprint and the function tables alone."""
    n_el = len(blueprint.elements)
    tables, channels, total = {}, {}, 0
    for node in blueprint:
        n = node.name
        if isinstance(node, bp.RadialBasis):
            channels[n] = node.n_functions
        elif isinstance(node, bp.LinearRadial):
            channels[n], tables[n] = node.n_radial, FunctionTable.harmonics(node.lmax)
            total += node.n_radial * (node.lmax + 1) * channels[node.basis]
        elif isinstance(node, bp.MLPRadial):
            channels[n], tables[n] = node.n_radial, FunctionTable.harmonics(node.lmax)
            total += network(channels[node.basis], *node.hidden, node.n_radial * (node.lmax + 1))
        elif isinstance(node, bp.Harmonics):
            tables[n] = FunctionTable.harmonics(node.lmax)
        elif isinstance(node, bp.Embedding):
            channels[n] = node.size
            total += n_el * node.size
        elif isinstance(node, bp.Density):
            tables[n], channels[n] = tables[node.radial], channels[node.radial]
            total += channels[node.embedding] * channels[n]
        elif isinstance(node, bp.MessageDensity):
            rules = CouplingRules(
                lmax=node.lmax, Lmax=node.Lmax, tagged=True, keep_parity=frozenset(node.keep_parity)
            )  # fmt: skip
            tables[n] = couple(tables[node.harmonics], tables[node.indicator], rules).output
            channels[n] = channels[node.radial]
        elif isinstance(node, bp.Product):
            same = node.left == node.right if node.same is None else node.same
            rules = CouplingRules(
                lmax=node.lmax, Lmax=node.Lmax, same=same, keep_parity=frozenset(node.keep_parity),
                max_sum_l=node.max_sum_l, history_left=node.history_left, history_right=node.history_right,
            )  # fmt: skip
            tables[n] = couple(tables[node.left], tables[node.right], rules).output
            channels[n] = node.crop or channels[node.left]
        elif isinstance(node, bp.Mix):
            left, right = tables[node.left].groups, tables[node.right].groups
            pairs = sum((a.l, a.p) == (b.l, b.p) for a in left for b in right)
            tables[n], channels[n] = tables[node.left], node.n_out
            total += node.n_out * (channels[node.left] * len(left) + channels[node.right] * pairs)
        elif isinstance(node, bp.Reduce):
            inputs = [(tables[s], l) for s, l in zip(node.sources, node.lmax, strict=True)]
            tables[n], collected = reduced_table(inputs, frozenset(node.allowed))
            channels[n] = node.n_out
            each = sum(channels[s] * len(c) for s, c in zip(node.sources, collected, strict=True))
            total += each * node.n_out * (n_el if node.element_dependent else 1)
        elif isinstance(node, bp.InvariantNorm):
            channels[n] = channels[node.source]
            total += channels[n] - (node.mode == "only_nonlin")
        elif isinstance(node, bp.MLPReadout):
            inputs = channels[node.sources[0]] - 1
            total += network(inputs, *node.hidden, 1) + inputs * node.normalize
        elif isinstance(node, bp.ElementShift):
            total += n_el
        else:
            assert isinstance(node, bp.InitialEnergy | bp.ScaleShift | bp.FinnisSinclairReadout), node
    return total


@pytest.mark.parametrize("name", TABLE_III)
def test_parameter_counts_of_the_published_table(name):
    assert count_parameters(preset(name, ELEMENTS_89)) == TABLE_III[name]


def test_the_table_is_transcribed_correctly(shared_folder):
    with (shared_folder / "reference" / "seed_grace_table3.csv").open() as file:
        rows = {row[0]: row[1:] for row in csv.reader(file)}
    assert [int(v) for v in rows["Tot. num. params."]] == list(TABLE_III.values())
    for k, name in enumerate(TABLE_III):
        blueprint = preset(name, ELEMENTS_89)
        assert blueprint.cutoff == float(rows["r_{cut} (Å)"][k])
        assert blueprint.of_type(bp.RadialBasis)[0].n_functions == int(rows["Num. radial basis"][k])
        assert blueprint.of_type(bp.Embedding)[0].size == int(rows["Chem. embedding"][k])
        assert blueprint.of_type(bp.Harmonics)[0].lmax == int(rows["l_{max}"][k])
        densities = blueprint.of_type(bp.MLPReadout)[0].sources[0].removesuffix("_LN")
        assert f"{blueprint.by_name[densities].n_out - 1}+1" == rows["Num. densities"][k]
        assert blueprint.layers == int(name[0])


SMALL = {
    "fs": {"lmax": (2, 2, 2, 1), "n_radial": (4, 3, 2, 2), "n_basis": 4, "embedding": 3},
    "li": {"lmax": (2, 2, 2, 1), "n_radial": (4, 3, 2, 2), "n_basis": 4, "embedding": 3},
    "1l": {"lmax": 2, "n_radial": 4, "n_product": 4, "n_density": 3, "n_basis": 4, "embedding": 3, "hidden": 5},
    "2l": {
        "lmax": (2, 2), "n_radial": (3, 4), "n_product": (3, 5), "n_density": 3, "n_basis": 4, "embedding": 3,
        "hidden": 5,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_initial_weights_fit_the_count(tensorflow, name):
    """Every preset can be initialised; the weights are as many as the blueprint says, and reproducible."""
    blueprint = preset(name, ["Ni", "Al"], **SMALL[name[:2]])
    weights = initial_weights(blueprint, np.random.default_rng(1))
    assert Model(blueprint, weights).n_parameters == count_parameters(blueprint)
    assert all(np.isfinite(v).all() for v in weights.values())
    again = initial_weights(blueprint, np.random.default_rng(1))
    assert all(np.array_equal(weights[k], again[k]) for k in weights)


@pytest.mark.parametrize("name", PRESETS)
def test_blueprints_are_json(name):
    blueprint = preset(name, ["Si", "Ge"], element_shifts=[1.5, -2.0], zbl_cutoffs={"Si": 1.0, "GeSi": 0.9})
    again = Blueprint.from_json(blueprint.to_json())
    assert again == blueprint
    assert again.elements == ("Ge", "Si")
    (shift,) = again.of_type(bp.ScaleShift)
    assert shift.element_shifts == (-2.0, 1.5)  # given as Si, Ge
    json.loads(blueprint.to_json())


def test_pair_cutoffs_survive_json():
    blueprint = preset("1l-small", ["Al", "Li"], cutoffs={"Al": 5.0, "AlLi": 4.5, "Li": 4.0})
    again = Blueprint.from_json(blueprint.to_json())
    assert again == blueprint
    assert again.cutoff == 5.0


SHIFTS = (-1.7, -2.6, -3.5)
TRANSLATED = {
    "fs_tiny": ("fs-medium", {"cutoff": 5.5, "lmax": (4, 4, 3, 2), "n_radial": (8, 6, 5, 4), "n_basis": 8,
                              "embedding": 8}),
    "grace_1l_tiny": ("1l-medium", {"cutoff": 5.0, "lmax": 3, "n_radial": 5, "n_product": 6, "n_density": 4,
                                    "n_basis": 5, "embedding": 8}),
    "grace_1l_v1_tiny": ("1l-small", {"cutoff": 5.0, "lmax": 3, "n_radial": 5, "n_product": 5, "n_density": 4,
                                      "n_basis": 6, "embedding": 8}),
    "grace_1l_large_arch": ("1l-large", {"n_radial": 42}),
    "grace_2l_tiny": ("2l-medium", {"cutoff": 5.0, "lmax": (3, 2), "n_radial": (4, 5), "n_product": (4, 6),
                                    "n_density": 4, "n_basis": 5, "embedding": 8}),
    "grace_2l_v1_tiny": ("2l-small", {"cutoff": 4.8, "lmax": (3, 2), "n_radial": (4, 5), "n_product": (4, 5),
                                      "n_density": 4, "n_basis": 6, "embedding": 8}),
    "grace_2l_omat_arch": ("2l-small", {}),
    "grace_2l_omat_large_base_arch": ("2l-large", {}),
}  # fmt: skip
OTHER_NAMES = {
    "grace_2l_omat_arch": {"LinMLPOut2ScalarTarget": "MLPOut2ScalarTarget"},
    "grace_2l_omat_large_base_arch": {
        "I_out_0": "rho", "I_out_0_LN": "I_nl_LN", "I_out_1": "I2", "I_1_LN": "I_0_LN",
    },
}  # fmt: skip


def renamed(node, names):
    """A node with other names, its own and those it reads."""

    def new(value):
        if isinstance(value, tuple):
            return tuple(new(v) for v in value)
        return names.get(value, value) if isinstance(value, str) else value

    changes = {f: new(getattr(node, f)) for f in node.input_fields}
    return plain(replace(node, name=new(node.name), **changes))


def plain(node):
    """Reductions list parities beyond the degrees they take: without effect."""
    if isinstance(node, bp.Reduce):
        return replace(node, allowed=tuple(sorted(lp for lp in node.allowed if lp[0] <= max(node.lmax))))
    return node


@pytest.mark.parametrize("fixture", TRANSLATED)
def test_presets_are_the_published_graphs(shared_folder, fixture):
    """The published description of each architecture, translated, is the preset."""
    from gracecli.model.upstream.checkpoint import read_yaml

    published, _ = read_yaml(shared_folder / "fixtures" / "grace" / fixture / "model.yaml")
    name, options = TRANSLATED[fixture]
    density = published.of_type(bp.Density)[0]
    options = {**options, "average_neighbours": density.average_neighbours}
    for node in published.of_type(bp.ScaleShift):
        options |= {"scale": node.scale, "element_shifts": node.element_shifts}
    ours = preset(name, published.elements, **options)
    mine = {n.name: n for n in (renamed(n, OTHER_NAMES.get(fixture, {})) for n in ours)}
    theirs = {n.name: plain(n) for n in published}
    different = {n: (theirs.get(n), mine.get(n)) for n in mine.keys() | theirs.keys() if theirs.get(n) != mine.get(n)}
    assert different == {}


def test_options_change_what_they_name():
    blueprint = preset("2l-small", ["Al"], generation=2, hidden=[32, 16], cutoff=4.5, indicator_lmax=2)
    assert blueprint.cutoff == 4.5
    assert all(r.hidden == (32, 16) and r.activations == ("silu", "silu") for r in blueprint.of_type(bp.MLPRadial))
    assert blueprint.of_type(bp.RadialBasis)[0].envelope_p == 16
    assert blueprint.by_name["I"].lmax == (2,)


def test_first_generation_mixes_into_as_many_channels_as_the_density_has():
    """There AAA = AA1 x A, so n_product follows n_radial."""
    blueprint = preset("1l-small", ["Al"], n_radial=8)
    assert {m.n_out for m in blueprint.of_type(bp.Mix)} == {8}
    assert {m.n_out for m in preset("1l-medium", ["Al"], n_radial=8).of_type(bp.Mix)} == {32}


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("1l-smal", ["Al"]), {}, ["1l-smal", "1l-small"]),
        (("1l-small", ["Al"]), {"cutof": 5.0}, ["cutof", "cutoff"]),
        (("1l-small", ["Al", "Ni"]), {"element_shifts": [1.0]}, ["1 element shifts", "2 elements"]),
        (("fs-small", ["Al"]), {"order": 4}, ["order 4"]),
        (("1l-small", ["Al"]), {"n_radial": 8, "n_product": 16}, ["n_product 16", "n_radial 8"]),
        (("2l-small", ["Al"]), {"lmax": [3]}, ["lmax", "2 values"]),
        (("1l-medium", ["Al", "Al"]), {}, ["Al", "twice"]),
        (("1l-medium", ["Al", "Xx"]), {}, ["'Xx'"]),
        (("1l-medium", []), {}, ["no elements"]),
    ],
)
def test_errors_say_what_to_try(arguments, options, words):
    with pytest.raises(UsageError) as error:
        preset(*arguments, **options)
    assert all(w in str(error.value) for w in words), str(error.value)
    assert "\n" not in str(error.value)


def test_blueprint_errors_name_the_node():
    text = preset("1l-small", ["Al"]).to_json()
    nodes = json.loads(text)
    with pytest.raises(ModelError, match=r"'R' reads 'RadialBasi'.*did you mean 'RadialBasis'"):
        Blueprint.from_json(text.replace('"basis": "RadialBasis"', '"basis": "RadialBasi"'))
    with pytest.raises(ModelError, match="two nodes are named 'A'"):
        Blueprint.from_json(json.dumps([*nodes, next(n for n in nodes if n["name"] == "A")]))
    with pytest.raises(ModelError, match=r"unknown node type 'Densty' \(node 'A'\).*Density"):
        Blueprint.from_json(text.replace('"kind": "Density"', '"kind": "Densty"'))
    with pytest.raises(ModelError, match=r"node 'A' \(Density\) has the unknown option 'charge'"):
        Blueprint.from_json(text.replace('"kind": "Density"', '"kind": "Density", "charge": 1'))
    radial = {k: v for k, v in next(n for n in nodes if n["name"] == "R").items() if k != "lmax"}
    with pytest.raises(ModelError, match=r"node 'R' \(MLPRadial\) lacks lmax"):
        Blueprint.from_json(json.dumps([radial]))


def test_presets_need_no_tensorflow():
    """Choosing and counting an architecture is instant: nothing heavy is imported."""
    code = (
        "import sys; from gracecli.model.presets import preset; preset('2l-large', ['Al', 'Ni']).to_json(); "
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'h5py')))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
