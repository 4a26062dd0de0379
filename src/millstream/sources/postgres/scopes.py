"""A backfill's scope as SQL: which rows, in which steps, and which rows of a topic the table does not have any more.

Everything is compared by the server, in the columns' own types and collations; keys by the operators of their index, in whose order they
come: a bare sign means another one for a type that is not the server's own. In every statement the table is `t`.
Reference: PostgreSQL 18, "Row and Array Comparisons", "Array Input and Output Syntax".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from psycopg import sql

from millstream.errors import Irrecoverable
from millstream.events.types import RowSchema, Type
from millstream.sources import condition as conditions
from millstream.sources.contract import Scope
from millstream.sources.names import TableName
from millstream.sources.postgres import keys
from millstream.sources.postgres.describe import Described
from millstream.sources.postgres.failures import STATEMENT
from millstream.sources.postgres.session import Session

CHEAP_COST = 20_000  # in the planner's units: a tenth of a second or two
_MODIFIER = re.compile(r"\([^)]*\)")
PLACE = "millstream place"
_SIGNS = ("<", "<=", "=", ">=", ">")


@dataclass(frozen=True)
class _KeyColumn:
    """`operators`: of the `_SIGNS`, as SQL writes those by which the key's index compares the column."""

    name: str
    sql_type: str
    type: Type
    operators: tuple[str, ...]

    def operator(self, sign: str) -> str:
        return self.operators[_SIGNS.index(sign)]


@contextmanager
def explained(scope: Scope, where: str) -> Iterator[None]:
    """What the server says of statements within that only a scope can be at fault for."""
    try:
        yield
    except Irrecoverable as error:
        if error.code != STATEMENT or scope.is_whole:
            raise
        raise conditions.refused(error.message, where, "ask again with what the database can compare with the table's columns") from None


def condition(scope: Scope, table: Described, session: Session) -> sql.Composable | None:
    """True of the scope's rows of `t`; None: of all. Raises Refused("bad_scope")."""
    where = f"{session.where} {table.name.written}"
    if scope.where is not None:
        read = conditions.condition(scope.where, [a.name for a in table.columns], where)
        if read.functions and (moody := _volatile(read.functions, session)):
            cure = "compare with a value instead; a function of your own that always answers alike can be declared STABLE or IMMUTABLE"
            raise conditions.refused(f"{', '.join(moody)} may answer differently for each row, or change something", where, cure)
        return sql.SQL("({})").format(sql.SQL(read.sql))
    key = _key(table)
    if scope.keys is not None:
        for given in scope.keys:
            if len(given) != len(key):
                raise conditions.refused(f"the key {','.join(given)} has not {len(key)} columns", where, f"give {_named(key)}")
        columns = {str(i): [k[i] for k in scope.keys] for i in range(len(key))}
        given_keys = pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()})
        equal = [k.operator("=") for k in key]
        return keys.condition([k.name for k in key], [_unbounded(k.sql_type) for k in key], keys.possible(given_keys), equal=equal)
    ends = [_end(end, key, sign, where) for end, sign in ((scope.first, ">="), (scope.last, "<=")) if end is not None]
    return sql.SQL(" AND ").join(ends) if ends else None


def _volatile(functions: Sequence[str], session: Session) -> list[str]:
    names = sql.SQL(", ").join(sql.Literal(f.lower()) for f in functions)
    asked = sql.SQL("SELECT DISTINCT proname::text FROM pg_proc WHERE provolatile = 'v' AND lower(proname) IN ({}) ORDER BY 1")
    return [name for (name,) in session.rows(asked.format(names))]


def _key(table: Described) -> list[_KeyColumn]:
    by_number = {a.number: a for a in table.columns}
    key = [(by_number[n], signs) for n, signs in zip(table.key, table.comparing or [()] * len(table.key), strict=True)]
    return [_KeyColumn(a.name, a.sql_type, a.type, signs if len(signs) == len(_SIGNS) else _SIGNS) for a, signs in key]


