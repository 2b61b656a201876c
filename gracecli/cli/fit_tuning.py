"""What ``grace fit`` knows of fine-tuning: options, and the listing of what moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gracecli.cli.options import key_value_option
from gracecli.cli.output import Column, emit_json, format_table
from gracecli.errors import UsageError

if TYPE_CHECKING:
    from gracecli.fit.config import FitConfig
    from gracecli.fit.tuning.listing import Listing

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

LEARNING_RATES = {"readout": 1e-2, "frozen": 1e-2, "frozen-messages": 1e-2}
"""Peak where few weights move (benchmarks/fine_tuning.md)."""
LEARNING_RATE = 2e-3
"""Peak where all of a model moves that is nearly right; from scratch it is 8e-3."""
_OPTIONS = ("strategy", "rank", "alpha", "shift", "like")


def tuning_options(function: Decorated) -> Decorated:
    """Options of fine-tuning."""
    for option in reversed(
        [
            click.option("--from", "start", metavar="NAME|PATH", help="Fine-tune this model instead of a new one."),
            click.option(
                "--strategy",
                metavar="NAME",
                help="What moves: naive, frozen, frozen-messages, readout, lora, replay.  [default with --from: naive]",
            ),
            click.option("--rank", type=click.IntRange(min=1), metavar="N", help="Rank of lora.  [default: 8]"),
            click.option("--alpha", type=float, metavar="X", help="Strength of lora, over the rank.  [default: 8]"),
            click.option(
                "--shift/--no-shift", default=None, help="Fit reference energies to the new data first.  [default: yes]"
            ),
            key_value_option("--like", "New element to start as a copy of another, as in Au=Cu.  [default: nearest]"),
            click.option("--replay", multiple=True, metavar="FILE", help="Old data with labels; may be repeated."),
            click.option(
                "--replay-structures",
                multiple=True,
                metavar="FILE",
                help="Old structures, labelled by the model itself; may be repeated.",
            ),
            click.option(
                "--augment",
                metavar="KIND,...",
                help="More of them: rattle, strain (copies), unaries, binaries (crystals).",
            ),
            click.option(
                "--replay-weight", type=float, metavar="X", help="Weight of old data in the loss.  [default: 1]"
            ),
            click.option("--head-name", metavar="NAME", help="Head of the new data after replay.  [default: new]"),
            click.option("--base-head", metavar="NAME", help="Head of the old data after replay.  [default: base]"),
            click.option("--dry-run", is_flag=True, help="List which weights would move, and stop."),
        ]
    ):
        function = option(function)
    return function


def tuning_overrides(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections of the settings that the options change."""
    start, strategy = options.pop("start"), options.pop("strategy")
    if start and options["preset"]:
        raise UsageError("--from brings its own architecture", "leave out --preset, or --from")
    found = {name: options.pop(name) for name in _OPTIONS if name != "strategy"}
    like: Mapping[str, Any] = found.pop("like")
    augment = options.pop("augment")
    replay, structures = options.pop("replay"), options.pop("replay_structures")
    found |= {
        "replay": [{"path": name} for name in replay] or None,
        "replay_structures": list(structures) or None,
        "augment": augment.replace(",", " ").split() if augment else None,
        "replay_weight": options.pop("replay_weight"),
        "head": options.pop("head_name"),
        "base_head": options.pop("base_head"),
    }
    return {
        "model": {"start": start},
        "tuning": {
            **found,
            "strategy": strategy or ("naive" if start else None),
            "like": {key: str(value) for key, value in like.items()} or None,
        },
    }


def default_learning_rate(strategy: str | None) -> float:
    """Peak of the schedule when neither option nor file names one."""
    return LEARNING_RATES.get(strategy or "", LEARNING_RATE)


def show_listing(config: FitConfig, as_json: bool) -> None:
    """Which weights of which node would move."""
    from gracecli.fit.tuning.listing import list_movements

    found = list_movements(config, lambda text: click.echo(text, err=True))
    if as_json:
        emit_json("gracecli.fit-dry-run", 1, found.to_dict(), {"shift": "eV/atom"})
    else:
        click.echo(listing_table(found))


def listing_table(found: Listing) -> str:
    """One row per node, and the sum."""
    columns = [
        Column("node"), Column("kind"), Column("role"), Column("weights", format=",d"),
        Column("moving", format=",d"), Column("which"),
    ]  # fmt: skip
    rows: list[list[Any]] = [
        [line.node, line.kind, line.role, line.weights, line.moving, line.how] for line in found.lines
    ]
    rows.append(["all", "", "", found.weights, found.moving, f"strategy {found.strategy}"])
    return format_table(columns, rows)
