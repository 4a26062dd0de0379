"""Changes → the three columns that a sinkless changefeed gives: topic, key and value, byte for byte as the recordings have them.

The JSON of rows and keys is jsontext.py's. A CDC query is run here on each change.
Reference: the recordings 06, 07, 08 and 16; CockroachDB 26.1, "Changefeed Message Envelopes".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from millstream.testing.cockroach import jsontext
from millstream.testing.cockroach.changefeeds import CDC, CdcQuery, Changefeed
from millstream.testing.cockroach.descriptors import Change, Descriptor, Row
from millstream.testing.cockroach.documents import string
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.expressions import Compiled, Compiler, Env, Run
from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.syntax import Name, Star
from millstream.testing.cockroach.types import DECIMAL, JSONB, STRING, SqlType

Message = tuple[str | None, str | None, str]
Event = tuple[Row, Row | None, Change]
"""What an expression of a CDC query reads: the row after (of a delete its key alone), the row before, the change."""
Member = tuple[str, Callable[[Event, Env], str]]

_WRAPPED = ("wrapped",)


@dataclass(frozen=True)
class Shape:
    """The table when a change happened, and as the row before has it; `topic` and `family` as the feed tells them."""

    after: Descriptor
    before: Descriptor
    topic: str
    family: str | None = None


class Envelopes:
    """One feed's. `created`: the time that changefeed_creation_timestamp() gives."""

    def __init__(self, asked: Changefeed, version: str, created: Hlc, named: Callable[[Name], SqlType]) -> None:
        self._asked, self._version, self._created, self._named = asked, version, created, named
        self._wrapped = asked.envelope in _WRAPPED
        self._flags = {name: name in asked.options for name in _METADATA}
        self._json_null = "encode_json_value_null_as_object" in asked.options
        self._virtual = asked.options.get("virtual_columns") == "null"
        self._queries: dict[int, _Query] = {}

    def resolved(self, at: Hlc) -> Message:
        text = f'{{"resolved":"{at}"}}'
        return None, None, text if self._wrapped else f'{{"__crdb__":{text}}}'

    def check(self, descriptor: Descriptor) -> None:
        """Raises SqlError where the query cannot be asked of this shape of the table."""
        if self._asked.query is not None:
            self._query(descriptor)

    def message(self, change: Change, shape: Shape) -> Message | None:
        """None where the feed says nothing of this change: a query's filter, a column family that it does not touch."""
        if shape.family is not None and not self._touches(change, shape):
            return None
        key = jsontext.key(shape.after, change.key, self._version)
        query = self._query(shape.after) if self._asked.query is not None else None
        event: Event = (_key_only(shape.after, change) if change.after is None else change.after, change.before, change)
        if query is not None and not query.holds(event):
            return None
        if self._asked.envelope == "key_only" or (change.after is None and self._asked.envelope == "row"):
            return shape.topic, key, ""
        value = self._in_wrapper(change, shape, key, query, event) if self._wrapped else self._bare(change, shape, key, query, event)
        return shape.topic, key, value

    # ---- values

    def _in_wrapper(self, change: Change, shape: Shape, key: str, query: _Query | None, event: Event) -> str:
        after = "null"
        if change.after is not None and (shape.family is None or _there(change.after, shape.after, shape.family)):
            after = _object(query.members(event)) if query is not None else self._row(shape.after, change.after, shape.family)
        text = f'{{"after": {after}'
        if self._flags["diff"]:
            there = change.before is not None and (shape.family is None or _there(change.before, shape.before, shape.family))
            text += f', "before": {self._row(shape.before, change.before, shape.family) if there and change.before is not None else "null"}'
        for name, value in self._metadata(change, shape, key):
            text += f', "{name}": {value}'
        return text + "}"

    def _bare(self, change: Change, shape: Shape, key: str, query: _Query | None, event: Event) -> str:
        members = dict(query.members(event) if query is not None else self._members(shape, event[0]))
        metadata = list(self._metadata(change, shape, key))
        if self._asked.envelope == "row":
            metadata = [(n, v) for n, v in metadata if n in ("updated", "mvcc_timestamp")]
        if metadata:
            members["__crdb__"] = _object(metadata)
        return _object(members.items())

    def _metadata(self, change: Change, shape: Shape, key: str) -> Iterator[tuple[str, str]]:
        if self._flags["key_in_value"]:
            yield "key", key
        if self._flags["mvcc_timestamp"]:
            yield "mvcc_timestamp", f'"{change.mvcc}"'
        if self._flags["topic_in_value"]:
            yield "topic", string(shape.topic)
        if self._flags["updated"]:
            yield "updated", f'"{change.hlc}"'

    def _row(self, descriptor: Descriptor, row: Row, family: str | None) -> str:
        return jsontext.row(descriptor, row, self._version, family=family, virtual=self._virtual, json_null=self._json_null)

    def _members(self, shape: Shape, row: Row) -> Iterator[tuple[str, str]]:
        for column in jsontext.columns_of(shape.after, shape.family):
            if not column.virtual or self._virtual:
                yield column.name, "null" if column.virtual else jsontext.value(column.kind, _held(row, column.id), self._version)

    def _touches(self, change: Change, shape: Shape) -> bool:
        assert shape.family is not None
        before = change.before is not None and _there(change.before, shape.before, shape.family)
        after = change.after is not None and _there(change.after, shape.after, shape.family)
        if not before or not after or change.mvcc < change.hlc:
            return before or after
        assert change.before is not None and change.after is not None
        columns = list(jsontext.columns_of(shape.after, shape.family))
        return any(_held(change.before, c.id) != _held(change.after, c.id) for c in columns)

    def _query(self, descriptor: Descriptor) -> _Query:
        found = self._queries.get(descriptor.version)
        if found is None or found.descriptor is not descriptor:
            assert self._asked.query is not None
            diff, json_null = self._flags["diff"], self._json_null
            found = _Query(self._asked.query, descriptor, self._version, self._created, self._named, diff=diff, json_null=json_null)
            self._queries[descriptor.version] = found
        return found


