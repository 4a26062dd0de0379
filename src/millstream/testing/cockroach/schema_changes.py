"""Statements that make, take away, describe and permit: databases, schemas, types, tables, indexes, comments, privileges.

Changes of a table that is there are alter_table.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from millstream.testing.cockroach import definitions, tokens, types
from millstream.testing.cockroach.alter_table import AlterTable, Answer
from millstream.testing.cockroach.definitions import named_type
from millstream.testing.cockroach.descriptors import Descriptor
from millstream.testing.cockroach.errors import SqlError, not_modelled
from millstream.testing.cockroach.store import Store
from millstream.testing.cockroach.syntax import (
    Alter,
    AlterType,
    Comment,
    Create,
    CreateIndex,
    CreateTable,
    Drop,
    Grant,
    Name,
    Statement,
    Truncate,
)  # fmt: skip
from millstream.testing.cockroach.tables import Table
from millstream.testing.cockroach.types import SqlType


def run(store: Store, user: str, database: str, settings: dict[str, str], of: Statement) -> Answer:
    """Carries it out at once. Raises SqlError, and then nothing has changed."""
    change = Changes(store, user, database, settings)
    store.take_writer(change)
    try:
        return _BY_CLASS[type(of)](change, of)
    finally:
        store.leave_writer(change)


class Changes(AlterTable):
    """Every statement that changes the schema."""

    # ---- making and taking away

    def create_table(self, of: CreateTable) -> Answer:
        name = self._new_name(of.name)
        if self.store.find(of.name, self.database) is not None:
            if of.if_not_exists:
                return [], [], "CREATE TABLE"
            raise SqlError("42P07", f'relation "{".".join(name)}" already exists')
        made = definitions.table(self.store, of, name, self.settings, self.store.now())
        table = self.store.add_table(made)
        self.check_expressions(made)
        table.index_uniques(made.since)
        self.store.grants[self.user, made.id] = {"all"}
        return [], [], "CREATE TABLE"

    def _new_name(self, name: Name) -> tuple[str, str, str]:
        database, schema, table = self.store.full_name(name, self.database)
        if database not in self.store.databases:
            raise SqlError("3D000", f'database "{database}" does not exist')
        if schema not in self.store.databases[database]:
            raise SqlError("3F000", f'unknown schema "{schema}"')
        return database, schema, table

    def create(self, of: Create) -> Answer:
        store, tag = self.store, f"CREATE {of.what.upper()}"
        if of.what == "database":
            self._once(of, of.name[-1] in store.databases)
            store.databases.setdefault(of.name[-1], {"public"})
        elif of.what == "schema":
            database = of.name[0] if len(of.name) > 1 else self.database
            if database not in store.databases:
                raise SqlError("3D000", f'database "{database}" does not exist')
            self._once(of, of.name[-1] in store.databases[database])
            store.databases[database].add(of.name[-1])
        elif of.what == "user":
            self._once(of, of.name[-1] in store.users)
            store.users.add(of.name[-1])
            tag = "CREATE ROLE"
        elif of.what == "type":
            name = self._new_name(of.name)
            if not self._once(of, name in store.types):
                number = store.next_id()
                store.next_id()
                store.types[name] = SqlType("enum", name=f"{name[1]}.{name[2]}", labels=of.extra, number=number)
                store.catalogue_version += 1
        else:
            name = self._new_name(of.name)
            if not self._once(of, store.find(of.name, self.database) is not None):
                at = store.now()
                store.add_table(Descriptor(store.next_id(), name[2], name[1], name[0], (), (), at, kind=of.what))
        return [], [], tag

    def _once(self, of: Create, there: bool) -> bool:
        codes = {"database": "42P04", "schema": "42P06", "type": "42710", "user": "42710"}
        if there and not of.if_not_exists:
            raise SqlError(codes.get(of.what, "42P07"), f'{of.what} "{".".join(of.name)}" already exists')
        return there

    def drop(self, of: Drop) -> Answer:
        for name in of.names:
            self._drop_one(of, name)
        return [], [], f"DROP {'ROLE' if of.what == 'user' else of.what.upper()}"

    def _drop_one(self, of: Drop, name: Name) -> None:
        if of.what in ("table", "view", "sequence"):
            if self.store.find(name, self.database) is None and of.if_exists:
                return
            table = self.find(name, of.what)
            self.change(table, replace(table.now, state="drop"), "drop")
        elif of.what == "database":
            for table in self.store.tables_of(name[-1]):
                self.change(table, replace(table.now, state="drop"), "drop")
            self._gone(of, name, self.store.databases.pop(name[-1], None))
        elif of.what == "index":
            self._drop_index(of, name)
        elif of.what == "user":
            if name[-1] not in self.store.users and not of.if_exists:
                raise SqlError("42704", f'role/user "{name[-1]}" does not exist')
            self.store.users.discard(name[-1])
        elif of.what == "type":
            self._gone(of, name, self.store.types.pop(self.store.full_name(name, self.database), None))
        else:
            raise not_modelled(f"DROP {of.what.upper()}")

    def _gone(self, of: Drop, name: Name, found: object) -> None:
        if found is None and not of.if_exists:
            raise SqlError("3D000" if of.what == "database" else "42704", f'{of.what} "{".".join(name)}" does not exist')

    def _drop_index(self, of: Drop, name: Name) -> None:
        for table in self.store.tables_of(self.database):
            kept = tuple(i for i in table.now.indexes if i.name != name[-1])
            if len(kept) < len(table.now.indexes) and ("@" not in name or table.now.name == name[name.index("@") - 1]):
                self.change(table, replace(table.now, indexes=kept), "index")
                return
        self._gone(of, name, None)

    def truncate(self, of: Truncate) -> Answer:
        """The rows are gone without a change for any of them: that is why feeds end."""
        for name in of.names:
            table = self.find(name)
            at = self.change(table, table.now, "truncate")
            table.begin_generation(at, table.now)
            table.index_uniques(at)
        return [], [], "TRUNCATE"

    def create_index(self, of: CreateIndex) -> Answer:
        table = self.find(of.table)
        if of.if_not_exists and any(i.name == of.index.name for i in table.now.indexes):
            return [], [], "CREATE INDEX"
        self.add_index(table, definitions.with_index(table.now, of.index), "index")
        return [], [], "CREATE INDEX"

    # ---- the rest

    def alter_enum(self, of: AlterType) -> Answer:
        name = self.store.full_name(of.name, self.database)
        was = named_type(self.store, of.name, self.database)
        if of.label in was.labels:
            raise SqlError("42710", f'enum value "{of.label}" already exists')
        now = self.store.types[name] = replace(was, labels=(*was.labels, of.label))
        for table in self.store.tables_of(name[0]):
            for c in table.now.columns:
                if was in (c.kind, c.kind.element):
                    kind = now if c.kind == was else types.array_of(now)
                    self.change(table, definitions.with_changed(table.now, c.name, kind=kind), "alter type")
        self.store.catalogue_version += 1
        return [], [], "ALTER TYPE"

    def comment(self, of: Comment) -> Answer:
        table = self.find(of.table)
        to = replace(table.now, comment=of.text) if of.column is None else definitions.with_changed(table.now, of.column, comment=of.text)
        self.change(table, to, "comment")
        return [], [], f"COMMENT ON {of.what.upper()}"

    def grant(self, of: Grant) -> Answer:
        store = self.store
        for user in of.users:
            if user not in store.users and user != "public":
                raise SqlError("42704", f'role/user "{user}" does not exist')
        if store.version == "22.1" and "changefeed" in of.privileges:
            raise tokens.syntax_error(of.text, of.at, "on", 'not a valid privilege: "changefeed"')
        if of.what == "role":
            for user in of.users:
                held = store.roles.setdefault(user, set())
                held.difference_update(of.privileges) if of.revoke else held.update(of.privileges)
        elif of.what == "table":
            for name in of.tables:
                for table in self._granted(name):
                    for user in of.users:
                        _hold(store.grants.setdefault((user, table.now.id), set()), of)
        # What was compiled for a user who might is compiled again.
        store.catalogue_version += 1
        return [], [], "REVOKE" if of.revoke else "GRANT"

    def _granted(self, name: Name) -> list[Table]:
        found = self.store.find(name, self.database)
        if found is None:
            raise SqlError("42P01", f'relation "{".".join(name)}" does not exist')
        return [found]


def _hold(held: set[str], of: Grant) -> None:
    if not of.revoke:
        held.update(of.privileges)
    elif "all" in of.privileges:
        held.clear()
    else:
        if "all" in held:
            held.update(("select", "insert", "update", "delete", "create", "drop", "changefeed"))
        held.difference_update((*of.privileges, "all"))


_BY_CLASS: dict[type, Callable[[Changes, Any], Answer]] = {
    CreateTable: Changes.create_table, Create: Changes.create, Drop: Changes.drop, Truncate: Changes.truncate,
    CreateIndex: Changes.create_index, Alter: Changes.alter, AlterType: Changes.alter_enum, Comment: Changes.comment,
    Grant: Changes.grant,
}  # fmt: skip
