"""INSERT, UPSERT, UPDATE and DELETE: what becomes of the rows, and what is refused.

A statement is compiled once for a table as it is and then run with parameters; session.py keeps what was compiled.
Reference: CockroachDB 26.1, "INSERT", "UPSERT", "UPDATE", "DELETE".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from millstream.testing.cockroach import access, functions, grammar_schema, queries, types
from millstream.testing.cockroach.descriptors import Column, Descriptor, Key, Row
from millstream.testing.cockroach.errors import SqlError, not_modelled
from millstream.testing.cockroach.expressions import Compiled, Compiler, Env, Run, no_columns
from millstream.testing.cockroach.syntax import Conflict, Delete, Expression, Insert, Item, Name, Order, Reference, Select, Star, Update
from millstream.testing.cockroach.tables import Table
from millstream.testing.cockroach.transactions import Found, Transaction

Find = Callable[[Name], tuple[Table, Descriptor]]
Named = Callable[[Name], types.SqlType]


@dataclass(frozen=True)
class Write:
    """A compiled write: `columns` of RETURNING, and what runs it and gives those rows and how many were written."""

    columns: queries.Output
    run: Callable[[Transaction, Env], tuple[list[tuple[Any, ...]], int]]
    word: str


class Writer:
    """Makes whole rows of a table, and writes them."""

    def __init__(self, table: Table, descriptor: Descriptor, scope: access.Scope) -> None:
        self.table, self.descriptor, self.scope = table, descriptor, scope
        compiler = scope.compiler
        at = [c for c in descriptor.columns if not c.virtual]
        self.defaults = {c.name: compiler.into(grammar_schema.expression(c.default), c.kind, c.name) for c in at if c.default is not None}
        self.computed = [
            (c.id - 1, compiler.into(grammar_schema.expression(c.computed), c.kind, c.name)) for c in at if c.computed is not None
        ]
        self.required = [(c.id - 1, c.name) for c in at if not c.nullable]
        self.checks = [(name, text, compiler.condition(grammar_schema.expression(text))) for name, text in descriptor.checks]
        key = descriptor.key_columns
        self.key_places = [c.id - 1 for c in (key[1:] if descriptor.buckets else key)]

    def key(self, row: Row) -> Key:
        key = tuple([row[p] for p in self.key_places])
        buckets = self.descriptor.buckets
        return (functions.shard(key, buckets), *key) if buckets else key

    def whole(self, row: list[Any], env: Env) -> Row:
        """Computed columns filled, constraints asked. Raises SqlError 23502 or 23514."""
        for place, run in self.computed:
            row[place] = run(row, env)
        for place, name in self.required:
            if row[place] is None:
                raise SqlError("23502", f'null value in column "{name}" violates not-null constraint')
        for name, text, check in self.checks:
            if check(row, env) is False:
                raise SqlError("23514", f'failed to satisfy CHECK constraint ({text}) of "{name}"')
        return tuple(row)

    def fill(self, given: dict[str, Any], env: Env) -> Row:
        """A new row of the columns that are given; the others have their defaults."""
        row: list[Any] = [None] * self.scope.width
        for column in self.descriptor.columns:
            if column.name in given:
                row[column.id - 1] = given[column.name]
            elif column.name in self.defaults:
                row[column.id - 1] = self.defaults[column.name](row, env)
        return self.whole(row, env)

    def check_unique(self, transaction: Transaction, key: Key, row: Row) -> None:
        for index in self.table.unique_places:
            holder = transaction.holder(self.table, index, row)
            if holder is not None and holder != key:
                raise SqlError("23505", f'duplicate key value violates unique constraint "{self._index(index)}"')

    def _index(self, index: int) -> str:
        return next(i.name for i in self.descriptor.indexes if i.id == index)

    def insert(self, transaction: Transaction, row: Row) -> None:
        key = self.key(row)
        if transaction.get(self.table, key) is not None:
            raise SqlError("23505", f'duplicate key value violates unique constraint "{self.descriptor.key_name}"')
        self.check_unique(transaction, key, row)
        transaction.put(self.table, key, row)

    def replace(self, transaction: Transaction, old: Key, row: Row) -> None:
        """An existing row, under a new key where that changes: then its old key is deleted."""
        key = self.key(row)
        if key != old:
            if transaction.get(self.table, key) is not None:
                raise SqlError("23505", f'duplicate key value violates unique constraint "{self.descriptor.key_name}"')
            transaction.put(self.table, old, None)
        self.check_unique(transaction, key, row)
        transaction.put(self.table, key, row)


def _returning(items: tuple[Item, ...], scope: access.Scope) -> tuple[queries.Output, Callable[[Row, Transaction, Env], tuple[Any, ...]]]:
    wanted: list[tuple[str, Compiled]] = []
    for item in items:
        if isinstance(item.value, Star):
            wanted += ((c.name, scope.compiler.compile(Reference(None, c.name))) for c in scope.descriptor.visible)
        else:
            wanted.append((item.alias or queries.label(item.value), scope.compiler.compile(item.value)))
    runs = [c.run for _, c in wanted]
    columns = [(name, c.type if c.type.kind != "unknown" else types.STRING) for name, c in wanted]
    return columns, lambda row, transaction, env: tuple(run(access.seen(row, scope.width, transaction.read_at), env) for run in runs)


def _writable(descriptor: Descriptor, name: str) -> Column:
    column = descriptor.column(name)
    if column is None:
        raise SqlError("42703", f'column "{name}" does not exist')
    if column.computed is not None:
        raise SqlError("55000", f'cannot write directly to computed column "{name}"')
    return column


def compile_insert(of: Insert, find: Find, version: str, named: Named) -> Write:
    table, descriptor = find(of.table)
    scope = access.Scope(descriptor, of.alias, version, named, excluded=True)
    writer = Writer(table, descriptor, scope)
    open_columns = [c.name for c in descriptor.visible if c.computed is None]
    names = list(of.columns) or open_columns
    columns = [_writable(descriptor, n) for n in names]
    rows = _inserted(of, columns, find, version, named, named_columns=bool(of.columns))
    resolve = _resolver(of, writer)
    output, returned = _returning(of.returning, scope)

    def run(transaction: Transaction, env: Env) -> tuple[list[tuple[Any, ...]], int]:
        out, count = [], 0
        for given in list(rows(transaction, env)):
            default = {n: writer.defaults.get(n) for n, v in given.items() if v is _DEFAULT}
            row = writer.fill({n: v for n, v in given.items() if n not in default}, env)
            written = resolve(transaction, env, row, given)
            if written is not None:
                count += 1
                if output:
                    out.append(returned(written, transaction, env))
        return out, count

    return Write(output, run, "INSERT 0")


_DEFAULT = object()


def _inserted(of: Insert, columns: list[Column], find: Find, version: str, named: Named, *,
              named_columns: bool) -> Callable[[Transaction, Env], Iterable[dict[str, Any]]]:  # fmt: skip
    """The rows to insert, as column name → value."""
    if of.rows is None:
        return lambda transaction, env: [{}]
    if isinstance(of.rows, Select):
        query = queries.compile_select(of.rows, find, version, named, tuple(c.kind for c in columns))
        _check_count(len(query.columns), columns, named_columns)
        assigned = [_assigned(kind, c, version, named) for (_, kind), c in zip(query.columns, columns, strict=False)]
        names = [c.name for c in columns]
        return lambda transaction, env: [
            {n: a(v, env) for n, a, v in zip(names, assigned, row, strict=False)} for row in query.rows(transaction, env)
        ]
    compiler = Compiler(no_columns, version, named)
    made: list[list[tuple[str, Run | None]]] = []
    for row in of.rows.rows:
        _check_count(len(row), columns, named_columns)
        made.append([(c.name, None if e is None else compiler.into(e, c.kind, c.name)) for e, c in zip(row, columns, strict=False)])
    return lambda transaction, env: ({n: _DEFAULT if run is None else run((), env) for n, run in row} for row in made)


def _assigned(kind: types.SqlType, column: Column, version: str, named: Named) -> Callable[[Any, Env], Any]:
    """A query's value into a column."""
    held = Compiler(lambda table, name: Compiled(kind, lambda row, env: row[0]), version, named)
    run = held.into(Reference(None, "value"), column.kind, column.name)
    return lambda value, env: run((value,), env)


