"""Channel mixing and reductions."""

from __future__ import annotations

from typing import Any

import numpy as np

from grace_native.lowering.base import LoweringBase
from grace_native.program import Code, LinearBlock, LinearTerm, Operation, Tensor
from gracecli.model.blueprint import Mix, Reduce


class LinearSteps(LoweringBase):
    """Mix, Reduce."""

    def _mix(self, node: Mix) -> None:
        phase, out = self.phase(node.name), self.own(node)
        left, right = self.info(node.left), self.info(node.right)
        left_tensor, right_tensor = self.tensors[node.left], self.tensors[node.right]
        right_blocks = right.table.blocks()
        matches = [right_blocks.get((g.l, g.p), (0, 0, 0)) for g in left.table.groups]
        first_pair = np.concatenate([[0], np.cumsum([m[2] for m in matches])]).astype(int)
        scale_left = 1.0 / np.sqrt(left.channels) if node.normalize else 1.0
        scale_right = 1.0 / np.sqrt(right.channels) if node.normalize else 1.0
        w_left = self._columns(f"{node.name}/w_left", node.element_left) if node.left_weights else None
        w_right = self._columns(f"{node.name}/w_right", node.element_right)
        blocks, owners, outs = [], [], []
        for u in sorted(out.row_of):
            _, first, count = matches[u]
            factor = 1.0 / np.sqrt(1 + count) if node.output_norm else 1.0
            own = np.eye(out.channels) if w_left is None else w_left[u] * scale_left
            terms = [LinearTerm(left_tensor.at(u), left.channels, own * factor)]
            sources = [(left_tensor, u)]
            for v in range(first, first + count):
                weights = w_right[first_pair[u] + v - first] * (scale_right * factor)
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
            weights = self._columns(f"{node.name}/reducing_{source}", node.element_dependent)
            scale = node.scale / np.sqrt(held.channels) if node.normalize else 1.0
            for place, g in enumerate(groups):
                group = held.table.groups[g]
                target = next(
                    (t for t in out.row_of if (info.table.groups[t].l, info.table.groups[t].p) == (group.l, group.p)),
                    None,
                )
                if target is None:
                    continue
                assert tensor is not None
                counts[target] += 1
                term = LinearTerm(tensor.at(g), held.channels, weights[place] * scale)
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
            self._invariants(phase, node, parts[phase])
        if node.initial_value:
            for target, size in ((t, info.table.groups[t].size) for t in out.row_of):
                value = node.initial_value / divisor[target]
                self.forward(max(parts), Operation(Code.ADD_CONSTANT, [out.at(target), out.channels, size, value]))

    def _columns(self, name: str, dependent: bool) -> list[Any]:
        """Weights [elements, in, out] or [in, out] of every entry along the last axis."""
        return self.algebra.columns(self.by_element(self.w(name), dependent))

    def _invariants(
        self, phase: int, node: Reduce, parts: dict[int, list[tuple[LinearTerm, tuple[Tensor, int]]]]
    ) -> None:
        """What the extrapolation grade needs of the invariants that this reduction takes in this phase."""
        if self.features is None or node.name not in self.features.reductions:
            return
        taken = {id(tensor): tensor for entries in parts.values() for _, (tensor, _) in entries}
        fields: list[Any] = []
        weights = []
        for source, groups in zip(node.sources, self.info(node.name).collected, strict=True):
            if id(self.tensors.get(source)) not in taken:
                continue
            for place, g in enumerate(groups):
                fields += [self.tensors[source].at(g), self.info(source).channels]
                weights.append(self.features.rows(node.name, source, place))
        first = self.features.new_columns(node.name)
        matrix = np.concatenate(weights).T
        head = [first, len(matrix), int(self.features.bent), len(weights)]
        self.forward(phase, Operation(Code.INVARIANTS, [*head, *fields, matrix]))
