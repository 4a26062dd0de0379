"""A whole table as the server's own scan tells it: `CREATE CHANGEFEED … initial_scan='only'`, as of a place that the stream has passed.

The rows come in no order, and some may come again. Nothing can be asked to go on in the middle: a scan that breaks is begun again, at a
later place. What is not taken stays with the server: it waits as soon as the pieces of one queue, bounded in bytes, are not read.
Servers before 22.2 know no such option: there the feed goes on behind its scan, and is closed at its first resolved time.
Reference: CockroachDB 22.1 to 26.1, "CREATE CHANGEFEED", initial_scan; recordings 03 and 06.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import Refused, Retryable
from millstream.events.batch import HOLES, Batch
from millstream.sources.cockroach import statements
from millstream.sources.cockroach.chunk import newer
from millstream.sources.cockroach.decode import Decoder, Messages
from millstream.sources.cockroach.decode import Scan as Scanned
from millstream.sources.cockroach.derived import Derived, Stopped
from millstream.sources.cockroach.describe import Catalogue, Past
from millstream.sources.cockroach.described import Described
from millstream.sources.cockroach.feeds import Ability, Ended, Feed, Limits, Piece, Queue, Watched
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.cockroach.session import Server, Session
from millstream.sources.contract import Chunk
from millstream.sources.names import TableName

ONLY_FROM = (22, 2)
"""The first version with `initial_scan='only'`."""


@dataclass(eq=False)
class ScanFeed(Feed):
    """A feed that tells the rows as of its cursor; `only`: and then ends."""

    only: bool = True

    def asked(self, *, json_nulls: bool) -> str:
        return statements.scan_feed(self.tables[0].name, str(self.cursor), json_nulls=json_nulls, every=self.every, only=self.only)


@dataclass
class _Scan:
    """One that was begun; `came` and what is `left` of a piece were not taken yet, `over`: nothing comes behind it."""

    feed: ScanFeed
    described: Described
    decoder: Decoder
    came: deque[Piece | Ended] = field(default_factory=deque)
    left: Messages = field(default_factory=lambda: Messages((), (), ()))
    over: bool = False

    def take(self, rows_max: int) -> Messages | None:
        """The next messages, at most so many; none at the end. None: nothing is at hand. Raises what the feed ended with."""
        while not self.left.values and not self.over:
            if not self.came:
                self.came.extend(self.feed.queue.take(0))
            if not self.came:
                return None
            item = self.came.popleft()
            if isinstance(item, Piece):
                self.left = self._rows(item.messages)
            elif not self.feed.finished:
                raise item.why
            else:
                self.over = True
        taken, self.left = _parted(self.left, rows_max)
        return taken

    def _rows(self, messages: Messages) -> Messages:
        """Without what comes from the first resolved time on."""
        if None not in messages.topics:
            return messages
        self.over = True
        return _parted(messages, messages.topics.index(None))[0]

    @property
    def is_done(self) -> bool:
        return self.over and not self.left.values


class TableScans:
    """A source's scans, each by its name: a connection and a thread each, at most `limits.queue_bytes` waiting here."""

    def __init__(
        self, server: Server, session: Session, catalogue: Catalogue, derived: Mapping[str, Derived], ability: Ability, limits: Limits
    ) -> None:
        self._server, self._session, self._catalogue, self._derived = server, session, catalogue, derived
        self._ability, self._limits = ability, limits
        self._running: dict[str, _Scan] = {}

    def begin(self, name: str, written: str, oid: int, at: Hlc, past: Past) -> None:
        """Raises Refused where the table cannot be told so, or is gone."""
        self.end(name)
        where, derived = f"{self._server.where} {written}", self._derived[written]
        shape = self._catalogue.shapes([oid], at).get(oid)
        if shape is None:
            raise Refused(f"{written} has changed: it is gone", code="table_changed", where=where)
        try:
            described = derived.described(past.described(shape, written, at))
        except Stopped as stop:
            raise Refused(stop.why.message, code="table_changed", where=stop.why.where, cure=stop.why.cure) from None
        only = self._session.version >= ONLY_FROM
        decoder = Decoder(lambda _topic, _at: described, where, scan=Scanned(name, "incremental", at if only else None))
        decoder.know(written, described)
        watched = Watched(written, oid, TableName(written, shape.schema, shape.table))
        queue = Queue(self._limits.queue_bytes)
        feed = ScanFeed(self._server, (watched,), at, queue, self._limits, self._ability, "1s", (), only=only)
        self._running[name] = _Scan(feed, described, decoder)
        feed.start()

    def next(self, name: str, rows_max: int) -> Chunk | None:
        """The next rows. None: nothing is at hand. Raises what it ended with before its end, and is over then."""
        scan = self._running.get(name)
        if scan is None:
            raise Retryable(f"no scan {name} runs", code="scan", where=self._server.where)
        read_us = time.time_ns() // 1000
        try:
            messages = scan.take(rows_max)
            chunk = None if messages is None else self._chunk(scan, messages, read_us)
        except BaseException:
            self.end(name)
            raise
        if chunk is not None and chunk.done:
            self.end(name)
        return chunk

    def end(self, name: str) -> None:
        if (scan := self._running.pop(name, None)) is not None:
            scan.feed.queue.close()
            scan.feed.close()

    def close(self) -> None:
        """All of them; may be called from any thread."""
        for name in list(self._running):
            self.end(name)

    def _chunk(self, scan: _Scan, messages: Messages, read_us: int) -> Chunk:
        at, written = scan.feed.cursor, scan.described.name
        schema = self._derived[written].schema(scan.described.schema)
        rows, holes = pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema.arrow], schema=pa.schema(list(schema.arrow))), None
        if messages.values:
            told = scan.decoder.decode(Messages([written] * len(messages.values), messages.keys, messages.values))
            for _, why in told.aside:
                raise why
            given = [b for b in (self._derived[written].tell(_as_of(at, b))[0] for b in told.batches if len(b)) if b is not None]
            if given:
                (one,) = given
                rows, holes = _images(one)
        return Chunk(
            table=written,
            schema=schema,
            rows=rows,
            mark=uuid.uuid4().hex,
            newer=lambda live: newer(at, live),
            last_key=None,
            done=scan.is_done,
            read_us=read_us,
            holes=holes,
            read_point=(at.wall, at.logical),
        )


def _as_of(at: Hlc, batch: Batch) -> Batch:
    """The rows of the scan: what a feed that goes on tells beside them is the stream's to tell."""
    of_scan = (np.asarray(batch.column("major")) == at.wall) & (np.asarray(batch.column("minor")) == at.logical)
    of_scan &= pc.is_valid(batch.column("after")).to_numpy(zero_copy_only=False)
    return batch if of_scan.all() else batch.filter(of_scan)


def _images(batch: Batch) -> tuple[pa.RecordBatch, pa.Array | None]:
    after, holes = batch.column("after"), batch.column("holes")
    rows = pa.RecordBatch.from_arrays([*after.flatten()], schema=pa.schema(list(batch.schema.arrow)))
    return rows, None if holes.null_count == len(holes) else holes.cast(HOLES)


def _parted(messages: Messages, at: int) -> tuple[Messages, Messages]:
    topics, keys, values = messages.topics, messages.keys, messages.values
    return Messages(topics[:at], keys[:at], values[:at]), Messages(topics[at:], keys[at:], values[at:])
