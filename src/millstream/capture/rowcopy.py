"""The rows that a topic has now: its fold up to an offset, keyed, on disk. One topic, one file, SQLite.

It holds nothing that the topic does not, so it is never the truth: one that is behind reads on, one that is lost or that
compaction has gone past is made again from the start of the topic. Invariant 8: on disk, because it grows with the table.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.avro import Codec
from millstream.errors import Irrecoverable
from millstream.events import envelope
from millstream.events.batch import Batch
from millstream.events.nested import relabelled
from millstream.events.types import RowSchema
from millstream.schemas.registry import Registry
from millstream.topics.contract import Topic, Topics

_READ_BYTES = 8 << 20
_TABLES = """
CREATE TABLE IF NOT EXISTS place (topic TEXT, next INTEGER);
CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, schema INTEGER NOT NULL, row BLOB NOT NULL, holes TEXT);
CREATE TABLE IF NOT EXISTS addressed (key BLOB PRIMARY KEY);
"""


@dataclass(frozen=True)
class Rows:
    """Rows as they were told, of one schema: `keys` and `images` go together, as do `holes` (what an image could not hold, or None)."""

    schema_id: int
    schema: RowSchema
    keys: list[bytes]
    images: pa.StructArray
    holes: list[list[dict[str, str]] | None]


class RowCopy:
    """`path` None: a temporary one, gone when it is closed. Not for two threads at once."""

    def __init__(self, path: Path | None, topic: Topic, registry: Registry) -> None:
        self._topic, self._registry = topic, registry
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._schemas: dict[int, RowSchema] = {}
        self._connection = sqlite3.connect(str(path or ""), isolation_level=None, check_same_thread=False)
        # What a loss of power takes away is read from the topic again; what is there is whole.
        self._connection.executescript(f"PRAGMA journal_mode = {'WAL' if path else 'OFF'}; PRAGMA synchronous = OFF; {_TABLES}")
        found = self._connection.execute("SELECT topic, next FROM place").fetchone()
        if found is None or found[0] != topic.name:
            self._clear()
        else:
            self.next = int(found[1])

    def _clear(self) -> None:
        with self._transaction():
            self._connection.execute("DELETE FROM rows")
            self._connection.execute("DELETE FROM addressed")
            self._connection.execute("DELETE FROM place")
            self._connection.execute("INSERT INTO place VALUES (?, 0)", [self._topic.name])
        self.next = 0

    # ---- beside its topic

    def put(self, batch: Batch) -> None:
        """Events that are about to be committed to the topic: seen by `of` at once, kept by `settle`, forgotten by `undo`."""
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
        self._put(batch)

    def settle(self, end: int) -> None:
        """The topic has what was put; it ends there. A crash before this leaves what `follow` makes good. Raises as `apply`."""
        if self._connection.in_transaction:
            self._move(end)
            self._connection.execute("COMMIT")
            self.next = end

    def undo(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    # ---- following its topic

    def follow(self, topics: Topics, bytes_max: int = _READ_BYTES) -> Iterator[None]:
        """Read the topic on to its end, piece by piece."""
        name = self._topic.name
        if 0 < self.next < topics.compacted_to(name) or self.next > topics.end(name):
            self._clear()
        while batches := topics.read(name, self.next, bytes_max=bytes_max):
            self.apply(batches, topics.read_end(batches))
            yield

    def apply(self, batches: Sequence[Batch], end: int) -> None:
        """The topic's events from `next` on, up to `end`.

        Raises Irrecoverable("fenced") where another process has moved on: it follows the same topic.
        """
        with self._transaction():
            for batch in batches:
                self._put(batch)
            self._move(end)
        self.next = end

    def _move(self, end: int) -> None:
        if self._connection.execute("UPDATE place SET next = ? WHERE next = ?", [end, self.next]).rowcount != 1:
            raise Irrecoverable("another process keeps this copy", code="fenced", where=f"rows of {self._topic.name}", cure="stop this one")

    def _put(self, batch: Batch) -> None:
        keys = key_bytes(batch)
        last = {key: i for i, key in enumerate(keys)}
        after = batch.column("after")
        stays = np.asarray(after.is_valid())
        self._connection.executemany("DELETE FROM rows WHERE key = ?", ([key] for key, i in last.items() if not stays[i]))
        said = "DELETE FROM addressed WHERE key = ?" if batch.to is None else "INSERT OR IGNORE INTO addressed VALUES (?)"
        self._connection.executemany(said, ([key] for key in last))
        kept = [(key, i) for key, i in last.items() if stays[i]]
        if not kept:
            return
        assert batch.schema_id is not None
        places = pa.array([i for _, i in kept])
        holes = [_of_after(said) for said in batch.column("holes").take(places).to_pylist()]
        datums = _encoded(batch.topic, batch.schema, after.take(places))
        values = zip((key for key, _ in kept), datums, holes, strict=True)
        self._connection.executemany(
            "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", ((key, batch.schema_id, row, said) for key, row, said in values)
        )

    # ---- its rows

    def first(self, rows_max: int, bytes_max: int) -> list[Rows]:
        """The first rows by key; none when it is empty. At least one row, and not many more than `bytes_max`."""
        return self._grouped(
            self._connection.execute("SELECT key, schema, row, holes FROM rows ORDER BY key LIMIT ?", [rows_max]), bytes_max
        )

    def after(self, key: bytes, rows_max: int, bytes_max: int) -> list[Rows]:
        """As `first`, of the rows beyond a key, in the order of the keys' bytes."""
        found = self._connection.execute("SELECT key, schema, row, holes FROM rows WHERE key > ? ORDER BY key LIMIT ?", [key, rows_max])
        return self._grouped(found, bytes_max)

    def of(self, keys: Sequence[bytes]) -> list[Rows]:
        """The rows with these keys that there are, in no order."""
        return self._grouped(self._asked(keys), None)

    def has(self, batch: Batch) -> npt.NDArray[np.bool_]:
        """For each event, whether its row is here exactly as it is after it, told in the same version, and was told to all: of one that was
        addressed the others have what came before."""
        keys, after = key_bytes(batch), batch.column("after")
        stands = {key: (schema, row, said) for key, schema, row, said in self._asked(keys)}
        for (key,) in self._connection.execute("SELECT a.key FROM asked a JOIN addressed t ON t.key = a.key"):
            stands.pop(key, None)
        holes = map(_of_after, batch.column("holes").to_pylist())
        told = zip(keys, _encoded(batch.topic, batch.schema, after), holes, strict=True)
        return np.array([stands.get(key) == (batch.schema_id, row, said) for key, row, said in told], np.bool_)

    def _asked(self, keys: Sequence[bytes]) -> sqlite3.Cursor:
        connection = self._connection
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS asked (key BLOB PRIMARY KEY)")
        connection.execute("DELETE FROM asked")
        connection.executemany("INSERT OR IGNORE INTO asked VALUES (?)", ([key] for key in keys))
        return connection.execute("SELECT r.key, schema, row, holes FROM asked a JOIN rows r ON r.key = a.key")

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM rows").fetchone()[0])

    def _grouped(self, found: sqlite3.Cursor, bytes_max: int | None) -> list[Rows]:
        groups: dict[int, list[tuple[bytes, bytes, str | None]]] = {}
        size = 0
        for key, schema_id, row, holes in found:
            groups.setdefault(schema_id, []).append((key, row, holes))
            size += len(row)
            if bytes_max is not None and size >= bytes_max:
                break
        found.close()
        return [self._decoded(schema_id, rows) for schema_id, rows in groups.items()]

    def _decoded(self, schema_id: int, rows: Sequence[tuple[bytes, bytes, str | None]]) -> Rows:
        schema = self._schemas.get(schema_id)
        if schema is None:
            schema = self._schemas[schema_id] = envelope.row_schema(self._registry.by_id(schema_id), self._topic.key)
        keys, datums, holes = zip(*rows, strict=True)
        images = _decoded(self._topic.name, schema, datums)
        return Rows(schema_id, schema, list(keys), images, [None if said is None else json.loads(said) for said in holes])

    def close(self) -> None:
        self._connection.close()


