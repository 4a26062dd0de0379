"""Tables as the catalogue shows them now, and as a Relation message shows one at its place in the stream.

The stream says a column's name and type; only the catalogue says which columns make the key, and which column is
which across a rename (its attribute number). The two may be of different times: `shape_of` brings them together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from millstream.events.types import UNKNOWN, Field, Fill, RowSchema, Type
from millstream.sources.names import TableName
from millstream.sources.postgres.columns import FIRST_UNFIXED_OID, type_of
from millstream.sources.postgres.messages import Relation
from millstream.sources.postgres.session import Session

FRESH_ID_FROM = 100_000  # attribute numbers end at 1600


@dataclass(frozen=True)
class Attribute:
    """A column as the catalogue has it. A dropped one keeps its number; `sql_type` is how SQL writes its type.

    `missing` is what rows have that were written before the column was added, where the catalogue keeps that for them. Of a
    partitioned table: if all partitions keep the same; `missing_differs` if they do not.
    """

    number: int
    name: str
    dropped: bool
    generated: bool
    type: Type
    sql_type: str
    nullable: bool = True
    doc: str = ""
    missing: str | None = None
    missing_differs: bool = False
    collation: str = ""


@dataclass(frozen=True)
class Described:
    """A table. `key` are the attribute numbers of its primary key, in index order, without columns that its index only includes; `kind` and
    `identity` are pg_class's letters.

    `comparing` says of each column of the key by which operators its index compares, "<", "<=", "=", ">=", ">" as SQL writes them with
    their schema; none: by the server's own, which are those that a bare sign means.

    `rows` and `row_bytes` are estimates. `partial_partitions` are the partitions whose replica identity is not full,
    `keyless_partitions` those that do not even have the default one. `files` names
    what holds the rows on the server's disk: others after a rewrite or a truncate, and `never_rewritten` before the first.
    """

    name: TableName
    oid: int
    kind: str
    persistence: str
    identity: str
    attributes: tuple[Attribute, ...]
    key: tuple[int, ...]
    deferrable_key: bool
    rows: int
    row_bytes: int
    partial_partitions: tuple[str, ...] = ()
    files: str = ""
    never_rewritten: bool = False
    keyless_partitions: tuple[str, ...] = ()
    comparing: tuple[tuple[str, ...], ...] = ()

    @property
    def columns(self) -> tuple[Attribute, ...]:
        """What is in the stream and in chunks."""
        return tuple(a for a in self.attributes if not a.dropped and not a.generated)

    @property
    def schema(self) -> RowSchema:
        """Of a table of which nothing was given yet."""
        return self.schema_with({})

    def schema_with(self, fills: Mapping[int, Fill | None]) -> RowSchema:
        """`fills`: by column number, what rows that were given without the column have in it."""
        names = {a.number: a.name for a in self.columns}
        fields = tuple(Field(a.name, a.type, a.number, a.nullable, fills.get(a.number), a.doc) for a in self.columns)
        return RowSchema(fields, tuple(names[n] for n in self.key) if set(self.key) <= set(names) else ())


class Catalogue:
    """Asks the database; remembers only what user-made types come to."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._domains: dict[int, tuple[int, int] | None] = {}

    def table(self, name: TableName) -> Described | None:
        """The table of that name, None if there is none."""
        return self._table(name, "n.nspname = %s AND c.relname = %s", [name.schema, name.table])

    def table_of_oid(self, name: TableName, oid: int) -> Described | None:
        """The table of that oid, whatever it is called now."""
        return self._table(name, "c.oid = %s", [oid])

    def is_partitioned(self, name: TableName) -> bool:
        asked = "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s"
        return bool(self._session.rows(f"{asked} AND c.relkind = 'p'", [name.schema, name.table]))

    def names(self) -> list[str]:
        """Every table that could be meant, as schema.table."""
        found = self._session.rows(
            """SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1"""
        )
        return [row[0] for row in found]

    def type_of(self, oid: int, typmod: int) -> Type:
        """The type of a column; a domain counts as what it is made from."""
        while (base := self._base(oid)) is not None:
            oid, typmod = base
        return type_of(oid, typmod)

    def _base(self, oid: int) -> tuple[int, int] | None:
        if oid < FIRST_UNFIXED_OID:
            return None
        if oid not in self._domains:
            found = self._session.rows("SELECT typbasetype, typtypmod FROM pg_type WHERE oid = %s AND typtype = 'd'", [oid])
            self._domains[oid] = (int(found[0][0]), int(found[0][1])) if found else None
        return self._domains[oid]

    def _table(self, name: TableName, where: str, parameters: list[object]) -> Described | None:
        found = self._session.rows(
            f"""SELECT c.oid, c.relkind::text, c.relpersistence::text, c.relreplident::text,
                (SELECT sum(greatest(p.reltuples, 0))::bigint FROM pg_class p WHERE p.oid IN ({_LEAVES})),
                (SELECT sum(pg_table_size(p.oid))::bigint FROM pg_class p WHERE p.oid IN ({_LEAVES})),
                (SELECT array_agg(p.oid::regclass::text ORDER BY 1) FROM pg_class p WHERE p.oid IN ({_LEAVES}) AND p.relreplident <> 'f'),
                (SELECT array_agg(p.oid::regclass::text ORDER BY 1) FROM pg_class p
                    WHERE p.oid IN ({_LEAVES}) AND p.relreplident NOT IN ('f', 'd')),
                i.key, i.deferrable, i.comparing
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN LATERAL (SELECT (string_to_array(i.indkey::text, ' ')::int[])[1:i.indnkeyatts] AS key,
                NOT i.indimmediate AS deferrable,
                (SELECT json_agg((SELECT json_agg(format('OPERATOR(%%I.%%s)', s.nspname, p.oprname) ORDER BY a.amopstrategy)
                    FROM pg_amop a JOIN pg_operator p ON p.oid = a.amopopr JOIN pg_namespace s ON s.oid = p.oprnamespace
                    WHERE a.amopfamily = o.opcfamily AND a.amoplefttype = o.opcintype AND a.amoprighttype = o.opcintype
                    AND s.nspname <> 'pg_catalog') ORDER BY k.place)
                    FROM unnest(i.indclass::oid[]) WITH ORDINALITY k (class, place) JOIN pg_opclass o ON o.oid = k.class) AS comparing
                FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) i ON true
            WHERE {where}""",
            parameters,
        )
        if not found:
            return None
        oid, kind, persistence, identity, rows, size, partial, keyless, key, deferrable, comparing = found[0]
        attributes, files, never_rewritten = self._attributes(oid)
        return Described(
            name=name,
            oid=oid,
            kind=kind,
            persistence=persistence,
            identity=identity,
            attributes=attributes,
            key=tuple(key or ()),
            deferrable_key=bool(deferrable),
            rows=rows or 0,
            row_bytes=max(1, (size or 0) // rows) if rows else 0,
            partial_partitions=tuple(partial or ()) if kind == "p" else (),
            keyless_partitions=tuple(keyless or ()) if kind == "p" else (),
            files=files,
            never_rewritten=never_rewritten,
            comparing=tuple(tuple(signs or ()) for signs in comparing or ()),
        )

    def _attributes(self, oid: int) -> tuple[tuple[Attribute, ...], str, bool]:
        """The columns, and the files with whether they are the first. One statement: of two times they would say of a rewrite between
        them that it never was."""
        found = self._session.rows(
            f"""WITH c AS MATERIALIZED (SELECT oid, relkind FROM pg_class WHERE oid = %s),
            leaves AS MATERIALIZED (SELECT p.oid, p.relfilenode FROM c, pg_class p WHERE p.oid IN ({_LEAVES})),
            files AS (SELECT coalesce(string_agg(oid || ':' || relfilenode, ' ' ORDER BY oid), '') AS files,
                coalesce(bool_and(relfilenode = oid), true) AS first FROM leaves)
            SELECT attnum, attname, attisdropped, attgenerated <> '', atttypid, atttypmod,
                CASE WHEN attisdropped THEN '' ELSE format_type(atttypid, atttypmod) END,
                NOT attnotnull, coalesce(col_description(attrelid, attnum), ''), m.missing, m.differs,
                coalesce((SELECT o.collname::text FROM pg_collation o WHERE o.oid = a.attcollation), ''), files, first
            FROM files, pg_attribute a
            CROSS JOIN LATERAL (SELECT min(value) AS missing,
                    count(*) > count(value) AND count(value) > 0 OR coalesce(min(value) <> max(value), false) AS differs
                FROM (SELECT CASE WHEN l.atthasmissing THEN (l.attmissingval::text::text[])[1] END AS value
                    FROM pg_attribute l WHERE l.attrelid IN (SELECT oid FROM leaves) AND l.attname = a.attname AND NOT l.attisdropped) v) m
            WHERE attrelid = %s AND attnum > 0 ORDER BY attnum""",
            [oid, oid],
        )
        attributes = tuple(
            Attribute(number, name, dropped, generated, self.type_of(type_oid, typmod), *said)
            for number, name, dropped, generated, type_oid, typmod, *said, _, _ in found
        )
        return attributes, _short(found[0][-2]) if found else "", bool(found and found[0][-1])


# A table itself, or for one that is partitioned the partitions that hold its rows.
_LEAVES = "SELECT t.relid FROM pg_partition_tree(c.oid) t WHERE t.isleaf UNION SELECT c.oid WHERE c.relkind <> 'p'"


def ids_of(names: list[str], attributes: tuple[Attribute, ...], before: dict[str, int]) -> list[int]:
    """The field ids of a Relation's columns `names`: attribute numbers, also of columns that were renamed or dropped since.

    Columns stand in the order of their numbers, and one that is there now was there since the first of a higher number. What agrees
    with that is taken, and of it what explains most names: by the catalogue, then as they were `before` in this stream; else the
    lowest numbers. So a name alone proves nothing: it may be that of a column that was made since. A fresh id where nothing fits.
    """
    present = [a for a in attributes if not a.generated]
    live = [a for a in present if not a.dropped]
    if [a.name for a in live[: len(names)]] == names:
        return [a.number for a in live[: len(names)]]
    ids: list[int | None] = []
    for name, number in zip(names, _aligned(names, present, before), strict=True):
        was = before.get(name)
        ids.append(number if number is not None or was is None or was < FRESH_ID_FROM else was)
    fresh = FRESH_ID_FROM + max([0, *(i - FRESH_ID_FROM + 1 for i in before.values() if i >= FRESH_ID_FROM)])
    return [fresh + place if i is None else i for place, i in enumerate(ids)]


_Worth = tuple[int, int, int, int]  # columns without a number, passed over though they are there now; names, and those as before


def _aligned(names: list[str], present: list[Attribute], before: dict[str, int]) -> list[int | None]:
    """Of each name its column's number, rising; the best way of all, by each name and column from the last to the first."""
    columns, ways = len(present), list[list[tuple[_Worth, int]]]()  # ways[-1 - p][i]: names[p:] over present[i:], and what is done first
    ways.append([((0, 0, 0, 0), _END)] * (columns + 1))
    for left, name in enumerate(reversed(names), 1):
        row: list[tuple[_Worth, int]] = [((-left, 0, 0, 0), _FRESH)]
        for i in range(columns - 1, -1, -1):
            a = present[i]
            choices = [
                (_plus(ways[-1][i + 1][0], (0, 0, int(a.name == name and not a.dropped), int(before.get(name) == a.number))), _TAKE),
                (_plus(row[-1][0], (0, -int(not a.dropped), 0, 0)), _PASS),
                (_plus(ways[-1][i][0], (-1, 0, 0, 0)), _FRESH),
            ]
            row.append(max(choices, key=lambda c: c[0]))  # the first of equals: the lowest number
        ways.append(row[::-1])
    found: list[int | None] = []
    i = 0
    while len(found) < len(names):
        step = ways[len(names) - len(found)][i][1]
        if step != _PASS:
            found.append(present[i].number if step == _TAKE else None)
        i += step != _FRESH
    return found


_END, _TAKE, _PASS, _FRESH = range(4)


def _plus(one: _Worth, more: _Worth) -> _Worth:
    return one[0] + more[0], one[1] + more[1], one[2] + more[2], one[3] + more[3]


def schema_of(
    relation: Relation, described: Described, catalogue: Catalogue, before: dict[str, int], fills: Mapping[int, Fill | None]
) -> RowSchema | None:
    """The row schema at this place in the stream; None where the columns of the primary key are not among its columns.

    `fills` are of `described`, which may be younger: what it says of a column that has another type there is not said of this one.
    """
    names = [c.name for c in relation.columns]
    ids = ids_of(names, described.attributes, before)
    by_id = dict(zip(ids, names, strict=True))
    if not described.key or not set(described.key) <= set(by_id):
        return None
    known = {a.number: a for a in described.attributes if not a.dropped}
    fields = []
    for column, number in zip(relation.columns, ids, strict=True):
        type_, attribute = catalogue.type_of(column.type_oid, column.typmod), known.get(number)
        if attribute is None:
            fields.append(Field(column.name, type_, number, fill=UNKNOWN))
        else:
            fill = fills.get(number) if attribute.type == type_ else UNKNOWN
            fields.append(Field(column.name, type_, number, attribute.nullable, fill, attribute.doc))
    return RowSchema(tuple(fields), tuple(by_id[n] for n in described.key))


def _short(files: str) -> str:
    """Of a table with many partitions a digest: it goes with every position."""
    return files if len(files) <= 40 else hashlib.sha1(files.encode(), usedforsecurity=False).hexdigest()
