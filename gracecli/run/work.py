"""What worker processes do: engines by name, chunks of structures to relax or to evaluate."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ase import Atoms

from gracecli.engine.base import Engine
from gracecli.engine.create import choose_engine, create_engine
from gracecli.errors import GraceError
from gracecli.files import file_sha256
from gracecli.registry.resolve import DEFAULT_MODEL, resolve_model
from gracecli.run.batch_evaluate import Budget
from gracecli.run.batch_relax import relax_many
from gracecli.run.result import RelaxResult, RelaxSettings
from gracecli.store.results import Calculation
from gracecli.store.runs import versions


@dataclass(frozen=True)
class EngineChoice:
    """Which engine with which model, in words that another process understands."""

    model: str | None
    engine: str = "auto"
    precision: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, model: str | None, engine: str, precision: str | None, options: Mapping[str, Any]) -> EngineChoice:
        """From the options of a command; a path becomes absolute."""
        if model is not None and Path(model).exists():
            model = str(Path(model).resolve())
        return cls(model, engine, precision, tuple(sorted(options.items())))

    def create(self) -> Engine:
        """The engine, made once per process (and set of plugins, which ``auto`` chooses from)."""
        return _engine(self, choose_engine(self.engine).name)

    def label(self, given: str | None) -> str:
        """What results call it; ``given`` is the model as the user named it."""
        used = self.create()
        name = str(given) if given else DEFAULT_MODEL if choose_engine(self.engine).needs_model else used.name
        return f"{name} ({used.name}, {used.precision})"

    def model_sha256(self) -> str:
        """Hash of the model file, or of the files of a model folder, or of what an engine without a model is."""
        spec = choose_engine(self.engine)
        if not spec.needs_model and self.model is None:
            return hashlib.sha256(f"{spec.name} of {spec.distribution} {self.options}".encode()).hexdigest()
        path = resolve_model(self.model) if spec.needs_model else Path(str(self.model))
        if path.is_file():
            return file_sha256(path)
        files = sorted(item for item in path.rglob("*") if item.is_file())
        text = "\n".join(f"{file.relative_to(path)} {file_sha256(file)}" for file in files)
        return hashlib.sha256(text.encode()).hexdigest()

    def calculation(self, kind: str, given: str | None, settings: Mapping[str, Any]) -> Calculation:
        """What is computed, for the store and the journal."""
        engine = self.create()
        full = {**settings, **({"engine_options": dict(self.options)} if self.options else {})}
        name = self.label(given).rsplit(" (", 1)[0]
        return Calculation(kind, name, self.model_sha256(), full, engine.precision, engine.name, versions())


@lru_cache(maxsize=8)
def _engine(choice: EngineChoice, used: str) -> Engine:
    """``used`` is what ``auto`` means with the plugins of today: a part of the key."""
    return create_engine(choice.model, choice.engine, choice.precision, **dict(choice.options))


@dataclass(frozen=True)
class RelaxWork:
    """How to relax, for a worker."""

    choice: EngineChoice
    settings: RelaxSettings
    label: str
    batch: int | None = None
    extra: dict[str, Any] = field(default_factory=dict, hash=False)


def relax_chunk(
    configuration: RelaxWork, chunk: Sequence[tuple[int, Atoms]]
) -> Iterator[tuple[int, RelaxResult | GraceError]]:
    """Relax structures; the work of :func:`gracecli.run.spread.spread`."""
    engine = configuration.choice.create()
    budget = Budget.of_machine(configuration.batch)
    found: Iterator[tuple[Hashable, RelaxResult | GraceError]] = relax_many(
        chunk, engine, configuration.settings, model=configuration.label, budget=budget
    )
    for number, result in found:
        assert isinstance(number, int)
        yield number, result


def chunks_of(
    structures: Iterable[tuple[int, Any]], atoms: int, structures_each: int
) -> Iterator[list[tuple[int, Any]]]:
    """Groups of at most so many atoms and structures (at least one); what is no structure counts as no atoms."""
    chunk: list[tuple[int, Any]] = []
    size = 0
    for item in structures:
        more = len(item[1]) if isinstance(item[1], Atoms) else 0
        if chunk and (size + more > atoms or len(chunk) >= structures_each):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += more
    if chunk:
        yield chunk