def key_bytes(batch: Batch) -> list[bytes]:
    """The canonical bytes of every event's key."""
    keys = batch.keys()
    found: list[bytes] = row_keys(keys.flatten(), len(batch), batch.schema, batch.topic).to_pylist()
    return found


def row_keys(columns: Sequence[pa.Array], rows: int, schema: RowSchema, topic: str) -> pa.BinaryArray:
    """The key of each row as the bytes of its Avro record: equal keys are equal bytes, of whatever types. `columns` in key order."""
    codec = _key_codec(topic, schema)
    datums = codec.encode(dict(zip([name for name, _ in _names(codec)], columns, strict=True)), rows)
    offsets = np.concatenate([[0], datums.ends]).astype(np.int32)
    return pa.BinaryArray.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(datums.data)])


def _names(codec: Codec) -> list[tuple[str, pa.DataType]]:
    return [(f.name, f.type) for f in codec.arrow_type]


@lru_cache(maxsize=256)
def _key_codec(topic: str, schema: RowSchema) -> Codec:
    return Codec(envelope.key_schema(topic, schema))


@lru_cache(maxsize=256)
def _row_codec(topic: str, schema: RowSchema) -> Codec:
    """Of an image alone: the record that stands in the envelope as `before`."""
    before = next(f for f in json.loads(envelope.value_schema(topic, schema))["fields"] if f["name"] == "before")
    return Codec(json.dumps(before["type"][1]))


def _encoded(topic: str, schema: RowSchema, images: pa.StructArray) -> list[bytes]:
    codec = _row_codec(topic, schema)
    datums = codec.encode(relabelled(images, codec.arrow_type), len(images))
    data, ends = bytes(datums.data), datums.ends.tolist()
    return [data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _decoded(topic: str, schema: RowSchema, datums: Sequence[bytes]) -> pa.StructArray:
    ends = np.cumsum(np.fromiter(map(len, datums), np.int64, len(datums)))
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    return relabelled(_row_codec(topic, schema).decode(b"".join(datums), starts, ends), schema.arrow)


def _of_after(said: list[dict[str, Any]] | None) -> str | None:
    mine = [{"field": h["field"], "why": h["why"]} for h in said or () if h["image"] == "after"]
    return json.dumps(mine) if mine else None
