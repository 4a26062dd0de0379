"""`millstream topics`: what topics there are, and the events they hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import pyarrow as pa
from cyclopts import App, Parameter

from millstream.cli import columns
from millstream.cli.exits import OK
from millstream.cli.mesh import Mesh
from millstream.cli.output import Output
from millstream.cli.session import Here
from millstream.errors import Refused
from millstream.events import version
from millstream.events.batch import Batch
from millstream.events.types import Type
from millstream.pipelines.sql.mistakes import suggestion
from millstream.sinks import jsontext
from millstream.topics.contract import Kept, Topic, Topics
from millstream.topics.incarnations import ended

_TEXT = Type("text")
READ_BYTES = 4 << 20
FOLLOW_WAIT_S = 1.0

app = App(name="topics", help="Look at topics and their events: `topics list`, `topics show TOPIC`, `topics read TOPIC`.")


@app.command(name="list")
def list_topics(*, session: Here) -> int:
    """List every topic: who writes it, its key, where it ends, up to where it is compacted, its size on disk, and who reads it.

    Below, for each topic that a reader keeps from being compacted further: which one, and what is kept for it.

    Example: `millstream topics list`
    """
    with session.mesh() as mesh:
        readers = mesh.topics.readers()
        documents = [_about(mesh, topic, readers) for topic in mesh.topics.topics()]
    session.output.table(
        ("topic", "written by", "key", "before images", "version", "ends at", "compacted to", "MiB", "read by"),
        [_cells(d) for d in documents],
        "there is no topic yet: `millstream apply` makes them",
    )
    for d in documents:
        if d["goes_on_as"]:
            session.output.say(f"{d['topic']} goes on as {d['goes_on_as']}", "yellow")
        if d["held_by"]:
            session.output.say(f"{d['topic']}: {held(d)}", "yellow")
    session.output.document(documents)
    return OK


@app.command(name="show")
def show_topic(topic: str, /, *, session: Here) -> int:
    """Show a topic: what it is, whose it is, its columns, who writes and who reads it.

    Example: `millstream topics show shop.public.orders`

    Parameters
    ----------
    topic
        As `millstream topics list` names it.
    """
    with session.mesh() as mesh:
        known = mesh.topics.topic(topic)
        if known is None:
            names = [t.name for t in mesh.topics.topics()]
            raise Refused(f"there is no topic {topic}", code="topic_unknown", cure=suggestion(topic, names, "topics"))
        about, schema = _about(mesh, known, mesh.topics.readers()), mesh.schema(topic)
    said, told = columns.said(session.project, topic), columns.documents(schema)
    out = session.output
    out.say(f"{topic}, written by {about['writer']}, schema version {about['schema_version']}", "bold")
    if sentence := columns.sentence(said):
        out.say(sentence)
    out.say(
        f"  ends at {about['end']}, compacted to {about['compacted_to']}, {mib(about['stored_bytes'])} MiB, before images: {about['grade']}"
    )
    if about["goes_on_as"]:
        out.say(f"  nothing is written to it any more: it goes on as {about['goes_on_as']}", "yellow")
    for name, at in about["readers"].items():
        out.say(f"  read by {name}, at {at['offset']}")
    columns.show(out, told, "  no schema is registered yet")
    out.document({**about, **columns.about(said), "columns": told})
    return OK


def _cells(about: dict[str, Any]) -> tuple[object, ...]:
    named = (about["topic"], about["writer"], ", ".join(about["key"]), about["grade"])
    return (*named, about["schema_version"], about["end"], about["compacted_to"], mib(about["stored_bytes"]), ", ".join(about["readers"]))


def _about(mesh: Mesh, topic: Topic, readers: dict[str, dict[str, int]]) -> dict[str, Any]:
    versions = mesh.registry.versions(f"{topic.name}-value")
    end = mesh.topics.end(topic.name)
    following = ended(mesh.topics, topic.name)
    kind = "pipeline" if topic.origin.connector == "millstream" else "source"
    return {
        "topic": topic.name,
        "writer": f"{kind}.{topic.origin.name}",
        "key": list(topic.key),
        "grade": topic.grade,
        "incarnation": topic.incarnation,
        "goes_on_as": following[0].goes_on_as if following else None,
        "schema_version": versions[-1].version if versions else None,
        "schema_id": versions[-1].id if versions else None,
        "end": end,
        **space(mesh.topics.kept(topic.name)),
        "readers": {r: {"offset": at[topic.name], "lag": end - at[topic.name]} for r, at in readers.items() if topic.name in at},
    }


def space(kept: Kept) -> dict[str, Any]:
    """What a topic takes of the disk, for programs."""
    told = {"stored_bytes": kept.stored_bytes, "compacted_to": kept.whole_from, "held_by": kept.held_by}
    return {**told, "held_bytes": kept.held_bytes, "held_bytes_max": kept.held_bytes_max, "lost": sorted(kept.lost)}


def held(about: Mapping[str, Any]) -> str:
    """Who keeps a topic from being compacted, for people."""
    most = f"{mib(about['held_bytes'])} of at most {mib(about['held_bytes_max'])} MiB (behind_mib)"
    return f"older records are kept for {about['held_by']}, which has not read them: {most}"


def mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f}"


@app.command
def read(
    topic: str,
    /,
    *,
    start: Annotated[int | None, Parameter(name="--from")] = None,
    limit: int = 20,
    follow: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    session: Here,
) -> int:
    """Show a topic's events, oldest first: a table, or with --json one JSON object a line.

    The values are the ones that the topic holds; decimals are text, bytes base64, times ISO 8601.

    Example: `millstream topics read shop.public.orders --from 1000 --limit 5`

    Example: `millstream --json topics read shop.public.orders --follow | jq .after`

    Parameters
    ----------
    topic
        As `millstream topics list` names it.
    start
        The offset of the first event: 0 without it, with --follow the topic's present end.
    limit
        How many events at most; 0: all. With --follow there is no limit.
    follow
        Wait for new events until Ctrl-C.
    """
    with session.mesh() as mesh:
        known = mesh.topics.topic(topic)
        if known is None:
            names = [t.name for t in mesh.topics.topics()]
            raise Refused(f"there is no topic {topic}", code="topic_unknown", cure=suggestion(topic, names, "topics"))
        offset = start if start is not None else mesh.topics.end(topic) if follow else 0
        if offset < 0:
            raise Refused(f"--from {offset}: offsets count from 0", code="usage", cure="leave --from out to read from the start")
        if limit < 0:
            raise Refused(f"--limit {limit}: a limit counts events", code="usage", cure="--limit 0 reads all of them")
        show(mesh.topics, known, offset, None if follow or limit == 0 else limit, follow, session.output)
    return OK


def show(topics: Topics, topic: Topic, offset: int, limit: int | None, follow: bool, output: Output) -> None:
    """Print events from `offset` on, `limit` at most, as they come if `follow`."""
    shown = 0
    for batch in _batches(topics, topic.name, offset, follow):
        part = batch if limit is None else batch.slice(0, limit - shown)
        _print(part, output)
        shown += len(part)
        if limit is not None and shown >= limit:
            break
    if not shown and not follow:
        output.say(f"no event at or after offset {offset}; the topic ends at {topics.end(topic.name)}", "dim")


def _batches(topics: Topics, name: str, offset: int, follow: bool) -> Iterator[Batch]:
    while True:
        # A reader that asks beyond the end is waiting for what is not there yet; the topic would take it for a lost place.
        batches = topics.read(name, offset, bytes_max=READ_BYTES) if offset < topics.end(name) else []
        yield from (b for b in batches if len(b))
        if batches:
            offset = topics.read_end(batches)
        elif not follow:
            return
        else:
            topics.wait({name: offset}, FOLLOW_WAIT_S)


def _print(batch: Batch, output: Output) -> None:
    if output.as_json:
        for line in json_lines(batch):
            output.out.file.write(line + "\n")
        output.out.file.flush()
        return
    output.table(("offset", "op", "key", "row", "committed"), list(_rows(batch)), "")


def json_lines(batch: Batch) -> list[str]:
    """Every event as one JSON object. `committed` is the commit time at the source, UTC."""
    rows = len(batch)
    assert batch.offsets is not None
    images = {side: jsontext.objects(batch.column(side), batch.schema.fields) for side in ("before", "after")}
    members = {
        "offset": jsontext.values(pa.array(batch.offsets), Type("int64")),
        "op": jsontext.values(batch.column("op"), _TEXT),
        "key": jsontext.objects(batch.keys(), batch.schema.key_fields),
        **images,
        "version": jsontext.values(version.texts(*(batch.column(c) for c in ("incarnation", "major", "minor"))), _TEXT),
        "committed": jsontext.values(batch.column("ts_us").cast(pa.timestamp("us", "UTC")), Type("timestamptz")),
        "transaction": jsontext.values(batch.column("tx_id"), _TEXT),
        "position": jsontext.values(batch.column("position"), _TEXT),
        "snapshot": jsontext.values(batch.column("snapshot"), _TEXT),
        "backfill": jsontext.values(batch.column("backfill"), _TEXT),
        "cause": jsontext.values(batch.column("cause"), _TEXT),
        "schema_id": pa.array([str(batch.schema_id)] * rows, pa.string()),
    }
    lines: list[str] = jsontext.named(list(members), list(members.values()), rows).to_pylist()
    return lines


def _rows(batch: Batch) -> Iterator[tuple[object, ...]]:
    """offset, op, key, row, commit time: of a deleted row the image before."""
    for line in map(json.loads, json_lines(batch)):
        image = line["after"] if line["after"] is not None else line["before"]
        key = ", ".join(str(v) for v in line["key"].values())
        row = " ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in (image or {}).items() if v is not None)
        yield str(line["offset"]), line["op"], key, row, line["committed"]
