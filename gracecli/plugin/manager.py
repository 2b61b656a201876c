"""Finds plugins, keeps each in its own box, and answers "what is called NAME?".

A plugin that cannot be imported, raises in a hook, returns the wrong types, misspells a hook or speaks another version
of the interface is *broken*: it contributes nothing, is listed with its reason, and harms nobody else.

Environment: ``GRACE_PLUGINS="a,b"`` loads only these (entry-point or distribution names; empty: none);
``GRACE_STRICT_PLUGINS=1`` turns a broken plugin into an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from gracecli.errors import InputError, PluginError
from gracecli.names import nearest_names, suggestion
from gracecli.plugin import builtin, hookspecs
from gracecli.plugin.hookspecs import HOOKS
from gracecli.plugin.specs import (
    API,
    BUILT_IN,
    SPEC_TYPES,
    CommandSpec,
    EngineSpec,
    EnsembleSpec,
    ExporterSpec,
    LossSpec,
    ModelCatalogSpec,
    OptimizerSpec,
    ReaderSpec,
    Spec,
    describe,
)

GROUP = "gracecli.plugins"
AnySpec = TypeVar("AnySpec", bound=Spec)


@dataclass(frozen=True)
class Plugin:
    """One plugin as found.

    Attributes
    ----------
    name : str
        Name of its entry point.
    distribution, version : str
        The installed package that brings it.
    module : str
        What the entry point names.
    specs : tuple of Spec
        What it offers; empty when broken.
    error : str or None
        Why it is broken.
    cause : BaseException or None
        The exception behind ``error``, for ``--traceback``.
    """

    name: str
    distribution: str
    version: str
    module: str
    specs: tuple[Spec, ...] = ()
    error: str | None = None
    cause: BaseException | None = None

    @property
    def label(self) -> str:
        """Distribution and version, as messages name it."""
        return f"{self.distribution} {self.version}".strip()


class PluginManager:
    """The built-ins and the plugins among ``candidates``.

    Parameters
    ----------
    candidates : iterable of EntryPoint
        Entry points of third parties.
    selection : sequence of str, optional
        Load only these, by entry-point or distribution name; None loads all.

    Attributes
    ----------
    plugins : list of Plugin
        Built-ins first, then third parties by name.
    conflicts : dict
        ``(spec type, name)`` -> labels of the distributions that claim it; the name is unusable until one goes.
    warnings : list of str
        One line for every broken plugin, conflict and name missing from ``selection``.
    """

    def __init__(self, candidates: Iterable[EntryPoint] = (), selection: Sequence[str] | None = None) -> None:
        self._pluggy = pluggy.PluginManager("gracecli")
        self._pluggy.add_hookspecs(hookspecs)
        self._tables: dict[type[Spec], dict[str, Spec]] = {kind: {} for kind in SPEC_TYPES}
        self.conflicts: dict[tuple[type[Spec], str], tuple[str, ...]] = {}
        self.warnings: list[str] = []
        own = self._examine(BUILT_IN, BUILT_IN, "", builtin.__name__, builtin)
        if own.cause is not None:
            raise own.cause
        self.plugins: list[Plugin] = [own]
        for candidate in _selected(candidates, selection, self.warnings):
            self.plugins.append(self._load(candidate))
        for plugin in self.plugins:
            self._tabulate(plugin)

    # --- what others ask --------------------------------------------------------------------------------------------

    def commands(self) -> dict[str, CommandSpec]:
        """Commands by name."""
        return self.specs(CommandSpec)

    def engines(self) -> dict[str, EngineSpec]:
        """Engines by name."""
        return self.specs(EngineSpec)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Optimizers by name."""
        return self.specs(OptimizerSpec)

    def ensembles(self) -> dict[str, EnsembleSpec]:
        """Molecular-dynamics ensembles by name."""
        return self.specs(EnsembleSpec)

    def readers(self) -> dict[str, ReaderSpec]:
        """File readers by name."""
        return self.specs(ReaderSpec)

    def exporters(self) -> dict[str, ExporterSpec]:
        """Exporters by name."""
        return self.specs(ExporterSpec)

    def losses(self) -> dict[str, LossSpec]:
        """Training losses by name."""
        return self.specs(LossSpec)

    def catalogs(self) -> dict[str, ModelCatalogSpec]:
        """Model catalogs by name."""
        return self.specs(ModelCatalogSpec)

    def specs(self, kind: type[AnySpec]) -> dict[str, AnySpec]:
        """All usable specs of one type by name, built-ins first."""
        return {name: spec for name, spec in self._tables[kind].items() if isinstance(spec, kind)}

    def find(self, kind: type[AnySpec], name: str) -> AnySpec:
        """Return the spec called ``name``.

        Raises
        ------
        PluginError
            Two plugins claim the name, or the plugin of that name is broken.
        InputError
            There is none; names the nearest.
        """
        table = self.specs(kind)
        if name in table:
            return table[name]
        self.raise_if_unusable(kind, name)
        raise InputError(f"no {kind.kind} is called {name!r}", suggestion(name, table))

    def raise_if_unusable(self, kind: type[Spec], name: str) -> None:
        """Raise :class:`PluginError` if ``name`` would exist but for a conflict or a broken plugin of that name."""
        if (kind, name) in self.conflicts:
            raise PluginError(*_conflict_text(kind, name, self.conflicts[kind, name]))
        for plugin in self.broken:
            if plugin.name == name:
                error = PluginError(
                    f"plugin {plugin.name!r} of {plugin.label} is broken: {plugin.error}",
                    f"`grace plugins info {plugin.name}` says more; uninstall {plugin.distribution} to be rid of it",
                )
                raise error from plugin.cause

    @property
    def broken(self) -> list[Plugin]:
        """Plugins that could not be used."""
        return [plugin for plugin in self.plugins if plugin.error is not None]

    # --- loading ----------------------------------------------------------------------------------------------------

    def _load(self, candidate: EntryPoint) -> Plugin:
        distribution = candidate.dist.name if candidate.dist else "unknown distribution"
        version = candidate.dist.version if candidate.dist else ""
        try:
            module = candidate.load()
        except (Exception, SystemExit) as error:
            plugin = Plugin(candidate.name, distribution, version, candidate.value, error=describe(error), cause=error)
        else:
            plugin = self._examine(candidate.name, distribution, version, candidate.value, module)
        if plugin.error is not None:
            self.warnings.append(f"plugin {plugin.name!r} of {plugin.label} is broken: {plugin.error}")
        return plugin

    def _examine(self, name: str, distribution: str, version: str, value: str, module: Any) -> Plugin:
        """Register one module, call its hooks and check what they return."""
        plugin = Plugin(name, distribution, version, value)
        try:
            self._pluggy.register(module, name=name)
            _check_hook_names(self._pluggy, module)
            specs: list[Spec] = []
            for hook, kind in HOOKS.items():
                for implementation in getattr(self._pluggy.hook, hook).get_hookimpls():
                    if implementation.plugin is module:
                        specs += _checked(hook, kind, implementation.function(), plugin.label)
        except (Exception, SystemExit) as error:
            if self._pluggy.is_registered(module):
                self._pluggy.unregister(module)
            reason = error.message if isinstance(error, PluginError) else describe(error)
            return replace(plugin, error=reason, cause=error)
        return replace(plugin, specs=tuple(specs))

    def _tabulate(self, plugin: Plugin) -> None:
        """Enter its specs by name; a name taken twice is a conflict, but nobody displaces a built-in."""
        for spec in plugin.specs:
            kind, table = type(spec), self._tables[type(spec)]
            holder = table.get(spec.name)
            if holder is None and (kind, spec.name) not in self.conflicts:
                table[spec.name] = spec
            elif holder is not None and holder.built_in:
                self.warnings.append(
                    f"{kind.kind} {spec.name!r} of {plugin.label} is ignored: gracecli has its own of that name"
                )
            else:
                claimants = self.conflicts.get((kind, spec.name)) or (holder.distribution if holder else "",)
                self.conflicts[kind, spec.name] = (*claimants, plugin.label)
                table.pop(spec.name, None)
                self.warnings.append(_conflict_text(kind, spec.name, self.conflicts[kind, spec.name])[0])


