"""How a table's rows are found: names → places in a row, and of a WHERE what the primary key can be looked up by.

A row that an expression sees is the stored tuple, as wide as the table's columns, with the time of its writing behind it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from millstream.testing.cockroach import functions, grammar_schema
from millstream.testing.cockroach.descriptors import Column, Descriptor, Row
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.expressions import Compiled, Compiler, Env, Run
from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.syntax import Binary, Call, Expression, In, Name, Reference, Star, Tuple
from millstream.testing.cockroach.tables import Table
from millstream.testing.cockroach.transactions import Found, Transaction
from millstream.testing.cockroach.types import DECIMAL, SqlType

MVCC = "crdb_internal_mvcc_timestamp"


class Scope:
    """The columns of one table in a statement, and beside them those of `excluded` at `width + 1` and on, where that is asked for."""

    def __init__(self, descriptor: Descriptor, alias: str | None, version: str, named: Callable[[Name], SqlType], *,
                 excluded: bool = False) -> None:  # fmt: skip
        self.descriptor = descriptor
        self.names = {alias or descriptor.name}
        self.width = width_of(descriptor)
        self.excluded = excluded
        self.compiler = Compiler(self.resolve, version, named)

    def resolve(self, table: str | None, name: str) -> Compiled:
        offset = 0
        if table is not None and table not in self.names:
            if not (self.excluded and table == "excluded"):
                raise SqlError("42P01", f"no data source matches prefix: {table} in this context")
            offset = self.width + 1
        column = self.descriptor.column(name)
        if column is None:
            if name == MVCC:
                width = self.width
                return Compiled(DECIMAL, lambda row, env: Decimal(str(row[width])))
            raise SqlError("42703", f'column "{name}" does not exist')
        return self.column(column, offset)

    def column(self, column: Column, offset: int = 0) -> Compiled:
        if self.descriptor.buckets and column.name == self.descriptor.key[0]:
            buckets = self.descriptor.buckets
            by_name = {c.name: c.id - 1 + offset for c in self.descriptor.columns}
            of = [by_name[name] for name in self.descriptor.key[1:]]
            return Compiled(column.kind, lambda row, env: functions.shard(tuple(row[place] for place in of), buckets))
        if column.virtual and column.computed is not None and not offset:
            return Compiled(column.kind, self.compiler.into(grammar_schema.expression(column.computed), column.kind, column.name))
        place = column.id - 1 + offset
        return Compiled(column.kind, lambda row, env: row[place])


def width_of(descriptor: Descriptor) -> int:
    return descriptor.column_id_last


def padded(row: Row, width: int) -> Row:
    return row if len(row) == width else (*row, *(None,) * (width - len(row)))


def seen(row: Row, width: int, at: Hlc) -> tuple[Any, ...]:
    """A stored row as expressions see it."""
    return (*row, at) if len(row) == width else (*row, *(None,) * (width - len(row)), at)


def walk(of: Any) -> Iterator[Expression]:
    """An expression and all within it."""
    if isinstance(of, Expression):
        yield of
        for field in dataclasses.fields(of):  # type: ignore[arg-type]
            yield from walk(getattr(of, field.name))
    elif isinstance(of, tuple):
        for one in of:
            yield from walk(one)


def is_fixed(of: Expression) -> bool:
    """The same for every row."""
    return not any(isinstance(e, Reference | Star) or (isinstance(e, Call) and e.name in functions.VOLATILE) for e in walk(of))


def conjuncts(where: Expression | None) -> Iterator[Expression]:
    if isinstance(where, Binary) and where.op == "and":
        yield from conjuncts(where.left)
        yield from conjuncts(where.right)
    elif where is not None:
        yield where


@dataclass(frozen=True)
class Bound:
    runs: tuple[Run, ...]
    strictly: bool


@dataclass(frozen=True)
class Access:
    """`points`: for each place in the key the values it may have; else a range of ranks after the `fixed` first members."""

    points: tuple[tuple[Run, ...], ...] | None
    fixed: tuple[Run, ...]
    low: Bound | None
    high: Bound | None
    filter: Run | None
    width: int
    buckets: int | None

    def rows(self, transaction: Transaction, table: Table, env: Env) -> Iterator[Found]:
        """The rows that pass, in index order: (key, row as stored, written at)."""
        for found in self._candidates(transaction, table, env):
            if self.filter is None or self.filter(seen(found[1], self.width, found[2]), env):
                yield found

    def _candidates(self, transaction: Transaction, table: Table, env: Env) -> Iterator[Found]:
        if self.points is not None:
            choices = [[run(None, env) for run in runs] for runs in self.points]
            keys: set[tuple[Any, ...]] = {()}
            for choice in choices:
                keys = {(*k, v) for k in keys for v in choice if v is not None}
            if self.buckets:
                keys = {(functions.shard(k, self.buckets), *k) for k in keys}
            ordered = keys if len(keys) < 2 else sorted(keys, key=table.generations[-1].rank)
            yield from (found for key in ordered if (found := transaction.get(table, key)) is not None)
            return
        generation = table.generation(transaction.read_at)
        if generation is None:
            return
        start = tuple(run(None, env) for run in self.fixed)
        low = None if self.low is None else tuple(run(None, env) for run in self.low.runs)
        high = None if self.high is None else tuple(run(None, env) for run in self.high.runs)
        if None in start or None in (low or ()) or None in (high or ()):
            return
        low_rank = generation.rank((*start, *low)) if low is not None else generation.rank(start) if start else None
        high_rank = generation.rank((*start, *high)) if high is not None else generation.rank(start) if start else None
        yield from transaction.scan(table, low_rank, high_rank, after=self.low is not None and self.low.strictly,
                                    through=self.high is None or not self.high.strictly)  # fmt: skip


def plan(scope: Scope, where: Expression | None) -> Access:
    """What of `where` the key answers; all of it is asked of each row as well."""
    descriptor, compiler = scope.descriptor, scope.compiler
    key = [c for c in descriptor.key_columns if not (descriptor.buckets and c is descriptor.key_columns[0])]
    # A point is found by what Python calls equal, which no NaN is to itself.
    pointed = [c for c in key if c.kind.kind not in ("float", "decimal")]
    kept = compiler.condition(where) if where is not None else None
    equal: dict[str, tuple[Run, ...]] = {}
    bounds: dict[str, Bound] = {}
    for part in conjuncts(where):
        _equality(scope, part, pointed, equal)
        if not descriptor.buckets and not descriptor.descending:
            _bound(scope, part, key, bounds)
    width, buckets = scope.width, descriptor.buckets
    if key and all(c.name in equal for c in key):
        return Access(tuple(equal[c.name] for c in key), (), None, None, kept, width, buckets)
    fixed: list[Run] = []
    for column in key if not descriptor.buckets else ():
        if column.name not in equal or len(equal[column.name]) != 1:
            break
        fixed.append(equal[column.name][0])
    low, high = bounds.get("low 0"), bounds.get("high 0")
    if fixed:
        low, high = bounds.get(f"low {len(fixed)}"), bounds.get(f"high {len(fixed)}")
    return Access(None, tuple(fixed), low, high, kept, width, buckets)


def _key_value(scope: Scope, of: Expression, column: Column) -> Run | None:
    """How a fixed expression is compared with a key column, where the comparison is one of the column's own values."""
    if not is_fixed(of):
        return None
    found = scope.compiler.pair(Reference(None, column.name), of, None)[1]
    same = found.type.kind == column.kind.kind and column.kind.kind not in ("array", "citext")
    return found.run if same else None


