"""What must be in every topic: read event by event, by means of its own, and held to the queries over whole tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from schema_chains_database import convert, holds, read
from schema_chains_mesh import Chains, Process
from schema_chains_queries import evaluated

from millstream.cli.mesh import Mesh
from millstream.engine.reader import NotAccepted, TopicReader
from millstream.events import envelope
from millstream.events.types import UNKNOWN, Constant, Field, RowSchema
from millstream.pipelines.descriptions import undescribed
from millstream.pipelines.plan import outputs_of
from millstream.testing.scripted_source import Row


@dataclass(frozen=True)
class Event:
    schema: RowSchema
    schema_id: int
    offset: int
    op: str
    before: Row | None
    after: Row | None
    version: tuple[int, int, int]


def events(mesh: Mesh, topic: str) -> Iterator[Event]:
    """All that were ever written, each in its own version's schema."""
    offset = 0
    while batches := mesh.topics.read(topic, offset, bytes_max=1 << 20):
        offset = mesh.topics.read_end(batches)
        for b in batches:
            assert b.schema_id is not None and b.offsets is not None
            said = envelope.row_schema(mesh.registry.by_id(b.schema_id), b.schema.key)
            assert said == b.schema, f"{topic}: decoded in another schema than the one that it is written in"
            for e, at in zip(b.rows.to_pylist(), b.offsets, strict=True):
                version = (e["incarnation"], e["major"], e["minor"])
                yield Event(b.schema, b.schema_id, int(at), e["op"], e["before"], e["after"], version)


def as_read(row: Row | None, was: RowSchema, now: RowSchema, *, anew: bool = False) -> Row | None:
    """A row in another version: columns by their ids, absent ones by their fills, values by Python's own conversions. One that the type
    need not hold is not said: its row is told again. `anew`: the topic has begun anew since."""
    return None if row is None else {f.name: _value(row, was, f, anew) for f in now.fields}


def _value(row: Row, was: RowSchema, now: Field, anew: bool) -> Any:
    own = next((f for f in was.fields if f.id == now.id), None)
    if own is None:
        return read(now.fill.text, now.type) if isinstance(now.fill, Constant) else None
    if own.type != now.type and (anew or now.fill is UNKNOWN) and not holds(now.type, own.type):
        return None
    given = row[own.name]
    return given if own.type == now.type or now.type.kind in ("list", "record") else convert(given, now.type)


def rows(
    mesh: Mesh, topic: str, schema: RowSchema, up_to: int | None = None, *, checked: bool = False, unsaid: bool = False
) -> dict[tuple[Any, ...], Row]:
    """What the topic holds, in this schema. `checked`: it is a pipeline's, and each event must follow from what stood there. `unsaid`:
    its rows come and go by what no event had said of them."""
    found: dict[tuple[Any, ...], Event] = {}
    versions: dict[tuple[Any, ...], tuple[int, int, int]] = {}
    there = mesh.topics.topic(topic)
    assert there is not None
    for e in events(mesh, topic):
        if up_to is not None and e.offset >= up_to:
            break
        key = tuple((e.after or e.before or {})[k] for k in e.schema.key)
        assert e.version > versions.get(key, (0, 0, -1)), f"{topic} {key}: version {e.version} does not rise"
        versions[key] = e.version
        stood = found.get(key)
        denied = e.op == "d" and stood is None  # of a row told again that its filter does not let through: it cannot know that none stood
        untold = unsaid and e.op == "u" and stood is None  # what it changes was let through, had it been told
        if checked and e.op != "r" and not denied and not untold and there.grade == "whole":
            was = None if stood is None else as_read(stood.after, stood.schema, e.schema, anew=stood.version[0] < there.incarnation)
            known = [f.name for f in e.schema.fields if f.fill is not UNKNOWN]
            before, wanted = (None if row is None else {n: row[n] for n in known} for row in (e.before, was))
            assert before == wanted, f"{topic} {key}@{e.offset}: before is {before}, not what stood there, {wanted}"
        assert (e.op == "d") == (e.after is None)
        if e.after is None:
            found.pop(key, None)
        else:
            found[key] = e
    read_now = {k: as_read(e.after, e.schema, schema, anew=e.version[0] < there.incarnation) for k, e in found.items()}
    return {k: without_stamp(r or {}) for k, r in read_now.items()}


