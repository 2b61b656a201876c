"""The extrapolation grade that a fit gives its model, from the structures it was trained on.

At most :data:`MAX_ATOMS` atoms are looked at, which costs less than an epoch does. Larger sets are sampled: from every
set and kind of structure (``config_type``) in proportion to its size, but from each at least one structure, as long as
they fit. A model with several heads is graded for the default one, from the data of that head alone. Grades of
a model that the fit began with do not come along: they belong to its weights and its data.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.engine.batch import BatchShape
from gracecli.errors import GraceError, ModelError

if TYPE_CHECKING:
    from gracecli.engine.base import Engine
    from gracecli.fit.batches import GraphSet
    from gracecli.fit.setup import FitData
    from gracecli.model.modelfile import Model

MAX_ATOMS = 250_000
"""A sample is no substitute for the data: of the bundled model's 352 test structures 25 are beyond 1 by the grade from
20,000 of its atoms, the worst at 7.0; by that from all 237,270 (109 s) there are 8, the worst at 1.3."""
HELD_OUT_ATOMS = 5_000
"""Of each of the validation and test structures, whose grades are reported."""
_ATOMS = BatchShape._fields.index("atoms")


def sampled(graphs: GraphSet, max_atoms: int, seed: int) -> list[int]:
    """Structures of at most so many atoms together, in order: all of them, or a sample of every set and kind."""
    sizes = graphs.sizes[:, _ATOMS]
    rng = np.random.default_rng([seed, 0x6A])
    rank = np.empty(len(sizes))
    for members in graphs.table.strata().values():
        # the first of every stratum come first, then all strata evenly
        rank[rng.permutation(members)] = np.arange(len(members)) / len(members)
    used = graphs.table.weight * graphs.table.share > 0
    chosen: list[int] = []
    atoms = 0
    for index in np.argsort(rank, kind="stable").tolist():
        if used[index] and (not chosen or atoms + sizes[index] <= max_atoms):
            chosen.append(index)
            atoms += int(sizes[index])
    return sorted(chosen)


def grade_file(path: Path, data: FitData, graphs: GraphSet, seed: int) -> dict[str, Any]:
    """Give the model of a finished fit its grade, and say what came of it.

    Parameters
    ----------
    path : Path
        The model file; it is replaced.
    data : FitData
    graphs : GraphSet
        Of the training structures.
    seed : int
        Of the sample.

    Returns
    -------
    dict
        ``structures`` and ``atoms`` of the sample, of how many (``of_structures``), ``by_element``, ``without_data``,
        ``seconds``, and per split ``held_out``: atoms, their largest grade, the share beyond 1. For a model that cannot
        be graded only ``problem``.
    """
    from gracecli.fit.grading import make_grade
    from gracecli.model.modelfile import load_model, save_model

    graphs = _of_default_head(data, graphs)
    chosen = sampled(graphs, MAX_ATOMS, seed)
    with tempfile.TemporaryDirectory(prefix="gracecli-") as folder:
        engines: list[Any] = []

        def make_engine(model: Model) -> Engine:
            engines.append(_engine(model, Path(folder)))
            found: Engine = engines[0]
            return found

        try:
            structures = (graphs.load([index])[0][0].atoms for index in chosen)
            model, report = make_grade(load_model(path), structures, make_engine)
            held_out = {}
            for name, frames in (("valid", data.valid), ("test", data.test)):
                own = _of_default_head(data, data.graphs_of(frames)) if frames else None
                if own:
                    held_out[name] = _held_out(model, engines[0], own, seed)
        except GraceError as error:
            return {"problem": error.message}
    assert model.grade is not None
    model.grade.provenance.update({"of_structures": len(graphs), "sample_seed": seed})
    save_model(path, model, overwrite=True)
    found = asdict(report)
    del found["skipped"]
    return {**found, "of_structures": len(graphs), "held_out": held_out}


def _engine(model: Model, folder: Path) -> Engine:
    """An engine for a model that has no file yet."""
    from gracecli.engine.create import create_engine
    from gracecli.model.modelfile import save_model

    made = create_engine(save_model(folder / "model.grace", model), "auto")
    if not hasattr(made, "features"):
        raise ModelError(f"the engine {made.name} makes no extrapolation grades")
    return made


def _of_default_head(data: FitData, graphs: GraphSet) -> GraphSet:
    """Those structures alone that teach the head that is used when none is named."""
    if not data.heads:
        return graphs
    from gracecli.fit.batches import GraphSet
    from gracecli.fit.tuning.multihead import head_of

    return GraphSet([frame for frame in graphs.frames if head_of(frame) == 0], data.cutoff, data.elements)


def _held_out(model: Model, engine: Any, graphs: GraphSet, seed: int) -> dict[str, Any]:
    """Grades of structures that were not trained on."""
    assert model.grade is not None
    gamma = model.grade.grade(*engine.features(graphs.load(sampled(graphs, HELD_OUT_ATOMS, seed))[1])).gamma
    return {"atoms": len(gamma), "largest": float(gamma.max()), "beyond_1": float((gamma > 1.0).mean())}


def summary(found: dict[str, Any]) -> str:
    """One line for people."""
    if "problem" in found:
        return f"none: {found['problem']}"
    some = "" if found["structures"] == found["of_structures"] else f" (a sample of {found['of_structures']:,})"
    text = f"from {found['atoms']:,} atoms in {found['structures']:,} structures{some}"
    names = {"valid": "validation"}
    beyond = [f"{100 * own['beyond_1']:.1f} % of {names.get(k, k)}" for k, own in found["held_out"].items()]
    if beyond:
        text += f"; {' and '.join(beyond)} atoms beyond 1"
    if found["without_data"]:
        text += f"; no data for {', '.join(found['without_data'])}"
    return text
