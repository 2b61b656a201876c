"""Values that settings of a fit may have."""

from __future__ import annotations

import math
import re

from gracecli.errors import UsageError
from gracecli.fit.config import FitConfig, TuningConfig
from gracecli.names import suggestion

AUGMENT = ("rattle", "strain", "unaries", "binaries")
_CHOICES = {
    ("data", "stream"): ("auto", "always", "never"),
    ("data", "weighting"): ("uniform", "energy"),
    ("training", "precision"): ("fp64", "fp32"),
    ("training", "optimizer"): ("adam", "amsgrad", "lbfgs"),
    ("training", "schedule"): ("cosine", "linear", "exponential", "constant", "plateau"),
    ("training", "radial"): ("projected", "exact"),
}
_POSITIVE = (
    "epochs", "batch_atoms", "batches_per_step", "workers", "learning_rate", "clip_norm", "validate_every",
    "lbfgs_iterations", "plateau_patience",
)  # fmt: skip


def check(config: FitConfig, where: str) -> None:
    """Refuse values out of range.

    Raises
    ------
    UsageError
        The message begins with ``where`` and names section and key.
    """
    for (section, key), known in _CHOICES.items():
        value = getattr(getattr(config, section), key)
        if value not in known:
            raise UsageError(
                f"{where} [{section}.{key}]: {value!r} is not one of {', '.join(known)}", suggestion(value, known)
            )
    for key in _POSITIVE:
        if not getattr(config.training, key) > 0:
            raise UsageError(f"{where} [training.{key}]: {getattr(config.training, key)} must be positive")
    for key in ("energy", "forces", "stress"):
        if getattr(config.loss, key) < 0 or not getattr(config.loss, f"{key}_delta") > 0:
            raise UsageError(f"{where} [loss.{key}]: weights must not be negative, widths must be positive")
    if not config.loss.energy + config.loss.forces + config.loss.stress > 0:
        raise UsageError(f"{where} [loss]: all weights are zero")
    if not 0 <= config.training.ema < 1:
        raise UsageError(f"{where} [training.ema]: {config.training.ema} must be at least 0 and less than 1")
    if not 0 <= config.training.warmup < 1:
        raise UsageError(f"{where} [training.warmup]: a fraction of the run, at least 0 and less than 1")
    if not 0 < config.training.plateau_factor < 1:
        raise UsageError(f"{where} [training.plateau_factor]: more than 0 and less than 1")
    if config.training.early_stop < 0:
        raise UsageError(f"{where} [training.early_stop]: not negative; 0 switches it off")
    _check_stages(config, where)
    if not 0 <= config.data.valid_fraction < 1:
        raise UsageError(f"{where} [data.valid_fraction]: at least 0 and less than 1")
    if not config.data.weighting_width > 0:
        raise UsageError(f"{where} [data.weighting_width]: must be positive (eV/atom)")
    for entry in (*config.data.train, *config.data.valid, *config.data.test):
        shares, weights = (entry.share, *entry.kind_shares.values()), (entry.weight, *entry.kind_weights.values())
        if not min(shares) > 0 or min(weights) < 0:
            raise UsageError(f"{where} [data]: {entry.path}: share must be positive, weight not negative")
    _check_tuning(config, where)
    if config.training.max_time is not None:
        parse_time(config.training.max_time)


def _check_tuning(config: FitConfig, where: str) -> None:
    from gracecli.fit.tuning.strategy import STRATEGIES

    tuning = config.tuning
    if tuning.strategy is not None and tuning.strategy not in STRATEGIES:
        hint = suggestion(tuning.strategy, STRATEGIES)
        raise UsageError(f"{where} [tuning.strategy]: no strategy is called {tuning.strategy!r}", hint)
    incomplete = tuning.strategy is None or config.model.start is None
    if incomplete and tuning != TuningConfig():
        raise UsageError(f"{where} [tuning]: fine-tuning needs a model to start from and a strategy", "--from MODEL")
    for kind in tuning.augment:
        if kind not in AUGMENT:
            hint = suggestion(kind, AUGMENT)
            raise UsageError(f"{where} [tuning.augment]: no augmentation is called {kind!r}", hint)
    old = tuning.replay or tuning.replay_structures or tuning.augment
    if old and tuning.strategy != "replay":
        raise UsageError(f"{where} [tuning]: old data belong to the strategy replay", "--strategy replay")
    if tuning.head == tuning.base_head or not all(
        re.fullmatch(r"[\w.+-]+", h) for h in (tuning.head, tuning.base_head)
    ):
        raise UsageError(f"{where} [tuning]: heads need two names, of letters, digits and -", "such as pbe and r2scan")
    for key in ("rank", "alpha", "shift_regularisation", "replay_weight"):
        if not getattr(tuning, key) > 0:
            raise UsageError(f"{where} [tuning.{key}]: {getattr(tuning, key)} must be positive")


def _check_stages(config: FitConfig, where: str) -> None:
    last = 0.0
    for number, stage in enumerate(config.training.stages, start=1):
        place = f"{where} [training.stages] number {number}"
        if not last < stage.start < 1:
            raise UsageError(f"{place}: start is a fraction of the run, larger than that of the stage before, below 1")
        if any(
            getattr(stage, name) is not None and getattr(stage, name) < 0 for name in ("energy", "forces", "stress")
        ):
            raise UsageError(f"{place}: weights must not be negative")
        if stage.learning_rate is not None and not stage.learning_rate > 0:
            raise UsageError(f"{place}: learning_rate must be positive")
        last = stage.start


def parse_time(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``50min``, ``1.5h``, ``1h30min`` or ``01:30:00``.

    Raises
    ------
    UsageError
        Anything else.
    """
    stripped = text.strip().lower()
    if re.fullmatch(r"\d+:\d{2}(:\d{2})?", stripped):
        parts = [int(part) for part in stripped.split(":")]
        hours, minutes, seconds = parts if len(parts) == 3 else (0, *parts)
        return float(3600 * hours + 60 * minutes + seconds)
    units = {"d": 86400.0, "h": 3600.0, "min": 60.0, "m": 60.0, "s": 1.0, "": 1.0}
    found = re.fullmatch(r"(?:\d+(?:\.\d+)?\s*(?:d|h|min|m|s)?\s*)+", stripped)
    if not found:
        raise UsageError(f"{text!r} is not a time", "write 50min, 1.5h or 01:30:00")
    parts_found = re.findall(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s|)", stripped)
    total = math.fsum(float(number) * units[unit] for number, unit in parts_found)
    if not total > 0:
        raise UsageError(f"{text!r}: the time limit must be positive")
    return total
