"""The calculator of a run, and how a checkpoint remembers it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gracecli.cli.relax import make_calculator
from gracecli.errors import ModelError
from gracecli.run.work import EngineChoice

if TYPE_CHECKING:
    from gracecli.engine.calculator import GraceCalculator


def identity_of(calculator: GraceCalculator, model: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint records: enough to make the same calculator, and to find out that it is the same."""
    return {
        "model": model,
        "engine": calculator.engine.name,
        "precision": calculator.engine.precision,
        "engine_options": dict(options),
        "model_name": calculator.model_name,
        "sha256": _hash(model, calculator.engine.name),
    }


def same_model(identity: Mapping[str, Any]) -> GraceCalculator:
    """The calculator of a checkpoint.

    Raises
    ------
    ModelError
        The model has changed since.
    """
    model, engine = identity["model"], identity["engine"]
    if _hash(model, engine) != identity["sha256"]:
        raise ModelError(
            f"the model {model or identity['model_name']} is not the one the run was started with",
            "bring the old one back, or start anew from final.extxyz with --keep-velocities",
        )
    return make_calculator(EngineChoice.of(model, engine, identity["precision"], identity["engine_options"]), model)


def _hash(model: str | None, engine: str) -> str | None:
    """Hash of the model's file or folder; None where an engine needs no model."""
    from gracecli.engine.create import choose_engine
    from gracecli.registry.resolve import resolve_model
    from gracecli.registry.summary import summary_of

    if not choose_engine(engine).needs_model:
        return None
    return str(summary_of(resolve_model(model)).sha256)
