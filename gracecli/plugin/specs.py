"""What a plugin offers, as typed facts. Only facts: this module, and the one a plugin registers, import nothing heavy.

Anything that costs time is named by a dotted path ``"package.module:object"`` and imported when it is used, so that
``grace --help`` lists a hundred plugins without importing one of their engines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from gracecli.errors import GraceError, PluginError

API = 1
"""Version of this interface. A plugin that states another one is refused by name; it is raised when specs change in a
way that old plugins would not survive."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")

BUILT_IN = "gracecli"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What all specs share.

    Attributes
    ----------
    name : str
        What users type: lower case, digits, ``-``, ``.``, ``+``.
    help : str
        One line for tables and ``--help``.
    api : int
        Version of this interface the plugin was written for. Leave the default; raise it knowingly.
    distribution : str
        Who brought it, such as ``"grace-toy 0.1.0"``; filled in by the manager.
    """

    kind: ClassVar[str] = "spec"
    path_field: ClassVar[str] = "factory"

    name: str
    help: str
    api: int = API
    distribution: str = BUILT_IN

    @property
    def path(self) -> str:
        """Dotted path of the object behind this spec."""
        return str(getattr(self, self.path_field))

    @property
    def built_in(self) -> bool:
        """Whether gracecli itself brought it."""
        return self.distribution == BUILT_IN

    def load(self) -> Any:
        """Import the object behind this spec.

        Raises
        ------
        PluginError
            The import fails in a plugin; names the distribution, and keeps the cause. Built-ins raise their own.
        """
        try:
            return import_object(self.path)
        except GraceError:
            raise
        except Exception as error:
            if self.built_in:
                raise
            raise PluginError(
                f"{self.kind} {self.name!r} of {self.distribution} does not import: {describe(error)}",
                f"reinstall or uninstall {self.distribution.split()[0]}, or run with --no-plugins",
            ) from error

    def problems(self) -> list[str]:
        """What is wrong with this spec, in words; empty when it is sound."""
        found = []
        for entry in fields(self):
            value = getattr(self, entry.name)
            expected = _TYPES[str(entry.type)]
            if not isinstance(value, expected) or (isinstance(value, bool) and expected is int):
                found.append(f"{entry.name} must be {entry.type}, not {value!r}")
        if found:
            return found
        if not _NAME.fullmatch(self.name):
            found.append(f"name {self.name!r} must be lower case letters, digits, '-', '.' and '+'")
        if not self.help.strip() or "\n" in self.help:
            found.append("help must be one line")
        if not _DOTTED_PATH.fullmatch(self.path):
            found.append(f"{self.path_field} {self.path!r} must look like 'package.module:object'")
        return found


@dataclass(frozen=True, kw_only=True)
class CommandSpec(Spec):
    """A subcommand of ``grace``: ``import_path`` names a ``click.Command`` (or group)."""

    kind: ClassVar[str] = "command"
    path_field: ClassVar[str] = "import_path"
    import_path: str
    section: str = "Plugins"


@dataclass(frozen=True, kw_only=True)
class EngineSpec(Spec):
    """Something that evaluates models.

    ``factory(model_path: Path | None, precision: str | None, **options) -> gracecli.engine.base.Engine``.

    Attributes
    ----------
    priority : int
        Among engines that can run the model on this machine, ``--engine auto`` takes the highest.
    needs_model : bool
        False for engines that are a potential by themselves (Lennard-Jones); they are never chosen automatically.
    model_format : str
        What models it runs: ``blueprint`` (``.grace`` files and published checkpoints) or the name of another format,
        as ``saved-model``; such engines are checked only with a model that the user names.
    available : str
        Dotted path of a cheap function without arguments: True if the engine can be used on this machine, else the
        reason as text. Empty: always.
    gpu : bool
        Whether it runs on GPUs; where one can be used, ``--engine auto`` prefers it to engines of any priority
        that do not.
    trainer : str
        Dotted path of what evaluates and differentiates a network in ``grace fit``, in double precision:
        ``(network, loss, variables, threads, radial) -> gracecli.fit.engines.Evaluation``; raises ModelError for models
        that it cannot train. Empty: the engine does not train.
    """

    kind: ClassVar[str] = "engine"
    factory: str
    priority: int = 0
    needs_model: bool = True
    model_format: str = "blueprint"
    available: str = ""
    gpu: bool = False
    trainer: str = ""

    def problems(self) -> list[str]:
        """What is wrong with this spec, in words; empty when it is sound."""
        found = super().problems()
        for name in ("available", "trainer"):
            value = getattr(self, name)
            if not found and value and not _DOTTED_PATH.fullmatch(value):
                found.append(f"{name} {value!r} must look like 'package.module:object'")
        return found


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec(Spec):
    """A structure optimizer: ``factory(atoms_or_filter, logfile=None, **options)``, as in ``ase.optimize``."""

    kind: ClassVar[str] = "optimizer"
    factory: str


@dataclass(frozen=True, kw_only=True)
class EnsembleSpec(Spec):
    """A molecular-dynamics ensemble.

    ``factory(system: System, settings: MdSettings, rng: numpy.random.Generator)`` returns a
    :class:`gracecli.run.md_integrators.Integrator`, which advances the system by single steps and can give and take
    its whole state, so that runs resume exactly. Names that begin with ``npt`` move the cell.
    """

    kind: ClassVar[str] = "ensemble"
    factory: str


@dataclass(frozen=True, kw_only=True)
class ReaderSpec(Spec):
    """A file format: ``reader(path: Path) -> Iterable[ase.Atoms]``; ``suffixes`` such as ``(".cfg",)``."""

    kind: ClassVar[str] = "reader"
    path_field: ClassVar[str] = "reader"
    reader: str
    suffixes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExporterSpec(Spec):
    """A target of ``grace export``: ``exporter() -> gracecli.export.base.Exporter`` (usually a class).

    Attributes
    ----------
    suffix : str
        Ending of what is written, such as ``".npz"``; the default name is that of the model with this ending.
    folder : bool
        Whether a folder is written, not a file.
    options : tuple of str
        Names of the options it takes (``--export-option NAME=VALUE``), lower case with underscores.
    available : str
        As for engines: dotted path of a cheap function that returns True, or why not. Empty: always.
    """

    kind: ClassVar[str] = "exporter"
    path_field: ClassVar[str] = "exporter"
    exporter: str
    suffix: str = ""
    folder: bool = False
    options: tuple[str, ...] = ()
    available: str = ""

    def problems(self) -> list[str]:
        """What is wrong with this spec, in words; empty when it is sound."""
        found = super().problems()
        if not found and self.available and not _DOTTED_PATH.fullmatch(self.available):
            found.append(f"available {self.available!r} must look like 'package.module:object'")
        if not found and not (self.suffix.startswith(".") and len(self.suffix) > 1 and "/" not in self.suffix):
            found.append(f"suffix {self.suffix!r} must look like '.npz'")
        return found


@dataclass(frozen=True, kw_only=True)
class LossSpec(Spec):
    """A training loss: ``factory(**options)`` returns ``loss(residual, weight) -> scalar``, in TensorFlow."""

    kind: ClassVar[str] = "loss"
    factory: str


@dataclass(frozen=True, kw_only=True)
class ModelCatalogSpec(Spec):
    """More models for ``grace models``: ``catalog() -> Mapping`` in the layout of ``catalog.json``."""

    kind: ClassVar[str] = "catalog"
    path_field: ClassVar[str] = "catalog"
    catalog: str


@dataclass(frozen=True, kw_only=True)
class BenchRunnerSpec(Spec):
    """What ``grace bench --engine NAME`` can time besides engines, such as an MD code with a pair style.

    ``factory(atoms: Atoms, model: str | None, precision: str | None, threads: int, timestep: float)`` returns a
    :class:`gracecli.run.bench_worker.Runner`; it is called in a process of its own. The atoms have velocities.

    Attributes
    ----------
    available : str
        As for engines.
    """

    kind: ClassVar[str] = "bench-runner"
    factory: str
    available: str = ""


_TYPES: dict[str, type] = {"str": str, "int": int, "bool": bool, "tuple[str, ...]": tuple}

SPEC_TYPES: tuple[type[Spec], ...] = (
    CommandSpec,
    EngineSpec,
    OptimizerSpec,
    EnsembleSpec,
    ReaderSpec,
    ExporterSpec,
    LossSpec,
    ModelCatalogSpec,
    BenchRunnerSpec,
)


def import_object(path: str) -> Any:
    """Import ``"package.module:object"``."""
    from importlib import import_module

    module_name, _, attribute = path.partition(":")
    found: Any = import_module(module_name)
    for name in attribute.split("."):
        found = getattr(found, name)
    return found


def describe(error: BaseException) -> str:
    """Type and first line of an error, for one-line messages."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
