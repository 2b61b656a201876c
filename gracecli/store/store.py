"""``Store``: structures in one HDF5 file, read lazily, appended safely."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import InputError, StoreError
from gracecli.files import write_atomically
from gracecli.store import commits, schema
from gracecli.store.columns import readers
from gracecli.store.commits import Commit
from gracecli.store.entry import Entry, decode
from gracecli.store.handle import open_handle
from gracecli.store.schema import COLUMNS, COMMITS, Present
from gracecli.store.writer import Batch, Writer, forces_type, structure_batch

if TYPE_CHECKING:
    from ase import Atoms

    from gracecli.store.index import HashIndex
    from gracecli.store.lineage import Node, Step
    from gracecli.store.recording import Recorder
    from gracecli.store.results import Calculation, Outcome, Recorded

Array = NDArray[Any]
BATCH = 1000
_QUICK = ("structure/offset", "atom/Z", "atom/R", "structure/cell", "structure/energy", "atom/F")


class Store:
    """A structure store.

    Parameters
    ----------
    path : str or Path
    mode : str
        ``"r"`` reads, ``"a"`` also creates the file if there is none. Appending takes the writer lock for as long as an
        append lasts, so that several processes can take turns.
    wait : float
        Seconds to wait for another writer.
    durable : bool
        fsync at every commit.
    forces : str
        ``"<f8"`` or ``"<f4"``, when the file is created.
    swmr : bool
        False for a file that nobody writes: damage shows at once.

    Examples
    --------
    >>> with Store("silicon.h5", "a") as store:  # doctest: +SKIP
    ...     store.append(frames, set_name="train")
    ...     low = store.query("natoms<50 and energy_per_atom<-5")
    ...     atoms = store.atoms(low[0])
    """

    def __init__(
        self,
        path: str | Path,
        mode: str = "r",
        *,
        wait: float = 60.0,
        durable: bool = True,
        forces: str = "<f8",
        swmr: bool = True,
    ) -> None:
        self.path = Path(path)
        if mode not in ("r", "a"):
            raise ValueError(f"mode must be 'r' or 'a', not {mode!r}")
        self.mode, self.wait, self.durable = mode, wait, durable
        if not self.path.exists():
            if mode == "r":
                raise InputError(f"{self.path}: no such store", "`grace store add` makes one")
            self._create(forces)
        elif not schema.is_store(self.path):
            raise InputError(f"{self.path} is not a store", "stores are made by `grace store add`")
        self._handle = open_handle(self.path, swmr)
        self._columns = readers(self._handle)
        self._quick = [self._columns[path] for path in _QUICK]
        self._ends: tuple[Any, ...] | None = None  # ends and energies of a mapped store; () for others
        self._indices: dict[str, HashIndex] = {}
        self.commit = Commit()
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise

    def _create(self, forces: str) -> None:
        import os

        def make(temporary: Path) -> None:
            schema.create_file(temporary, forces=forces)
            os.link(temporary, self.path)  # fails if another process was faster; its file is as good

        try:
            write_atomically(self.path.with_name(f".{self.path.name}.new"), make)
        except InputError:
            if not self.path.exists():
                raise
        finally:
            self.path.with_name(f".{self.path.name}.new").unlink(missing_ok=True)

    # --- life ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None  # type: ignore[assignment]

    def __enter__(self) -> Store:
        """Return the store."""
        return self

    def __exit__(self, *details: Any) -> None:
        self.close()

    def refresh(self) -> int:
        """Look for commits of other processes; how many structures there are now.

        Raises
        ------
        StoreError
            A commit row is damaged in front of good ones.
        """
        dataset = self._handle.dataset(COMMITS)
        if not self._handle.writing and self._handle.swmr:
            dataset.refresh()
        rows = dataset[self.commit.number :]
        self.commit, damaged = commits.last_valid(rows, self.commit)
        if damaged:
            raise StoreError(
                f"{self.path}: commit row {self.commit.number + 1} is damaged",
                "`grace store repair` keeps every good one",
            )
        return len(self)

    def __len__(self) -> int:
        return self.commit.counts["structure"]

    @property
    def attributes(self) -> dict[str, Any]:
        """Root attributes of the file."""
        self._handle.dataset(COMMITS)
        return dict(self._handle.file.attrs)

    # --- reading ------------------------------------------------------------------------------------------------------

    def column(self, path: str, start: int = 0, stop: int | None = None) -> Array:
        """Committed rows of a column, such as ``"structure/energy"``; ends (CSR) come with their leading 0."""
        reader = self._columns[path]
        if stop is None:
            stop = self.commit.counts[reader.column.axis] + reader.column.ends
        return reader.read(start, stop, self.commit)

    def entry(self, index: int) -> Entry:
        """Everything about one structure."""
        return self.entries([index])[0]

    def entries(self, indices: Iterable[int]) -> list[Entry]:
        """Everything about some structures."""
        return [self._entry(self._index(index)) for index in indices]

    def _index(self, index: int) -> int:
        count = len(self)
        number = int(index) + count if index < 0 else int(index)
        if not 0 <= number < count:
            raise InputError(
                f"{self.path} has no structure {index}", f"it holds {count}" + (f", 0 to {count - 1}" if count else "")
            )
        return number

    def span(self, index: int) -> tuple[int, int]:
        """Rows of /atom of a structure."""
        first, last = self.column("structure/offset", index, index + 2)
        return int(first), int(last)

    def arrays(self, index: int) -> tuple[Array, Array, Array, float, Array]:
        """Atomic numbers, positions (Å), cell (Å), energy (eV), forces (eV/Å): the quick way for training.

        The arrays are read-only views where the file is mapped; NaN stands where there is no energy or force.
        """
        commit = self.commit
        offset, numbers, positions, cell, energy, forces = self._quick
        if self._ends is None:
            sealed = len(self) > 0 and all(column.mapped(commit) for column in self._quick)
            self._ends = (offset.verified(), energy.verified()) if sealed else ()
        if self._ends:  # mapped: nothing changes any more
            ends, energies = self._ends
            a, b = ends[index], ends[index + 1]
            return (
                numbers.piece(a, b),
                positions.piece(a, b),
                cell.piece(index, index + 1)[0],
                energies[index],
                forces.piece(a, b),
            )
        a, b = offset.read(index, index + 2, commit).tolist()
        return (
            numbers.read(a, b, commit),
            positions.read(a, b, commit),
            cell.read(index, index + 1, commit)[0],
            energy.read(index, index + 1, commit).item(),
            forces.read(a, b, commit),
        )

    def blocks(self, start: int, stop: int) -> Iterator[tuple[Array, Array, Array, float, Array]]:
        """:meth:`arrays` of neighbouring structures, read at once: for epochs that shuffle inside of blocks."""
        ends = self.column("structure/offset", start, stop + 1).astype(int)
        first, last = int(ends[0]), int(ends[-1])
        numbers, positions, forces = (self.column(path, first, last) for path in ("atom/Z", "atom/R", "atom/F"))
        cells = self.column("structure/cell", start, stop)
        energies = self.column("structure/energy", start, stop).tolist()
        bounds = (ends - first).tolist()
        for row, energy in enumerate(energies):
            part = slice(bounds[row], bounds[row + 1])
            yield numbers[part], positions[part], cells[row], energy, forces[part]

    def document(self, index: int) -> dict[str, Any]:
        """JSON of a structure, as stored."""
        first, last = self.column("structure/meta_ofs", index, index + 2)
        return dict(json.loads(self.column("blob/json", int(first), int(last)).tobytes() or b"{}"))

    def _entry(self, index: int) -> Entry:
        a, b = self.span(index)
        present = int(self.column("structure/present", index, index + 1)[0])
        bits = int(self.column("structure/pbc", index, index + 1)[0])
        document = self.document(index)

        def label(bit: int, path: str) -> Array | None:
            return self.column(path, a, b).copy() if present & bit else None

        stress = self.column("structure/stress", index, index + 1)[0].copy() if present & Present.STRESS else None
        energy = float(self.column("structure/energy", index, index + 1)[0]) if present & Present.ENERGY else None
        return Entry(
            numbers=self.column("atom/Z", a, b).astype(int),
            positions=self.column("atom/R", a, b).copy(),
            cell=self.column("structure/cell", index, index + 1)[0].copy(),
            pbc=(bool(bits & 1), bool(bits & 2), bool(bits & 4)),
            energy=energy,
            free_energy=bool(present & Present.FREE_ENERGY),
            forces=label(Present.FORCES, "atom/F"),
            stress=stress,
            magmoms=label(Present.MAGMOMS, "atom/magmom"),
            charges=label(Present.CHARGES, "atom/charge"),
            velocities=label(Present.VELOCITIES, "atom/velocity"),
            mask=label(Present.MASK, "atom/mask"),
            results=decode(document.get("results", {})),
            info=decode(document.get("info", {})),
            arrays=decode(document.get("arrays", {})),
            method=document.get("method", ""),
            source=document.get("source", ""),
        )

    def atoms(self, index: int) -> Atoms:
        """One structure for ASE, its labels attached as a calculator."""
        from gracecli.store.convert import to_atoms

        return to_atoms(self.entry(index))

    def __getitem__(self, index: int | slice) -> Atoms | list[Atoms]:
        if isinstance(index, slice):
            return [self.atoms(number) for number in range(*index.indices(len(self)))]
        return self.atoms(index)

    def __iter__(self) -> Iterator[Atoms]:
        return (self.atoms(index) for index in range(len(self)))

    def query(self, expression: str) -> NDArray[np.int64]:
        """Numbers of the structures that an expression selects, in ascending order (:mod:`gracecli.store.query`)."""
        from gracecli.store.query import select

        return select(self, expression)

    # --- writing ------------------------------------------------------------------------------------------------------

    def writer(self) -> Writer:
        """Take the lock for several appends: ``with store.writer() as writer``."""
        if self.mode != "a":
            raise StoreError(f"{self.path} was opened for reading", "Store(path, 'a')")
        return Writer(self._handle, self.wait, self.durable)

    def append(
        self, structures: Sequence[Entry | Atoms] | Iterable[Entry | Atoms], *, set_name: str = "", run: int = 0
    ) -> range:
        """Append structures; their numbers. Every 1,000 are one commit.

        Raises
        ------
        StoreError
            The store is locked, damaged or cannot be written.
        """
        entries = [item if isinstance(item, Entry) else _as_entry(item) for item in structures]
        first = -1
        with self.writer() as writer:
            code, names = self._set_code(writer, set_name)
            for start in range(0, len(entries), BATCH):
                batch = structure_batch(entries[start : start + BATCH], run, code, forces_type(self._handle))
                if first < 0:
                    first = writer.commit.counts["structure"]
                    batch.update(names)
                writer.append(batch)
        self.refresh()
        return range(max(first, 0), max(first, 0) + len(entries))

    def _set_code(self, writer: Writer, name: str) -> tuple[int, Batch]:
        """Number of a set, and the row that gives it its name when it is new."""
        if not name:
            return 0, {}
        self.commit = writer.commit
        known = self.set_names()
        if name in known:
            return known.index(name) + 1, {}
        encoded = name.encode()
        if len(encoded) > COLUMNS["set_names/name"].shape[0]:
            raise InputError(f"the name of a set has at most 48 bytes: {name!r}")
        return len(known) + 1, {"set_names/name": np.frombuffer(encoded.ljust(48, b"\0"), "u1").reshape(1, 48)}

    # --- results ------------------------------------------------------------------------------------------------------

    def index(self, path: str) -> HashIndex:
        """Rows by their hash: ``"structure/uid"``, ``"structure/label"``, ``"result/identity"``."""
        from gracecli.store.index import HashIndex

        return self._indices.setdefault(path, HashIndex(self, path))

    def record(
        self,
        calculation: Calculation,
        parent: Atoms | int,
        values: Mapping[str, Any],
        output: Atoms | None = None,
        *,
        exit_code: int = 0,
        message: str = "",
        units: Mapping[str, str] | None = None,
        source: str = "",
        argv: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> int:
        """Commit one result with its structures and a run of its own; its number.

        For many use :meth:`recording`. Parameters are those of :class:`gracecli.store.results.Outcome`; ``argv``
        (default: this process) and ``seed`` describe the run.
        """
        from gracecli.store.results import Outcome

        outcome = Outcome(calculation, parent, values, output, exit_code, message, units or {}, source)
        return self.record_many([outcome], argv=argv, seed=seed)[0]

    def record_many(
        self, outcomes: Iterable[Outcome], *, argv: Sequence[str] | None = None, seed: int | None = None
    ) -> list[int]:
        """Commit results of one run, up to 200 at a time; their numbers."""
        with self.recording(argv=argv, seed=seed) as recorder:
            for outcome in outcomes:
                recorder.add(outcome)
        return recorder.ids

    def recording(
        self,
        *,
        argv: Sequence[str] | None = None,
        seed: int | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Recorder:
        """Context that collects the results of one run and commits them in groups.

        Parameters
        ----------
        argv : sequence of str, optional
            Command line. [default: that of this process]
        seed : int, optional
        files : mapping, optional
            Input files and their sha256.
        """
        from gracecli.store.recording import Recorder
        from gracecli.store.runs import Run

        if self.mode != "a":
            raise StoreError(f"{self.path} was opened for reading", "Store(path, 'a')")
        return Recorder(self, Run.now(argv, seed=seed, files=files or {}))

    def find(self, calculation: Calculation, atoms: Atoms, *, failed: bool = False) -> Recorded | None:
        """Newest stored result of an identical calculation, or None.

        Identical means the same :meth:`Calculation.key`: geometry, constraints, kind, model, precision, settings.

        Parameters
        ----------
        calculation : Calculation
        atoms : Atoms
        failed : bool
            Also take results with an exit code other than 0.
        """
        from gracecli.store.results import find

        return find(self, calculation, atoms, failed=failed)

    def result(self, number: int) -> Recorded:
        """One result by its number."""
        from gracecli.store.results import read_result

        return read_result(self, number)

    @property
    def result_count(self) -> int:
        """How many results there are."""
        return self.commit.counts["result"]

    def why(self, name: int | str) -> Node | Step:
        """How structure ``12`` or result ``"r3"`` came about (:mod:`gracecli.store.lineage`)."""
        from gracecli.store.lineage import why

        return why(self, name)

    # --- sets ---------------------------------------------------------------------------------------------------------

    def set_names(self) -> list[str]:
        """Names of the sets; set number ``i + 1`` has name ``i``."""
        return [bytes(row).rstrip(b"\0").decode() for row in self.column("set_names/name")]

    def in_set(self, name: str) -> NDArray[np.bool_]:
        """Mask of the structures in a set: as added, then changed by the rows of /members in their order."""
        from gracecli.names import suggestion

        names = self.set_names()
        if name not in names:
            raise InputError(f"{self.path} has no set called {name!r}", suggestion(name, names))
        code = names.index(name) + 1
        mask = self.column("structure/set") == code
        rows = self.column("members/set") == code
        for structure, inside in zip(
            self.column("members/structure")[rows], self.column("members/op")[rows], strict=True
        ):
            mask[int(structure)] = bool(inside)
        return np.asarray(mask)


def _as_entry(atoms: Atoms) -> Entry:
    from gracecli.store.convert import as_entry  # imports ASE

    return as_entry(atoms)
