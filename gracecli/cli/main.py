"""``grace``: finds the command, runs it, and turns every ending into an exit code.

Commands are known by their specs alone (name, section, one line of help); a command's module is imported when it runs.

==== =============================================== ==== ==================================================
exit meaning                                         exit meaning
==== =============================================== ==== ==================================================
0    all succeeded                                   6    model missing, corrupt or not licensed
1    internal error                                  7    store locked or corrupt
2    usage                                           8    out of memory
3    not converged (results written, flagged)        9    the physics went wrong
4    bad input                                       20   a plugin failed
5    some of many failed                             130  interrupted
==== =============================================== ==== ==================================================
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import click

from gracecli.cli.options import verbosity_options
from gracecli.cli.output import verbosity, warn
from gracecli.errors import GraceError, MemoryLimitError, PluginError, UsageError
from gracecli.names import suggestion
from gracecli.plugin.manager import PluginManager, get_plugin_manager, reset_plugin_manager
from gracecli.plugin.specs import CommandSpec, describe

SECTIONS = ("Structures", "Properties", "Training", "Models", "Data", "Plugins")  # the others follow by name
INTERRUPTED = 130
ANYWHERE = ("--traceback", "--no-plugins", "--version")  # accepted after the command name too
WARNED = "gracecli.plugin-warnings-shown"


class ReaderGoneError(Exception):
    """Whoever read stdout (`| head`) had enough; no failure. Not an OSError, or click would make it exit code 1."""


class GraceGroup(click.Group):
    """A group whose commands come from specs, and whose errors are one line with a remedy."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and leave with its exit code (``standalone_mode`` as in click)."""
        arguments, traceback = _hoisted(sys.argv[1:] if args is None else args)

        def run() -> Any:
            return super(GraceGroup, self).main(
                args=arguments,
                prog_name="grace",
                complete_var=complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )

        if not standalone_mode:
            return run()
        sys.exit(_exit_code(run, traceback))

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments in front of the command (and print ``--help``)."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except BrokenPipeError as error:
            raise ReaderGoneError from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names from the specs."""
        return sorted(_manager(ctx).commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        manager = _manager(ctx)
        spec = manager.commands().get(cmd_name)
        if spec is None:
            manager.raise_if_unusable(CommandSpec, cmd_name)
            return None
        command = spec.load()
        if not isinstance(command, click.Command):
            raise PluginError(f"{spec.path} of {spec.distribution} is {type(command).__name__}, not a click command")
        command.name = cmd_name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one suggests the nearest."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing and not name.startswith("-"):
            hint = suggestion(name, self.list_commands(ctx), otherwise="`grace --help` lists them")
            raise UsageError(f"no command is called {name!r}", hint)
        return name, command, args[1:]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what goes wrong inside a plugin is blamed on its distribution."""
        from gracecli.cli.logs import configure_logging

        configure_logging(verbosity())
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGoneError from error
        except (click.ClickException, click.exceptions.Exit, click.Abort, GraceError, MemoryError):
            raise
        except Exception as error:
            spec = _manager(ctx).commands().get(ctx.invoked_subcommand or "")
            if spec is None or spec.built_in:
                raise
            raise PluginError(
                f"command {spec.name!r} of {spec.distribution} failed: {describe(error)}",
                f"--traceback shows where; report it to the authors of {spec.distribution.split()[0]}",
            ) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section, from their specs."""
        manager = _manager(ctx)
        specs = sorted(manager.commands().values(), key=lambda spec: (_order(spec.section), spec.name))
        width = max((len(spec.name) for spec in specs), default=0)
        for section in dict.fromkeys(spec.section for spec in specs):
            with formatter.section(section):
                rows = [(f"{spec.name:<{width}}", _one_line(spec)) for spec in specs if spec.section == section]
                formatter.write_dl(rows)
        if manager.broken:
            names = ", ".join(plugin.name for plugin in manager.broken)
            formatter.write_paragraph()
            formatter.write_text(f"Broken plugins: {names}; `grace plugins list` tells why.")


def _order(section: str) -> tuple[int, str]:
    return (SECTIONS.index(section) if section in SECTIONS else len(SECTIONS), section)


def _one_line(spec: CommandSpec) -> str:
    return spec.help if spec.built_in else f"{spec.help} [{spec.distribution}]"


def _manager(ctx: click.Context) -> PluginManager:
    """Return the plugin manager; what it found wrong is said once per run."""
    manager = get_plugin_manager()
    if not ctx.resilient_parsing and not ctx.meta.get(WARNED):
        ctx.meta[WARNED] = True
        for message in manager.warnings:
            warn(message)
    return manager


def _hoisted(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Arguments with the global flags in front of the command name; and whether ``--traceback`` is among them."""
    arguments = list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [argument for argument in arguments[:end] if argument in ANYWHERE]
    rest = [argument for argument in arguments[:end] if argument not in ANYWHERE]
    return flags + rest + arguments[end:], "--traceback" in flags


