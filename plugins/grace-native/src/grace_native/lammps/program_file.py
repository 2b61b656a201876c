"""Files NAME.gracelmp: a model lowered for given elements and one precision, for the LAMMPS pair style.

Layout (little endian)::

    8 bytes  "GRACELMP"
    int64    format, bytes of the header, length of code, length of data
    text     header: lines "key value" (precision, elements, cutoff, model, model_sha256, grace_native)
    int64    code        the program of grace_native.program
    float64  data        its numbers
    float64  pair cutoffs in Å, [elements][elements]
    int64    CRC-32 of all bytes before
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.errors import InputError, UsageError
from gracecli.files import write_atomically

if TYPE_CHECKING:
    from gracecli.model.modelfile import Model

MAGIC = b"GRACELMP"
FORMAT = 1
SUFFIX = ".gracelmp"


def write_program(
    model: Model | str | Path,
    path: str | Path,
    precision: str = "fp64",
    elements: Sequence[str] | None = None,
    force: bool = False,
) -> Path:
    """Write a model for LAMMPS.

    Parameters
    ----------
    model : Model, str or Path
        A model, or what ``-m`` takes: a file or a registered name.
    path : str or Path
        Wanted file, ``NAME.gracelmp``.
    precision : str
        ``fp64`` or ``fp32``.
    elements : sequence of str, optional
        Symbols to keep; default all of the model. The cost per atom grows with the elements of the file, so name
        those of the simulation.
    force : bool
        Replace an existing file.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    UsageError
        Unknown precision.
    InputError
        An element the model does not cover; the file exists.
    ModelError
        The model cannot be read, or holds a node type the engine cannot evaluate.
    """
    from grace_native.engine import PRECISIONS
    from grace_native.library import couplings
    from grace_native.lowering import Lowering
    from gracecli.model.modelfile import Model
    from gracecli.registry.resolve import read_model, resolve_model

    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}", f"choose from {', '.join(PRECISIONS)}")
    name = str(model.metadata.get("name") or "unnamed") if isinstance(model, Model) else Path(model).name
    if not isinstance(model, Model):
        model = read_model(resolve_model(model))
    indices = _indices(model.elements, elements)
    code, data = Lowering(model, indices, couplings(), precision, False).build().encode()
    matrix = model.pair_cutoffs()
    cutoffs = np.full((len(indices),) * 2, model.cutoff) if matrix is None else matrix[np.ix_(indices, indices)]
    header = {
        "precision": precision,
        "elements": " ".join(model.elements[i] for i in indices),
        "cutoff": repr(float(np.max(cutoffs))),
        "model": " ".join(name.split()),
        "model_sha256": model.sha256(),
        "grace_native": version("grace-native"),
    }
    text = "".join(f"{key} {value}\n" for key, value in header.items()).encode()
    parts = [MAGIC, struct.pack("<4q", FORMAT, len(text), len(code), len(data)), text]
    parts += [a.tobytes() for a in (code.astype("<i8"), data.astype("<f8"), np.ascontiguousarray(cutoffs, dtype="<f8"))]
    content = b"".join(parts)
    content += struct.pack("<q", zlib.crc32(content))
    return write_atomically(path, lambda temporary: temporary.write_bytes(content), force=force)


def _indices(known: Sequence[str], wanted: Sequence[str] | None) -> list[int]:
    """Element numbers in the order of the model."""
    if wanted is None:
        return list(range(len(known)))
    missing = [e for e in dict.fromkeys(wanted) if e not in known]
    if missing or not wanted:
        problem = f"the model has no element {', '.join(missing)}" if missing else "no element is named"
        raise InputError(problem, f"its elements are {' '.join(known)}")
    return sorted({known.index(e) for e in wanted})


def read_header(path: str | Path) -> dict[str, Any]:
    """What a program file says of itself, after checking it.

    Returns
    -------
    dict
        format (int), precision, elements (tuple of str), cutoff (float, Å), model, model_sha256, grace_native.

    Raises
    ------
    InputError
        The file cannot be read, is no program file, is damaged, or of another format.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if content[:8] != MAGIC:
        raise InputError(f"{path} is not a {SUFFIX} file", "write one: python -m grace_native.lammps write MODEL")
    if len(content) < 48 or struct.unpack("<q", content[-8:])[0] != zlib.crc32(content[:-8]):
        raise InputError(f"{path} is damaged (its checksum is wrong)", "write it again")
    number, size, _, _ = struct.unpack("<4q", content[8:40])
    if number != FORMAT:
        raise InputError(f"{path} is of format {number}; this grace-native knows {FORMAT}", "write it again")
    lines = content[40 : 40 + size].decode().splitlines()
    header: dict[str, Any] = {"format": number, **dict(line.split(" ", 1) for line in lines)}
    return {**header, "elements": tuple(header["elements"].split()), "cutoff": float(header["cutoff"])}
