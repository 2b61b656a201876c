"""Write the coupled-product kernels as straight-line C++ (run by CMake; standard library only).

For a pair of groups of degrees l1, l2 and a set of target degrees::

    forward    out_L[M]  = s_L sum_(m1,m2) G^L[M,m1,m2] a[m1] b[m2]
    backward   h[m1,m2]  = sum_(L,M) s_L G^L[M,m1,m2] g_L[M];   ga[m1] += h b[m2];   gb[m2] += h a[m1]

Only non-zero coefficients appear. The backward kernel forms h once for both gradients and all targets.
Sets of targets: all of one parity up to degree 3 or 4, and every single degree; the planner splits others into these.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from math import factorial as f
from math import sqrt
from pathlib import Path

L_FACTOR = 4  # both factors up to this degree, targets too
L_SCALAR = 8  # l x l -> 0 up to this degree


def clebsch_gordan(l1: int, m1: int, l2: int, m2: int, l3: int, m3: int) -> float:
    """Racah's formula."""
    if m3 != m1 + m2 or not abs(l1 - l2) <= l3 <= l1 + l2 or abs(m3) > l3:
        return 0.0
    prefactor = Fraction((2 * l3 + 1) * f(l3 + l1 - l2) * f(l3 - l1 + l2) * f(l1 + l2 - l3), f(l1 + l2 + l3 + 1)) * (
        f(l3 + m3) * f(l3 - m3) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2)
    )
    total = Fraction(0)
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        denominator = f(k) * f(l1 + l2 - l3 - k) * f(l1 - m1 - k) * f(l2 + m2 - k)
        denominator *= f(l3 - l2 + m1 + k) * f(l3 - l1 - m2 + k)
        total += Fraction((-1) ** k, denominator)
    return (1.0 if total > 0 else -1.0) * sqrt(prefactor * total * total)


def to_real(l: int) -> dict[tuple[int, int], complex]:
    """Matrix complex order -> real order, as (row, column) -> value."""
    phase = (-1j) ** l
    entries = {(0, 0): 1.0 + 0j}
    h = 1 / sqrt(2.0)
    for m in range(1, l + 1):
        entries.update({(m, m): (-1) ** m * h, (m, -m): 1j * (-1) ** m * h, (-m, m): h, (-m, -m): -1j * h})
    return {key: value * phase for key, value in entries.items()}


def real_coupling(l1: int, l2: int, l3: int) -> dict[tuple[int, int, int], float]:
    """Non-zero G[M, m1, m2], indices from 0."""
    c1, c2, c3 = to_real(l1), to_real(l2), to_real(l3)
    table: dict[tuple[int, int, int], complex] = {}
    for (m1, r1), v1 in c1.items():
        for (m2, r2), v2 in c2.items():
            cg = clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2)
            if cg == 0.0:
                continue
            for (m3, r3), v3 in c3.items():
                if m3 == m1 + m2:
                    key = (r3 + l3, r1 + l1, r2 + l2)
                    table[key] = table.get(key, 0j) + v3.conjugate() * cg * v1 * v2
    return {key: value.real for key, value in sorted(table.items()) if abs(value) > 1e-10}


def target_sets(l1: int, l2: int) -> list[tuple[int, ...]]:
    """Sets of target degrees with a kernel of their own."""
    sets = []
    low, high = abs(l1 - l2), l1 + l2
    for top in (3, L_FACTOR):
        for parity in (0, 1):
            degrees = tuple(L for L in range(low, min(high, top) + 1) if (high + L) % 2 == parity)
            if degrees and degrees not in sets:
                sets.append(degrees)
    sets.extend((L,) for L in range(low, min(high, L_FACTOR) + 1) if (L,) not in sets)
    return sets


