"""The oracle: what was found against what must be, as a list of complaints. Pure: it reads no file and no server.

Nothing lost, nothing twice, versions rising per key, every before image what stood there. `test_faults_oracle.py` shows that it
complains of each kind of corruption.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest

from faults_events import Change, Event, Row

Complaints = list[str]


def source_topic(
    name: str, events: Sequence[Event], audit: Sequence[Change], table: Mapping[int, Row], surely_after: int | None
) -> Complaints:
    """A table's topic. Live events are, per key, the end of what the audit has, one for one; reads (`r`) say what stood there at
    that point, once a key; the replay is the table as it is now.

    What the audit has before them was committed before the first live position: never a part of a transaction, and
    nothing with a seq above `surely_after`.
    """
    said = places(name, events)
    live: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        if event.op != "r":
            live[event.key].append(event)
    wanted: dict[int, list[Change]] = defaultdict(list)
    for change in audit:
        wanted[change.key].append(change)
    before_first: dict[int, int] = {}
    told: dict[int, bool] = {}
    for key in live.keys() | wanted.keys():
        missing = before_first[key] = len(wanted[key]) - len(live[key])
        if missing < 0:
            said.append(f"{name}: key {key} changed {len(wanted[key])} times, the topic has {len(live[key])} live events")
            continue
        for change in wanted[key][:missing]:
            if surely_after is not None and change.seq > surely_after:
                said.append(f"{name}: lost: {change}")
            told[change.xid] = False
        for change, event in zip(wanted[key][missing:], live[key], strict=True):
            if (change.op, change.before, change.after) != (event.op, event.before, event.after):
                said.append(f"{name}: key {key}: the audit has {change}, the topic {event}")
            if event.cause is not None:
                said.append(f"{name}: a live event has the cause {event.cause}: {event}")
    for key, missing in before_first.items():
        for change in wanted[key][max(missing, 0) :]:
            if told.get(change.xid) is False:
                said.append(f"{name}: a part of transaction {change.xid} is lost; there is {change}")
    return said + _source_replay(name, events, wanted, before_first, table)


def _source_replay(
    name: str, events: Sequence[Event], wanted: Mapping[int, list[Change]], before_first: Mapping[int, int], table: Mapping[int, Row]
) -> Complaints:
    said: Complaints = []
    place = {key: max(missing, 0) for key, missing in before_first.items()}
    state: dict[int, Row] = {}
    read: set[int] = set()
    for event in events:
        history = wanted.get(event.key, [])
        at = place.get(event.key, 0)
        stands = (history[at - 1].after if at <= len(history) else None) if at else None
        if event.op == "r":
            if event.key in read:
                said.append(f"{name}: key {event.key} was read twice by one backfill: {event}")
            if event.after != stands:
                said.append(f"{name}: a read is not what stood there, {stands}: {event}")
            read.add(event.key)
        else:
            if event.before != stands:
                said.append(f"{name}: before is not what stood there, {stands}: {event}")
            place[event.key] = at + 1
        _put(state, event)
    return said + rows(f"{name}: replayed", state.values(), table)


def joined_topic(name: str, events: Sequence[Event], truth: Mapping[int, Row]) -> Complaints:
    """A stateful pipeline's topic: its replay is what Postgres makes of the same query, and every event follows from the one before.

    An update that changes nothing is one too many: the step compares.
    """
    said = places(name, events)
    state: dict[int, Row] = {}
    for event in events:
        stands = state.get(event.key)
        if event.op not in ("c", "u", "d"):
            said.append(f"{name}: a joined step makes no {event.op}: {event}")
        if event.before != stands:
            said.append(f"{name}: before is not what stood there, {stands}: {event}")
        if (event.op == "c") != (event.before is None) or (event.op == "d") != (event.after is None):
            said.append(f"{name}: images do not fit the operation: {event}")
        if event.before == event.after:
            said.append(f"{name}: an update that changes nothing: {event}")
        _put(state, event)
    return said + rows(f"{name}: replayed", state.values(), truth)


Step = Callable[[Row], Row | None]
"""What a filter and projection makes of a row; None where it is left out."""


def filtered_topic(name: str, events: Sequence[Event], source: Sequence[Event], step: Step, truth: Mapping[int, Row]) -> Complaints:
    """A stateless pipeline's topic: event for event what its input makes, in order; its replay is what Postgres makes of the query."""
    said = places(name, events) + made_of(name, events, source, step)
    state: dict[int, Row] = {}
    for event in events:
        _put(state, event)
    return said + rows(f"{name}: replayed", state.values(), truth)


