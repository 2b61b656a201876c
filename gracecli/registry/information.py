"""All that is known about one model, as one document for tables and JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gracecli.errors import ModelError
from gracecli.model.heads import head_names
from gracecli.registry.catalog import Published, find_published
from gracecli.registry.resolve import bundled_models, is_saved_model, known_models, read_model, resolve_model
from gracecli.registry.summary import summarise

OWN_KEYS = ("name", "elements", "cutoff", "licence", "level_of_theory", "precision")
"""Metadata that the summary already gives."""


def model_information(name: str) -> dict[str, Any]:
    """Everything about a model on this machine, or the catalog entry of a published one.

    Returns
    -------
    dict
        ``kind``: ``model`` (with blueprint), ``program`` (SavedModel) or ``published`` (not on this machine); then the
        fields of :class:`~gracecli.registry.summary.Summary` as far as they are known, ``pair_cutoffs`` (Å, or None),
        ``bundled``, and the metadata of the file.

    Raises
    ------
    ModelError
        Nothing of that name, or its file is damaged.
    """
    try:
        path = resolve_model(name)
    except ModelError:
        published = find_published(name)
        if published is None:
            raise
        return _published(published)
    if is_saved_model(path) and not (path / "model.yaml").is_file():
        return _program(path)
    model = read_model(path)
    cutoffs = model.pair_cutoffs()
    metadata = {key: value for key, value in model.metadata.items() if key not in OWN_KEYS}
    return {
        "kind": "model",
        **asdict(summarise(model, path, _registered_name(path))),
        "pair_cutoffs": None if cutoffs is None else cutoffs.tolist(),
        "bundled": path in bundled_models().values(),
        **({"heads": list(head_names(model))} if model.heads else {}),
        "extrapolation_grade": None if model.grade is None else dict(model.grade.provenance),
        **metadata,
    }


def _registered_name(path: Path) -> str | None:
    return next((name for name, known in known_models().items() if known == path), None)


def _program(path: Path) -> dict[str, Any]:
    from gracecli.model.upstream.savedmodel import read_coverage

    coverage = read_coverage(path) if (path / "metadata.yaml").is_file() else _loaded(path)
    matrix = coverage.cutoff_matrix
    return {
        "kind": "program",
        "name": path.resolve().name,
        "path": str(path),
        "size": sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        "elements": list(coverage.elements),
        "cutoff": coverage.cutoff,
        "smallest_cutoff": coverage.cutoff if matrix is None else float(matrix.min()),
        "pair_cutoffs": None if matrix is None else matrix.tolist(),
    }


def _loaded(path: Path) -> Any:
    from gracecli.model.upstream.savedmodel import load_program

    return load_program(path).coverage


def _published(entry: Published) -> dict[str, Any]:
    return {
        "kind": "published",
        "name": entry.name,
        "aliases": list(entry.aliases),
        "description": entry.description,
        "elements": list(entry.elements) if entry.elements is not None else None,
        "layers": entry.layers,
        "cutoff": entry.cutoff[1],
        "smallest_cutoff": entry.cutoff[0],
        "precision": entry.precision,
        "licence": entry.licence,
        "training_data": entry.training_data,
    }
