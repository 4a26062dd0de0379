"""Tables as the catalogue shows them as of a time, and what rows have in a column that was told of later.

CockroachDB describes the past as exactly as the present: within the garbage collection's time, AS OF SYSTEM TIME.
What is remembered beside that is small: of a column that appeared, or was converted, since the source began, what older rows
have in it. `stored` goes with a position, and comes back at the next start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from millstream.events.types import UNKNOWN, Constant, Fill
from millstream.sources.cockroach import described, statements
from millstream.sources.cockroach.defaults import constant
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.cockroach.session import Session
from millstream.sources.cockroach.statements import KeyColumn
from millstream.sources.cockroach.types import is_shard, type_of
from millstream.sources.names import TableName

NANOSECOND_APART = 1
_NULL, _UNKNOWN = "null", "unknown"


@dataclass(frozen=True)
class Found:
    """A relation by its name: its id, and pg_class's letter."""

    oid: int
    kind: str


@dataclass(frozen=True)
class Column:
    """As the catalogue has it. `computed` is '', 'stored' or 'virtual'; `default` an expression as the server writes it."""

    number: int
    name: str
    sql_type: str
    nullable: bool
    hidden: bool
    computed: str
    default: str | None
    doc: str


@dataclass(frozen=True)
class Shape:
    """A table at one time. `name` is the one it has there; `key` its primary key's columns with shards, `descending` those of them that
    fall. `key_numbers` are those of the columns that rows have."""

    oid: int
    schema: str
    table: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    descending: frozenset[str]

    @property
    def told(self) -> tuple[Column, ...]:
        """What rows have: no virtual column, so no shard either."""
        return tuple(c for c in self.columns if c.computed != "virtual" and not (c.hidden and is_shard(c.name)))

    @property
    def key_numbers(self) -> tuple[int, ...]:
        numbers = {c.name: c.number for c in self.told}
        return tuple(numbers[name] for name in self.key if name in numbers)

    @property
    def reading(self) -> tuple[KeyColumn, ...]:
        """By what the table is read in order: the whole index, shards too."""
        types = {c.name: c.sql_type for c in self.columns}
        return tuple(KeyColumn(name, types[name], name in self.descending) for name in self.key)


class Catalogue:
    """Asks the database. `at` None is now."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, names: Sequence[TableName]) -> dict[str, Found]:
        """By `TableName.written`, of those that are there."""
        rows = self._session.rows(statements.find(names))
        there = {(schema, table): Found(int(oid), _text(kind)) for oid, schema, table, kind in rows}
        return {n.written: there[n.schema, n.table] for n in names if (n.schema, n.table) in there}

    def names(self) -> list[str]:
        """Every table that could be meant, as schema.table."""
        return [f"{schema}.{table}" for _, schema, table, kind in self._session.rows(statements.RELATIONS) if _text(kind) == "r"]

    def outlines(self, oids: Sequence[int], at: Hlc | None) -> dict[int, tuple[Any, ...]]:
        """By id, of the tables that are there: equal where no column of the table, nor its key or its name, has changed."""
        found: dict[int, list[Any]] = {}
        for oid, *rest in self._session.rows(statements.outlines(oids, _at(at))) if oids else ():
            found.setdefault(int(oid), []).append(tuple(map(str, rest)))
        for oid, key in self._session.rows(statements.primary_keys(oids, _at(at))) if found else ():
            if int(oid) in found:
                found[int(oid)].append(("key", str(key)))
        return {oid: tuple(rows) for oid, rows in found.items()}

    def shapes(self, oids: Sequence[int], at: Hlc | None) -> dict[int, Shape]:
        """By id, of the tables that are there."""
        if not oids:
            return {}
        columns: dict[int, dict[int, Column]] = {}
        places: dict[int, tuple[str, str]] = {}
        for row in self._session.rows(statements.columns(oids, _at(at))):
            oid, schema, table, number, name, sql_type, nullable, hidden, generated, default, doc = row
            computed = {"s": "stored", "v": "virtual"}.get(_text(generated).strip("\0"), "")
            made = Column(int(number), name, sql_type, nullable == "YES", hidden == "YES", computed, default or None, doc or "")
            columns.setdefault(int(oid), {}).setdefault(made.number, made)
            places[int(oid)] = (schema, table)
        keys: dict[int, list[tuple[str, str]]] = {}
        for oid, name, direction in self._session.rows(statements.keys(oids, _at(at))):
            keys.setdefault(int(oid), []).append((name, direction))
        return {
            oid: Shape(
                oid,
                *places[oid],
                tuple(columns[oid].values()),
                tuple(name for name, _ in keys.get(oid, ())),
                frozenset(name for name, direction in keys.get(oid, ()) if direction == "DESC"),
            )
            for oid in columns
        }

    def unreadable(self, oids: Sequence[int]) -> set[int]:
        """Those from which we may not SELECT."""
        return {int(oid) for oid, may in self._session.rows(statements.readable(oids)) if may is not True} if oids else set()

    def families(self, name: TableName) -> int:
        """How many column families the table has."""
        (_, text) = self._session.rows(statements.create(name))[0]
        return max(1, sum(line.strip().startswith("FAMILY ") for line in str(text).splitlines()))

    def estimate(self, name: TableName) -> int:
        """How many rows the server thinks that the table has; 0 where it never counted."""
        names, rows = self._session.table(statements.statistics(name))
        named = [dict(zip(names, row, strict=True)) for row in rows]
        whole = [s for s in named if "partial" not in str(s["statistics_name"])]  # others count a part of the table
        return int(max(whole, key=lambda s: str(s["created"]))["row_count"]) if whole else 0

    def changing(self, oid: int, at: Hlc) -> bool:
        """Whether a change of the table's schema was under way then. Of 22.x alone."""
        return any(int(found) == oid for (found,) in self._session.rows(statements.running_changes([oid], str(at))))


