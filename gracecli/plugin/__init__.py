"""Plugin interface: typed specs, hooks, manager."""

from gracecli.plugin.hookspecs import hookimpl
from gracecli.plugin.specs import (
    API,
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

__all__ = [
    "API",
    "BenchRunnerSpec",
    "CommandSpec",
    "EngineSpec",
    "EnsembleSpec",
    "ExporterSpec",
    "LossSpec",
    "ModelCatalogSpec",
    "OptimizerSpec",
    "ReaderSpec",
    "Spec",
    "hookimpl",
]