def _selected(
    candidates: Iterable[EntryPoint], selection: Sequence[str] | None, warnings: list[str]
) -> list[EntryPoint]:
    """Candidates by name, only those selected; a selected name that does not exist is worth a warning."""
    found = sorted(candidates, key=lambda candidate: (candidate.name, candidate.dist.name if candidate.dist else ""))
    if selection is None:
        return found
    names = {name for candidate in found for name in _names(candidate)}
    for name in selection:
        if name not in names:
            hint = suggestion(name, names)
            warnings.append(f"GRACE_PLUGINS names {name!r}, which is not installed" + (f" ({hint})" if hint else ""))
    return [candidate for candidate in found if not _names(candidate).isdisjoint(selection)]


def _names(candidate: EntryPoint) -> set[str]:
    return {candidate.name} | ({candidate.dist.name} if candidate.dist else set())


def _check_hook_names(manager: pluggy.PluginManager, module: ModuleType) -> None:
    """Raise for hooks that do not exist (pluggy would ignore them) and for hooks without ``@hookimpl``."""
    for caller in manager.get_hookcallers(module) or []:
        if not caller.has_spec():
            near = nearest_names(caller.name, HOOKS, limit=1)
            raise PluginError(f"no hook is called {caller.name}" + (f"; did you mean {near[0]}?" if near else ""))
    registered = {caller.name for caller in manager.get_hookcallers(module) or []}
    for name in vars(module) if hasattr(module, "__dict__") else ():
        if name in HOOKS and name not in registered:
            raise PluginError(f"{name} is not marked with @hookimpl")


