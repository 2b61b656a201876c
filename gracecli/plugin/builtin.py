"""What gracecli brings itself, registered through the hooks that third parties use."""

from __future__ import annotations

from collections.abc import Iterator

from gracecli.plugin.hookspecs import hookimpl
from gracecli.plugin.specs import CommandSpec, EngineSpec, LossSpec, OptimizerSpec

_COMMANDS = {
    # name: (section, help)
    "relax": ("Structures", "Relax structures to the nearest energy minimum."),
    "fit": ("Training", "Train a model on your data."),
    "store": ("Data", "Keep structures, labels and results in one file."),
    "models": ("Models", "List, inspect and add models."),
    "plugins": ("Plugins", "List, inspect and check plugins."),
}

_OPTIMIZERS = {
    # name: (class in ase.optimize, help); all of them are in ASE 3.25, the oldest we accept
    "fire": ("FIRE", "Fast inertial relaxation engine; robust far from the minimum."),
    "fire2": ("FIRE2", "FIRE with corrected integration; usually fewer steps."),
    "lbfgs": ("LBFGS", "Limited-memory quasi-Newton; fast near the minimum, cheap for many atoms."),
    "lbfgs-line-search": ("LBFGSLineSearch", "Limited-memory quasi-Newton with a line search."),
    "bfgs": ("BFGS", "Quasi-Newton with the full Hessian; best for small structures."),
    "bfgs-line-search": ("BFGSLineSearch", "Quasi-Newton with a line search (energy decreases at every step)."),
    "cell-aware-bfgs": ("CellAwareBFGS", "Quasi-Newton that scales cell and atoms apart; needs --cell full."),
    "good-old-quasi-newton": ("GoodOldQuasiNewton", "Quasi-Newton with a trust radius."),
    "gpmin": ("GPMin", "Gaussian-process surrogate; fewest evaluations for small molecules."),
    "mdmin": ("MDMin", "Damped molecular dynamics."),
    "ode12r": ("ODE12r", "Adaptive ordinary-differential-equation descent."),
}


_LOSSES = {
    "huber": "Quadratic for small errors, linear beyond the width; the default.",
    "square": "Half the square of the error.",
    "absolute": "The width times the absolute error.",
}


@hookimpl
def gracecli_register_commands() -> Iterator[CommandSpec]:
    """Commands, one module each in :mod:`gracecli.cli`."""
    for name, (section, text) in _COMMANDS.items():
        yield CommandSpec(name=name, help=text, section=section, import_path=f"gracecli.cli.{name}:command")


@hookimpl
def gracecli_register_engines() -> Iterator[EngineSpec]:
    """Provide the TensorFlow engine, and the one that runs published programs."""
    yield EngineSpec(
        name="tensorflow",
        help="TensorFlow with XLA, CPU or GPU; runs every model.",
        factory="gracecli.engine.tensorflow:create_engine",
        priority=10,
    )
    yield EngineSpec(
        name="saved-model",
        help="Runs a published TensorFlow SavedModel export as it is; chosen for folders that hold nothing else.",
        factory="gracecli.engine.savedmodel:create_engine",
        priority=-10,
    )


@hookimpl
def gracecli_register_optimizers() -> Iterator[OptimizerSpec]:
    """Provide ASE's optimizers."""
    for name, (attribute, text) in _OPTIMIZERS.items():
        yield OptimizerSpec(name=name, help=text, factory=f"ase.optimize:{attribute}")


@hookimpl
def gracecli_register_losses() -> Iterator[LossSpec]:
    """Provide the losses of ``grace fit``."""
    for name, text in _LOSSES.items():
        yield LossSpec(name=name, help=text, factory=f"gracecli.fit.loss:{name}")
