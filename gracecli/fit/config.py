"""Settings of a fit as frozen dataclasses (read by :mod:`gracecli.fit.config_read`)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


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
