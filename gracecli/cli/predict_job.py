"""The work of ``grace predict``: stream structures through the engine, score, write, print, choose the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import GPa

from gracecli.cli.error_table import ERROR_UNITS
from gracecli.cli.many import Memory, wanted_structures
from gracecli.cli.output import emit_json, progress, warn
from gracecli.engine.base import Results
from gracecli.errors import GraceError, InputError, PartialFailureError
from gracecli.fit.metrics import Prediction
from gracecli.fit.scores import Scores, frame_of, plot_parity
from gracecli.report.calibration import Calibration, plot_calibration

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.cli.gamma import GammaJob
    from gracecli.cli.relax_many import Spread
    from gracecli.fit.config import DataConfig
    from gracecli.run.structures import Structure
    from gracecli.run.work import EngineChoice
    from gracecli.store.results import Calculation

SCHEMA, SCHEMA_VERSION = "gracecli.predict", 1
UNITS = {
    "energy": "eV",
    "energy_per_atom": "eV/atom",
    "max_force": "eV/Å",
    "stress": "GPa (tensile-positive; xx yy zz yz xz xy)",
    "energy_error": "meV/atom (prediction minus label)",
    **ERROR_UNITS,
    "energy_difference": "meV/atom",
    "forces_by_element": "meV/Å",
    "spread": "standard deviation over the models; energy_per_atom meV/atom, forces_* eV/Å",
    "force_error": "eV/Å",
}
LISTED = 1000  # structures that the document lists one by one; metrics are of all
CHUNK_ATOMS, CHUNK_STRUCTURES = 1000, 64


@dataclass
class Job:
    """All structures of one call."""

    arguments: Sequence[str]
    data: DataConfig
    output: Path | None
    plot: Path | None
    force: bool
    as_json: bool
    gamma: GammaJob
    others: tuple[EngineChoice, ...] = ()
    calibration: Path | None = None
    count: int = 0
    failed: list[tuple[str, GraceError]] = field(default_factory=list)
    listed: list[dict[str, Any]] = field(default_factory=list)
    scores: Scores = field(default_factory=Scores)
    calibrated: Calibration = field(default_factory=Calibration)
    answered: int = 0
    interrupted: bool = False

    def __post_init__(self) -> None:
        from gracecli.run.outputs import check_writable

        for path in (self.output, self.plot, self.calibration):
            if path is not None:
                check_writable(path, self.force)
        if self.output is not None and self.output.suffix not in (".extxyz", ".xyz"):
            raise InputError(f"predictions are written as extxyz, not {self.output}", "end the name in .extxyz")

    def run(self, choice: EngineChoice, spread: Spread, calculation: Calculation, memory: Memory) -> None:
        """Evaluate everything."""
        writer = None if self.output is None else _Writer(self.output)
        bar = progress(description="predicting", unit="structure")
        try:
            for structure, result, stored in self._results(choice, spread, calculation, memory):
                self._take(structure, result, stored)
                if isinstance(result, Results):
                    atoms = labelled(structure.atoms, result)
                    if stored is None:
                        memory.add(_outcome(structure, atoms, result, calculation))
                    if writer is not None:
                        writer.append(atoms)
                bar.update(1)
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            bar.close()
            if writer is not None:
                writer.finish(self.force)
            self.gamma.finish()
        if self.plot is not None:
            if self.scores.labelled:
                plot_parity(self.scores, self.plot)
            else:
                warn(f"no labels, so nothing to plot: {self.plot} was not written")
        if self.calibration is not None:
            if self.calibrated.gamma:
                plot_calibration(self.calibrated, self.calibration)
            else:
                warn(f"no labelled forces or no grades: {self.calibration} was not written")

    def _results(
        self, choice: EngineChoice, spread: Spread, calculation: Calculation, memory: Memory
    ) -> Iterator[tuple[Structure, Results | GraceError, int | None]]:
        """Structures and what became of them, in order."""
        open_structures: dict[int, Structure] = {}
        done: dict[int, Results | GraceError] = {}
        stored: dict[int, int] = {}
        next_out = 0

        def inputs() -> Iterator[tuple[int, Atoms | Results]]:
            for number, structure in enumerate(self._structures()):
                open_structures[number] = structure
                found = memory.find(calculation, structure.atoms)
                if found is not None and found.output is not None and found.output.calc is not None:
                    stored[number] = found.id
                    yield number, _from_store(found.output)
                else:
                    yield number, structure.atoms

        for number, result in self._evaluated(inputs(), choice, spread):
            done[number] = result
            while next_out in done:
                yield open_structures.pop(next_out), done.pop(next_out), stored.pop(next_out, None)
                next_out += 1

    def _evaluated(
        self, inputs: Iterator[tuple[int, Atoms | Results]], choice: EngineChoice, options: Spread
    ) -> Iterator[tuple[int, Results | GraceError]]:
        from gracecli.run.predict import PredictWork, predict_chunk
        from gracecli.run.spread import spread
        from gracecli.run.work import chunks_of

        work = PredictWork(choice, wanted_structures(options.batch), self.others)
        if not options.spreads:
            yield from predict_chunk(work, inputs)
            return
        chunks = chunks_of(inputs, CHUNK_ATOMS, CHUNK_STRUCTURES)
        yield from spread(predict_chunk, work, chunks, jobs=options.jobs, dask=options.dask)

    def _structures(self) -> Iterator[Structure]:
        """All readable structures; the others are noted as failed."""
        from gracecli.run.structures import Structure, stream_structures

        for argument in self.arguments:
            try:
                for item in stream_structures(argument):
                    if isinstance(item, Structure):
                        yield item
                    else:
                        self._fail(argument, item)
            except GraceError as error:
                self._fail(argument, error)

    def _fail(self, name: str, error: GraceError) -> None:
        self.count += 1
        self.failed.append((name, error))

    def _take(self, structure: Structure, result: Results | GraceError, stored: int | None) -> None:
        if isinstance(result, GraceError):
            self._fail(structure.name, result)
            return
        self.count += 1
        self.answered += stored is not None
        atoms = structure.atoms
        size = len(atoms)
        try:
            set_name = str(atoms.info.get("set", structure.path.name.split(".")[0]))
            frame = frame_of(atoms, structure.name, set_name, self.data)
        except InputError as error:
            warn(f"{error.message}: its labels are not used")
            frame = None
        if frame is not None:
            self.scores.add(frame, Prediction(result.energy, result.forces, result.stress))
            if self.calibration is not None and "gamma" in result.extra:
                named = structure.path.name.startswith(("train", "valid", "test"))  # folder/test.extxyz
                source = structure.path.resolve().parent.name if named else frame.set_name
                self.calibrated.add(result.extra["gamma"], result.forces - frame.forces, source)
        extrapolation = self.gamma.take(structure.name, atoms, result.extra.get("gamma"))
        if len(self.listed) >= LISTED:
            return
        stress = None if np.isnan(result.stress).any() else (np.asarray(result.stress) / GPa).tolist()
        error_per_atom = None if frame is None else 1e3 * (result.energy - frame.energy) / size
        self.listed.append(
            {
                "name": structure.name,
                "formula": atoms.get_chemical_formula(),
                "atoms": size,
                "energy": result.energy,
                "energy_per_atom": result.energy / size,
                "max_force": float(np.linalg.norm(result.forces, axis=1).max()),
                "stress": stress,
                "energy_error": error_per_atom if error_per_atom is not None and np.isfinite(error_per_atom) else None,
                "extrapolation": extrapolation,
                "spread": _spread(result.extra),
                "source": "computed" if stored is None else "store",
                "store_result": stored,
            }
        )

    # --- what the user sees -------------------------------------------------------------------------------------------

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        if self.interrupted:
            return 130
        if not self.failed:
            outside = self.gamma.error()
            return 0 if outside is None else outside.exit_code
        codes = {error.exit_code for _, error in self.failed}
        return codes.pop() if len(self.failed) == self.count and len(codes) == 1 else PartialFailureError.exit_code

    def print(self, model: str) -> None:
        """The result on stdout."""
        report = self.scores.report() if self.scores.labelled else None
        document = {
            "model": model,
            "interrupted": self.interrupted,
            "structures": self.count,
            "from_store": self.answered,
            "results": self.listed,
            "results_not_listed": self.count - len(self.failed) - len(self.listed),
            "failed": [
                {"name": name, "type": type(e).__name__, "message": e.message, "hint": e.hint, "exit_code": e.exit_code}
                for name, e in self.failed
            ],
            "errors": report,
            "extrapolation": self.gamma.document(),
            "committee": [other.model for other in self.others],
            "calibration": self.calibrated.report(),
            "calibration_plot": self.calibration if self.calibrated.gamma else None,
            "output": self.output,
            "plot": self.plot if report else None,
        }
        if self.as_json:
            emit_json(SCHEMA, SCHEMA_VERSION, document, UNITS)
            return
        from gracecli.cli.predict_tables import predict_text

        click.echo(predict_text(document))

    def finish(self) -> int:
        """Exit code, or the error that carries it."""
        if self.interrupted:
            click.echo(f"grace: interrupted after {self.count} structures", err=True)
            return 130
        outside = self.gamma.error()
        if not self.failed and outside is not None:
            raise outside
        if not self.failed:
            return 0
        first = self.failed[0]
        text = first[1].message if first[1].message.startswith(first[0]) else f"{first[0]}: {first[1].message}"
        if self.count == 1:
            raise type(first[1])(text, first[1].hint)
        message = f"{len(self.failed)} of {self.count} structures failed; the first: {text}"
        if self.exit_code == PartialFailureError.exit_code:
            raise PartialFailureError(message, first[1].hint)
        raise type(first[1])(message, first[1].hint)


def labelled(atoms: Atoms, result: Results) -> Atoms:
    """A copy with the predictions attached; labels it had are kept as ``label_energy`` and so on."""
    copy = atoms.copy()
    old = atoms.calc.results if atoms.calc is not None else {}
    for name in ("energy", "free_energy", "stress", "forces"):
        value = old.get(name, atoms.info.get(name, atoms.arrays.get(name)))
        if value is None:
            continue
        copy.info.pop(name, None)
        copy.arrays.pop(name, None)
        if name == "forces":
            copy.arrays["label_forces"] = np.array(value)
        else:
            copy.info[f"label_{name}"] = np.array(value) if np.ndim(value) else value
    results: dict[str, Any] = {"energy": result.energy, "free_energy": result.energy, "forces": result.forces}
    results["energies"] = result.energies
    if not np.isnan(result.stress).any():
        results["stress"] = result.stress
    for name in ("gamma", "forces_std"):
        if name in result.extra:
            copy.arrays[name] = np.array(result.extra[name])
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def _spread(extra: dict[str, Any]) -> dict[str, float] | None:
    """How far the models of a committee are apart."""
    if "forces_std" not in extra:
        return None
    forces = extra["forces_std"]
    return {
        "energy_per_atom": 1e3 * extra["energy_std"],
        "forces_mean": float(forces.mean()),
        "forces_max": float(forces.max()),
    }


def _outcome(structure: Structure, atoms: Atoms, result: Results, calculation: Calculation) -> Any:
    from gracecli.store.results import Outcome

    values = {"energy": result.energy, "energy_per_atom": result.energy / len(atoms)}
    units = {name: UNITS[name] for name in values}
    output = atoms.copy()
    output.info = {}
    output.calc = atoms.calc
    return Outcome(calculation, structure.atoms, values, output, units=units, source=str(structure.path))


def _from_store(output: Atoms) -> Results:
    results = output.calc.results
    size = len(results["forces"])
    energies = np.asarray(results.get("energies", np.full(size, np.nan)), dtype=float)
    stress = np.asarray(results.get("stress", np.full(6, np.nan)), dtype=float)
    extra = {"gamma": output.arrays["gamma"]} if "gamma" in output.arrays else {}
    return Results(float(results["energy"]), energies, np.asarray(results["forces"]), stress, extra)


class _Writer:
    """extxyz frames to a temporary file beside the wanted one, which it becomes at the end."""

    def __init__(self, path: Path) -> None:
        from gracecli.run.outputs import TrajectoryWriter

        self.path = path
        self.temporary = path.with_name(f".{path.stem}-writing{path.suffix}")
        self._writer = TrajectoryWriter(self.temporary)

    def append(self, atoms: Atoms) -> None:
        """Write one frame."""
        self._writer.append(atoms)

    def finish(self, force: bool) -> None:
        """Give the file its name."""
        from gracecli.files import write_atomically

        self._writer.close()
        try:
            write_atomically(self.path, lambda wanted: self.temporary.replace(wanted), force=force)
        finally:
            with suppress(FileNotFoundError):
                self.temporary.unlink()
