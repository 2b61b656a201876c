"""Old data beside new data: what keeps a model from forgetting while all of it moves.

Old structures carry their own labels, or those of the original model (pseudo-labels). They belong to the base head,
new ones to the new head; both heads share the body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.errors import InputError, UsageError
from gracecli.fit.config import DataConfig, FitConfig, SetConfig
from gracecli.fit.data import Frame, SetReport, read_sets, split_validation
from gracecli.fit.tuning.label import evaluate
from gracecli.fit.tuning.structures import augmented

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.engine.base import Results
    from gracecli.fit.tuning.start import Start

LABELLED = "replay.extxyz"
"""Pseudo-labelled structures, kept beside the fit."""
PREFIX = "replay "


def replay_frames(
    config: FitConfig, start: Start, prepared: Path | None, say: Callable[[str], None]
) -> tuple[Sequence[Frame], list[Frame], list[SetReport]]:
    """Training and validation frames of the base head, and where they come from.

    Parameters
    ----------
    config : FitConfig
    start : Start
        Its model with the original reference energies labels structures without labels.
    prepared : Path, optional
        File beside which pseudo-labels are kept, or are found when a fit is resumed.
    say : callable

    Raises
    ------
    UsageError
        No old data.
    InputError
        Old data with elements that the original model lacks.
    """
    tuning = config.tuning
    if not (tuning.replay or tuning.replay_structures or tuning.augment):
        raise UsageError(
            "--strategy replay needs old data",
            "give --replay FILE (labelled), --replay-structures FILE (the model labels them), or --augment unaries",
        )
    frames, reports = read_sets(tuning.replay, DataConfig()) if tuning.replay else ([], [])
    _require_known([frame.atoms for frame in frames], _known(start))
    if tuning.replay_structures or tuning.augment:
        path = (prepared.parent if prepared else Path()) / LABELLED
        if prepared is None or not path.is_file():
            structures = as_written(_structures(config, start, frames))
            results = evaluate(start.unshifted, structures)
            labelled = [labelled_copy(a, r) for a, r in zip(structures, results, strict=True)]
            if prepared is None:
                say(f"replay: {len(labelled)} structures would be labelled by the original model")
                return _split(config, frames, reports)
            write_structures(path, labelled)
        found, more = read_sets([SetConfig(str(path), name="pseudo-labels")], DataConfig())
        frames, reports = frames + found, reports + more
    for report in reports:
        say(f"replay {report.name}: {report.frames} structures, {report.atoms} atoms")
    return _split(config, frames, reports)


def _split(
    config: FitConfig, frames: Sequence[Frame], reports: Sequence[SetReport]
) -> tuple[Sequence[Frame], list[Frame], list[SetReport]]:
    weight = config.tuning.replay_weight
    named = [replace(f, set_name=PREFIX + f.set_name, weight=f.weight * weight) for f in frames]
    train, valid = split_validation(named, config.data.valid_fraction, config.training.seed)
    return list(train), valid, [replace(report, name=PREFIX + report.name) for report in reports]


def _known(start: Start) -> list[str]:
    """Elements of the original model; what copied rows say of a new element is no knowledge."""
    return [element for element in start.unshifted.elements if element not in start.new]


def _require_known(structures: Sequence[Atoms], known: Sequence[str]) -> None:
    for atoms in structures:
        strange = sorted(set(atoms.get_chemical_symbols()) - set(known))
        if strange:
            raise InputError(
                f"old data have {', '.join(strange)}, of which the original model knows nothing",
                f"it knows {', '.join(known)}; leave these structures out",
            )


def _structures(config: FitConfig, start: Start, frames: Sequence[Frame]) -> list[Atoms]:
    """Given structures and their augmentation."""
    tuning, model, known = config.tuning, start.unshifted, _known(start)
    given = [atoms for path in tuning.replay_structures for atoms in read_structures(path)]
    _require_known(given, known)
    copied = sorted({"rattle", "strain"} & set(tuning.augment))
    if copied and not (given or frames):
        raise UsageError(
            f"{' and '.join(copied)} copy old structures, and there are none", "give --replay-structures FILE"
        )
    base = given or [frame.atoms for frame in frames]
    seed = config.training.seed
    return given + augmented(base, tuning.augment, known, lambda s: evaluate(model, s), seed)


def read_structures(path: str) -> list[Atoms]:
    """Structures of a file or store query.

    Raises
    ------
    InputError
        Unreadable, as a whole or in part.
    """
    from gracecli.errors import GraceError
    from gracecli.run.structures import read_structures as read

    found = []
    for entry in read(path):
        if isinstance(entry, GraceError):
            raise entry
        found.append(entry.atoms)
    return found


def as_written(structures: Sequence[Atoms]) -> list[Atoms]:
    """Structures with the digits that extended XYZ keeps, so that labels belong to what is read back."""
    found = []
    for atoms in structures:
        copy = atoms.copy()
        copy.positions = np.round(copy.positions, 8)
        found.append(copy)
    return found


def labelled_copy(atoms: Atoms, result: Results) -> Atoms:
    """A structure with energies, forces and (in a cell) stress of a model."""
    from ase import Atoms as AseAtoms
    from ase.calculators.singlepoint import SinglePointCalculator

    copy = AseAtoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    copy.info["config_type"] = str(atoms.info.get("config_type", "all"))
    labels: dict[str, Any] = {"energy": float(result.energy), "forces": np.array(result.forces)}
    if atoms.pbc.all() and np.isfinite(result.stress).all():
        labels["stress"] = np.array(result.stress)
    copy.calc = SinglePointCalculator(copy, **labels)
    return copy


def write_structures(path: Path, structures: Sequence[Atoms]) -> None:
    """Extended XYZ, whole or not at all."""
    import ase.io

    from gracecli.files import write_atomically

    write_atomically(path, lambda temporary: ase.io.write(temporary, list(structures), format="extxyz"))
