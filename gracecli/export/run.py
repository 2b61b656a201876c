"""One export from beginning to end: read, reduce, cast, write aside, evaluate, compare, rename."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gracecli.errors import InputError, UsageError, VerificationError
from gracecli.export.base import EXACT, SINGLE, Exporter, Job
from gracecli.export.verify import Verification, compare, test_structures
from gracecli.files import refuse_overwrite, write_atomically, write_folder_atomically
from gracecli.model.modelfile import Model
from gracecli.model.reduce import cast, reduce_elements, stored_precision

if TYPE_CHECKING:
    from gracecli.plugin.specs import ExporterSpec

RECORD = "gracecli-export.json"
"""In every exported folder: where it comes from. Only folders that hold it (or nothing) are ever replaced."""
HEADS_KEPT = "grace"
"""The format that holds all heads of a model; the others take the default one, or the one that is named."""
ELSEWHERE = {"lammps": "grace-native"}
"""Formats that known plugins bring -> the package to install."""


@dataclass(frozen=True)
class Exported:
    """What :func:`export_model` did.

    Attributes
    ----------
    model, format : str
    path : Path
    size : int
        Bytes.
    elements, all_elements : tuple of str
        Of the artefact, and of the model it was made from.
    precision : str
        ``fp64`` or ``fp32``.
    parameters : int
    verification : Verification or None
        None when it was not asked for.
    notes : tuple of str
        What the user should know.
    write_seconds, verify_seconds : float
    """

    model: str
    format: str
    path: Path
    size: int
    elements: tuple[str, ...]
    all_elements: tuple[str, ...]
    precision: str
    parameters: int
    verification: Verification | None
    notes: tuple[str, ...]
    write_seconds: float
    verify_seconds: float


@dataclass
class _Made:
    """What is known once the artefact is written."""

    notes: tuple[str, ...]
    verification: Verification | None = None
    write_seconds: float = 0.0
    verify_seconds: float = 0.0


def export_model(
    model: str | Path | None,
    format: str,
    output: str | Path | None = None,
    *,
    elements: Sequence[str] | None = None,
    precision: str | None = None,
    verify: bool = True,
    force: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Exported:
    """Export a model.

    Parameters
    ----------
    model : str, Path or None
        Registered name, ``.grace`` file or published directory; None is the bundled default.
    format : str
        Name of an exporter.
    output : str or Path, optional
        Default is the name of the model with the ending of the format, in the present folder.
    elements : sequence of str, optional
        Keep only these.
    precision : str, optional
        ``fp64`` or ``fp32``; default is that of the stored weights, and fp64 for programs.
    verify : bool
        Evaluate what was written and compare it with the model before it takes its name.
    force : bool
        Replace an existing file, or a folder that an export made.
    options : mapping, optional
        Options of the exporter.

    Raises
    ------
    UsageError, ModelError, InputError
        No such format or model; options or elements it does not have; a place that cannot be written.
    VerificationError
        The artefact deviates from the model; nothing is left behind.
    """
    from gracecli.registry.resolve import read_model, resolve_model

    spec = find_exporter(format)
    given = _checked_options(spec, options or {})
    path = resolve_model(model)
    original = read_model(path)
    name = str(original.metadata.get("name") or path.stem)
    if spec.name != HEADS_KEPT:
        original = replace(original, heads={})
    reduced = original if elements is None else reduce_elements(original, elements)
    target = Path(output) if output is not None else Path(_default_name(name, original, reduced) + spec.suffix)
    _refuse(target, spec.folder, force)
    exporter: Exporter = spec.load()()
    job, notes = _job(exporter, reduced, name, precision, given)

    made = _Made(notes)

    def make(temporary: Path) -> None:
        start = perf_counter()
        made.notes += tuple(exporter.write(job, temporary))
        written = perf_counter()
        if verify:
            made.verification = _verify(exporter, job, original, temporary, spec)
        if spec.folder:
            _record(temporary, job, spec, made.verification)
        made.write_seconds, made.verify_seconds = written - start, perf_counter() - written

    if spec.folder:
        write_folder_atomically(target, make, replace=force)
    else:
        write_atomically(target, make, force=force)
    return Exported(
        name, spec.name, target, _size(target), job.model.elements, original.elements, job.precision,
        job.model.n_parameters, made.verification, made.notes, made.write_seconds, made.verify_seconds,
    )  # fmt: skip


def find_exporter(name: str) -> ExporterSpec:
    """The exporter called ``name``, usable here."""
    from gracecli.engine.create import why_unavailable
    from gracecli.names import suggestion
    from gracecli.plugin.manager import get_plugin_manager
    from gracecli.plugin.specs import ExporterSpec

    manager = get_plugin_manager()
    exporters = manager.exporters()
    if name not in exporters:
        manager.raise_if_unusable(ExporterSpec, name)
        if name in ELSEWHERE:
            package = ELSEWHERE[name]
            raise UsageError(
                f"format {name!r} comes with the package {package}, which is not installed",
                f"pip install {package} (in a checkout: pip install ./plugins/{package})",
            )
        raise UsageError(f"no export format is called {name!r}", suggestion(name, exporters))
    reason = why_unavailable(exporters[name])
    if reason is not None:
        raise UsageError(f"format {name!r} cannot be written here: {reason}", "choose another --format")
    return exporters[name]


def _checked_options(spec: ExporterSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    from gracecli.names import suggestion

    for key in options:
        if key not in spec.options:
            raise UsageError(
                f"format {spec.name!r} has no option {key!r}", suggestion(key, spec.options, "it takes none")
            )
    return dict(options)


def _default_name(name: str, original: Model, reduced: Model) -> str:
    base = re.sub(r"[^A-Za-z0-9._+-]", "_", name)
    return base if reduced is original else f"{base}-{''.join(reduced.elements)}"


def _refuse(target: Path, folder: bool, force: bool) -> None:
    """Raise unless ``target`` is free, or may be replaced."""
    if target.is_dir():
        if not folder:
            raise InputError(f"cannot write {target}: it is a folder", "give a file name with -o/--output")
        if not force:
            raise InputError(f"{target} exists", "give --force to replace it, or another -o/--output")
        if any(target.iterdir()) and not (target / RECORD).is_file():
            raise InputError(
                f"{target} is a folder that no export made, and is not replaced", "give another -o/--output"
            )
    elif folder and target.exists():
        raise InputError(f"cannot write the folder {target}: a file of that name exists", "give another -o/--output")
    else:
        refuse_overwrite(target, force)
    if not target.absolute().parent.is_dir():
        raise InputError(f"cannot write {target}: no folder {target.parent}", "make it, or give another -o/--output")


def _job(
    exporter: Exporter, model: Model, name: str, precision: str | None, options: dict[str, Any]
) -> tuple[Job, tuple[str, ...]]:
    """The model in the precision it goes out in, and what is to be said about it."""
    import gracecli

    stored = stored_precision(model)
    chosen = precision or ("fp64" if exporter.program else stored)
    if chosen not in ("fp64", "fp32"):
        raise UsageError(f"unknown precision {chosen!r}", "choose from fp64, fp32")
    notes: tuple[str, ...] = ()
    if chosen != stored:
        model = cast(model, chosen)
        if chosen == "fp32":
            notes = ("the weights were rounded from fp64 to fp32",)
        elif precision is not None:
            notes = ("the fp32 weights were widened to fp64 (no digits are gained)",)
    provenance = {
        "model": name,
        "sha256": model.sha256(),
        "elements": list(model.elements),
        "cutoff": model.cutoff,
        "precision": chosen,
        "gracecli": gracecli.__version__,
        **{key: model.metadata[key] for key in ("licence", "citation", "level_of_theory") if model.metadata.get(key)},
        **({"reduced_from": model.metadata["reduced_from"]} if "reduced_from" in model.metadata else {}),
    }
    return Job(model, name, chosen, options, provenance), notes


def _verify(exporter: Exporter, job: Job, original: Model, target: Path, spec: ExporterSpec) -> Verification:
    """Compare the artefact with the model it was made from, evaluated in fp64."""
    from gracecli.export.reference import evaluate_model, graphs_for
    from gracecli.model.cutoffs import pair_cutoff_function

    cutoff, pair_cutoff = original.cutoff, pair_cutoff_function(original)
    structures = test_structures(job.model.elements, cutoff, pair_cutoff)
    found = exporter.evaluate(job, target, structures)
    kept = [structure for structure, result in zip(structures, found, strict=True) if result is not None]
    if not kept:
        raise UsageError(
            "what was exported is too small for every test structure, so it cannot be verified",
            "export for more atoms and bonds, or give --no-verify",
        )
    reference = evaluate_model(original, graphs_for(original, kept))
    rounded = job.precision == "fp32" and (exporter.program or stored_precision(original) == "fp64")
    limits = exporter.limits(job, SINGLE if rounded else EXACT)
    outcome = compare(kept, reference, [result for result in found if result is not None], limits, cutoff, pair_cutoff)
    if not outcome.passed:
        worst = next(d for d in outcome.deviations if not d.within)
        raise VerificationError(
            f"the exported {spec.name} gives other {worst.quantity} than the model: they deviate by "
            f"{worst.largest:.1e} {worst.unit}, allowed are {worst.limit:.1e}; nothing was written",
            f"please report this to the authors of {spec.distribution}",
        )
    return outcome


def _record(folder: Path, job: Job, spec: ExporterSpec, verification: Verification | None) -> None:
    """Where a folder comes from, and how well it was verified."""
    from dataclasses import asdict

    document = {
        "format": spec.name,
        **job.provenance,
        "verification": None if verification is None else asdict(verification),
        "_units": {"cutoff": "Å"},
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
