"""``--format upstream``: the published checkpoint layout, model.yaml and a TensorFlow checkpoint.

Layout: sections 1 to 3 of the checkpoint format, ``model/instructions/NAME/PATH`` with ``step``, ``epoch`` and
``intra_epoch_save`` beside it. Published tools read it like a model of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gracecli.engine.base import Results
from gracecli.export.base import Job, PlainExporter
from gracecli.export.reference import evaluate_read_back
from gracecli.model import blueprint as bp
from gracecli.model.gradefile import PUBLISHED, write_published
from gracecli.model.modelfile import Model
from gracecli.model.upstream.checkpoint import read_directory
from gracecli.model.upstream.describe import describe_blueprint

if TYPE_CHECKING:
    from ase import Atoms

PREFIX = "checkpoint"


class Upstream(PlainExporter):
    """Writes a folder with ``model.yaml`` and ``checkpoint.*``."""

    def write(self, job: Job, target: Path) -> Sequence[str]:
        """Write the folder.

        Raises
        ------
        ModelError
            A node or option that published classes lack.
        """
        write_description(job.model, target / "model.yaml", job.precision)
        write_checkpoint(job.model, target / PREFIX)
        if job.model.grade is not None:
            write_published(target / PUBLISHED, job.model.grade, job.model.elements)
        return ()

    def evaluate(self, job: Job, target: Path, structures: Sequence[Atoms]) -> Sequence[Results | None]:
        """Read it back and evaluate."""
        blueprint, weights, metadata = read_directory(target)
        return evaluate_read_back(job, Model(blueprint, weights, metadata), target, structures)


def write_description(model: Model, path: Path, precision: str) -> None:
    """Write model.yaml (layout "current")."""
    import yaml

    import gracecli

    metadata = {
        "tensorpotential_version": "unknown",
        "saved_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "param_dtype": {"fp64": "float64", "fp32": "float32"}[precision],
        "written_by": f"gracecli {gracecli.__version__}",
    }
    document = {"metadata": metadata, "instructions": describe_blueprint(model.blueprint)}

    class Dumper(yaml.SafeDumper):
        """Lists and mappings in full wherever they occur again."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    path.write_text(yaml.dump(document, Dumper=Dumper, sort_keys=False), encoding="utf-8")


def write_checkpoint(model: Model, prefix: Path) -> None:
    """Write the object-based checkpoint."""
    from gracecli.quiet import import_tensorflow

    tf = import_tensorflow()
    from gracecli.export.program import trackable_tree

    values = {name: tf.Variable(np.asarray(value)) for name, value in model.weights.items()}
    root = tf.Module()
    root.instructions = trackable_tree({**values, **element_maps(model.blueprint)})
    for node in model.blueprint:  # published instructions without variables are objects too
        if not hasattr(root.instructions, node.name):
            setattr(root.instructions, node.name, tf.Module())
    counters = {
        "step": tf.Variable(0, dtype=tf.int32),
        "epoch": tf.Variable(0, dtype=tf.int32),
        "intra_epoch_save": tf.Variable(False),
    }
    tf.train.Checkpoint(model=root, **counters).write(str(prefix))


def element_maps(blueprint: bp.Blueprint) -> Mapping[str, Any]:
    """The constants ``element_map_symbols`` and ``element_map_index`` of the nodes that know the elements."""
    import tensorflow as tf

    found: dict[str, Any] = {}
    for node in blueprint.of_type(bp.Embedding, bp.ZBL):
        found[f"{node.name}/element_map_symbols"] = tf.Variable(list(node.elements), dtype=tf.string, trainable=False)
        index = np.arange(len(node.elements), dtype=np.int32)
        found[f"{node.name}/element_map_index"] = tf.Variable(index, trainable=False)
    return found
