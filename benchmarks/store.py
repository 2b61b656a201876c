"""Writing and reading labelled structures: the store beside extxyz, ASE's database, a group per structure in HDF5.

    python benchmarks/store.py                       # 100,000 structures of about 40 atoms in the store
    python benchmarks/store.py --count 10000 --json store-benchmark.json

All formats hold the same structures (numbers, positions, cell, energy, forces, stress); the slow ones fewer of them, as
the table says. *random* reads one structure at a time, in random order, each file freshly opened ("first touch": every
byte's checksum is compared) and again ("again"). *block* reads 512 neighbours at a time and shuffles inside, as
training does. *arrays* gives numbers, positions, cell, energy, forces; *Atoms* a structure with its labels attached.
ASE's database is read through one open connection, its fastest way, and as ``connect(path).get(id)`` for each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import h5py
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from gracecli.cli.output import Column, format_table
from gracecli.store.compact import compact
from gracecli.store.entry import Entry
from gracecli.store.store import Store

BLOCK = 512


def entries(count: int, seed: int = 0) -> Iterable[Entry]:
    """Structures of 30 to 50 atoms and three elements."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        size = int(rng.integers(30, 51))
        yield Entry(
            numbers=rng.choice([8, 14, 22], size),
            positions=rng.random((size, 3)) * 9,
            cell=np.eye(3) * 9,
            pbc=(True, True, True),
            energy=float(rng.normal()),
            free_energy=True,
            forces=rng.normal(size=(size, 3)),
            stress=rng.normal(size=6),
            method="PBE",
        )


def images(count: int) -> list[Atoms]:
    """The same for ASE."""
    found = []
    for entry in entries(count):
        atoms = Atoms(entry.numbers, positions=entry.positions, cell=entry.cell, pbc=True)
        results = {"energy": entry.energy, "free_energy": entry.energy, "forces": entry.forces, "stress": entry.stress}
        atoms.calc = SinglePointCalculator(atoms, **results)
        found.append(atoms)
    return found


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def per_second(read: Callable[[int], Any], numbers: Iterable[int]) -> float:
    """Structures per second."""
    order = [int(number) for number in numbers]

    def loop() -> None:
        for number in order:
            read(number)

    return len(order) / timed(loop)


def row(name: str, count: int, write: float | None, path: Path, **rates: float) -> dict[str, Any]:
    """One line of the table."""
    return {"format": name, "structures": count, "write": write, "bytes": path.stat().st_size / count, **rates}


