"""The Postgres source: what `sources.contract` asks for, put together from the parts of this folder.

Kind `log`: commits come in the order of the log, each once a connection. The source's thread runs everything here; the
link has a thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.errors import MillstreamError, Refused, Retryable
from millstream.events.batch import Batch
from millstream.events.origin import Origin
from millstream.events.progress import Position
from millstream.events.types import RowSchema
from millstream.sources.contract import WHOLE, Admission, Chunk, Delivery, SchemaBackfill, Scope, Table, Truncate
from millstream.sources.names import TableName
from millstream.sources.postgres import publications, slots
from millstream.sources.postgres.check import check
from millstream.sources.postgres.chunk import Chunks
from millstream.sources.postgres.describe import Catalogue, Described
from millstream.sources.postgres.fills import Fills
from millstream.sources.postgres.messages import HEARTBEAT_PREFIX, lsn_of
from millstream.sources.postgres.options import Options
from millstream.sources.postgres.session import Server, Session
from millstream.sources.postgres.shapes import Shapes
from millstream.sources.postgres.snapshots import Xids
from millstream.sources.postgres.translate import Translator
from millstream.sources.postgres.transport import Identity, Link, Piece

IDLE_S = 0.1
SLOT_FREES_WITHIN_S = 1.0  # the server notices only in a while that a reader is gone


def open_source(name: str, options: Options) -> Source:
    """The source named `name`. Connects when it is first used."""
    return Source(name, options)


class Source:
    """One source. See `sources.contract.Source` for what each method promises."""

    admission: Admission = "log"

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.schema_backfill: SchemaBackfill = options.schema_backfill
        self._options = options
        self._server = Server(options.url, name)
        self._session = Session(self._server)
        self._catalogue = Catalogue(self._session)
        self._names = {t.written: t for t in options.names()}
        self._chunks = Chunks(self._session, self._catalogue, options.chunk_bytes, lambda: self._closed)
        self._link: Link | None = None
        self._identity: Identity | None = None
        self._shapes: Shapes
        self._fills = Fills({})
        self._unseen: Xids = np.empty(0, np.int64)
        self._closed = False

    # ---- discovery

    def check(self) -> None:
        slot, publication = self._options.slot_of(self.name), self._options.publication_of(self.name)
        kept = {n for n in self._names.values() if self._options.keeps(n.written)}
        check(self._session, self._catalogue, tuple(self._names.values()), kept, publication, slot)

    def tables(self) -> list[Table]:
        return [self._table(name) for name in self._names.values()]

    def _table(self, name: TableName) -> Table:
        found: Described | None = self._catalogue.table(name)
        if found is None:
            raise Refused(
                f"there is no table {name.written}", code="table_unknown", where=self._server.where, cure="run `millstream validate`"
            )
        database = self._session.rows("SELECT current_database()::text")[0][0]
        origin = Origin("postgresql", self.name, database, name.schema, name.table)
        return Table(name.written, found.schema, "whole", origin, found.rows, self._options.keeps(name.written))

    # ---- the stream

    def stream(self, resume_after: Position | None) -> Iterator[Delivery]:
        translator = self._start(resume_after)
        assert self._link is not None
        link = self._link
        try:
            yield from self._deliveries(link, translator)
        except MillstreamError:
            if not self._closed:
                raise
        finally:
            self._link = None
            link.close()

    def _start(self, resume_after: Position | None) -> Translator:
        """Look before reading on: the same server, a slot that still has what follows. Then stream."""
        if self._link is not None:
            self._link.close()
        self._link = link = Link(self._server, batch_messages=self._options.batch_messages, batch_bytes=self._options.batch_bytes)
        try:
            self._identity = link.identify()
            self._hold_slot_against(resume_after, self._identity)
            unseen = resume_after.detail.get("unseen", []) if resume_after else []
            self._unseen = np.array(unseen, np.int64)
            self._fills = Fills(resume_after.detail.get("looks", {}) if resume_after else {})
            kept = {n for n in self._names.values() if self._options.keeps(n.written)}
            self._shapes = Shapes(self._names.values(), kept, self._catalogue, self._fills, self._server.where)
            self._watch(begun=resume_after is not None)
            at = (resume_after.major, resume_after.minor) if resume_after else (0, 0)
            link.start(self._options.slot_of(self.name), self._options.publication_of(self.name), at[0])
        except BaseException:
            link.close()
            self._link = None
            raise
        return Translator(self._shapes.resolve, at, self._server.where)

    def _hold_slot_against(self, position: Position | None, identity: Identity) -> None:
        name = self._options.slot_of(self.name)
        give_up = time.monotonic() + SLOT_FREES_WITHIN_S
        while True:
            try:
                return slots.hold_against(slots.look(self._session, name), name, position, identity, self._server.where)
            except Retryable:
                if self._closed or time.monotonic() > give_up:
                    raise
            time.sleep(0.02)

    def _watch(self, *, begun: bool) -> None:
        publications.watch(self._session, self._options.publication_of(self.name), self._names.values(), self._shapes.oids, begun=begun)

    def _deliveries(self, link: Link, translator: Translator) -> Iterator[Delivery]:
        beat = last = time.monotonic()
        while not self._closed:
            piece = link.take(IDLE_S)
            now = time.monotonic()
            if now - beat >= self._options.heartbeat_s:
                beat = now
                self._watch(begun=True)
                if now - last >= self._options.heartbeat_s:
                    # So that the slot moves on a database where nothing of ours happens.
                    self._session.emit(HEARTBEAT_PREFIX, self.name)
            if piece is None:
                yield self._delivery([], set(), translator.position, idle=True)
            else:
                yield from self._told(translator, piece)
                last = now

    def _told(self, translator: Translator, piece: Piece) -> Iterator[Delivery]:
        """What the piece says, as few deliveries as there are marks and truncates in it. What comes before an error is given
        before it is raised."""
        batches: list[Batch] = []
        xids: set[int] = set()
        aside: list[tuple[str, MillstreamError]] = []
        before = position = translator.position
        try:
            for part in translator.translate(piece.messages) if piece.messages is not None else ():
                if part.aside and batches:  # what comes before is told
                    yield self._delivery(batches, xids, position, aside=aside)
                    batches, xids, aside, before = [], set(), [], position
                batches += part.batches
                xids |= part.xids
                aside += part.aside
                position = part.position
                if part.mark is not None or part.truncate is not None:
                    yield self._delivery(batches, xids, position, part.mark, truncate=part.truncate, aside=aside)
                    batches, xids, aside, before = [], set(), [], position
        except MillstreamError:
            if batches:
                yield self._delivery(batches, xids, position)
            raise
        position = translator.position
        if piece.sent_to is not None and translator.between_transactions:
            # Nothing is open and nothing was left unsent before this place: other tables' log need not be kept for us.
            position = translator.position = max(position, (piece.sent_to, 0))
        if batches or aside or position != before:
            yield self._delivery(batches, xids, position, aside=aside)

    def _delivery(
        self,
        batches: list[Batch],
        xids: set[int],
        position: tuple[int, int],
        mark: str | None = None,
        *,
        idle: bool = False,
        truncate: Truncate | None = None,
        aside: Sequence[tuple[str, MillstreamError]] = (),
    ) -> Delivery:
        self._settle(xids)
        assert self._identity is not None
        detail = {
            "system": self._identity.system,
            "timeline": self._identity.timeline,
            "unseen": self._unseen.tolist(),
            "looks": self._fills.stored,
        }
        return Delivery(tuple(batches), Position(*position, detail), mark, idle, truncate, tuple(aside))

    def _settle(self, given: set[int]) -> None:
        """Keep which of the transactions that the stream has given no SELECT sees yet: no chunk may be read past them."""
        if not given and not len(self._unseen):
            return
        snapshot = self._session.snapshot()
        known = np.union1d(self._unseen, snapshot.widen(np.array(sorted(given), np.uint32)))
        self._unseen = known[~snapshot.sees(known)]

    # ---- chunks, acknowledgement

    def chunk(self, table: str, after: list[Any] | None, rows_max: int, scope: Scope = WHOLE) -> Chunk | None:
        return self._chunks.read(self._names[table], after, rows_max, self._unseen, self._fills, scope)

    def admits(self, table: str, scope: Scope) -> int:
        return self._chunks.admits(self._names[table], scope)

    def absent(self, table: str, schema: RowSchema, rows: pa.RecordBatch, scope: Scope) -> Chunk | None:
        return self._chunks.absent(self._names[table], schema, rows, scope, self._unseen)

    def acknowledge(self, position: Position) -> None:
        if self._link is not None:
            self._link.acknowledge(position.major)

    def head(self) -> tuple[int, int]:
        (lsn,) = self._session.rows("SELECT pg_current_wal_insert_lsn()::text")[0]
        # What follows the end may be no message of ours for long; this one is.
        self._session.emit(HEARTBEAT_PREFIX, self.name)
        return lsn_of(lsn), 0

    def close(self) -> None:
        self._closed = True
        link = self._link
        if link is not None:
            link.close()
        self._session.close()
