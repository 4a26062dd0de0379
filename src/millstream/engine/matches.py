"""Saved searches of one product, on the local runner: which documents they match is a topic, `PRODUCT.matches`.

c when a document begins to match a search, u when one that matches has changed, d when it no longer does: of every search, the
keys whose last event is no delete are the documents that its query finds. It reads the topic of the generation that is
searched, and goes on as a pipeline does (invariant 3): one state transaction, then one publication.

A search that is new, changed or gone, and another generation, are one thing: the topic is read from its start with those
searches alone, and what differs from what was last said is published. The others keep their place meanwhile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.engine.build import READ_BYTES
from millstream.engine.images import last_per_key
from millstream.engine.matchstate import MATCHED, WANTED, MatchTables, present
from millstream.engine.publisher import Commit, Publisher
from millstream.engine.reader import NotAccepted, TopicReader
from millstream.engine.state import Meta, State
from millstream.engine.store import Store
from millstream.errors import Irrecoverable, Refused
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.events.version import texts
from millstream.faultpoints import reached
from millstream.pipelines.searches import SEARCH, VERSION, matches_topic
from millstream.queries.check import checked
from millstream.queries.conditions import Condition
from millstream.queries.fields import Fields
from millstream.queries.reverse import Watched
from millstream.queries.treatment import Treatment
from millstream.schemas.registry import Registry
from millstream.sinks.jsontext import objects
from millstream.topics.contract import Topics

LOOK_EVERY_S = 1.0
SLICE_ROWS = 5_000


@dataclass(frozen=True)
class Served:
    """The generation that is searched: its topic, the accepted version of it, and how its index treats the fields."""

    topic: str
    schema: RowSchema
    schema_id: int
    treatments: Mapping[str, Treatment]

    @property
    def fields(self) -> Fields:
        return Fields({f.name: f.type for f in self.schema.fields}, self.treatments)

    @property
    def form(self) -> str:
        """Differs where a query may mean something else."""
        return json.dumps([[(f.name, str(f.type)) for f in self.schema.fields], dict(sorted(self.treatments.items()))])


Tell = Callable[[str, str, str, str], None]
"""tell(search, state, reason, cure): what becomes of one search."""


class Matches:
    """Runs the saved searches of one product. `open`, then `step` for ever. Not thread-safe."""

    def __init__(
        self,
        product: str,
        searches: Callable[[], Mapping[str, str]],
        served: Callable[[], Served | None],
        schema: RowSchema,
        topics: Topics,
        registry: Registry,
        state_path: Path,
        memory_mib: int = 1024,
        tell: Tell = lambda search, state, reason, cure: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`searches` says what they are now (name → query), `served` which generation is searched; both are asked again and again.
        `schema` is that of the matches."""
        self.product, self.name, self.topic = product, f"pipeline.{product}", matches_topic(product)
        self._searches_now, self._served_now, self._schema = searches, served, schema
        self._searches: dict[str, str] = {}
        self._topics, self._registry, self._path, self._memory_mib = topics, registry, state_path, memory_mib
        self._tell, self._clock = tell, clock
        self.tick: Callable[[str, int, int], None] = lambda what, done, total: None  # the runner's: shows progress, raises Stopped
        self._served: Served | None = None
        self._reader: TopicReader | None = None
        self._state: State | None = None
        self._built, self._looked_at, self._progressed_at = False, 0.0, 0.0
        self._kept: dict[str, Any] = {}  # what was last published of itself
        self.set_aside: dict[str, Refused] = {}
        self.events = 0

    # ---- opening

    def open(self) -> None:
        """Lock the state and raise the fence; settle what the last run left. Raises Refused("state_in_use"), Irrecoverable."""
        self._state = State(Store(self._path, memory_mib=self._memory_mib))
        try:
            self._publisher = Publisher(self.name, {self.topic: self._schema}, self._topics, self._registry)
            self._tables = MatchTables(self._state, self._schema, self.topic)
            self._settle()
        except BaseException:
            self._state.store.close()  # a second try opens it anew
            raise

    def _settle(self) -> None:
        """Publish what the outbox holds; take up what was kept, or load what is published where the state is lost or older."""
        state, meta, published = self._opened(), self._opened().meta(), self._publisher.sequence
        self._built, self._served, self._reader = False, None, None
        if meta is None or meta.sequence < published:
            self._load_published()
            return
        if meta.sequence > published + 1:
            raise Irrecoverable(
                f"the state has computed commit {meta.sequence}, but the topics end at {published}: they were restored",
                code="topics_restored",
                where=self.name,
                cure=f"delete {self._path}: what the searches match is found anew from the topics as they are now",
            )
        if meta.sequence == published + 1:
            self._publisher.publish(Commit(meta.sequence, state.outbox(published).get(meta.sequence, ()), meta.state))
        self._kept = dict(meta.state)

    def _load_published(self) -> None:
        """What was last said is in the topic. No search is known to be as it should: all are compared."""
        state, reader = self._opened(), self._publisher.reader(self.topic)
        state.wipe()
        with state.transaction():
            self._tables.create()
        end = self._topics.end(self.topic)
        while reader.offset < end:
            self.tick(f"reading {self.topic}", reader.offset, end)
            batches = [b for b in reader.read(READ_BYTES) if len(b)]
            if batches:
                with state.transaction():
                    self._tables.replace(MATCHED, *last_per_key(batches))
        served = self._publisher.state.get("served")
        self._kept = {"searches": {}, "served": served, "form": "", "positions": {}, "progress": {}, "ready": {self.topic: False}}
        with state.transaction():
            state.set_meta(Meta(self._publisher.sequence, self._kept, ""))

    # ---- what the runner asks

    @property
    def reads(self) -> tuple[str, ...]:
        served = self._served or self._served_now()
        return (served.topic,) if served is not None else ()

    @property
    def positions(self) -> dict[str, int]:
        return {self._reader.topic: self._reader.offset} if self._reader is not None else {}

    @property
    def seen(self) -> dict[str, int]:
        """Up to where it has read: new records lie beyond."""
        return self.positions

    @property
    def figures(self) -> dict[str, float]:
        return {"searches": len(self._searches), "set_aside": len(self.set_aside)} if self._built else {}

    def caught_up(self, ends: Mapping[str, int]) -> bool:
        """Everything below `ends` is read and published. Of a generation that is no longer searched nothing is awaited, nor of a product
        of which none is."""
        served = self._served_now()
        if served is None or served != self._served:
            return served is None
        taken_up = self._built and dict(self._searches_now()) == self._searches
        return taken_up and all(at >= ends.get(topic, 0) for topic, at in self.positions.items())

    def unready(self) -> list[str]:
        """What it waits for before it can begin."""
        served = self._served_now()
        if self._built:
            return []
        return [f"product {self.product}"] if served is None else [] if self._is_ready(served.topic) else [served.topic]

    def patience_s(self, idle_s: float) -> float:
        """How long the runner may leave it alone when nothing comes in: it looks whether another generation is searched."""
        return min(idle_s, LOOK_EVERY_S)

    # ---- the loop

    def step(self) -> bool:
        """One round: True if anything was read, compared or said."""
        if not self._built or self._has_moved():
            return self._build()
        assert self._reader is not None
        start = self._reader.offset
        try:
            batches = [b for b in self._reader.read(READ_BYTES) if len(b)]
        except NotAccepted:  # the documents have followed what they are made of
            if self._served_now() == self._served:
                raise
            self._built = False
            return True
        if batches and self._topics.lost(self.name, {self._reader.topic: start}):
            self._kept = {**self._kept, "searches": {}}  # what it missed it finds by comparing all anew
            self._built = False
            return True
        if batches:
            self._advance(batches)
            return True
        self._publish_progress()
        return False

    def retry(self) -> None:
        """After a Retryable: from what was committed. The fence is not raised again."""
        self._settle()

    def _has_moved(self) -> bool:
        if self._clock() - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at = self._clock()
        now = self._served_now()
        return now is not None and (now != self._served or dict(self._searches_now()) != self._searches)

    def _advance(self, batches: Sequence[Batch]) -> None:
        """Hold the changed documents against the searches, and say what differs, in one commit."""
        changed, live, rows = self._found(batches, self._watched)
        was = self._tables.of(MATCHED, changed)
        if self.set_aside:  # nothing is said of them while it is not known what they mean, but that a document is gone
            held = {tuple(r.values()) for r in live.to_pylist()}
            mine = [r[SEARCH] in self.set_aside and tuple(r[n] for n in self._tables.key) in held for r in was.to_pylist()]
            was = was.filter(pa.array([not m for m in mine], pa.bool_()))
        self._say(*self._tables.aligned(was, rows))

    def _say(self, was: pa.Table, now: pa.Table, *, always: bool = False) -> None:
        """The difference, and how far it was read: kept, then published. With nothing to say it is published with the next, unless
        `always`."""
        state, now_us = self._opened(), int(self._clock() * 1e6)
        out = [self._tables.events(was, now, now_us)] if len(was) else []
        self._kept = self._published_state()
        commit = self._publisher.commit(self._publisher.sequence + 1, out, self._kept, now_us)
        goes_out = bool(out) or always
        with state.transaction():
            self._tables.replace(MATCHED, present(was), present(now))
            if goes_out:  # the last published commit stays until the next: topics put back by one would want it again
                state.trim_outbox(self._publisher.sequence)
                state.put_out(commit.sequence, commit.blocks)
            state.set_meta(Meta(commit.sequence if goes_out else commit.sequence - 1, commit.state, ""))
            reached("matches.before_state")
        reached("matches.after_state")
        if goes_out:
            self._publisher.publish(commit)
        reached("matches.after_publish")
        self.events += len(was)
        if self._reader is not None:
            self._topics.note_reader(self.name, self.positions)

    def _found(self, batches: Sequence[Batch], watched: Watched) -> tuple[pa.Table, pa.Table, pa.Table]:
        """(keys of the documents that changed, of those that are there, rows of what matches of them now)."""
        changed, live = last_per_key(batches)
        key = list(batches[0].schema.key)
        versions = _versions(batches)
        made: list[dict[str, Any]] = []
        image = pa.RecordBatch.from_struct_array(live.to_struct_array().combine_chunks()) if live.num_rows else None
        documents = objects(image.to_struct_array(), batches[0].schema.fields).to_pylist() if image is not None else []
        keys = live.select(key).to_pylist()
        for row, text in zip(keys, documents, strict=True):
            named = dict(zip(self._tables.key, (row[n] for n in key), strict=True))
            version = versions[tuple(row[n] for n in key)]
            made += [{SEARCH: name, **named, VERSION: version} for name in sorted(watched.matching(json.loads(text)))]
        names = list(self._tables.key)
        return changed.rename_columns(names), live.select(key).rename_columns(names), self._tables.rows(made)

    # ---- comparing anew

    def _build(self) -> bool:
        """Bring the topic to what the searches match now. False while there is nothing to compare with."""
        served = self._served_now()
        if served is None or not self._is_ready(served.topic):
            return False
        self._built = False  # who asks meanwhile, from another thread, is not told that these searches are caught up
        self._searches = dict(self._searches_now())
        conditions = self._check(served)
        same = self._kept["served"] == served.topic  # then versions say whether a document has changed
        known: Mapping[str, str] = self._kept["searches"] if same and self._kept["form"] == served.form else {}
        asked = {name: self._searches[name] for name in conditions}
        differ = {n for n in {*known, *asked} if known.get(n) != asked.get(n) and n not in self.set_aside}
        gone = {*self._names_matched()} - set(self._searches)
        begin_at = self._kept["positions"].get(served.topic) if known else None
        self._served, self._looked_at = served, self._clock()
        if differ or gone or begin_at is None:
            end = begin_at if begin_at is not None else self._topics.end(served.topic)
            self._compare(served, Watched({n: c for n, c in conditions.items() if n in differ}), differ | gone, end, moved=same)
            begin_at = end
        self._watched = Watched(conditions)
        self._reader = TopicReader(self._topics, self._registry, served.topic, served.schema, served.schema_id, begin_at, everything=True)
        self._topics.join(self.name, self.positions)
        self._kept = {**self._kept, "served": served.topic, "form": served.form, "searches": asked, "ready": {self.topic: True}}
        self._say(self._tables.rows([]), self._tables.rows([]), always=True)
        reached("matches.after_build")
        self._built = True
        return True

    def _check(self, served: Served) -> dict[str, Condition]:
        """The searches that can be run. The others are set aside, each with its reason."""
        found: dict[str, Condition] = {}
        self.set_aside = {}
        for name, query in self._searches.items():
            try:
                found[name] = checked(query, served.fields)
                self._tell(name, "caught_up", "", "")
            except Refused as e:
                self.set_aside[name] = e
                self._tell(name, "failed", f"set aside: {e.where}: {e.message} [{e.code}]", e.cure)
        return found

    def _names_matched(self) -> Iterator[str]:
        return (row[0] for row in self._opened().store.rows(f"SELECT DISTINCT {SEARCH} FROM {MATCHED}"))

    def _compare(self, served: Served, watched: Watched, searches: set[str], end: int, *, moved: bool) -> None:
        """Read the topic below `end`, and publish what these searches match otherwise than was last said. Cut off, it is done anew."""
        while not self._read_wanted(served, watched, end):
            pass  # compaction went past it: what it has read may have been taken back where it did not see it
        while True:
            self.tick(f"comparing {self.topic}", 0, 0)
            was, now = self._tables.difference(searches, moved, SLICE_ROWS)
            if not len(was):
                break
            self._say(was, now)
            reached("matches.compared")
        with self._opened().transaction():
            self._tables.drop_wanted()

    def _read_wanted(self, served: Served, watched: Watched, end: int) -> bool:
        """Fill `wanted`. False where what was read cannot be relied on."""
        state, name = self._opened(), f"{self.name}#compare"
        with state.transaction():
            self._tables.create_wanted()
        reader = TopicReader(self._topics, self._registry, served.topic, served.schema, served.schema_id, 0, everything=True)
        self._topics.join(name, {served.topic: 0})
        try:
            while reader.offset < end:
                self.tick(f"holding {served.topic} against the searches", reader.offset, end)
                start = reader.offset
                batches = [cut for b in reader.read(READ_BYTES) if len(cut := _below(b, end))]
                if self._topics.lost(name, {served.topic: start}):
                    return False
                if not batches:
                    if reader.offset == start:
                        break
                    continue
                changed, _, rows = self._found(batches, watched)
                with state.transaction():
                    self._tables.replace(WANTED, self._tables.of(WANTED, changed), rows)
                self._topics.note_reader(name, {served.topic: reader.offset})
        finally:
            self._topics.leave(name)
        return True

    # ---- what it says of itself

    def _is_ready(self, topic: str) -> bool:
        record = self._topics.producer_record(f"pipeline.{topic.rpartition('.')[0]}")
        return record is not None and bool(record.state.get("ready", {}).get(topic))

    def _published_state(self) -> dict[str, Any]:
        return {**self._kept, "positions": self.positions or self._kept["positions"], "progress": self._complete_to()}

    def _complete_to(self) -> dict[str, str]:
        """source → the position that the matches are complete to: the product's, where all that it wrote is read."""
        if self._reader is None:
            return dict(self._kept["progress"])
        writer = self._topics.producer_record(f"pipeline.{self._reader.topic.rpartition('.')[0]}")
        if writer is None or self._reader.offset < writer.ends.get(self._reader.topic, 0):
            return dict(self._kept["progress"])
        return dict(writer.state.get("progress", {}))

    def _publish_progress(self) -> None:
        """With nothing to do: make what was read and how complete it is known."""
        if self._clock() - self._progressed_at >= LOOK_EVERY_S:
            self._progressed_at = self._clock()
            if self._published_state() != dict(self._publisher.state):
                self._say(self._tables.rows([]), self._tables.rows([]), always=True)

    def _opened(self) -> State:
        if self._state is None:
            raise ValueError(f"{self.name} is not open")
        return self._state

    def close(self) -> None:
        if self._state is not None:
            self._state.store.close()


def _below(batch: Batch, end: int) -> Batch:
    assert batch.offsets is not None
    return batch.slice(0, int(np.searchsorted(batch.offsets, end)))


def _versions(batches: Sequence[Batch]) -> dict[tuple[Any, ...], str]:
    """Key → the version of its last event."""
    found: dict[tuple[Any, ...], str] = {}
    for b in batches:
        said = texts(b.column("incarnation"), b.column("major"), b.column("minor")).to_pylist()
        found.update((tuple(key.values()), version) for key, version in zip(b.keys().to_pylist(), said, strict=True))
    return found
