"""ALTER TABLE: each action makes a new descriptor with its own time, and tells rows again where the version of the server would.

26.1 writes a new index in silence and then tells each row once, at the change's time. 22.1 writes the rows in place, so each is told as
it is written, unchanged to see, and once more with its new shape; a dropped column is told first and written afterwards.
Reference: CockroachDB 26.1 and 22.1, recordings 04 and 05 under tests/golden/cockroach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from millstream.testing.cockroach import access, casts, definitions, grammar_schema, tokens, types, values
from millstream.testing.cockroach.definitions import named_type
from millstream.testing.cockroach.descriptors import Change, Column, Descriptor, Row
from millstream.testing.cockroach.errors import SqlError, not_modelled
from millstream.testing.cockroach.expressions import Compiler, Env, no_columns
from millstream.testing.cockroach.functions import encoded, shard
from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.store import Store
from millstream.testing.cockroach.syntax import Alter, IndexDefinition, KeyDefinition, Name
from millstream.testing.cockroach.tables import Table
from millstream.testing.cockroach.types import SqlType

Answer = tuple[list[tuple[str, SqlType]], list[tuple[str | None, ...]], str]
GENERAL = "enable_experimental_alter_column_type_general"


class AlterTable:
    """One statement's schema changes, with the store's lock held and no transaction writing."""

    def __init__(self, store: Store, user: str, database: str, settings: dict[str, str]) -> None:
        self.store, self.user, self.database, self.settings = store, user, database, settings

    def find(self, name: Name, kind: str = "table") -> Table:
        found = self.store.find(name, self.database)
        if found is None or found.now.kind != kind:
            raise SqlError("42P01", f'relation "{".".join(name)}" does not exist')
        if not self.store.may(self.user, found.now.id, "create"):
            raise SqlError("42501", f"user {self.user} does not have CREATE privilege on relation {found.now.name}")
        return found

    def change(self, table: Table, to: Descriptor, made_by: str) -> Hlc:
        """A new descriptor, from now on."""
        at = self.store.now()
        self.store.change_table(table, replace(to, since=at, version=table.now.version + 1, made_by=made_by))
        table.index_uniques(at)
        return at

    def check_expressions(self, of: Descriptor) -> None:
        """Defaults and computed columns mean something; else the table is not made."""
        scope = self.scope(of)
        for c in of.columns:
            for text in (c.default, c.computed):
                if text:
                    scope.compiler.into(grammar_schema.expression(text), c.kind, c.name)

    def add_index(self, table: Table, to: Descriptor, made_by: str) -> None:
        index = to.indexes[-1]
        if index.unique:
            places = [to.by_name[n].id - 1 for n in index.columns]
            found = [
                p
                for _, row, _ in table.rows(self.store.now())
                if None not in (p := tuple(row[i] if i < len(row) else None for i in places))
            ]
            if len(set(found)) < len(found):
                raise SqlError("23505", f'duplicate key value violates unique constraint "{index.name}"')
        self.change(table, to, made_by)

    # ---- ALTER TABLE

    def alter(self, of: Alter) -> Answer:
        if of.if_exists and self.store.find(of.table, self.database) is None:
            return [], [], "ALTER TABLE"
        table = self.find(of.table)
        answer: Answer = [], [], "ALTER TABLE"
        before = self.store.now()
        try:
            for word, *arguments in of.actions:
                answer = _ACTIONS[word](self, table, *arguments) or answer
        except BaseException:
            self.store.undo(table, before)
            raise
        return answer

    def add_column(self, table: Table, of: Any, if_not_exists: bool) -> None:
        now = table.now
        if of.name in now.by_name:
            if if_not_exists:
                return
            raise SqlError("42701", f'column "{of.name}" of relation "{now.name}" already exists')
        if of.key:
            raise not_modelled("ADD COLUMN … PRIMARY KEY")
        added = definitions.column(self.store, of, now.column_id_last + 1, now.database)
        to = replace(now, columns=(*now.columns, added), column_id_last=added.id)
        to = to if added.virtual else definitions.with_column_in_family(to, added.name, of.family)
        if of.unique:
            to = definitions.with_index(to, IndexDefinition((of.name,), None, True))
        self.check_expressions(to)
        if added.computed is None and (added.default is None or added.default.upper() == "NULL"):
            self._not_null(table, now, added)
        elif not added.virtual:
            self._backfill(table, to, added)
            return
        self.change(table, to, "add column")

    def _not_null(self, table: Table, now: Descriptor, column: Column) -> None:
        if not column.nullable and next(table.rows(self.store.now()), None) is not None:
            raise SqlError("23502", f'null value in column "{column.name}" violates not-null constraint')

    def scope(self, of: Descriptor) -> access.Scope:
        return access.Scope(of, None, self.store.version, lambda name: named_type(self.store, name, self.database))

    def _env(self, at: Hlc) -> Env:
        store = self.store
        return Env(store.version, (), at, at.wall // 1000, self.user, self.database, store.unique_row_id, store.random.random)

    def _backfill(self, table: Table, to: Descriptor, column: Column) -> None:
        """A column with values for the rows that are there: written, then told."""
        scope, written = self.scope(to), self.store.now()
        text = column.computed if column.computed is not None else column.default or "NULL"
        make, env = scope.compiler.into(grammar_schema.expression(text), column.kind, column.name), self._env(written)
        found, width = list(table.rows(written)), access.width_of(to)
        rows: list[tuple[Any, Row, Row]] = []
        for key, row, at in found:
            filled = list(access.padded(row, width))
            filled[column.id - 1] = make(access.seen(row, width, at), env)
            if filled[column.id - 1] is None and not column.nullable:
                raise SqlError("23502", f'null value in column "{column.name}" violates not-null constraint')
            rows.append((key, row, tuple(filled)))
        in_place = self.store.version == "22.1"
        for key, row, filled_row in rows:
            table.generations[-1].put(key, written, filled_row)
            if in_place:
                table.log.append(Change(written, key, row, filled_row, "schema", written))
        self.change(table, to, "add column")
        told = table.now.since
        table.log += [Change(told, key, row, filled_row, "schema", written) for key, row, filled_row in rows]

    def drop_column(self, table: Table, name: str, if_exists: bool, cascade: bool) -> None:
        now = table.now
        column = now.column(name)
        if column is None:
            if if_exists:
                return
            raise SqlError("42703", f'column "{name}" does not exist')
        if name in now.key:
            raise SqlError("42P10", f'column "{name}" is referenced by the primary key')
        user = next((c.name for c in now.columns if c.computed and _mentions(c.computed, name)), None)
        if user is not None and not cascade:
            raise SqlError("2BP01", f'column "{name}" is referenced by computed column "{user}"')
        told = self.change(table, definitions.without_column(now, name), "drop column")
        if column.virtual:
            return
        found = list(table.rows(told))
        table.log += [Change(told, key, row, row, "schema", at) for key, row, at in found]
        if self.store.version == "22.1":
            written, place = self.store.now(), column.id - 1
            for key, row, _ in found:
                emptied = tuple(None if n == place else v for n, v in enumerate(row))
                table.generations[-1].put(key, written, emptied)
                table.log.append(Change(written, key, row, emptied, "schema", written))
        self.store.written(self.store.now())

    def rename_column(self, table: Table, old: str, new: str) -> None:
        if old not in table.now.by_name:
            raise SqlError("42703", f'column "{old}" does not exist')
        if new in table.now.by_name:
            raise SqlError("42701", f'column "{new}" of relation "{table.now.name}" already exists')
        if any(c.computed and _mentions(c.computed, old) for c in table.now.columns) or any(_mentions(t, old) for _, t in table.now.checks):
            raise not_modelled("renaming a column that an expression of the table names")
        self.change(table, definitions.with_renamed(table.now, old, new), "rename column")

    def rename_table(self, table: Table, new: str) -> None:
        if self.store.find((table.now.database, table.now.schema, new)) is not None:
            raise SqlError("42P07", f'relation "{table.now.database}.{table.now.schema}.{new}" already exists')
        self.change(table, replace(table.now, name=new), "rename table")

    def set_schema(self, table: Table, schema: str) -> None:
        if schema not in self.store.databases[table.now.database]:
            raise SqlError("3F000", f'unknown schema "{schema}"')
        self.change(table, replace(table.now, schema=schema), "schema")

    def set_default(self, table: Table, name: str, text: str | None) -> None:
        to = definitions.with_changed(table.now, name, default=text)
        if to.by_name[name].computed is not None:
            raise SqlError("42601", f'column "{name}" of relation "{to.name}" is a computed column')
        self.check_expressions(to)
        self.change(table, to, "alter column")

    def set_nullable(self, table: Table, name: str, nullable: bool) -> None:
        to = definitions.with_changed(table.now, name, nullable=nullable)
        if nullable and name in to.key:
            raise SqlError("42P16", f'column "{name}" is in a primary index')
        place = to.by_name[name].id - 1
        if not nullable and any(place >= len(r) or r[place] is None for _, r, _ in table.rows(self.store.now())):
            raise SqlError("23502", f'validation of NOT NULL constraint failed: validation of column "{name}" NOT NULL failed')
        self.change(table, to, "alter column")

    def set_hidden(self, table: Table, name: str, hidden: bool) -> None:
        self.change(table, definitions.with_changed(table.now, name, hidden=hidden), "alter column")

    def alter_type(self, table: Table, name: str, of: SqlType | Name, array: bool) -> None:
        """The rows are written anew and not told; a length that grows changes no row."""
        now = table.now
        column = now.column(name)
        if column is None:
            raise SqlError("42703", f'column "{name}" does not exist')
        kind = definitions.column_type(self.store, of, array, now.database)
        to = definitions.with_changed(now, name, kind=kind)
        if column.kind.kind != kind.kind or kind.kind == "array":
            self._check_general(now, column, kind)
        convert = casts.cast(column.kind, kind, self.store.version)
        written = self.store.now()
        place, changed = column.id - 1, []
        for key, row, _ in table.rows(written):
            if place < len(row) and row[place] is not None:
                value = convert(row[place])
                values.fit(value, kind)
                if value != row[place] or type(value) is not type(row[place]) or str(value) != str(row[place]):
                    changed.append((key, (*row[:place], value, *row[place + 1 :])))
        self.check_expressions(to)
        if name in now.key and changed:
            raise not_modelled("another type for a column of the primary key")
        at = self.change(table, to, "alter type")
        for key, row in changed:
            table.generations[-1].put(key, at, row)
        table.index_uniques(at)

    def _check_general(self, now: Descriptor, column: Column, kind: SqlType) -> None:
        if self.store.version != "22.1":
            return
        if self.settings.get(GENERAL) not in ("true", "on"):
            a, b = (t.text.lower().rstrip("842") if t.kind == "int" else t.text.lower() for t in (column.kind, kind))
            raise SqlError("0A000", f"ALTER COLUMN TYPE from {a} to {b} is only supported experimentally\n"
                           "HINT:  See: https://go.crdb.dev/issue-v/49329/v22.1\n--\nyou can enable alter column type general support by "
                           f"running `SET {GENERAL} = true`")  # fmt: skip
        if column.default is not None:
            raise SqlError("42P16", f'relation "{now.name}" ({now.id}): computed column "{column.name}_1" cannot also have a DEFAULT '
                           "expression")  # fmt: skip

    def primary_key(self, table: Table, key: KeyDefinition) -> None:
        """The rows lie under new keys from here on; none is told again."""
        now = table.now
        for name, _ in key.columns:
            column = now.column(name)
            if column is not None and column.nullable:
                raise SqlError("42P15", f'cannot use nullable column "{name}" in primary key')
        bare = definitions.without_column(now, now.key[0]) if now.buckets else now
        to = definitions.with_key(bare, key, self.store, self.settings)
        old = now.key[1:] if now.buckets else now.key
        if not now.by_name[old[0]].hidden and not any(i.columns == old for i in to.indexes):
            to = definitions.with_index(to, IndexDefinition(old, None, True))
        places = [to.by_name[n].id - 1 for n, _ in key.columns]
        rows = list(table.rows(self.store.now()))
        keys = [tuple(row[p] for p in places) for _, row, _ in rows]
        if len(set(keys)) < len(keys):
            raise SqlError("23505", f'duplicate key value violates unique constraint "{now.key_name}"')
        at = self.change(table, to, "primary key")
        generation = table.begin_generation(at, table.now)
        for (_, row, mvcc), new in zip(rows, keys, strict=True):
            generation.put((shard(new, key.buckets), *new) if key.buckets else new, mvcc, row)
        table.index_uniques(at)

    def add_check(self, table: Table, name: str | None, text: str) -> None:
        now = table.now
        called = name or f"check_{len(now.checks) + 1}"
        check, env = self.scope(now).compiler.condition(grammar_schema.expression(text)), self._env(self.store.now())
        width = access.width_of(now)
        if any(check(access.seen(row, width, at), env) is False for _, row, at in table.rows(env.read)):
            raise SqlError("23514", f'validation of CHECK "{text}" failed')
        self.change(table, replace(now, checks=(*now.checks, (called, text))), "constraint")

    def add_unique(self, table: Table, index: Any) -> None:
        self.add_index(table, definitions.with_index(table.now, index), "constraint")

    def drop_constraint(self, table: Table, name: str) -> None:
        kept = tuple(c for c in table.now.checks if c[0] != name)
        if len(kept) == len(table.now.checks):
            raise SqlError("42704", f'constraint "{name}" of relation "{table.now.name}" does not exist')
        self.change(table, replace(table.now, checks=kept), "constraint")

    def split(self, table: Table, rows: Any) -> Answer:
        """Ranges are split at keys; whoever follows the table's ranges hears of it through `store.splits`."""
        compiler, out = Compiler(no_columns, self.store.version, lambda n: named_type(self.store, n, self.database)), []
        for row in rows.rows:
            found = [
                compiler.into(e, c.kind, c.name)((), self._env(self.store.now())) for e, c in zip(row, table.now.key_columns, strict=False)
            ]
            shown = "/".join(values.text(v, c.kind) for v, c in zip(found, table.now.key_columns, strict=False))
            key = b"".join(encoded(v) for v in (table.now.id, 1, *found))
            out.append((f"\\x{key.hex()}", f"/{shown}", "2262-04-11 23:47:16.854776"))
        at = self.store.now()
        self.store.splits.append((at, table.now.id))
        self.store.written(at)
        return [("key", types.BYTES), ("pretty", types.STRING), ("split_enforced_until", types.TIMESTAMP)], list(out), "ALTER TABLE"


def _mentions(text: str, name: str) -> bool:
    return any(t.text == name for t in tokens.tokens(text) if t.kind in ("word", "name"))


_ACTIONS: dict[str, Callable[..., Answer | None]] = {
    "add column": AlterTable.add_column, "drop column": AlterTable.drop_column, "rename column": AlterTable.rename_column,
    "rename table": AlterTable.rename_table, "set default": AlterTable.set_default, "set nullable": AlterTable.set_nullable,
    "set hidden": AlterTable.set_hidden, "alter type": AlterTable.alter_type, "primary key": AlterTable.primary_key,
    "add check": AlterTable.add_check, "add unique": AlterTable.add_unique, "drop constraint": AlterTable.drop_constraint,
    "split": AlterTable.split, "set schema": AlterTable.set_schema,
}  # fmt: skip
