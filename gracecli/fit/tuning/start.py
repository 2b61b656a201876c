"""The model that fine-tuning starts from: the elements it needs, reference energies of the new data.

What was prepared is written beside the fit (``start.grace``) and read back when a fit is resumed, so that a resumed
run starts from the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gracecli.errors import InputError, UsageError
from gracecli.fit.config import FitConfig
from gracecli.fit.data import Frame, elements_of
from gracecli.fit.tuning.shift import apply_shift, fit_shift
from gracecli.model.modelfile import Model

PREPARED = "start.grace"
KEY = "tuning"
"""Of the metadata of a prepared and of a tuned model."""


@dataclass(frozen=True)
class Start:
    """Where fine-tuning starts.

    Attributes
    ----------
    model : Model
        Reduced, extended and shifted.
    base : Model
        As it was found.
    unshifted : Model
        The model with the reference energies of the base.
    present, new : tuple of str
        Elements in the new data; those that the base lacks.
    record : dict
        JSON values for the model file: base, donors, shifts.
    """

    model: Model
    base: Model
    unshifted: Model
    present: tuple[str, ...]
    new: tuple[str, ...]
    record: dict[str, Any] = field(default_factory=dict)


def prepare_start(
    config: FitConfig, base: Model, frames: Sequence[Frame], prepared: Path | None, say: Callable[[str], None]
) -> Start:
    """Elements and reference energies of the model to start from.

    Parameters
    ----------
    config : FitConfig
    base : Model
    frames : sequence of Frame
        New training data.
    prepared : Path, optional
        File of an earlier start, read instead where it exists, else written.
    say : callable
        Takes lines for the log.

    Raises
    ------
    UsageError, InputError
        Settings that contradict the model or the data.
    """
    from gracecli.model.modelfile import load_model, save_model

    if base.heads:
        raise UsageError("the model has several heads", f"name one: --from NAME#{next(iter(base.heads))}")
    present = elements_of(frames)
    unshifted, donors = _elements(config, base, present, say)
    if prepared is not None and prepared.is_file():
        model = load_model(prepared)
        return Start(model, base, unshifted, present, tuple(donors), dict(model.metadata[KEY]))
    model, record = unshifted, {"base": _identity(base, config), "new_elements": donors}
    if config.tuning.shift:
        model, record["shift"] = _shifted(config, model, frames, say)
    if prepared is not None:
        metadata = {**model.metadata, KEY: record}
        save_model(prepared, Model(model.blueprint, model.weights, metadata), overwrite=True)
    return Start(model, base, unshifted, present, tuple(donors), record)


def _identity(base: Model, config: FitConfig) -> dict[str, Any]:
    return {"name": base.metadata.get("name") or str(config.model.start), "sha256": base.sha256()}


def _elements(
    config: FitConfig, base: Model, present: Sequence[str], say: Callable[[str], None]
) -> tuple[Model, dict[str, str]]:
    from gracecli.model.extend import extend_elements
    from gracecli.model.reduce import reduce_elements

    wanted = config.model.elements or (*base.elements, *(e for e in present if e not in base.elements))
    missing = [e for e in present if e not in wanted]
    if missing:
        raise InputError(
            f"the data have {', '.join(missing)}, which --elements leaves out", "name it too, or leave the data out"
        )
    kept = [e for e in base.elements if e in wanted]
    if not kept:
        raise UsageError(
            f"--elements {','.join(wanted)} keeps no element of the model ({', '.join(base.elements)})",
            "train from scratch instead: leave out --from",
        )
    model = reduce_elements(base, kept)
    if len(kept) < len(base.elements):
        say(f"elements kept: {', '.join(kept)} of {len(base.elements)}")
    # donors may be elements that are dropped: rows are copied before they go
    full, donors = extend_elements(base, [e for e in wanted if e not in base.elements], config.tuning.like)
    for new, donor in donors.items():
        say(f"new element {new}: starts as a copy of {donor}")
    if donors:
        model = reduce_elements(full, [e for e in full.elements if e in wanted])
    return model, donors


def _shifted(
    config: FitConfig, model: Model, frames: Sequence[Frame], say: Callable[[str], None]
) -> tuple[Model, dict[str, Any]]:
    shift = fit_shift(model, frames, config.tuning.shift_regularisation, config.training.seed)
    if not shift.structures:
        say("reference energies stay: no structure has an energy")
        return model, asdict(shift)
    values = ", ".join(f"{symbol} {value:+.4f}" for symbol, value in shift.shifts.items())
    say(f"shift of reference energies (eV/atom, fitted to {shift.structures} structures): {values}")
    say(f"energies deviate by {shift.before:.1f} meV/atom before the shift, {shift.after:.1f} after it")
    if shift.rank < len(shift.shifts):
        say(
            f"warning: compositions determine only {shift.rank} of {len(shift.shifts)} shifts; the smallest were taken "
            "(structures of other compositions, or isolated atoms, would determine them)"
        )
    return apply_shift(model, shift.shifts), asdict(shift)
