"""Every message of every recorded feed that is decoded, against what plain Python makes of it; in one piece, and in pieces of few."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from counts import Counts, countable, counted, of_file
from oracle import Meant, Recorded, value
from recordings import FILES, Feed, Made, Table, feeds

from millstream.errors import Irrecoverable
from millstream.events.batch import Batch
from millstream.events.types import Constant
from millstream.sources.cockroach.decode import COVERED, NOTHING, Decoder, Messages, Scan, Told
from millstream.sources.cockroach.described import Column, Described
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.cockroach.types import type_of

FEEDS = [f for path in FILES for f in feeds(path) if f.wrapped and f.rows]
TIMELESS = Hlc(1, 0)
# A column family's rows have no key: such tables are refused when a source is checked.
FAMILIES = [f for f in FEEDS if any("fam." in str(m.topic) for m in f.rows)]
# What is no live feed and no scan alone: nothing says when a row changed, or what it was.
WITHOUT = [f for f in FEEDS if f not in FAMILIES and not f.has("initial_scan='only'") and not (f.has("updated") and f.has("diff"))]
DECODED = [f for f in FEEDS if f not in FAMILIES and f not in WITHOUT]


def described(recorded: Recorded, topic: str, table: Table, at: Hlc) -> Described:
    made = recorded.columns(table)
    columns = tuple(
        Column(c.id, n, type_of(c.sql_type), fill=Constant(c.default) if c.default else None, retold=c.told) for n, c in made.items()
    )
    key = tuple(made[n].id for n in table.key if n in made)
    return Described(topic, columns, key, table.key_width, at, recorded.feed.selected is not None)


def decoder(recorded: Recorded, scan: Scan | None) -> Decoder:
    def describe(topic: str, at: Hlc) -> Described:
        mine = [m for m in recorded.messages if m.message.topic == topic]
        table = next((m.shown for m in mine if m.time == at and (m.after or m.before)), None)
        table = table or next(m.shown_before for m in mine if Hlc(*m.time).prev == at and m.before is not None)
        return described(recorded, topic, table, at)

    return Decoder(describe, "golden", scan=scan)


def scan_of(feed: Feed) -> Scan | None:
    if not feed.scans:
        return None
    return Scan("initial", "true", None if feed.has("updated") else TIMELESS)


def pieces(feed: Feed, size: int) -> Iterator[Messages]:
    for i in range(0, len(feed.messages), size):
        part = feed.messages[i : i + size]
        yield Messages([m.topic for m in part], [None if m.key is None else m.key.encode() for m in part], [m.value.encode() for m in part])


def image(columns: dict[str, Made], said: dict[str, Any] | None, batch: Batch, name: str) -> tuple[Any, list[dict[str, str]]]:
    if said is None:
        return None, []
    by_id = {c.id: (n, c) for n, c in columns.items()}
    row, holes = {}, []
    for field in batch.schema.fields:
        if field.id not in by_id:
            row[field.name] = field.fill.text if isinstance(field.fill, Constant) else None
            continue
        there, column = by_id[field.id]
        row[field.name], why = value(column.sql_type, said[there])
        if field.name in batch.schema.key and column.sql_type == "DECIMAL":
            row[field.name] = f"{row[field.name]}".rstrip("0").rstrip(".")
        if why:
            holes.append({"image": name, "field": field.name, "why": why})
    return row, holes


def expected(recorded: Recorded, meant: Meant, batch: Batch) -> dict[str, Any]:
    only = not recorded.feed.has("updated")
    again = meant.again or (only and meant.after is not None)
    scanned = again and meant.before is None and recorded.feed.scans
    after, after_holes = image(recorded.columns(meant.shown), meant.after, batch, "after")
    before, before_holes = image(recorded.columns(meant.shown_before), None if again else meant.before, batch, "before")
    wall, logical = meant.time
    return {
        "op": "r" if again else "d" if meant.after is None else "c" if meant.before is None else "u",
        "before": before,
        "after": after,
        "incarnation": 1,
        "major": wall,
        "minor": logical,
        "ts_us": wall // 1000,
        "processed_us": None,
        "tx_id": None,
        "tx_order": None,
        "tx_table_order": None,
        "position": f"{wall:016x}.{logical:08x}",
        "snapshot": None if not again else "true" if scanned else "incremental",
        "backfill": None if not again else "initial" if scanned else f"schema-{wall}.{logical:010d}",
        "cause": None if not again else "backfill" if scanned else "schema",
        "holes": before_holes + after_holes or None,
    }


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types, and NaN is itself."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return (math.isnan(one) and math.isnan(other)) or (one == other and math.copysign(1, one) == math.copysign(1, other))
    return type(one) is type(other) and one == other


def check(recorded: Recorded, told: list[tuple[Told, Messages]]) -> None:
    left: dict[tuple[str, tuple[int, int]], list[Meant]] = {}
    for meant in recorded.messages:
        assert meant.message.topic is not None
        left.setdefault((meant.message.topic, meant.time), []).append(meant)
    dropped: Counter[str] = Counter()
    for piece, given in told:
        assert not piece.aside
        resolved = [json.loads(v)["resolved"] for t, v in zip(given.topics, given.values, strict=True) if t is None]
        assert piece.resolved == (Hlc.parse(resolved[-1]) if resolved else None)
        dropped.update(piece.dropped)
        for batch, mvcc in zip(piece.batches, piece.mvcc, strict=True):
            for i, event in enumerate(batch.rows.to_pylist()):
                mine = left[batch.topic, (event["major"], event["minor"])]
                found = next((m for m in mine if same(event, expected(recorded, m, batch))), None)
                assert found is not None, (event, [expected(recorded, m, batch) for m in mine])
                mine.remove(found)
                if found.written_at is not None:
                    assert mvcc is not None and mvcc.one(i) == found.written_at
    rest = [m for messages in left.values() for m in messages]
    nothing = [m for m in recorded.messages if m.after is None and m.before is None]
    covered = [m for m in recorded.messages if m.covered]
    assert sorted(map(id, rest)) == sorted(map(id, nothing + covered))
    assert dropped == Counter({w: n for w, n in ((NOTHING, len(nothing)), (COVERED, len(covered))) if n})


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("feed", DECODED, ids=lambda f: f.id)
def test_every_event_of_a_recording(feed: Feed, count: int) -> None:
    """In one piece; in five; in forty, which for most feeds is one by one."""
    recorded = Recorded(feed)
    size = max(1, len(feed.messages) // count)
    ours = decoder(recorded, scan_of(feed))
    check(recorded, [(ours.decode(piece), piece) for piece in pieces(feed, size)])


@pytest.mark.parametrize("feed", [f for f in DECODED if f.path.parent.name.startswith("v22.1-alpha") and "04" in f.id], ids=lambda f: f.id)
def test_what_an_old_server_writes_again_to_change_a_schema_is_no_update(feed: Feed) -> None:
    """22.1 writes rows again as they are, with a time of their own: known by a change that is under way then, which here is always."""
    recorded = Recorded(feed)
    asked: list[Hlc] = []

    def changing(topic: str, at: Hlc) -> bool:
        asked.append(at)
        return True

    plain = decoder(recorded, scan_of(feed))
    ours = Decoder(plain._describe, "golden", scan=scan_of(feed), changing=changing)
    told = [ours.decode(piece) for piece in pieces(feed, 10)]
    as_they_are = [m for m in recorded.messages if m.before is not None and m.before == m.after and not m.again]
    assert sum(t.dropped.get(COVERED, 0) for t in told) == len(as_they_are) + sum(m.covered for m in recorded.messages)
    assert set(asked) == {Hlc(*m.time) for m in as_they_are}
    events = [event for t in told for batch in t.batches for event in batch.rows.to_pylist()]
    assert not [e for e in events if e["op"] == "u" and same(e["before"], e["after"])]


@pytest.mark.parametrize("feed", WITHOUT, ids=lambda f: f.id)
def test_a_feed_that_says_not_when_or_not_what_was_is_refused(feed: Feed) -> None:
    recorded = Recorded(feed)
    with pytest.raises(Irrecoverable, match=r"feed has no `(updated|diff)`"):
        list(map(decoder(recorded, None).decode, pieces(feed, 10_000)))


def admitted(feed: Feed) -> Iterator[dict[str, Any]]:
    """Events as simple admission lets them through: by key and version, none below the newest of its key."""
    recorded = Recorded(feed)
    ours = decoder(recorded, scan_of(feed))
    newest: dict[Any, tuple[int, int]] = {}
    for piece in pieces(feed, max(1, len(feed.messages) // 40)):
        for batch in ours.decode(piece).batches:
            for event, key in zip(batch.rows.to_pylist(), batch.keys().to_pylist(), strict=True):
                version = (event["major"], event["minor"])
                if version > newest.get(mine := (batch.topic, str(key)), (0, 0)):
                    newest[mine] = version
                    yield event


@pytest.mark.parametrize("feed", [f for f in DECODED if countable(f)], ids=lambda f: f.id)
def test_what_simple_admission_leaves_is_what_is_counted(feed: Feed) -> None:
    counts = counted(feed.rows)
    causes = Counter(event["cause"] for event in admitted(feed))
    assert (causes[None], causes["backfill"]) == (counts.changes, counts.scan)
    assert causes["schema"] <= counts.schema


@pytest.mark.parametrize("path", [p for p in FILES if p.stem.startswith("09")], ids=lambda p: p.parent.name)
def test_the_events_fold_into_the_rows_that_the_table_had(path: Path) -> None:
    """Through a third of repeats, most of them after newer versions."""
    (feed,) = feeds(path)
    rows: dict[int, int] = {}
    for event in admitted(feed):
        if event["after"] is None:
            del rows[event["before"]["id"]]
        else:
            rows[event["after"]["id"]] = event["after"]["n"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    last = next(line for line in reversed(lines) if line["kind"] == "sql_result" and line["columns"] == ["id", "n"])
    assert sorted(rows.items()) == [(id_, n) for id_, n in last["rows"]]


def test_no_recording_is_left_out() -> None:
    assert (len(DECODED), len(WITHOUT)) == (56, 18)
    assert sum(len(f.rows) for f in DECODED) == 1608
    assert [f.id for f in FAMILIES] == ["v26.1-alpha-06-families-split-0", "v26.1-alpha-06-one-family-0"]
    total = sum((of_file(path) for path in FILES), Counts())
    assert (total.messages, total.repeats, total.stale) == (1583, 522, 373)
