"""Train recipes one after the other and compare their errors with the published ones.

    python tools/run_recipes.py -o accuracy                                # all recipes but those of bundled models
    python tools/run_recipes.py mlearn-Cu mlearn-Si -o accuracy
    python tools/run_recipes.py ag-au --presets fs-medium,1l-small,2l-small -o accuracy
    python tools/run_recipes.py -o accuracy --table-only

Every run has a folder RECIPE or RECIPE@PRESET in the output folder. A finished one is not repeated, a stopped one goes
on; options behind ``--`` go to ``grace fit``. Prints the tables in Markdown and writes them to table.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from recipe_table import comparison, details, evaluate, read_published, read_results, write_result

from gracecli.files import write_text_atomically
from gracecli.fit.config import FitConfig
from gracecli.fit.config_read import load_config

RECIPES = Path(__file__).resolve().parents[1] / "data" / "recipes"
SKIPPED = ("grace-1l-11el",)
"""The bundled model, not a comparison with published errors."""


def recipe_names() -> list[str]:
    """All recipes but those of bundled models."""
    return [path.stem for path in sorted(RECIPES.glob("*.toml")) if path.stem not in SKIPPED]


def configuration(recipe: str, preset: str | None) -> FitConfig:
    """Settings of a recipe, with another preset if one is named."""
    path = RECIPES / f"{recipe}.toml"
    if not path.exists():
        raise SystemExit(f"no recipe {recipe!r} in {RECIPES}; there are {', '.join(recipe_names())}")
    return load_config(path, {"model": {"preset": preset}} if preset else None)


def run(recipe: str, preset: str | None, folder: Path, extra: list[str]) -> int:
    """Train one recipe to its end, or go on with it; the exit code of ``grace fit``."""
    place = folder / (f"{recipe}@{preset}" if preset else recipe)
    if (place / "accuracy.json").exists():
        print(f"{place.name}: done", file=sys.stderr)
        return 0
    config = configuration(recipe, preset)
    if not _finished(place):
        command = [_grace(), "fit", str(RECIPES / f"{recipe}.toml"), "-o", str(place), *extra]
        command += ["--preset", preset] if preset else []
        command += ["--resume"] if (place / "checkpoint.npz").exists() else []
        print(f"{place.name}: {' '.join(command)}", file=sys.stderr)
        code = subprocess.run(command, check=False).returncode
        if code != 0:
            print(f"{place.name}: grace fit ended with {code}; the same command goes on with it", file=sys.stderr)
            return code
    report = json.loads((place / "report.json").read_text(encoding="utf-8"))["result"]
    content: dict[str, Any] = {
        "recipe": recipe,
        "preset": preset or config.model.preset,
        "weights": report["parameters"],
        "seconds": report["seconds"],
        "epochs": report["epochs"],
        **evaluate(config, place / "model.grace"),
    }
    write_result(place / "accuracy.json", content)
    return 0


def _grace() -> str:
    """The command of this environment."""
    return str(Path(sys.executable).with_name("grace"))


def _finished(place: Path) -> bool:
    report = place / "report.json"
    return report.exists() and json.loads(report.read_text(encoding="utf-8"))["result"]["completed"]


def main() -> int:
    """Run, then print the tables; the exit code is that of the first fit that failed."""
    arguments, extra = _split(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"of: {', '.join(recipe_names())} (default: all)")
    parser.add_argument("-o", "--output", type=Path, default=Path("accuracy"), metavar="FOLDER")
    parser.add_argument("--presets", default="", metavar="A,B", help="instead of the presets of the recipes")
    parser.add_argument("--table-only", action="store_true", help="of what is finished")
    options = parser.parse_args(arguments)
    code = 0
    if not options.table_only:
        options.output.mkdir(parents=True, exist_ok=True)
        for recipe in options.recipes or recipe_names():
            for preset in [name for name in options.presets.split(",") if name] or [None]:
                code = run(recipe, preset, options.output, extra) or code
    results = read_results(options.output)
    text = f"{comparison(results, read_published())}\n\n{details(results)}\n"
    if results:
        write_text_atomically(options.output / "table.md", text, force=True)
    print(text)
    return code


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Own options, and those of ``grace fit`` behind ``--``."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


if __name__ == "__main__":
    sys.exit(main())
