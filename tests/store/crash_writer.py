"""Appends structures to a store without pause until it is killed; every structure proves itself.

crash_writer.py STORE WRITER COUNT
"""

import sys

import numpy as np

from gracecli.store.entry import Entry
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


def main():
    path, writer, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with Store(path, "a", durable=False, wait=120) as store:
        number = 0
        while number < count:
            size = 1 + number % 7
            store.append([structure(writer, n) for n in range(number, number + size)], set_name=f"writer {writer}")
            number += size
            print(number, flush=True)  # acknowledged


if __name__ == "__main__":
    main()
