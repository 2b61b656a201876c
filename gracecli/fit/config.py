"""Settings of a fit: frozen dataclasses, read strictly from TOML.

An unknown key is an error that names the nearest known one. Relative paths resolve against ``[data] root`` where given,
else against the folder of the file; ``~`` and environment variables are expanded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gracecli.errors import InputError, UsageError
from gracecli.names import suggestion


@dataclass(frozen=True)
class SetConfig:
    """One file of structures.

    Attributes
    ----------
    path : str
        Extended XYZ, plain or gzipped, a run (vasprun.xml, OUTCAR, trajectories), or ``store.h5:QUERY``.
    name : str, optional
        Name of the set in tables; default is made from the path.
    drop : tuple of str
        ``config_type`` values left out.
    drop_stress : tuple of str
        ``config_type`` values whose stresses are not used.
    drop_shear : tuple of str
        ``config_type`` values whose shear stresses are not used; the normal ones are.
    weight : float
        Factor on the loss of its structures.
    share : float
        How much of the set one epoch visits: 1 all, 0.25 a different quarter in each epoch, 3 everything thrice.
    kind_weights, kind_shares : dict
        ``config_type`` -> factor on weight or share of its structures, as ``{ Elastic = 20.0 }``.
    primitive : bool
        Perfect supercells (of structure and labels) are replaced by their primitive cells: the same energy per atom,
        forces and stress (to the rounding of the file) for a fraction of the work.
    """

    path: str
    name: str | None = None
    drop: tuple[str, ...] = ()
    drop_stress: tuple[str, ...] = ()
    drop_shear: tuple[str, ...] = ()
    weight: float = 1.0
    share: float = 1.0
    kind_weights: dict[str, float] = field(default_factory=dict)
    kind_shares: dict[str, float] = field(default_factory=dict)
    primitive: bool = False

    def weight_of(self, kind: str) -> float:
        """Factor on the loss of structures of one ``config_type``."""
        return self.weight * self.kind_weights.get(kind, 1.0)

    def share_of(self, kind: str) -> float:
        """Visits per epoch of structures of one ``config_type``."""
        return self.share * self.kind_shares.get(kind, 1.0)


@dataclass(frozen=True)
class DataConfig:
    """``[data]``. Keys of energy, forces and stress default to those ASE knows (``free_energy`` before ``energy``).

    ``stream`` leaves training structures of stores where they are and reads them batch by batch: ``auto`` when they
    would take more than a quarter of the free memory, ``always`` or ``never``. The weights come out the same.
    ``split_seed`` (default: ``training.seed``) chooses the validation structures that ``valid_fraction`` splits off.
    ``weighting`` is ``uniform`` or ``energy`` (:mod:`gracecli.fit.weighting`; ``weighting_width`` in eV/atom).
    """

    train: tuple[SetConfig, ...] = ()
    valid: tuple[SetConfig, ...] = ()
    test: tuple[SetConfig, ...] = ()
    valid_fraction: float = 0.05
    root: str | None = None
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    stream: str = "auto"
    weighting: str = "uniform"
    weighting_width: float = 1.0
    split_seed: int | None = None


@dataclass(frozen=True)
class ModelConfig:
    """``[model]``. ``reference`` (eV/atom per element) is fitted unless given; ``scale`` 0 means the force RMS.

    ``start`` names a model (or file) whose blueprint and weights the fit starts from; preset, cutoff, reference and
    scale then come from it.
    """

    preset: str = "1l-small"
    start: str | None = None
    elements: tuple[str, ...] = ()
    cutoff: float | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, float] = field(default_factory=dict)
    scale: float = 0.0


@dataclass(frozen=True)
class LossConfig:
    """``[loss]``: weights and Huber widths of energy (eV/atom), force (eV/Å) and stress (eV/Å^3) errors."""

    kind: str = "huber"
    energy: float = 40.0
    forces: float = 1.0
    stress: float = 200.0
    energy_delta: float = 0.01
    forces_delta: float = 0.05
    stress_delta: float = 0.01


@dataclass(frozen=True)
class StageConfig:
    """``[[training.stages]]``: from a part of the run on, other weights of the loss and, if given, a new schedule.

    Attributes
    ----------
    start : float
        Fraction of the run.
    energy, forces, stress : float, optional
        Weights of the loss from then on. [default: as before]
    learning_rate : float, optional
        Where the schedule begins anew. [default: it goes on]
    """

    start: float
    energy: float | None = None
    forces: float | None = None
    stress: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class TrainingConfig:
    """``[training]``.

    Attributes
    ----------
    epochs : int
    batch_atoms : int
        Atoms in one batch (padded); the bonds follow from the data.
    batches_per_step : int
        Batches whose gradients are summed before the weights move; evaluated by ``threads`` threads at a time.
    threads : int
        0: all that this process may use (TensorFlow: one). Weights do not depend on it.
    engine : str
        auto (on CPUs in fp64 the native engine, where it is installed and knows the model), tensorflow or native.
    workers : int
        Processes that share every step (:mod:`gracecli.fit.workers`).
    optimizer : str
        adam (AdamW with weight_decay), amsgrad, or lbfgs (small models; an epoch is ``lbfgs_iterations`` iterations).
    lbfgs_iterations : int
    schedule : str
        cosine, linear, exponential, constant, or plateau (by ``plateau_factor`` after ``plateau_patience`` validations
        without improvement).
    plateau_patience : int
    plateau_factor : float
    early_stop : int
        End after so many validations without improvement; 0: never.
    stages : tuple of StageConfig
        Changes of weights and learning rate in the course of the run.
    learning_rate, final_learning_rate : float
        Peak and end of the schedule.
    warmup : float
        Fraction of the run with rising learning rate.
    weight_decay : float
        Decoupled (AdamW); 0 is Adam.
    clip_norm : float
        Largest global norm of the gradient.
    ema : float
        Decay of the running mean of the weights; 0 switches it off.
    precision : str
        fp64 or fp32.
    radial : str
        projected (radial functions on a grid of distances) or exact.
    seed : int
    validate_every : int
        Epochs.
    checkpoint_minutes : float
    checkpoint_steps : int
        0: by time alone.
    max_time : str, optional
        Stop with a checkpoint after this long, such as ``50min``; the schedule does not change.
    """

    epochs: int = 100
    batch_atoms: int = 256
    batches_per_step: int = 1
    threads: int = 0
    engine: str = "auto"
    workers: int = 1
    optimizer: str = "adam"
    lbfgs_iterations: int = 50
    schedule: str = "cosine"
    plateau_patience: int = 10
    plateau_factor: float = 0.5
    early_stop: int = 0
    stages: tuple[StageConfig, ...] = ()
    learning_rate: float = 8e-3
    final_learning_rate: float = 8e-5
    warmup: float = 0.02
    weight_decay: float = 0.0
    clip_norm: float = 10.0
    ema: float = 0.99
    precision: str = "fp64"
    radial: str = "projected"
    seed: int = 1
    validate_every: int = 1
    checkpoint_minutes: float = 5.0
    checkpoint_steps: int = 0
    max_time: str | None = None


@dataclass(frozen=True)
class TuningConfig:
    """``[tuning]``: how the model of ``[model] start`` is adapted to new data (:mod:`gracecli.fit.tuning.strategy`).

    Attributes
    ----------
    strategy : str, optional
        naive, frozen, frozen-messages, readout, lora or replay; without one a fit just continues from the start.
    rank : int
        Of the low-rank corrections of ``lora``.
    alpha : float
        Their strength: the correction is multiplied by ``alpha / rank``.
    shift : bool
        Fit a shift of the reference energies to the new data before training.
    shift_regularisation : float
        Weight of the squared shifts (dimensionless).
    like : dict
        New element -> element of the model that it starts as a copy of; default is the chemically nearest.
    replay : tuple of SetConfig
        Old data with their labels, for ``replay``.
    replay_structures : tuple of str
        Structures that the original model labels itself.
    augment : tuple of str
        Further such structures (:mod:`gracecli.fit.tuning.structures`): rattle, strain, unaries, binaries.
    replay_weight : float
        Factor on the loss of old structures.
    head, base_head : str
        Names of the new head and of the one that old data keep in place.
    """

    strategy: str | None = None
    rank: int = 8
    alpha: float = 8.0
    shift: bool = True
    shift_regularisation: float = 1e-8
    like: dict[str, str] = field(default_factory=dict)
    replay: tuple[SetConfig, ...] = ()
    replay_structures: tuple[str, ...] = ()
    augment: tuple[str, ...] = ()
    replay_weight: float = 1.0
    head: str = "new"
    base_head: str = "base"


@dataclass(frozen=True)
class OutputConfig:
    """``[output]``: the folder, what the model file says about its origin, and whether TensorBoard events are kept.

    ``gamma`` gives the model extrapolation grades, from its training data.
    """

    directory: str = "fit"
    name: str | None = None
    level_of_theory: str | None = None
    licence: str | None = None
    citation: str | None = None
    notes: str | None = None
    tensorboard: bool = True
    gamma: bool = True


@dataclass(frozen=True)
class FitConfig:
    """All settings of a fit."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    def trajectory_hash(self) -> str:
        """Hash of every setting that the weights depend on (not of time limits, threads, workers and folders)."""
        content = self.to_dict()
        for key in ("max_time", "threads", "workers", "checkpoint_minutes", "checkpoint_steps"):
            del content["training"][key]
        del content["output"]
        # the content of what is trained on counts (see FitData.identity), not where it lies
        del content["data"]["test"], content["data"]["root"], content["data"]["stream"]
        for entry in (*content["data"]["train"], *content["data"]["valid"]):
            del entry["path"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# --- reading --------------------------------------------------------------------------------------------------------


def load_config(path: str | Path, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> FitConfig:
    """Settings from a TOML file; ``overrides`` (section -> key -> value) win over it.

    Another preset than the file's comes without the file's ``model.overrides``.

    Raises
    ------
    InputError
        The file cannot be read or is not TOML.
    UsageError
        Unknown key, wrong type, or a value out of range.
    """
    import tomllib

    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise InputError(f"cannot read {path}: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    return make_config(content, overrides, folder=path.resolve().parent, where=str(path))


def make_config(
    content: Mapping[str, Any],
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    folder: Path | None = None,
    where: str = "settings",
) -> FitConfig:
    """Settings from plain values, checked; paths become absolute."""
    merged: dict[str, Any] = {key: dict(v) if isinstance(v, Mapping) else v for key, v in content.items()}
    config: FitConfig = _build(FitConfig, merged, where)
    for section, entries in (overrides or {}).items():
        added = {key: value for key, value in entries.items() if value is not None}
        base = getattr(config, section)
        built = _build(type(base), {key: _plain(value) for key, value in added.items()}, "the command line")
        changes = {key.replace("-", "_"): getattr(built, key.replace("-", "_")) for key in added}
        if section == "model" and changes.get("preset", config.model.preset) != config.model.preset:
            changes.setdefault("overrides", built.overrides)  # sizes belong to the preset they were chosen for
        config = dataclasses.replace(config, **{section: dataclasses.replace(base, **changes)})
    config = _resolve_replay(config, folder or Path.cwd())
    config = dataclasses.replace(config, data=_resolve_paths(config.data, folder or Path.cwd()))
    _check(config, where)
    return config


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _build(cls: type, content: Any, where: str) -> Any:
    """A dataclass from a mapping, recursively, with every key and type checked."""
    if cls is SetConfig and isinstance(content, str):
        content = {"path": content}
    if not isinstance(content, Mapping):
        raise UsageError(f"{where}: expected a table of keys, found {content!r}")
    annotations = typing.get_type_hints(cls)
    values = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in annotations:
            raise UsageError(f"unknown key {key!r} in {where}", suggestion(key, annotations))
        values[name] = _convert(value, annotations[name], _below(where, key))
    try:
        return cls(**values)
    except TypeError as error:
        missing = re.findall(r"'(\w+)'", str(error))
        raise UsageError(f"{where}: missing {', '.join(missing) or error}") from error


def _below(where: str, key: str) -> str:
    return f"{where} [{key}]" if "[" not in where else f"{where[:-1]}.{key}]"


def _convert(value: Any, annotation: Any, where: str) -> Any:
    origin = typing.get_origin(annotation)
    if origin is types.UnionType:
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return None if value is None else _convert(value, kinds[0], where)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _build(annotation, value, where)
    if origin is tuple:
        item = typing.get_args(annotation)[0]
        entries = value if isinstance(value, list) else [value]
        return tuple(_convert(entry, item, where) for entry in entries)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: expected a table, found {value!r}")
        item = typing.get_args(annotation)[1]
        return {str(key): value[key] if item is Any else _convert(value[key], item, where) for key in value}
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, annotation) or (annotation is not bool and isinstance(value, bool)):
        raise UsageError(f"{where}: expected {annotation.__name__}, found {value!r}")
    return value


def _resolve_paths(data: DataConfig, folder: Path) -> DataConfig:
    root = folder
    if data.root is not None:
        root = folder / expand(data.root)

    def resolved(sets: tuple[SetConfig, ...]) -> tuple[SetConfig, ...]:
        return tuple(dataclasses.replace(entry, path=str(root / expand(entry.path))) for entry in sets)

    return dataclasses.replace(
        data, root=None, train=resolved(data.train), valid=resolved(data.valid), test=resolved(data.test)
    )


def _resolve_replay(config: FitConfig, folder: Path) -> FitConfig:
    """Paths of old data, relative to the same root as the new ones."""
    tuning, root = config.tuning, folder / expand(config.data.root or "")
    sets = tuple(dataclasses.replace(entry, path=str(root / expand(entry.path))) for entry in tuning.replay)
    structures = tuple(str(root / expand(path)) for path in tuning.replay_structures)
    return dataclasses.replace(config, tuning=dataclasses.replace(tuning, replay=sets, replay_structures=structures))


def expand(path: str) -> Path:
    """``~`` and environment variables filled in, with defaults: ``${NAME:-folder}``.

    Raises
    ------
    UsageError
        A variable without value.
    """
    path = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: os.environ.get(m[1]) or m[2], path)
    path = os.path.expandvars(path)
    unset = re.search(r"\$\{?(\w+)\}?", path)
    if unset:
        raise UsageError(f"path {path!r}: the environment variable {unset[1]} is not set")
    return Path(path).expanduser()


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


def _check(config: FitConfig, where: str) -> None:
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
