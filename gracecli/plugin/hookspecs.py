"""The hooks a plugin may implement, all of them.

A plugin is a module named by an entry point in the group ``gracecli.plugins``. It implements any of these functions,
marked with ``@hookimpl``; each returns (or yields) specs. See plugins/grace-toy for a complete example::

    # pyproject.toml                               # grace_toy/plugin.py
    [project.entry-points."gracecli.plugins"]      from gracecli.plugin import EngineSpec, hookimpl
    toy = "grace_toy.plugin"
                                                   @hookimpl
                                                   def gracecli_register_engines():
                                                       yield EngineSpec(name="lj", help="Lennard-Jones",
                                                                        factory="grace_toy.lj:create_engine")

The module is imported whenever ``grace`` starts: import nothing heavy in it.
"""

from __future__ import annotations

from collections.abc import Iterable

from pluggy import HookimplMarker, HookspecMarker

from gracecli.plugin.specs import (
    BenchRunnerSpec,
    CommandSpec,
    EngineSpec,
    EnsembleSpec,
    ExporterSpec,
    LossSpec,
    ModelCatalogSpec,
    OptimizerSpec,
    ReaderSpec,
    Spec,
)

hookspec = HookspecMarker("gracecli")
hookimpl = HookimplMarker("gracecli")


@hookspec
def gracecli_register_commands() -> Iterable[CommandSpec]:  # type: ignore[empty-body]
    """Subcommands of ``grace``."""


@hookspec
def gracecli_register_engines() -> Iterable[EngineSpec]:  # type: ignore[empty-body]
    """Engines: ``--engine NAME`` and ``GraceCalculator(engine=NAME)``."""


@hookspec
def gracecli_register_optimizers() -> Iterable[OptimizerSpec]:  # type: ignore[empty-body]
    """Structure optimizers: ``grace relax --optimizer NAME``."""


@hookspec
def gracecli_register_ensembles() -> Iterable[EnsembleSpec]:  # type: ignore[empty-body]
    """Molecular-dynamics ensembles."""


@hookspec
def gracecli_register_readers() -> Iterable[ReaderSpec]:  # type: ignore[empty-body]
    """Structure file formats beyond ASE's."""


@hookspec
def gracecli_register_exporters() -> Iterable[ExporterSpec]:  # type: ignore[empty-body]
    """Formats a model can be exported to."""


@hookspec
def gracecli_register_losses() -> Iterable[LossSpec]:  # type: ignore[empty-body]
    """Training losses."""


@hookspec
def gracecli_register_model_catalogs() -> Iterable[ModelCatalogSpec]:  # type: ignore[empty-body]
    """Catalogs of models for ``grace models``."""


@hookspec
def gracecli_register_bench_runners() -> Iterable[BenchRunnerSpec]:  # type: ignore[empty-body]
    """Programs that are no engines, for ``grace bench --engine NAME``."""


HOOKS: dict[str, type[Spec]] = {
    "gracecli_register_commands": CommandSpec,
    "gracecli_register_engines": EngineSpec,
    "gracecli_register_optimizers": OptimizerSpec,
    "gracecli_register_ensembles": EnsembleSpec,
    "gracecli_register_readers": ReaderSpec,
    "gracecli_register_exporters": ExporterSpec,
    "gracecli_register_losses": LossSpec,
    "gracecli_register_model_catalogs": ModelCatalogSpec,
    "gracecli_register_bench_runners": BenchRunnerSpec,
}
"""Which type each hook returns."""
