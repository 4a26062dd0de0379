"""A person's condition over a table's columns, as their database reads it: `backfill start --where`.

It is taken apart and put together again, so that what reaches the server is one condition over this table's columns and nothing
else, whatever was written. What the server alone knows (types, how a function behaves) the server is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from millstream.errors import Refused

_NOT_OF_ONE_ROW = (
    (exp.Query, "asks another table or itself"),
    (exp.Exists, "asks another table or itself"),
    (exp.AggFunc, "is about many rows"),
    (exp.Window, "is about many rows"),
    (exp.Placeholder, "has a parameter"),
    (exp.Parameter, "has a parameter"),
)
CURE = "write one condition over the table's own columns, in the database's SQL: \"status = 'open' AND amount > 10\""


@dataclass(frozen=True)
class Condition:
    """`sql` with every identifier quoted; the `columns` that it reads; the `functions` that it calls, as they are written."""

    sql: str
    columns: tuple[str, ...]
    functions: tuple[str, ...]


def condition(text: str, columns: Sequence[str], where: str) -> Condition:
    """Read `text` over a table's `columns`, in PostgreSQL's words. Raises Refused("bad_scope")."""
    try:
        tree = sqlglot.parse_one(text, read="postgres", into=exp.Condition)
    except SqlglotError:
        raise refused(f"{text!r} is no condition", where, CURE) from None
    for kind, why in _NOT_OF_ONE_ROW:
        if tree.find(kind) is not None:
            raise refused(f"the condition {why}", where, CURE)
    read: list[str] = []
    for column in tree.find_all(exp.Column):
        name = column.this
        if column.parts[:-1] or not isinstance(name, exp.Identifier):
            raise refused(f"{column.sql(dialect='postgres')} is no column of the table alone", where, "name columns without their table")
        if not name.quoted:
            name.set("this", name.this.lower())  # as PostgreSQL and CockroachDB read it
        if name.this not in columns:
            raise refused(f"there is no column {name.this}", where, _among(name.this, columns))
        read.append(name.this)
    sql = tree.sql(dialect="postgres", identify=True, comments=False)
    return Condition(sql, tuple(dict.fromkeys(read)), _called(sql))


def refused(what: str, where: str, cure: str) -> Refused:
    return Refused(what, code="bad_scope", where=where, cure=cure)


def _among(name: str, columns: Sequence[str]) -> str:
    same = [c for c in columns if c.lower() == name.lower()]
    return f'write "{same[0]}", with the quotes' if same else f"the table's columns: {', '.join(columns)}"


def _called(sql: str) -> tuple[str, ...]:
    """What stands before an opening bracket and may be a function's name."""
    tokens = sqlglot.tokenize(sql, read="postgres")
    named = (
        t.text
        for t, after in pairwise(tokens)
        if after.token_type == TokenType.L_PAREN and t.text and (t.text[0].isalpha() or t.text[0] == "_")
    )
    return tuple(dict.fromkeys(named))
