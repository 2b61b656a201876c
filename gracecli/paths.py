"""Where the files shipped with the package are."""

from __future__ import annotations

from pathlib import Path


def data_directory() -> Path:
    """Folder ``data``: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "data"
    return installed if installed.is_dir() else package.parent / "data"
