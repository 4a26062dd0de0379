"""One reading of a source: which feeds run, up to where each table is complete, and what is done where a feed ends.

Each table has a place of its own, a resolved time, and resumes there. Tables at one place share a feed; feeds whose places
have come near are made one. What ends a feed ends it for the table that it is about: the others go on from their places.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from millstream.errors import MillstreamError, Refused, Retryable
from millstream.events.batch import Batch
from millstream.events.progress import Position
from millstream.sources.cockroach import failures, reasons, statements
from millstream.sources.cockroach.derived import Derived, Stopped, another, refuse_others
from millstream.sources.cockroach.describe import Catalogue, Past, Shape, trades_names
from millstream.sources.cockroach.described import Described
from millstream.sources.cockroach.feeds import Ability, Ended, Feed, Limits, Piece, Queue, Watched
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.cockroach.layers import heard
from millstream.sources.cockroach.options import Options
from millstream.sources.cockroach.session import Server, Session
from millstream.sources.cockroach.tellings import Tellings
from millstream.sources.contract import Delivery, Lost
from millstream.sources.names import TableName

log = logging.getLogger("millstream.source")

IDLE_S = 0.1
LOOK_EVERY_S = 1.0  # after the feeds
MERGE_WITHIN_NS = 5_000_000_000


@dataclass
class _Table:
    """What is known of a table while it is watched. `place`: all up to there was given."""

    watched: Watched
    place: Hlc
    outline: tuple[Any, ...] = ()


class Stream:
    """One call of `Source.stream`. `marks` are those of chunks that were read: each goes with a delivery of its own."""

    def __init__(
        self,
        server: Server,
        session: Session,
        catalogue: Catalogue,
        options: Options,
        derived: Mapping[str, Derived],
        ability: Ability,
        reopened: set[str],
    ) -> None:
        """`reopened` outlives the stream: tables whose feed was opened again for want of a resolved time, and has given none since."""
        self._server, self._session, self._catalogue, self._options, self._derived = server, session, catalogue, options, derived
        self._ability, self._reopened = ability, reopened
        self._limits = Limits(options.batch_messages, options.batch_bytes, options.queue_bytes)
        self._queue = Queue(options.queue_bytes)
        self._tables: dict[str, _Table] = {}
        self._aside: dict[str, list[str]] = {}
        self._oids: dict[str, int] = {}
        self._said: dict[str, str] = {}
        self._lost: list[Lost] = []
        self._lacking: dict[str, Hlc] = {}
        self._stopped: list[tuple[str, MillstreamError]] = []
        self._feeds: list[Feed] = []
        self._least = (0, 0)
        self.marks: list[str] = []
        self.past: Past
        self._closed = False

    # ---- what chunks ask

    def table(self, written: str) -> tuple[int, Hlc] | None:
        """The id and the place of a table; None where it is not watched (any longer)."""
        found = self._tables.get(written)
        return None if found is None else (found.watched.oid, found.place)

    # ---- opening

    def open(self, resume: Position | None) -> list[tuple[str, MillstreamError]]:
        """Start the feeds; tables that are not what they were come back, with why."""
        detail = resume.detail if resume is not None else {}
        self._least = (resume.major, resume.minor) if resume is not None else (0, 0)
        database = str(self._session.rows(statements.WHO)[0][0])
        self.past = Past(self._catalogue, detail.get("past", {}))
        compared = {t: types for t, types in detail.get("compared", {}).items() if resume is not None and t in resume.tables}
        self._tellings = Tellings(self._session, self._catalogue, self.past, self._derived, self._ability, database, compared)
        defined = {n.written for n in self._options.names()}
        # One that was taken out of the definition and comes back is looked at anew.
        self._aside = {t: said for t, said in detail.get("aside", {}).items() if t in defined}
        names = [n for n in self._options.names() if n.written not in self._aside]
        places = {t: Hlc(*at) for t, at in resume.tables.items()} if resume is not None else {}
        self._oids = oids = dict(detail.get("oids", {}))
        self._said = dict(detail.get("derived", {}))
        self._lacking = {t: Hlc(*at) for t, at in detail.get("lacking", {}).items()}
        refuse_others(self._derived, self._said, places, self._server.where)
        found = self._catalogue.find(names) if names else {}
        now = self._now()
        aside = [(t, reasons.as_told(said, t, self._server.where)) for t, said in self._aside.items()]
        for name in names:
            written, here = name.written, found.get(name.written)
            if written in places and written in oids and (here is None or here.oid != oids[written]):
                watched = self._renamed(name, oids[written])
                if watched is None:
                    aside.append((written, reasons.gone(written, self._server.where, again=here is not None)))
                    continue
                if here is not None and self._derived[written].said and written not in self._said:
                    raise another(f"{written} has another `table`", self._server.where)
            elif here is None:
                raise unknown_table(name, self._server.where)
            else:
                watched = Watched(written, here.oid, name)
            self._tables[written] = _Table(watched, places.get(written, now))
            self._said |= {written: said} if (said := self._derived[written].said) else {}
        self._put_aside(aside)
        self._open_feeds(list(self._tables.values()))
        return aside

    def _now(self) -> Hlc:
        return Hlc.parse(str(self._session.rows(statements.NOW)[0][0]))

    def _renamed(self, name: TableName, oid: int) -> Watched | None:
        """The table under the name that it has now. Its topic keeps the one of the definition."""
        shape = self._catalogue.shapes([oid], None).get(oid)
        return None if shape is None else _named(Watched(name.written, oid, name), shape)

    def _open_feeds(self, tables: Sequence[_Table], *, alone: bool = False) -> None:
        """Feeds for these tables, which are in none: one for each place, or for each table. What the server filters has its own."""
        shapes = self._catalogue.shapes(sorted({t.watched.oid for t in tables}), None)
        groups: dict[Any, list[_Table]] = {}
        for t in tables:
            by_itself = alone or self._options.feeds == "per_table" or self._tellings.query(t.watched, shapes) is not None
            groups.setdefault(t.watched.written if by_itself else t.place, []).append(t)
        for group in groups.values():
            self._start([t.watched for t in group])

    def _start(self, watched: Sequence[Watched]) -> None:
        """One feed, from the least of the tables' places. Where the catalogue does not go back so far, what lies between is lost: whether
        columns came or changed there, nobody could say."""
        tables = [self._tables[w.written] for w in watched]
        try:
            feed = self._feed(watched, min(t.place for t in tables))
        except Retryable as error:
            if error.code != failures.LOST:
                raise
            self._resume_now(tables, error)
            feed = self._feed(watched, min(t.place for t in tables))
        if feed is not None:
            self._feeds.append(feed)
            feed.start()

    def _feed(self, watched: Sequence[Watched], cursor: Hlc) -> Feed | None:
        """From the tables as they were where it begins: what changes after that is news. The server looks for their names there, too.
        None where no table is left that can be told."""
        oids = sorted({w.oid for w in watched})
        shapes, outlines = self._catalogue.shapes(oids, cursor), self._catalogue.outlines(oids, cursor)
        then: list[Watched] = []
        known: dict[str, Described] = {}
        for w in watched:
            if (shape := shapes.get(w.oid)) is not None:
                self.past.begin(shape, cursor)
                self._tables[w.written].outline = outlines.get(w.oid, ())
                try:
                    known[w.written] = self._tellings.described(w, shape, cursor)
                except Stopped as stop:
                    self._stopped.append((stop.written, stop.why))
                    continue
            then.append(_named(w, shape))
        if not then:
            return None
        query = self._tellings.query(then[0], shapes) if len(then) == 1 else None
        layers = self._tellings.layers(then, known, is_query=query is not None)
        every = f"{round(self._options.resolved_every_s * 1000)}ms"
        return Feed(self._server, tuple(then), cursor, self._queue, self._limits, self._ability, every, layers, query)

    # ---- the loop

    def deliveries(self, aside: list[tuple[str, MillstreamError]]) -> Iterator[Delivery]:
        if aside:
            yield self._delivery(aside=aside)
        looked_after = time.monotonic()
        while not self._closed:
            if self._stopped:
                stopped, self._stopped = self._stopped, []
                yield self._set_aside(stopped)
            if time.monotonic() - looked_after >= LOOK_EVERY_S:
                looked_after = time.monotonic()
                self._look_after_feeds()
            taken = self._queue.take(0 if self.marks else IDLE_S)
            if not taken:
                yield self._delivery(idle=True)
            items = [i for i in taken if i.feed in self._feeds]
            if pieces := [i for i in items if isinstance(i, Piece)]:
                yield from self._told(pieces)
            for item in items:
                if isinstance(item, Ended) and item.feed in self._feeds:
                    yield from self._ended(item)

    def _told(self, pieces: Sequence[Piece]) -> Iterator[Delivery]:
        """One delivery, unless a table is set aside: then what comes before is given first, at a place before it. So is what comes
        before an error."""
        batches: list[Batch] = []
        dropped = Counter[str]()
        for piece in pieces:
            feed = piece.feed
            if feed not in self._feeds:  # another is open in its place, from before this piece
                continue
            try:
                told = heard(feed.layers, self._derived, piece.messages)
            except MillstreamError as error:
                if batches:
                    yield self._delivery(batches=tuple(batches), dropped=dropped)
                    batches, dropped = [], Counter()
                if error.code != failures.BAD_MESSAGE or feed.query is None:
                    raise
                yield from self._ended(Ended(feed, error))
                continue
            feed.heard_at = time.monotonic()
            batches += [b for b in told.batches if b.topic in self._tables]
            dropped.update(told.dropped)
            if told.aside and batches:
                yield self._delivery(batches=tuple(batches), dropped=dropped)
                batches, dropped = [], Counter()
            self._put_aside(told.aside)
            if told.resolved is not None:
                self._advance(feed, told.resolved)
            if told.aside:
                yield self._delivery(aside=told.aside)
        # A resolved time alone is a feed that has nothing to tell.
        yield self._delivery(batches=tuple(batches), idle=not batches and self._queue.is_empty, dropped=dropped)

    def _advance(self, feed: Feed, resolved: Hlc) -> None:
        feed.resolved_at, feed.resolved = time.monotonic(), True
        for watched in feed.tables:
            self._reopened.discard(watched.written)
            if (table := self._tables.get(watched.written)) is not None:
                # A feed that was merged begins below the place of some of its tables: those do not go back.
                table.place = max(table.place, resolved)
                if table.place >= self._lacking.get(watched.written, Hlc(1 << 63, 0)):
                    del self._lacking[watched.written]
                    reconcile = self._options.on_loss == "reconcile"
                    self._lost.append(reasons.unseen(watched.written, self._server.where, table.place, reconcile=reconcile))
        # Each time: who goes on from a place takes the table as it was there for no news.
        self._look(feed, resolved)

    def _look(self, feed: Feed, at: Hlc) -> None:
        """Describe anew those of the feed's tables that are not as they were."""
        oids = sorted({t.oid for t in feed.tables if t.written in self._tables})
        outlines = self._catalogue.outlines(oids, at)
        changed = [w for w in feed.tables if w.oid in outlines and w.written in self._tables]
        changed = [w for w in changed if self._tables[w.written].outline != outlines[w.oid]]
        shapes: dict[int, Shape] = self._catalogue.shapes(sorted({w.oid for w in changed}), at)
        for watched in changed:
            if (shape := shapes.get(watched.oid)) is None:
                continue
            table = self._tables[watched.written]
            if trades_names(table.outline, outlines[watched.oid]):
                self._lacking[watched.written] = self._now()
            table.outline = outlines[watched.oid]
            table.watched = _named(watched, shape)
            try:
                described = self._tellings.described(watched, shape, at)
            except Stopped as stop:
                self._stopped.append((stop.written, stop.why))
                continue
            if self._saw_too_little(feed, table, shape) and feed in self._feeds:
                self._feeds.remove(feed)
                feed.close()
                self._open_feeds([table])
                return
            for layer in feed.layers:
                for topic, written in layer.tables.items():  # an open feed keeps the name that it was opened with
                    if written == watched.written:
                        layer.decoder.know(topic, described)

    def _delivery(
        self,
        *,
        batches: tuple[Batch, ...] = (),
        idle: bool = False,
        aside: Sequence[tuple[str, MillstreamError]] = (),
        dropped: Mapping[str, int] | None = None,
    ) -> Delivery:
        mark = self.marks.pop(0) if self.marks else None
        lost, self._lost = tuple(self._lost), []
        return Delivery(batches, self._position(), mark, idle, None, tuple(aside), dropped or {}, lost)

    def _position(self) -> Position:
        places = {written: (t.place.wall, t.place.logical) for written, t in self._tables.items()}
        detail = {
            "oids": self._oids | {written: t.watched.oid for written, t in self._tables.items()},
            "past": self.past.stored,
            "aside": self._aside,
        }
        if self._said:
            detail["derived"] = self._said
        if self._tellings.compared:
            detail["compared"] = self._tellings.compared
        if self._lacking:
            detail["lacking"] = {written: (at.wall, at.logical) for written, at in self._lacking.items()}
        self._least = min(places.values(), default=self._least)  # where every table is set aside it stays
        return Position(*self._least, detail, places)

    # ---- feeds that end, are silent, or can be one

    def _ended(self, ended: Ended) -> Iterator[Delivery]:
        feed, why = ended.feed, ended.why
        self._feeds.remove(feed)
        feed.close()
        left = [self._tables[w.written] for w in feed.tables if w.written in self._tables]
        name = failures.named_table(why.message)
        named = [t for t in left if t.watched.name.table == name]
        match why.code:
            case failures.COLUMN_GONE if feed.query is not None:
                yield self._set_aside([(t.watched.written, self._derived[t.watched.written].stopped(why.message).why) for t in left])
            case failures.STATEMENT | failures.FEED | failures.UNKNOWN_OPTION | failures.LICENCE if feed.query is not None:
                self._filter_here(left, why)
            case failures.BAD_MESSAGE if feed.query is not None:
                # `*` is of the columns that are visible at each time: one that is made hidden is in plain feeds all the same.
                shapes = self._catalogue.shapes([t.watched.oid for t in left], None)
                for table in left:
                    if (shape := shapes.get(table.watched.oid)) is not None:
                        self._saw_too_little(feed, table, shape)
                self._filter_here(left, why)
            case failures.LOST if len(left) > 1:
                # The time that old rows are kept for is a table's own: each is tried by itself.
                self._open_feeds(left, alone=True)
            case failures.TRUNCATED if len(left) > 1 and not named:
                self._open_feeds(left, alone=True)
            case failures.LOST | failures.TRUNCATED:
                self._resume_now(named if named and why.code == failures.TRUNCATED else left, why)
                self._open_feeds(left)
            case failures.DROPPED:
                there = self._catalogue.outlines([t.watched.oid for t in left], None)
                dropped = [t.watched.written for t in left if t.watched.oid not in there]
                if not dropped:
                    raise why
                yield self._set_aside([(written, reasons.gone(written, self._server.where, again=False)) for written in dropped])
                self._open_feeds([t for t in left if t.watched.written not in dropped])
            case failures.FAMILIES:
                cut = [t.watched.written for t in named]
                if not cut:
                    raise why
                yield self._set_aside([(written, why) for written in cut])
                self._open_feeds([t for t in left if t.watched.written not in cut])
            case failures.KEY_CHANGED:
                at = failures.time_of_change(why.message)
                if at is None:
                    raise why
                self._look(feed, Hlc.parse(at))
                for table in left:
                    table.place = max(table.place, Hlc.parse(at))
                self._open_feeds(left)
            case _:
                raise why

    def _filter_here(self, tables: Sequence[_Table], why: MillstreamError) -> None:
        """Their feeds tell all rows from here on. Should that fail as well, a plain feed's own error says so."""
        for table in tables:
            log.warning("%s: %s is filtered here, not by the server: %s", self._server.where, table.watched.written, why.message)
            self._ability.unasked[table.watched.written] = why.message
        self._open_feeds(tables)

    def _resume_now(self, tables: Sequence[_Table], why: MillstreamError) -> None:
        """These go on from the present. The next delivery says what is lost."""
        now = self._now()
        for table in tables:
            reconcile = self._options.on_loss == "reconcile"
            self._lost.append(reasons.skipped(table.watched.written, self._server.where, table.place, now, why, reconcile=reconcile))
            table.place = now

    def _saw_too_little(self, feed: Feed, table: _Table, shape: Shape) -> bool:
        """Whether `*` left out a column that came hidden. What was told meanwhile comes again in vain, since it has its version already:
        once the table is complete up to now it is to be read again."""
        if blind := self._tellings.is_blind(feed, shape):
            self._lacking[table.watched.written] = self._now()
        return blind

    def _set_aside(self, tables: list[tuple[str, MillstreamError]]) -> Delivery:
        self._put_aside(tables)
        return self._delivery(aside=tables)

    def _put_aside(self, tables: Sequence[tuple[str, MillstreamError]]) -> None:
        for written, why in tables:
            self._aside[written] = [why.code, why.message, why.cure]
            self._tables.pop(written, None)

    def _look_after_feeds(self) -> None:
        now = time.monotonic()
        for feed in self._feeds:
            names = {w.written for w in feed.tables}
            unresolved = now - feed.resolved_at > self._options.resolved_timeout_s
            silent = now - feed.heard_at > self._options.resolved_timeout_s
            # Once: a feed that catches up tells rows for long before it can say up to where, and would begin again each time.
            if unresolved and (silent or not names <= self._reopened):
                self._reopened |= names
                raise Retryable(
                    f"the feed of {', '.join(sorted(names))} has not said for {self._options.resolved_timeout_s:g} s "
                    "up to where it is complete",
                    code="no_resolved",
                    where=self._server.where,
                    cure="nothing: the feed is opened again from its place. If this comes again, see SHOW RANGES and the server's log",
                )
        if len(self._feeds) > 1 and self._options.feeds == "one":
            self._merge()

    def _merge(self) -> None:
        """One feed where several have come to about one place. It begins at the least: what is told again is below the others' places."""
        feeds = [f for f in self._feeds if f.query is None]
        tables = [t for f in feeds for w in f.tables if (t := self._tables.get(w.written)) is not None]
        places = [t.place.wall for t in tables]
        if len(feeds) > 1 and tables and all(f.resolved for f in feeds) and max(places) - min(places) <= MERGE_WITHIN_NS:
            for feed in feeds:
                feed.close()
                self._feeds.remove(feed)
            self._start([t.watched for t in tables])

    def close(self) -> None:
        """Ends `deliveries`; may be called from any thread, and twice."""
        self._closed = True
        self._queue.close()
        for feed in list(self._feeds):
            feed.close()


def _named(watched: Watched, shape: Shape | None) -> Watched:
    """With the name that the table has there."""
    if shape is None:
        return watched
    return Watched(watched.written, watched.oid, TableName(watched.written, shape.schema, shape.table))


def unknown_table(name: TableName, where: str) -> Refused:
    return Refused(
        f"there is no table {name.written}, or this user may see nothing of it",
        code="table_unknown",
        where=where,
        cure=f"name a table of this database as schema.table, and GRANT SELECT ON TABLE {name.quoted}. One that was renamed: give it its "
        "old name back; a topic keeps its table's name for life, so under the new name it is a new table, with a load of its own",
    )
