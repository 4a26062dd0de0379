"""Physical compaction: of each key below a boundary only the last record stays, in small transactions beside all other work.

What holds, whenever it is stopped: offsets never change; at and above the boundary nothing is touched; a record goes only
where a later one of its key stays, below the boundary too, or where it is a delete that nobody needs any longer
(`marks.Marks.forgettable_to`). So whoever reads from the start arrives at the same rows, and no later event is hidden.

The boundary is as far as all records are older than the history, never past a reader that is known, until what is
kept for it passes a limit: then it has lost its place, and `Topics.lost` says so. The last block always stays as it is.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millstream import faultpoints
from millstream.topics.contract import Kept
from millstream.topics.local import marks, rows
from millstream.topics.local.blocks import Records, Stored, put, unpacked, with_gaps
from millstream.topics.local.marks import Marks
from millstream.topics.local.store import Store

Mask = npt.NDArray[np.bool_]

GROUP_BYTES = 1 << 20  # what is rewritten in one transaction, about
KEYS_BYTES_MAX = 64 << 20
_KEY_BYTES = 150  # what a key costs in a dict beside its own bytes
_SMALL_BLOCKS = 8  # so many together are worth one block, even where nothing goes
_FREE_PAGES_KEPT = 4096
_FREE_PAGES_A_TIME = 256

_BLOCK = """
SELECT records, events, schema_id, codec, raw_bytes, payload, addressee, first_offset, next_offset, checksum
FROM blocks WHERE topic_id = ? AND first_offset >= ? AND first_offset < ? ORDER BY first_offset LIMIT 1
"""
_EDGE = "SELECT max(first_offset) FROM blocks WHERE topic_id = ? AND first_offset <= ?"
_BYTES = "SELECT coalesce(sum(length(payload)), 0) FROM blocks WHERE topic_id = ? AND first_offset >= ? AND first_offset < ?"
_SIZES = "SELECT first_offset, length(payload) FROM blocks WHERE topic_id = ? AND first_offset < ? ORDER BY first_offset DESC"


@dataclass(frozen=True)
class Keep:
    """What stays whole. `history_s`: all that is younger. `behind_bytes_max`: what is kept beyond that for readers that are behind,
    stored bytes of one topic. `round_bytes_min`: less than this is not worth a round."""

    history_s: float = 7 * 86_400.0
    behind_bytes_max: int = 4 << 30
    round_bytes_min: int = 8 << 20


class Stopped(Exception):
    """Asked to stop between two transactions: the rest waits for the next time."""


Wait = Callable[[float], bool]
"""wait(seconds): sleeps as long, and says whether to stop."""


class Compactor:
    """Compacts the topics of one store. One process at a time: a second finds the lock taken and does nothing."""

    def __init__(self, store: Store, keep: Keep) -> None:
        self._store, self._keep = store, keep

    def run(self, wait: Wait) -> None:
        """A round over every topic that is due. Between transactions it waits as long as it worked, so that writers get their turn.

        Raises what the store raises: Retryable("topics_busy"), Irrecoverable("disk_full", "topic_damaged"); the next run goes on.
        """
        with self._alone() as alone:
            if not alone:
                return
            with self._store.reading() as connection:
                names = [topic.name for topic in rows.all_topics(connection)]
            try:
                for name in names:
                    self._round(name, wait)
                self._give_back(wait)
            except Stopped:
                return

    def _round(self, name: str, wait: Wait) -> None:
        with self._store.writing(f"compaction of {name}") as connection:
            topic_id, end = rows.place(connection, name)
            found = marks.find(connection, topic_id)
            found.note_moment(time.time(), end, self._keep.history_s)
            boundary = self._boundary(connection, name, topic_id, found)
            forget = found.forgettable_to(time.time() - self._keep.history_s, _slowest(connection, name, found))
            marks.put(connection, topic_id, found)
        if boundary is None:
            return
        start = found.clean_to
        while start < boundary:
            upto, latest = self._latest(name, topic_id, start, boundary)
            self._sweep(name, topic_id, upto, latest, forget, wait)
            start = upto
            with self._store.writing(f"compaction of {name}") as connection:
                found = marks.find(connection, topic_id)
                found.clean_to, found.forgotten_to = upto, forget
                if upto == boundary:
                    found.rounds = [*(r for r in found.rounds if r[1] > forget), (time.time(), boundary)]
                marks.put(connection, topic_id, found)

    def _boundary(self, connection: sqlite3.Connection, name: str, topic_id: int, found: Marks) -> int | None:
        """How far to compact now, and whom that leaves behind, both put into `found`; None where it is not worth a round."""
        aged = _aged(connection, topic_id, found, self._keep)
        floor = self._floor(connection, topic_id, aged)
        behind = {r: o for r, o in _places(connection, name).items() if o < aged and r not in found.lost}
        lost = {r: o for r, o in behind.items() if o < floor}
        edge = connection.execute(_EDGE, (topic_id, min([aged, *(o for r, o in behind.items() if r not in lost)]))).fetchone()[0] or 0
        dirty = connection.execute(_BYTES, (topic_id, found.clean_to, edge)).fetchone()[0]
        clean = connection.execute(_BYTES, (topic_id, 0, found.clean_to)).fetchone()[0]
        if edge <= found.clean_to or dirty < max(self._keep.round_bytes_min, clean // 2):
            return None
        found.whole_from = max(found.whole_from, edge)
        found.lost |= {r: o for r, o in lost.items() if o < edge}
        return int(edge)

    def _floor(self, connection: sqlite3.Connection, topic_id: int, aged: int) -> int:
        """Whoever is below has more waiting, up to `aged`, than is kept for it."""
        left = self._keep.behind_bytes_max
        for first, size in connection.execute(_SIZES, (topic_id, aged)):
            left -= size
            if left < 0:
                return int(first) + 1
        return 0

    def _latest(self, name: str, topic_id: int, start: int, boundary: int) -> tuple[int, dict[bytes, int]]:
        """Key → the offset of its last event from `start` up to the first answer: the boundary, or as far as memory allows."""
        latest: dict[bytes, int] = {}
        size, at = 0, start
        while at < boundary and size < KEYS_BYTES_MAX:
            part = self._block(name, topic_id, at, boundary)
            before = len(latest)
            latest.update((key, offset) for key, offset, is_event in _keyed(part) if is_event)
            size += (len(latest) - before) * _KEY_BYTES + len(part.keys)
            at = part.after
        return at, latest

    def _sweep(self, name: str, topic_id: int, upto: int, latest: dict[bytes, int], forget: int, wait: Wait) -> None:
        at = 0
        while at < upto:
            began = time.monotonic()
            group: list[tuple[Records, Mask]] = []
            size = 0
            while at < upto and size < GROUP_BYTES:
                part = self._block(name, topic_id, at, upto)
                group.append((part, _kept(part, latest, forget)))
                size += len(part.keys) + len(part.values)
                at = part.after
            if len(group) >= _SMALL_BLOCKS or not all(kept.all() for _, kept in group):
                self._rewrite(name, topic_id, group)
            if wait(time.monotonic() - began):
                raise Stopped

    def _rewrite(self, name: str, topic_id: int, group: Sequence[tuple[Records, Mask]]) -> None:
        """One transaction: other blocks over the same offsets."""
        first, after = group[0][0].first, group[-1][0].after
        pieces = list(_pieces(group))
        with self._store.writing(f"compaction of {name}") as connection:
            gone = connection.execute(
                "DELETE FROM blocks WHERE topic_id = ? AND first_offset >= ? AND first_offset < ?", (topic_id, first, after)
            )
            if gone.rowcount != len(group):
                raise rows.damaged(f"{name}@{first}", f"{gone.rowcount} blocks are where {len(group)} were read a moment ago")
            for begin, end, piece in pieces:
                put(connection, topic_id, name, begin, end, piece)
            faultpoints.reached("topics.compacting")
        faultpoints.reached("topics.compacted")

    def _block(self, name: str, topic_id: int, first: int, before: int) -> Records:
        """The block that begins there. One at a time: a long read would keep the log from being copied back."""
        with self._store.reading(f"{name}@{first}") as connection:
            row = connection.execute(_BLOCK, (topic_id, first, before)).fetchone()
        if row is None or row[7] != first:
            raise rows.damaged(f"{name}@{first}", "no block begins at this offset")
        *stored, begin, after, checksum = row
        return unpacked(Stored(*stored), name, begin, after, checksum)

    def _give_back(self, wait: Wait) -> None:
        """Freed pages are used again by later commits; of many, most go back to the disk, a few at a time."""
        while not wait(0.0):
            with self._store.writing("compaction") as connection:
                (free,) = connection.execute("PRAGMA freelist_count").fetchone()
                (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
                if free <= _FREE_PAGES_KEPT or mode != 2:  # a file of an earlier format cannot shrink; it uses its pages again
                    return
                connection.execute(f"PRAGMA incremental_vacuum({_FREE_PAGES_A_TIME})").fetchall()

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        path = self._store.path
        handle = os.open(path.with_name(path.name + "-compaction"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)


def kept(connection: sqlite3.Connection, name: str, keep: Keep) -> Kept:
    """See `contract.Kept`. Whoever has lost its place holds nothing."""
    topic_id, end = rows.place(connection, name)
    found = marks.find(connection, topic_id)
    aged = _aged(connection, topic_id, found, keep)
    behind = {r: o for r, o in _places(connection, name).items() if o < aged and r not in found.lost}
    reader = min(behind, key=lambda r: (behind[r], r), default=None)
    held = 0
    if reader is not None:
        edge = connection.execute(_EDGE, (topic_id, behind[reader])).fetchone()[0] or 0
        held = connection.execute(_BYTES, (topic_id, edge, aged)).fetchone()[0]
    stored = connection.execute(_BYTES, (topic_id, 0, end)).fetchone()[0]
    lost = {r: o for r, o in found.lost.items() if found.is_lost(r, o)}
    return Kept(stored, found.whole_from, aged, reader, held, keep.behind_bytes_max, lost)


def _aged(connection: sqlite3.Connection, topic_id: int, found: Marks, keep: Keep) -> int:
    """All below is older than the history, and not of the last block."""
    last = connection.execute("SELECT coalesce(max(first_offset), 0) FROM blocks WHERE topic_id = ?", (topic_id,)).fetchone()[0]
    return min(found.aged_to(time.time() - keep.history_s), int(last))


def _places(connection: sqlite3.Connection, topic: str) -> dict[str, int]:
    return {reader: places[topic] for reader, places in rows.noted_readers(connection).items() if topic in places}


def _slowest(connection: sqlite3.Connection, topic: str, found: Marks) -> int | None:
    return min((o for r, o in _places(connection, topic).items() if r not in found.lost), default=None)


def _keyed(part: Records) -> Iterator[tuple[bytes, int, bool]]:
    """Key, offset and whether it is an event (else a tombstone), record by record."""
    key_starts = np.concatenate([[0], part.key_ends[:-1]]).tolist()
    for a, b, offset, is_event in zip(key_starts, part.key_ends.tolist(), part.offsets.tolist(), _is_event(part).tolist(), strict=False):
        yield bytes(part.keys[a:b]), offset, is_event


def _is_event(part: Records) -> Mask:
    return np.diff(part.ends, prepend=0) > 0


def _kept(part: Records, latest: dict[bytes, int], forget: int) -> Mask:
    """Which records stay: events that no later one of their key outdoes, deletes only from `forget` on, tombstones with their deletes."""
    is_event = _is_event(part)
    kept = np.fromiter((latest.get(key, -1) <= offset for key, offset, _ in _keyed(part)), np.bool_, len(part.offsets))
    is_delete = is_event & np.append(~is_event[1:], False)
    kept &= ~(is_delete & (part.offsets < forget))
    tombstones = np.flatnonzero(~is_event)
    kept[tombstones] = kept[tombstones - 1]
    return kept


def _pieces(group: Sequence[tuple[Records, Mask]]) -> Iterator[tuple[int, int, Stored]]:
    """The group as blocks over the same offsets, one for each run of a schema; where nothing is kept, one without records."""
    runs: list[list[tuple[Records, Mask]]] = []
    for part, kept in group:
        if kept.any() or not runs:
            if runs and (runs[-1][0][0].schema_id == part.schema_id or not runs[-1][0][1].any()):
                runs[-1] = [*(r for r in runs[-1] if r[1].any()), (part, kept)]
            else:
                runs.append([(part, kept)])
    edges = [group[0][0].first, *(run[0][0].first for run in runs[1:]), group[-1][0].after]
    for run, first, after in zip(runs, edges, edges[1:], strict=False):
        yield first, after, with_gaps(run, run[0][0].schema_id)
