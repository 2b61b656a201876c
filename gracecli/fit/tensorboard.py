"""The log as TensorBoard events, beside ``log.csv``: ``tensorboard --logdir FOLDER``.

A resumed run adds a file; epochs after its checkpoint come again, with the same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class EventLog:
    """Writes one scalar per column and epoch.

    Parameters
    ----------
    directory : Path or None
        Folder of the fit; None writes nothing.
    """

    def __init__(self, directory: Path | None) -> None:
        self._writer: Any = None
        if directory is not None:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(str(directory / "tensorboard"))

    def epoch(self, row: Mapping[str, Any]) -> None:
        """One row of the log; the epoch is the step."""
        if self._writer is None:
            return
        import tensorflow as tf

        # the core writer with the metadata that TensorBoard's scalar dashboard looks for
        metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        )
        with self._writer.as_default(step=int(row["epoch"])):
            for name, value in row.items():
                if name not in ("epoch", "step") and isinstance(value, int | float):
                    tf.summary.write(_tag(name), tf.constant(float(value), tf.float32), metadata=metadata)
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _tag(name: str) -> str:
    """``valid_energy_mae`` -> ``valid/energy_mae``: one group of charts each."""
    return name.replace("valid_", "valid/", 1) if name.startswith("valid_") else f"train/{name}"
