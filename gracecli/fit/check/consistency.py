"""Do stresses and forces follow from the energies? Sign, units, order of shear components, force-consistent energies.

Groups of structures that differ in their cells alone (strained cells of a crystal) test stresses sharply, normal and
shear apart; all others (MD, relaxations, rattled cells) test forces and stresses roughly, which is enough for sign
and units. See :mod:`.pairs` for the equations and :mod:`.regression` for slopes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gracecli.fit.check.factors import Meaning, energy_meanings, force_meanings, nearest, stress_meanings
from gracecli.fit.check.finding import Finding
from gracecli.fit.check.pairs import SHEAR_NAMES, SHEAR_ORDERS, UNMOVED, Pair, near_pairs
from gracecli.fit.check.pressure import check_pressure
from gracecli.fit.check.records import Record
from gracecli.fit.check.regression import FEWEST, NAMES, Slopes, columns_of, fit_slopes, trust

COARSE = 0.5
"""Deviation of a slope from 1 that is accepted outside strained cells (beyond 4 standard errors)."""
DOMINANT = 3.0
"""Ratio of strains above which a pair tests normal or shear stresses alone."""
SHARE, QUIET = 0.1, 1e-3
"""Least share of a part of the work, and least RMS energy difference (eV/atom), at which it is judged outside them."""
MISMATCH = 1.5
"""meV/atom between strained cells of which stresses and energies may disagree."""


@dataclass(frozen=True)
class _Test:
    """One regression and what it is about."""

    part: str  # normal stress, shear stress, stress, forces
    group: str
    slopes: Slopes
    name: str  # of the part in the regression
    pairs: tuple[Pair, ...]
    sharp: bool

    @property
    def slope(self) -> float:
        return self.slopes.slope[self.name]

    @property
    def error(self) -> float:
        return self.slopes.error[self.name]


def check_consistency(records: Sequence[Record]) -> list[Finding]:
    """Findings about stresses, forces and energies, group by group."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in near_pairs(records):
        one, other = records[pair.first], records[pair.second]
        if one.group == other.group and _complete(pair):
            groups[one.group].append(pair)
    findings: list[Finding] = []
    tests: list[_Test] = []
    for group in sorted(groups):
        tests += _tests(group, groups[group])
    whole = _energy_scale(tests)
    if whole is not None:
        findings.append(whole)
        tests = []
    for test in tests:
        findings.append(_judge(test))
        if test.part == "shear stress":
            findings += _order(test)
    findings += _energy_key([pair for pairs in groups.values() for pair in pairs])
    if not any(test.part == "forces" for test in tests) and whole is None:
        text = f"no {FEWEST} pairs of near structures whose atoms moved: sign and units of forces were not tested"
        findings.append(Finding("forces", "all", "ok", text))
    if not any("stress" in test.part for test in tests) and whole is None:
        findings += check_pressure(records)
    return findings


def _complete(pair: Pair) -> bool:
    return all(np.isfinite(part).all() for part in (pair.normal, pair.shear, pair.forces))


def _tests(group: str, pairs: Sequence[Pair]) -> list[_Test]:
    """Regressions that the pairs of a group allow."""
    tests = []
    strained = [pair for pair in pairs if pair.moved < UNMOVED]
    for part, name in (("normal stress", "normal"), ("shear stress", "shear")):
        chosen = tuple(pair for pair in strained if _dominant(pair, name))
        if len(chosen) >= FEWEST and any(abs(pair.energy) > 1e-6 * pair.atoms for pair in chosen):
            kept = [_of_one_part(pair, name) for pair in chosen]
            tests.append(_Test(part, group, fit_slopes(kept), name, tuple(kept), True))
    rest = tuple(pair for pair in pairs if pair.moved >= UNMOVED)
    if len(rest) >= FEWEST and _spread(rest) > QUIET:
        slopes = fit_slopes(rest)
        share = _shares(rest)
        if "forces" in slopes.slope and share["forces"] > SHARE:
            tests.append(_Test("forces", group, slopes, "forces", rest, False))
        if "normal" in slopes.slope and share["normal"] > SHARE and not any(test.sharp for test in tests):
            tests.append(_Test("stress", group, slopes, "normal", rest, False))
    return [test for test in tests if test.name in test.slopes.slope and np.isfinite(test.error)]


