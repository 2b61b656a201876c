"""Import TensorFlow without its chatter, with sane defaults for a shared machine.

TensorFlow writes several lines to the standard error *file descriptor* while it loads and takes all GPU memory at
once; both are settled here, before its first import.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stderr_closed() -> Iterator[None]:
    """Send file descriptor 2 to nowhere; Python's own stderr keeps working afterwards."""
    try:
        saved = os.dup(2)
    except OSError:  # no standard error at all
        yield
        return
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def import_tensorflow() -> Any:
    """Return the module tensorflow, imported quietly.

    Environment variables the user has set are respected; ``GRACE_TF_VERBOSE=1`` shows everything.
    """
    if "tensorflow" in sys.modules or os.environ.get("GRACE_TF_VERBOSE") == "1":
        import tensorflow

        return tensorflow
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    # the same input must give the same output whatever the thread count of oneDNN kernels
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with warnings.catch_warnings(), stderr_closed():
        warnings.simplefilter("ignore")
        import tensorflow

        tensorflow.config.list_physical_devices()
    return tensorflow
