"""Each kind of sink as a `Target`: how it is opened, and how its target is read back without the sink's own code.

Also the program that the kill tests start: `python sink_targets.py KIND FOLDER FENCE[:SEED]`.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import struct
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

from millstream.components import find
from millstream.events.types import RowSchema, Type
from millstream.sinks.contract import Sink
from millstream.sinks.kinds import KINDS
from millstream.testing.sink_conformance import write_steadily
from millstream.testing.sink_events import Event, Key, Row, latest
from millstream.testing.sink_schemas import follow_steadily

NAME = "films.0"


@dataclass(frozen=True)
class KindTarget:
    """What the kinds share. `project` is a fresh folder."""

    project: Path
    kind = ""
    options: ClassVar = {}
    exclusive = True
    keeps_events = True
    follows = True
    fills = False
    moments = ()

    @property
    def place(self) -> Path:
        return self.project / ".millstream"

    def sink(self) -> Sink:
        component = find(KINDS, self.kind)
        return component.open(NAME, component.options(**self.options), self.place)

    def rows(self, schema: RowSchema) -> dict[Key, Row]:
        return latest(self.events(schema), schema)

    def command(self) -> list[str]:
        return [sys.executable, __file__, self.kind, str(self.project)]


class JsonlTarget(KindTarget):
    kind, options = "jsonl", {"file": "out/films.jsonl"}
    follows = False
    moments = ("sink.jsonl.lines_written", "sink.jsonl.position_written")

    @property
    def folder(self) -> Path:
        return self.project / "out"

    def events(self, schema: RowSchema, start: int = 0, end: int | None = None) -> list[Event]:
        lines = [json.loads(line) for line in (self.folder / "films.jsonl").read_text().splitlines()]
        return [_event(line, schema) for line in lines if start <= line["offset"] < (end or 1 << 63)]


def _event(line: dict[str, Any], schema: RowSchema) -> Event:
    row = from_json(line["after"] or line["before"], schema)
    assert from_json(line["key"], schema) == {**dict.fromkeys(schema.names), **{k: row[k] for k in schema.key}}
    assert line["version"] == f"{1:08x}{line['offset']:016x}{0:08x}"
    assert line["ts_us"] == 1_700_000_000_000_000 + line["offset"]
    assert (line.get("backfill"), line.get("cause")) == (("initial", "backfill") if line["op"] == "r" else (None, None))
    return Event(line["topic"], line["offset"], line["op"], row)


class IcebergTarget(KindTarget):
    kind, options = "iceberg", {"table": "lake.films"}
    exclusive = False
    moments = ("sink.iceberg.rendered", "sink.iceberg.staged", "sink.iceberg.committed", "sink.iceberg.changed")

    @property
    def folder(self) -> Path:
        return self.place / "lake"

    def table(self) -> Any:
        from pyiceberg.catalog import load_catalog  # two seconds that the other kinds' processes need not wait

        catalog = load_catalog(
            "millstream", type="sql", uri=f"sqlite:///{self.folder}/catalog.db", warehouse=f"file://{self.folder}/warehouse"
        )
        try:
            return catalog.load_table("lake.films")
        finally:
            catalog.close()

    def events(self, schema: RowSchema, start: int = 0, end: int | None = None) -> list[Event]:
        from pyiceberg.exceptions import NoSuchTableError

        try:
            rows = self.table().scan().to_arrow().to_pylist()
        except NoSuchTableError:
            return []
        for row in rows:
            assert row["_version"] == f"{1:08x}{row['_offset']:016x}{0:08x}"
            assert row["_ts"] == dt.datetime.fromtimestamp(1_700_000_000, dt.UTC) + dt.timedelta(microseconds=row["_offset"])
            assert row["_backfill"] == ("initial" if row["_op"] == "r" else None)
        # A scan gives files in no order of its own.
        rows.sort(key=lambda r: r["_offset"])
        found = [Event(r["_topic"], r["_offset"], r["_op"], {f.name: members(r.get(f.name), f.type) for f in schema.fields}) for r in rows]
        return [e for e in found if start <= e.offset < (end or 1 << 63)]


def members(value: Any, kind: Type) -> Any:
    """A value without the members of records that the schema has no more."""
    if value is None:
        return None
    if kind.element is not None:
        return [members(v, kind.element) for v in value]
    return {f.name: members(value[f.name], f.type) for f in kind.fields} if kind.kind == "record" else value


class SearchTarget(KindTarget):
    kind, options = "search", {"index": "films", "heap_mb": 15}
    keeps_events = False
    fills = True
    moments = ("sink.search.before_commit", "sink.search.after_commit")

    @property
    def folder(self) -> Path:
        return self.place / "search"

    def events(self, schema: RowSchema, start: int = 0, end: int | None = None) -> list[Event]:
        raise AssertionError("an index keeps rows, not events")

    def rows(self, schema: RowSchema) -> dict[Key, Row]:
        import tantivy

        from millstream.sinks.search.query import search

        hits = search(self.place, "films", "*", 5_000).hits
        rows = {}
        for hit in hits:
            row = from_json(hit.document, schema, whole=False)
            key = tuple(value_of(v, schema[name].type) for v, name in zip(hit.key, schema.key, strict=True))
            assert key == tuple(row[name] for name in schema.key)
            assert key not in rows, f"two documents of {key}"
            rows[key] = row
        stored = tantivy.Index.open(str(self.folder / "films")).searcher().num_docs
        assert stored == len(rows) + 1, "the rows and the one reserved document"
        return rows


def from_json(row: dict[str, Any], schema: RowSchema, whole: bool = True) -> Row:
    return {f.name: value_of(row.get(f.name), f.type, whole) for f in schema.fields}


def value_of(value: Any, kind: Type, whole: bool = True) -> Any:
    """A value of `millstream.sinks.jsontext` as Arrow's to_pylist would give it. Not `whole`: records may be of another version."""
    if value is None:
        return None
    match kind.kind:
        case "list":
            return [value_of(v, kind.element, whole) for v in value]
        case "record":
            assert not whole or list(value) == [f.name for f in kind.fields]
            return {f.name: value_of(value.get(f.name), f.type, whole) for f in kind.fields}
        case "decimal":
            assert isinstance(value, str)
            return Decimal(value)
        case "bytes":
            return base64.b64decode(value, validate=True)
        case "date":
            return dt.date.fromisoformat(value)
        case "time":
            return dt.time.fromisoformat(value)
        case "timestamp" | "timestamptz":
            found = dt.datetime.fromisoformat(value)
            assert (found.tzinfo is not None) == (kind.kind == "timestamptz")
            return found
        case "float32" | "float64":
            assert isinstance(value, float)
            return value if kind.kind == "float64" else struct.unpack("f", struct.pack("f", value))[0]
    return value


TARGETS = {t.kind: t for t in (JsonlTarget, IcebergTarget, SearchTarget)}

if __name__ == "__main__":
    fence, _, seed = sys.argv[3].partition(":")
    given = TARGETS[sys.argv[1]](Path(sys.argv[2]))
    if seed:
        follow_steadily(given, int(fence), int(seed))
    else:
        write_steadily(given, int(fence))
