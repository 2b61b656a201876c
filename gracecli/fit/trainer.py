"""The training loop: from settings to a model file, resumable at any step.

Everything but the weights and their optimizer state is a pure function of the settings: data split, order of every
epoch, learning rate. A checkpoint therefore is the arrays and a position, and a resumed run is the uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gracecli.errors import InputError, PhysicsError
from gracecli.fit.batches import FitBatch, GraphSet, epoch_plan, fill_fraction, packed_steps, sequential_plan
from gracecli.fit.checkpoint import (
    Checkpoint,
    FitState,
    load_checkpoint,
    prefixed,
    save_checkpoint,
    without_prefix,
)
from gracecli.fit.config import FitConfig
from gracecli.fit.config_check import parse_time
from gracecli.fit.data import Frame
from gracecli.fit.engines import EvaluationMaker
from gracecli.fit.lbfgs import LbfgsStoppedError, run_epoch
from gracecli.fit.loss import FitLoss, count_labels
from gracecli.fit.metrics import Prediction, errors, full_report, mean_loss
from gracecli.fit.plots import plot_curves, plot_parity
from gracecli.fit.progress import Progress, time_text
from gracecli.fit.result import CHECKPOINT, LOG, MODEL, PAGE, REPORT, FitResult
from gracecli.fit.schedule import ends_early, final_loss, learning_rate, loss_weights, progress_of
from gracecli.fit.setup import FitData, build_adapter, build_network, model_metadata, prepare_data
from gracecli.fit.stop import Stop, TrainingInterrupted
from gracecli.fit.table import write_log
from gracecli.fit.tensorboard import EventLog
from gracecli.fit.training_grade import grade_file, summary
from gracecli.fit.tuning.listing import make_listing
from gracecli.fit.tuning.replay import LABELLED
from gracecli.fit.tuning.start import PREPARED
from gracecli.fit.workers.share import Dealer, SharedCompute, shared_predictions
from gracecli.fit.workers.team import Team, WorkerLostError

COMPARE_STEPS = 100
"""Steps after which workers compare their weights, besides the end of every epoch."""


class Trainer:
    """A fit from settings.

    Parameters
    ----------
    config : FitConfig
    progress : Progress, optional
    resume : bool
        Continue from the checkpoint in the output folder.
    force : bool
        Start anew although the folder holds a fit.
    after_step : callable, optional
        Called with the number of steps done (for tests and tools).
    team : Team, optional
        The workers that share every step, of which this is one; files are the chief's.
    """

    def __init__(
        self,
        config: FitConfig,
        progress: Progress | None = None,
        resume: bool = False,
        force: bool = False,
        after_step: Callable[[int], None] | None = None,
        team: Team | None = None,
    ) -> None:
        self.config = config
        self.team = team or Team()
        self.directory = Path(config.output.directory)
        self._say = progress or Progress(quiet=True)
        self._after_step = after_step
        limit = config.training.max_time
        self._stop = Stop(None if limit is None else time.monotonic() + parse_time(limit))
        if self.team.chief:
            self._prepare_directory(resume, force)
        in_turn = config.tuning.strategy is not None  # the chief writes what the others then read
        if in_turn and not self.team.chief:
            self.team.wait()
        self.data: FitData = prepare_data(config, self._say.message, self.directory / PREPARED)
        if in_turn and self.team.chief:
            self.team.wait()
        self.graphs = self.data.make_graphs(self.data.train)
        self._build()
        self.state = FitState()
        self._best: dict[str, np.ndarray] = {}  # weights of the lowest validation loss
        self.predictions: dict[str, list[Prediction]] = {}  # of the best weights, after the end
        self._clock = 0.0
        self._last_save = (0.0, 0)
        if resume:
            self._resume()
        self._compare("at the start", everything=True)

    # --- construction -----------------------------------------------------------------------------------------------

    def _prepare_directory(self, resume: bool, force: bool) -> None:
        checkpoint = self.directory / CHECKPOINT
        if not resume and not force and (checkpoint.exists() or (self.directory / MODEL).exists()):
            raise InputError(f"{self.directory} holds a fit", "continue it with --resume, or replace it with --force")
        if resume and not checkpoint.exists():
            load_checkpoint(checkpoint)  # says what is missing
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if force and not resume:
                for leftover in (checkpoint, self.directory / PREPARED, self.directory / LABELLED):
                    leftover.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write to {self.directory}: {error.strerror}", "give another -o/--output"
            ) from error

    def _build(self) -> None:
        from gracecli.quiet import import_tensorflow, settle_xla

        settle_xla(import_tensorflow())
        from gracecli.fit.optimizer import Optimizer

        training = self.config.training
        self.network, self.blueprint = build_network(self.config, self.data, self.graphs.average_neighbours)
        self.capacities = self.graphs.capacities(training.batch_atoms)
        plan = epoch_plan(self.graphs, self.capacities, training.seed, 0, training.batches_per_step)
        self.counts = count_labels(self.graphs.table, plan)
        self.adapter = build_adapter(self.config, self.data, self.network)
        if self.data.tuning is not None:
            self._say.message(make_listing(self.config, self.data.tuning, self.network).summary())
        self.optimizer = Optimizer(
            self.adapter.variables,
            training.clip_norm,
            training.weight_decay,
            training.ema,
            amsgrad=training.optimizer == "amsgrad",
        )
        maker = EvaluationMaker(training, self._say.message)
        self.compute = self.adapter.compute(FitLoss(self.config.loss, self.counts), maker)
        self.engine = maker.name
        if self.team.size > 1:
            self._share()
        atoms, rows = fill_fraction(self.graphs, plan, self.capacities)
        self.parameters = sum(int(np.prod(v.shape)) for v in self.network.trainable_by_name.values())
        self._say.message(
            f"{len(self.data.train)} training, {len(self.data.valid)} validation, {len(self.data.test)} test "
            f"structures; {self.graphs.average_neighbours:.1f} neighbours per atom within {self.data.cutoff:g} Å"
        )
        shapes = " or ".join(f"{c.shape.atoms} atoms, {c.shape.rows} rows of bonds" for c in self.capacities.values())
        self._say.message(
            f"{self.parameters} weights; {len(plan)} steps per epoch; batches of {shapes} "
            f"({100 * atoms:.0f} % and {100 * rows:.0f} % filled); engine {self.engine}"
        )

    def _share(self) -> None:
        """Deal batches out to the workers of the team."""
        training, targets = self.config.training, self.adapter.targets
        sizes = training.batch_atoms, training.batches_per_step
        self._dealer = Dealer(self.graphs, self.capacities, *sizes, self.team)
        self.compute = SharedCompute(self.compute, self.team, targets, self._dealer.rows, lambda: self._stop.wish)
        self._say.message(self._dealer.describe())

    def _compare(self, when: str, everything: bool = False) -> None:
        """Make sure that all workers hold the same numbers."""
        if self.team.size == 1:
            return
        contents = {"weights": b"".join(value.tobytes() for value in self.optimizer.weights().values())}
        if everything:
            fixed = f"{self.blueprint.to_json()} {self.capacities} {self.counts} {self._plan(0)}"
            contents = {"settings or data": self.identity.encode(), "batches": fixed.encode(), **contents}
        self.team.agree(when, contents)

    @property
    def identity(self) -> str:
        """Hash of settings and data, which a checkpoint must match."""
        return self.data.identity(self.config)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint."""
        if not self.team.chief:
            return
        arrays = self.optimizer.state() | prefixed("best", self._best)
        self.state.seconds += time.monotonic() - self._clock
        self._clock = time.monotonic()
        save_checkpoint(self.directory / CHECKPOINT, Checkpoint(self.state, arrays, self.identity))
        self._last_save = (time.monotonic(), self.state.step)

    def _resume(self) -> None:
        checkpoint = load_checkpoint(self.directory / CHECKPOINT, self.identity)
        self.state = checkpoint.state
        self.optimizer.restore(checkpoint.arrays)
        self.adapter.push()
        self._best = without_prefix("best", checkpoint.arrays)
        self._say.message(f"resumed at epoch {self.state.epoch + 1}, step {self.state.step}")

    def _save_if_due(self) -> None:
        training = self.config.training
        seconds, step = self._last_save
        by_time = time.monotonic() - seconds > 60.0 * training.checkpoint_minutes
        by_step = training.checkpoint_steps and self.state.step - step >= training.checkpoint_steps
        if by_time or by_step:
            self.save()

    # --- training ---------------------------------------------------------------------------------------------------

    def run(self) -> FitResult:
        """Train to the end, or to the time limit.

        Raises
        ------
        TrainingInterrupted
            SIGINT or SIGTERM; the checkpoint is saved.
        PhysicsError
            The gradient is not finite.
        """
        epochs = self.config.training.epochs
        self._clock = time.monotonic()
        self._last_save = (self._clock, self.state.step)
        self._stop.install()
        self._events = EventLog(self.directory if self.config.output.tensorboard and self.team.chief else None)
        try:
            begun = False
            while self.state.epoch < epochs and not self._stopping and not self.finished_early:
                plan = self._plan(self.state.epoch)
                if not begun:
                    self._say.begin(self.state.step, self.state.step + len(plan) * (epochs - self.state.epoch))
                    begun = True
                run = self._run_lbfgs if self.config.training.optimizer == "lbfgs" else self._run_epoch
                if run(plan):
                    self._end_epoch(plan)
            self.save()
            if self._stopping == 2:
                raise TrainingInterrupted(
                    f"interrupted at epoch {self.state.epoch + 1}; checkpoint saved in {self.directory}",
                    "continue with --resume",
                )
            return self._finish()
        except WorkerLostError as error:
            raise self._rescued(error) from error
        finally:
            self._stop.restore()
            self._say.close()
            self._events.close()
            self.compute.close()

    def _rescued(self, error: WorkerLostError) -> WorkerLostError:
        """Save the last whole step; the error, with where it is."""
        if not self.team.chief:
            return error
        if self.config.training.optimizer != "lbfgs":  # there the weights are somewhere on a line
            self.save()
        if not (self.directory / CHECKPOINT).exists():
            return WorkerLostError(f"{error.message}; there is no checkpoint yet", "start again")
        where = f"checkpoint of step {self._last_save[1]} in {self.directory}"
        return WorkerLostError(f"{error.message}; {where}", "continue with --resume")

    @property
    def _stopping(self) -> int:
        """Why the run has to end before its last epoch (0: it has not to); workers agree on it in every step."""
        return self.team.stop if self.team.size > 1 else self._stop.wish

    @property
    def finished_early(self) -> bool:
        """Whether the validation loss has not improved for ``early_stop`` validations."""
        return ends_early(self.config.training, self.state.log)

    def _plan(self, epoch: int) -> list[list[tuple[int, ...]]]:
        training = self.config.training
        epoch = 0 if training.optimizer == "lbfgs" else epoch  # one function to minimize
        return epoch_plan(self.graphs, self.capacities, training.seed, epoch, training.batches_per_step)

    def _run_epoch(self, plan: Sequence[Sequence[tuple[int, ...]]]) -> bool:
        """Steps from the present position; False when the run has to stop before the end of the epoch."""
        state, training = self.state, self.config.training
        coming = self._packed(plan[state.position :])
        while state.position < len(plan):
            if self._stopping:
                return False
            batches = next(coming)
            progress = progress_of(state.epoch, state.position, len(plan), training.epochs)
            gradients, terms = self.compute.gradients(batches, loss_weights(self.config, progress))
            moves = self.adapter.project(gradients)
            norm = self.optimizer.apply(moves, self._learning_rate(progress), state.step + 1)
            self.adapter.push()
            if not np.isfinite(norm):
                raise PhysicsError(
                    f"the gradient is not finite in step {state.step + 1} ({self._sources(plan[state.position])})",
                    "lower training.learning_rate, or look for atoms on top of each other in these structures",
                )
            state.step += 1
            state.position += 1
            state.sums = [a + float(b) for a, b in zip(state.sums, (*terms, norm), strict=True)]
            self._say.step(progress, state.epoch, float(terms.sum()))
            if state.step % COMPARE_STEPS == 0:
                self._compare(f"after step {state.step}")
            self._save_if_due()
            if self._after_step is not None:
                self._after_step(state.step)
        return True

    def _packed(self, plan: Sequence[Sequence[tuple[int, ...]]]) -> Iterator[list[FitBatch]]:
        """Batches of the steps of a plan, of each the part of this worker."""
        if self.team.size == 1:
            return packed_steps(self.graphs, plan, self.capacities)
        return packed_steps(self._dealer, self._dealer.own(plan), self.capacities)

    def _learning_rate(self, progress: float) -> float:
        return learning_rate(self.config.training, progress, self.state.log)

    def _run_lbfgs(self, plan: Sequence[Sequence[tuple[int, ...]]]) -> bool:
        """One epoch of L-BFGS; False, with the weights it began with, when the run has to stop before its end."""
        state, training = self.state, self.config.training
        progress = progress_of(state.epoch, 0, len(plan), training.epochs)
        weights = loss_weights(self.config, progress)

        def evaluate() -> tuple[list[Any], np.ndarray]:
            self.adapter.push()
            total: list[Any] = []
            terms = np.zeros(3)
            for batches in self._packed(plan):
                gradients, more = self.compute.gradients(batches, weights)
                total = [a + b for a, b in zip(total, gradients, strict=True)] if total else gradients
                terms = terms + more
            return self.adapter.project([g / len(plan) for g in total]), terms / len(plan)

        def step(loss: float) -> None:
            if not np.isfinite(loss):
                raise PhysicsError("the loss is not finite", "look for atoms on top of each other in the training data")
            self._say.step(progress, state.epoch, loss)

        try:
            iterations, decay = training.lbfgs_iterations, training.weight_decay
            done = run_epoch(self.optimizer, evaluate, iterations, decay, lambda: bool(self._stopping), step)
            self.adapter.push()
        except LbfgsStoppedError:
            return False
        state.step += done.iterations
        state.sums = [float(value) * len(plan) for value in (*done.terms, done.norm)]
        if self._after_step is not None:
            self._after_step(state.step)
        return True

    def _sources(self, step: Sequence[tuple[int, ...]]) -> str:
        names = [self.data.train[i].source for members in step for i in members]
        return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")

    def _end_epoch(self, plan: Sequence[Sequence[tuple[int, ...]]]) -> None:
        state, training = self.state, self.config.training
        self._compare(f"after epoch {state.epoch + 1}")
        steps = len(plan)
        energy, forces, stress, norm = (value / steps for value in state.sums)
        end = progress_of(state.epoch + 1, 0, steps, training.epochs)
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "learning_rate": self._learning_rate(end),
            "loss": energy + forces + stress,
            "loss_energy": energy,
            "loss_forces": forces,
            "loss_stress": stress,
            "gradient_norm": norm,
        }
        last = state.epoch + 1 == training.epochs
        if self.data.valid and (last or (state.epoch + 1) % training.validate_every == 0):
            row |= self._validate(state.epoch)
        row["seconds"] = state.seconds + time.monotonic() - self._clock
        state.log.append(row)
        state.epoch, state.position, state.sums = state.epoch + 1, 0, [0.0, 0.0, 0.0, 0.0]
        if self.team.chief:
            write_log(self.directory / LOG, state.log)
            self._events.epoch(row)
        if training.optimizer == "lbfgs":
            self._save_if_due()
        self._say.epoch(row, training.epochs, end)

    # --- evaluation -------------------------------------------------------------------------------------------------

    def _validate(self, epoch: int) -> dict[str, Any]:
        predictions = self.predict(self.data.valid, self.optimizer.averaged())
        loss = mean_loss(self.data.valid, predictions, final_loss(self.config))
        if self.state.best_loss is None or loss < self.state.best_loss:
            self.state.best_loss, self.state.best_epoch = loss, epoch
            self._best = self.optimizer.averaged()
            self._write_model(self._best, {"valid": {"overall": errors(self.data.valid, predictions).to_dict()}})
        found = errors(self.data.valid, predictions).to_dict()
        names = [f"{name}_{kind}" for name in ("energy", "forces", "stress") for kind in ("mae", "rmse")]
        return {"valid_loss": loss, **{f"valid_{name}": found[name] for name in names}}

    def predict(self, frames: Sequence[Frame], weights: dict[str, np.ndarray] | None = None) -> list[Prediction]:
        """Energies, forces and stresses of frames with the given (default: present) weights."""
        held = self.optimizer.weights()
        if weights is not None:
            self.optimizer.load(weights)
            self.adapter.push()
        try:
            return self._predict(self.data.graphs_of(frames))
        finally:
            self.optimizer.load(held)
            self.adapter.push()

    def _predict(self, graphs: GraphSet) -> list[Prediction]:
        found: dict[int, Prediction] = {}
        batch_atoms = self.config.training.batch_atoms
        capacities = graphs.capacities(batch_atoms, at_least=self.capacities)  # usually the shapes of training
        for members in list(sequential_plan(graphs, capacities))[self.team.rank :: self.team.size]:
            packed = graphs.pack(members, capacities)
            energy, forces, stress = self.compute.predict(packed)
            offset = packed.batch.atom_offset
            for number, index in enumerate(members):
                periodic = np.isfinite(packed.batch.volumes[number])
                found[index] = Prediction(
                    float(energy[number]),
                    forces[offset[number] : offset[number + 1]],
                    stress[number] if periodic else np.full(6, np.nan),
                )
        found = shared_predictions(found, self.team)
        return [found[i] for i in range(len(graphs))]

    # --- the end ----------------------------------------------------------------------------------------------------

    def _write_model(self, weights: dict[str, np.ndarray], metrics: dict[str, Any]) -> None:
        from gracecli.model.modelfile import save_model

        if not self.team.chief:
            return
        metadata = model_metadata(self.config, self.data, self.blueprint, self.state, metrics)
        save_model(self.directory / MODEL, self.adapter.model(self.blueprint, weights, metadata), overwrite=True)

    def _finish(self) -> FitResult:
        """Errors of the best model, its file, and the pictures."""
        from gracecli.fit.page import write_page
        from gracecli.fit.table import write_report

        best = self._best or self.optimizer.averaged()
        metrics: dict[str, Any] = {}
        shown: dict[str, tuple[Sequence[Frame], Sequence[Prediction]]] = {}
        for name, frames in (("valid", self.data.valid), ("test", self.data.test)):
            if frames:
                predictions = self.predict(frames, best)
                metrics[name] = full_report(frames, predictions)
                self.predictions[name] = predictions
                shown["validation" if name == "valid" else name] = (frames, predictions)
        self._write_model(best, metrics)
        completed = self.state.epoch >= self.config.training.epochs or self.finished_early
        gamma = None
        if completed and self.config.output.gamma and self.team.chief:
            gamma = grade_file(self.directory / MODEL, self.data, self.graphs, self.config.training.seed)
            self._say.message(f"extrapolation grade {summary(gamma)}")
        result = FitResult(
            completed=completed,
            directory=self.directory,
            model=self.directory / MODEL,
            epochs=self.state.epoch,
            steps=self.state.step,
            best_epoch=self.state.best_epoch + 1,
            seconds=self.state.seconds,
            metrics=metrics,
            reference=self.data.reference.energies,
            parameters=self.parameters,
            gamma=gamma,
        )
        if not self.team.chief:
            return result
        if self.state.log:
            plot_curves(self.state.log, self.directory / "curves.png", self.state.best_epoch)
        plot_parity(shown, self.directory / "parity.png")
        write_report(self.directory / REPORT, result, self.config)
        title = self.config.output.name or f"{self.config.model.preset} {'-'.join(self.data.elements)}"
        write_page(self.directory / PAGE, result, self.config, title, self.data.reports)
        self._say.message(f"{'done' if completed else 'time limit reached'} after {time_text(self.state.seconds)}")
        return result
