"""Backfills by the server's own scan: what of it is read next, as a window, and when it has to begin again.

All rows of a scan are as of one moment, which the stream passed when it began. So what was admitted above that is kept in mind for as long
as it runs (`Admission.hold`), and a row goes in where its key has nothing newer: the rule of chunks, for one that lasts long.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

import pyarrow as pa

from millstream.capture.admission import Admission
from millstream.capture.backfill import Backfills
from millstream.capture.orders import Turn
from millstream.capture.versions import Versions
from millstream.capture.window import Window
from millstream.errors import MillstreamError, Refused, Retryable
from millstream.events.types import RowSchema
from millstream.sources.contract import Scans, Source
from millstream.topics.contract import Topic

log = logging.getLogger("millstream.backfill")

AGAIN_AFTER_S = 5.0


class Scanning:
    """One connector's scans, by the slots of their backfills."""

    def __init__(self, source: Source, clock: Callable[[], float]) -> None:
        self._source, self._clock = source, clock
        self._running: dict[str, tuple[str, tuple[int, int]]] = {}  # slot → topic, read point
        self._broke_at: dict[str, float] = {}

    def window(
        self, turn: Turn, topic: Topic, versions: Versions, is_told: Callable[[str, RowSchema], bool], admission: Admission
    ) -> Window | None:
        """The window over the scan's next rows; None where none are at hand. Raises Refused("bad_scope") where a scan is of no use."""
        slot = turn.backfill.slot
        if not isinstance(self._source, Scans):
            raise Refused("this kind of source has no changefeed", code="bad_scope", cure="leave --method away")
        if slot in self._running and (self._running[slot][0] != topic.name or versions.has_changed_after(*self._running[slot])):
            self.end(slot, admission)  # its rows would be told in a schema, or a topic, that the table has left behind
        if slot not in self._running and not self._begun(turn, topic, admission):
            return None
        _, at = self._running[slot]
        try:
            chunk = self._source.scanned(slot, turn.rows_max)
        except Retryable as error:
            log.warning("%s begins again: %s", turn.backfill.name, error)
            self._broke_at[slot] = self._clock()
            self.end(slot, admission)
            return None
        except MillstreamError as error:
            self.end(slot, admission)
            raise Refused(error.message, code="bad_scope", where=error.where, cure=error.cure) from None
        if chunk is None:
            return None
        if not is_told(chunk.table, chunk.schema):
            self.end(slot, admission)
            return Window.beside(chunk, topic.name, turn.backfill)
        window = Window.over(chunk, topic.name, turn.backfill, turn.whole)
        return window.keeping(pa.array(admission.scanned(topic.name, window.keys, at)))

    def place(self, slot: str) -> tuple[int, int] | None:
        """Where the scan that runs reads."""
        return self._running[slot][1] if slot in self._running else None

    def _begun(self, turn: Turn, topic: Topic, admission: Admission) -> bool:
        assert isinstance(self._source, Scans)
        backfill = turn.backfill
        if 0 <= self._clock() - self._broke_at.get(backfill.slot, -AGAIN_AFTER_S) < AGAIN_AFTER_S:
            return False
        above = None if backfill.begun is None else (backfill.begun[0], backfill.begun[1])
        at = self._source.begin_scan(backfill.slot, backfill.table, above)
        if at is None:
            return False
        admission.hold(topic.name, backfill.slot, at)
        self._running[backfill.slot] = (topic.name, at)
        return True

    def settle(self, backfills: Backfills, untold: Collection[str], admission: Admission) -> None:
        """Give up those that are over, and those of tables of which something is not told: there they begin again behind that, if ever."""
        for slot in list(self._running):
            b = backfills.get(slot)
            if b is None or b.done or b.table in untold:
                self.end(slot, admission)

    def end(self, slot: str, admission: Admission) -> None:
        if slot in self._running:
            topic, _ = self._running.pop(slot)
            admission.hold(topic, slot, None)
            if isinstance(self._source, Scans):
                self._source.end_scan(slot)

    def reopened(self) -> None:
        """The stream is another, and so is the admission: nothing of a scan is left."""
        self._running.clear()
