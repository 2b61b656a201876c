"""``grace plugins``: what is installed, what is broken and why, and whether a plugin keeps the contract."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from gracecli.cli.options import json_option, verbosity_options
from gracecli.cli.output import emit_json, format_pairs, format_table, verbosity
from gracecli.errors import InputError, PluginError
from gracecli.names import suggestion
from gracecli.plugin.manager import Plugin, get_plugin_manager
from gracecli.plugin.specs import Spec


@click.group(invoke_without_command=True)
@verbosity_options
@click.pass_context
def command(context: click.Context) -> None:
    """List, inspect and check plugins.

    A plugin is an installed package with an entry point in the group `gracecli.plugins`; it may bring commands,
    engines, optimizers and more. GRACE_PLUGINS="a,b" loads only these (empty: none), --no-plugins none at all,
    GRACE_STRICT_PLUGINS=1 makes a broken plugin an error.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_plugins, as_json=False)


@command.command("list")
@json_option
@verbosity_options
def list_plugins(as_json: bool) -> None:
    """List plugins, what they bring, and which are broken."""
    plugins = get_plugin_manager().plugins
    if as_json:
        emit_json("gracecli.plugins.list", 1, {"plugins": [_document(plugin) for plugin in plugins]}, {})
        return
    rows = [
        (plugin.name, plugin.distribution, plugin.version or _own_version(), _status(plugin), _summary(plugin))
        for plugin in plugins
    ]
    click.echo(format_table(["plugin", "distribution", "version", "status", "brings"], rows))


@command.command("info")
@click.argument("name")
@json_option
@verbosity_options
def info(name: str, as_json: bool) -> None:
    """Show one plugin: what it brings, or why it is broken."""
    plugin = _find(name)
    if as_json:
        emit_json("gracecli.plugins.info", 1, _document(plugin), {})
        return
    pairs = [
        ("plugin", plugin.name),
        ("distribution", plugin.distribution),
        ("version", plugin.version or _own_version()),
        ("entry point", plugin.module),
        ("status", _status(plugin)),
    ]
    if plugin.error is not None:
        pairs.append(("reason", plugin.error))
        if (where := _where(plugin.cause)) is not None:
            pairs.append(("raised at", where))
    click.echo(format_pairs(pairs))
    if plugin.specs:
        click.echo()
        click.echo(
            format_table(
                ["kind", "name", "what it is", "imported on use"],
                [(spec.kind, spec.name, spec.help, spec.path) for spec in plugin.specs],
            )
        )
    if plugin.cause is not None and verbosity() > 0:
        import traceback

        click.echo("\n" + "".join(traceback.format_exception(plugin.cause)), err=True)


@command.command("check")
@click.argument("name")
@click.option(
    "-m", "--model", metavar="NAME|PATH", help="Model for engines that need one. [default: the bundled model]"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the test structures.")
@json_option
@verbosity_options
def check(name: str, model: str | None, seed: int, as_json: bool) -> None:
    """Test whether a plugin keeps the contract.

    Its specs must be sound and light, what they name must import, and engines must be right: forces and stress
    against finite differences of the energy, several structures at once as one at a time, and energies that do not
    change under rotation, translation and exchange of atoms.
    """
    from gracecli.plugin.conformance import check_plugin
    from gracecli.plugin.engine_checks import FAILED

    plugin = _find(name)
    checks = check_plugin(plugin, model=model, seed=seed)
    failed = sum(item.outcome == FAILED for item in checks)
    if as_json:
        payload = {**_document(plugin), "passed": failed == 0, "checks": checks}
        emit_json("gracecli.plugins.check", 1, payload, {})
    else:
        rows = [(item.subject, item.check, item.outcome, item.detail) for item in checks]
        click.echo(format_table(["subject", "check", "outcome", "detail"], rows))
    if failed:
        raise PluginError(f"{plugin.label} fails {failed} of {len(checks)} checks")


def _find(name: str) -> Plugin:
    plugins = get_plugin_manager().plugins
    for plugin in plugins:
        if name in (plugin.name, plugin.distribution):
            return plugin
    known = {known for plugin in plugins for known in (plugin.name, plugin.distribution)}
    raise InputError(f"no plugin is called {name!r}", suggestion(name, known))


def _status(plugin: Plugin) -> str:
    return "broken" if plugin.error is not None else "ok"


def _summary(plugin: Plugin) -> str:
    if plugin.error is not None:
        return plugin.error
    kinds = Counter(spec.kind for spec in plugin.specs)
    plural = {1: "", 2: "s", 3: "es"}
    texts = [f"{n} {kind}{plural[1 if n == 1 else 3 if kind.endswith('s') else 2]}" for kind, n in kinds.items()]
    return ", ".join(texts) or "nothing"


def _where(cause: BaseException | None) -> str | None:
    """File and line of the innermost frame of an error (of the import that failed, not of our own code)."""
    if cause is None or isinstance(cause, PluginError) or cause.__traceback__ is None:
        return None
    frame = cause.__traceback__
    while frame.tb_next is not None:
        frame = frame.tb_next
    return f"{Path(frame.tb_frame.f_code.co_filename)}:{frame.tb_lineno}"


def _document(plugin: Plugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version or _own_version(),
        "entry_point": plugin.module,
        "status": _status(plugin),
        "error": plugin.error,
        "specs": [_spec_document(spec) for spec in plugin.specs],
    }


def _spec_document(spec: Spec) -> dict[str, Any]:
    return {"kind": spec.kind, "name": spec.name, "help": spec.help, "path": spec.path, "api": spec.api}


def _own_version() -> str:
    import gracecli

    return gracecli.__version__
