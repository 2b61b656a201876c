"""``python -m grace_native.lammps build|write``: compile the LAMMPS plugin, write a model for it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gracecli.errors import GraceError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors are one line on stderr, the exit code is gracecli's."""
    parser = argparse.ArgumentParser(prog="python -m grace_native.lammps", description="GRACE models in LAMMPS.")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="compile the plugin for the LAMMPS of this environment")
    build.add_argument("-o", "--output", type=Path, help="folder (default: the cache, where lmp finds it by itself)")
    write = commands.add_parser("write", help="write a model as NAME.gracelmp, which LAMMPS reads without Python")
    write.add_argument("model", help="model file or registered name")
    write.add_argument("-o", "--output", type=Path, help="file (default: NAME.gracelmp)")
    write.add_argument("-e", "--elements", help="symbols to keep, such as Si,Ge (default: all of the model)")
    write.add_argument("--precision", default="fp64", choices=("fp64", "fp32"))
    for command in (build, write):
        command.add_argument("--force", action="store_true", help="compile again, replace files")
    options = parser.parse_args(arguments)
    try:
        print(_build(options) if options.command == "build" else _write(options))
    except GraceError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _build(options: argparse.Namespace) -> Path:
    from grace_native.lammps.building import build

    return build(options.output, options.force)


def _write(options: argparse.Namespace) -> Path:
    from grace_native.lammps.program_file import SUFFIX, write_program

    target = options.output or Path(Path(options.model).stem + SUFFIX)
    elements = None if options.elements is None else [e.strip() for e in options.elements.split(",") if e.strip()]
    return write_program(options.model, target, options.precision, elements, options.force)


if __name__ == "__main__":
    sys.exit(main())