def order(table: Described) -> str:
    """What makes the order in which the table is read; lengths and names do not."""
    by_number = {a.number: a for a in table.columns}
    key = [(by_number[n], k.operators) for n, k in zip(table.key, _key(table), strict=True)]
    return "; ".join(" ".join([str(a.number), _unbounded(a.sql_type), a.collation, signs[0]]) for a, signs in key)


def _named(key: Sequence[_KeyColumn]) -> str:
    return ", ".join(a.name for a in key)


def _end(values: Sequence[str], key: Sequence[_KeyColumn], sign: str, where: str) -> sql.Composable:
    if len(values) > len(key):
        raise conditions.refused(f"{','.join(values)} has more columns than the key", where, f"give {_named(key)}, or the first of them")
    return _compared(values, key[: len(values)], sign)


def _compared(values: Sequence[Any], key: Sequence[_KeyColumn], sign: str) -> sql.Composable:
    names = [sql.Identifier("t", k.name) for k in key]
    given = [sql.SQL("CAST({} AS {})").format(sql.Literal(v), sql.SQL(_unbounded(k.sql_type))) for v, k in zip(values, key, strict=True)]
    operators = {k.operator(sign) for k in key}
    if len(operators) == 1:
        return sql.SQL("({}) {} ({})").format(sql.SQL(", ").join(names), sql.SQL(operators.pop()), sql.SQL(", ").join(given))
    # A comparison of rows has one operator: what it stands for, and first what of it an index can serve.
    bound = sql.SQL("{} {} {}").format(names[0], sql.SQL(key[0].operator(sign[0] + "=")), given[0])
    same: list[sql.Composable] = []
    ways = []
    for i, k in enumerate(key):
        last = sql.SQL("{} {} {}").format(names[i], sql.SQL(k.operator(sign if i == len(key) - 1 else sign[0])), given[i])
        ways.append(sql.SQL(" AND ").join([*same, last]))
        same.append(sql.SQL("{} {} {}").format(names[i], sql.SQL(k.operator("=")), given[i]))
    return sql.SQL("({} AND ({}))").format(bound, sql.SQL(" OR ").join(ways))


def _unbounded(sql_type: str) -> str:
    """Without its length or scale: a cast would cut what was given to it."""
    if '"' in sql_type:
        return sql_type
    bare = _MODIFIER.sub("", sql_type)
    return {"character": "bpchar", "bit": "bit varying"}.get(bare, bare)


def relation(name: TableName, *, partitioned: bool) -> sql.Composable:
    """What holds the rows. Those of tables that inherit from this one come in the stream as theirs; those of partitions as ours."""
    return sql.SQL("{}{}").format(sql.SQL("" if partitioned else "ONLY "), sql.Identifier(name.schema, name.table))


def _from(table: Described) -> sql.Composable:
    return sql.SQL("{} AS t").format(relation(table.name, partitioned=table.kind == "p"))


def _all_of(*parts: sql.Composable | None) -> sql.Composable:
    given = [p for p in parts if p is not None]
    return sql.SQL(" WHERE {}").format(sql.SQL(" AND ").join(given)) if given else sql.SQL("")


def _selected(
    table: Described, within: sql.Composable | None, after: list[Any] | None, upto: list[Any] | None, limit: int
) -> sql.Composable:
    key = _key(table)
    return sql.SQL("SELECT {} FROM {}{} ORDER BY {} LIMIT {}").format(
        sql.SQL(", ").join(sql.Identifier("t", a.name) for a in table.columns),
        _from(table),
        _all_of(
            None if after is None else _compared(after, key, ">"),
            None if upto is None else _compared(upto, key, "<="),
            within,
        ),
        sql.SQL(", ").join(sql.Identifier("t", a.name) for a in key),
        sql.Literal(limit),
    )


def rows_of(table: Described, within: sql.Composable | None, after: list[Any] | None, upto: list[Any] | None, limit: int) -> sql.Composable:
    """COPY the rows of `within` in key order, after one key and up to another."""
    return sql.SQL("COPY ({}) TO STDOUT").format(_selected(table, within, after, upto, limit))


