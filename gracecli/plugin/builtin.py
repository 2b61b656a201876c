"""What gracecli brings itself, registered through the hooks that third parties use."""

from __future__ import annotations

from collections.abc import Iterator

from gracecli.plugin.hookspecs import hookimpl
from gracecli.plugin.specs import CommandSpec, EngineSpec, EnsembleSpec, ExporterSpec, LossSpec, OptimizerSpec

_COMMANDS = {
    # name: (section, help)
    "relax": ("Structures", "Relax structures to the nearest energy minimum."),
    "md": ("Structures", "Molecular dynamics at constant energy, temperature or pressure."),
    "phonons": ("Structures", "Phonons of crystals: bands, thermal properties, stability."),
    "elastic": ("Structures", "Elastic constants of crystals, moduli, Born stability."),
    "eos": ("Structures", "Equation of state of crystals: volume and bulk modulus."),
    "predict": ("Structures", "Energies, forces and stresses, and errors against labels."),
    "fit": ("Training", "Train a model on your data."),
    "store": ("Data", "Keep structures, labels and results in one file."),
    "models": ("Models", "List, inspect and add models."),
    "bench": ("Models", "Time engines and models on this machine."),
    "export": ("Models", "Export a model to other formats and programs."),
    "plugins": ("Plugins", "List, inspect and check plugins."),
}

_OPTIMIZERS = {
    # name: (class in ase.optimize or elsewhere, help); all of ASE's are in 3.25, the oldest we accept
    "fire": ("FIRE", "Fast inertial relaxation engine; robust far from the minimum."),
    "fire2": ("FIRE2", "FIRE with corrected integration; usually fewer steps."),
    "lbfgs": (
        "gracecli.run.quasi_newton:QuasiNewton",
        "Limited-memory quasi-Newton; fast near the minimum, cheap for many atoms.",
    ),
    "lbfgs-line-search": ("LBFGSLineSearch", "Limited-memory quasi-Newton with a line search."),
    "bfgs": ("BFGS", "Quasi-Newton with the full Hessian; best for small structures."),
    "bfgs-line-search": ("BFGSLineSearch", "Quasi-Newton with a line search (energy decreases at every step)."),
    "cell-aware-bfgs": ("CellAwareBFGS", "Quasi-Newton that scales cell and atoms apart; needs --cell full."),
    "good-old-quasi-newton": ("GoodOldQuasiNewton", "Quasi-Newton with a trust radius."),
    "gpmin": ("GPMin", "Gaussian-process surrogate; fewest evaluations for small molecules."),
    "mdmin": ("MDMin", "Damped molecular dynamics."),
    "ode12r": ("ODE12r", "Adaptive ordinary-differential-equation descent."),
}

_ENSEMBLES = {
    # name: (class in gracecli.run, help)
    "nve": ("md_integrators:VelocityVerlet", "Constant energy (velocity Verlet)."),
    "nvt-langevin": ("md_integrators:Langevin", "Friction and noise on every atom (BAOAB); robust, slows diffusion."),
    "nvt-csvr": ("md_integrators:VelocityRescaling", "Stochastic velocity rescaling (Bussi); what nvt stands for."),
    "nvt-nhc": ("md_integrators:NoseHooverChains", "Nosé-Hoover chains; deterministic."),
    "npt-mtk": ("md_barostats:Mtk", "Martyna-Tobias-Klein, all of the cell moves; what npt stands for."),
    "npt-mtk-iso": ("md_barostats:MtkIsotropic", "Martyna-Tobias-Klein, the volume moves; for liquids."),
    "npt-berendsen": ("md_barostats:Berendsen", "Weak coupling; to equilibrate, samples no ensemble."),
}

_EXPORTERS = {
    # name: (class in gracecli.export, suffix, folder, options, help)
    "grace": ("gracefile:GraceFile", ".grace", False, (), "Model file of gracecli, reduced or recast."),
    "saved-model": (
        "savedmodel:SavedModel", ".saved_model", True, ("xla",),
        "TensorFlow SavedModel with the published signature, for tools made for published models.",
    ),
    "upstream": (
        "upstream:Upstream", ".upstream", True, (),
        "Published checkpoint layout (model.yaml and TensorFlow checkpoint), for published tools.",
    ),
    "npz": ("npz:Npz", ".npz", False, (), "Weights by node and name, and the blueprint as JSON, for numpy."),
    "hlo": (
        "hlo:Hlo", ".hlo", True, ("atoms", "bonds", "structure"),
        "XLA program of fixed numbers of atoms and bonds, run by JAX on CPU, GPU or TPU.",
    ),
}  # fmt: skip

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
        gpu=True,
    )
    yield EngineSpec(
        name="saved-model",
        help="Runs a published TensorFlow SavedModel export as it is; chosen for folders that hold nothing else.",
        factory="gracecli.engine.savedmodel:create_engine",
        priority=-10,
        model_format="saved-model",
    )


@hookimpl
def gracecli_register_optimizers() -> Iterator[OptimizerSpec]:
    """Provide ASE's optimizers, and one of ours."""
    for name, (place, text) in _OPTIMIZERS.items():
        yield OptimizerSpec(name=name, help=text, factory=place if ":" in place else f"ase.optimize:{place}")


@hookimpl
def gracecli_register_ensembles() -> Iterator[EnsembleSpec]:
    """Provide the ensembles of ``grace md``."""
    for name, (place, text) in _ENSEMBLES.items():
        yield EnsembleSpec(name=name, help=text, factory=f"gracecli.run.{place}")


@hookimpl
def gracecli_register_exporters() -> Iterator[ExporterSpec]:
    """Provide the formats of ``grace export``, one module each in :mod:`gracecli.export`."""
    for name, (place, suffix, folder, options, text) in _EXPORTERS.items():
        exporter = f"gracecli.export.{place}"
        yield ExporterSpec(name=name, help=text, exporter=exporter, suffix=suffix, folder=folder, options=options)


@hookimpl
def gracecli_register_losses() -> Iterator[LossSpec]:
    """Provide the losses of ``grace fit``."""
    for name, text in _LOSSES.items():
        yield LossSpec(name=name, help=text, factory=f"gracecli.fit.loss:{name}")
