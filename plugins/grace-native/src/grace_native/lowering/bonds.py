"""Densities and messages: what the bond loops of cpp/bonds.hpp are told."""

from __future__ import annotations

from typing import Any

import numpy as np

from grace_native.analysis import Info, is_message
from grace_native.lowering.base import LoweringBase
from grace_native.program import Array, BondCode, Code, LinearBlock, LinearTerm, Operation, Tensor
from gracecli.errors import ModelError
from gracecli.model.blueprint import ChemicalDensity, Density
from gracecli.model.couplings import coupling_scale, real_coupling


class BondSteps(LoweringBase):
    """Density, MessageDensity, ChemicalDensity."""

    def _inverse_average(self, average: float | tuple[float, ...]) -> Array:
        """1/avg for the elements present (of the centre)."""
        if isinstance(average, tuple):
            return np.array([1.0 / average[e] if average[e] > 0 else 1.0 for e in self.elements])
        return np.full(len(self.elements), 1.0 / average)

    def _density(self, node: Density) -> None:
        channels, lmax_radial = self.info(node.name).channels, self.info(node.name).table.groups[-1].l
        shape = (len(self.elements), lmax_radial + 1, channels)
        factor: Any = np.ones(shape)
        if node.embedding:
            z = self._chemistry(f"{node.name}/lin_transform/w", node.embedding)
            if node.embedding_per_l:
                by_degree = self.algebra.reshape(z, (shape[0], channels, z.shape[1] // channels))
                factor = self.algebra.transpose(by_degree, (0, 2, 1))[:, : lmax_radial + 1]
            else:
                factor = self.algebra.broadcast(z[:, None, :], shape)
        self._local_density(node, node.radial, factor, node.average_neighbours)

    def _chemical_density(self, node: ChemicalDensity) -> None:
        if is_message(node, self.blueprint):
            return self._message(node)
        info = self.info(node.name)
        factor = np.ones((len(self.elements), info.table.groups[-1].l + 1, info.channels))
        if node.indicator is not None:
            z = self._chemistry(f"{node.name}/lin_transform/w", node.indicator)
            factor = factor * z[:, None, :]
        return self._local_density(node, node.name, factor, node.average_neighbours)

    def _local_density(self, node: Any, radial: str, factor: Any, average: float | tuple[float, ...]) -> None:
        """A = sum over elements factor[element, l, n] / avg sum_b R Y, projected or direct."""
        phase, tensor = self.phase(node.name), self.own(node)
        info = self.info(node.name)
        lmax = max(info.table.groups[g].l for g in info.needed)
        self._widen(phase, lmax)
        inverse = self._inverse_average(average)
        table = self.radial.projected(radial, info.channels)
        if table is None:
            number, _ = self.radial.full(radial)
            factors = self.algebra.array(inverse[:, None, None, None]) * factor[None, :, : lmax + 1, :]
            fields: list[Any] = [number, lmax, 0, info.channels, tensor.at(), tensor.gradient_at(), factors]
            if self.trained:
                fields += [self.radial.slot(number), self.slot(factors)]
            self._bond_item(phase, BondCode.DENSITY_TRAINED if self.trained else BondCode.DENSITY, fields, tensor)
            self.on_backward(phase, lambda: self.finish(tensor, phase, info.table))
            return
        width = table.functions
        basis = Tensor(
            f"projection of {node.name}",
            len(self.elements) * width,
            {l: l * l for l in range(lmax + 1)},
            (lmax + 1) ** 2,
        )
        fields = [table.number, lmax, 1, basis.channels, basis.at(), basis.gradient_at()]
        self._bond_item(phase, BondCode.DENSITY, fields, basis)
        self.on_backward(phase, lambda: self.finish(basis, phase, info.table))
        blocks, owners, out = [], [], []
        for g in sorted(info.needed):
            l = info.table.groups[g].l
            # weights [centre, n, (element, k)]
            mixing = table.mixing[:, :, :, : info.channels, l]  # [centre, neighbour, k, n]
            weights = np.einsum("c,jn,cjkn->cnjk", inverse, factor[:, l], mixing).reshape(
                len(self.elements), info.channels, -1
            )
            if np.all(weights == weights[:1]):
                weights = weights[0]
            blocks.append(
                LinearBlock(
                    tensor.at(g), info.channels, 2 * l + 1, False, [LinearTerm(basis.at(l), basis.channels, weights)]
                )
            )
            owners.append([(basis, l)])
            out.append((tensor, g))
        self.linear(phase, blocks, owners, out, info.table)

    def _widen(self, phase: int, lmax: int) -> None:
        self.program.phases[phase].lmax = max(self.program.phases[phase].lmax, lmax)

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
        fields: list[Any] = [
            radial,
            number,
            lmax,
            indicator.rows,
            info.channels,
            tensor.at(),
            tensor.gradient_at(),
            tensor.rows,
        ]
        fields += used
        fields.append(len(terms))
        for row, target, _ in terms:
            fields += [row, target]
        fields.append(np.array([t[2] for t in terms]))
        if self.trained:
            fields.append(self.radial.slot(radial))
        self._bond_item(phase, BondCode.MESSAGE_TRAINED if self.trained else BondCode.MESSAGE, fields, tensor)
        self.on_backward(phase, lambda: self.finish(tensor, phase, info.table))

    def _send(self, node: Any, indicator: Tensor, source: Info) -> int:
        """Publish a tensor to the neighbours in the phase below, with the chemistry of the sender in its scalar row."""
        phase, channels = self.phase(node.name) - 1, indicator.channels
        number = len(self.program.messages)
        self.program.messages.append((phase, indicator.rows, channels))
        constant: Any = np.zeros((len(self.elements), channels))
        scalar_row = -1
        if node.embedding:
            constant = self._chemistry(f"{node.name}/chem_linear/w", node.embedding)
            groups = [g for g, group in enumerate(source.table.groups) if (group.l, group.p) == (0, 1)]
            if len(groups) != 1:
                raise ModelError(f"model: node {node.name!r} needs an indicator with exactly one scalar function")
            scalar_row = indicator.row_of.get(groups[0], -1)
        self.forward(
            phase,
            Operation(Code.STORE_MESSAGE, [number, indicator.at(), indicator.rows, channels, scalar_row, constant]),
        )

        def backward() -> None:
            if self.trained and scalar_row >= 0:
                constants = [number, indicator.rows, channels, scalar_row, self.slot(constant)]
                self.program.phases[phase].backward.append(Operation(Code.MESSAGE_CONSTANT_GRADIENT, constants))
            self.accumulate(indicator, phase)
            fields = [number, indicator.gradient_at(), indicator.rows, channels]
            self.program.phases[phase].backward.append(Operation(Code.ADD_MESSAGE_GRADIENT, fields))

        self.on_backward(phase, backward)
        return number