def _check_count(count: int, columns: list[Column], named_columns: bool) -> None:
    if count > len(columns) or (named_columns and count < len(columns)):
        what = "more" if count > len(columns) else "fewer"
        raise SqlError("42601", f"INSERT has {what} expressions than target columns, {count} expressions for {len(columns)} targets")


Resolve = Callable[[Transaction, Env, Row, dict[str, Any]], "Row | None"]


def _resolver(of: Insert, writer: Writer) -> Resolve:
    """What is done with each row: the row that was written, or None."""
    if of.upsert:
        return _upserting(writer)
    if of.conflict is None:

        def plain(transaction: Transaction, env: Env, row: Row, given: dict[str, Any]) -> Row | None:
            writer.insert(transaction, row)
            return row

        return plain
    return _on_conflict(of.conflict, writer)


def _upserting(writer: Writer) -> Resolve:
    width = writer.scope.width
    changing = {c.name for c in writer.descriptor.columns} - set(writer.descriptor.key)

    def run(transaction: Transaction, env: Env, row: Row, given: dict[str, Any]) -> Row | None:
        key = writer.key(row)
        found = transaction.get(writer.table, key)
        if found is None:
            writer.insert(transaction, row)
            return row
        if not changing.intersection(given):
            # Only key columns are given: nothing is to be set, so nothing is written.
            return None
        merged = list(access.padded(found[1], width))
        for name in given:
            place = writer.descriptor.by_name[name].id - 1
            merged[place] = row[place]
        whole = writer.whole(merged, env)
        writer.check_unique(transaction, key, whole)
        transaction.put(writer.table, key, whole)
        return whole

    return run


