"""The last output of a stateful step: what was emitted last of each key, and what an evaluation differs from.

Rows are kept whole, or (documents) only the hash of each: 128 bits of BLAKE2b over the row's Avro bytes, without the
stamp, so that it is the same on every machine. Then an update's before is null and a delete's holds the key alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.avro import Codec
from millstream.engine.images import Indices, conform, structs
from millstream.engine.sql import Sql, quoted
from millstream.engine.state import last_table
from millstream.engine.store import GIVEN, Store
from millstream.events.batch import CREATE, DELETE, UPDATE, Batch, batch
from millstream.events.envelope import value_schema
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.plan import Stateful

_OPS = pa.array([CREATE, UPDATE, DELETE])
_HASH, _SEQUENCE = "__ms_hash", "__ms_sequence"


class Last:
    """The last output of one step. Calls that change it are part of the caller's transaction."""

    def __init__(self, step: Stateful, store: Store, sql: Sql) -> None:
        self._step, self._store, self._sql = step, store, sql
        self.table = last_table(step.name)
        self.evaluated = _without(step.schema, step.stamp)
        if step.keeps == "hash":
            self.kept = RowSchema(
                (*step.schema.key_fields, Field(_HASH, Type("bytes"), 0), Field(_SEQUENCE, Type("int64"), 0)), step.schema.key
            )
        else:
            self.kept = step.schema
        # what two rows are compared by, beside their key
        self.compared = [_HASH] if step.keeps == "hash" else [n for n in self.evaluated.names if n not in step.schema.key]

    def create(self) -> None:
        """Empty, with the index of its key."""
        lookups = [self._step.unit] if self._step.unit != self._step.schema.key else []
        self._store.create(self.table, self.kept.fields, self.kept.key, lookups)

    def grow(self) -> None:
        """The columns that it has not yet, with null in them: what was emitted had none."""
        self._store.grow(self.table, [replace(f, fill=None) for f in self.kept.fields])

    def create_indexes(self) -> None:
        if self._step.unit != self._step.schema.key:
            self._store.index(self.table, self._step.unit)

    def of(self, units: pa.Table) -> pa.Table:
        """What is kept of these units."""
        return conform(self._store.lookup(self.table, self._step.unit, units, self.kept.names), self.kept)

    def to_keep(self, rows: pa.Table, sequence: int) -> pa.Table:
        """What will be kept of these rows (in the step's schema); documents with the sequence of the commit that emits them."""
        if self._step.keeps == "rows":
            return rows
        keys = rows.select(list(self.kept.key))
        hashed = keys.append_column(_HASH, hashes(rows.select(list(self.evaluated.names)), self.evaluated))
        return hashed.append_column(_SEQUENCE, pa.array(np.full(rows.num_rows, sequence, np.int64)))

    def difference(self, last: pa.Table, now: pa.Table) -> tuple[Indices, Indices]:
        """Rows that differ (both as kept): each one's place in `last` and in `now`, -1 where it is in one only."""
        names = [*self.kept.key, *self.compared]
        sql = difference_sql('"__ms_last"', '"__ms_now"', self.kept.key, self.compared, "o.__ms_row AS o, n.__ms_row AS n")
        found = self._sql.select(sql, {"__ms_last": _numbered(last.select(names)), "__ms_now": _numbered(now.select(names))})
        places = [np.asarray(pc.fill_null(found.column(c).combine_chunks(), -1)) for c in ("o", "n")]
        return places[0].astype(np.int64), places[1].astype(np.int64)

    def apply(self, last: pa.Table, now: pa.Table, old: Indices, new: Indices) -> None:
        """Keep `now` in the places that differ."""
        key = list(self.kept.key)
        gone = last.select(key).take(pa.array(old[new < 0]))
        self._store.delete(self.table, key, gone)
        self._store.put(self.table, key, now.take(pa.array(new[new >= 0])))

    def put(self, changed: pa.Table, live: pa.Table) -> None:
        """Rows as emitted before: the keys in `changed` have these rows and no others."""
        self._store.delete(self.table, self.kept.key, changed)
        with self._store.given(self.to_keep(live, 0)):
            self._store.insert_from(self.table, self.kept.names, GIVEN)

    def events(self, last: pa.Table, rows: pa.Table, old: Indices, new: Indices, ts_us: int) -> Batch:
        """The difference as events; `rows` are whole."""
        schema = self._step.schema
        if self._step.keeps == "hash":
            missing = [f for f in schema.fields if f.name not in schema.key]
            last = last.select(list(schema.key))
            for f in missing:
                last = last.append_column(f.name, pa.nulls(last.num_rows, f.type.arrow))
            before = structs(last, np.where(new < 0, old, -1), schema)
        else:
            before = structs(last, old, schema)
        return changes(self._step.name, schema, before, structs(rows, new, schema), old, new, ts_us)

    def check_unique(self) -> str | None:
        """A key that has two rows, said in words, or None. (One column: its index has refused the second.)"""
        if len(self.kept.key) == 1:
            return None
        names = ", ".join(map(quoted, self.kept.key))
        twice = self._store.table(f"SELECT {names} FROM {quoted(self.table)} GROUP BY {names} HAVING count(*) > 1 LIMIT 1").to_pylist()
        return str({k: str(v) for k, v in twice[0].items()}) if twice else None


