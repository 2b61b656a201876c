"""Published architectures against reference values, from the energies down to every coupling coefficient.

The reference data is no part of the repository; the tests are skipped where it is absent. The same numbers as a table:
``python tools/compare_fixtures.py``.
"""

import numpy as np
import pytest

from gracecli.engine.base import Graph
from gracecli.model import radial as formulas
from gracecli.model.blueprint import Mix, OutputNode
from gracecli.model.couplings import coupling_scale, real_coupling
from gracecli.model.harmonics import real_harmonics

TINY = [
    "extra_classes_a_tiny", "extra_classes_b_tiny", "fs_default", "fs_tiny", "grace_1l_89elements_tiny",
    "grace_1l_bondcut_zbl_tiny", "grace_1l_tiny", "grace_1l_v1_tiny", "grace_2l_tiny", "grace_2l_tiny_fp32",
    "grace_2l_tiny_uq", "grace_2l_v1_tiny", "grace_3l_like_tiny",
]  # fmt: skip
LARGE = ["grace_1l_large_arch", "grace_2l_omat_arch", "grace_2l_omat_large_base_arch"]
TWINS = ["grace_2l_tiny_fp32", "grace_2l_tiny_uq"]
"""Same architecture as grace_2l_tiny; single precision is tested in its own precision below."""
STAGES = [
    "extra_classes_a_tiny", "extra_classes_b_tiny", "grace_1l_tiny", "grace_1l_v1_tiny", "grace_2l_tiny",
    "grace_2l_v1_tiny", "grace_3l_like_tiny",
]  # fmt: skip
COUPLINGS = ["grace_1l_tiny", "grace_1l_v1_tiny", "grace_2l_tiny", "grace_2l_v1_tiny", "grace_3l_like_tiny"]


@pytest.fixture(scope="module")
def folder(shared_folder):
    return shared_folder / "fixtures" / "grace"


@pytest.fixture(scope="module")
def evaluator(folder, compare):
    """Models read once."""
    known = {}

    def get(name):
        if name not in known:
            known[name] = compare.Evaluator(folder, compare.Case(name))
        return known[name]

    return get


def assert_within(compare, folder, case, one_by_one=False):
    d = compare.deviation(folder, case, one_by_one)
    print(f"{case.label}: dE {d.energy:.1e} dE_atom {d.atomic_energy:.1e} dF {d.forces:.1e} dstress {d.stress:.1e}")
    assert d.structures >= 10
    assert d.within(compare.is_single(folder, case)), d


def test_lists_are_complete(folder, compare):
    assert {c.model for c in compare.cases(folder)} == set(TINY) | set(LARGE)


@pytest.mark.parametrize("name", [n if n not in TWINS else pytest.param(n, marks=pytest.mark.slow) for n in TINY])
def test_energies_forces_and_stresses(folder, compare, name):
    assert_within(compare, folder, compare.Case(name))


