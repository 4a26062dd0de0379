"""CREATE TABLE → a descriptor, and a descriptor → SHOW CREATE TABLE.

Reference: CockroachDB 26.1, "CREATE TABLE", "Column Families", "Hash-sharded Indexes".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from millstream.testing.cockroach import types
from millstream.testing.cockroach.descriptors import Column, Descriptor, Family, Index
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.store import Store
from millstream.testing.cockroach.syntax import ColumnDefinition, CreateTable, IndexDefinition, KeyDefinition, Name
from millstream.testing.cockroach.types import SqlType

HASHED = "experimental_enable_hash_sharded_indexes"


def named_type(store: Store, name: Name, database: str) -> SqlType:
    """An enum by its name. Raises SqlError 42704."""
    found = store.types.get(store.full_name(name, database))
    if found is None:
        raise SqlError("42704", f'type "{".".join(name)}" does not exist')
    return found


def column_type(store: Store, of: SqlType | Name, array: bool, database: str) -> SqlType:
    found = of if isinstance(of, SqlType) else named_type(store, of, database)
    inner = found.element or found
    if store.version == "22.1" and inner.kind in types.NEW_SINCE_22_1:
        raise SqlError("42704", f'type "{inner.kind}" does not exist')
    return types.array_of(found) if array else found


def column(store: Store, of: ColumnDefinition, number: int, database: str) -> Column:
    """A column as it is described; whether it may be NULL when nothing is said follows from the key."""
    kind = column_type(store, of.type, of.array, database)
    if of.default is not None and of.computed is not None:
        raise SqlError("42P16", f'computed column "{of.name}" cannot also have a DEFAULT expression')
    nullable = of.nullable is not False and not of.key
    return Column(number, of.name, kind, nullable, of.default, of.computed, of.virtual, of.hidden)


def shard_column(names: tuple[str, ...], buckets: int, number: int) -> Column:
    return Column(number, f"crdb_internal_{'_'.join(names)}_shard_{buckets}", types.INT8, False, None, "", True, True)


def table(store: Store, of: CreateTable, name: tuple[str, str, str], settings: dict[str, str], since: Hlc) -> Descriptor:
    """The new table. Raises SqlError for what does not fit together."""
    database = name[0]
    columns = [column(store, c, n, database) for n, c in enumerate(of.columns, 1)]
    names = [c.name for c in columns]
    for n, one in enumerate(names):
        if one in names[:n]:
            raise SqlError("42701", f'column "{one}" specified more than once')
    key = of.key or next((KeyDefinition(((c.name, False),), None, c.buckets) for c in of.columns if c.key), None)
    if key is None:
        columns.append(Column(len(columns) + 1, _free("rowid", names), types.INT8, False, "unique_rowid()", hidden=True))
        key = KeyDefinition(((columns[-1].name, False),))
    made = Descriptor(store.next_id(), name[2], name[1], database, tuple(columns), (), since, column_id_last=len(columns),
                      key_name=key.name or f"{name[2]}_pkey")  # fmt: skip
    made = with_key(made, key, store, settings)
    for index in (*of.indexes, *(IndexDefinition((c.name,), None, True) for c in of.columns if c.unique)):
        made = with_index(made, index)
    checks = (*of.checks, *((None, c.check) for c in of.columns if c.check is not None))
    for called, text in checks:
        made = replace(made, checks=(*made.checks, (called or f"check_{len(made.checks) + 1}", text)))
    return replace(made, families=_families(of, made), version=1)


def _free(name: str, taken: list[str]) -> str:
    number, found = 0, name
    while found in taken:
        number, found = number + 1, f"{name}_{number + 1}"
    return found


def with_key(of: Descriptor, key: KeyDefinition, store: Store, settings: dict[str, str]) -> Descriptor:
    """The same table under another primary key. Its columns may not be NULL from here on."""
    names = tuple(name for name, _ in key.columns)
    for name in names:
        if name not in of.by_name:
            raise SqlError("42703", f'column "{name}" does not exist')
    columns = tuple(replace(c, nullable=False) if c.name in names else c for c in of.columns)
    made = replace(of, columns=columns, key=names, descending=tuple(n for n, down in key.columns if down), buckets=None)
    if key.buckets is None:
        return made
    if store.version == "22.1" and settings.get(HASHED) not in ("true", "on"):
        raise SqlError("0A000", f"hash sharded indexes require the {HASHED} session variable")
    shard = shard_column(names, key.buckets, of.column_id_last + 1)
    return replace(made, columns=(*columns, shard), key=(shard.name, *names), buckets=key.buckets, column_id_last=shard.id)


def with_index(of: Descriptor, index: IndexDefinition) -> Descriptor:
    for name in index.columns:
        if name not in of.by_name:
            raise SqlError("42703", f'column "{name}" does not exist')
    number = of.index_id_last + 1
    called = index.name or _free(f"{of.name}_{'_'.join(index.columns)}_{'key' if index.unique else 'idx'}", [i.name for i in of.indexes])
    if any(i.name == called for i in of.indexes):
        raise SqlError("42P07", f'index with name "{called}" already exists')
    made = Index(number, called, index.columns, index.unique)
    return replace(of, indexes=(*of.indexes, made), index_id_last=number)


def _families(of: CreateTable, made: Descriptor) -> tuple[Family, ...]:
    given: list[tuple[str | None, list[str]]] = [(name, list(columns)) for name, columns in of.families]
    for c in of.columns:
        if c.family is not None:
            family = next((f for f in given if f[0] == c.family), None)
            if family is None:
                given.append(family := (c.family, []))
            family[1].append(c.name)
    if not given:
        given = [("primary", [])]
    listed = {n for _, columns in given for n in columns}
    given[0][1].extend(c.name for c in made.columns if c.name not in listed and not c.virtual)
    return tuple(Family(n, name or f"fam_{n}_{'_'.join(columns)}", tuple(columns)) for n, (name, columns) in enumerate(given))


def with_column_in_family(of: Descriptor, name: str, family: str | None) -> Descriptor:
    wanted = next((f for f in of.families if f.name == family), of.families[0])
    families = tuple(replace(f, columns=(*f.columns, name)) if f is wanted else f for f in of.families)
    return replace(of, families=families)


def without_column(of: Descriptor, name: str) -> Descriptor:
    families = tuple(replace(f, columns=tuple(c for c in f.columns if c != name)) for f in of.families)
    return replace(of, columns=tuple(c for c in of.columns if c.name != name), families=tuple(f for f in families if f.columns),
                   indexes=tuple(i for i in of.indexes if name not in i.columns))  # fmt: skip


def with_renamed(of: Descriptor, old: str, new: str) -> Descriptor:
    def other(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if n == old else n for n in names)

    return replace(
        of, columns=tuple(replace(c, name=new) if c.name == old else c for c in of.columns), key=other(of.key),
        descending=other(of.descending), families=tuple(replace(f, columns=other(f.columns)) for f in of.families),
        indexes=tuple(replace(i, columns=other(i.columns)) for i in of.indexes),
    )  # fmt: skip


def with_changed(of: Descriptor, name: str, **changed: Any) -> Descriptor:
    """One column with other properties. Raises SqlError 42703 where there is none of that name."""
    if name not in of.by_name:
        raise SqlError("42703", f'column "{name}" does not exist')
    return replace(of, columns=tuple(replace(c, **changed) if c.name == name else c for c in of.columns))


def quoted(name: str) -> str:
    plain = name.isascii() and name.replace("_", "a").isalnum() and name == name.lower() and not name[0].isdigit()
    return name if plain else '"' + name.replace('"', '""') + '"'


def create_statement(of: Descriptor) -> str:
    """As SHOW CREATE TABLE has it: one line for each column, index, family and check."""
    lines = []
    for c in of.columns:
        if of.buckets and c.name == of.key[0]:
            continue
        words = [quoted(c.name), c.type, *(["NOT VISIBLE"] if c.hidden else []), "NULL" if c.nullable else "NOT NULL"]
        words += [f"DEFAULT {c.default}"] if c.default is not None else []
        words += [f"AS ({c.computed}) {'VIRTUAL' if c.virtual else 'STORED'}"] if c.computed is not None else []
        lines.append(" ".join(words))
    key = ", ".join(f"{quoted(n)} {'DESC' if n in of.descending else 'ASC'}" for n in (of.key[1:] if of.buckets else of.key))
    hashed = f" USING HASH WITH (bucket_count={of.buckets})" if of.buckets else ""
    lines.append(f"CONSTRAINT {quoted(of.key_name)} PRIMARY KEY ({key}){hashed}")
    for i in of.indexes:
        columns = ", ".join(f"{quoted(n)} ASC" for n in i.columns)
        lines.append(f"{'UNIQUE ' if i.unique else ''}INDEX {quoted(i.name)} ({columns})")
    if len(of.families) > 1 or of.families[0].name != "primary":
        lines += (f"FAMILY {quoted(f.name)} ({', '.join(map(quoted, f.columns))})" for f in of.families)
    lines += (f"CONSTRAINT {quoted(name)} CHECK ({text})" for name, text in of.checks)
    return f"CREATE TABLE {quoted(of.schema)}.{quoted(of.name)} (\n\t" + ",\n\t".join(lines) + "\n)"
