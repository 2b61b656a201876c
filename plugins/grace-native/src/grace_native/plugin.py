"""What this package offers to gracecli. Imported whenever ``grace`` starts, so it holds facts alone."""

from __future__ import annotations

from collections.abc import Iterator

from gracecli.plugin import BenchRunnerSpec, EngineSpec, ExporterSpec, hookimpl


@hookimpl
def gracecli_register_engines() -> Iterator[EngineSpec]:
    """Provide the compiled engine, preferred to TensorFlow on CPUs."""
    yield EngineSpec(
        name="native",
        help="Compiled C++ for CPUs (SSE2, AVX2, AVX-512): no compilation per structure, starts at once.",
        factory="grace_native.engine:create_engine",
        priority=20,
        available="grace_native.library:available",
        trainer="grace_native.training:NativeCompute",
    )


@hookimpl
def gracecli_register_exporters() -> Iterator[ExporterSpec]:
    """Provide the LAMMPS bundle."""
    yield ExporterSpec(
        name="lammps",
        help="Folder that the stock LAMMPS runs with one line: model, pair style plugin, input, structure.",
        exporter="grace_native.export_lammps:Lammps",
        suffix=".lammps",
        folder=True,
        options=("structure", "plugin", "temperature", "steps"),
        available="grace_native.library:available",
    )


@hookimpl
def gracecli_register_bench_runners() -> Iterator[BenchRunnerSpec]:
    """Provide the pair style to ``grace bench``."""
    yield BenchRunnerSpec(
        name="lammps",
        help="LAMMPS with the pair style of this package, one rank.",
        factory="grace_native.lammps.bench:LammpsRunner",
        available="grace_native.lammps.bench:available",
    )
