"""From settings to what a fit needs: data with splits, reference energies, blueprint, initial weights, metadata."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.errors import UsageError
from gracecli.fit.batches import GraphSet
from gracecli.fit.config import FitConfig
from gracecli.fit.config_read import expand
from gracecli.fit.data import Frame, SetReport, elements_of, read_sets, require_elements, split_validation
from gracecli.fit.metrics import UNITS
from gracecli.fit.reference import ReferenceEnergies, adapt_blueprint, energies_text, fit_reference, force_rms
from gracecli.fit.sources import with_stored_splits
from gracecli.fit.stream import stream_sets, worth_streaming
from gracecli.fit.table import plain
from gracecli.fit.weighting import apply_weighting
from gracecli.model.blueprint import ScaleShift

if TYPE_CHECKING:
    from pathlib import Path

    from gracecli.fit.checkpoint import FitState
    from gracecli.fit.tuning.adapter import Adapter
    from gracecli.fit.tuning.start import Start
    from gracecli.model.blueprint import Blueprint
    from gracecli.model.modelfile import Model


@dataclass
class FitData:
    """Structures of a fit, and the model they are for."""

    train: Sequence[Frame]
    valid: list[Frame]
    test: list[Frame]
    reports: dict[str, list[SetReport]]
    elements: tuple[str, ...]
    blueprint: Blueprint
    reference: ReferenceEnergies
    scale: float
    start: Model | None = None
    tuning: Start | None = None
    heads: tuple[str, str] | None = None
    _graphs: dict[int, GraphSet] = field(default_factory=dict)

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.blueprint.cutoff

    def graphs_of(self, frames: Sequence[Frame]) -> GraphSet:
        """Graphs, built once per list of frames."""
        key = id(frames)
        if key not in self._graphs:
            self._graphs[key] = self.make_graphs(frames)
        return self._graphs[key]

    def make_graphs(self, frames: Sequence[Frame]) -> GraphSet:
        """Graphs of frames, by head where there are several."""
        if self.heads:
            from gracecli.fit.tuning.multihead import HeadGraphSet

            return HeadGraphSet(frames, self.cutoff, self.elements)
        return GraphSet(frames, self.cutoff, self.elements)

    def identity(self, config: FitConfig) -> str:
        """Hash of the settings and of the content of all training and validation files."""
        files = [(report.name, report.sha256) for name in ("train", "valid") for report in self.reports[name]]
        if self.tuning is not None:
            files.append(("start", self.tuning.base.sha256()))
        return hashlib.sha256(json.dumps([config.trajectory_hash(), files]).encode()).hexdigest()


def prepare_data(config: FitConfig, say: Callable[[str], None], prepared: Path | None = None) -> FitData:
    """Read, filter, split; fit reference energies; make the blueprint.

    ``prepared`` is where the start of a fine-tuning is kept for a resumed fit.

    Raises
    ------
    InputError
        Unusable data.
    UsageError
        No training data named.
    """
    from gracecli.model.presets import preset

    if not config.data.train:
        raise UsageError("no training data", "name files, or give [data] train")
    sets: dict[str, Sequence[Frame]] = {}
    reports: dict[str, list[SetReport]] = {}
    data = with_stored_splits(config.data)
    if data is not config.data:
        names = [name for name in ("train", "valid", "test") if getattr(data, name)]
        say(f"splits of the store: {', '.join(names)}")
    for name in ("train", "valid", "test"):
        entries = getattr(data, name)
        if name == "train" and (data.stream == "always" or (data.stream == "auto" and worth_streaming(entries))):
            sets[name], reports[name] = stream_sets(entries, data)
            say("training structures stay in their stores and are read batch by batch")
        else:
            sets[name], reports[name] = read_sets(entries, data)
        for report in reports[name]:
            dropped = f", {report.dropped} dropped" if report.dropped else ""
            say(
                f"{name} {report.name}: {report.frames} structures, {report.atoms} atoms{dropped}; "
                f"energies from {report.energy_key!r}, {report.stresses} stresses"
            )
    train, valid = sets["train"], list(sets["valid"])
    if not data.valid and data.valid_fraction > 0:
        seed = config.training.seed if data.split_seed is None else data.split_seed
        train, valid = split_validation(train, data.valid_fraction, seed)
    start, tuning, heads = load_start(config), None, None
    if start is not None and config.tuning.strategy is not None:
        from gracecli.fit.tuning.start import prepare_start

        tuning = prepare_start(config, start, train, prepared, say)
        start = tuning.model
        if config.tuning.strategy == "replay":
            from gracecli.fit.tuning.replay import replay_frames

            old_train, old_valid, old_reports = replay_frames(config, tuning, prepared, say)
            train, valid = [*train, *old_train], [*valid, *old_valid]
            reports["train"] = reports["train"] + old_reports
            heads = config.tuning.head, config.tuning.base_head
    elements = start.elements if start else config.model.elements or elements_of(train)
    test = list(sets["test"])
    for frames in (train, valid, test):
        require_elements(frames, elements)
    given = reference_of(start.blueprint) if start else config.model.reference
    reference = fit_reference(train, elements, given)
    if reference.warning:
        say(f"warning: {reference.warning}")
    train, (valid, test) = apply_weighting(train, [valid, test], data)
    how = "fitted" if reference.fitted else "given"
    say(f"reference energies (eV/atom, {how}): {energies_text(reference.energies)}")
    say(f"they leave {reference.residual:.3f} eV/atom RMS; condition number {reference.condition:.3g}")
    if start:
        scale = next((n.scale for n in start.blueprint.of_type(ScaleShift)), 1.0)
        return FitData(train, valid, test, reports, elements, start.blueprint, reference, scale, start, tuning, heads)
    scale = config.model.scale or force_rms(train)
    shifts = tuple(reference.energies[symbol] for symbol in elements)
    options = {**config.model.overrides, "scale": scale, "element_shifts": shifts}
    if config.model.cutoff is not None:
        options["cutoff"] = config.model.cutoff
    blueprint = preset(config.model.preset, elements, **options)
    return FitData(train, valid, test, reports, blueprint.elements, blueprint, reference, scale)


def load_start(config: FitConfig) -> Model | None:
    """Model to start from, if any.

    Raises
    ------
    UsageError
        Settings that contradict it.
    """
    if config.model.start is None:
        return None
    from gracecli.registry.resolve import read_model, resolve_model

    chosen = config.model
    if chosen.overrides or chosen.cutoff is not None or chosen.reference or chosen.scale:
        raise UsageError(
            "model.start brings blueprint, cutoff, reference energies and scale",
            "leave overrides, cutoff, reference and scale out",
        )
    return read_model(resolve_model(expand(str(chosen.start))))


def reference_of(blueprint: Blueprint) -> dict[str, float]:
    """Reference energies (eV/atom) that a blueprint holds; zero where it holds none."""
    shifts = next((n.element_shifts for n in blueprint.of_type(ScaleShift) if n.element_shifts), None)
    return dict(zip(blueprint.elements, shifts or (0.0,) * len(blueprint.elements), strict=True))


def build_network(config: FitConfig, data: FitData, average_neighbours: float) -> tuple[Any, Blueprint]:
    """Network with fresh weights and a blueprint with the constants of the data, or the network to start from."""
    from gracecli.model.network import Network
    from gracecli.model.presets import initial_weights

    dtype = "float64" if config.training.precision == "fp64" else "float32"
    if data.start is not None:
        return Network(data.start.blueprint, data.start.weights, dtype), data.start.blueprint
    blueprint = adapt_blueprint(data.blueprint, data.reference.energies, data.scale, average_neighbours)
    weights = initial_weights(blueprint, np.random.default_rng([config.training.seed, 0]))
    return Network(blueprint, weights, dtype), blueprint


def build_adapter(config: FitConfig, data: FitData, network: Any) -> Adapter:
    """What of the network moves."""
    from gracecli.fit.tuning.adapter import Adapter, StrategyAdapter
    from gracecli.fit.tuning.strategy import movements

    tuning, strategy = data.tuning, config.tuning.strategy
    if tuning is None or strategy is None:
        return Adapter(network)
    if data.heads:
        from gracecli.fit.tuning.multihead import HeadsAdapter

        return HeadsAdapter(network, tuning.unshifted, data.heads, tuning.new)
    shapes = {name: tuple(v.shape) for name, v in network.trainable_by_name.items()}
    moves = movements(tuning.model.blueprint, shapes, strategy, tuning.present, tuning.new, config.tuning.rank)
    return StrategyAdapter(network, tuning.model, moves, config.tuning.alpha, config.training.seed)


def model_metadata(
    config: FitConfig, data: FitData, blueprint: Blueprint, state: FitState, metrics: dict[str, Any]
) -> dict[str, Any]:
    """What the model file says about its origin."""
    from importlib.metadata import version

    import gracecli

    sources = {name: [asdict(report) for report in reports] for name, reports in data.reports.items() if reports}
    for reports in sources.values():
        for report in reports:  # a path of one machine says nothing on another
            report["path"] = "/".join(str(report["path"]).split("/")[-2:])
    settings = config.to_dict()
    del settings["data"], settings["output"]
    base = data.tuning.base.metadata if data.tuning else {}
    default = f"{config.model.preset}-{'-'.join(data.elements)}"
    if data.tuning:
        default = f"{data.tuning.record['base']['name']}-{config.tuning.strategy}"
    return plain(
        {
            "name": config.output.name or default,
            "elements": list(data.elements),
            "cutoff": blueprint.cutoff,
            "level_of_theory": config.output.level_of_theory,
            "licence": config.output.licence or base.get("licence"),  # of what it was made from, unless named
            "citation": config.output.citation or base.get("citation"),
            "notes": config.output.notes,
            "training": {
                "data": sources,
                "structures": {
                    "train": len(data.train),
                    "valid": len(data.valid),
                    "test": len(data.test),
                },
                "reference_energies": data.reference.energies,
                "scale": data.scale,
                **({"tuning": data.tuning.record} if data.tuning else {}),
                "settings": settings,
                "seed": config.training.seed,
                "epochs": state.epoch,
                "steps": state.step,
                "best_epoch": state.best_epoch + 1,
                "seconds": round(state.seconds),
                "versions": {
                    "gracecli": gracecli.__version__,
                    "tensorflow": version("tensorflow"),
                    "numpy": np.__version__,
                    "python": platform.python_version(),
                },
            },
            "metrics": metrics,
            "metrics_units": dict(UNITS),
        }
    )
