"""The trainer that settings call for."""

from __future__ import annotations

from typing import Any

from gracecli.errors import UsageError
from gracecli.fit.config import FitConfig
from gracecli.fit.trainer import Trainer


def is_linear(config: FitConfig) -> bool:
    """Whether the settings ask for a model that is solved directly (without TensorFlow)."""
    return config.model.start is None and config.model.preset.startswith("linear")


def create_trainer(config: FitConfig, *arguments: Any, **options: Any) -> Trainer:
    """A :class:`Trainer`, or the one that solves linear models directly; parameters as of both.

    Raises
    ------
    UsageError
        Several workers, but no team of them.
    """
    if config.training.workers > 1 and options.get("team") is None:
        raise UsageError(
            f"this would be one process, not training.workers = {config.training.workers}",
            "gracecli.fit.workers.run.run_cluster starts them, or leave workers out",
        )
    if is_linear(config):
        from gracecli.fit.linear.trainer import LinearTrainer

        return LinearTrainer(config, *arguments, **options)
    return Trainer(config, *arguments, **options)
