"""Read a published model directory: model.yaml plus a TensorFlow object-based checkpoint.

Keys are resolved through the object graph stored in the checkpoint, so both key layouts (never trained, and written by
a training run) are read alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gracecli.errors import ModelError
from gracecli.model.blueprint import Blueprint
from gracecli.model.upstream.translate import translate

SKIPPED_VARIABLES = {"element_map_symbols", "element_map_index"}


def read_yaml(path: Path) -> tuple[Blueprint, dict[str, Any]]:
    """Blueprint and metadata of a model.yaml in any of its three layouts.

    Raises
    ------
    ModelError
        Unreadable file, unknown class, malformed instruction; the message names it.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(f"{path}: cannot read the model description: {' '.join(str(error).split())}") from error
    metadata: dict[str, Any] = {}
    if isinstance(document, dict) and "instructions" in document:
        metadata = dict(document.get("metadata") or {})
        entries: Any = document["instructions"]
    else:
        entries = document
    if isinstance(entries, list):
        entries = {str(e.get("name", i)): e for i, e in enumerate(entries)}
    if not isinstance(entries, dict) or not entries:
        raise ModelError(f"{path}: not a GRACE model description", "expected a list or mapping of instructions")
    nodes = []
    for name, arguments in entries.items():
        if name == "__metadata__":
            continue
        if not isinstance(arguments, dict) or "__cls__" not in arguments:
            raise ModelError(f"{path}: entry {name!r} is not an instruction (no __cls__)")
        node = translate(str(name), arguments)
        if node is not None:
            nodes.append(node)
    return Blueprint(tuple(nodes)), metadata


def _object_paths(graph: Any, wanted: Iterable[str]) -> dict[str, str]:
    """Resolve ``instruction/path`` of every variable below model/instructions to its checkpoint key."""
    nodes = graph.nodes

    def child(node_id: int, name: str) -> int | None:
        return next((c.node_id for c in nodes[node_id].children if c.local_name == name), None)

    instructions = child(child(0, "model") or 0, "instructions")
    if instructions is None:
        raise ModelError("checkpoint: the object graph has no model/instructions")
    roots = {}
    for index, name in enumerate(wanted):
        node_id = child(instructions, name)
        node_id = child(instructions, str(index)) if node_id is None else node_id
        if node_id is not None:
            roots[name] = node_id
    found: dict[str, str] = {}
    others = set(roots.values())

    def walk(node_id: int, path: str) -> None:
        for attribute in nodes[node_id].attributes:
            if attribute.name == "VARIABLE_VALUE":
                found[path] = attribute.checkpoint_key
        for entry in nodes[node_id].children:
            # children that are instructions themselves are references: their variables are found under their own name
            if entry.node_id not in others:
                walk(entry.node_id, f"{path}/{entry.local_name}")

    for name, node_id in roots.items():
        walk(node_id, name)
    return found


def read_checkpoint(prefix: Path, instructions: Iterable[str]) -> dict[str, np.ndarray]:
    """Weights ``instruction/path`` -> array.

    Parameters
    ----------
    prefix : Path
        Checkpoint prefix (without ``.index``).
    instructions : iterable of str
        All instruction names in file order (very old files number them).
    """
    from gracecli.quiet import import_tensorflow

    tf = import_tensorflow()
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        raw = reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    except Exception as error:  # TensorFlow raises several unrelated types
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{prefix}.index: not a readable TensorFlow checkpoint: {first}") from error
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(raw)
    weights = {}
    for path, key in _object_paths(graph, instructions).items():
        if path.rsplit("/", 1)[-1] in SKIPPED_VARIABLES:
            continue
        value = reader.get_tensor(key)
        if isinstance(value, np.ndarray | np.generic) and np.asarray(value).dtype.kind == "f":
            weights[path] = np.asarray(value)
    return weights


def read_directory(
    directory: Path, yaml_name: str = "model.yaml", prefix: str | None = None
) -> tuple[Blueprint, dict[str, np.ndarray], dict[str, Any]]:
    """Blueprint, weights and metadata (with ``precision``) of a published model directory."""
    description = directory / yaml_name
    if not description.is_file():
        raise ModelError(f"{directory}: no {yaml_name}", "a published model has model.yaml and checkpoint.index")
    if prefix is None:
        candidates = [
            p for p in (directory / "checkpoint.index", directory / "checkpoint.best_test_loss.index") if p.is_file()
        ]
        candidates = candidates or sorted(directory.glob("*.index"))
        if not candidates:
            raise ModelError(f"{directory}: no checkpoint (*.index)")
        prefix = candidates[0].name.removesuffix(".index")
    blueprint, metadata = read_yaml(description)
    document = yaml.safe_load(description.read_text())
    entries = document.get("instructions", document) if isinstance(document, dict) else document
    order = list(entries) if isinstance(entries, dict) else [str(e.get("name", i)) for i, e in enumerate(entries)]
    weights = read_checkpoint(directory / prefix, [str(n) for n in order if n != "__metadata__"])
    weights = {k: v for k, v in weights.items() if k.split("/", 1)[0] in blueprint.by_name}
    return blueprint, weights, {**metadata, "precision": str(metadata.get("param_dtype", "float64"))}