def without_stamp(row: Row) -> Row:
    return {k: v for k, v in row.items() if k != "_seen"}


Whole = Mapping[str, tuple[RowSchema, list[Row]]]


def check_outputs(world: Chains, process: Process) -> None:
    """Each pipeline's topics hold its query over its inputs as it reads them; a paused one's over what lies before its place."""
    mesh = process.mesh
    whole: dict[str, tuple[RowSchema, list[Row]]] = {}
    for table, schema in world.database.tables.items():
        topic, now = f"src.{table}", list(world.database.rows(table).values())
        whole[topic] = (schema, now)
        newest = world.database.schema(table, world.last_write(table))
        held = rows(mesh, topic, newest)
        assert held == {(r["id"],): as_read(r, schema, newest) for r in now}, topic
    unsaid: set[str] = set()
    for part in process.pipelines:
        made = world.of(part.plan.pipeline)
        if any(i.topic in unsaid or any(f.fill is UNKNOWN for f in i.schema.fields) for i in part.plan.inputs):
            unsaid |= set(outputs_of(part.plan))
        paused = part.name in process.paused
        given = {}
        for i in part.plan.inputs:
            if paused:
                given[i.topic] = (i.schema, list(rows(mesh, i.topic, i.schema, part.positions[i.topic]).values()))
            else:
                schema, now = whole[i.topic]
                given[i.topic] = (i.schema, [as_read(r, schema, i.schema) or {} for r in now])
        expected = evaluated(made, given)
        for topic, schema in outputs_of(part.plan).items():
            wanted = expected[topic.removeprefix(f"{part.plan.pipeline}.")]
            held = rows(mesh, topic, schema, checked=True, unsaid=topic in unsaid)
            by_key = {tuple(r[k] for k in schema.key): r for r in wanted}
            assert held == by_key, f"{topic} of {made.kind}, {made.evolve}, {'paused' if paused else 'running'}"
            assert len(by_key) == len(wanted)
            whole[topic] = (schema, wanted)


def check_sinks(world: Chains, process: Process) -> None:
    """Each file has its topic's events, each once, in order: all of them, or those before the version at which it is paused."""
    for part in process.sinks:
        lines = [json.loads(line) for line in (world.folder / part.plan.options["file"]).read_text().splitlines()]
        said = list(events(process.mesh, part.plan.topic))
        wanted = [(e.op, [(e.after or e.before or {})[k] for k in e.schema.key]) for e in said]
        key = said[0].schema.key if said else ()
        written = [(line["op"], [(line["after"] or line["before"])[k] for k in key]) for line in lines]
        assert written == wanted[: len(written)]
        assert len(written) == len(wanted) or part.name in process.paused


def check_decodes(mesh: Mesh) -> None:
    """Every event decodes in its own version, and maps to every later one that somebody has accepted."""
    accepted = {(t, i) for p in mesh.catalogue.pipelines().values() for t, i in (*p.inputs.items(), *p.outputs.items())}
    for there in mesh.topics.topics():
        all_events = list(events(mesh, there.name))
        versions = mesh.registry.versions(f"{there.name}-value")
        order = {v.id: v.version for v in versions}
        for version in versions:
            if (there.name, version.id) not in accepted:
                continue
            schema = envelope.row_schema(version.text, there.key)
            reader = TopicReader(mesh.topics, mesh.registry, there.name, schema, version.id, 0)
            reader_rows: list[Row | None] = []
            with suppress(NotAccepted):
                while batches := reader.read(1 << 20):
                    reader_rows += [e for b in batches for e in b.column("after").to_pylist()]
            earlier = takewhile(lambda e: order[e.schema_id] <= version.version or undescribed(e.schema) == undescribed(schema), all_events)  # noqa: B023
            wanted = [as_read(e.after, e.schema, schema, anew=e.version[0] < there.incarnation) for e in earlier]
            assert reader_rows == wanted, f"{there.name} in version {version.version}"