def hashes(rows: pa.Table, schema: RowSchema) -> pa.Array:
    """The hash of each row: 16 bytes."""
    codec, names = _codec(schema)
    columns = {name: rows.column(f.name).combine_chunks() for name, f in zip(names, schema.fields, strict=True)}
    datums = codec.encode(columns, rows.num_rows)
    data, start, made = memoryview(datums.data), 0, []
    for end in datums.ends.tolist():
        made.append(blake2b(data[start:end], digest_size=16).digest())
        start = end
    return pa.array(made, pa.binary())


@lru_cache(maxsize=64)
def _codec(schema: RowSchema) -> tuple[Codec, list[str]]:
    record = next(f for f in json.loads(value_schema("row", schema))["fields"] if f["name"] == "before")["type"][1]
    return Codec(json.dumps(record)), [f["name"] for f in record["fields"]]


def _without(schema: RowSchema, column: str | None) -> RowSchema:
    return RowSchema(tuple(f for f in schema.fields if f.name != column), schema.key)


def _numbered(rows: pa.Table) -> pa.Table:
    return rows.append_column("__ms_row", pa.array(np.arange(rows.num_rows, dtype=np.int64)))


def difference_sql(last: str, now: str, key: Sequence[str], compared: Sequence[str], select: str) -> str:
    """`select` over the rows of two relations (o: last, n: now) that differ, matched by key. Nulls and NaNs equal themselves."""
    on = " AND ".join(f"o.{quoted(k)} = n.{quoted(k)}" for k in key)
    first = quoted(key[0])
    differ = " OR ".join(f"o.{quoted(c)} IS DISTINCT FROM n.{quoted(c)}" for c in compared) or "false"
    return f"SELECT {select} FROM {last} o FULL JOIN {now} n ON {on} WHERE o.{first} IS NULL OR n.{first} IS NULL OR {differ}"


def changes(name: str, schema: RowSchema, before: pa.StructArray, after: pa.StructArray, old: Indices, new: Indices, ts_us: int) -> Batch:
    """Events of a computed difference: an insert, update or delete each. Version and place are the publisher's to give."""
    count = len(old)
    return batch(
        name,
        schema,
        {
            "op": _OPS.take(pa.array(np.where(new < 0, 2, np.where(old < 0, 0, 1)))),
            "before": before,
            "after": after,
            "incarnation": np.zeros(count, np.uint32),
            "major": np.zeros(count, np.uint64),
            "minor": np.zeros(count, np.uint32),
            "ts_us": np.full(count, ts_us, np.int64),
            "position": pa.repeat("", count),
        },
    )
