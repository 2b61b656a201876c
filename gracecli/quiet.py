"""Import TensorFlow without its chatter, with sane defaults for a shared machine.

TensorFlow writes several lines to the standard error *file descriptor* while it loads, takes all GPU memory at once,
and compiles the same program again in every process; all three are settled here, before its first import.

Compiled programs are kept in ``$GRACE_CACHE/xla`` (default ``~/.cache/grace/xla``) by TensorFlow's own persistent
cache, in a folder per TensorFlow version and processor type: a program compiled for one processor may not run on
another that shares the home directory. TensorFlow compares the whole program before it trusts an entry.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

CACHE_LIMIT_BYTES = 512 * 1024**2


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


def cache_root() -> Path:
    """Folder of everything gracecli keeps between runs: ``$GRACE_CACHE`` or ``~/.cache/grace``."""
    root = os.environ.get("GRACE_CACHE")
    return Path(root).expanduser() if root else Path.home() / ".cache" / "grace"


def _processor() -> str:
    """What compiled code depends on: architecture, processor model and its instruction sets."""
    description = [platform.machine(), platform.processor()]
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "flags", "Features")):
                description.append(line)
            if not line:
                break
    return "\n".join(description)


def compile_cache() -> Path | None:
    """Folder of compiled programs for this TensorFlow and processor, trimmed to a size limit; None if unwritable."""
    key = hashlib.sha256(f"{version('tensorflow')}\n{_processor()}".encode()).hexdigest()[:16]
    folder = cache_root() / "xla" / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = sorted(((p.stat().st_mtime, p.stat().st_size, p) for p in folder.iterdir()), reverse=True)
    except OSError:
        return None
    total = 0
    for _, size, path in entries:
        total += size
        if total > CACHE_LIMIT_BYTES:
            path.unlink(missing_ok=True)
    return folder if os.access(folder, os.W_OK) else None


def _use_compile_cache() -> None:
    """Point TensorFlow to the cache, unless the user chose one or ``GRACE_COMPILE_CACHE=0``."""
    flags = os.environ.get("TF_XLA_FLAGS", "")
    if os.environ.get("GRACE_COMPILE_CACHE") == "0" or "persistent_cache" in flags:
        return
    with suppress(Exception):  # a missing cache costs time, never a run
        folder = compile_cache()
        if folder is not None and " " not in str(folder):
            os.environ["TF_XLA_FLAGS"] = f"{flags} --tf_xla_persistent_cache_directory={folder}".strip()


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
    _use_compile_cache()
    with warnings.catch_warnings(), stderr_closed():
        warnings.simplefilter("ignore")
        import tensorflow

        tensorflow.config.list_physical_devices()
    _silence_absl(Path(tensorflow.__file__).parent)
    # a program per rung of the shape ladder is meant; TensorFlow would warn about retracing
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    return tensorflow


def _silence_absl(package: Path) -> None:
    """Let only fatal messages of the C++ logging library through.

    XLA reads every entry of its cache as text first, which logs an error (``Error parsing text-format``), then as what
    it is; ``TF_CPP_MIN_LOG_LEVEL`` does not reach that. The name of the function holds the version of the library.
    """
    import ctypes

    with suppress(OSError, AttributeError):
        options = (package / "include" / "absl" / "base" / "options.h").read_text(encoding="utf-8")
        versions = re.findall(r"define ABSL_OPTION_INLINE_NAMESPACE_NAME (\w+)", options)
        for path in package.glob("libtensorflow_framework.*"):
            for version_ in versions:
                name = f"_ZN4absl{len(version_)}{version_}14SetMinLogLevelENS0_18LogSeverityAtLeastE"
                getattr(ctypes.CDLL(str(path)), name)(3)


def settle_xla(tf: Any) -> None:
    """Let XLA say now, to nobody, what it says once per process (``Compiled cluster using XLA!``)."""
    if os.environ.get("GRACE_TF_VERBOSE") == "1":
        return
    with stderr_closed():
        tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))
