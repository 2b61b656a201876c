"""From names to an engine: which one, which model file, made by whom."""

from __future__ import annotations

import logging
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gracecli.engine.base import Engine
from gracecli.errors import PluginError, UsageError

if TYPE_CHECKING:
    from gracecli.plugin.specs import BenchRunnerSpec, EngineSpec, ExporterSpec


def create_engine(
    model: str | Path | None = None, engine: str = "auto", precision: str | None = None, **options: Any
) -> Engine:
    """Make the engine that evaluates a model.

    Parameters
    ----------
    model : str, Path or None
        Registered name, ``.grace`` file or published model directory; None is the bundled default model.
    engine : str
        Name of an engine, built in or from a plugin; ``"auto"`` takes the usable one of highest priority, and
        ``"saved-model"`` for a folder that holds nothing but a SavedModel export.
    precision : str, optional
        ``"fp64"`` or ``"fp32"``; None leaves it to the engine.
    **options
        Passed to the engine's factory.

    Raises
    ------
    UsageError
        No engine of that name, or it cannot be used here (says why).
    ModelError
        The model is missing, corrupt or unsupported.
    PluginError
        A plugin's engine does not import or is no engine.
    """
    spec = choose_engine(engine)
    if spec.needs_model:
        from gracecli.registry.resolve import resolve_model

        path: Path | None = resolve_model(model)
        if engine == "auto" and path is not None and _is_program(path):
            spec = choose_engine("saved-model")
    else:
        path = None if model is None else Path(model)
    made = spec.load()(path, precision, **options)
    if not isinstance(made, Engine):
        raise PluginError(
            f"engine {spec.name!r} of {spec.distribution} returned {type(made).__name__}, which lacks parts of "
            "gracecli.engine.base.Engine",
            "report this to its authors; meanwhile choose another --engine",
        )
    return made


def _is_program(path: Path) -> bool:
    """Whether a model is a SavedModel export alone: a program, which only the engine saved-model can run."""
    return (path / "saved_model.pb").is_file() and not (path / "model.yaml").is_file()


def choose_engine(name: str = "auto") -> EngineSpec:
    """Return the spec of the engine called ``name``, or for ``"auto"`` the usable one of highest priority.

    Where TensorFlow can use a GPU, ``"auto"`` is an engine that runs on it. Engines that need no model are potentials
    by themselves and are used only when named.
    """
    from gracecli.names import suggestion
    from gracecli.plugin.manager import get_plugin_manager
    from gracecli.plugin.specs import EngineSpec

    manager = get_plugin_manager()
    engines = manager.engines()
    if name == "auto":
        return _best(engines)
    if name not in engines:
        manager.raise_if_unusable(EngineSpec, name)
        raise UsageError(f"no engine is called {name!r}", suggestion(name, ["auto", *engines]))
    reason = why_unavailable(engines[name])
    if reason is not None:
        raise UsageError(f"engine {name!r} cannot be used here: {reason}", "choose another, or --engine auto")
    return engines[name]


def _best(engines: dict[str, EngineSpec]) -> EngineSpec:
    reasons: list[str] = []
    candidates = [spec for spec in engines.values() if spec.needs_model]
    gpu = gpu_usable()
    for spec in sorted(candidates, key=lambda spec: (not (gpu and spec.gpu), -spec.priority, spec.name)):
        reason = why_unavailable(spec)
        if reason is None:
            for text in reasons:
                _say_once(f"engine {text}; going on with {spec.name} (--engine {spec.name} silences this)")
            return spec
        reasons.append(f"{spec.name}: {reason}")
    raise UsageError(
        "no engine can be used here" + (f" ({'; '.join(reasons)})" if reasons else ""),
        "`grace plugins list` shows what is installed",
    )


@cache
def _say_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)


@cache
def gpu_usable() -> bool:
    """Whether TensorFlow would find a GPU here, told without importing it: a visible device, and cuDNN installed."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in {"", "-1"}:
        return False
    devices = Path("/proc/driver/nvidia/gpus")
    if not devices.is_dir() or not any(devices.iterdir()):
        return False
    if find_spec("nvidia") is not None and find_spec("nvidia.cudnn") is not None:  # tensorflow[and-cuda]
        return True
    from ctypes.util import find_library

    return find_library("cudnn") is not None


def why_unavailable(spec: EngineSpec | ExporterSpec | BenchRunnerSpec) -> str | None:
    """Why an engine, exporter or bench runner cannot be used on this machine, or None.

    A spec may name a check in ``available``: a dotted path to a function without arguments that returns True, or the
    reason as a string.
    """
    if not spec.available:
        return None
    from gracecli.plugin.specs import describe, import_object

    try:
        answer = import_object(spec.available)()
    except Exception as error:  # whatever a plugin's check raises, it is not usable; the reason is shown
        return describe(error)
    if answer is True:
        return None
    return answer if isinstance(answer, str) and answer else "its own check says so"
