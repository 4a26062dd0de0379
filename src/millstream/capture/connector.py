"""The connector's loop: one live reader of one source (invariant 7), from its stream to its topics.

Reads, admits, registers, commits, acknowledges; in that order, or events are lost (invariants 1, 2, 3). Chunks of
backfills are read between two deliveries of the stream, by the same thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.capture.admission import LogAdmission
from millstream.capture.backfill import Backfill, initial_loads, next_up, stored
from millstream.capture.window import Window
from millstream.errors import Irrecoverable, Refused
from millstream.events import envelope
from millstream.events.batch import Batch
from millstream.events.progress import Position
from millstream.events.types import RowSchema
from millstream.faultpoints import reached
from millstream.schemas.registry import Registry
from millstream.sources.contract import Delivery, Source
from millstream.topics.contract import Producer, Topic, Topics

PROGRESS_EVERY_S = 1.0  # how often a position that moved without events is made durable
CHUNK_ROWS_MAX = 50_000


@dataclass
class Counts:
    """What this opening did, for people to look at."""

    events: int = 0
    commits: int = 0
    repeats: int = 0


class Connector:
    """One source's way into its topics. `open` once, then `step` for ever; not thread-safe, except `close`."""

    def __init__(self, source: Source, topics: Topics, registry: Registry, clock: Callable[[], float] = time.time) -> None:
        self._source, self._topics, self._registry, self._clock = source, topics, registry, clock
        self.name = f"source.{source.name}"
        self.counts = Counts()
        self._producer: Producer | None = None
        self._stream: Iterator[Delivery] | None = None
        self._window: Window | None = None
        self._schema_ids: dict[tuple[str, RowSchema], int] = {}
        self._committed_at = 0.0
        # Another thread may ask, by the first, where the source's end is; `step` answers by the second, once.
        self.head_wanted = False
        self.head: tuple[int, int] | None = None

    # ---- opening

    def open(self) -> None:
        """Raise the fence and read the own record. Raises Refused("not_applied") where a topic is missing."""
        reached("connector.before_fence")
        self._producer = self._topics.open_producer(self.name)
        reached("connector.after_fence")
        state = self._producer.record.state
        if self._source.admission != "log":
            raise Refused(f"admission of kind {self._source.admission} is not built", code="admission_kind", where=self.name)
        tables = self._source.tables()
        self._topic_of = {t.name: self._existing(f"{self._source.name}.{t.name}") for t in tables}
        self._backfills = initial_loads(state.get("backfills", {}), [(t.name, t.rows) for t in tables])
        self._reopen_stream()

    def _existing(self, name: str) -> Topic:
        topic = self._topics.topic(name)
        if topic is None:
            raise Refused(f"topic {name} does not exist", code="not_applied", where=self.name, cure="run `millstream apply`")
        return topic

    def _reopen_stream(self) -> None:
        """Stream again from what is committed: at the start, and after a lost connection."""
        self._close_stream()
        position = self.position
        at = position or Position(0, 0)
        self._admission = LogAdmission(at.major, at.minor)
        self._window = None  # its chunk was not appended: it is read again
        self._stream = self._source.stream(position)
        reached("connector.after_open")

    def _close_stream(self) -> None:
        if self._stream is not None:
            close = getattr(self._stream, "close", None)
            if close is not None:
                close()
            self._stream = None

    # ---- what others may ask

    @property
    def position(self) -> Position | None:
        """As last committed."""
        assert self._producer is not None
        at = self._producer.record.state.get("position")
        return None if at is None else Position.of(at)

    @property
    def backfills(self) -> dict[str, Backfill]:
        return dict(self._backfills)

    @property
    def loaded(self) -> bool:
        """Every initial load is done."""
        return next_up(self._backfills) is None

    # ---- the loop

    def step(self) -> bool:
        """Take one delivery through to its acknowledgement; True if it brought or moved anything.

        Raises what the source and the topics raise. After Retryable, call `retry`, then `step` again.
        """
        assert self._stream is not None
        if self.head_wanted and self.head is None:
            self.head = self._source.head()
        delivery = next(self._stream)
        reached("connector.decoded")
        live = [self._admitted(b) for b in delivery.batches]
        for b in live:
            self._seen_by_window(b)
        out = [b for b in live if len(b)]
        backfills = self._backfills
        if delivery.mark is not None and self._window is not None and delivery.mark == self._window.chunk.mark:
            rows, backfills = self._chunk_in(delivery.position)
            out += [rows] if len(rows) else []
            self._window = None
        if out or backfills is not self._backfills or self._progress_is_due(delivery.position):
            self._commit(out, delivery.position, backfills)
        self._open_window()
        return bool(out)

    def retry(self) -> None:
        """After a Retryable: a new stream from the committed position. The fence is not raised again.

        Raises Irrecoverable("fenced") where another opening took over meanwhile: the source has gone on with that one, and
        what it would say to our old position (changes lost, slot moved) would be a false alarm.
        """
        assert self._producer is not None
        ours, stored = self._producer.record, self._topics.producer_record(self.name)
        if stored is None or stored.fence != ours.fence:
            raise Irrecoverable(
                f"another opening of this writer took over (fence {stored.fence if stored else 'gone'}, ours {ours.fence})",
                code="fenced",
                where=f"producer {self.name}",
                cure="nothing was written; stop this process, the other one goes on",
            )
        self._reopen_stream()

    def _admitted(self, batch: Batch) -> Batch:
        topic = self._topic_of.get(batch.topic)
        if topic is None:
            raise Irrecoverable(
                f"the stream gave table {batch.topic}, which is not in the definition", code="unknown_table", where=self.name
            )
        fresh = self._admission.admit(batch)
        self.counts.repeats += len(batch) - len(fresh)
        if topic.incarnation != 1:
            at = fresh.rows.schema.get_field_index("incarnation")
            column = pa.array(np.full(len(fresh), topic.incarnation, np.uint32))
            fresh = replace(fresh, rows=fresh.rows.set_column(at, fresh.rows.schema.field(at), column))
        return replace(fresh, topic=topic.name)

    def _seen_by_window(self, batch: Batch) -> None:
        if self._window is not None and batch.topic == self._window.topic:
            self._window = self._window.see(batch)

    def _chunk_in(self, at: Position) -> tuple[Batch, dict[str, Backfill]]:
        """The chunk's rows at its read point, and the backfills with this chunk done (not, if the window was spoiled)."""
        assert self._window is not None
        window, chunk = self._window, self._window.chunk
        backfill = self._backfills[chunk.table]
        topic = self._topic_of[chunk.table]
        rows = window.rows(
            at.major,
            at.minor,
            backfill=backfill.name,
            incarnation=topic.incarnation,
            position=str(at),
            now_us=int(self._clock() * 1e6),
        )
        if window.spoiled:
            return rows.slice(0, 0), self._backfills
        done = backfill.chunk_done(chunk.last_key, len(rows), chunk.done)
        return rows, {**self._backfills, chunk.table: done}

    def _open_window(self) -> None:
        """Read the next chunk, if a backfill wants one and no window is open. The read point lies ahead of the stream."""
        if self._window is not None or (backfill := next_up(self._backfills)) is None:
            return
        chunk = self._source.chunk(backfill.table, backfill.after, CHUNK_ROWS_MAX)
        if chunk is not None:
            self._window = Window.over(chunk, self._topic_of[backfill.table].name)
            reached("connector.window_open")

    def _progress_is_due(self, position: Position) -> bool:
        # With a window open nothing but the chunk is waited for; its commit carries the position.
        moved = self.position is None or position > self.position
        return moved and self._clock() - self._committed_at >= PROGRESS_EVERY_S

    def _commit(self, out: list[Batch], position: Position, backfills: dict[str, Backfill]) -> None:
        assert self._producer is not None
        reached("connector.before_register")
        out = [b.with_schema_id(self._schema_id(b)) for b in out]
        reached("connector.after_register")
        blocks = [self._topics.encode(b) for b in out]
        reached("connector.before_commit")
        self._producer.commit(blocks, self._state(position, backfills), sequence=self._producer.record.sequence + 1, tail=out)
        reached("connector.after_commit")
        self._backfills = backfills
        self._admission.committed(position.major, position.minor)
        self._committed_at = self._clock()
        self.counts.events += sum(map(len, out))
        self.counts.commits += 1
        self._source.acknowledge(position)  # Invariant 1: acknowledge last
        reached("connector.after_acknowledge")

    def _state(self, position: Position, backfills: dict[str, Backfill]) -> dict[str, Any]:
        return {
            "position": position.json(),
            "progress": {self._source.name: str(position)},
            "backfills": stored(backfills),
            "ready": {self._topic_of[b.table].name: b.done for b in backfills.values()},
        }

    def _schema_id(self, batch: Batch) -> int:
        """Invariant 5: registered before it is published; invariant 6: never refused here."""
        known = self._schema_ids.get((batch.topic, batch.schema))
        if known is None:
            text = envelope.value_schema(batch.topic, batch.schema)
            known = self._schema_ids[batch.topic, batch.schema] = self._registry.register(f"{batch.topic}-value", text).id
        return known

    def close(self) -> None:
        self._close_stream()
        self._source.close()
