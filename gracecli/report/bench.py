"""Picture of a benchmark: time per atom and step, and memory, against the number of atoms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gracecli.files import write_atomically
from gracecli.run.bench import Measurement


def plot_bench(measurements: Sequence[Measurement], path: Path, force: bool = False) -> Path:
    """Draw all measurements with numbers; bars span the smallest to the largest block."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    time, memory = figure.subplots(1, 2)
    labels = list(dict.fromkeys(m.label for m in measurements if m.times))
    for label in labels:
        mine = sorted((m for m in measurements if m.label == label and m.times), key=lambda m: m.atoms)
        atoms, medians = [m.atoms for m in mine], [m.median or 0.0 for m in mine]
        low = [middle - min(m.times) for m, middle in zip(mine, medians, strict=True)]
        high = [max(m.times) - middle for m, middle in zip(mine, medians, strict=True)]
        time.errorbar(atoms, medians, yerr=[low, high], marker="o", ms=4, capsize=3, label=label)
        memory.plot(atoms, [(m.peak_memory or 0) / 1e6 for m in mine], marker="o", ms=4, label=label)
    samples = {m.sample.rpartition(",")[0] or m.sample for m in measurements}
    time.set(ylabel="time per atom and step (µs)", title="; ".join(sorted(samples)))
    memory.set(ylabel="peak memory of the process (MB)", title="memory")
    for axis in (time, memory):
        axis.set(xlabel="atoms", xscale="log", yscale="log")
        axis.grid(True, which="both", color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        ticks = sorted({m.atoms for m in measurements})
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter("{x:g}")
    figure.legend(*time.get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(labels)), fontsize=8)
    return write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130), force=force)