def step(
    scope: Scope, within: sql.Composable | None, table: Described, after: list[Any] | None, limit: int, session: Session
) -> list[Any] | None:
    """The key up to which a chunk looks; None: to the end. A condition that few rows fulfil and no index serves would look through the
    whole table for one chunk, and the stream would wait: then at most `limit` rows are looked at."""
    if scope.where is None or _plan(_selected(table, within, after, None, limit), session)["Total Cost"] <= CHEAP_COST:
        return None
    key = _key(table)
    names = sql.SQL(", ").join(sql.Identifier("t", a.name) for a in key)
    found = session.rows(
        sql.SQL("SELECT {} FROM {}{} ORDER BY {} OFFSET {} LIMIT 1").format(
            sql.SQL(", ").join(sql.SQL("CAST({} AS text)").format(sql.Identifier("t", a.name)) for a in key),
            _from(table),
            _all_of(None if after is None else _compared(after, key, ">")),
            names,
            sql.Literal(limit - 1),
        )
    )
    return list(found[0]) if found else None


def estimate(scope: Scope, within: sql.Composable, table: Described, session: Session) -> int:
    """How many rows the planner expects; of a list how many keys it has."""
    plan = _plan(sql.SQL("SELECT 1 FROM {}{}").format(_from(table), _all_of(within)), session)
    return len(set(scope.keys)) if scope.keys is not None else int(plan["Plan Rows"])


def _plan(query: sql.Composable, session: Session) -> dict[str, Any]:
    (told,) = session.rows(sql.SQL("EXPLAIN (FORMAT JSON) {}").format(query))[0]
    plan: dict[str, Any] = (json.loads(told) if isinstance(told, str) else told)[0]["Plan"]
    return plan


def absent(table: Described, schema: RowSchema, rows: pa.RecordBatch, within: sql.Composable | None, scope: Scope) -> sql.Composable:
    """The places of those of `rows` that `within` takes in and whose exact key no row has."""
    key = _key(table)
    where = table.name.written
    if [a.name for a in key] != list(schema.key):
        raise conditions.refused(f"the key is ({_named(key)}) now, not ({', '.join(schema.key)})", where, "ask again")
    read = () if scope.where is None else conditions.condition(scope.where, schema.names, where).columns
    needed = {a.name: a for a in table.columns if a.name in {*schema.key, *read}}
    arrays = []
    for name, attribute in needed.items():
        try:
            arrays.append(keys.array(pa.chunked_array([rows.column(schema.names.index(name))]), attribute.sql_type))
        except ValueError:
            cure = "reconcile by another condition, by keys, a range or the whole table"
            raise conditions.refused(f"deleted rows are not compared by {name} {attribute.sql_type}", where, cure) from None
    places = sql.SQL("CAST({} AS bigint[])").format(sql.Literal("{" + ",".join(map(str, range(rows.num_rows))) + "}"))
    same = [sql.SQL("{} {} {}").format(sql.Identifier("x", k.name), sql.SQL(k.operator("=")), sql.Identifier("t", k.name)) for k in key]
    # A collation may call two texts equal, and -0 is equal to 0; the topic knows them as two keys.
    exact = [_exactly(k.name) for k in key if pa.types.is_string(k.type.arrow) or pa.types.is_floating(k.type.arrow)]
    there = sql.SQL("NOT EXISTS (SELECT 1 FROM {table} AS x WHERE {same})").format(
        table=relation(table.name, partitioned=table.kind == "p"),
        same=sql.SQL(" AND ").join([*same, *exact]),
    )
    return sql.SQL("SELECT {place} FROM unnest({arrays}) AS t ({names}){within}").format(
        place=sql.Identifier("t", PLACE),
        arrays=sql.SQL(", ").join([*arrays, places]),
        names=sql.SQL(", ").join(sql.Identifier(n) for n in [*needed, PLACE]),
        within=_all_of(there, within),
    )


def _exactly(name: str) -> sql.Composable:
    x, t = (sql.SQL('CAST({} AS text) COLLATE "C"').format(sql.Identifier(side, name)) for side in ("x", "t"))
    return sql.SQL("{} = {}").format(x, t)
