"""What this package offers to gracecli. Imported whenever ``grace`` starts, so it holds facts alone."""

from __future__ import annotations

from collections.abc import Iterator

from gracecli.plugin import EngineSpec, hookimpl


@hookimpl
def gracecli_register_engines() -> Iterator[EngineSpec]:
    """Provide the compiled engine, preferred to TensorFlow on CPUs."""
    yield EngineSpec(
        name="native",
        help="Compiled C++ for CPUs (SSE2, AVX2, AVX-512): no compilation per structure, starts at once.",
        factory="grace_native.engine:create_engine",
        priority=20,
        available="grace_native.library:available",
    )
