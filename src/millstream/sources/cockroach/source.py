"""The CockroachDB source: what `sources.contract` asks for, put together from the parts of this folder.

Kind `frontier`: events come in no one order and may come again, and each table's resolved times say up to where it is complete. The
source's thread runs everything here; each feed has a thread of its own. The client keeps the place: the server remembers nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from millstream.errors import MillstreamError, Refused
from millstream.events.origin import Origin
from millstream.events.progress import Position
from millstream.events.types import RowSchema
from millstream.sources.cockroach import statements
from millstream.sources.cockroach.check import check
from millstream.sources.cockroach.chunk import Chunks
from millstream.sources.cockroach.derived import Stopped, checked, derived
from millstream.sources.cockroach.describe import Catalogue, Past
from millstream.sources.cockroach.feeds import Ability, Limits
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.cockroach.options import Options
from millstream.sources.cockroach.scan import TableScans
from millstream.sources.cockroach.session import Server, Session
from millstream.sources.cockroach.stream import Stream, unknown_table
from millstream.sources.contract import WHOLE, Admission, Chunk, Delivery, Reading, Readings, SchemaBackfill, Scope, Table


def open_source(name: str, options: Options) -> Source:
    """The source named `name`. Connects when it is first used."""
    return Source(name, options)


class Source:
    """One source. See `sources.contract.Source` for what each method promises."""

    admission: Admission = "frontier"

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.schema_backfill: SchemaBackfill = options.schema_backfill
        self.on_loss = options.on_loss
        self._options = options
        self._server = Server(options.url, name)
        self._session = Session(self._server)
        self._catalogue = Catalogue(self._session)
        self._names = {t.written: t for t in options.names()}
        self._derived = {written: derived(table, name) for written, table in options.derived.items()}
        self._chunks = Chunks(self._session, self._catalogue, self._derived, options.chunk_bytes, lambda: self._closed)
        self._ability = Ability()
        limits = Limits(options.batch_messages, options.batch_bytes, options.batch_bytes)
        self._scans = TableScans(self._server, self._session, self._catalogue, self._derived, self._ability, limits)
        self._reopened: set[str] = set()
        self._stream: Stream | None = None
        self._resumes: Position | None = None
        self._closed = False

    # ---- discovery

    def check(self) -> None:
        check(self._session, self._catalogue, tuple(self._names.values()), self._derived)

    def tables(self) -> list[Table]:
        names = list(self._names.values())
        database = str(self._session.rows(statements.WHO)[0][0])
        found = self._catalogue.find(names)
        gone = self._gone([name.written for name in names if name.written not in found])
        for name in names:
            if name.written not in found and name.written not in gone:
                raise unknown_table(name, self._server.where)
        shapes = self._catalogue.shapes([f.oid for f in found.values()], None)
        tables = []
        for name in names:
            origin = Origin("cockroachdb", self.name, database, name.schema, name.table)
            if name.written in gone:
                tables.append(Table(name.written, RowSchema((), ()), "whole", origin, 0))
                continue
            shape = shapes.get(found[name.written].oid)
            if shape is None:
                raise unknown_table(name, self._server.where)
            described = Past(self._catalogue, {}).described(shape, name.written, Hlc(0, 0))
            how = self._derived[name.written]
            try:
                checked(how, shape, described)
            except Stopped as stop:
                raise stop.refused from None
            schema = how.schema(how.described(described).schema)
            tables.append(Table(name.written, schema, "whole", origin, self._catalogue.estimate(name)))
        return tables

    def resumes(self, position: Position) -> None:
        self._resumes = position

    def _gone(self, missing: Sequence[str]) -> set[str]:
        """Of tables that have not their name any more those that were dropped, or set aside before. One that has another name is none."""
        detail = self._resumes.detail if self._resumes is not None else {}
        aside, known = detail.get("aside", {}), {written: oid for written, oid in detail.get("oids", {}).items() if written in missing}
        there = self._catalogue.outlines(sorted(set(known.values())), None) if known else {}
        return {written for written in missing if written in aside or (written in known and known[written] not in there)}

    def readings(self) -> Readings:
        names = list(self._names.values())
        found = self._catalogue.find(names)
        shapes = self._catalogue.shapes(sorted({f.oid for f in found.values()}), None)
        derived, feeds = [], set()
        for name in names:
            how, shape = self._derived[name.written], shapes.get(found[name.written].oid) if name.written in found else None
            if shape is None:
                raise unknown_table(name, self._server.where)
            why = how.pushes(shape, self._session.version)
            feeds.add(name.written if why is None or self._options.feeds == "per_table" else None)
            if how.is_derived:
                derived.append(Reading(name.written, f"{name.schema}.{name.table}", why))
        return Readings(len(feeds), tuple(derived))

    # ---- the stream

    def stream(self, resume_after: Position | None) -> Iterator[Delivery]:
        self._end_stream()
        self._stream = stream = Stream(
            self._server, self._session, self._catalogue, self._options, self._derived, self._ability, self._reopened
        )
        try:
            yield from stream.deliveries(stream.open(resume_after))
        except MillstreamError:
            if not self._closed:
                raise
        finally:
            stream.close()
            if self._stream is stream:
                self._stream = None

    def _end_stream(self) -> None:
        self._scans.close()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    # ---- chunks, acknowledgement

    def chunk(self, table: str, after: list[Any] | None, rows_max: int, scope: Scope = WHOLE) -> Chunk | None:
        if (stream := self._stream) is None or (at := stream.table(table)) is None:
            return None
        return self._marked(stream, self._chunks.read(table, *at, stream.past, after, rows_max, scope))

    def admits(self, table: str, scope: Scope) -> int:
        name = self._names[table]
        found = self._catalogue.find([name]).get(table)
        if found is None:
            raise Refused(f"there is no table {table}", code="table_changed", where=self._server.where)
        return self._chunks.admits(table, found.oid, scope)

    def absent(self, table: str, schema: RowSchema, rows: pa.RecordBatch, scope: Scope) -> Chunk | None:
        if (stream := self._stream) is None or (at := stream.table(table)) is None:
            return None
        return self._marked(stream, self._chunks.absent(table, *at, stream.past, schema, rows, scope))

    @staticmethod
    def _marked(stream: Stream, chunk: Chunk | None) -> Chunk | None:
        """The stream has passed the read point already: its very next delivery says so."""
        if chunk is not None:
            stream.marks.append(chunk.mark)
        return chunk

    def begin_scan(self, name: str, table: str, above: tuple[int, int] | None) -> tuple[int, int] | None:
        if self._closed or (stream := self._stream) is None or (found := stream.table(table)) is None:
            return None
        oid, at = found
        if above is not None and at <= above:
            return None
        self._scans.begin(name, table, oid, at, stream.past)
        return at.wall, at.logical

    def scanned(self, name: str, rows_max: int) -> Chunk | None:
        chunk = self._scans.next(name, rows_max)
        return None if chunk is None or self._stream is None else self._marked(self._stream, chunk)

    def end_scan(self, name: str) -> None:
        self._scans.end(name)

    def acknowledge(self, position: Position) -> None:
        """Nothing: the server keeps no place for us, and forgets what its garbage collection's time says."""

    def head(self) -> tuple[int, int]:
        return Hlc.parse(str(self._session.rows(statements.NOW)[0][0]))

    def close(self) -> None:
        self._closed = True
        if (stream := self._stream) is not None:
            stream.close()
        self._scans.close()
        self._session.close()