def made_of(name: str, events: Sequence[Event], source: Sequence[Event], step: Step) -> Complaints:
    """Event for event what the step makes of its input, in order."""
    said: Complaints = []
    wanted = [made for event in source if (made := _filtered(event, step)) is not None]
    for made, event in zip_longest(wanted, events):
        if made is None or event is None:
            said.append(f"{name}: the input makes {made}, the topic has {event}")
        elif (made.op, made.key, made.before, made.after) != (event.op, event.key, event.before, event.after):
            said.append(f"{name}: {made} of the input became {event}")
            break  # the rest is shifted
    return said


def _filtered(event: Event, step: Step) -> Event | None:
    """A row that leaves is a delete, one that enters an insert; a read that does not match gives nothing."""
    before, after = (None if image is None else step(image) for image in (event.before, event.after))
    if before is None and after is None:
        return None
    op = "r" if event.op == "r" else "c" if before is None else "d" if after is None else "u"
    return replace(event, op=op, before=before, after=after)


def written(name: str, events: Sequence[Event], found: Sequence[Event], *, in_order: bool = True) -> Complaints:
    """What a sink that keeps every event has: each once, just so, in the topic's order."""
    said: Complaints = []
    by_offset: dict[int, Event] = {}
    for event in found:
        if event.offset in by_offset:
            said.append(f"{name}: offset {event.offset} is there twice")
        by_offset[event.offset] = event
    for event in events:
        there = by_offset.pop(event.offset, None)
        if there is None:
            said.append(f"{name}: lost: {event}")
        elif _shown(there) != _shown(event):
            said.append(f"{name}: the topic has {event}, the sink {there}")
    said += [f"{name}: not in the topic: {event}" for event in by_offset.values()]
    offsets = [event.offset for event in found]
    if in_order and offsets != sorted(offsets):
        said.append(f"{name}: not in the topic's order")
    return said


def rows(name: str, found: Iterable[Row], truth: Mapping[int, Row]) -> Complaints:
    """A table, an index or a replay against what Postgres has: every row of either that the other has not just so."""
    said: Complaints = []
    seen: dict[int, Row] = {}
    for r in found:
        if r["id"] in seen:
            said.append(f"{name}: key {r['id']} is there twice")
        seen[r["id"]] = r
    for key in seen.keys() | truth.keys():
        if seen.get(key) != truth.get(key):
            said.append(f"{name}: key {key} is {seen.get(key)}, should be {truth.get(key)}")
    return said


def places(name: str, events: Sequence[Event]) -> Complaints:
    """Offsets rise; per key versions strictly rise, so that none is there twice."""
    said: Complaints = []
    last_offset, last_version = -1, dict[int, str]()
    for event in events:
        if event.offset <= last_offset:
            said.append(f"{name}: offset {event.offset} after {last_offset}")
        if event.version <= last_version.get(event.key, ""):
            said.append(f"{name}: version {event.version} of key {event.key} after {last_version[event.key]}")
        last_offset, last_version[event.key] = event.offset, event.version
    return said


def _put(state: dict[int, Row], event: Event) -> None:
    if event.after is None:
        state.pop(event.key, None)
    else:
        state[event.key] = event.after


def _shown(event: Event) -> tuple[object, ...]:
    return event.op, event.key, event.version, event.before, event.after