_METADATA = ("diff", "key_in_value", "mvcc_timestamp", "topic_in_value", "updated")


class _Query:
    """A CDC query on one shape of its table. Raises SqlError 42703 for a column that is not there."""

    def __init__(
        self,
        query: CdcQuery,
        descriptor: Descriptor,
        version: str,
        created: Hlc,
        named: Callable[[Name], SqlType],
        *,
        diff: bool,
        json_null: bool,
    ) -> None:
        self.descriptor, self._query, self._version, self._created = descriptor, query, version, created
        self._json_null = json_null
        self._tells_before = diff or query.uses_previous
        self._env = Env(version)
        compiler = Compiler(self._resolve, version, named)
        self._where: Run | None = compiler.condition(query.where) if query.where is not None else None
        self._items: list[tuple[str, Compiled]] = []
        for item in query.items:
            if isinstance(item.value, Star):
                shown = [c for c in descriptor.columns if not c.hidden and not c.virtual]
                self._items += [(c.name, self._resolve(None, c.name)) for c in shown]
            else:
                self._items.append((item.alias or _name_of(item.value), compiler.compile(item.value)))

    def holds(self, event: Event) -> bool:
        return self._where is None or self._where(event, self._env) is True

    def members(self, event: Event) -> Iterator[tuple[str, str]]:
        for name, item in self._items:
            held = item.run(event, self._env)
            is_null = self._json_null and item.type.kind == "jsonb" and held == "null"
            yield name, '{"__crdb_json_null__": true}' if is_null else jsontext.value(item.type, held, self._version)

    def _resolve(self, table: str | None, name: str) -> Compiled:
        if table == CDC:
            return self._about(name)
        if name == "crdb_internal_mvcc_timestamp" and table in (None, self._query.alias):
            return Compiled(DECIMAL, lambda event, env: Decimal(str(event[2].mvcc)))
        column = self.descriptor.column(name)
        if column is not None and not column.virtual and table in (None, self._query.alias):
            at = column.id
            return Compiled(column.kind, lambda event, env: _held(event[0], at))
        if column is not None and not column.virtual and table == "cdc_prev":
            at = column.id
            return Compiled(column.kind, lambda event, env: None if event[1] is None else _held(event[1], at))
        if table is None and name in ("cdc_prev", self._query.alias):
            return Compiled(JSONB, self._whole(0 if name == self._query.alias else 1))
        raise SqlError("42703", f'column "{name}" does not exist')

    def _whole(self, image: int) -> Run:
        descriptor, version = self.descriptor, self._version
        return lambda event, env: None if event[image] is None else jsontext.row(descriptor, event[image], version)

    def _about(self, name: str) -> Compiled:
        if name == "event_op":
            return Compiled(STRING, lambda event, env: self._operation(event[2]))
        if name == "event_schema_timestamp":
            return Compiled(DECIMAL, lambda event, env: Decimal(str(event[2].hlc)))
        return Compiled(DECIMAL, lambda event, env: Decimal(str(self._created)))

    def _operation(self, change: Change) -> str:
        if change.after is None:
            return "delete"
        if not self._tells_before:
            return "upsert"
        return "insert" if change.before is None else "update"


def _held(row: Row, column: int) -> Any:
    return row[column - 1] if column <= len(row) else None


def _name_of(value: Any) -> str:
    return getattr(value, "name", None) or "?column?"


def _object(members: Any) -> str:
    return "{" + ", ".join(f"{string(name)}: {value}" for name, value in sorted(members)) + "}"


def _key_only(descriptor: Descriptor, change: Change) -> Row:
    """The row of a delete: its key, everything else null."""
    key = {c.id for c in descriptor.key_columns}
    gone = change.before or ()
    return tuple(value if place + 1 in key else None for place, value in enumerate(gone))


def _there(row: Row, descriptor: Descriptor, family: str) -> bool:
    """Whether a row has anything in a column family: the one that holds the key is always there."""
    key = set(descriptor.key)
    columns = list(jsontext.columns_of(descriptor, family))
    return any(c.name in key for c in columns) or any(_held(row, c.id) is not None for c in columns)
