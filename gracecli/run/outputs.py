"""Where relaxed structures go: names that do not collide, formats of the input, files that are whole or absent."""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from gracecli.errors import InputError
from gracecli.files import refuse_overwrite, write_atomically
from gracecli.run.structures import format_of

#: Formats that are written back as they came; whatever else ASE reads (outputs of other codes) becomes extxyz.
WRITABLE = ("vasp", "cif", "extxyz", "xsf", "aims", "gen", "traj", "json")
#: Formats of which one file holds several structures.
MULTIPLE = ("extxyz", "cif", "traj", "json", "xsf")
_COMPRESSED = (".gz", ".bz2", ".xz")


@dataclass(frozen=True)
class Target:
    """An output file.

    Attributes
    ----------
    path : Path
    format : str
        ASE's name of the format.
    direct : bool
        POSCAR: fractional coordinates.
    """

    path: Path
    format: str
    direct: bool = False


@dataclass(frozen=True)
class Source:
    """An input file as far as naming its output needs it."""

    path: Path
    format: str
    frames: int = 1
    direct: bool = False


def plan_outputs(sources: Sequence[Source], output: Path | None, force: bool) -> list[Target]:
    """Output file of every input file, checked to be writable.

    Parameters
    ----------
    sources : sequence of Source
    output : Path or None
        A file for one source, a folder for several (or an existing one); None is the current folder.
    force : bool
        Replace existing files.

    Raises
    ------
    InputError
        A file exists, cannot be written, or cannot hold what is to be written.
    """
    folder = Path()
    if output is not None:
        if len(sources) == 1 and not output.is_dir():
            targets = [_explicit(sources[0], output)]
            _check(targets[0], force)
            return targets
        if output.exists() and not output.is_dir():
            raise InputError(f"-o {output} is a file, but there are {len(sources)} inputs", "name a folder")
        folder = output
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}", "choose another -o/--output") from error
    targets = [
        Target(folder / name, source.format if source.format in WRITABLE else "extxyz", source.direct)
        for source, name in zip(sources, _names(sources), strict=True)
    ]
    for target, source in zip(targets, sources, strict=True):
        _check_capacity(target, source)
        _check(target, force)
    return targets


def _explicit(source: Source, output: Path) -> Target:
    """Target of a file the user named; its name decides the format."""
    from ase.io.formats import UnknownFileTypeError

    if output.suffix == "" and not re.search("POSCAR|CONTCAR", output.name):
        format_name = source.format if source.format in WRITABLE else "extxyz"
    else:
        try:
            format_name = format_of(output, read=False)
        except UnknownFileTypeError as error:
            raise InputError(f"no file format is known for {output}", "end it in .poscar, .cif or .extxyz") from error
        if format_name not in WRITABLE:
            raise InputError(
                f"cannot write {output}: relaxed structures are not written as {format_name}",
                f"formats: {', '.join(WRITABLE)}",
            )
    direct = source.direct if source.format == "vasp" else True
    target = Target(output, format_name, direct)
    _check_capacity(target, source)
    return target


def _check_capacity(target: Target, source: Source) -> None:
    if source.frames > 1 and target.format not in MULTIPLE:
        raise InputError(
            f"{target.path} can hold one structure, {source.path} has {source.frames}", "write to a .extxyz file"
        )


def check_writable(path: Path, force: bool) -> None:
    """Raise InputError unless a file can be created at ``path`` now."""
    refuse_overwrite(path, force)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder", "give a file name")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", "choose another place with -o/--output") from error


def _check(target: Target, force: bool) -> None:
    check_writable(target.path, force)


def _names(sources: Sequence[Source]) -> list[str]:
    """``NAME.relaxed.EXT`` of every source; equal names get their folders in front, then a number."""
    stems = [_relaxed_name(source) for source in sources]
    for depth in range(1, 8):
        repeated = {name for name in stems if stems.count(name) > 1}
        if not repeated:
            return stems
        for number, source in enumerate(sources):
            if stems[number] in repeated:
                parents = [part for part in source.path.resolve().parts[-1 - depth : -1] if part != os.sep]
                stems[number] = "-".join([*parents, _relaxed_name(source)])
    seen: dict[str, int] = {}
    unique = []
    for name in stems:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{seen[name]}-{name}")
    return unique