def _of_one_part(pair: Pair, name: str) -> Pair:
    """All work of stresses in one part: the small rest of the other shares its sign and units."""
    if name == "normal":
        return replace(pair, normal=pair.normal + pair.shear[0], shear=0 * pair.shear)
    return replace(pair, normal=0 * pair.normal, shear=pair.shear + pair.normal)


def _spread(pairs: Sequence[Pair]) -> float:
    """RMS of energy differences or of the work, whatever is larger (units may be wrong), eV/atom."""
    atoms = np.array([pair.atoms for pair in pairs])
    work = columns_of(pairs)[0].sum(axis=1)
    energy = np.array([pair.energy for pair in pairs])
    return float(max(np.sqrt(np.mean((values / atoms) ** 2)) for values in (energy, work)))


def _shares(pairs: Sequence[Pair]) -> dict[str, float]:
    """RMS of the parts of the work, each scaled by its slope, beside the largest."""
    columns, _ = columns_of(pairs)
    slopes = fit_slopes(pairs, errors=False).slope
    size = np.sqrt(np.mean(columns**2, axis=0))
    rms = {name: abs(slopes.get(name, 1.0)) * float(size[k]) for k, name in enumerate(NAMES)}
    return {name: value / max(*rms.values(), 1e-300) for name, value in rms.items()}


def _dominant(pair: Pair, name: str) -> bool:
    normal, shear = pair.normal_strain, pair.shear_strain
    return normal > DOMINANT * shear if name == "normal" else shear > DOMINANT * normal


def _energy_scale(tests: Sequence[_Test]) -> Finding | None:
    """A factor that forces and stresses share belongs to the energies."""
    forces = [test for test in tests if test.part == "forces" and test.error < 0.2 * abs(test.slope)]
    stress = [test for test in tests if test.part != "forces" and test.error < 0.2 * abs(test.slope)]
    for one in forces:
        for other in stress:
            ends = [nearest(test.slope, energy_meanings(_mean_atoms(test)), 0.3) for test in (one, other)]
            if ends[0] is not None and ends[1] is not None and ends[0].text == ends[1].text:
                values = f"dE/W = {_number(one.slope)} (forces), {_number(other.slope)} (stresses)"
                text = f"{ends[0].text}: {values}"
                return Finding("energy units", one.group, "error", text, ends[0].remedy)
    return None


def _mean_atoms(test: _Test) -> float:
    return float(np.mean([pair.atoms for pair in test.pairs]))


def _mean_volume(test: _Test) -> float:
    return float(np.mean([pair.volume for pair in test.pairs]))


def _judge(test: _Test) -> Finding:
    """Verdict on one regression."""
    slope, error = test.slope, test.error
    value = f"dE/W = {_number(slope)} ± {error:.2g} ({test.slopes.pairs} pairs)"
    mismatch = _mismatch(test)
    details = {"slope": slope, "error": error, "pairs": test.slopes.pairs, "mismatch": mismatch}
    meaning = _meaning(test)
    sure = error < 0.2 * abs(slope)
    if meaning is not None and sure:
        sureness = abs(slope - 1.0) / max(error, 1e-12)
        text = f"{meaning.text}: {value}, {_sigma(sureness)} from 1"
        return Finding(test.part, test.group, "error", text, meaning.remedy, details)
    if test.sharp:
        return _judge_sharp(test, value, mismatch, details)
    if error > 0.4:
        return Finding(test.part, test.group, "ok", f"not determined: {value}", "", details)
    if abs(slope - 1.0) > max(COARSE, 4.0 * error):
        text = f"does not follow from the energies: {value}"
        return Finding(test.part, test.group, "warning", text, "are energies and labels of one calculation?", details)
    return Finding(test.part, test.group, "ok", f"follows from the energies: {value}", "", details)


