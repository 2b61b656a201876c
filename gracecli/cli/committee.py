"""Several models at once: the options, and which models a name stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from gracecli.cli.options import model_options, of_head

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def committee_options(function: Decorated) -> Decorated:
    """The options of :func:`model_options`, with ``-m`` any number of times.

    The parameter ``models`` holds them one by one, files of folders and heads included (None: the bundled model).
    """
    function = model_options(function)
    own = next(option for option in function.__click_params__ if option.name == "model")  # type: ignore[attr-defined]
    place = function.__click_params__.index(own)  # type: ignore[attr-defined]
    function.__click_params__[place] = click.Option(  # type: ignore[attr-defined]
        ["-m", "--model", "models"],
        multiple=True,
        metavar="NAME|PATH",
        callback=_members,
        help="Model; several, or a folder of .grace files, are a committee: results are of the first, with the "
        "spread of all. [default: the bundled model]",
    )
    return function


def _members(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str | None, ...]:
    return tuple(of_head(context, name) for name in members(value))


def members(given: Sequence[str]) -> list[str | None]:
    """Models by name or path; a folder of model files stands for all of them, in the order of their names."""
    found: list[str | None] = []
    for name in given:
        folder = Path(name)
        inside = sorted(folder.glob("*.grace")) if folder.is_dir() and not (folder / "model.yaml").is_file() else []
        found += [str(path) for path in inside] if inside else [name]
    return found or [None]
