"""Distillation: a student learns what a teacher says about structures that need no labels of their own.

Pathways (Lysogorskiy et al., arXiv:2508.17936, section II.F; names as here):

==================  ============================================================================================
naive               the student learns the original labels alone; no teacher (the yardstick)
raw                 the teacher labels the given structures, the student learns those labels
distilled+finetuned as raw, then a short fit to the original labels, from the student and with a fitted shift
extended            as raw, with more structures for the teacher to label: rattle, strain, unaries, binaries
==================  ============================================================================================

The folder of a distillation holds ``labels.extxyz`` (what the teacher said), ``held-out.extxyz`` (structures the
student never saw, labelled by the teacher), and the folders of the fits.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.errors import InputError, UsageError
from gracecli.fit.config import FitConfig
from gracecli.fit.config_check import AUGMENT
from gracecli.fit.config_read import make_config
from gracecli.fit.metrics import UNITS, Errors
from gracecli.names import suggestion

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.fit.progress import Progress
    from gracecli.model.modelfile import Model

PATHWAYS = ("naive", "raw", "distilled+finetuned", "extended")
LABELS, HELD_OUT, RECORD = "labels.extxyz", "held-out.extxyz", "distill.json"
STUDENT, FINE_TUNED = "student", "fine-tuned"


@dataclass(frozen=True)
class DistillConfig:
    """Settings of a distillation.

    Attributes
    ----------
    teacher, student : str
        Model; preset of the student.
    structures : tuple of str
        Files, or ``store.h5:QUERY``.
    pathway : str
        One of :data:`PATHWAYS`.
    augment : tuple of str
        Further structures, for ``extended``.
    held_out : float
        Share of the structures kept for the comparison of student and teacher.
    directory : str
    seed : int
    training, loss, overrides : dict
        Of the student, as in the settings of a fit.
    cutoff : float, optional
        Å; default is the teacher's.
    finetune_epochs : int
        Of ``distilled+finetuned``.
    engine : str
        That labels.
    """

    teacher: str
    student: str
    structures: tuple[str, ...]
    pathway: str = "raw"
    augment: tuple[str, ...] = ()
    held_out: float = 0.1
    directory: str = "distilled"
    seed: int = 1
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    loss: dict[str, Any] = dataclasses.field(default_factory=dict)
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    cutoff: float | None = None
    finetune_epochs: int = 10
    engine: str = "auto"


@dataclass(frozen=True)
class DistillResult:
    """What a distillation gives.

    Attributes
    ----------
    model : Path
        The student.
    directory : Path
    pathway : str
    labelled : int
        Structures it was trained on.
    against_teacher : Errors
        Student minus teacher on held-out structures.
    against_labels : dict
        ``teacher`` and ``student`` (as far as there are original labels): errors on the held-out structures.
    completed : bool
    parameters : dict
        Weights of teacher and student.
    gamma : dict, optional
        What the student's extrapolation grade was made from.
    """

    model: Path
    directory: Path
    pathway: str
    labelled: int
    against_teacher: Errors
    against_labels: dict[str, Errors]
    completed: bool
    parameters: dict[str, int]
    gamma: dict[str, Any] | None = None


def check(config: DistillConfig) -> None:
    """Raise :class:`UsageError` for settings that cannot be."""
    from gracecli.model.presets import preset_sizes

    preset_sizes(config.student, **config.overrides)
    if config.pathway not in PATHWAYS:
        hint = suggestion(config.pathway, PATHWAYS) or ", ".join(PATHWAYS)
        raise UsageError(f"no pathway is called {config.pathway!r}", hint)
    for kind in config.augment:
        if kind not in AUGMENT:
            raise UsageError(f"no augmentation is called {kind!r}", suggestion(kind, AUGMENT) or ", ".join(AUGMENT))
    if config.augment and config.pathway != "extended":
        raise UsageError("--augment belongs to the pathway extended", "--pathway extended")
    if config.pathway == "extended" and not config.augment:
        raise UsageError("the pathway extended needs to know with what", f"--augment {','.join(AUGMENT)}")
    if not 0 < config.held_out < 1:
        raise UsageError("--held-out is a share between 0 and 1", "such as 0.1")


@dataclass(frozen=True)
class Material:
    """Structures by what they are for."""

    train: list[Atoms]
    held_out: list[Atoms]

    @property
    def elements(self) -> tuple[str, ...]:
        """Of the training structures, in alphabetical order."""
        return tuple(sorted({symbol for atoms in self.train for symbol in atoms.get_chemical_symbols()}))


def gather(config: DistillConfig) -> Material:
    """Read structures and split off those held out; original labels stay attached.

    Raises
    ------
    InputError
        Unreadable, or too few.
    """
    from gracecli.fit.tuning.replay import read_structures

    given = [atoms for path in config.structures for atoms in read_structures(path)]
    order = np.random.default_rng([config.seed, 0xD157]).permutation(len(given))
    count = max(1, round(config.held_out * len(given)))
    if len(given) - count < 2:
        raise InputError(f"{len(given)} structures are too few to train and to compare", "give more structures")
    held = set(order[:count].tolist())
    split = {
        True: [a for i, a in enumerate(given) if i in held],
        False: [a for i, a in enumerate(given) if i not in held],
    }
    return Material(split[False], split[True])


def label_all(
    config: DistillConfig, teacher: Model, material: Material, say: Callable[[str], None]
) -> tuple[list[Atoms], list[Atoms]]:
    """What the teacher says about training structures (with their augmentation) and held-out ones."""
    from gracecli.fit.tuning.label import evaluate
    from gracecli.fit.tuning.replay import as_written, labelled_copy
    from gracecli.fit.tuning.structures import augmented

    def ask(structures: Sequence[Atoms]) -> list[Any]:
        return evaluate(teacher, structures, config.engine)

    more = augmented(material.train, config.augment, material.elements, ask, config.seed)
    if more:
        say(f"augmented by {len(more)} structures ({', '.join(config.augment)})")
    found = []
    start = time.monotonic()
    for structures in (as_written([*material.train, *more]), as_written(material.held_out)):
        results = ask(structures)
        found.append([labelled_copy(a, r) for a, r in zip(structures, results, strict=True)])
    count, atoms = sum(map(len, found)), sum(len(a) for labelled in found for a in labelled)
    say(f"the teacher labelled {count} structures ({atoms} atoms) in {time.monotonic() - start:.1f} s")
    return found[0], found[1]


def fit_config(config: DistillConfig, files: Sequence[Path], folder: str, **changes: Any) -> FitConfig:
    """Settings of one of the fits."""
    content: dict[str, Any] = {
        "data": {"train": [str(path) for path in files]},
        "model": {"preset": config.student, "overrides": config.overrides, "cutoff": config.cutoff},
        "loss": config.loss,
        "training": {"seed": config.seed, **config.training},
        "output": {"directory": str(Path(config.directory) / folder)},
    }
    for section, entries in changes.items():
        content[section] = {**content.get(section, {}), **entries} if entries is not None else {}
    content["model"] = {key: value for key, value in content["model"].items() if value is not None}
    return make_config(content, where="distillation")


def distill(
    config: DistillConfig, progress: Progress | None = None, resume: bool = False, force: bool = False
) -> DistillResult:
    """Label, fit, and compare.

    Raises
    ------
    UsageError, InputError, ModelError
        Settings, structures or a teacher that cannot be used.
    """
    from gracecli import load_model
    from gracecli.fit.progress import Progress as Silent
    from gracecli.fit.tuning.replay import write_structures

    check(config)
    say = progress or Silent(quiet=True)
    folder = Path(config.directory)
    if folder.exists() and not (resume or force) and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty", "continue with --resume, replace with --force, or give another -o")
    folder.mkdir(parents=True, exist_ok=True)
    teacher = load_model(config.teacher)
    if config.cutoff is None:
        config = dataclasses.replace(config, cutoff=teacher.cutoff)
    material = gather(config)
    originals = folder / "originals.extxyz"
    if not (resume and (folder / LABELS).is_file() and (folder / HELD_OUT).is_file()):
        labelled, held_out = label_all(config, teacher, material, say.message)
        write_structures(folder / LABELS, labelled)
        write_structures(folder / HELD_OUT, held_out)
        own = _labelled(material.train)
        if own:
            write_structures(originals, own)
    return _fit_and_compare(config, teacher, material, originals, progress, resume, force)


def _labelled(structures: Sequence[Atoms]) -> list[Atoms]:
    """Structures that came with energies and forces."""
    return [a for a in structures if a.calc is not None and {"energy", "forces"} <= set(a.calc.results)]


def _fit_and_compare(
    config: DistillConfig,
    teacher: Model,
    material: Material,
    originals: Path,
    progress: Progress | None,
    resume: bool,
    force: bool,
) -> DistillResult:
    from gracecli.fit.start import create_trainer
    from gracecli.fit.tuning.compare import against_labels, against_teacher
    from gracecli.model.modelfile import load_model

    folder = Path(config.directory)
    if config.pathway in ("naive", "distilled+finetuned") and not originals.is_file():
        raise InputError(
            f"the pathway {config.pathway} needs structures with labels of their own", "choose raw or extended"
        )
    source = originals if config.pathway == "naive" else folder / LABELS

    def train(settings: FitConfig) -> Any:
        going_on = resume and (Path(settings.output.directory) / "checkpoint.npz").is_file()
        return create_trainer(settings, progress, resume=going_on, force=force).run()

    twice = config.pathway == "distilled+finetuned"
    result = train(fit_config(config, [source], STUDENT, output={"gamma": not twice}))
    model = result.model
    if twice and result.completed:
        rate = config.training.get("learning_rate", 8e-3) / 8
        changes: dict[str, Any] = {
            "model": {"start": str(model), "preset": config.student, "overrides": None, "cutoff": None},
            "tuning": {"strategy": "naive"},
            "training": {"epochs": config.finetune_epochs, "learning_rate": rate},
        }
        result = train(fit_config(config, [originals], FINE_TUNED, **changes))
        model = result.model
    student = load_model(model)
    compared = against_teacher(student, folder / HELD_OUT)
    found = DistillResult(
        model=model,
        directory=folder,
        pathway=config.pathway,
        labelled=len(_count(source)),
        against_teacher=compared,
        against_labels=against_labels({"teacher": teacher, "student": student}, _labelled(material.held_out)),
        completed=result.completed,
        parameters={"teacher": teacher.n_parameters, "student": student.n_parameters},
        gamma=result.gamma,
    )
    write_record(found, config)
    return found


def _count(path: Path) -> list[Atoms]:
    import ase.io

    read: Any = ase.io.read(path, ":", format="extxyz")
    return list(read)


def write_record(result: DistillResult, config: DistillConfig) -> None:
    """What was done, as JSON."""
    from gracecli.files import write_text_atomically
    from gracecli.fit.table import plain

    document = {
        "schema": "gracecli.distill",
        "schema_version": 1,
        "_units": dict(UNITS),
        "settings": plain(dataclasses.asdict(config)),
        "result": plain(dataclasses.asdict(result)),
    }
    write_text_atomically(result.directory / RECORD, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
