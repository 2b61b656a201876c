"""Which arithmetic a fit runs on: TensorFlow, or an engine that differentiates by the weights itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from gracecli.errors import ModelError, UsageError
from gracecli.fit.batches import FitBatch
from gracecli.fit.config import TrainingConfig

TENSORFLOW = "tensorflow"


class Evaluation(Protocol):
    """What evaluates and differentiates a network in training; :class:`gracecli.fit.compute.Compute` is one."""

    def gradients(
        self, batches: Sequence[FitBatch], weights: tuple[float, float, float] | None = None
    ) -> tuple[list[Any], np.ndarray]:
        """Gradient of the loss of one step by the variables, and its terms (energy, forces, stress)."""
        ...

    def predict(self, batch: FitBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energies (structures,) in eV, forces (atoms, 3) in eV/Å, stresses (structures, 6) in eV/Å^3, padded."""
        ...

    def close(self) -> None:
        """End what is held open."""
        ...


Make = Callable[[Any, Any, Sequence[Any]], Evaluation]
"""(network, loss, variables) -> evaluation."""


class EvaluationMaker:
    """Makes the evaluation that the settings ask for.

    Parameters
    ----------
    training : TrainingConfig
        ``engine`` is ``auto``, ``tensorflow`` or the name of an engine that trains.
    say : callable
        Told, once, why ``auto`` did not take the fastest.

    Attributes
    ----------
    name : str
        Of the engine in use, after the first call.
    """

    def __init__(self, training: TrainingConfig, say: Callable[[str], None]) -> None:
        self._training = training
        self._say = say
        self.name = ""

    def __call__(self, network: Any, loss: Any, variables: Sequence[Any]) -> Evaluation:
        """Evaluation of a network.

        Raises
        ------
        UsageError
            The engine asked for is unknown, cannot be used here, or does not train in this precision.
        ModelError
            The engine asked for cannot train this model.
        """
        training = self._training
        wanted = self.name or training.engine
        if wanted != TENSORFLOW:
            for spec in self._candidates(wanted):
                try:
                    made: Evaluation = _load(spec)(network, loss, variables, training.threads, training.radial)
                except ModelError as error:
                    if wanted != "auto":
                        raise
                    self._say(f"training with TensorFlow: {error}")
                    continue
                self.name = spec.name
                return made
        from gracecli.fit.compute import Compute

        self.name = TENSORFLOW
        return Compute(network, loss, training.radial, variables, training.threads)

    def _candidates(self, wanted: str) -> list[Any]:
        from gracecli.engine.create import choose_engine, gpu_usable, why_unavailable
        from gracecli.plugin.manager import get_plugin_manager

        engines = get_plugin_manager().engines()
        if wanted != "auto":
            spec = choose_engine(wanted)
            if not spec.trainer:
                able = [TENSORFLOW, *(s.name for s in engines.values() if s.trainer)]
                raise UsageError(f"engine {wanted!r} does not train", f"choose from auto, {', '.join(able)}")
            return [spec]
        if self._training.precision != "fp64" or gpu_usable():
            return []
        found = [spec for spec in engines.values() if spec.trainer and why_unavailable(spec) is None]
        return sorted(found, key=lambda spec: -spec.priority)


def _load(spec: Any) -> Any:
    from gracecli.plugin.specs import import_object

    return import_object(spec.trainer)
