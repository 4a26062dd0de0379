"""The stand-in's pg_catalog, information_schema and crdb_internal as plain tables made of descriptors: what they hold, not how they
are asked.

Object ids: a table's is its descriptor's; an index's, a schema's and a default's are made of it.
Reference: CockroachDB 26.1 and 22.1, "System Catalogs"; PostgreSQL 17, the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

from millstream.testing.cockroach.descriptors import Column, Descriptor, Index
from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.store import Store

SCHEMAS = ("pg_catalog", "information_schema", "crdb_internal")
TEXT, BOOL, INT8, INT4, INT2, OID, CHAR, NAME = 25, 16, 20, 23, 21, 26, 18, 19
Tables = dict[tuple[str, str], tuple[tuple[str, ...], list[tuple[object, ...]]]]

TYPES = {
    "oid": OID, "relnamespace": OID, "relkind": CHAR, "reltuples": INT8, "relname": NAME, "nspname": NAME, "attname": NAME,
    "attrelid": OID, "attnum": INT2, "atttypid": OID, "atttypmod": INT4, "attnotnull": BOOL, "attisdropped": BOOL, "atthasdef": BOOL,
    "attgenerated": CHAR, "attidentity": CHAR, "attlen": INT2, "adrelid": OID, "adnum": INT2, "typname": NAME, "typnamespace": OID,
    "indexrelid": OID, "indrelid": OID, "indisprimary": BOOL, "indisunique": BOOL, "objoid": OID, "classoid": OID, "objsubid": INT4,
    "datname": NAME, "ordinal_position": INT8, "seq_in_index": INT8, "non_unique": BOOL, "table_id": INT8, "target_id": INT8,
    "character_maximum_length": INT8, "numeric_precision": INT8, "numeric_scale": INT8, "conrelid": OID, "connamespace": OID,
}  # fmt: skip
"""Type numbers by column name; everything else is text."""

_CLASS = 1259
_INDEXES_FROM, _INDEXES_EACH = 1_000_000, 1_000


def tables(
    store: Store, database: str, found: Sequence[Descriptor], changing: Iterable[int], running: Sequence[tuple[str, str, str]]
) -> Tables:
    """(schema, table) → its columns and rows, as sessions of `database` see them."""
    schemas = sorted({*store.databases.get(database, {"public"}), "pg_catalog", "information_schema", "crdb_internal", "pg_extension"})
    primaries = {d.id: Index(1, primary_name(d, store.version), d.key, True) for d in found if d.kind == "table"}
    indexes = [(d, i) for d in found if d.kind == "table" for i in (primaries[d.id], *d.indexes)]
    out: Tables = {
        ("pg_catalog", "pg_namespace"): (("oid", "nspname"), [(_schema(database, s), s) for s in schemas]),
        ("pg_catalog", "pg_database"): (("oid", "datname"), [(zlib.crc32(d.encode()), d) for d in sorted(store.databases)]),
        ("pg_catalog", "pg_class"): (
            ("oid", "relname", "relnamespace", "relkind", "reltuples"),
            [*((d.id, d.name, _schema(database, d.schema), {"view": "v", "sequence": "S"}.get(d.kind, "r"), None) for d in found),
             *((_index(d, i), i.name, _schema(database, d.schema), "i", None) for d, i in indexes)],
        ),
        ("pg_catalog", "pg_attribute"): (
            ("attrelid", "attname", "attnum", "atttypid", "atttypmod", "attnotnull", "atthasdef", "attgenerated", "attisdropped",
             "attidentity", "attlen"),
            [_attribute(d, c) for d in found for c in d.columns],
        ),
        ("pg_catalog", "pg_attrdef"): (
            ("oid", "adrelid", "adnum", "adbin", "adsrc"),
            [(zlib.crc32(f"{d.id}.{c.id}".encode()), d.id, c.id, text, text)
             for d in found for c in d.columns if (text := c.default or c.computed) is not None],
        ),
        ("pg_catalog", "pg_type"): (("oid", "typname", "typnamespace"), _types(found)),
        ("pg_catalog", "pg_index"): (
            ("indexrelid", "indrelid", "indisunique", "indisprimary", "indkey"),
            [(_index(d, i), d.id, int(i.unique), int(i is primaries[d.id]), " ".join(str(d.by_name[c].id) for c in i.columns))
             for d, i in indexes],
        ),
        ("pg_catalog", "pg_constraint"): (
            ("conrelid", "contype", "conname", "conkey"),
            [(d.id, "p", i.name, "{" + ",".join(str(d.by_name[c].id) for c in i.columns) + "}")
             for d, i in indexes if i is primaries[d.id]],
        ),
        ("pg_catalog", "pg_description"): (("objoid", "classoid", "objsubid", "description"), list(_comments(found))),
        ("information_schema", "tables"): (
            ("table_catalog", "table_schema", "table_name", "table_type"),
            [(database, d.schema, d.name, "VIEW" if d.kind == "view" else "BASE TABLE") for d in found if d.kind != "sequence"],
        ),
        ("information_schema", "columns"): (_COLUMNS, [_column(database, d, c, n) for d in found for n, c in enumerate(d.columns, 1)]),
        ("information_schema", "statistics"): (
            ("table_catalog", "table_schema", "table_name", "non_unique", "index_schema", "index_name", "seq_in_index", "column_name",
             "direction", "storing", "implicit"),
            [row for d, i in indexes for row in _statistics(database, d, i, primary=i is primaries[d.id])],
        ),
        ("crdb_internal", "cluster_queries"): (("query_id", "user_name", "query"), [tuple(row) for row in running]),
        ("crdb_internal", "schema_changes"): (("table_id", "type", "state"), [(n, "COLUMN", "BACKFILLING") for n in changing]),
    }  # fmt: skip
    return out


def changing(store: Store, found: Sequence[Descriptor], at: Hlc) -> list[int]:
    """The tables of which rows were being written anew for a schema change at a time: from the first such row to the change, or back."""
    out = []
    for descriptor in found:
        table = store.tables[descriptor.id]
        for written in {c.hlc for c in table.log if c.cause == "schema" and c.mvcc == c.hlc}:
            made = min((d.since for d in table.descriptors[1:]), key=lambda since: abs(since.wall - written.wall), default=written)
            if min(made, written) <= at <= max(made, written):
                out.append(descriptor.id)
                break
    return out


def primary_name(descriptor: Descriptor, version: str) -> str:
    return descriptor.key_name or ("primary" if version == "22.1" else f"{descriptor.name}_pkey")


def type_name(oid: int) -> str | None:
    return {16: "bool", 20: "bigint", 21: "smallint", 23: "integer", 25: "text", 1700: "numeric", 2950: "uuid"}.get(oid)


def _schema(database: str, schema: str) -> int:
    return zlib.crc32(f"{database}.{schema}".encode())


def _index(descriptor: Descriptor, index: Index) -> int:
    return _INDEXES_FROM + descriptor.id * _INDEXES_EACH + index.id


def _attribute(d: Descriptor, c: Column) -> tuple[object, ...]:
    generated = ("v" if c.virtual else "s") if c.computed is not None else ""
    has_default = int(c.default is not None or c.computed is not None)
    return d.id, c.name, c.id, c.kind.oid, c.kind.typmod, int(not c.nullable), has_default, generated, 0, "", -1


def _types(found: Sequence[Descriptor]) -> list[tuple[object, ...]]:
    kinds = {c.kind.oid: c.kind for d in found for c in d.columns}
    space = zlib.crc32(b"pg_catalog")
    return [(oid, (kind.name or kind.kind).rpartition(".")[2] if kind.kind == "enum" else kind.kind, space) for oid, kind in kinds.items()]


def _comments(found: Sequence[Descriptor]) -> Iterable[tuple[object, ...]]:
    for d in found:
        if d.comment is not None:
            yield d.id, _CLASS, 0, d.comment
        for c in d.columns:
            if c.comment is not None:
                yield d.id, _CLASS, c.id, c.comment


_COLUMNS = (
    "table_catalog", "table_schema", "table_name", "column_name", "ordinal_position", "column_default", "is_nullable", "data_type",
    "character_maximum_length", "numeric_precision", "numeric_scale", "udt_name", "is_generated", "generation_expression",
    "is_hidden", "crdb_sql_type",
)  # fmt: skip


def _column(database: str, d: Descriptor, c: Column, place: int) -> tuple[object, ...]:
    decimal = c.kind.kind == "decimal"
    return (
        database, d.schema, d.name, c.name, place, c.default, "YES" if c.nullable else "NO", c.kind.kind,
        c.kind.width if c.kind.kind == "string" else None, c.kind.width if decimal else None, c.kind.scale if decimal else None,
        c.kind.kind, "ALWAYS" if c.computed is not None else "NEVER", c.computed or "", "YES" if c.hidden else "NO", c.kind.text,
    )  # fmt: skip


def _statistics(database: str, d: Descriptor, index: Index, *, primary: bool) -> Iterable[tuple[object, ...]]:
    """An index's own columns, then those that it holds besides: the primary key's as a part of it, or all others of a primary index."""
    own = [(name, "DESC" if primary and name in d.descending else "ASC", "NO", "NO") for name in index.columns]
    if primary:
        more = [(c.name, "N/A", "YES", "NO") for c in d.columns if c.name not in index.columns and not c.virtual]
    else:
        more = [(name, "ASC", "NO", "YES") for name in d.key if name not in index.columns]
    for place, (name, direction, storing, implicit) in enumerate([*own, *more], 1):
        yield database, d.schema, d.name, int(not index.unique), d.schema, index.name, place, name, direction, storing, implicit
