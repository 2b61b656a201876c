"""From a blueprint with weights to a :class:`~grace_native.program.Program` for a set of elements.

Every node becomes one or more *steps*; a step emits its forward operations, and later its backward ones. Linear maps
never write gradients one by one: what a consumer owes is noted at the source (``Tensor.pending``), and when the source
is reached all of it becomes one operation. Normalisations, 1/sqrt(fan-in), 1/avg and embeddings are folded into
weights here; weights of the central element are kept for the elements present only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import units
from ase.data import atomic_numbers

from grace_native.analysis import Analysis, Info, is_message
from grace_native.program import (
    Array,
    BondCode,
    Code,
    LinearBlock,
    LinearTerm,
    Operation,
    Pointer,
    Program,
    Tensor,
    linear_operation,
)
from grace_native.tables import RadialTables
from gracecli.errors import ModelError
from gracecli.model.blueprint import (
    ZBL,
    BranchReadout,
    ChemicalDensity,
    Density,
    ElementShift,
    EquivariantNorm,
    FinnisSinclairReadout,
    Gate,
    InitialEnergy,
    InvariantNorm,
    LinearReadout,
    MessageDensity,
    Mix,
    MLPReadout,
    OutputNode,
    Product,
    Reduce,
    ScaleShift,
)
from gracecli.model.couplings import coupling_scale, real_coupling
from gracecli.model.modelfile import Model

ACTIVATION_CODES = {"tanh": 0, "silu": 1, "sigmoid": 2, "scaled-silu": 3, "linear": 4}
Kernels = frozenset[tuple[int, int, int]]
ROUND = {"fp64": 8, "fp32": 16}
"""Lanes of a tile: channel numbers of bond tensors are padded to it."""


class Lowering:
    """Builds the program.

    Parameters
    ----------
    model : Model
    elements : sequence of int
        Element numbers of the model that are present.
    kernels : set of (l1, l2, mask)
        Couplings with compiled kernels.
    precision : str
        ``fp64`` or ``fp32``.
    exact : bool
        Radial functions are given on the bonds instead of tables.
    """

    def __init__(self, model: Model, elements: Sequence[int], kernels: Kernels, precision: str, exact: bool) -> None:
        self.blueprint = model.blueprint
        self.weights = {k: np.asarray(v) for k, v in model.weights.items()}
        self.elements = list(elements)
        self.kernels = kernels
        self.precision = precision
        self.analysis = Analysis(model.blueprint, self.weights)
        self.program = Program(len(self.elements), self.analysis.phases)
        self.last = self.analysis.phases - 1
        self.tensors: dict[str, Tensor] = {}
        self.radial = RadialTables(model, self.elements, precision, exact)
        self.backward: list[tuple[int, Any]] = []  # (phase, function) in forward order

    def build(self) -> Program:
        """Lower all nodes, then the backward pass."""
        steps = {
            Density: self._density, ChemicalDensity: self._chemical_density, MessageDensity: self._message,
            Mix: self._mix, Product: self._product, Reduce: self._reduce, InvariantNorm: self._invariant_norm,
            EquivariantNorm: self._equivariant_norm, Gate: self._gate,
        }  # fmt: skip
        for node in self.blueprint:
            step: Any = steps.get(type(node))
            if step is not None and self.analysis.info[node.name].needed:
                step(node)
        self._readouts()
        order = sorted(range(len(self.backward)), key=lambda i: (self.backward[i][0], i))
        for i in reversed(order):
            self.backward[i][1]()
        self.program.radials = self.radial.encoded()
        self.program.place()
        return self.program

    # -- small helpers ------------------------------------------------------------------------------------------------
    def w(self, name: str) -> Array:
        """A weight in double precision."""
        if name not in self.weights:
            raise ModelError(f"model: variable {name!r} is missing")
        return np.asarray(self.weights[name], dtype=np.float64)

    def info(self, name: str) -> Info:
        """Facts about a node."""
        return self.analysis.info[name]

    def phase(self, name: str) -> int:
        """Phase of a node."""
        return self.analysis.phase[name]

    def tensor(self, name: str, channels: int, groups: Sequence[int], table: Any) -> Tensor:
        """Make the tensor of a node with the given groups."""
        row_of, row = {}, 0
        for g in sorted(groups):
            row_of[g] = row
            row += table.groups[g].size
        return Tensor(name, channels, row_of, row)

    def own(self, node: Any) -> Tensor:
        """Make and remember the tensor of a node."""
        info = self.info(node.name)
        self.tensors[node.name] = self.tensor(node.name, info.channels, sorted(info.needed), info.table)
        return self.tensors[node.name]

    def forward(self, phase: int, operation: Operation) -> None:
        """Append a forward operation."""
        self.program.phases[phase].forward.append(operation)

    def on_backward(self, phase: int, function: Any) -> None:
        """Register what to do for this step in the backward pass."""
        self.backward.append((phase, function))

    def accumulate(self, tensor: Tensor, phase: int) -> None:
        """Make sure that gradients can be added to."""
        if not tensor.zeroed:
            zero = Operation(Code.ZERO, [tensor.gradient_at(), tensor.gradient.rows])
            self.program.phases[phase].backward.append(zero)
            tensor.zeroed = True

    def finish(self, tensor: Tensor, phase: int, table: Any) -> None:
        """Turn pending contributions to a gradient into one operation."""
        if tensor.finished:
            return
        tensor.finished = True
        if any(g not in tensor.pending for g in tensor.row_of):
            self.accumulate(tensor, phase)
        blocks = [
            LinearBlock(tensor.gradient_at(g), tensor.channels, table.groups[g].size, tensor.zeroed, terms)
            for g, terms in sorted(tensor.pending.items())
        ]
        if blocks:
            self.program.phases[phase].backward.append(linear_operation(blocks, len(self.elements)))

    def linear(self, phase: int, blocks: list[LinearBlock], owners: list[list[tuple[Tensor, int]]], out: list[tuple[Tensor, int]], table: Any) -> None:
        """A linear map and its transpose.

        ``owners[b][t]`` is the tensor and group that term t of block b reads, ``out[b]`` what block b writes.
        """
        self.forward(phase, linear_operation(blocks, len(self.elements)))

        def backward() -> None:
            for tensor, _ in out[:1]:
                self.finish(tensor, phase, table)
            for block, sources, (tensor, group) in zip(blocks, owners, out, strict=True):
                for term, (source, source_group) in zip(block.terms, sources, strict=True):
                    transposed = np.swapaxes(term.weights, -1, -2)
                    source.pending.setdefault(source_group, []).append(
                        LinearTerm(tensor.gradient_at(group), block.outputs, transposed)
                    )

        self.on_backward(phase, backward)

    def by_element(self, weights: Array, dependent: bool) -> Array:
        """Weights of the elements present, or the common ones."""
        return weights[self.elements] if dependent else weights

    # -- densities ----------------------------------------------------------------------------------------------------
    def _chemistry(self, path: str, embedding: str) -> Array:
        """Linear map of the embedding for all elements of the model, [elements, ...]."""
        w = self.w(path)
        return self.w(f"{embedding}/w") @ w / np.sqrt(w.shape[0])

    def _inverse_average(self, average: float | tuple[float, ...]) -> Array:
        """1/avg for the elements present (of the centre)."""
        if isinstance(average, tuple):
            return np.array([1.0 / average[e] if average[e] > 0 else 1.0 for e in self.elements])
        return np.full(len(self.elements), 1.0 / average)

    def _density(self, node: Density) -> None:
        channels, lmax_radial = self.info(node.name).channels, self.info(node.name).table.groups[-1].l
        factor = np.ones((len(self.elements), lmax_radial + 1, channels))
        if node.embedding:
            z = self._chemistry(f"{node.name}/lin_transform/w", node.embedding)[self.elements]
            if node.embedding_per_l:
                factor = z.reshape(len(self.elements), channels, -1).transpose(0, 2, 1)[:, : lmax_radial + 1]
            else:
                factor = np.repeat(z[:, None, :], lmax_radial + 1, axis=1)
        self._local_density(node, node.radial, factor, node.average_neighbours)

    def _chemical_density(self, node: ChemicalDensity) -> None:
        if is_message(node, self.blueprint):
            return self._message(node)
        info = self.info(node.name)
        factor = np.ones((len(self.elements), info.table.groups[-1].l + 1, info.channels))
        if node.indicator is not None:
            z = self._chemistry(f"{node.name}/lin_transform/w", node.indicator)[self.elements]
            factor = factor * z[:, None, :]
        return self._local_density(node, node.name, factor, node.average_neighbours)

    def _local_density(self, node: Any, radial: str, factor: Array, average: float | tuple[float, ...]) -> None:
        """A = sum over elements factor[element, l, n] / avg sum_b R Y, projected or direct."""
        phase, tensor = self.phase(node.name), self.own(node)
        info = self.info(node.name)
        lmax = max(info.table.groups[g].l for g in info.needed)
        self._widen(phase, lmax)
        inverse = self._inverse_average(average)
        table = self.radial.projected(radial, info.channels)
        if table is None:
            number, _ = self.radial.full(radial)
            factors = inverse[:, None, None, None] * factor[None, :, : lmax + 1, :]
            fields = [number, lmax, 0, info.channels, tensor.at(), tensor.gradient_at(), np.ascontiguousarray(factors)]
            self._bond_item(phase, BondCode.DENSITY, fields, tensor)
            self.on_backward(phase, lambda: self.finish(tensor, phase, info.table))
            return
        width = table.functions
        basis = Tensor(f"projection of {node.name}", len(self.elements) * width, {l: l * l for l in range(lmax + 1)}, (lmax + 1) ** 2)
        fields = [table.number, lmax, 1, basis.channels, basis.at(), basis.gradient_at()]
        self._bond_item(phase, BondCode.DENSITY, fields, basis)
        self.on_backward(phase, lambda: self.finish(basis, phase, info.table))
        blocks, owners, out = [], [], []
        for g in sorted(info.needed):
            l = info.table.groups[g].l
            # weights [centre, n, (element, k)]
            mixing = table.mixing[:, :, :, : info.channels, l]  # [centre, neighbour, k, n]
            weights = np.einsum("c,jn,cjkn->cnjk", inverse, factor[:, l], mixing).reshape(len(self.elements), info.channels, -1)
            if np.all(weights == weights[:1]):
                weights = weights[0]
            blocks.append(LinearBlock(tensor.at(g), info.channels, 2 * l + 1, False, [LinearTerm(basis.at(l), basis.channels, weights)]))
            owners.append([(basis, l)])
            out.append((tensor, g))
        self.linear(phase, blocks, owners, out, info.table)

    def _widen(self, phase: int, lmax: int) -> None:
        self.program.phases[phase].lmax = max(self.program.phases[phase].lmax, lmax)

    def _bond_item(self, phase: int, code: BondCode, fields: list[Any], tensor: Tensor | None) -> None:
        own = self.program.phases[phase]
        own.bonds.append(Operation(code, fields))  # type: ignore[arg-type]
        if tensor is not None:
            own.bond_values.append(tensor.value)
            own.bond_gradients.append(tensor.gradient)

    # -- messages -----------------------------------------------------------------------------------------------------
    def _message(self, node: Any) -> None:
        phase, info = self.phase(node.name), self.info(node.name)
        indicator, source = self.tensors[node.indicator], self.info(node.indicator)
        number = self._send(node, indicator, source)
        tensor = self.own(node)
        couplings = self.analysis.couplings(node.name)
        assert info.product is not None
        left = info.product.left
        lmax = max(left.groups[c.left].l for c in couplings)
        self._widen(phase, lmax)
        radial, _ = self.radial.full(node.name if isinstance(node, ChemicalDensity) else node.radial)
        used = [int(any(left.groups[c.left].l == l for c in couplings)) for l in range(lmax + 1)]
        terms: list[tuple[int, int, float]] = []
        for c in couplings:
            a, b = left.groups[c.left], source.table.groups[c.right]
            for L, target in c.targets:
                table = real_coupling(a.l, b.l, L) * (coupling_scale(a.l, b.l, L) if node.normalize else 1.0)
                for M, m1, m2 in zip(*np.nonzero(table), strict=True):
                    row = (a.l**2 + int(m1)) * indicator.rows + indicator.row_of[c.right] + int(m2)
                    terms.append((row, tensor.row_of[target] + int(M), table[M, m1, m2] / node.average_neighbours))
        terms.sort(key=lambda t: (t[1], t[0]))
        fields: list[Any] = [radial, number, lmax, indicator.rows, info.channels, tensor.at(), tensor.gradient_at(), tensor.rows]
        fields += used
        fields.append(len(terms))
        for row, target, _ in terms:
            fields += [row, target]
        fields.append(np.array([t[2] for t in terms]))
        self._bond_item(phase, BondCode.MESSAGE, fields, tensor)
        self.on_backward(phase, lambda: self.finish(tensor, phase, info.table))

    def _send(self, node: Any, indicator: Tensor, source: Info) -> int:
        """Publish a tensor to the neighbours in the phase below, with the chemistry of the sender in its scalar row."""
        phase, channels = self.phase(node.name) - 1, indicator.channels
        number = len(self.program.messages)
        self.program.messages.append((phase, indicator.rows, channels))
        constant, scalar_row = np.zeros((len(self.elements), channels)), -1
        if node.embedding:
            constant = self._chemistry(f"{node.name}/chem_linear/w", node.embedding)[self.elements]
            groups = [g for g, group in enumerate(source.table.groups) if (group.l, group.p) == (0, 1)]
            if len(groups) != 1:
                raise ModelError(f"model: node {node.name!r} needs an indicator with exactly one scalar function")
            if groups[0] not in indicator.row_of:
                scalar_row = -1
            else:
                scalar_row = indicator.row_of[groups[0]]
        self.forward(phase, Operation(Code.STORE_MESSAGE, [number, indicator.at(), indicator.rows, channels, scalar_row, constant]))

        def backward() -> None:
            self.accumulate(indicator, phase)
            fields = [number, indicator.gradient_at(), indicator.rows, channels]
            self.program.phases[phase].backward.append(Operation(Code.ADD_MESSAGE_GRADIENT, fields))

        self.on_backward(phase, backward)
        return number

    # -- linear maps --------------------------------------------------------------------------------------------------
    def _mix(self, node: Mix) -> None:
        phase, out = self.phase(node.name), self.own(node)
        left, right = self.info(node.left), self.info(node.right)
        left_tensor, right_tensor = self.tensors[node.left], self.tensors[node.right]
        right_blocks = right.table.blocks()
        matches = [right_blocks.get((g.l, g.p), (0, 0, 0)) for g in left.table.groups]
        first_pair = np.concatenate([[0], np.cumsum([m[2] for m in matches])]).astype(int)
        scale_left = 1.0 / np.sqrt(left.channels) if node.normalize else 1.0
        scale_right = 1.0 / np.sqrt(right.channels) if node.normalize else 1.0
        w_left = self.by_element(self.w(f"{node.name}/w_left"), node.element_left) if node.left_weights else None
        w_right = self.by_element(self.w(f"{node.name}/w_right"), node.element_right)
        blocks, owners, outs = [], [], []
        for u in sorted(out.row_of):
            _, first, count = matches[u]
            factor = 1.0 / np.sqrt(1 + count) if node.output_norm else 1.0
            own = np.eye(out.channels) if w_left is None else w_left[..., u] * scale_left
            terms = [LinearTerm(left_tensor.at(u), left.channels, own * factor)]
            sources = [(left_tensor, u)]
            for v in range(first, first + count):
                weights = w_right[..., first_pair[u] + v - first] * (scale_right * factor)
                terms.append(LinearTerm(right_tensor.at(v), right.channels, weights))
                sources.append((right_tensor, v))
            blocks.append(LinearBlock(out.at(u), out.channels, left.table.groups[u].size, False, terms))
            owners.append(sources)
            outs.append((out, u))
        self.linear(phase, blocks, owners, outs, left.table)

    def _reduce(self, node: Reduce) -> None:
        info, out = self.info(node.name), self.own(node)
        own_phase = self.phase(node.name)
        parts: dict[int, dict[int, list[tuple[LinearTerm, tuple[Tensor, int]]]]] = {}
        counts = dict.fromkeys(out.row_of, 0)
        for source, groups in zip(node.sources, info.collected, strict=True):
            held, tensor = self.info(source), self.tensors.get(source)
            weights = self.by_element(self.w(f"{node.name}/reducing_{source}"), node.element_dependent)
            weights = weights * (node.scale / np.sqrt(held.channels) if node.normalize else 1.0)
            for place, g in enumerate(groups):
                group = held.table.groups[g]
                target = next((t for t in out.row_of if (info.table.groups[t].l, info.table.groups[t].p) == (group.l, group.p)), None)
                if target is None:
                    continue
                assert tensor is not None
                counts[target] += 1
                term = LinearTerm(tensor.at(g), held.channels, weights[..., place])
                phase = min(max(self.phase(source), 0), own_phase)
                parts.setdefault(phase, {}).setdefault(target, []).append((term, (tensor, g)))
        divisor = {t: np.sqrt(c) if node.output_norm and c else 1.0 for t, c in counts.items()}
        written: set[int] = set()
        for n, phase in enumerate(sorted(parts)):
            if n == 0 and not all(counts.values()):
                self.forward(phase, Operation(Code.ZERO, [out.at(), out.value.rows]))
                written |= set(out.row_of)
            blocks, owners, outs = [], [], []
            for target, entries in sorted(parts[phase].items()):
                terms = [LinearTerm(t.source, t.channels, t.weights / divisor[target]) for t, _ in entries]
                size = info.table.groups[target].size
                blocks.append(LinearBlock(out.at(target), out.channels, size, target in written, terms))
                owners.append([owner for _, owner in entries])
                outs.append((out, target))
                written.add(target)
            self.linear(phase, blocks, owners, outs, info.table)
        if node.initial_value:
            for target, size in ((t, info.table.groups[t].size) for t in out.row_of):
                value = node.initial_value / divisor[target]
                self.forward(max(parts), Operation(Code.ADD_CONSTANT, [out.at(target), out.channels, size, value]))

    # -- products -----------------------------------------------------------------------------------------------------
    def _product(self, node: Product) -> None:
        phase, info = self.phase(node.name), self.info(node.name)
        left, right = self.tensors[node.left], self.tensors[node.right]
        couplings = self.analysis.couplings(node.name)
        assert info.product is not None
        entries = [(c.left, c.right, L, target) for c in couplings for L, target in c.targets]
        left_rows = {(c, L): left.row_of[c] for c, _, L, _ in entries}
        right_rows = {(c, L): right.row_of[c] for _, c, L, _ in entries}
        if node.mode not in ("plain", "elementwise"):
            left, left_rows = self._mapped(node, "U", left, info.product.left, [(a, b, L, t) for a, b, L, t in entries], 0)
            right, right_rows = self._mapped(node, "V", right, info.product.right, entries, 1)
        rank = info.channels
        if node.mode not in ("plain", "elementwise") and node.use_S:
            assert node.rank is not None
            rank = node.rank
        out = self.own(node)
        target = out if rank == info.channels and not self._has_S(node) else self.tensor(f"{node.name} before S", rank, sorted(info.needed), info.table)
        self._multiply(phase, node, entries, left, left_rows, right, right_rows, target)
        if target is not out:
            s = self.w(f"{node.name}/S") / np.sqrt(rank)
            blocks = [LinearBlock(out.at(g), out.channels, info.table.groups[g].size, False, [LinearTerm(target.at(g), rank, s)]) for g in sorted(out.row_of)]
            groups = sorted(out.row_of)
            self.linear(phase, blocks, [[(target, g)] for g in groups], [(out, g) for g in groups], info.table)

    def _has_S(self, node: Product) -> bool:
        return node.mode not in ("plain", "elementwise") and node.use_S

    def _mapped(self, node: Product, name: str, source: Tensor, table: Any, entries: list[tuple[int, int, int, int]], side: int) -> tuple[Tensor, dict[tuple[int, int], int]]:
        """Low-rank channel map of one factor: its tensor and the first row of (group, target degree)."""
        phase = self.phase(node.name)
        matrix = self.w(f"{node.name}/{name}") / np.sqrt(source.channels)
        assert node.rank is not None
        own_phase_table = _MappedTable()
        rows: dict[tuple[int, int], int] = {}
        maps: dict[Any, tuple[int, Array]] = {}  # what is mapped -> (group, weights)
        if node.mode == "cp_lL":
            product = self.info(node.name).product
            assert product is not None
            numbers: dict[tuple[int, int], int] = {}
            for _, L, c in sorted((g, L, c) for c in product.couplings for L, g in c.targets):
                numbers.setdefault(((c.left, c.right)[side], L), len(numbers))
            for entry in entries:
                key = (entry[side], entry[2])
                maps.setdefault(key, (entry[side], matrix[numbers[key]]))
        else:
            order = sorted(range(len(table.groups)), key=lambda i: (table.groups[i].l, table.groups[i].label, table.groups[i].p))
            for entry in entries:
                g = entry[side]
                maps.setdefault(g, (g, matrix if node.mode == "cp" else matrix[order.index(g)]))
        row_of, row = {}, 0
        for number, (key, (g, _)) in enumerate(maps.items()):
            row_of[number] = row
            own_phase_table.groups.append(table.groups[g])
            for entry in entries:
                if entry[side] == g and (node.mode != "cp_lL" or key == (g, entry[2])):
                    rows[g, entry[2]] = row
            row += table.groups[g].size
        mapped = Tensor(f"{node.name} {name}", node.rank, row_of, row)
        blocks, owners, outs = [], [], []
        for number, (g, weights) in enumerate(maps.values()):
            size = table.groups[g].size
            blocks.append(LinearBlock(mapped.at(number), node.rank, size, False, [LinearTerm(source.at(g), source.channels, weights)]))
            owners.append([(source, g)])
            outs.append((mapped, number))
        self.linear(phase, blocks, owners, outs, own_phase_table)
        return mapped, rows

    def _multiply(
        self, phase: int, node: Product, entries: list[tuple[int, int, int, int]], left: Tensor, left_rows: dict[tuple[int, int], int],
        right: Tensor, right_rows: dict[tuple[int, int], int], out: Tensor,
    ) -> None:  # fmt: skip
        """The channel-wise product itself."""
        product = self.info(node.name).product
        assert product is not None
        pairs: dict[tuple[int, int, int, int], list[tuple[int, int]]] = {}  # (rows, degrees) -> targets
        for a, b, L, target in entries:
            la, lb = product.left.groups[a].l, product.right.groups[b].l
            pairs.setdefault((left_rows[a, L], right_rows[b, L], la, lb), []).append((L, out.row_of[target]))
        buckets: dict[tuple[int, int, tuple[int, ...]], list[list[int]]] = {}
        terms: list[tuple[int, int, int, float]] = []
        for (row_a, row_b, la, lb), targets in pairs.items():
            rows = dict(targets)
            for degrees in split_degrees(la, lb, tuple(sorted(rows)), self.kernels):
                if (la, lb, mask_of(degrees)) in self.kernels:
                    buckets.setdefault((la, lb, degrees), []).append([row_a, row_b, *(rows[L] for L in degrees)])
                    continue
                for L in degrees:
                    table = real_coupling(la, lb, L) * (coupling_scale(la, lb, L) if node.normalize else 1.0)
                    terms += [
                        (row_a + int(i), row_b + int(j), rows[L] + int(M), float(table[M, i, j]))
                        for M, i, j in zip(*np.nonzero(table), strict=True)
                    ]
        terms.sort(key=lambda t: t[2])
        tail: list[Any] = [len(buckets)]
        for (la, lb, degrees), lists in buckets.items():
            scale = np.array([coupling_scale(la, lb, L) if node.normalize else 1.0 for L in degrees])
            tail += [la, lb, mask_of(degrees), len(degrees), scale, len(lists)]
            for entry in lists:
                tail += entry
        tail.append(len(terms))
        for a, b, o, value in terms:
            tail += [a, b, o, value]
        head = [out.channels, left.at(), right.at(), out.at()]
        self.forward(phase, Operation(Code.PRODUCT, [*head, *tail]))
        table = self.info(node.name).table

        def backward() -> None:
            self.finish(out, phase, table)
            self.accumulate(left, phase)
            self.accumulate(right, phase)
            gradients = [out.gradient_at(), left.gradient_at(), right.gradient_at()]
            # the values of the product itself are not read: its place holds the left factor
            fields = [out.channels, left.at(), right.at(), left.at(), *gradients, *tail]
            self.program.phases[phase].backward.append(Operation(Code.PRODUCT_BACKWARD, fields))

        self.on_backward(phase, backward)

    # -- norms --------------------------------------------------------------------------------------------------------
    def _norm(self, node: Any, codes: tuple[Code, Code], fields: list[Any]) -> None:
        phase, source, out = self.phase(node.name), self.tensors[node.source], self.own(node)
        table = self.info(node.name).table
        self.forward(phase, Operation(codes[0], [source.at(), out.at(), *fields]))

        def backward() -> None:
            self.finish(out, phase, table)
            self.accumulate(source, phase)
            pointers = [source.at(), source.at(), source.gradient_at(), out.gradient_at()]
            self.program.phases[phase].backward.append(Operation(codes[1], [*pointers, *fields]))

        self.on_backward(phase, backward)

    def _invariant_norm(self, node: InvariantNorm) -> None:
        channels, first = self.info(node.name).channels, 0 if node.mode == "full" else 1
        linear = float(self.w(f"{node.name}/lin_scale")[0, 0]) if node.mode == "sep_lin_gate" else 1.0
        fields = [channels, first, linear, self.w(f"{node.name}/scale").ravel()]
        self._norm(node, (Code.INVARIANT_NORM, Code.INVARIANT_NORM_BACKWARD), fields)

    def _equivariant_norm(self, node: EquivariantNorm) -> None:
        info = self.info(node.name)
        groups, sizes = info.table.groups, [g.size for g in info.table.groups]
        degrees = sorted({g.l for g in groups})
        higher = [l for l in degrees if l > 0]
        scalar = np.repeat([g.l == 0 for g in groups], sizes)
        sets = np.zeros(len(scalar), dtype=int)
        if node.scalars_only:
            weights, sets = [self._degree_weights(node, info, [0]), np.zeros(len(scalar))], np.where(scalar, 0, -1)
        elif node.split:
            second = self._degree_weights(node, info, higher) if higher else np.zeros(len(scalar))
            weights, sets = [self._degree_weights(node, info, [0]), second], np.where(scalar, 0, 1)
        else:
            weights = [self._degree_weights(node, info, degrees), np.zeros(len(scalar))]
        affine = np.repeat(self.w(f"{node.name}/affine_weight"), sizes, axis=0)
        affine = np.where((sets < 0)[:, None], 1.0, affine)
        bias = np.zeros_like(affine)
        if node.center and node.center_bias:
            bias = self.w(f"{node.name}/l0_bias")[0].T * scalar[:, None]
        centre = scalar & node.center
        fields: list[Any] = [info.channels, len(scalar), 1e-12 if self.precision == "fp64" else 1e-8]
        fields += [*sets.tolist(), *(int(c) for c in centre), np.concatenate(weights), affine, bias]
        self._norm(node, (Code.EQUIVARIANT_NORM, Code.EQUIVARIANT_NORM_BACKWARD), fields)

    def _gate(self, node: Gate) -> None:
        info = self.info(node.name)
        groups = info.table.groups
        first = np.concatenate([[0], np.cumsum([g.size for g in groups])])
        scalars = [int(o) for g, o in zip(groups, first, strict=False) if g.l == 0]
        channels, mixed = info.channels, node.mix_channels or 0
        fields: list[Any] = [channels, len(groups), *first.tolist(), len(scalars), *scalars, mixed]
        if mixed:
            fields += [self.w(f"{node.name}/mix_weight") / np.sqrt(channels), self.w(f"{node.name}/mix_weight_back") / np.sqrt(mixed)]
        else:
            fields += [np.zeros(0), np.zeros(0)]
        names = [("gate_weight", "gate_bias")] if node.hidden is None else [("gate_w1", "gate_b1"), ("gate_w2", "gate_b2")]
        fields.append(len(names))
        for weight, bias in names:
            w = self.w(f"{node.name}/{weight}")
            b = self.w(f"{node.name}/{bias}") if node.bias else np.zeros(w.shape[1])
            fields += [w.shape[0], w.shape[1], w / np.sqrt(w.shape[0]), b]
        self._norm(node, (Code.GATE, Code.GATE_BACKWARD), fields)

    def _degree_weights(self, node: EquivariantNorm, info: Info, degrees: list[int]) -> Array:
        """d_f restricted to the given degrees."""
        rows = {l: sum(g.size for g in info.table.groups if g.l == l) for l in degrees}
        total = sum(rows.values())
        balanced = node.balance_degrees or node.split
        values = [
            0.0 if g.l not in rows else 1.0 / (rows[g.l] * len(degrees)) if balanced else 1.0 / total
            for g in info.table.groups
        ]
        return np.repeat(values, [g.size for g in info.table.groups])

    # -- energy -------------------------------------------------------------------------------------------------------
    def _readouts(self) -> None:
        """Readouts with the product of all later scales; constants are summed up per element."""
        outputs = [n for n in self.blueprint if isinstance(n, OutputNode)]
        constant = np.zeros(len(self.elements))
        for place, node in enumerate(outputs):
            if isinstance(node, InitialEnergy):
                constant = constant + node.value
            elif isinstance(node, ScaleShift):
                constant = constant * node.scale + self._scale_shift(node)
            elif isinstance(node, ElementShift):
                constant = constant + self._element_shift(node)
            else:
                multiplier = float(np.prod([n.scale for n in outputs[place + 1 :] if isinstance(n, ScaleShift)]))
                self._readout(node, multiplier)
        self.program.constant = constant

    def _scale_shift(self, node: ScaleShift) -> Array:
        shift = np.full(len(self.elements), node.shift)
        if node.element_shifts is not None:
            shift = shift + np.array(node.element_shifts)[self.elements]
        if node.embedding:
            shift = shift + self._chemistry(f"{node.name}/embedding_shift", node.embedding)[self.elements, 0]
        return shift

    def _element_shift(self, node: ElementShift) -> Array:
        if node.embedding:
            return (self.w(f"{node.embedding}/w") @ self.w(f"{node.name}/proj"))[self.elements, 0]
        return self.w(f"{node.name}/at_shifts")[self.elements, 0]

    def _readout(self, node: Any, multiplier: float) -> None:
        if isinstance(node, MLPReadout):
            self._network_readout(node, multiplier)
        elif isinstance(node, BranchReadout):
            self._branch_readout(node, multiplier)
        elif isinstance(node, FinnisSinclairReadout):
            parameters = np.array(node.parameters, dtype=float)
            fields: list[Any] = [len(node.sources)]
            for s in node.sources:
                fields += [self.tensors[s].at(0), self.tensors[s].gradient_at(0)]
            self._emit_readout(node.sources, Code.FINNIS_SINCLAIR_READOUT, [*fields, multiplier, len(parameters), parameters])
        elif isinstance(node, LinearReadout):
            self._linear_readout(node, multiplier)
        else:
            raise ModelError(f"native engine: output node {node.name!r} is of type {node.kind}, which it cannot evaluate")

    def _emit_readout(self, sources: Sequence[str], code: Code, fields: list[Any]) -> None:
        """Readouts run at the start of the backward pass of the last phase."""

        def backward() -> None:
            for s in dict.fromkeys(sources):
                self.accumulate(self.tensors[s], self.last)
            self.program.phases[self.last].backward.append(Operation(code, fields))

        self.on_backward(self.last, backward)

    def _network_fields(
        self, sources: Sequence[str], linear: list[float], first: int, multiplier: float, norms: list[Array],
        per_source: bool, layers: list[Array], activation: str, dependent: bool,
    ) -> list[Any]:  # fmt: skip
        fields: list[Any] = [len(sources)]
        for s, factor in zip(sources, linear, strict=True):
            fields += [self.tensors[s].at(0), self.tensors[s].gradient_at(0), float(factor)]
        fields += [self.info(sources[0]).channels, first, float(multiplier), 1e-16, int(per_source), len(norms), *norms]
        fields += [len(layers), ACTIVATION_CODES[activation], int(dependent)]
        for w in layers:
            scaled = np.swapaxes(self.by_element(w, dependent), -1, -2) / np.sqrt(w.shape[-2])
            fields += [scaled.shape[-2], scaled.shape[-1], scaled]
        return fields

    def _network_readout(self, node: MLPReadout, multiplier: float) -> None:
        layers = [self.w(f"{node.name}/mlp/layer{i}/w") for i in range(len(node.hidden) + 1)]
        norms = [self.w(f"{node.name}/scale").ravel()] if node.normalize else []
        first = int(node.linear_channel)
        fields = self._network_fields(
            node.sources, [float(first)] * len(node.sources), first, multiplier, norms, False, layers, node.activation, False
        )
        self._emit_readout(node.sources, Code.NETWORK_READOUT, fields)

    def _branch_readout(self, node: BranchReadout, multiplier: float) -> None:
        alpha = [float(self.w(f"{node.name}/alpha/{i}")) for i in range(len(node.sources))]
        scales = [self.w(f"{node.name}/scales/{i}").ravel() for i in range(len(node.sources))]
        parts = [list(range(len(node.sources)))] if node.shared else [[i] for i in range(len(node.sources))]
        for number, part in enumerate(parts):
            layers = [self.w(f"{node.name}/mlp_layers/{number}/{k}/w") for k in range(len(node.hidden) + 1)]
            sources = [node.sources[i] for i in part]
            fields = self._network_fields(
                sources, [alpha[i] for i in part], 1, multiplier, [scales[i] for i in part], True, layers, node.activation,
                node.element_dependent,
            )  # fmt: skip
            self._emit_readout(sources, Code.NETWORK_READOUT, fields)

    def _linear_readout(self, node: LinearReadout, multiplier: float) -> None:
        paths = ["w"] if len(node.sources) == 1 else [f"w/{i}" for i in range(len(node.sources))]
        for source, path in zip(node.sources, paths, strict=True):
            channels = self.info(source).channels
            weights = np.full(channels, multiplier)
            if node.trainable:
                w = self.w(f"{node.name}/{path}")
                weights = multiplier * w[:, 0] / np.sqrt(len(w))
            origin = self.blueprint.by_name[source]
            if isinstance(origin, ZBL):
                self._zbl(origin, float(weights[0]))
                continue
            tensor = self.tensors[source]
            fields = [tensor.at(0), tensor.gradient_at(0), channels, weights]
            self._emit_readout([source], Code.LINEAR_READOUT, fields)

    def _zbl(self, node: ZBL, factor: float) -> None:
        n = len(node.elements)
        if f"{node.name}/bond_zbl_cutoff_map" in self.weights:
            cutoffs = self.w(f"{node.name}/bond_zbl_cutoff_map").reshape(n, n)
        else:
            cutoffs = np.full((n, n), float(self.w(f"{node.name}/cutoff")[0, 0]))
        charge = np.array([float(atomic_numbers[node.elements[e]]) for e in self.elements])
        delta = float(self.w(f"{node.name}/delta_cutoff")[0, 0])
        coulomb = float(units.Hartree * units.Bohr)
        own = np.ascontiguousarray(cutoffs[np.ix_(self.elements, self.elements)])
        self._bond_item(self.last, BondCode.ZBL, [own, charge, delta, 0.5 * coulomb * factor], None)


class _MappedTable:
    """Groups of a mapped factor, enough of a function table for :meth:`Lowering.finish`."""

    def __init__(self) -> None:
        self.groups: list[Any] = []


def mask_of(degrees: Sequence[int]) -> int:
    """Bit L set for every degree L."""
    return sum(1 << L for L in degrees)


def split_degrees(l1: int, l2: int, degrees: tuple[int, ...], kernels: Kernels) -> list[tuple[int, ...]]:
    """Cut a set of target degrees into sets with kernels: as it is, by parity, or one by one."""
    if (l1, l2, mask_of(degrees)) in kernels:
        return [degrees]
    result: list[tuple[int, ...]] = []
    for parity in (0, 1):
        part = tuple(L for L in degrees if L % 2 == parity)
        if part and (l1, l2, mask_of(part)) in kernels:
            result.append(part)
        else:
            result += [(L,) for L in part]
    return result


__all__ = ["Lowering", "Pointer"]
