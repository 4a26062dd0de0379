"""The connector's loop: one live reader of one source (invariant 7), from its stream to its topics.

Reads, admits, registers, commits, acknowledges; in that order, or events are lost (invariants 1, 2, 3). Chunks of
backfills are read between two deliveries of the stream, by the same thread.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from millstream.capture import emptying, losses
from millstream.capture.aside import Aside, is_of_key, resuming
from millstream.capture.backfill import Backfills, doing, load_of, resumed, stored, with_key_load, with_schema_backfill
from millstream.capture.counts import Counts
from millstream.capture.frontier import admission_of
from millstream.capture.incarnations import Incarnations, existing, keyed, lowest
from millstream.capture.keeping import complete, unavailable
from millstream.capture.lead import Lead
from millstream.capture.orders import Desk, Orders
from millstream.capture.reading import Reading, still_ours
from millstream.capture.rowcopy import RowCopy
from millstream.capture.scanning import Scanning
from millstream.capture.versions import Placed, Versions, last_written
from millstream.capture.window import Window
from millstream.errors import Refused
from millstream.events.batch import Batch
from millstream.events.progress import Position
from millstream.events.types import RowSchema
from millstream.faultpoints import reached
from millstream.schemas.registry import Registry
from millstream.sources.contract import Delivery, Source, Truncate
from millstream.topics.contract import Producer, Topic, Topics
from millstream.topics.incarnations import ENDED, catalogued, number

PROGRESS_EVERY_S = 1.0  # how often a position that moved without events is made durable


class Connector:
    """One source's way into its topics. `open` once, then `step` for ever; not thread-safe, except `close`."""

    def __init__(
        self,
        source: Source,
        topics: Topics,
        registry: Registry,
        clock: Callable[[], float] = time.time,
        describe: Callable[[str, RowSchema], RowSchema] = lambda _, schema: schema,
        folder: Path | None = None,
        orders: Orders | None = None,
    ) -> None:
        """`describe(topic, schema)` is the schema with what people say of its columns. `folder`: where copies of rows are kept from
        one opening to the next; None: nowhere. `orders`: what people ask of backfills."""
        self._folder = folder
        self._source, self._topics, self._registry, self._clock = source, topics, registry, clock
        self._describe = lambda topic, schema: describe(catalogued(topic), schema)
        self.name = f"source.{source.name}"
        self._desk = Desk(source.name, orders, clock, Lead(topics, clock), lambda table: self._topic_of[table].name)
        self._reading = Reading(source, topics, registry, self._desk, self._rows_of, Scanning(source, clock))
        self._backfills: Backfills = {}
        self.counts = Counts()
        self._producer: Producer | None = None
        self._stream: Iterator[Delivery] | None = None
        self._window: Window | None = None
        self._emptying: Iterator[None] | None = None
        self._copies: dict[str, RowCopy] = {}
        self._kept: set[str] = set()
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
        resuming(self._source, self.position)
        tables = self._source.tables()
        first = {t.name: existing(self._topics, f"{self._source.name}.{t.name}", self.name) for t in tables}
        self._incarnations = Incarnations(first, self._topics, self._registry, self._clock)
        self._incarnations.restore(state.get(ENDED, {}))
        self._topic_of = self._incarnations.present
        self._aside = Aside(self._topic_of, self._registry, self._clock, self.name)
        start = self._source.schema_backfill == "start"
        self._backfills = resumed(state.get("backfills", {}), [(t.name, t.rows) for t in tables], start_offered=start)
        self._backfills = self._desk.look(self._backfills, self._topic_of, self._aside.entries)
        written = last_written(self._registry, (t.name for t in self._topic_of.values()), state.get("schemas", {}))
        self._versions = Versions(self._registry, written, state.get("schema_changes", {}), self._describe)
        for table in tables:
            if table.kept:
                self._keep(self._topic_of[table.name])
        self._reopen_stream()

    def _keep(self, topic: Topic) -> None:
        """Invariant 3: the copy is the topic's fold, so what a crash kept from it is read there; lost, it is made from there."""
        path = None if self._folder is None else self._folder / f"{quote(topic.name, safe='')}.rows"
        self._copies[topic.name] = RowCopy(path, topic, self._registry)
        self._kept.add(topic.name)

    def _follow(self, copy: RowCopy) -> None:
        for _ in copy.follow(self._topics):
            reached("copies.reading")

    def _reopen_stream(self) -> None:
        """Stream again from what is committed: at the start, and after a lost connection."""
        self._close_stream()
        position = self.position
        assert self._producer is not None
        state = self._producer.record.state
        self._aside.restore(state.get("aside", {}))
        self._incarnations.restore(state.get(ENDED, {}))
        self._lost: list[Mapping[str, Any]] = list(state.get("lost", []))
        self._dropped = Counter(state.get("dropped", {}))
        self._reading.read_at = dict(state.get("read_at", {}))
        self._admission = admission_of(self._source.admission, self._topic_of, position, state.get("admission", {}), self._folder)
        for _ in self._admission.follow(self._topics):
            reached("admission.reading")
        self._window = None  # its chunk was not appended: it is read again
        self._reading.scans.reopened()
        self._emptying = None  # the truncate comes again
        for name, copy in self._copies.items():
            copy.undo()
            if name in self._kept:
                self._follow(copy)
        self._stream = self._source.stream(position)
        reached("connector.after_open")

    def _close_stream(self) -> None:
        if self._stream is not None:
            getattr(self._stream, "close", lambda: None)()
            self._stream = None

    # ---- what others may ask

    @property
    def position(self) -> Position | None:
        """As last committed."""
        assert self._producer is not None
        at = self._producer.record.state.get("position")
        return None if at is None else Position.of(at)

    @property
    def backfills(self) -> Backfills:
        return dict(self._backfills)

    @property
    def loaded(self) -> bool:
        """Every backfill that is wanted and not paused is done."""
        return not self._desk.busy(self._backfills, self._aside.entries)

    @property
    def fills(self) -> bool:
        """A load goes on that its topic's readers wait for."""
        return self._desk.fills(self._backfills, self._aside.entries)

    @property
    def aside(self) -> Mapping[str, Mapping[str, Any]]:
        """Tables of which nothing more is told, and why (code, reason, cure, position, at)."""
        return dict(self._aside.entries)

    @property
    def lost(self) -> Sequence[Mapping[str, Any]]:
        """What will never be told, of which tables and why, and the backfill that makes it good; closed ones as history."""
        return list(self._lost)

    @property
    def loading(self) -> tuple[str, int, int]:
        """What is loaded now, its rows done and the estimate of all."""
        return doing(self._backfills)

    # ---- the loop

    def step(self) -> bool:
        """Take one delivery through to its acknowledgement; True if it brought or moved anything.

        Raises what the source and the topics raise. After Retryable, call `retry`, then `step` again.
        """
        assert self._stream is not None
        if self.head_wanted and self.head is None:
            self.head = self._source.head()
        if self._emptying is not None:
            if next(self._emptying, self) is self:
                self._emptying = None
            return True
        delivery = next(self._stream)
        reached("connector.decoded")
        delivery = replace(delivery, position=delivery.position.holding(self.position))
        backfills, aside = self._backfills, len(self._aside.entries)
        self._dropped.update(delivery.dropped)
        if delivery.lost:
            self._lost, backfills = losses.met(self._lost, delivery.lost, self.position, backfills, self._clock())
        live: list[Batch] = []
        gone: list[Batch] = []
        for table, why in delivery.aside:
            self._aside.put(table, why, delivery.position)
        for given in delivery.batches:
            given, backfills = self._fitting(given, delivery.position, backfills)
            if not len(given):
                continue
            b = self._admitted(given)
            if b.topic in self._kept and len(b):
                whole, backfills = self._completed(b, backfills)
                live.append(whole)
            else:
                live.append(b)
            self._seen_by_window(b)
        untold = {*self._aside.entries, *(one.table for one in delivery.lost)}
        self._reading.scans.settle(backfills, untold, self._admission)
        if self._window is not None and self._window.chunk.table in untold:
            self._window = None  # what it would have seen is not told
        out = [b for b in live if len(b)]
        if delivery.mark is not None and self._window is not None and delivery.mark == self._window.chunk.mark:
            if self._window.unfit:
                # No event of the other key came before the place at which the chunk saw it: what the topic has is complete.
                chunk, at = self._window.chunk, delivery.position
                since = chunk.read_point or (at.major, at.minor)
                if not self._admission.is_beyond(self._window.topic, since):  # else it has had the topic's own key again since
                    backfills = self._begin(chunk.table, chunk.schema, since, at, backfills)
            elif self._window.gone:
                gone, backfills = self._gone_in(delivery.position, backfills)
            else:
                rows, backfills = self._chunk_in(delivery.position, backfills)
                out += [rows] if len(rows) else []
            self._window = None
        if delivery.truncate is not None and (self.position is None or delivery.position > self.position):
            self._emptying = self._emptied(delivery.truncate, delivery.position, out, backfills)
            return True
        news = out or backfills is not self._backfills or aside != len(self._aside.entries)
        if news or self._progress_is_due(delivery.position):
            self._commit(out, delivery.position, backfills, gone)
        self._open_window(delivery.position)
        return bool(out or gone)

    def _emptied(self, truncate: Truncate, at: Position, before: list[Batch], backfills: Backfills) -> Iterator[None]:
        """`before` and then the truncate, in as many commits as it takes; the position passes it with the last one."""
        just_before = replace(at, minor=at.minor - 1)
        self._commit(before, just_before, backfills)
        for table in (t for t in truncate.tables if t not in self._aside.entries):
            topic = self._topic_of[table]
            if self._window is not None and self._window.topic == topic.name:
                self._window = self._window.emptied(emptying.message(topic, self._window.chunk.schema, truncate, at))
            for gone in emptying.slices(self._rows_of(topic), topic, truncate, at, self._topics):
                if gone:
                    self._commit(gone, just_before, self._backfills, told_again=True)
                    reached("truncate.slice")
                yield
        self._commit([], at, self._backfills)
        reached("truncate.done")

    def retry(self) -> None:
        """After a Retryable: a new stream from the committed position. The fence is not raised again.

        Raises Irrecoverable("fenced") where another opening took over meanwhile: the source has gone on with that one, and
        what it would say to our old position (changes lost, slot moved) would be a false alarm.
        """
        assert self._producer is not None
        still_ours(self._producer.record, self._topics)
        self._reopen_stream()

    def _fitting(self, batch: Batch, at: Position, backfills: Backfills) -> tuple[Batch, Backfills]:
        """The events that can be told in their table's topic, which may be one that begins with them; and the backfills."""
        table, nothing = batch.topic, batch.slice(0, 0)
        why = self._aside.why_not(table, batch.schema)
        if why is not None:
            if not is_of_key(why) or not len(batch := self._incarnations.fresh(batch, self.position)):
                return nothing, backfills
            backfills = self._begin(table, batch.schema, lowest(batch), at, backfills)
        if number(self._topic_of[table].name) > 1 and not load_of(backfills, table).done:
            count, batch = len(batch), keyed(batch)
            self._dropped["rows without the key to come"] += count - len(batch)
        return batch, backfills

    def _begin(self, table: str, schema: RowSchema, since: tuple[int, int], at: Position, backfills: Backfills) -> Backfills:
        """The next incarnation of a table's topic, unless it fits the present one, which ends with the commit that this goes into. The
        backfills with its load."""
        if (why := self._aside.why_not(table, schema)) is None:
            return backfills
        was = self._topic_of[table]
        reached("incarnation.before")
        topic = self._incarnations.begin(table, schema, since, at, why, ready=load_of(backfills, table).done)
        self._versions.begin(topic.name, schema)
        reached("incarnation.begun")
        self._aside.take_back(table)
        self._admission.begin(table, topic)
        if was.name in self._kept:
            self._keep(topic)
        if self._window is not None and self._window.topic == was.name:
            self._window = None
        return with_key_load(backfills, table, number(topic.name))

    def _admitted(self, batch: Batch) -> Batch:
        topic = self._topic_of[batch.topic]
        fresh = self._admission.admit(topic.name, batch)
        self.counts.repeats += len(batch) - len(fresh)
        if self._source.admission == "frontier":
            self._dropped["repeats"] += len(batch) - len(fresh)
        if topic.incarnation != 1:
            at = fresh.rows.schema.get_field_index("incarnation")
            column = pa.array(np.full(len(fresh), topic.incarnation, np.uint32))
            fresh = replace(fresh, rows=fresh.rows.set_column(at, fresh.rows.schema.field(at), column))
        return replace(fresh, topic=topic.name)

    def _completed(self, batch: Batch, backfills: Backfills) -> tuple[Batch, Backfills]:
        """Of a kept table: the events with whole images, in the copy already; and the backfills, one of which may have to begin anew."""
        batch = self._versions.registered(batch)
        copy, window = self._copies[batch.topic], self._window
        chunk = window.seen_by_key(batch) if window is not None and window.topic == batch.topic else None
        found = complete(batch, copy, chunk)
        self.counts.orphans += found.orphans
        if found.left:
            table = self._incarnations.table_of(batch.topic)
            unfinished = [b for b in backfills.values() if b.table == table and b.wanted and not b.done and not b.is_asked]
            if not unfinished:
                raise unavailable(table, found.left, self.name)
            if found.again:
                backfills = {**backfills, unfinished[0].slot: unfinished[0].anew()}
                self._window = None if window is not None and window.slot == unfinished[0].slot else window
        if len(found.batch):
            copy.put(found.batch)
        return found.batch, backfills

    def _seen_by_window(self, batch: Batch) -> None:
        if self._window is not None and batch.topic == self._window.topic:
            self._window = self._window.see(batch)

    def _chunk_in(self, at: Position, backfills: Backfills) -> tuple[Batch, Backfills]:
        """The chunk's rows at its read point, and the backfills with this chunk done (not, if the window was spoiled)."""
        assert self._window is not None
        window, topic = self._window, self._topic_of[self._window.chunk.table]
        rows, backfill = self._reading.rows(window, topic, self._backfills[window.slot], at, int(self._clock() * 1e6))
        if backfill is None:
            return rows, backfills
        if topic.name in self._kept and len(rows):
            rows = self._versions.registered(rows)
            self._copies[topic.name].put(rows)
        return rows, {**backfills, window.slot: backfill}

    def _gone_in(self, at: Position, backfills: Backfills) -> tuple[list[Batch], Backfills]:
        """Deletes of rows that only the topic has, and the backfills with this page done."""
        assert self._window is not None
        topic, slot = self._topic_of[self._window.chunk.table], self._window.slot
        gone, backfill = self._reading.gone(self._window, topic, backfills[slot], at)
        for b in gone if topic.name in self._kept else []:
            self._copies[topic.name].put(b)
        return gone, {**backfills, slot: backfill}

    def _rows_of(self, topic: Topic) -> RowCopy:
        """A copy of the topic's rows. Temporary, but kept while this is open: who truncates once does it again."""
        if topic.name not in self._copies:
            self._copies[topic.name] = RowCopy(None, topic, self._registry)
        return self._copies[topic.name]

    def _open_window(self, given: Position) -> None:
        """Read the next chunk, if a backfill wants one and no window is open. The read point lies ahead of the stream, which has come to
        `given`, or is there."""
        if self._window is not None:
            return
        self._backfills = self._desk.look(self._backfills, self._topic_of, self._aside.entries)
        turn = self._desk.next(self._backfills, self._aside.entries, self._reading.waiting(self._backfills, given))
        if turn is None:
            return
        backfill, at = turn.backfill, self.position or Position(0, 0)
        topic, place = self._topic_of[backfill.table], at.tables.get(backfill.table)
        if self._versions.has_changed_after(topic.name, place) or self._incarnations.is_ahead(backfill.table, place):
            return
        try:
            self._window = self._reading.window(turn, topic, self._versions, self._aside.fits, self._admission)
        except Refused as e:
            if e.code == "bad_scope" and backfill.is_asked:
                self._backfills = {**self._backfills, backfill.slot: backfill.over("failed", e.message)}
            elif e.code == "table_changed":
                self._aside.put(backfill.table, e, at)
            else:
                raise
        if self._window is not None:
            reached("connector.window_open")

    def _progress_is_due(self, position: Position) -> bool:
        # With a window open nothing but the chunk is waited for; its commit carries the position.
        return position.moved(self.position) and self._clock() - self._committed_at >= PROGRESS_EVERY_S

    def _commit(
        self, out: list[Batch], position: Position, backfills: Backfills, gone: Sequence[Batch] = (), *, told_again: bool = False
    ) -> None:
        """`gone`: deletes of rows as they were told, which change no version."""
        assert self._producer is not None
        reached("connector.before_register")
        placed = self._versions.place(out, told_again=told_again)
        out = [*placed.batches, *gone]
        for topic, version in placed.unsaid.items():
            table = self._incarnations.table_of(topic)
            backfills = with_schema_backfill(backfills, table, version, start=self._source.schema_backfill == "start")
        reached("connector.after_register")
        blocks = [self._topics.encode(b) for b in out]
        reached("connector.before_commit")
        self._lost = losses.settled(self._lost, backfills, self._clock)
        taken = self._admission.taken(out, blocks, self._producer.record.ends, position)
        state = self._state(position, backfills, placed, taken)
        self._producer.commit(blocks, state, sequence=self._producer.record.sequence + 1, tail=out)
        reached("connector.after_commit")
        for topic in self._kept:
            self._copies[topic].settle(self._producer.record.ends.get(topic, 0))
        self._backfills = backfills
        self._versions.committed(placed)
        self._admission.committed(position)
        self._committed_at = self._clock()
        self.counts.events += sum(map(len, out))
        self.counts.commits += 1
        self._source.acknowledge(position)  # Invariant 1: acknowledge last
        reached("connector.after_acknowledge")

    def _state(self, position: Position, backfills: Backfills, placed: Placed, admission: Mapping[str, Any]) -> dict[str, Any]:
        said = {
            "admission": admission,
            "lost": self._lost,
            "dropped": +self._dropped,
            "read_at": dict(self._reading.read_at),
            ENDED: self._incarnations.stored,
        }
        return {
            "position": position.json(),
            "progress": {self._source.name: str(position)},
            "backfills": stored(backfills),
            "ready": self._incarnations.ready | {t.name: load_of(backfills, table).done for table, t in self._topic_of.items()},
            "aside": dict(self._aside.entries),
            "schemas": dict(placed.written),
            "schema_changes": dict(placed.changes),
            **{name: value for name, value in said.items() if value},
        }

    def close(self) -> None:
        self._desk.closing(self._backfills)
        self._close_stream()
        for copy in self._copies.values():
            copy.close()
        self._copies, self._kept = {}, set()
        self._source.close()
