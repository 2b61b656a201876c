"""How fast engines are: molecular dynamics through ASE, timed as in Tables I and II of the GRACE paper.

Every *contender* (model, engine, precision, threads) lives in a process of its own
(:mod:`gracecli.run.bench_worker`), so that thread counts hold and memory is its own. For each size all contenders are
started, make their first steps (compilation, caches), which do not count, and then run blocks of steps *in turn*:
noise of the machine that is slower than a block meets all of them alike. With t_r the mean time of a step in block r::

    time = median_r t_r / N         ratio = median_r ( t_r of the first contender / t_r )

=========  =======================================================
symbol     variable
=========  =======================================================
t_r N^-1   ``Measurement.times[r]``, µs/atom/step
ratio      ``Measurement.ratio``, above 1: faster than the first
=========  =======================================================

Source: Y. Lysogorskiy, A. Bochkarev, R. Drautz, arXiv:2508.17936 (2025), Tables I and II.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from gracecli.errors import GraceError, UsageError

if TYPE_CHECKING:
    from gracecli.run.bench_crystal import Sample

UNITS = {
    "times": "µs/atom/step", "median": "µs/atom/step", "min": "µs/atom/step", "max": "µs/atom/step", "spread": "1",
    "ratio": "1", "first_seconds": "s", "peak_memory": "byte", "base_memory": "byte", "bytes_per_atom": "byte/atom",
    "memory_growth": "byte/atom", "neighbours_per_atom": "1", "timestep": "fs", "temperature": "K",
}  # fmt: skip
TRIES = 3
"""A block in which something was compiled is run again, so often at most."""


@dataclass(frozen=True)
class Contender:
    """What is timed.

    Attributes
    ----------
    model : str or None
        Name or path; None is the bundled model.
    engine : str
        Name of an engine or of a bench runner.
    precision : str or None
        ``fp64``, ``fp32``, or None: the engine's default.
    threads : int
    """

    model: str | None
    engine: str
    precision: str | None
    threads: int


@dataclass(frozen=True)
class BenchSettings:
    """The protocol.

    Attributes
    ----------
    steps : int
        Steps per block.
    repeats : int
        Blocks per contender and size.
    exclude : int
        First steps that do not count; one more is left out at the start of every block, when caches are cold.
    timestep, temperature : float
        fs, K (of the initial velocities; the dynamics is NVE).
    seed : int
        Of displacements and velocities.
    """

    steps: int = 20
    repeats: int = 5
    exclude: int = 5
    timestep: float = 1.0
    temperature: float = 300.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("repeats", 1), ("exclude", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, not {getattr(self, name)}")


@dataclass(frozen=True)
class Measurement:
    """One contender at one size. ``error`` says why there are no numbers.

    ``times`` in µs/atom/step, one per block; ``first_seconds`` until the first energy, compilation included;
    ``base_memory`` before the first evaluation and ``peak_memory`` at the end, of the whole process, in bytes.
    """

    model: str
    engine: str
    precision: str
    threads: int
    sample: str
    atoms: int
    neighbours_per_atom: float | None = None
    times: tuple[float, ...] = ()
    ratio: float | None = None
    first_seconds: float | None = None
    base_memory: int | None = None
    peak_memory: int | None = None
    compiled_while_timed: int = 0
    error: str | None = None

    @property
    def median(self) -> float | None:
        """Median of the blocks, µs/atom/step."""
        return median(self.times) if self.times else None

    @property
    def spread(self) -> float | None:
        """(largest - smallest) / median."""
        return (max(self.times) - min(self.times)) / median(self.times) if self.times else None

    @property
    def bytes_per_atom(self) -> float | None:
        """What the process grew by since before the first evaluation, per atom."""
        if self.peak_memory is None or self.base_memory is None:
            return None
        return max(0, self.peak_memory - self.base_memory) / self.atoms

    @property
    def label(self) -> str:
        """Contender in words."""
        return f"{self.model} {self.engine} {self.precision}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def to_dict(self) -> dict[str, Any]:
        """As the JSON document holds it."""
        derived = {
            "median": self.median,
            "min": min(self.times, default=None),
            "max": max(self.times, default=None),
            "spread": self.spread,
            "bytes_per_atom": self.bytes_per_atom,
        }
        return {**asdict(self), **derived}


@dataclass
class BenchResult:
    """All measurements, by size, then by contender in the order given."""

    settings: BenchSettings
    measurements: list[Measurement] = field(default_factory=list)
    errors: list[GraceError] = field(default_factory=list)

    def growth(self) -> list[dict[str, Any]]:
        """How time and memory go on with size, for each contender timed at two sizes or more."""
        rows = []
        for label in dict.fromkeys(m.label for m in self.measurements):
            mine = sorted((m for m in self.measurements if m.label == label and m.times), key=lambda m: m.atoms)
            if len(mine) < 2 or mine[-2].peak_memory is None or mine[-1].peak_memory is None:
                continue
            small, before, large = mine[0], mine[-2], mine[-1]
            assert before.peak_memory is not None
            assert large.peak_memory is not None
            rows.append(
                {
                    "contender": label,
                    "from_atoms": small.atoms,
                    "to_atoms": large.atoms,
                    "time_ratio": (large.median or 0.0) / (small.median or 1.0),
                    "memory_growth": (large.peak_memory - before.peak_memory) / (large.atoms - before.atoms),
                }
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """As the JSON document holds it."""
        return {
            "settings": asdict(self.settings),
            "measurements": [m.to_dict() for m in self.measurements],
            "growth": self.growth(),
        }


def contenders(
    models: Sequence[str | None], engines: Sequence[str], precisions: Sequence[str | None], threads: Sequence[int]
) -> list[Contender]:
    """Every combination, engines resolved (``auto`` to the one it means here).

    Raises
    ------
    UsageError
        An engine is unknown or cannot be used here; a number of threads below one.
    """
    if min(threads) < 1:
        raise UsageError(f"threads must be positive, not {min(threads)}")
    names = [resolve_engine(name) for name in engines]
    found = [Contender(m, e, p, t) for m in models for e in names for p in precisions for t in threads]
    return list(dict.fromkeys(found))


def resolve_engine(name: str) -> str:
    """Name of an engine or bench runner that can be used here (``auto``: what it stands for)."""
    from gracecli.engine.create import choose_engine, why_unavailable
    from gracecli.names import suggestion
    from gracecli.plugin.manager import get_plugin_manager
    from gracecli.plugin.specs import BenchRunnerSpec

    manager = get_plugin_manager()
    runners = manager.specs(BenchRunnerSpec)
    if name in runners:
        reason = why_unavailable(runners[name])
        if reason is not None:
            raise UsageError(f"{name!r} cannot be timed here: {reason}", "choose another --engine")
        return name
    if name != "auto" and name not in manager.engines():
        manager.raise_if_unusable(BenchRunnerSpec, name)
        if not any(plugin.name == name for plugin in manager.broken):
            raise UsageError(f"no engine is called {name!r}", suggestion(name, ["auto", *manager.engines(), *runners]))
    return choose_engine(name).name


def bench(
    entries: Sequence[Contender],
    samples: Iterable[Sample],
    settings: BenchSettings,
    watch: Callable[[str], object] = lambda text: None,
    start: Callable[..., Any] | None = None,
) -> BenchResult:
    """Time all contenders at all sizes.

    Parameters
    ----------
    entries : sequence of Contender
    samples : iterable of Sample
        Structures (:mod:`gracecli.run.bench_crystal`).
    settings : BenchSettings
    watch : callable
        Told what is going on, a line at a time.
    start : callable, optional
        ``start(contender, sample, settings)`` -> worker; default starts a process.

    Returns
    -------
    BenchResult
        A contender that fails is a measurement with ``error``; the others go on.
    """
    if start is None:
        from gracecli.run.bench_worker import start_worker

        start = start_worker
    result = BenchResult(settings)
    for sample in samples:
        with ExitStack() as stack:
            begin = partial(_begin, stack, start, sample, settings)
            _bench_sample(entries, sample, settings, watch, begin, result)
    return result


def _begin(
    stack: ExitStack, start: Callable[..., Any], sample: Sample, settings: BenchSettings, entry: Contender
) -> Any:
    """Start the worker of one contender; it ends with the stack."""
    return stack.enter_context(start(entry, sample, settings))


def _bench_sample(
    entries: Sequence[Contender],
    sample: Sample,
    settings: BenchSettings,
    watch: Callable[[str], object],
    start: Callable[[Contender], Any],
    result: BenchResult,
) -> None:
    """Start all contenders, run their blocks in turn, collect."""
    workers: dict[Contender, Any] = {}
    blocks: dict[Contender, list[float]] = {entry: [] for entry in entries}
    compiled = dict.fromkeys(entries, 0)
    failed: dict[Contender, GraceError] = {}

    def attempt(action: Callable[[Contender], None], entry: Contender) -> None:
        try:
            action(entry)
        except GraceError as error:
            failed[entry] = error
            result.errors.append(error)

    def begin(entry: Contender) -> None:
        workers[entry] = start(entry)
        workers[entry].prepare(settings.exclude)

    def block(entry: Contender) -> None:
        for _ in range(TRIES):
            seconds, compiles = workers[entry].block(settings.steps)
            if not compiles:
                break
        compiled[entry] += compiles
        blocks[entry].append(1e6 * sum(seconds) / len(seconds) / sample.atoms)

    for entry in entries:
        watch(f"{sample.label}: starting {entry.engine}")
        attempt(begin, entry)
    for number in range(settings.repeats):
        watch(f"{sample.label}: block {number + 1} of {settings.repeats}")
        for entry in entries:
            if entry not in failed:
                attempt(block, entry)
    for entry in entries:
        result.measurements.append(
            _measurement(entry, sample, workers.get(entry), blocks, entries[0], compiled[entry], failed)
        )


def _measurement(
    entry: Contender,
    sample: Sample,
    worker: Any,
    blocks: dict[Contender, list[float]],
    first: Contender,
    compiled: int,
    failed: dict[Contender, GraceError],
) -> Measurement:
    from gracecli.registry.resolve import DEFAULT_MODEL

    model = DEFAULT_MODEL if entry.model is None else entry.model.rstrip("/").rpartition("/")[2].removesuffix(".grace")
    precision = entry.precision or "fp64"
    if entry in failed or worker is None:
        text = failed[entry].message
        return Measurement(model, entry.engine, precision, entry.threads, sample.name, sample.atoms, error=text)
    facts = worker.facts()
    ratio = None
    if first not in failed:
        ratio = median(a / b for a, b in zip(blocks[first], blocks[entry], strict=True))
    return Measurement(
        model=model, engine=entry.engine, precision=facts["precision"], threads=entry.threads,
        sample=sample.name, atoms=sample.atoms, neighbours_per_atom=facts["neighbours_per_atom"],
        times=tuple(blocks[entry]), ratio=ratio, first_seconds=facts["first_seconds"],
        base_memory=facts["base_memory"], peak_memory=facts["peak_memory"], compiled_while_timed=compiled,
    )  # fmt: skip