def measure_store(path: Path, count: int, reads: int) -> list[dict[str, Any]]:
    """Hot, sealed, sealed with gzip."""
    every = list(entries(count))

    def fill() -> None:
        with Store(path, "a", durable=False) as store:
            store.append(every)

    write = count / timed(fill)
    rows = [row("store, hot", count, write, path, **read_store(path, count, reads))]
    packed = path.with_name("packed.h5")
    for name, gzip, target in (("store, sealed", False, path), ("store, sealed, gzip", True, packed)):
        seconds = timed(lambda gzip=gzip, target=target: compact(path, None if target == path else target, gzip=gzip))
        rows.append(
            row(name, count, count / seconds, target, **read_store(target, count, reads if not gzip else reads // 10))
        )
    return rows


def read_store(path: Path, count: int, reads: int) -> dict[str, float]:
    """Rates of one store."""
    rng = np.random.default_rng(1)
    order = rng.permutation(count)[:reads]
    with Store(path) as store:
        first = per_second(store.arrays, order)
        again = per_second(store.arrays, order)
    with Store(path) as store:
        objects = per_second(store.atoms, order[: max(reads // 10, 100)])
    with Store(path) as store:
        blocks = rng.permutation(count // BLOCK)[: max(20, reads // BLOCK)]
        block = len(blocks) * BLOCK / timed(lambda: [read_block(store, int(b), rng) for b in blocks])
    return {"random": first, "again": again, "atoms": objects, "block": block}


def read_block(store: Store, block: int, rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """512 neighbours, shuffled."""
    found = list(store.blocks(block * BLOCK, (block + 1) * BLOCK))
    return [found[i] for i in rng.permutation(len(found))]


def measure_groups(path: Path, count: int, reads: int) -> dict[str, Any]:
    """A group per structure with a dataset per quantity, as some training codes write."""

    def fill() -> None:
        with h5py.File(path, "w") as file:
            for number, entry in enumerate(entries(count)):
                group = file.create_group(f"config_{number}")
                for name in ("numbers", "positions", "cell", "energy", "forces", "stress"):
                    group[name] = getattr(entry, name)

    write = count / timed(fill)
    order = np.random.default_rng(1).permutation(count)[:reads]
    with h5py.File(path) as file:

        def read(number: int) -> tuple[Any, ...]:
            group = file[f"config_{number}"]
            return tuple(group[name][()] for name in ("numbers", "positions", "cell", "energy", "forces"))

        return row(
            "HDF5, group per structure",
            count,
            write,
            path,
            random=per_second(read, order),
            again=per_second(read, order),
        )


def measure_db(path: Path, count: int, reads: int) -> list[dict[str, Any]]:
    """ASE's SQLite database."""
    found = images(count)

    def fill() -> None:
        with ase.db.connect(path) as database:
            for atoms in found:
                database.write(atoms)

    write = count / timed(fill)
    order = np.random.default_rng(1).permutation(count)[:reads] + 1
    with ase.db.connect(path) as database:

        def arrays(number: int) -> tuple[Any, ...]:
            item = database.get(id=number)
            return item.numbers, item.positions, item.cell, item.energy, item.forces

        held = {"random": per_second(arrays, order), "again": per_second(arrays, order)}
        held["atoms"] = per_second(lambda number: database.get(id=number).toatoms(), order)

    def fresh(number: int) -> tuple[Any, ...]:
        item = ase.db.connect(path).get(id=number)
        return item.numbers, item.positions, item.cell, item.energy, item.forces

    plain = {"random": per_second(fresh, order), "again": per_second(fresh, order)}
    plain["atoms"] = per_second(lambda number: ase.db.connect(path).get(id=number).toatoms(), order)
    return [
        row("ASE db, one connection", count, write, path, **held),
        row("ASE db, connect().get()", count, None, path, **plain),
    ]


def measure_extxyz(path: Path, count: int, reads: int) -> dict[str, Any]:
    """Text, read by ASE."""
    found = images(count)
    write = count / timed(lambda: ase.io.write(path, found))
    order = np.random.default_rng(1).permutation(count)[:reads]
    rate = per_second(lambda number: ase.io.read(path, index=number), order)
    return row("extxyz", count, write, path, atoms=rate, block=count / timed(lambda: ase.io.read(path, ":")))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="structures in the store")
    parser.add_argument("--slow", type=int, default=2_000, help="structures in the other formats")
    parser.add_argument("--reads", type=int, default=20_000, help="random reads of the store")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        rows = measure_store(base / "store.h5", arguments.count, min(arguments.reads, arguments.count))
        rows.append(measure_groups(base / "groups.h5", arguments.slow, arguments.slow))
        rows += measure_db(base / "ase.db", arguments.slow, 500)
        rows.append(measure_extxyz(base / "all.extxyz", arguments.slow, 20))
    names = ("write", "random", "again", "atoms", "block")
    table = [
        (item["format"], item["structures"], *(item.get(name) for name in names), item["bytes"] / 1000) for item in rows
    ]
    heads: list[Column | str] = [
        "format", "structures", Column("write", "1/s", ",.0f"), Column("random", "arrays/s", ",.0f"),
        Column("again", "arrays/s", ",.0f"), Column("random", "Atoms/s", ",.0f"), Column("block", "1/s", ",.0f"),
        Column("size", "kB", ".2f"),
    ]  # fmt: skip
    print(format_table(heads, table))
    sealed = rows[1]
    ratios = {}
    for item in rows[4:6]:
        ratios[item["format"]] = {name: sealed[name] / item[name] for name in ("random", "again", "atoms")}
        text = ", ".join(f"{name} {value:.0f}x" for name, value in ratios[item["format"]].items())
        print(f"store, sealed / {item['format']}: {text}")
    if arguments.json:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        document = {
            "schema": "gracecli.benchmark.store",
            "schema_version": 1,
            "machine": machine,
            "rows": rows,
            "ratios": ratios,
        }
        units = {"write": "structure/s", "random": "structure/s", "again": "structure/s", "atoms": "structure/s"}
        document["_units"] = {**units, "block": "structure/s", "bytes": "byte/structure"}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
