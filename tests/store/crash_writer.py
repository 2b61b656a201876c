"""Appends structures to a store without pause until it is killed; every structure proves itself.

crash_writer.py STORE WRITER COUNT
"""

import sys

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from gracecli.store.entry import Entry
from gracecli.store.results import Calculation, Outcome
from gracecli.store.store import Store


def structure(writer, number):
    """A structure that is a function of who wrote it and when."""
    rng = np.random.default_rng([writer, number])
    size = int(rng.integers(1, 60))
    return Entry(
        numbers=rng.integers(1, 90, size),
        positions=rng.normal(size=(size, 3)) * 5,
        cell=np.eye(3) * 20 + rng.normal(size=(3, 3)),
        pbc=(True, True, True),
        energy=float(rng.normal()),
        forces=rng.normal(size=(size, 3)),
        stress=rng.normal(size=6),
        magmoms=rng.normal(size=size) if number % 5 == 0 else None,
        info={"writer": writer, "number": number},
    )


RESULTS = 3


def calculation(writer, number, k):
    """What the k-th result of a structure claims to be."""
    return Calculation("relax", "toy", "ab" * 32, {"writer": writer, "number": number, "k": k})


def relaxed(writer, number, k):
    """Structure that comes out of it."""
    rng = np.random.default_rng([writer, number, k, 1])
    atoms = Atoms("Cu2", positions=rng.normal(size=(2, 3)), cell=np.eye(3) * 9, pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=float(rng.normal()), forces=rng.normal(size=(2, 3)))
    return atoms


def value(writer, number, k):
    """Array among its values."""
    return np.random.default_rng([writer, number, k, 2]).normal(size=(3, 7))


def start(writer, number):
    """Structure that it starts from."""
    positions = np.random.default_rng([writer, number, 3]).random((2, 3)) * 9
    return Atoms("Cu2", positions=positions, cell=np.eye(3) * 9, pbc=True)


def result(writer, number, k):
    values = {"writer": writer, "number": number, "k": k, "array": value(writer, number, k)}
    return Outcome(calculation(writer, number, k), start(writer, number), values, relaxed(writer, number, k))


def main():
    path, writer, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with Store(path, "a", durable=False, wait=120) as store:
        number = 0
        while number < count:
            size = 1 + number % 7
            store.append([structure(writer, n) for n in range(number, number + size)], set_name=f"writer {writer}")
            if number % 3 == 0:  # three results of the first of them, in one commit
                store.record_many([result(writer, number, k) for k in range(RESULTS)], argv=["writer", str(writer)])
            number += size
            print(number, flush=True)  # acknowledged


if __name__ == "__main__":
    main()