def _checked(hook: str, kind: type[Spec], returned: Any, label: str) -> list[Spec]:
    """Specs as one hook returned them, or :class:`PluginError` for what is wrong with them."""
    if not isinstance(returned, Iterable) or isinstance(returned, Mapping | str):
        raise PluginError(f"{hook} returned {type(returned).__name__}, not {kind.__name__} objects")
    specs = []
    for spec in returned:
        if type(spec) is not kind:
            raise PluginError(f"{hook} returned {type(spec).__name__}, not {kind.__name__}")
        if spec.api != API:
            remedy = "upgrade gracecli" if isinstance(spec.api, int) and spec.api > API else "upgrade the plugin"
            raise PluginError(f"speaks version {spec.api} of the plugin interface, gracecli speaks {API}; {remedy}")
        problems = spec.problems()
        if problems:
            raise PluginError(f"{kind.kind} {spec.name!r}: {problems[0]}")
        specs.append(replace(spec, distribution=label))
    return specs


def _conflict_text(kind: type[Spec], name: str, claimants: Sequence[str]) -> tuple[str, str]:
    who = " and ".join(sorted(claimants))
    choose = 'GRACE_PLUGINS="NAME,..." chooses which plugins load (`grace plugins list` shows their names)'
    return f"{kind.kind} {name!r} is claimed by {who}", choose


_manager: PluginManager | None = None


def get_plugin_manager() -> PluginManager:
    """Return the manager of this process, made on first use from the installed entry points and the environment.

    Raises
    ------
    PluginError
        Under ``GRACE_STRICT_PLUGINS=1``, for the first broken plugin or conflict.
    """
    global _manager
    if _manager is None:
        _manager = _from_environment()
    return _manager


def reset_plugin_manager() -> None:
    """Forget the manager, so that the next call looks again (after an installation, a changed environment, a test)."""
    global _manager
    _manager = None


def _from_environment() -> PluginManager:
    chosen = os.environ.get("GRACE_PLUGINS")
    selection = None if chosen is None else [name.strip() for name in chosen.split(",") if name.strip()]
    candidates = () if selection == [] else entry_points(group=GROUP)
    manager = PluginManager(candidates, selection)
    if manager.warnings and os.environ.get("GRACE_STRICT_PLUGINS", "0").lower() not in {"", "0", "false", "no"}:
        raise PluginError(f"{manager.warnings[0]} (GRACE_STRICT_PLUGINS is set)", "repair it, or run with --no-plugins")
    return manager
