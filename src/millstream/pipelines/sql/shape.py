"""The shape of a row of the tables of Millstream SQL: what is said of an operator, and of a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from millstream.events.types import Kind, Type

Nulls = Literal["any", "skipped", "never", "own"]
"""Null if any argument is null; nulls are passed over, and it is null if all are; passed over, and it is never null; as the doc says."""

Form = Literal["any", "unit", "constant", "quoted", "pattern", "path", "format"]
"""How an argument must be written: a quoted name of UNITS; a whole number from 0 on; a text that is not empty; a regular expression; a
path into JSON; a format of dates."""


@dataclass(frozen=True)
class Signature:
    """What an operator's or function's arguments are cast to, and what comes out."""

    arguments: tuple[Type, ...]
    result: Type


@dataclass(frozen=True)
class Call:
    """One use of an operator or function, for a text that depends on it: the types of its arguments as cast, their texts in one
    engine, the quoted literals and whole numbers among them as written, and the type of the result."""

    types: tuple[Type, ...]
    texts: tuple[str, ...]
    words: tuple[str | None, ...]
    constants: tuple[int | None, ...]
    result: Type


Text = str | Callable[[Call], str | None]
"""An engine's text of a call: a template in which {0}, {1}… or {all} stand for the arguments and {type} for the result's type, or
what writes it; None: that engine has no such text."""


@dataclass(frozen=True)
class Operator:
    """`node` is sqlglot's name of it. `rule` gives None where the two types clash. `flink` None: not on Flink; `differs`: where its
    value there is another."""

    symbol: str
    node: str
    rule: Callable[[Type, Type], Signature | None]
    duckdb: str
    doc: str
    cure: str
    nulls: Nulls = "any"
    fails: str = "never"
    examples: tuple[tuple[str, str], ...] = ()
    flink: Text | None = None
    differs: str = ""


@dataclass(frozen=True)
class Argument:
    """`to`: what it is cast to. `most`: of a constant."""

    name: str
    kinds: frozenset[Kind]
    to: Type | None = None
    form: Form = "any"
    most: int = 38


@dataclass(frozen=True)
class Function:
    """`optional` counts the arguments at the end that may be left out; `variadic`: the last may be repeated.

    `common`: all arguments are cast to the type they share. `flink` None: not on Flink; `differs`: where its value there is another;
    `near`: floats whose last digits differ between machines.
    """

    name: str
    arguments: tuple[Argument, ...]
    result: Callable[[Sequence[Type], Sequence[int | None]], Type | None]
    duckdb: Text
    doc: str
    examples: tuple[tuple[str, str], ...]
    nulls: Nulls = "any"
    fails: str = "never"
    optional: int = 0
    variadic: bool = False
    common: bool = False
    flink: Text | None = None
    differs: str = ""
    near: bool = False

    @property
    def signature(self) -> str:
        words = [a.name for a in self.arguments]
        first = len(words) - self.optional
        shown = ", ".join(words[:first]) + "".join(f" [, {w}]" for w in words[first:])
        return f"{self.name}({shown}{', …' if self.variadic else ''})"


@dataclass(frozen=True)
class Sample:
    """Rows that an aggregate is tried on: `columns` are their names and types, `rows` literals of Millstream SQL.

    `arguments` and `order` name columns; `wanted` is DuckDB text of the value.
    """

    columns: tuple[tuple[str, Type], ...]
    rows: tuple[tuple[str, ...], ...]
    arguments: tuple[str, ...]
    wanted: str
    order: str = ""
    distinct: bool = False


@dataclass(frozen=True)
class Aggregate:
    """A value made of the rows of a group. `optional` counts the arguments at the end that may be left out (count(*) has none).

    `ordered`: its value depends on the order of rows, so the call must say a total one: f(x ORDER BY …). `distinct`: f(DISTINCT x)
    may be said. `over_none`: what it is over no row, and over rows whose arguments are null (a list keeps those). `duckdb` and
    `flink` are for `aggregates.text`, which says what may stand in them. `flink` None: only where a pipeline runs locally.
    """

    name: str
    arguments: tuple[Argument, ...]
    result: Callable[[Sequence[Type]], Type]
    duckdb: str
    flink: str | None
    doc: str
    examples: tuple[Sample, ...]
    over_none: Literal["null", "zero", "empty list"] = "null"
    fails: str = "never"
    cure: str = ""
    ordered: bool = False
    distinct: bool = False
    optional: int = 0

    @property
    def signature(self) -> str:
        words = ", ".join(a.name for a in self.arguments)
        return f"{self.name}({'[DISTINCT] ' if self.distinct else ''}{words}{' ORDER BY …' if self.ordered else ''})"