def kernel(l1: int, l2: int, degrees: tuple[int, ...]) -> str:
    """C++ text of both kernels."""
    name = f"{l1}_{l2}_{''.join(map(str, degrees))}"
    n1, n2, stride = 2 * l1 + 1, 2 * l2 + 1, 2 + len(degrees)
    terms: dict[tuple[int, int], list[tuple[str, float]]] = {}
    for L in degrees:
        for (M, m1, m2), value in real_coupling(l1, l2, L).items():
            terms.setdefault((m1, m2), []).append((f"{L}_{M}", value))
    used2 = sorted({m2 for _, m2 in terms})
    head = (
        f"for (int i = 0; i < count; ++i, e += {stride})\n for (int s = 0; s < kLanes; s += kVector) {{\n"
        f"  const Real *a = left + e[0] * kLanes + s, *b = right + e[1] * kLanes + s;\n"
    )
    load_b = "".join(f"  const V b{m} = load<Real>(b + {m} * kLanes);\n" for m in used2)

    forward = head + load_b
    targets = [(k, L, M) for k, L in enumerate(degrees) for M in range(2 * L + 1)]
    forward += "".join(f"  V o{L}_{M} = zero<Real>();\n" for _, L, M in targets)
    for m1 in range(n1):
        mine = [m2 for m2 in range(n2) if (m1, m2) in terms]
        if not mine:
            continue
        forward += f"  {{ const V x = load<Real>(a + {m1} * kLanes);\n"
        for m2 in mine:
            forward += f"   {{ const V p = x * b{m2};"
            forward += "".join(f" o{t} += p * Real({value!r});" for t, value in terms[m1, m2]) + " }\n"
        forward += "  }\n"
    for k, L, M in targets:
        forward += f"  store<Real>(out + (e[{2 + k}] + {M}) * kLanes + s, o{L}_{M} * scale[{k}]);\n"

    backward = head + "  Real *ga = gleft + e[0] * kLanes + s, *gb = gright + e[1] * kLanes + s;\n" + load_b
    for k, L, M in targets:
        backward += f"  const V g{L}_{M} = load<Real>(gout + (e[{2 + k}] + {M}) * kLanes + s) * scale[{k}];\n"
    backward += "".join(f"  V h{m} = zero<Real>();\n" for m in used2)
    for m1 in range(n1):
        mine = [m2 for m2 in range(n2) if (m1, m2) in terms]
        if not mine:
            continue
        backward += f"  {{ const V x = load<Real>(a + {m1} * kLanes); V y = zero<Real>();\n"
        for m2 in mine:
            parts = " + ".join(f"g{t} * Real({value!r})" for t, value in terms[m1, m2])
            backward += f"   {{ const V p = {parts}; y += p * b{m2}; h{m2} += p * x; }}\n"
        backward += f"   add<Real>(ga + {m1} * kLanes, y); }}\n"
    backward += "".join(f"  add<Real>(gb + {m} * kLanes, h{m});\n" for m in used2)
    return (
        f"template <class Real> void forward_{name}(const int *e, int count, const Real *scale, const Real *left,\n"
        f"    const Real *right, Real *out) {{\n"
        f"using V = Vec<Real>; constexpr int kLanes = lanes<Real>, kVector = width<Real>;\n"
        f"{forward} }}\n}}\n"
        f"template <class Real> void backward_{name}(const int *e, int count, const Real *scale, const Real *left,\n"
        f"    const Real *right, const Real *gout, Real *gleft, Real *gright) {{\n"
        f"using V = Vec<Real>; constexpr int kLanes = lanes<Real>, kVector = width<Real>;\n{backward} }}\n}}\n"
    )


def main(path: str) -> None:
    """Write all kernels and their table."""
    text, rows = [], []
    for l1 in range(L_SCALAR + 1):
        for l2 in range(L_SCALAR + 1):
            both = max(l1, l2) <= L_FACTOR
            if not both and l1 != l2 and not (max(l1, l2) <= 5):
                continue
            sets = target_sets(l1, l2) if both else [(L,) for L in range(abs(l1 - l2), 4) if max(l1, l2) <= 5 or L == 0]
            for degrees in sets:
                text.append(kernel(l1, l2, degrees))
                mask = sum(1 << L for L in degrees)
                name = f"{l1}_{l2}_{''.join(map(str, degrees))}"
                rows.append(f"  {{{l1}, {l2}, {mask}, forward_{name}<Real>, backward_{name}<Real>}},\n")
    table = "template <class Real> const ProductKernel<Real> *product_kernels(int &count) {\n"
    table += " static const ProductKernel<Real> table[] = {\n" + "".join(rows)
    table += " };\n count = int(sizeof(table) / sizeof(table[0]));\n return table;\n}\n"
    Path(path).write_text("// Written by generate_products.py.\n" + "".join(text) + table)


if __name__ == "__main__":
    main(sys.argv[1])
