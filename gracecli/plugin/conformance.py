"""Does a plugin keep the contract? The checks behind ``grace plugins check``."""

from __future__ import annotations

from gracecli.plugin.engine_checks import FAILED, PASSED, SKIPPED, Check, check_engine
from gracecli.plugin.manager import Plugin
from gracecli.plugin.specs import CommandSpec, EngineSpec, OptimizerSpec, Spec, describe

HEAVY = ("ase", "h5py", "jax", "matplotlib", "numpy", "pymatgen", "scipy", "tensorflow", "torch")


def check_plugin(plugin: Plugin, model: str | None = None, seed: int = 0) -> list[Check]:
    """Run every check that applies to ``plugin``.

    Parameters
    ----------
    plugin : Plugin
        As found by the manager.
    model : str, optional
        Model for engines that need one; None means the bundled default.
    seed : int
        Of the random structures.
    """
    if plugin.error is not None:
        return [Check(f"plugin {plugin.name}", "loads", FAILED, plugin.error)]
    checks = [Check(f"plugin {plugin.name}", "loads", PASSED, f"{len(plugin.specs)} specs"), _check_light(plugin)]
    for spec in plugin.specs:
        checks.append(_check_import(spec))
        if isinstance(spec, EngineSpec) and checks[-1].outcome == PASSED:
            checks += _check_engine_spec(spec, model, seed)
    return checks


def _check_light(plugin: Plugin) -> Check:
    """Import the plugin's module in a fresh interpreter and look for heavy packages."""
    import subprocess
    import sys

    module = plugin.module.partition(":")[0]
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; import {module}; print(*sorted(set(sys.modules) & set({HEAVY})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    found = done.stdout.split()
    subject = f"plugin {plugin.name}"
    if done.returncode:
        return Check(subject, "module is light", FAILED, (done.stderr.strip().splitlines() or ["no message"])[-1])
    if found:
        return Check(subject, "module is light", FAILED, f"{module} imports {', '.join(found)} at start-up")
    return Check(subject, "module is light", PASSED)


def _check_import(spec: Spec) -> Check:
    subject = f"{spec.kind} {spec.name}"
    try:
        loaded = spec.load()
    except Exception as error:
        return Check(subject, "imports", FAILED, describe(error))
    if isinstance(spec, CommandSpec):
        import click

        if not isinstance(loaded, click.Command):
            return Check(subject, "imports", FAILED, f"{spec.path} is {type(loaded).__name__}, not a click command")
        if not loaded.help:
            return Check(subject, "imports", FAILED, "the command has no help text")
    elif isinstance(spec, OptimizerSpec) and not hasattr(loaded, "run"):
        return Check(subject, "imports", FAILED, f"{spec.path} has no method run")
    elif not callable(loaded):
        return Check(subject, "imports", FAILED, f"{spec.path} is not callable")
    return Check(subject, "imports", PASSED, spec.path)


def _check_engine_spec(spec: EngineSpec, model: str | None, seed: int) -> list[Check]:
    from gracecli.engine.create import why_unavailable

    subject = f"engine {spec.name}"
    reason = why_unavailable(spec)
    if reason is not None:
        return [Check(subject, "starts", SKIPPED, f"not usable here: {reason}")]
    path = None
    if spec.needs_model and model is None and spec.model_format != "blueprint":
        return [Check(subject, "starts", SKIPPED, f"runs {spec.model_format} models; name one with --model")]
    if spec.needs_model:
        from gracecli.registry.resolve import resolve_model

        path = resolve_model(model)
    try:
        engine = spec.load()(path, None)
    except Exception as error:
        return [Check(subject, "starts", FAILED, describe(error))]
    return [Check(subject, "starts", PASSED, f"cutoff {engine.cutoff:g} Å, {engine.precision}")] + [
        Check(subject, item.check, item.outcome, item.detail) for item in check_engine(engine, seed)
    ]
