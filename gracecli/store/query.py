"""``elements=Si,Ge and natoms<50 and energy_per_atom<-3 and set=train``: a small language, compiled to masks.

Grammar (``and`` binds tighter than ``or``)::

    expression = term {"or" term}        term = factor {"and" factor}
    factor     = "not" factor | "(" expression ")" | FIELD OPERATOR VALUE
    OPERATOR   = "=" | "!=" | "<" | "<=" | ">" | ">="        VALUE = word or 'quoted text'; lists with commas

========================== ==========================================================================================
field                      meaning
========================== ==========================================================================================
id                         number of the structure; lists and ranges: ``id=3,5,8..10``
natoms, nelements          counts; an element symbol is the number of its atoms: ``Si>=2``
elements                   ``=`` exactly these, ``>=`` at least these, ``<=`` none but these
formula                    composition, whatever the number of formula units: ``formula=SiO2``
energy, energy_per_atom    eV
fmax                       largest force, eV/Å
volume, volume_per_atom    Å^3
pressure                   GPa, positive under compression, from the stress label
set                        name of a set
has                        labels: energy, forces, stress, magmoms, charges, velocities, fixed, free_energy
method, source, info.KEY   text of the structure (``*`` and ``?`` match anything), or a number of its info
========================== ==========================================================================================

Structures without the value of a field never match a comparison with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gracecli.errors import UsageError
from gracecli.names import suggestion
from gracecli.store.schema import PRESENT_NAMES

if TYPE_CHECKING:
    from gracecli.store.store import Store

Mask = NDArray[np.bool_]
_SYMBOLS = """
X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr
Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir
Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl
Mc Lv Ts Og
"""
SYMBOLS = _SYMBOLS.split()
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)}
KBAR = 1602.1766208  # eV/Å^3 in kB; / 10 in GPa
_TOKEN = re.compile(r"\s*(?:(\(|\))|(<=|>=|!=|=|<|>)|'([^']*)'|\"([^\"]*)\"|([^\s()=<>!'\"]+))")
_NUMERIC = ("natoms", "nelements", "energy", "energy_per_atom", "fmax", "volume", "volume_per_atom", "pressure")
FIELDS = ("id", *_NUMERIC, "elements", "formula", "set", "has", "method", "source", "info.KEY")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


@dataclass(frozen=True)
class Comparison:
    """``field operator value``."""

    field: str
    operator: str
    value: str


@dataclass(frozen=True)
class Logical:
    """``and``, ``or``, ``not`` of expressions."""

    word: str
    parts: tuple[Any, ...]


def select(store: Store, expression: str) -> NDArray[np.int64]:
    """Numbers of the structures that ``expression`` selects; all for an empty one.

    Raises
    ------
    UsageError
        The expression does not parse, or names an unknown field.
    """
    if not expression.strip():
        return np.arange(len(store))
    return np.flatnonzero(_evaluate(parse(expression), store))


def parse(text: str) -> Comparison | Logical:
    """Tree of an expression."""
    tokens, position = [], 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            raise UsageError(
                f"query {text!r}: cannot read {text[position:].strip()!r}", "quote values with spaces: 'a b'"
            )
        bracket, operator, single, double, word = match.groups()
        quoted = single if single is not None else double
        if quoted is not None:
            tokens.append(("value", quoted))
        else:
            tokens.append(("mark", bracket or operator) if bracket or operator else ("word", word))
        position = match.end()
    parser = _Parser(tokens, text)
    tree = parser.any_of()
    if parser.tokens:
        raise parser.wrong(f"{parser.tokens[0][1]!r} is one too many")
    return tree


class _Parser:
    """Recursive descent, one method per rule of the grammar."""

    def __init__(self, tokens: list[tuple[str, str]], text: str) -> None:
        self.tokens, self.text = tokens, text

    def wrong(self, what: str) -> UsageError:
        return UsageError(f"query {self.text!r}: {what}", "such as: elements=Si,Ge and natoms<50")

    def next(self, expected: str) -> tuple[str, str]:
        if not self.tokens:
            raise self.wrong(f"{expected} is missing at the end")
        return self.tokens.pop(0)

    def take(self, word: str) -> bool:
        if self.tokens and self.tokens[0] in (("word", word), ("word", word.upper()), ("mark", word)):
            self.tokens.pop(0)
            return True
        return False

    def any_of(self) -> Comparison | Logical:
        parts = [self.all_of()]
        while self.take("or"):
            parts.append(self.all_of())
        return parts[0] if len(parts) == 1 else Logical("or", tuple(parts))

    def all_of(self) -> Comparison | Logical:
        parts = [self.factor()]
        while self.take("and"):
            parts.append(self.factor())
        return parts[0] if len(parts) == 1 else Logical("and", tuple(parts))

    def factor(self) -> Comparison | Logical:
        if self.take("not"):
            return Logical("not", (self.factor(),))
        if self.take("("):
            inner = self.any_of()
            if not self.take(")"):
                raise self.wrong("a closing bracket is missing")
            return inner
        kind, name = self.next("a condition")
        if kind != "word":
            raise self.wrong(f"{name!r} where the name of a field is expected")
        if re.fullmatch(r"[\d.,]+", name):
            return Comparison("id", "=", name)
        kind, operator = self.next(f"an operator after {name!r}")
        if kind != "mark" or operator not in _COMPARE:
            raise self.wrong(f"{operator!r} after {name!r}, where one of {' '.join(_COMPARE)} is expected")
        kind, value = self.next(f"a value after {name}{operator}")
        if kind == "mark":
            raise self.wrong(f"{value!r} where the value of {name} is expected")
        return Comparison(name, operator, value)


def _evaluate(tree: Comparison | Logical, store: Store) -> Mask:
    if isinstance(tree, Comparison):
        return _compare(tree, store)
    masks = [_evaluate(part, store) for part in tree.parts]
    if tree.word == "not":
        return ~masks[0]
    combine = np.logical_and if tree.word == "and" else np.logical_or
    return np.asarray(combine.reduce(masks))


def _compare(item: Comparison, store: Store) -> Mask:
    name = item.field
    if name in _NUMERIC or name in NUMBERS:
        values = _numbers(name, store)
        with np.errstate(invalid="ignore"):
            return np.asarray(_COMPARE[item.operator](values, _number(item)) & ~np.isnan(values))
    if name == "elements":
        return _elements(item, store)
    if name in ("method", "source") or name.startswith("info."):
        return _text(item, store)
    equal: dict[str, Callable[[Store, str], Mask]] = {"id": _ids, "formula": _formula, "set": _in_sets, "has": _has}
    if name not in equal:
        raise UsageError(
            f"no field is called {name!r}", suggestion(name, FIELDS, otherwise=f"fields: {', '.join(FIELDS)}")
        )
    if item.operator in ("=", "!="):
        mask = equal[name](store, item.value)
        return mask if item.operator == "=" else ~mask
    if name == "id":
        return np.asarray(_COMPARE[item.operator](np.arange(len(store)), _number(item)))
    raise UsageError(f"{name} can be compared with = and != only, not {item.operator}")


def _number(item: Comparison) -> float:
    try:
        return float(item.value)
    except ValueError as error:
        raise UsageError(f"{item.field}{item.operator}{item.value}: {item.value!r} is not a number") from error


def counts(store: Store) -> NDArray[np.uint32]:
    """Number of atoms of every element (columns, by atomic number) in every structure (rows)."""
    ends = store.column("structure/comp_ofs").astype(int)
    table = np.zeros((len(store), 119), np.uint32)
    rows = np.repeat(np.arange(len(store)), np.diff(ends))
    table[rows, store.column("composition/Z")] = store.column("composition/n")
    return table


def _numbers(name: str, store: Store) -> NDArray[np.float64]:
    natoms = store.column("structure/natoms").astype(float)
    if name == "natoms":
        return natoms
    if name in NUMBERS:
        return counts(store)[:, NUMBERS[name]].astype(float)
    if name == "nelements":
        return np.diff(store.column("structure/comp_ofs").astype(float))
    if name in ("energy", "energy_per_atom"):
        energy = np.asarray(store.column("structure/energy"))
        return energy if name == "energy" else energy / natoms
    if name == "fmax":
        return np.asarray(store.column("index/fmax"))
    if name == "pressure":
        return np.asarray(-store.column("structure/stress")[:, :3].mean(axis=1) * KBAR / 10)
    volume = np.abs(np.linalg.det(store.column("structure/cell")))
    volume[(volume == 0) | (store.column("structure/pbc") != 7)] = np.nan
    return np.asarray(volume if name == "volume" else volume / natoms)


def _elements(item: Comparison, store: Store) -> Mask:
    wanted = np.zeros(119, dtype=bool)
    for symbol in item.value.split(","):
        if symbol not in NUMBERS:
            raise UsageError(f"elements: {symbol!r} is not an element", suggestion(symbol, SYMBOLS, otherwise=""))
        wanted[NUMBERS[symbol]] = True
    has = counts(store) > 0
    if item.operator in ("=", "!="):
        return np.asarray((has == wanted).all(axis=1) == (item.operator == "="))
    if item.operator == ">=":
        return np.asarray(has[:, wanted].all(axis=1))
    if item.operator == "<=":
        return np.asarray(~has[:, ~wanted].any(axis=1))
    raise UsageError(f"elements{item.operator} has no meaning", "use = (exactly), >= (at least) or <= (none but)")


def _formula(store: Store, value: str) -> Mask:
    if not re.fullmatch(r"([A-Z][a-z]?\d*)+", value):
        raise UsageError(f"formula={value}: not a formula", "such as formula=SiO2")
    wanted = np.zeros(119)
    for symbol, number in re.findall(r"([A-Z][a-z]?)(\d*)", value):
        if symbol not in NUMBERS:
            raise UsageError(f"formula={value}: {symbol!r} is not an element")
        wanted[NUMBERS[symbol]] += int(number or 1)
    table = counts(store).astype(float)
    return np.asarray((table * wanted.sum() == wanted * table.sum(axis=1, keepdims=True)).all(axis=1))


def _ids(store: Store, value: str) -> Mask:
    mask = np.zeros(len(store), dtype=bool)
    for part in value.split(","):
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", part)
        if match is None:
            raise UsageError(f"id={value}: {part!r} is neither a number nor a range such as 3..7")
        first = int(match.group(1))
        last = int(match.group(2) or first)
        if last >= len(mask):
            raise UsageError(f"id={value}: the last structure is {len(mask) - 1}")
        mask[first : last + 1] = True
    return mask


def _in_sets(store: Store, value: str) -> Mask:
    return np.asarray(np.logical_or.reduce([store.in_set(name) for name in value.split(",")]))


def _has(store: Store, value: str) -> Mask:
    bits = 0
    for name in value.split(","):
        if name not in PRESENT_NAMES:
            raise UsageError(f"has={name}: no such label", suggestion(name, PRESENT_NAMES))
        bits |= PRESENT_NAMES[name]
    return np.asarray((store.column("structure/present") & np.uint64(bits)) == bits)


def _text(item: Comparison, store: Store) -> Mask:
    """Fields of the JSON: slow, one document after the other."""
    from gracecli.store.entry import decode

    mask = np.zeros(len(store), dtype=bool)
    for index in range(len(store)):
        document = store.document(index)
        if item.field.startswith("info."):
            value = decode(document.get("info", {}).get(item.field[5:]))
        else:
            value = document.get(item.field)
        if value is None:
            continue
        if isinstance(value, int | float | np.number) and not isinstance(value, bool):
            mask[index] = bool(_COMPARE[item.operator](value, _number(item)))
        elif item.operator in ("=", "!="):
            mask[index] = fnmatchcase(str(value), item.value) == (item.operator == "=")
    return mask
