"""Options that several commands share, so that they read and behave alike everywhere.

Each name below is a decorator. Parameter names follow click's rule (``--engine-option`` -> ``engine_option``)::

    @click.command()
    @click.argument("structures", nargs=-1, required=True)
    @model_options          # model, engine, precision, engine_option
    @output_option          # output
    @force_option           # force
    @json_option            # as_json
    @seed_option            # seed
    @config_option          # (handled here)
    @verbosity_options      # (handled here)
    def command(structures, model, engine, precision, engine_option, output, force, as_json, seed): ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from gracecli.cli.output import VERBOSITY
from gracecli.errors import InputError, UsageError
from gracecli.names import suggestion

_HEAD = "gracecli.head"
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def model_options(function: Decorated) -> Decorated:
    """``-m/--model``, ``--engine``, ``--precision``, ``--engine-option`` (a dict, parameter ``engine_option``).

    ``--head`` is folded into the model, as ``NAME#HEAD``.
    """
    for option in reversed(
        [
            click.option(
                "-m",
                "--model",
                metavar="NAME|PATH",
                callback=_model_of_head,
                help="Model. [default: the bundled model]",
            ),
            click.option(
                "--head",
                metavar="NAME",
                is_eager=True,
                expose_value=False,
                callback=_keep_head,
                help="Head (level of theory) of a model that has several.",
            ),
            click.option(
                "--engine", default="auto", show_default=True, metavar="NAME", help="What evaluates the model."
            ),
            click.option(
                "--precision",
                type=click.Choice(["fp64", "fp32"]),
                help="Arithmetic. [default: fp64, or what the model was published for]",
            ),
            key_value_option("--engine-option", "Option of the engine itself; may be repeated."),
        ]
    ):
        function = option(function)
    return function


def _keep_head(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    context.meta[_HEAD] = value


def of_head(context: click.Context, model: str | None) -> str | None:
    """The model, or its head that ``--head`` names."""
    from gracecli.registry.resolve import with_head

    head = context.meta.get(_HEAD)
    return model if head is None else str(with_head(model, head))


def _model_of_head(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return of_head(context, value)


def key_value_option(name: str, text: str) -> Callable[[Decorated], Decorated]:
    """An option ``KEY=VALUE`` that may be repeated (a dict; numbers and yes/no are converted)."""
    return click.option(name, multiple=True, metavar="KEY=VALUE", callback=_key_values, help=text)


def output_option(function: Decorated) -> Decorated:
    """``-o/--output`` (parameter ``output``: Path or None)."""
    return click.option(
        "-o", "--output", type=click.Path(path_type=Path), metavar="PATH", help="Where the result goes."
    )(function)


def force_option(function: Decorated) -> Decorated:
    """``--force`` (parameter ``force``)."""
    return click.option("--force", is_flag=True, help="Replace existing files.")(function)


def json_option(function: Decorated) -> Decorated:
    """``--json`` (parameter ``as_json``)."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")(function)


def plots_option(function: Decorated) -> Decorated:
    """``--save-plots/--no-plots`` (parameter ``plots``)."""
    return click.option("--save-plots/--no-plots", "plots", default=True, help="Draw pictures.  [default: yes]")(
        function
    )


def seed_option(function: Decorated) -> Decorated:
    """``--seed`` (parameter ``seed``: int or None)."""
    return click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed of the random numbers.")(function)


def verbosity_options(function: Decorated) -> Decorated:
    """``-v``, ``-q``: not passed on; ask :func:`gracecli.cli.output.verbosity`."""
    function = click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, is_eager=True, callback=_set_quiet, help="Errors only."
    )(function)
    return click.option(
        "-v", "--verbose", count=True, expose_value=False, is_eager=True, callback=_add_verbosity, help="Say more."
    )(function)


def config_option(function: Decorated) -> Decorated:
    """``--config FILE.toml``: defaults of the command's options (command line > file > default)."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE.toml",
        is_eager=True,
        expose_value=False,
        callback=_use_config,
        help="Read options from a file; the command line wins.",
    )(function)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; a missing or malformed one is one clear error.

    Raises
    ------
    InputError
        The file cannot be read or is not TOML.
    """
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise InputError(f"cannot read {path}: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error


def reject_unknown_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise :class:`UsageError` naming the first key that is not known, and the nearest that is.

    Parameters
    ----------
    given, known : iterable of str
        Keys; ``-`` and ``_`` are the same.
    where : str
        Where the key stands, such as ``"run.toml"`` or ``"[loss] in fit.toml"``.
    """
    names = sorted(name.replace("_", "-") for name in known)
    for key in given:
        if key.replace("_", "-") not in names:
            raise UsageError(f"unknown key {key!r} in {where}", suggestion(key, names, "see --help for the names"))


def _use_config(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    if value is None:
        return
    content = read_toml(value)
    options = {
        name.lstrip("-"): option.name
        for option in context.command.params
        if isinstance(option, click.Option) and option.name != parameter.name and option.name != "help"
        for name in option.opts
        if name.startswith("--") and option.name
    }
    reject_unknown_keys(content, options, str(value))
    values = {options[key.replace("_", "-")]: entry for key, entry in content.items()}
    context.default_map = {**(context.default_map or {}), **values}


def _key_values(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> Mapping[str, bool | int | float | str]:
    options: dict[str, bool | int | float | str] = {}
    for item in value:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"{item!r} is not KEY=VALUE", context, parameter)
        options[key.strip().replace("-", "_")] = _value(text.strip())
    return options


def _value(text: str) -> bool | int | float | str:
    if text.lower() in {"true", "yes", "false", "no"}:
        return text.lower() in {"true", "yes"}
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _add_verbosity(context: click.Context, parameter: click.Parameter, value: int) -> None:
    if value:
        _set_verbosity(context, max(context.meta.get(VERBOSITY, 0), 0) + value)


def _set_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        _set_verbosity(context, -1)


def _set_verbosity(context: click.Context, level: int) -> None:
    from gracecli.cli.logs import configure_logging

    context.meta[VERBOSITY] = level
    configure_logging(level)
