"""How the tables of a feed are told: what the server is asked, and the decoders that read what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from millstream.errors import Irrecoverable, Retryable
from millstream.sources.cockroach.decode import Decoder
from millstream.sources.cockroach.derived import Derived
from millstream.sources.cockroach.describe import Catalogue, Past, Shape
from millstream.sources.cockroach.described import Described
from millstream.sources.cockroach.feeds import Ability, Feed, Watched
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.cockroach.layers import Layer
from millstream.sources.cockroach.names import feed_topics
from millstream.sources.cockroach.session import Session


class Tellings:
    """One stream's."""

    def __init__(
        self,
        session: Session,
        catalogue: Catalogue,
        past: Past,
        derived: Mapping[str, Derived],
        ability: Ability,
        database: str,
        compared: Mapping[str, Mapping[str, str]],
    ) -> None:
        """`compared`: of derived tables that go on, the types with which their conditions were first read, by column."""
        self._session, self._catalogue, self._past = session, catalogue, past
        self._derived, self._ability, self._database = derived, ability, database
        self._compared = {written: dict(types) for written, types in compared.items()}
        # Of tables in a query's feed, the columns that they had when it was asked.
        self._asked_of: dict[str, frozenset[int]] = {}

    def query(self, watched: Watched, shapes: Mapping[int, Shape]) -> str | None:
        """What the server is asked, where it filters."""
        derived, shape = self._derived[watched.written], shapes.get(watched.oid)
        if shape is None or watched.written in self._ability.unasked or derived.pushes(shape, self._session.version) is not None:
            return None
        return derived.query(watched.name, shape)

    def described(self, watched: Watched, shape: Shape, at: Hlc) -> Described:
        """The table as its decoder is told it. Raises Stopped where a derived one cannot be told from there on."""
        derived = self._derived[watched.written]
        found = derived.described(self._past.described(shape, watched.written, at))
        if now := derived.compared(found.schema):
            first = self._compared.setdefault(watched.written, now)
            if others := [name for name, type_ in now.items() if first.get(name) != type_]:
                raise derived.changed(others)
        return found

    @property
    def compared(self) -> Mapping[str, Mapping[str, str]]:
        """As plain JSON: goes with the position, which may pass a change of a type before what it stops was told so."""
        return self._compared

    def is_blind(self, feed: Feed, shape: Shape) -> bool:
        """Whether the table has come to have a hidden column that the feed's query does not name, and would have to."""
        written = feed.tables[0].written
        if feed.query is None or self._derived[written].select is not None:
            return False
        return any(c.hidden and c.number not in self._asked_of[written] for c in shape.told)

    def layers(self, watched: Sequence[Watched], known: Mapping[str, Described], *, is_query: bool) -> tuple[Layer, ...]:
        """As few as give each table a topic to itself. `known`: the tables as they are where the feed begins."""
        if is_query:
            self._asked_of |= {written: frozenset(c.id for c in of.columns) for written, of in known.items()}
        by_topics: list[dict[str, Watched]] = []
        for w in watched:
            topics = feed_topics(w.name, self._database)
            room = next((b for b in by_topics if topics[0] not in b), None)
            if room is None:
                by_topics.append(room := {})
            room |= dict.fromkeys(topics, w)
        layers = []
        for i, by_topic in enumerate(by_topics):
            decoder = self._decoder(by_topic, known if is_query else {})
            for topic, w in by_topic.items():
                if w.written in known:
                    decoder.know(topic, known[w.written])
            alone = next(iter(by_topic)) if is_query else None
            layers.append(Layer(decoder, {topic: w.written for topic, w in by_topic.items()}, i == 0, alone))
        return tuple(layers)

    def _decoder(self, by_topic: Mapping[str, Watched], selected: Mapping[str, Described]) -> Decoder:
        """`selected`: of tables whose query selects these columns, whatever becomes of the table."""

        def describe(topic: str, at: Hlc) -> Described:
            watched = by_topic.get(topic)
            if watched is None:
                raise Irrecoverable(
                    f"the feed gave rows of {topic}, which it was not asked for", code="unknown_table", where=self._session.where
                )
            shape = self._catalogue.shapes([watched.oid], at).get(watched.oid)
            if shape is None:
                raise Retryable(f"{watched.written} was not there at {at}", code="not_described", where=self._session.where)
            described = self.described(watched, shape, at)
            if watched.written in selected and described.key != selected[watched.written].key:
                raise self._derived[watched.written].another_key()
            return described

        @lru_cache(maxsize=65_536)
        def changing(topic: str, at: Hlc) -> bool:
            return self._catalogue.changing(by_topic[topic].oid, at)

        return Decoder(describe, self._session.where, changing=changing if self._session.version[0] <= 22 else None)