def test_single_precision(folder, compare):
    assert_within(compare, folder, compare.Case("grace_2l_tiny_fp32", precision="float32"))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_published_sizes(folder, compare, name):
    assert_within(compare, folder, compare.Case(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_one_structure_at_a_time(folder, compare, name):
    assert_within(compare, folder, compare.Case(name), one_by_one=True)


@pytest.mark.parametrize("case", ["grace_1l_tiny", "grace_2l_v1_tiny"])
def test_both_key_layouts_hold_the_same_weights(folder, tensorflow, case):
    from gracecli.model.upstream.checkpoint import read_directory

    blueprint, weights, _ = read_directory(folder / case)
    other_blueprint, other, _ = read_directory(folder / case, prefix="checkpoint_training_layout")
    assert blueprint == other_blueprint
    assert weights.keys() == other.keys()
    assert all(np.array_equal(weights[k], other[k]) for k in weights)


def test_older_description_is_the_same_model(folder):
    from gracecli.model.upstream.checkpoint import read_yaml

    new, _ = read_yaml(folder / "grace_2l_v1_tiny" / "model.yaml")
    old, _ = read_yaml(folder / "grace_2l_v1_tiny" / "model_legacy_flat.yaml")
    assert new == old


def test_a_wrong_weight_is_noticed(folder, compare, monkeypatch):
    """The bounds are tight enough to see one weight change in its ninth digit."""
    original = compare.Evaluator.__init__

    def spoiled(self, *arguments):
        original(self, *arguments)
        variable = self.network.variables_by_name["R/layers/0/w"]
        variable.assign(variable * (1.0 + 1e-9))

    monkeypatch.setattr(compare.Evaluator, "__init__", spoiled)
    case = compare.Case("grace_1l_tiny")
    assert not compare.deviation(folder, case).within(single=False)


@pytest.mark.parametrize("name", STAGES)
def test_every_stage(folder, evaluator, tensorflow, name):
    """All intermediate tensors of one structure, in the published order of functions."""
    from ase.data import atomic_numbers

    from gracecli.engine.batch import pack
    from gracecli.model.blocks.base import Context, rows_of
    from gracecli.model.network import batch_tensors

    model = evaluator(name)
    with np.load(folder / name / "intermediates.npz") as file:
        data = {k: file[k] for k in file.files}
    numbers = np.array([atomic_numbers[model.model.elements[k]] for k in data["in/atomic_mu_i"]], dtype=np.int32)
    order = np.argsort(data["in/ind_i"], kind="stable")
    graph = Graph(numbers, data["in/ind_i"][order], data["in/ind_j"][order], data["in/bond_vector"][order], 1.0)
    batch = pack([graph], model.index)
    context = Context(batch_tensors(batch), model.network.blocks, model.network.dtype, "exact")
    real = batch.bond_vector[:, :, 0].ravel() != 1000.0
    checked, worst = set(), 0.0
    for key in (k for k in data if k.startswith("out/")):
        block = model.network.blocks.get(key[4:])
        if block is None or isinstance(block.node, OutputNode):
            continue
        value = context.value(key[4:])
        wanted = data[key]
        if isinstance(value, dict):
            mine = np.transpose(rows_of(value, block.table).numpy(), (1, 2, 0))
        elif value.shape.rank == 4:  # R, by degree: [rows, W, l, n] -> [bonds, n, lm]
            by_degree = value.numpy().reshape(-1, *value.shape[2:])[real]
            degrees = np.repeat(np.arange(by_degree.shape[1]), 2 * np.arange(by_degree.shape[1]) + 1)
            mine, wanted = np.transpose(by_degree[:, degrees], (0, 2, 1)), wanted[order]
        elif value.shape.rank == 3:  # basis and harmonics of the bonds
            mine, wanted = value.numpy().reshape(-1, value.shape[2])[real], wanted[order]
        else:
            mine = value.numpy()
        assert mine.shape == wanted.shape, key
        checked.add(key[4:])
        worst = max(worst, np.abs(mine - wanted).max())
    energies = model.network.atomic_energies(batch_tensors(batch)).numpy()
    worst = max(worst, np.abs(energies[: len(numbers)] - data["out/atomic_energy"].ravel()).max())
    print(f"{name}: {len(checked)} stages, worst deviation {worst:.1e}")
    assert worst < 1e-11
    assert len(checked) >= 10


def dense(left, right, out, coefficient, symmetric):
    """Coupling terms as a bilinear form {(out, i, j): c}; symmetric products may store either order of factors."""
    if symmetric:
        left, right = np.maximum(left, right), np.minimum(left, right)
    size = (int(out.max()) + 1, int(left.max()) + 1, int(right.max()) + 1)
    table = np.zeros(size)
    np.add.at(table, (out, left, right), coefficient)
    return table


def terms_of(product):
    """Every term of a product table: left row, right row, output row, coefficient."""
    columns = []
    offsets = {side: t.offsets for side, t in zip("abo", (product.left, product.right, product.output), strict=True)}
    for c in product.couplings:
        a, b = product.left.groups[c.left], product.right.groups[c.right]
        for degree, group in c.targets:
            scale = coupling_scale(a.l, b.l, degree) if product.normalize else 1.0
            table = real_coupling(a.l, b.l, degree) * scale
            for m, i, j in np.argwhere(table):
                row = (offsets["a"][c.left] + i, offsets["b"][c.right] + j, offsets["o"][group] + m, table[m, i, j])
                columns.append(row)
    left, right, out, coefficient = (np.array(c) for c in zip(*columns, strict=True))
    return left, right, out, coefficient


@pytest.mark.parametrize("name", COUPLINGS)
def test_function_tables_and_coupling_terms(folder, evaluator, name):
    blocks = evaluator(name).network.blocks
    with np.load(folder / name / "couplings.npz") as file:
        data = {k: file[k] for k in file.files}
    products = 0
    for node in sorted({k.split("/")[0] for k in data}):
        block = blocks[node]
        wanted = [data[f"{node}/{k}"].tolist() for k in ("l", "parity", "label", "m")]
        assert block.table.rows() == list(zip(*wanted, strict=True)), node
        if f"{node}/coefficient" not in data or isinstance(block.node, Mix):  # a Mix keeps the table of its input
            continue
        products += 1
        theirs = [data[f"{node}/{k}"] for k in ("left_index", "right_index", "output_index", "coefficient")]
        symmetric = block.product.left is block.product.right
        mine = dense(*terms_of(block.product), symmetric)
        reference = dense(*theirs, symmetric)
        assert mine.shape == reference.shape, node
        assert np.abs(mine - reference).max() < 1e-12, node
    assert products >= 3


@pytest.mark.parametrize("name", ["grace_1l_tiny", "grace_2l_tiny", "grace_3l_like_tiny"])
def test_exported_weights_and_products(folder, evaluator, name):
    """The flat export of the published package holds the same weights and product terms."""
    network = evaluator(name).network
    weights = network.weights()
    with np.load(folder / name / "kokkos.npz") as file:
        data = {k: file[k] for k in file.files}
    pairs = {"chem_embedding": "Z/w"}
    for node in network.blueprint:
        n = node.name
        pairs |= {f"fc_{n}_w_left": f"{n}/w_left", f"fc_{n}_w_right": f"{n}/w_right"}
        pairs |= {f"{n}_lin_transform_W": f"{n}/lin_transform/w", f"{n}_chem_linear_W": f"{n}/chem_linear/w"}
        pairs |= {f"{n}_U": f"{n}/U", f"{n}_V": f"{n}/V", f"{n}_affine_weight": f"{n}/affine_weight"}
        pairs |= {f"{n}_reduce_{s}_W": f"{n}/reducing_{s}" for s in node.inputs()}
        pairs |= {f"{n}_mlp_W{i}": f"{n}/mlp_layers/{i}/w" for i in range(3)}
        pairs |= {f"mlp_rad_{n}_W{i}": f"{n}/layers/{i}/w" for i in range(3)}
    present = {k: v for k, v in pairs.items() if k in data}
    assert len(present) >= 8
    for key, variable in present.items():
        assert np.array_equal(np.squeeze(data[key]), np.squeeze(weights[variable])), key
    products = 0
    for node, prefix, cg in [(n, f"prod_{n}", "cg_coeff") for n in network.blocks] + [
        (n, n, "cg") for n in network.blocks
    ]:
        if f"{prefix}_m_sum_ind" not in data or f"{prefix}_left_ind" not in data:
            continue
        products += 1
        product = network.blocks[node].product
        symmetric = product.left is product.right
        theirs = dense(*(data[f"{prefix}_{k}"] for k in ("left_ind", "right_ind", "m_sum_ind", cg)), symmetric)
        assert np.abs(dense(*terms_of(product), symmetric) - theirs).max() < 1e-12, node
    assert products >= 3


def test_harmonics_table(folder):
    with np.load(folder / "basis_tables" / "spherical_harmonics.npz") as data:
        mine = np.stack(real_harmonics(*data["vectors"].T, 8), axis=-1)
        assert np.abs(mine - data["Y_lmax8"]).max() < 1e-13


def test_coupling_coefficient_table(folder):
    with np.load(folder / "basis_tables" / "real_coupling_coefficients.npz") as data:
        keys = [k for k in data.files if not k.startswith("factor_")]
        assert len(keys) > 100
        for key in keys:
            l1, l2, l3 = map(int, key.split("_"))
            assert np.abs(real_coupling(l1, l2, l3) - data[key]).max() < 1e-13, key
            assert coupling_scale(l1, l2, l3) == pytest.approx(float(data[f"factor_{key}"]), abs=1e-13), key


def test_radial_basis_table(folder):
    with np.load(folder / "basis_tables" / "radial_basis.npz") as data:
        r = data["r"]
        x = np.minimum(r / 6.0, 1.0)
        inside = (r <= 6.0)[:, None]
        cheb = {"normalized": False, "kind": 1, "reverse": False, "ops": np}
        mine = {
            "Cheb_n8_rc6_p5": formulas.chebyshev_basis(x, 8, 5, **cheb),
            "Cheb_n10_rc6_p16": formulas.chebyshev_basis(x, 10, 16, **cheb),
            "Cheb_n8_rc6_p5_normalized": formulas.chebyshev_basis(x, 8, 5, **cheb | {"normalized": True}),
            "Cheb_n6_rc6_p5_kind2": formulas.chebyshev_basis(x, 6, 5, **cheb | {"kind": 2}),
            "Cheb_n6_rc6_p5_reversed": formulas.chebyshev_basis(x, 6, 5, **cheb | {"reverse": True}),
            "SBessel_n20_rc6": formulas.sbessel_basis(np.minimum(r, 6.0), 20, 6.0, np),
            "RadSinBessel_n8_rc6_p5": formulas.sine_basis(x, 8, 5, 6.0, False, np),
            "RadSinBessel_n8_rc6_p5_normalized": formulas.sine_basis(x, 8, 5, 6.0, True, np),
        }
        for key, terms in mine.items():
            assert np.abs(np.stack(terms, axis=-1) * inside - data[key]).max() < 1e-13, key
        for p in (5, 16):  # tabulated beyond the cutoff, too
            difference = formulas.envelope(r / 6.0, p) - data[f"envelope_rc6_p{p}"].ravel()
            assert np.abs(difference[r <= 6.5]).max() < 1e-12, p
        short = np.stack(formulas.sbessel_basis(np.minimum(r, 5.5), 8, 5.5, np), axis=-1) * (r <= 5.5)[:, None]
        assert np.abs(short - data["SBessel_n8_rc55"]).max() < 1e-13