def _exit_code(run: Callable[[], Any], traceback: bool) -> int:
    """Run, say in one line what went wrong, and return the exit code. A command may return its exit code."""
    try:
        value = run()
        sys.stdout.flush()
    except (SystemExit, Exception) as error:
        if isinstance(error, ReaderGoneError | BrokenPipeError):
            _discard_stdout()
            return 0
        if isinstance(error, click.Abort) and isinstance(error.__cause__, EOFError):
            error = error.__cause__  # click takes the end of any file for Ctrl-D
        if isinstance(error, SystemExit):
            return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if traceback and not isinstance(error, click.exceptions.UsageError):
            _print_traceback(error)
        return _report(error)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _report(error: Exception) -> int:
    """Print one line about an error, and its remedy; return its exit code."""
    if isinstance(error, click.Abort):
        click.echo("grace: interrupted", err=True)
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        return _report_click(error)
    if isinstance(error, MemoryError):
        error = MemoryLimitError("out of memory", "use fewer or smaller structures at once, or --precision fp32")
    if not isinstance(error, GraceError):
        _say(f"internal error: {describe(error)}", "the same with --traceback shows where; please report it")
        return 1
    _say(error.message, error.hint)
    return error.exit_code


def _report_click(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # `grace` alone: its message is the help page
        error.show()
        return error.exit_code
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path} --help" if context is not None else None
    message = error.format_message().rstrip(".")
    _say(message[:1].lower() + message[1:], hint)
    return error.exit_code


def _say(message: str, hint: str | None) -> None:
    click.echo(f"grace: error: {message}", err=True)
    if hint:
        click.echo(f"  try: {hint}", err=True)


def _print_traceback(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error, file=sys.stderr)


def _discard_stdout() -> None:
    """Nobody reads stdout any more: keep the interpreter from complaining when it flushes at the end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _without_plugins(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """``--no-plugins``, through the environment so that worker processes inherit it; undone with the context."""
    if not value:
        return
    before = os.environ.get("GRACE_PLUGINS")

    def restore() -> None:
        if before is None:
            os.environ.pop("GRACE_PLUGINS", None)
        else:
            os.environ["GRACE_PLUGINS"] = before
        reset_plugin_manager()

    os.environ["GRACE_PLUGINS"] = ""
    reset_plugin_manager()
    context.call_on_close(restore)


@click.group(
    "grace", cls=GraceGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@verbosity_options
@click.option("--traceback", is_flag=True, expose_value=False, help="Show where an error arose.")
@click.option(
    "--no-plugins",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_without_plugins,
    help="Ignore plugins of third parties.",
)
@click.version_option(package_name="gracecli", prog_name="grace", message="%(prog)s %(version)s")
def main() -> None:
    """From a structure to a trusted answer with GRACE interatomic potentials.

    `grace COMMAND --help` explains a command. Results go to stdout (with --json as one JSON document), everything
    else to stderr. The exit code tells how it ended: 0 success, 3 not converged, 4 bad input, 6 model trouble, 20 a
    plugin failed; the README has the whole table.
    """


if __name__ == "__main__":
    main()
