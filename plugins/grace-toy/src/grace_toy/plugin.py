"""What this package offers to gracecli. Imported whenever ``grace`` starts, so it holds facts alone."""

from __future__ import annotations

from collections.abc import Iterator

from gracecli.plugin import CommandSpec, EngineSpec, hookimpl


@hookimpl
def gracecli_register_engines() -> Iterator[EngineSpec]:
    """Two potentials that need no model file."""
    yield EngineSpec(
        name="lj",
        help="Lennard-Jones with a smooth cutoff; argon by default.",
        factory="grace_toy.lj:create_engine",
        needs_model=False,
    )
    yield EngineSpec(
        name="emt",
        help="Effective medium theory for Al Cu Ag Au Ni Pd Pt.",
        factory="grace_toy.emt:create_engine",
        needs_model=False,
    )


@hookimpl
def gracecli_register_commands() -> Iterator[CommandSpec]:
    """Provide ``grace toy``."""
    yield CommandSpec(name="toy", help="Show the toy potentials.", import_path="grace_toy.command:command")
