"""What a run over many structures has finished, so that a killed run goes on where it was.

A text file beside the outputs: the first line says what is computed, every further line is one finished structure,
appended in one write and flushed to the disk. A kill leaves at most a broken last line, which is dropped. Structures
are recognised by the identity of the calculation (:meth:`gracecli.store.results.Calculation.key`): geometry,
constraints, model, precision and settings, whatever their order. The file goes when the run has come to its end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from gracecli.errors import InputError
from gracecli.run.result import RelaxResult, RelaxSettings
from gracecli.store.results import Calculation

VERSION = 1


def journal_path(targets: Iterable[Path]) -> Path:
    """Where the run that writes ``targets`` keeps its journal."""
    paths = sorted({str(path.resolve()) for path in targets})
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:12]
    return Path(paths[0]).parent / f".grace-relax-{digest}.journal"


class Journal:
    """Finished structures of one run.

    Parameters
    ----------
    path : Path
    calculation : Calculation
        What this run computes.

    Attributes
    ----------
    done : dict
        Identity -> what was written of it.
    same : bool
        Whether the file (if there is one) is of the same calculation.
    """

    def __init__(self, path: Path, calculation: Calculation) -> None:
        self.path = path
        self.calculation = calculation
        self.done: dict[str, dict[str, Any]] = {}
        self.same = True
        self._descriptor: int | None = None
        if path.exists():
            self._read()

    def _identity(self) -> dict[str, Any]:
        what = self.calculation.to_dict()
        return {name: what[name] for name in ("kind", "model_sha256", "precision", "settings")} | {"version": VERSION}

    def _read(self) -> None:
        lines = self.path.read_bytes().split(b"\n")
        documents = []
        for line in lines[:-1]:  # what follows the last newline was being written
            try:
                documents.append(json.loads(line))
            except ValueError:
                break
        self.same = not documents or documents[0] == json.loads(json.dumps(self._identity()))
        self.done = {document["key"]: document for document in documents[1:]}

    def start(self, keep: bool) -> None:
        """Open for writing; ``keep`` what is there (a broken last line goes)."""
        if not keep:
            self.done = {}
        lines = [self._identity(), *self.done.values()]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        try:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.ftruncate(self._descriptor, 0)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}", "choose another -o/--output") from error
        self._write(text)

    def add(self, given: Atoms, result: RelaxResult) -> None:
        """Note a finished structure."""
        atoms = result.atoms
        line = {
            "key": self.calculation.key(given).hex(),
            "document": result.to_dict(),
            "positions": atoms.positions.tolist(),
            "cell": atoms.cell.array.tolist(),
            "results": {name: np.asarray(value).tolist() for name, value in atoms.calc.results.items()},
        }
        self._write(json.dumps(line) + "\n")

    def result(self, given: Atoms, settings: RelaxSettings) -> RelaxResult | None:
        """The result of a structure that is done."""
        line = self.done.get(self.calculation.key(given).hex()) if self.done else None
        if line is None:
            return None
        atoms = given.copy()
        atoms.arrays.pop("momenta", None)
        constraints, atoms.constraints = atoms.constraints, []
        atoms.positions, atoms.cell = np.array(line["positions"]), np.array(line["cell"])
        atoms.set_constraint(constraints)
        results = {k: np.array(v) if isinstance(v, list) else v for k, v in line["results"].items()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        return RelaxResult.from_dict(line["document"], atoms, settings)

    def _write(self, text: str) -> None:
        assert self._descriptor is not None
        data = text.encode()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}", "free some space") from error

    def close(self, finished: bool) -> None:
        """Close the file; remove it after a run that came to its end."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if finished:
            self.path.unlink(missing_ok=True)
