"""The process in which one contender of ``grace bench`` lives, and the handle on it.

Requests and answers are lines of JSON over pipes: ``{"do": "prepare", "steps": 5}`` -> ``{"value": ...}`` or
``{"error": [kind, message, hint]}``. What libraries print goes to stderr.

A *runner* does the steps. Engines are run by :class:`AseRunner`; a program that is no engine (an MD code with a pair
style) brings its own through a ``BenchRunnerSpec``.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any, Protocol

from gracecli import errors
from gracecli.errors import GraceError, PluginError

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.run.bench import BenchSettings, Contender
    from gracecli.run.bench_crystal import Sample


class Runner(Protocol):
    """Does molecular-dynamics steps (NVE); what a bench runner's factory returns.

    The factory is called as ``factory(atoms=Atoms, model=str | None, precision=str | None, threads=int,
    timestep=fs)``; the atoms have velocities. The process may use ``threads`` threads.

    Attributes
    ----------
    precision : str
    neighbours_per_atom : float or None
        Within the cutoff.
    """

    precision: str
    neighbours_per_atom: float | None

    def run(self, steps: int) -> list[float]:
        """Make steps; wall time of each in seconds (or that many equal shares of their sum)."""
        ...

    def compiles(self) -> int:
        """How often something was compiled so far."""
        ...

    def peak_memory(self) -> int | None:
        """Bytes of memory at the peak, where the steps are done in another process; None: in this one."""
        ...


class AseRunner:
    """Velocity Verlet of ASE with :class:`gracecli.GraceCalculator`."""

    def __init__(
        self, engine: str, atoms: Atoms, model: str | None, precision: str | None, threads: int, timestep: float
    ) -> None:
        from ase import units
        from ase.md.verlet import VelocityVerlet

        from gracecli.engine.calculator import GraceCalculator

        self.calculator = GraceCalculator(model, engine, precision)
        self.atoms = atoms
        self.atoms.calc = self.calculator
        self.precision = self.calculator.engine.precision
        self.neighbours_per_atom: float | None = None
        self._dynamics = VelocityVerlet(atoms, timestep=timestep * units.fs)

    def run(self, steps: int) -> list[float]:
        """Wall time of each of ``steps`` steps, seconds."""
        times = []
        for _ in range(steps):
            start = perf_counter()
            self._dynamics.step()
            times.append(perf_counter() - start)
        if self.neighbours_per_atom is None:
            graph = self.calculator.neighbour_list.graph(self.atoms)
            self.neighbours_per_atom = len(graph.centre) / len(self.atoms)
        return times

    def compiles(self) -> int:
        """Counter of the engine."""
        return int(self.calculator.engine.statistics().get("compiles", 0))

    def peak_memory(self) -> int | None:
        """Everything happens in this process."""
        return None


def resident_bytes(peak: bool = False) -> int:
    """Resident memory of this process now, or its largest so far.

    Read from /proc where there is one: ``getrusage`` counts the parent's memory at the moment of the fork as ours.
    """
    status = Path("/proc/self/status")
    if status.exists():
        key = "VmHWM:" if peak else "VmRSS:"
        for line in status.read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class Service:
    """Answers the requests inside the process."""

    def __init__(self) -> None:
        self.runner: Runner | None = None
        self._first = 0.0
        self._base = 0

    def create(self, engine: str, sample: str, **options: Any) -> None:
        """Make the runner."""
        from gracecli.plugin.manager import get_plugin_manager
        from gracecli.plugin.specs import BenchRunnerSpec

        atoms = pickle.loads(Path(sample).read_bytes())  # written by our parent for us
        spec = get_plugin_manager().specs(BenchRunnerSpec).get(engine)
        start = perf_counter()
        self.runner = AseRunner(engine, atoms, **options) if spec is None else spec.load()(atoms=atoms, **options)
        self._first = perf_counter() - start

    def prepare(self, steps: int) -> None:
        """First steps, which do not count."""
        assert self.runner is not None
        self._base = resident_bytes()
        self._first += sum(self.runner.run(1))
        if steps > 1:
            self.runner.run(steps - 1)

    def block(self, steps: int) -> list[Any]:
        """Seconds of each step, and how often something was compiled meanwhile."""
        assert self.runner is not None
        self.runner.run(1)
        before = self.runner.compiles()
        seconds = self.runner.run(steps)
        if len(seconds) != steps:
            raise PluginError(f"asked for {steps} steps, the runner reports {len(seconds)}")
        return [seconds, self.runner.compiles() - before]

    def facts(self) -> dict[str, Any]:
        """What is known at the end."""
        assert self.runner is not None
        own = self.runner.peak_memory()
        return {
            "precision": self.runner.precision,
            "neighbours_per_atom": self.runner.neighbours_per_atom,
            "first_seconds": self._first,
            "base_memory": self._base if own is None else 0,
            "peak_memory": resident_bytes(peak=True) if own is None else own,
        }


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer until the requests end."""
    service = Service()
    for line in requests:
        request = json.loads(line)
        try:
            answer: dict[str, Any] = {"value": getattr(service, request.pop("do"))(**request)}
        except GraceError as error:
            answer = {"error": [type(error).__name__, error.message, error.hint]}
        except MemoryError:
            answer = {"error": ["MemoryLimitError", "out of memory", "use smaller --sizes"]}
        except Exception as error:  # the parent decides what becomes of it
            answer = {"error": ["GraceError", f"{type(error).__name__}: {error}".splitlines()[0], None]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Worker:
    """Handle on the process of one contender."""

    def __init__(self, contender: Contender, sample: Sample, settings: BenchSettings) -> None:
        threads = str(contender.threads)
        environment = {
            **os.environ, "OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": "1",
            "OPENBLAS_NUM_THREADS": threads,
        }  # fmt: skip
        self._contender, self._settings = contender, settings
        content = pickle.dumps(_with_velocities(sample.structure, settings))
        self._folder = tempfile.TemporaryDirectory(prefix="grace-bench-")
        self._sample = Path(self._folder.name) / "sample.pickle"
        self._sample.write_bytes(content)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gracecli.run.bench_worker"], env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def prepare(self, steps: int) -> None:
        """Make the runner and the first steps."""
        c = self._contender
        self._ask(
            "create", engine=c.engine, sample=str(self._sample), model=c.model, precision=c.precision,
            threads=c.threads, timestep=self._settings.timestep,
        )  # fmt: skip
        self._ask("prepare", steps=steps)

    def block(self, steps: int) -> tuple[list[float], int]:
        """Seconds of each step, and compilations meanwhile."""
        seconds, compiles = self._ask("block", steps=steps)
        return seconds, compiles

    def facts(self) -> dict[str, Any]:
        """Precision, neighbours, seconds of the first step, memory."""
        return dict(self._ask("facts"))

    def _ask(self, do: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            cause = "killed, most likely for want of memory" if code == -9 else f"ended with exit code {code}"
            raise GraceError(f"the process that times {self._contender.engine} was {cause}", "use smaller --sizes")
        answer = json.loads(line)
        if "error" in answer:
            kind, message, hint = answer["error"]
            raise getattr(errors, kind, GraceError)(message, hint)
        return answer["value"]


def start_worker(contender: Contender, sample: Sample, settings: BenchSettings) -> Worker:
    """Start the process of one contender."""
    return Worker(contender, sample, settings)


def _with_velocities(atoms: Atoms, settings: BenchSettings) -> Atoms:
    """The atoms with velocities of the temperature, at rest as a whole; the same for all contenders."""
    import numpy as np
    from ase.units import kB

    atoms = atoms.copy()
    masses = atoms.get_masses()[:, None]
    width = np.sqrt(kB * settings.temperature * masses)
    momenta = width * np.random.default_rng(settings.seed).normal(size=(len(atoms), 3))
    atoms.set_momenta(momenta - masses * momenta.sum(axis=0) / masses.sum())
    return atoms


def main() -> None:
    """Serve the parent: its pipe is ours alone, whatever libraries print goes to stderr."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