def _column(of: Expression, key: list[Column], names: set[str]) -> Column | None:
    if isinstance(of, Reference) and (of.table is None or of.table in names):
        return next((c for c in key if c.name == of.name), None)
    return None


def _equality(scope: Scope, part: Expression, key: list[Column], into: dict[str, tuple[Run, ...]]) -> None:
    if isinstance(part, Binary) and part.op == "=":
        for one, other in ((part.left, part.right), (part.right, part.left)):
            column = _column(one, key, scope.names)
            run = _key_value(scope, other, column) if column is not None else None
            if column is not None and run is not None:
                into[column.name] = (run,)
    elif isinstance(part, In) and (column := _column(part.of, key, scope.names)) is not None:
        runs = [_key_value(scope, among, column) for among in part.among]
        if all(r is not None for r in runs):
            into[column.name] = tuple(r for r in runs if r is not None)


_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


def _bound(scope: Scope, part: Expression, key: list[Column], into: dict[str, Bound]) -> None:
    """`k > x`, `(k1, k2) > (x, y)` and the like, under "low n" or "high n" for the place n in the key at which they begin."""
    if not isinstance(part, Binary) or part.op not in _TURNED:
        return
    for op, one, other in ((part.op, part.left, part.right), (_TURNED[part.op], part.right, part.left)):
        left = one.items if isinstance(one, Tuple) else (one,)
        right = other.items if isinstance(other, Tuple) else (other,)
        columns = [_column(e, key, scope.names) for e in left]
        if len(left) != len(right) or columns[0] is None:
            continue
        place = key.index(columns[0])
        if columns != key[place : place + len(columns)] or (len(left) > 1 and place):
            continue
        runs = [_key_value(scope, e, c) for e, c in zip(right, columns, strict=True) if c is not None]
        if all(r is not None for r in runs):
            side = "low" if op in (">", ">=") else "high"
            into[f"{side} {place}"] = Bound(tuple(r for r in runs if r is not None), op in ("<", ">"))
            return