def _on_conflict(conflict: Conflict, writer: Writer) -> Resolve:
    descriptor, table, width = writer.descriptor, writer.table, writer.scope.width
    key_names = set(descriptor.key[1:] if descriptor.buckets else descriptor.key)
    by_key = not conflict.columns or set(conflict.columns) == key_names
    indexes = [i.id for i in descriptor.indexes if i.unique and (not conflict.columns or set(i.columns) == set(conflict.columns))]
    if not by_key and not indexes:
        raise SqlError("42P10", "there is no unique or exclusion constraint matching the ON CONFLICT specification")
    sets = _compile_sets(conflict.sets, writer)
    where = writer.scope.compiler.condition(conflict.where) if conflict.where is not None else None

    def held(transaction: Transaction, row: Row) -> Found | None:
        found = transaction.get(table, writer.key(row)) if by_key else None
        for index in indexes if found is None else ():
            holder = transaction.holder(table, index, row)
            if holder is not None:
                return transaction.get(table, holder)
        return found

    def run(transaction: Transaction, env: Env, row: Row, given: dict[str, Any]) -> Row | None:
        found = held(transaction, row)
        if found is None:
            writer.insert(transaction, row)
            return row
        both = (*access.seen(found[1], width, found[2]), *row)
        if not sets or (where is not None and not where(both, env)):
            return None
        changed = list(access.padded(found[1], width))
        for place, assign in sets:
            changed[place] = assign(both, env)
        whole = writer.whole(changed, env)
        writer.replace(transaction, found[0], whole)
        return whole

    return run


def _compile_sets(sets: tuple[tuple[str, Expression | None], ...], writer: Writer) -> list[tuple[int, Run]]:
    out: list[tuple[int, Run]] = []
    for name, value in sets:
        column = _writable(writer.descriptor, name)
        if value is None:
            out.append((column.id - 1, writer.defaults.get(name, lambda row, env: None)))
        else:
            out.append((column.id - 1, writer.scope.compiler.into(value, column.kind, name)))
    return out


def _targets(
    of: Update | Delete, scope: access.Scope, table: Table, version: str, named: Named
) -> Callable[[Transaction, Env], list[Found]]:
    """The rows that WHERE, ORDER BY and LIMIT name, all found before any is written."""
    way = access.plan(scope, of.where)
    if of.limit is None:
        return lambda transaction, env: list(way.rows(transaction, table, env))
    descriptor = scope.descriptor
    rising = tuple(Order(Reference(None, n), n in descriptor.descending) for n in descriptor.key)
    if of.order and tuple(of.order) != rising[: len(of.order)]:
        raise not_modelled("UPDATE or DELETE … ORDER BY other columns than the key's")
    limit = Compiler(no_columns, version, named).into(of.limit, types.INT8, "LIMIT")

    def limited(transaction: Transaction, env: Env) -> list[Found]:
        count = limit((), env)
        found: Iterator[Found] = iter(way.rows(transaction, table, env))
        return [f for _, f in zip(range(count), found, strict=False)]

    return limited


def compile_update(of: Update, find: Find, version: str, named: Named) -> Write:
    table, descriptor = find(of.table)
    scope = access.Scope(descriptor, of.alias, version, named)
    writer = Writer(table, descriptor, scope)
    sets, targets = _compile_sets(of.sets, writer), _targets(of, scope, table, version, named)
    output, returned = _returning(of.returning, scope)
    width = scope.width
    moves = bool({place for place, _ in sets} & set(writer.key_places))

    def run(transaction: Transaction, env: Env) -> tuple[list[tuple[Any, ...]], int]:
        changed = []
        for key, row, at in targets(transaction, env):
            before, after = access.seen(row, width, at), list(access.padded(row, width))
            for place, assign in sets:
                after[place] = assign(before, env)
            changed.append((key, writer.whole(after, env)))
        if moves:
            # Keys may pass each other's places: all old ones go first.
            for key, _ in changed:
                transaction.put(table, key, None)
            for _, row in changed:
                writer.insert(transaction, row)
        else:
            for key, row in changed:
                writer.replace(transaction, key, row)
        return [returned(row, transaction, env) for _, row in changed] if output else [], len(changed)

    return Write(output, run, "UPDATE")


def compile_delete(of: Delete, find: Find, version: str, named: Named) -> Write:
    table, descriptor = find(of.table)
    scope = access.Scope(descriptor, of.alias, version, named)
    targets = _targets(of, scope, table, version, named)
    output, returned = _returning(of.returning, scope)

    def run(transaction: Transaction, env: Env) -> tuple[list[tuple[Any, ...]], int]:
        found = targets(transaction, env)
        out = [returned(row, transaction, env) for _, row, _ in found] if output else []
        for key, _, _ in found:
            transaction.put(table, key, None)
        return out, len(found)

    return Write(output, run, "DELETE")
