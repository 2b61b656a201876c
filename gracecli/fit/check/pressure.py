r"""Sign and units of stresses where no near structures are: pressure against volume, composition by composition.

    p = -trace(sigma) / 3,      B = -dp / d ln V > 0

by a straight line over the structures of one reduced formula. A matter of structure too, not of volume alone, hence
rough; but B is positive, and between about 1 and 1000 GPa, for nearly every substance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from ase.units import GPa

from gracecli.fit.check.finding import Finding
from gracecli.fit.check.records import Record

SPREAD = 0.03
"""Least spread of ln V (largest minus smallest)."""
PLAUSIBLE = (0.2, 3000.0)
"""GPa."""


def check_pressure(records: Sequence[Record]) -> list[Finding]:
    """One finding about all stresses, where pressures and volumes vary together."""
    kinds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    labelled = 0
    for record in records:
        stress = record.frame.stress
        if np.isfinite(stress).all() and record.atoms.pbc.all():
            labelled += 1
            volume = record.atoms.get_volume() / len(record.atoms)
            kinds[record.formula].append((np.log(volume), -float(stress[:3].mean()) / GPa))
    if not labelled:
        return []
    moduli, counts = [], []
    for points in kinds.values():
        x, pressure = np.array(points).T
        if len(points) >= 2 and np.ptp(x) > SPREAD and np.ptp(pressure) > 1e-3:
            moduli.append(-float(np.polyfit(x - x.mean(), pressure, 1)[0]))
            counts.append(len(points))
    enough = len(moduli) >= 5 or sum(counts) >= 10
    if not enough:
        text = "sign and units not tested: no near structures, and too few volumes of one composition"
        return [Finding("stress", "all", "ok", text)]
    middle = float(np.median(moduli))
    positive = float(np.average(np.array(moduli) > 0, weights=counts))
    value = f"-dp/dlnV is {middle:.3g} GPa (median of {len(moduli)} compositions), positive in {100 * positive:.0f} %"
    details = {"modulus": middle, "positive": positive, "compositions": len(moduli)}
    if positive < 0.2:
        remedy = "reverse the sign of the stresses"
        return [Finding("stress", "all", "error", f"sign of a pressure: {value}", remedy, details)]
    if positive < 0.7 or not PLAUSIBLE[0] < abs(middle) < PLAUSIBLE[1]:
        remedy = "are stresses in eV/Å³, positive under tension?"
        return [Finding("stress", "all", "warning", f"implausible: {value}", remedy, details)]
    return [Finding("stress", "all", "ok", f"plausible: {value}", "", details)]