def _judge_sharp(test: _Test, value: str, mismatch: float, details: dict[str, float]) -> Finding:
    columns = np.array([getattr(pair, test.name)[0] if test.name == "shear" else pair.normal for pair in test.pairs])
    work = columns.mean(axis=1)
    energy = np.array([pair.energy for pair in test.pairs])
    explained = 1.0 - float(np.sum((energy - work) ** 2) / np.sum(energy**2))
    details["explained"] = explained
    option = "drop_shear" if test.part == "shear stress" else "drop_stress"
    kind = test.group.rpartition("/")[2]
    if explained < 0.5:
        text = f"does not follow from the energies: {value}, {mismatch:.2g} meV/atom off"
        return Finding(test.part, test.group, "error", text, f'{option} = ["{kind}"]', details)
    if mismatch > MISMATCH:
        text = f"differs from the energies by {mismatch:.2g} meV/atom: {value}"
        remedy = f'look at these labels, or {option} = ["{kind}"]'
        return Finding(test.part, test.group, "warning", text, remedy, details)
    return Finding(test.part, test.group, "ok", f"follows from the energies: {value}", "", details)


def _mismatch(test: _Test) -> float:
    """RMS over the pairs of energy difference minus work, meV/atom; pairs count as the trapezoid is exact for them."""
    columns, curvature = columns_of(test.pairs)
    energy, atoms = np.array([(pair.energy, pair.atoms) for pair in test.pairs]).T
    rest = (energy - columns.sum(axis=1)) / atoms
    return 1e3 * float(np.sqrt(np.average(rest**2, weights=trust(curvature.sum(axis=1), energy))))


def _meaning(test: _Test) -> Meaning | None:
    if test.part == "forces":
        meanings = force_meanings() + energy_meanings(_mean_atoms(test))
    else:
        meanings = stress_meanings(_mean_volume(test))
    tolerance = 0.15 if test.sharp else 0.35
    if abs(test.slope - 1.0) < max(0.4 if test.part == "forces" else 0.3, 4.0 * test.error):
        return None
    return nearest(test.slope, meanings, tolerance)


def _order(test: _Test) -> list[Finding]:
    """Whether another order of yz, xz, xy explains the energies better."""
    fits = [fit_slopes(test.pairs, order=number, errors=False) for number in range(len(SHEAR_ORDERS))]
    residuals = [fit.residual for fit in fits]
    best = int(np.argmin(residuals))
    details = {"residuals": [1e3 * value for value in residuals]}
    if best == 0 or residuals[best] > 0.5 * residuals[0] or residuals[0] < 0.02 * test.slopes.spread:
        return []
    # labels that are noise fit best in some order, too, with a slope that stands for no unit
    slope = fits[best].slope.get("shear", np.nan)
    if not abs(slope - 1.0) < 0.3 and nearest(slope, stress_meanings(_mean_volume(test)), 0.15) is None:
        return []
    # the file has, in the places of yz, xz, xy, the components named below
    names = [SHEAR_NAMES[SHEAR_ORDERS[best].index(place)] for place in (3, 4, 5)]
    text = (
        f"components in the order xx yy zz {' '.join(names)} leave {1e3 * residuals[best]:.2g} meV/atom, "
        f"as they are (yz xz xy) {1e3 * residuals[0]:.2g}"
    )
    return [Finding("shear order", test.group, "error", text, "reorder to xx yy zz yz xz xy", details)]


def _energy_key(pairs: Sequence[Pair]) -> list[Finding]:
    """Which of two energies the forces follow: the free energy, or the one extrapolated to zero broadening."""
    both = [pair for pair in pairs if {"energy", "free_energy"} <= pair.others.keys()]
    different = [pair for pair in both if abs(pair.others["energy"] - pair.others["free_energy"]) > 1e-9]
    if len(different) < FEWEST:
        return []
    residual = {}
    for key in ("free_energy", "energy"):
        target = np.array([pair.others[key] for pair in different])
        residual[key] = 1e3 * fit_slopes(different, target, errors=False).residual
    used = "free_energy"
    if not np.allclose([p.energy for p in different], [p.others[used] for p in different]):
        used = "energy"
    other = "energy" if used == "free_energy" else "free_energy"
    text = f"{used} leaves {residual[used]:.3g} meV/atom against the work of the forces, {other} {residual[other]:.3g}"
    if residual[other] < 0.7 * residual[used]:
        remedy = f'use energy_key = "{other}"'
        return [Finding("energy key", "all", "warning", text, remedy, {"residual": residual})]
    return [Finding("energy key", "all", "ok", text, "", {"residual": residual})]


def _sigma(value: float) -> str:
    return f"{min(value, 99):.0f}{'+' if value > 99 else ''} standard errors"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.2e}"
