"""The oracle where schemas change: what was told in one version is held against what stands in another. Pure.

Rows are brought from one version to another by field ids and fills, in Python of its own; the codec and the reader are not asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from faults_events import Change, Event, Row, value
from faults_oracle import Complaints, Step, made_of, places, rows

from millstream.events.types import Constant, RowSchema, Type


@dataclass(frozen=True)
class Told(Event):
    """An event with the version of the schema that it was written in."""

    schema: RowSchema | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Wanted:
    """What must be in a pipeline's topic. `truth`: the query that Postgres computes the same by. `input` and `step`: of a pipeline of
    filters and projections, its input topic and what it makes of one row. `changed_at`: from this offset on its definition is another, so
    that only each event's place, its images and what they come to are held."""

    truth: str
    input: str = ""
    step: Step | None = None
    changed_at: int | None = None


def source_topic(
    name: str, events: Sequence[Told], audit: Sequence[Change], now: Callable[[Row], Row], table: Mapping[int, Row]
) -> Complaints:
    """A table's topic. Live events are, per key, the end of what the audit has, one for one and in the shape of their time; a read says
    what stood there; the replay in the newest version is the table as it is now. `now` brings a row of any time to today's shape."""
    said = places(name, events)
    live, wanted = defaultdict[int, list[Told]](list), defaultdict[int, list[Change]](list)
    for event in events:
        if event.op != "r":
            live[event.key].append(event)
    for change in audit:
        wanted[change.key].append(change)
    begins: dict[int, int] = {}
    for key in live.keys() | wanted.keys():
        begins[key] = before = len(wanted[key]) - len(live[key])
        if before < 0:
            said.append(f"{name}: key {key} changed {len(wanted[key])} times, the topic has {len(live[key])} live events")
            continue
        if before > 0:
            said.append(f"{name}: lost: {wanted[key][0]}")  # all that the audit has was written after the topic was loaded
        for change, event in zip(wanted[key][before:], live[key], strict=True):
            if (change.op, change.before, change.after) != (event.op, event.before, event.after):
                said.append(f"{name}: key {key}: the audit has {change}, the topic {event}")
    said += _reads(name, events, wanted, now)
    return said + rows(f"{name}: replayed", replayed(events).values(), table)


def _reads(name: str, events: Sequence[Told], wanted: Mapping[int, Sequence[Change]], now: Callable[[Row], Row]) -> Complaints:
    """A row that a backfill read is what stood there; before the first change nothing tells, but the replay."""
    said: Complaints = []
    at: dict[int, int] = defaultdict(int)
    read = set[tuple[object, ...]]()
    for event in events:
        if event.op != "r":
            at[event.key] += 1
            continue
        assert event.schema is not None
        mark = (event.key, event.cause, event.schema)
        if mark in read:
            said.append(f"{name}: key {event.key} was read twice by one backfill: {event}")
        read.add(mark)
        history = wanted.get(event.key, [])
        stands = history[at[event.key] - 1].after if 0 < at[event.key] <= len(history) else None
        if at[event.key] and (event.after is None or stands is None or now(event.after) != now(stands)):
            said.append(f"{name}: a read is not what stood there, {stands}: {event}")
    return said


def complaints_of(name: str, events: Sequence[Told], source: Sequence[Told], wanted: Wanted, truth: Mapping[int, Row]) -> Complaints:
    """A pipeline's topic. Up to where its definition changed: event for event what the step makes of the input. Everywhere: each event
    follows from the one before, in the event's own shape. Its replay in the newest version is what Postgres makes of the query."""
    said = places(name, events)
    if wanted.step is not None and wanted.changed_at is None:
        said += made_of(name, events, source, wanted.step)
    if wanted.step is None or wanted.changed_at is not None:
        said += _follow_from_each_other(name, events, wanted)
    return said + rows(f"{name}: replayed", replayed(events).values(), truth)


def _follow_from_each_other(name: str, events: Sequence[Told], wanted: Wanted) -> Complaints:
    said: Complaints = []
    state: dict[int, Told] = {}
    for event in events:
        assert event.schema is not None
        stood = state.get(event.key)
        stands = None if stood is None else as_in(stood, event.schema)
        if event.offset >= (wanted.changed_at or 0):
            if event.op != "r" and event.before not in (stands, None if stood is None else as_in(stood, event.schema, held=True)):
                said.append(f"{name}: before is not what stood there, {stands}: {event}")
            if wanted.step is None and event.op == "u" and event.before == event.after:
                said.append(f"{name}: an update that changes nothing: {event}")
        if event.after is None:
            state.pop(event.key, None)
        else:
            state[event.key] = event
    return said


def replayed(events: Sequence[Told]) -> dict[int, Row]:
    """The rows that there are at the end, in the newest version that an event was written in."""
    if not events:
        return {}
    newest, state = events[-1].schema, dict[int, Told]()
    assert newest is not None
    for event in events:
        if event.after is None:
            state.pop(event.key, None)
        else:
            state[event.key] = event
    return {key: as_in(event, newest) for key, event in state.items()}


def as_in(event: Told, schema: RowSchema, *, held: bool = False) -> Row:
    """What was told, in another version: fields by id, one that it has not as its fill says, null where the type there need not hold it;
    or as it is (`held`): who made it may know it from state of its own."""
    assert event.schema is not None and event.after is not None
    told = {f.id: f for f in event.schema.fields}
    found: Row = {}
    for f in schema.fields:
        if f.id not in told:
            found[f.name] = value(f.name, f.fill.text if isinstance(f.fill, Constant) else None)
        else:
            found[f.name] = event.after[told[f.id].name] if held or _holds(f.type, told[f.id].type) else None
    return found


def _holds(wide: Type, narrow: Type) -> bool:
    if wide.kind == narrow.kind == "decimal":
        return wide.scale >= narrow.scale and wide.precision - wide.scale >= narrow.precision - narrow.scale
    return wide == narrow or (wide.kind, narrow.kind) == ("int64", "int32")


def changelog(name: str, events: Sequence[Told], found: Sequence[Mapping[str, Any]]) -> Complaints:
    """An Iceberg table that keeps what was said: every event once, under the names of its columns now; null in what came later. A column
    that the topic has lost stays there."""
    said: Complaints = []
    by_offset: dict[int, Mapping[str, Any]] = {}
    for f in found:
        if f["_offset"] in by_offset:
            said.append(f"{name}: offset {f['_offset']} is there twice")
        by_offset[f["_offset"]] = f
    now = {f.id: f.name for f in events[-1].schema.fields} if events and events[-1].schema else {}
    for event in events:
        assert event.schema is not None
        image, there = event.before if event.after is None else event.after, by_offset.pop(event.offset, None)
        assert image is not None
        if there is None:
            said.append(f"{name}: lost: {event}")
            continue
        wanted = {now.get(f.id, f.name): image[f.name] for f in event.schema.fields}
        wanted = {column: wanted.get(column) for column in there if not column.startswith("_")}
        told = {column: v for column, v in there.items() if not column.startswith("_")}
        if (there["_op"], there["_version"], told) != (event.op, event.version, wanted):
            said.append(f"{name}: the topic has {event}, the table {there}")
    return said + [f"{name}: not in the topic: {there}" for there in by_offset.values()]
