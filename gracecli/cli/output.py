"""What commands print: one result on stdout (a table or a JSON document); progress and messages on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tqdm import tqdm

VERBOSITY = "gracecli.verbosity"  # key in click's context meta: -1 quiet, 0 normal, 1 -v, 2 -vv


# --- JSON documents -------------------------------------------------------------------------------------------------


def emit_json(schema: str, version: int, payload: Mapping[str, Any], units: Mapping[str, str]) -> None:
    """Print one JSON document to stdout.

    Parameters
    ----------
    schema : str
        Name of the document's schema, such as ``"gracecli.relax"``.
    version : int
        Version of that schema; raised whenever a key changes its meaning or goes away.
    payload : mapping
        Content. Arrays, dataclasses, paths and numpy numbers are converted; NaN and infinity become ``null``.
    units : mapping
        Unit of each quantity by key, such as ``{"energy": "eV"}``.
    """
    click.echo(json_text(schema, version, payload, units))


def json_text(schema: str, version: int, payload: Mapping[str, Any], units: Mapping[str, str]) -> str:
    """The document that :func:`emit_json` prints."""
    document = {"schema": schema, "schema_version": version, "_units": dict(units), **payload}
    return json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """``value`` in the types that JSON knows (no NaN: JSON has none)."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy arrays and numbers, without importing numpy
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    raise TypeError(f"cannot put {type(value).__name__} into a JSON document")


# --- tables ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    title : str
        Heading.
    unit : str
        Unit, shown below the heading.
    format : str
        Format specification of its numbers, such as ``".4f"``.
    """

    title: str
    unit: str = ""
    format: str = ""


def format_table(columns: Sequence[Column | str], rows: Iterable[Sequence[Any]], indent: str = "") -> str:
    """An aligned plain-text table: headings, units where there are any, a rule, the rows.

    Numbers are right-aligned, text is left-aligned; None and NaN show as ``-``, booleans as yes and no.
    """
    heads = [Column(column) if isinstance(column, str) else column for column in columns]
    rows = [list(row) for row in rows]
    cells = [[_cell(value, head.format) for value, head in zip(row, heads, strict=True)] for row in rows]
    numeric = [_is_numeric(row[i] for row in rows) for i in range(len(heads))]
    lines = [[head.title for head in heads]]
    if any(head.unit for head in heads):
        lines.append([head.unit for head in heads])
    widths = [max(len(line[i]) for line in lines + cells) for i in range(len(heads))]
    lines.append(["-" * width for width in widths])
    return "\n".join(indent + _aligned(line, widths, numeric) for line in lines + cells)


def format_pairs(pairs: Iterable[tuple[str, Any]], indent: str = "") -> str:
    """Names and values below each other, for one thing described at length."""
    items = [(name, _cell(value)) for name, value in pairs]
    width = max((len(name) for name, _ in items), default=0)
    return "\n".join(f"{indent}{name:<{width}}  {value}".rstrip() for name, value in items)


def _aligned(line: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    cells = [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(line, widths, numeric, strict=True)
    ]
    return "  ".join(cells).rstrip()


def _is_numeric(values: Iterable[Any]) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(_is_number(value) for value in present)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool | str) and hasattr(value, "__float__") and not getattr(value, "shape", ())


def _cell(value: Any, specification: str = "") -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if _is_number(value):
        if not math.isfinite(value):
            return "-" if math.isnan(value) else str(float(value))
        return format(value, specification or ("" if isinstance(value, int) else ".6g"))
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(_cell(item) for item in value)
    return str(value)


# --- messages and progress ------------------------------------------------------------------------------------------


def verbosity() -> int:
    """-1 under ``-q``, 0 normally, 1 under ``-v``, 2 under ``-vv`` (of the running command)."""
    context = click.get_current_context(silent=True)
    return 0 if context is None else context.meta.get(VERBOSITY, 0)


def warn(message: str) -> None:
    """One line on stderr, unless ``-q``."""
    if verbosity() >= 0:
        click.echo(f"grace: warning: {message}", err=True)


def note(message: str) -> None:
    """One line on stderr under ``-v``."""
    if verbosity() >= 1:
        click.echo(message, err=True)


def progress(
    iterable: Iterable[Any] | None = None, *, total: int | None = None, description: str = "", unit: str = "it"
) -> tqdm[Any]:
    """A tqdm progress bar on stderr; silent when stderr is no terminal, and under ``-q``."""
    from tqdm import tqdm

    silent = verbosity() < 0 or not sys.stderr.isatty()
    return tqdm(
        iterable, total=total, desc=description or None, unit=unit, file=sys.stderr, disable=silent, dynamic_ncols=True
    )