def trades_names(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    """Whether between two outlines a column took the name of another, or the place of another in the key: rows do not show it."""
    was, is_ = ({name: number for _, number, name, *_ in (row for row in outline if row[0] != "key")} for outline in (before, now))
    keys = [row[1] for outline in (before, now) for row in outline if row[0] == "key"]
    is_other_key = len(keys) == 2 and keys[0] != keys[1] and keys[0].count(",") == keys[1].count(",")
    return is_other_key or any(is_.get(name, number) != number for name, number in was.items())


class Past:
    """What older rows have in columns, by table and column number: only of columns that appeared or were converted since the source began.

    `look` must see a table's shapes in any order of time; what it once said of a column it says again.
    """

    def __init__(self, catalogue: Catalogue, stored: Mapping[str, Mapping[str, list[str]]]) -> None:
        self._catalogue = catalogue
        self._last: dict[int, tuple[Hlc, Shape]] = {}
        self._fills: dict[int, dict[int, Fill | None]] = {
            int(oid): {int(n): _unstored(said) for n, said in columns.items()} for oid, columns in stored.items()
        }

    def begin(self, shape: Shape, at: Hlc) -> None:
        """As the table was where the stream goes on: its columns are no news."""
        self._last[shape.oid] = (at, shape)

    def look(self, shape: Shape, at: Hlc) -> dict[int, Fill | None]:
        """By column number, what rows have that were told without the column, or with another type of it."""
        fills = self._fills.setdefault(shape.oid, {})
        if shape.oid not in self._last:
            self.begin(shape, at)
        since, before = self._last[shape.oid]
        if at > since:
            known = {c.number: c for c in before.told}
            for column in shape.told:
                if column.number not in known:
                    if column.number not in fills:
                        fills[column.number] = self._appeared(shape.oid, column, since, at)
                elif known[column.number].sql_type != column.sql_type and _converted(known[column.number].sql_type, column.sql_type):
                    fills[column.number] = UNKNOWN
            self._last[shape.oid] = (at, shape)
        return dict(fills)

    def _appeared(self, oid: int, column: Column, after: Hlc, upto: Hlc) -> Fill | None:
        """What old rows have in a column that was not there `after`: its default as it was when the column came. One that was given a
        default afterwards left old rows null, so the moment is looked for."""
        if constant(column.default, column.sql_type) is None:
            return None
        low, high, first = after, upto, column
        while high.wall - low.wall > NANOSECOND_APART:
            middle = Hlc((low.wall + high.wall) // 2, 0)
            shape = self._catalogue.shapes([oid], middle).get(oid)
            found = next((c for c in shape.told if c.number == column.number), None) if shape is not None else None
            if found is None:
                low = middle
            else:
                high, first = middle, found
        return constant(first.default, first.sql_type)

    @property
    def stored(self) -> dict[str, dict[str, list[str]]]:
        """As plain JSON."""
        return {str(oid): {str(n): _stored(fill) for n, fill in fills.items()} for oid, fills in self._fills.items() if fills}

    def described(self, shape: Shape, written: str, at: Hlc) -> described.Described:
        """The table as the decoder wants it. `written` is its name in the definition."""
        fills = self.look(shape, at)
        columns = tuple(
            described.Column(
                c.number,
                c.name,
                type_of(c.sql_type),
                c.nullable,
                fills.get(c.number),
                # Whatever is no constant was computed for each old row: the server tells those rows again by itself.
                retold=bool(c.computed) or (c.default is not None and constant(c.default, c.sql_type) is None),
                doc=c.doc,
            )
            for c in shape.told
        )
        return described.Described(written, columns, shape.key_numbers, len(shape.key), at)


def _converted(before: str, after: str) -> bool:
    """Whether values may be others, and not only wider: STRING and VARCHAR(200) hold the same ones."""
    return type_of(before) != type_of(after) or _family(before) != _family(after)


def _family(sql_type: str) -> str:
    name = sql_type.split("(")[0].split(" COLLATE ")[0].strip().upper()
    if name in ("STRING", "VARCHAR", "CHAR", "TEXT", "BPCHAR"):
        return "STRING"
    return "VARBIT" if name == "BIT" else name


def _stored(fill: Fill | None) -> list[str]:
    if isinstance(fill, Constant):
        return ["constant", fill.text]
    return [_UNKNOWN] if fill is UNKNOWN else [_NULL]


def _unstored(said: Sequence[str]) -> Fill | None:
    if said[0] == "constant":
        return Constant(said[1])
    return UNKNOWN if said[0] == _UNKNOWN else None


def _at(at: Hlc | None) -> str | None:
    return None if at is None else str(at)


def _text(value: Any) -> str:
    """pg_class.relkind and the like: a text, or the driver's bytes of "char"."""
    return value.decode() if isinstance(value, bytes) else str(value or "")
