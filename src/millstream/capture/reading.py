"""What a backfill reads next, as a window over it, and what comes out of a window that looked for rows that are gone.

The connector says whose turn it is, keeps the window open until the stream has passed its read point, and commits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from millstream.capture import comparing
from millstream.capture.admission import Admission
from millstream.capture.backfill import Backfill, Backfills
from millstream.capture.orders import Desk, Turn
from millstream.capture.rowcopy import RowCopy
from millstream.capture.scanning import Scanning
from millstream.capture.versions import Versions
from millstream.capture.window import Window
from millstream.errors import Irrecoverable, Refused
from millstream.events import envelope
from millstream.events.batch import Batch
from millstream.events.progress import Position
from millstream.events.types import RowSchema
from millstream.schemas.registry import Registry
from millstream.sources.contract import Source
from millstream.topics.contract import ProducerRecord, Topic, Topics


class Reading:
    """One connector's. `rows_of(topic)` is a copy of what a topic has."""

    def __init__(
        self, source: Source, topics: Topics, registry: Registry, desk: Desk, rows_of: Callable[[Topic], RowCopy], scans: Scanning
    ) -> None:
        self._source, self._topics, self._registry, self._desk, self._rows_of = source, topics, registry, desk, rows_of
        self.scans = scans
        self.read_at: dict[str, Sequence[Any]] = {}
        """Table → (major, minor, name): the last place of it that was read as of, and by which backfill."""

    def waiting(self, backfills: Backfills, at: Position) -> set[str]:
        """Slots of those that do not read where their table stands now, as another backfill did: a row that both tell would be there twice
        in one version, and one of them may be addressed. Where the table stands next they may."""
        readers = {table: name for table, (*place, name) in self.read_at.items() if tuple(place) == at.tables.get(table)}
        return {slot for slot, b in backfills.items() if readers.get(b.table, b.name) != b.name and self.scans.place(slot) is None}

    def _note(self, table: str, place: tuple[int, int] | None, name: str) -> None:
        """What was read there is on its way into the topic. A scan reads on where others have gone on."""
        if place is not None and place >= tuple(self.read_at.get(table, (0, 0)))[:2]:
            self.read_at[table] = (*place, name)

    def window(
        self, turn: Turn, topic: Topic, versions: Versions, is_told: Callable[[str, RowSchema], bool], admission: Admission
    ) -> Window | None:
        """The window over what a backfill reads next, without what the topic has there or newer; None where that cannot be read now.
        `is_told(table, schema)`: whether such rows can be told in the topic; where not, the window is over none of them. Everything that
        the stream gave is in the topic. Raises as the source's `chunk`, where the table is gone or has no key."""
        if turn.backfill.method == "changefeed":
            window = self.scans.window(turn, topic, versions, is_told, admission)
            self._note(turn.backfill.table, self.scans.place(turn.backfill.slot), turn.backfill.name)
            self._desk.took(turn, 0 if window is None else window.read)  # also of none: the others' turn comes meanwhile
            return window
        try:
            window = self._chunk(turn, topic, versions, is_told)
        except Refused as e:
            if e.code != "table_changed":
                raise
            chunk = self._source.chunk(turn.backfill.table, None, 1)  # a key of another width: from the first row on it can be read
            if chunk is not None and is_told(chunk.table, chunk.schema):
                raise
            return None if chunk is None else Window.beside(chunk, topic.name, turn.backfill)
        if window is None or window.unfit or (read_point := window.chunk.read_point) is None:
            return window
        return window.keeping(pa.array(~admission.has(topic.name, window.keys, read_point)))

    def _chunk(self, turn: Turn, topic: Topic, versions: Versions, is_told: Callable[[str, RowSchema], bool]) -> Window | None:
        backfill = turn.backfill
        if backfill.reconcile and not comparing.follows(self._rows_of(topic), self._topics, topic):
            return None
        if backfill.compares:
            return self._over_what_is_gone(turn, topic, versions)
        chunk = self._source.chunk(backfill.table, backfill.after, turn.rows_max, turn.scope)
        if chunk is None:
            return None
        if not is_told(chunk.table, chunk.schema):
            return Window.beside(chunk, topic.name, backfill)
        self._desk.took(turn, chunk.rows.num_rows)
        window = Window.over(chunk, topic.name, backfill, turn.whole)
        if backfill.reconcile and window.read:
            rows = window.rows(0, 0, backfill=backfill, incarnation=topic.incarnation, position="", now_us=0)
            window = window.keeping(pa.array(~self._rows_of(topic).has(versions.registered(rows))))
        return window

    def rows(self, window: Window, topic: Topic, backfill: Backfill, at: Position, now_us: int) -> tuple[Batch, Backfill | None]:
        """The chunk's rows at its read point, and the backfill with this chunk done; no rows and None where they are not to go in: the
        window was spoiled, a later backfill took its place, which has read nothing yet, or it was cancelled."""
        chunk = window.chunk
        read_at = at if chunk.read_point is None else Position(*chunk.read_point)
        rows = window.rows(
            read_at.major, read_at.minor, backfill=backfill, incarnation=topic.incarnation, position=str(read_at), now_us=now_us
        )
        if window.spoiled or backfill.name != window.backfill or backfill.done:
            return rows.slice(0, 0), None
        self._note(chunk.table, chunk.read_point, backfill.name)
        return rows, backfill.at(chunk.read_point).chunk_done(chunk.last_key, len(rows), chunk.done, window.read, window.whole)

    def _over_what_is_gone(self, turn: Turn, topic: Topic, versions: Versions) -> Window | None:
        schema = envelope.row_schema(self._registry.by_id(versions.written[topic.name]), topic.key)
        page = comparing.page(self._rows_of(topic), turn.backfill.looked or "", schema, turn.rows_max)
        chunk = self._source.absent(turn.backfill.table, schema, page.rows, turn.whole)
        if chunk is None:
            return None
        self._desk.took(turn, page.rows.num_rows)
        return replace(Window.over(chunk, topic.name, turn.backfill, turn.whole), gone=True, upto=page.upto)

    def gone(self, window: Window, topic: Topic, backfill: Backfill, at: Position) -> tuple[list[Batch], Backfill]:
        """Deletes of the rows that are left in the window, at its read point, and the backfill with this page done."""
        if backfill.done:  # it was cancelled
            return [], backfill
        self._note(window.chunk.table, window.chunk.read_point, backfill.name)
        at = at if window.chunk.read_point is None else Position(*window.chunk.read_point)
        version = (at.major, at.minor)
        deletes = comparing.deletes(self._rows_of(topic), window.keys, topic, version, at, backfill.name, window.chunk.read_us)
        return deletes, backfill.compared(window.upto, sum(map(len, deletes)))


def still_ours(ours: ProducerRecord, topics: Topics) -> None:
    """Raises Irrecoverable("fenced") where another opening of this writer took over meanwhile."""
    stored = topics.producer_record(ours.name)
    if stored is None or stored.fence != ours.fence:
        raise Irrecoverable(
            f"another opening of this writer took over (fence {stored.fence if stored else 'gone'}, ours {ours.fence})",
            code="fenced",
            where=f"producer {ours.name}",
            cure="nothing was written; stop this process, the other one goes on",
        )
