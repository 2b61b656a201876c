"""Run the ``console`` blocks of README.md and put their real output below each command.

    .venv/bin/python tools/refresh_readme.py          # rewrites README.md
    .venv/bin/python tools/refresh_readme.py --check   # only runs them; fails if one fails

Commands run in the repository with this interpreter's environment first on PATH. Files and folders they write are
removed; models in the user's own library are not seen.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def run(command: str) -> str:
    """Output of one command; stops here if it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, "PATH": path, "GRACE_CACHE": cache}
        done = subprocess.run(command, shell=True, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"$ {command}\n{done.stdout}{done.stderr}exit code {done.returncode}")
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def refreshed(text: str) -> str:
    """The README with the output of today."""

    def block(match: re.Match[str]) -> str:
        lines = []
        for command in (line[2:] for line in match.group(1).splitlines() if line.startswith("$ ")):
            output = run(command)
            lines += [f"$ {command}"] + ([output] if output else [])
        return "```console\n" + "\n".join(lines) + "\n```"

    return BLOCK.sub(block, text)


def main() -> None:
    """Refresh or check."""
    readme = ROOT / "README.md"
    before = set(ROOT.iterdir())
    try:
        text = refreshed(readme.read_text(encoding="utf-8"))
    finally:
        for path in set(ROOT.iterdir()) - before:
            if path.is_file():
                path.unlink()
            else:
                shutil.rmtree(path)
    if "--check" not in sys.argv:
        readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
