"""A condition over one row's columns that means the same here and in the database: the `where` of a derived table.

Small on purpose: columns against literals, joined by AND, OR, NOT, with SQL's three truth values. It is read here, and written as SQL
for a database that can look at rows before they are sent; `filtering` evaluates it. Light: options are checked with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

GRAMMAR = "columns against literals: = <> < <= > >= IN, BETWEEN, IS [NOT] NULL, a boolean column alone, with AND, OR, NOT and brackets"
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")+")|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?!\w)"""
    r"""|(?P<word>[^\W\d]\w*)|(?P<op><>|!=|<=|>=|[<>=(),-]))"""
)
_WORDS = frozenset(("and", "or", "not", "in", "is", "null", "between", "true", "false"))


@dataclass(frozen=True)
class Value:
    """A literal as written: `text` of a string without its quotes."""

    kind: Literal["number", "string", "boolean"]
    text: str


@dataclass(frozen=True)
class Compare:
    column: str
    op: str
    value: Value


@dataclass(frozen=True)
class OneOf:
    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class IsNull:
    column: str


@dataclass(frozen=True)
class IsTrue:
    """A boolean column that stands alone."""

    column: str


@dataclass(frozen=True)
class Not:
    of: Condition


@dataclass(frozen=True)
class Every:
    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Either:
    parts: tuple[Condition, ...]


Leaf = Compare | OneOf | IsNull | IsTrue
Condition = Leaf | Not | Every | Either
OPS = ("=", "<>", "<", "<=", ">", ">=")
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def parse(text: str) -> Condition:
    """Raises ValueError that says what is wrong, and where."""
    return _Parser(text).whole()


def leaves(condition: Condition) -> Iterator[Leaf]:
    match condition:
        case Not(of):
            yield from leaves(of)
        case Every(parts) | Either(parts):
            for part in parts:
                yield from leaves(part)
        case _:
            yield condition


def columns_of(condition: Condition | None) -> tuple[str, ...]:
    """The names of the columns that it reads."""
    return () if condition is None else tuple(dict.fromkeys(leaf.column for leaf in leaves(condition)))


# ---- reading


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise ValueError(f"the condition cannot be read at {text[at:].strip()[:20]!r}; it may have {GRAMMAR}")
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()
        self._at = 0

    def whole(self) -> Condition:
        found = self._any()
        if self._at < len(self._tokens):
            raise self._wrong()
        return found

    def _wrong(self, why: str = "") -> ValueError:
        here = repr(self._tokens[self._at][1]) if self._at < len(self._tokens) else "its end"
        return ValueError(f"the condition cannot be read at {here}: {why or 'it may have ' + GRAMMAR}")

    def _is(self, *words: str) -> bool:
        """Take these words, where they come next."""
        found = self._tokens[self._at : self._at + len(words)]
        if len(found) == len(words) and all(k in ("word", "op") and t.lower() == w for (k, t), w in zip(found, words, strict=True)):
            self._at += len(words)
            return True
        return False

    def _need(self, word: str) -> None:
        if not self._is(word):
            raise self._wrong(f"here stands {word.upper()}")

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._is("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _all(self) -> Condition:
        parts = [self._not()]
        while self._is("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def _not(self) -> Condition:
        if self._is("not"):
            return Not(self._not())
        if self._is("("):
            found = self._any()
            self._need(")")
            return found
        return self._leaf()

    def _leaf(self) -> Condition:
        column = self._column()
        if column is None:  # 5 < n
            value = self._value()
            op = self._op()
            column = self._column()
            if op is None or column is None:
                raise self._wrong()
            return Compare(column, _TURNED.get(op, op), value)
        if (op := self._op()) is not None:
            return Compare(column, op, self._value())
        if self._is("is"):
            negated = self._is("not")
            self._need("null")
            return Not(IsNull(column)) if negated else IsNull(column)
        negated = self._is("not")
        if self._is("in"):
            self._need("(")
            values = [self._value()]
            while self._is(","):
                values.append(self._value())
            self._need(")")
            among = OneOf(column, tuple(values))
            return Not(among) if negated else among
        if self._is("between"):
            low = self._value()
            self._need("and")
            between = Every((Compare(column, ">=", low), Compare(column, "<=", self._value())))
            return Not(between) if negated else between
        if negated:
            raise self._wrong()
        return IsTrue(column)

    def _column(self) -> str | None:
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if kind == "quoted":
            self._at += 1
            return text[1:-1].replace('""', '"')
        if kind == "word" and text.lower() not in _WORDS:
            self._at += 1
            return text.lower()  # as PostgreSQL and CockroachDB read it
        return None

    def _op(self) -> str | None:
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        text = "<>" if text == "!=" else text
        if kind == "op" and text in OPS:
            self._at += 1
            return text
        return None

    def _value(self) -> Value:
        negative = self._is("-")
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if kind == "number":
            self._at += 1
            return Value("number", f"-{text}" if negative else text)
        if negative:
            raise self._wrong("a number comes after -")
        if kind == "string":
            self._at += 1
            return Value("string", text[1:-1].replace("''", "'"))
        if kind == "word" and text.lower() in ("true", "false"):
            self._at += 1
            return Value("boolean", text.lower())
        if kind == "word" and text.lower() == "null":
            raise self._wrong("nothing is equal to NULL; write IS NULL or IS NOT NULL")
        raise self._wrong("here stands a literal: a number, a 'string', true or false")


# ---- writing


def sql(condition: Condition, named: Callable[[str], str]) -> str:
    """As SQL; `named` writes a column."""
    match condition:
        case Compare(column, op, value):
            return f"{named(column)} {op} {written(value)}"
        case OneOf(column, values):
            return f"{named(column)} IN ({', '.join(map(written, values))})"
        case IsNull(column):
            return f"{named(column)} IS NULL"
        case IsTrue(column):
            return named(column)
        case Not(of):
            return f"NOT ({sql(of, named)})"
        case Every(parts):
            return " AND ".join(f"({sql(p, named)})" for p in parts)
        case Either(parts):
            return " OR ".join(f"({sql(p, named)})" for p in parts)


def written(value: Value) -> str:
    """A literal as SQL."""
    return "'" + value.text.replace("'", "''") + "'" if value.kind == "string" else value.text