def _relaxed_name(source: Source) -> str:
    name = source.path.name
    if source.path.suffix.lower() in _COMPRESSED:
        name = name[: -len(source.path.suffix)]
    path = Path(name)
    if source.format in WRITABLE:
        return f"{path.stem}.relaxed{path.suffix}"
    return extxyz_name(f"{name}.relaxed")


def extxyz_name(stem: str) -> str:
    """``STEM.extxyz``, in lower case where ASE would take a capital ``OUTCAR`` in it for the format."""
    from ase.io.formats import filetype

    name = f"{stem}.extxyz"
    return name if filetype(name, read=False) == "extxyz" else name.lower()


def write_structures(target: Target, frames: Sequence[Atoms], comment: str, force: bool = True) -> None:
    """Write relaxed structures to ``target`` as a whole.

    Parameters
    ----------
    target : Target
    frames : sequence of Atoms
        With results attached (extxyz keeps energy, forces and stress).
    comment : str
        One line for formats with a place for it (POSCAR title, CIF comment): how the relaxation ended.
    force : bool
        Replace an existing file.
    """
    write_atomically(target.path, lambda path: _write(path, target, frames, comment), force=force)


def _write(path: Path, target: Target, frames: Sequence[Atoms], comment: str) -> None:
    import ase.io

    if target.format == "vasp":
        text = io.StringIO()
        ase.io.write(text, frames[0], format="vasp", direct=target.direct)
        title, _, rest = text.getvalue().partition("\n")
        path.write_text(f"{' '.join(title.split())}  {comment}\n{rest}", encoding="utf-8")
    elif target.format == "cif":
        path.write_text(_cif(frames, comment), encoding="utf-8")
    elif target.format == "extxyz":
        path.write_text("".join(extxyz_text(frame) for frame in frames), encoding="utf-8")
    else:
        ase.io.write(path, list(frames), format=target.format)


def _cif(frames: Sequence[Atoms], comment: str) -> str:
    """CIF with the cell in full; ASE rounds it to six digits."""
    import ase.io

    blocks = [f"# {comment}\n"]
    for number, frame in enumerate(frames):
        buffer = io.BytesIO()
        ase.io.write(buffer, frame, format="cif", wrap=False)
        block = buffer.getvalue().decode("latin-1").replace("data_image0", f"data_image{number}")
        names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
        for name, value in zip(names, frame.cell.cellpar(), strict=True):
            block = re.sub(rf"^(_cell_{name}\s+)\S+$", rf"\g<1>{value:.10f}", block, flags=re.MULTILINE)
        blocks.append(block)
    return "".join(blocks)


def extxyz_text(atoms: Atoms) -> str:
    """One extxyz frame with the results attached to ``atoms``: raw forces, whatever its constraints."""
    import ase.io

    atoms = _without_old_results(atoms)
    text = io.StringIO()
    ase.io.write(text, atoms, format="extxyz")
    return text.getvalue()


def _without_old_results(atoms: Atoms) -> Atoms:
    """A copy whose info and arrays do not clash with the attached results."""
    calculator = atoms.calc
    atoms = atoms.copy()
    for key in ("energy", "free_energy", "forces", "stress", "energies", "magmoms"):
        atoms.info.pop(key, None)
        atoms.arrays.pop(key, None)
    atoms.calc = calculator
    return atoms


class TrajectoryWriter:
    """Appends extxyz frames, each in one write, so that a kill leaves whole frames.

    Parameters
    ----------
    path : Path
        Created, or emptied.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}", "choose another --trajectory") from error

    def append(self, atoms: Atoms, **information: str | int | float | bool) -> None:
        """Append a frame; ``information`` goes to its comment line."""
        frame = atoms.copy()
        frame.calc = atoms.calc
        frame.info.update(information)
        data = extxyz_text(frame).encode()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}", "free some space") from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
